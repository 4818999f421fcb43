"""Odd answers are kept where Chromium shows them, and whatever a server sends costs its own row at most."""

from __future__ import annotations

import asyncio
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hostile_server import Connection, config, fetch_from, says, serving
from hypothesis import given, settings
from hypothesis import strategies as st
from odd_servers import ODD, PICTURE, Answer
from PIL import Image

from curation.download import Download
from curation.flow import flow_of
from curation.schema import DROPS, Status
from curation.stage import Runtime
from curation.web.fetch import Fetched, Fetcher

RECORDED = Path(__file__).parents[3] / "benchmarks/results/odd_answers.json"


@pytest.mark.parametrize("answer", ODD.values(), ids=ODD.keys())
def test_what_chromium_shows_is_kept(answer: Answer) -> None:
    fetched, _ = fetch_from(says(answer.raw), config())
    assert (fetched.status is Status.SUCCESS) is answer.kept, fetched.error
    assert fetched.body == (PICTURE if answer.kept else b"")


def test_the_table_says_what_chromium_was_seen_to_do() -> None:
    seen = json.loads(RECORDED.read_text())["rows"]
    assert {name: row["chromium"] for name, row in seen.items()} == {name: each.shown for name, each in ODD.items()}
    assert sum(each.shown and each.kept for each in ODD.values()) >= 60


#: Of robots.txt each would cost every row of the host.
_SITE_FILES = [
    name for name, each in ODD.items() if each.kept and b"Content-Length: %d" % len(PICTURE) in each.raw
    and each.raw.endswith(PICTURE)
]  # fmt: skip


@pytest.mark.parametrize("rule", ["/", "/private"])
@pytest.mark.parametrize("name", _SITE_FILES)
def test_an_odd_robots_txt_is_read(name: str, rule: str) -> None:
    robots = f"User-agent: *\nDisallow: {rule}\n".encode().ljust(len(PICTURE), b"\n")
    raw = ODD[name].raw.replace(PICTURE, robots)

    async def main() -> Fetched:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            head = await reader.readuntil(b"\r\n\r\n")
            writer.write(raw if b" /robots.txt " in head else ODD["no type"].raw)
            writer.close()

        listener = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with listener, Fetcher(config(respect_robots=True)) as fetcher:
            return await fetcher.fetch(f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/a.png")

    fetched = asyncio.run(main())
    expected = Status.ROBOTS_DISALLOWED if rule == "/" else Status.SUCCESS
    assert fetched.status is expected, fetched.error


#: Where a server's text may get into a row.
_READ = (
    b"Content-Type",
    b"Location",
    b"X-Robots-Tag",
    b"Content-Encoding",
    b"Retry-After",
    b"tdm-reservation",
    b"Date",
)
_BYTES = st.binary(max_size=40) | st.sampled_from(
    [b"caf\xe9", b"\xed\xa0\xbd", b"http://\xe9.example/", b"/\xff", b"//["]
)
_FIELD = st.tuples(st.sampled_from(_READ) | st.binary(max_size=12), _BYTES)
_STATUS = st.sampled_from([b"200 OK", b"302 \xe9", b"404 \xff", b"429 \xe9", b"503 x", b"200 \xed\xa0\xbd"]) | _BYTES
_BODY = st.binary(max_size=60) | st.sampled_from([PICTURE, b"", b"\xed\xa0\xbd<html>"])


@given(_STATUS, st.lists(_FIELD, max_size=6), _BODY, st.booleans())
@settings(max_examples=250, deadline=None)
def test_any_bytes_of_a_server_make_a_row_that_can_be_stored(
    status: bytes, fields: list[tuple[bytes, bytes]], body: bytes, obeyed: bool
) -> None:
    raw = b"\r\n".join([b"HTTP/1.1 " + status, *(b"%s: %s" % field for field in fields), b"", b""]) + body
    fetched, _ = fetch_from(says(raw), config(respect_opt_out=obeyed, timeout_s=0.4))
    texts = [fetched.final_url, fetched.content_type, fetched.error, fetched.opt_out, fetched.route, fetched.robots]
    assert pa.array(texts, pa.string()).to_pylist() == texts
    assert json.loads(json.dumps(texts, ensure_ascii=False).encode()) == texts
    pa.array([fetched.http_status], pa.int16()), pa.array([fetched.needs], pa.int64())


def test_a_shard_with_every_odd_answer_has_all_its_rows() -> None:
    """Through the whole stage: fetched, decoded, and made into columns."""
    hostile = {
        f"/{n}": raw
        for n, raw in enumerate([
            b"HTTP/1.1 200 OK\r\nContent-Type: image/\xe9\r\n\r\n" + PICTURE,
            b"HTTP/1.1 200 OK\r\nContent-Type: \xed\xa0\xbd\r\n\r\n" + PICTURE,
            b"HTTP/1.1 302 x\r\nLocation: http://127.0.0.1:1/\xe9\xff\r\n\r\n",
            b"HTTP/1.1 302 x\r\nLocation: http://\xe9\xff/\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nX-Robots-Tag: \xe9: noai\r\n\r\n" + PICTURE,
            b"HTTP/1.1 200 OK\r\nContent-Encoding: \xe9, gzip\r\n\r\n" + PICTURE,
            b"\xff\xfe\xe9",
        ])
    }  # fmt: skip
    answers = {f"/odd{n}": each.raw for n, each in enumerate(ODD.values())} | hostile
    flow = flow_of({"download": config(), "image": {"format": "png"}})
    stage: Download = flow.of(Download)

    async def behaviour(connection: Connection) -> None:
        await connection.send(answers[connection.head.split()[1].decode()])

    def collect(port: int) -> pa.Table:
        stage.setup(Runtime())
        try:
            urls = [f"http://127.0.0.1:{port}{path}" for path in answers]
            nothing: Any = pa.nulls(len(urls), pa.string())
            return stage(pa.table({"url": urls} | dict.fromkeys(DROPS, nothing)))
        finally:
            stage.close()

    async def main() -> pa.Table:
        async with serving(behaviour) as server:
            return await asyncio.to_thread(collect, server.port)

    rows = asyncio.run(main())
    kept = [each.kept for each in ODD.values()] + [True, True, False, False, True, True, False]
    assert [status == "success" for status in rows["status"].to_pylist()] == kept
    assert rows["content_type"].to_pylist()[len(ODD)] == "image/\ufffd"
    pictures = [image for image in rows["image"].to_pylist() if image]
    assert {Image.open(io.BytesIO(image)).getpixel((9, 9)) for image in pictures} == {(200, 100, 50)}
