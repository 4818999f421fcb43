"""Ask Chromium which of the tests' odd answers it shows, and our fetcher too: both should keep the same pictures.

    python benchmarks/odd_answers.py            under a minute; needs Chromium

The answers are those of tests/curation/web/odd_servers.py, sent byte for byte by a server on this machine.  Exits 1 if
Chromium does not do what the table says of it, or if ours does not.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests/curation/web")]

from browse import browser  # noqa: E402
from hostile_server import Connection, config, serving  # noqa: E402
from odd_servers import ODD  # noqa: E402
from record import machine, record  # noqa: E402

from curation.schema import Status  # noqa: E402
from curation.web.fetch import Fetcher  # noqa: E402

_LOAD = """url => new Promise(done => {
  const image = new Image(); image.onload = () => done(image.naturalWidth > 0); image.onerror = () => done(false);
  image.src = url; setTimeout(() => done(null), 5000); })"""


async def answer(connection: Connection) -> None:
    """What the path names."""
    name = connection.head.split()[1].decode().strip("/")
    await connection.send(NAMED[name].raw if name in NAMED else b"HTTP/1.1 200 OK\r\n\r\n<title>odd</title>")


NAMED = {quote(name): each for name, each in ODD.items()}


def shown(port: int) -> tuple[str, dict[str, Any]]:
    """Chromium's version, and what it shows; None: it waits for ever."""
    with browser() as chromium:
        page = chromium.new_page()
        page.goto(f"http://127.0.0.1:{port}/")
        found = {name: page.evaluate(_LOAD, f"http://127.0.0.1:{port}/{quote(name)}") for name in ODD}
        return chromium.version, found


async def main() -> int:
    async with serving(answer) as server, Fetcher(config(timeout_s=5.0)) as fetcher:
        version, chromium = await asyncio.to_thread(shown, server.port)
        urls = [f"http://127.0.0.1:{server.port}/{quote(name)}" for name in ODD]
        ours = dict(zip(ODD, await asyncio.gather(*map(fetcher.fetch, urls)), strict=True))
    rows = {name: {"chromium": chromium[name], "ours": ours[name].status.value} for name in ODD}
    wrong = [n for n, each in ODD.items() if (chromium[n], ours[n].status is Status.SUCCESS) != (each.shown, each.kept)]
    for name, row in rows.items():
        print(f"{name:40} {row['chromium']!s:6} {row['ours']}{'   <- not as the table says' if name in wrong else ''}")
    record("odd_answers", {"machine": machine(), "chromium": version, "answers": len(ODD), "rows": rows})
    print(
        f"{len(ODD)} answers, {sum(map(bool, chromium.values()))} shown by Chromium {version}; {len(wrong)} surprises"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(asyncio.run(main()))
