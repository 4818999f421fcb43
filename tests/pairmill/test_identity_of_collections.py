"""The identity of a configuration with collections: the same in every process, and without what only runs the work."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from pydantic import Field

from pairmill.config import EXECUTION, Config, digest

CODE = """
from pairmill.config import Config, digest
class Words(Config):
    words: frozenset[str] = frozenset("abcdefgh")
    pairs: set[tuple[str, int]] = {("a", 1), ("b", 2), ("c", 3)}
print(digest(Words().identity()))
"""


def test_a_set_is_ordered_alike_in_every_process() -> None:
    root = str(Path(__file__).parents[2])
    found = {
        subprocess.run(
            [sys.executable, "-c", CODE],
            env={**os.environ, "PYTHONPATH": root, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(found) == 1


class Part(Config):
    what: str = "x"
    threads: int = Field(1, json_schema_extra=EXECUTION)


class Whole(Config):
    listed: list[Part] = Field([])
    named: dict[str, Part] = Field({})


def test_how_a_part_is_done_is_left_out_wherever_it_stands() -> None:
    one, other = (Whole(listed=[Part(threads=n)], named={"a": Part(threads=n)}) for n in (1, 8))
    assert one.identity() == other.identity() == {"listed": [{"what": "x"}], "named": {"a": {"what": "x"}}}
    assert digest(Whole(named={"a": Part(what="y")}).identity()) != digest(Whole(named={"a": Part()}).identity())
