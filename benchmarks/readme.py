"""Run the README's shell blocks as written, in a fresh clone, except what needs a cloud.

    python benchmarks/readme.py                    about 40 minutes on 2 idle cores, installation included

Blocks run in order, each line by bash with the clone's `.venv` first on the PATH.  `urls/` holds a list whose server
would be this machine: `curate` refuses its address and accounts for every row.
Exits 1 if a line does not exit with 0.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from record import machine, record

ROOT = Path(__file__).resolve().parent.parent

#: What works only with a cloud account, or with a cluster that is running.
CLOUD = ("export RAY_AUTH_MODE", "(umask", "ray up", "ray dashboard", "pairmill submit", "pairmill jobs")


def lines_of(readme: str) -> list[str]:
    """The shell blocks' lines, without comments on lines of their own."""
    blocks = re.findall(r"```console\n(.*?)```", readme, re.S)
    return [line for block in blocks for line in block.splitlines() if line.strip() and not line.startswith("#")]


def make_list(folder: Path) -> None:
    """A list of URLs as `curate` takes it."""
    folder.mkdir()
    rows = 40
    urls = pa.array([f"http://127.0.0.1/drawings/{number}.png" for number in range(rows)])
    pq.write_table(
        pa.table({"url": urls, "text": pa.array([f"drawing {n}" for n in range(rows)])}), folder / "a.parquet"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--without", nargs="*", default=[], help="leave out lines that contain one of these")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="clone into this new folder, and leave it there")
    options = parser.parse_args()
    began = machine()
    figures: dict[str, Any] = {"lines": []}
    with contextlib.ExitStack() as stack:
        folder = options.keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pairmill-readme-")))
        clone = folder / "pairmill"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        make_list(clone / "urls")
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "PYTHON", "VIRTUAL"))}
        environment["PATH"] = f"{clone / '.venv' / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}"
        lines = lines_of((clone / "README.md").read_text())
        figures["left_out"] = [n for n in lines if n.startswith(CLOUD) or any(part in n for part in options.without)]
        for line in lines:
            if line in figures["left_out"]:
                continue
            at = time.monotonic()
            done = subprocess.run(["bash", "-c", line], cwd=clone, env=environment, stdin=subprocess.DEVNULL)
            minutes = round((time.monotonic() - at) / 60, 1)
            figures["lines"].append({"line": line, "exit": done.returncode, "minutes": minutes})
            print(f"{'ok ' if done.returncode == 0 else 'BAD'} {minutes} min: {line}", flush=True)
            record("readme", figures, began)
    sys.exit(any(line["exit"] for line in figures["lines"]))


if __name__ == "__main__":
    main()
