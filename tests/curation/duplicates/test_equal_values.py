"""Kinds of equal values: who meets, who is linked, and that a key is the same in every process."""

from __future__ import annotations

import subprocess
import sys
from datetime import datetime, timezone
from typing import Any

import pyarrow as pa
import pytest

from curation.duplicates.equal_values import EqualValues
from pairmill.registry import NamedConfig


class Everything(EqualValues):
    name, strength = "everything", 1
    reads = ("text", "size", "made", "raw")
    columns = pa.schema(
        [("text", pa.string()), ("size", pa.int64()), ("made", pa.timestamp("us", "UTC")), ("raw", pa.binary())]
    )


KIND = Everything(NamedConfig(name="everything"))
NOW = datetime(2024, 1, 31, tzinfo=timezone.utc)


def keys(rows: list[tuple[Any, ...]]) -> dict[int, int]:
    names = KIND.columns.names
    table = pa.Table.from_pylist([dict(zip(names, values, strict=True)) for values in rows], schema=KIND.columns)
    found = KIND.keys(table)
    return dict(zip(found["row"].to_pylist(), found["key"].to_pylist(), strict=True))


def test_rows_of_equal_values_meet_and_others_do_not() -> None:
    found = keys([("a", 1, NOW, b"x"), ("a", 2, NOW, b"x"), ("a", 1, NOW, b"x"), ("b", 1, NOW, b"x")])
    assert found[0] == found[2]
    assert len({found[0], found[1], found[3]}) == 3


def test_a_row_that_lacks_a_value_meets_nobody() -> None:
    assert set(keys([("a", None, NOW, b"x"), ("a", 1, NOW, b"x"), (None, 1, NOW, b"x"), ("a", 1, None, b"x")])) == {1}
    assert keys([("a", 1, NOW, None)]) == keys([]) == {}


def test_rows_that_share_a_key_by_chance_are_not_linked() -> None:
    values = [("a", 1, NOW, b"x"), ("b", 1, NOW, b"x"), ("a", 1, NOW, b"x")]
    table = pa.table(list(map(list, zip(*values, strict=True))), schema=KIND.columns)
    a, b = KIND.edges(table.append_column("key", pa.array([7, 7, 7])))
    assert list(zip(a.tolist(), b.tolist(), strict=True)) == [(0, 2)]


@pytest.mark.slow
@pytest.mark.parametrize("seed", ["1", "2"])
def test_a_key_is_the_same_in_every_process(seed: str) -> None:
    program = f"import sys; sys.path[:0] = {sys.path!r}; import {__name__} as t; print(t.keys([('é', 1, t.NOW, b'x')]))"
    done = subprocess.run(
        [sys.executable, "-c", program], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == str(keys([("é", 1, NOW, b"x")]))
