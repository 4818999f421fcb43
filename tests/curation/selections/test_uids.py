"""Files of uids: the form that DataComp's tools read and write, and what is refused."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.selections.config import SelectionConfig
from curation.selections.steps import Rules
from curation.selections.uids import contained, read_uids, uids_digest, uids_of, write_uids
from pairmill.errors import RecipeError

hexes = st.lists(st.integers(0, 2**128 - 1).map("{:032x}".format), max_size=40)


def as_datacomp_writes(path: Path, uids: list[str]) -> None:
    """As DataComp's baselines do it: the two halves of the hex digits, sorted."""
    np.save(path, np.sort(np.array([(int(uid[:16], 16), int(uid[16:], 16)) for uid in uids], np.dtype("u8,u8"))))


@given(hexes, hexes)
@settings(max_examples=50, deadline=None)
def test_a_file_of_datacomp_s_holds_the_uids_it_was_given(
    tmp_path_factory: pytest.TempPathFactory, uids: list[str], others: list[str]
) -> None:
    path = tmp_path_factory.mktemp("uids") / "subset.npy"
    as_datacomp_writes(path, uids)
    uids_digest(path)
    asked = pa.array([*uids, *others, "", None, "xyz", *(uid.upper() for uid in uids)], pa.string())
    found = contained(pa.chunked_array([asked]), read_uids(path)).tolist()
    assert found == [bool(uid) and uid.lower() in uids for uid in asked.to_pylist()]


@given(hexes)
@settings(max_examples=50, deadline=None)
def test_what_is_written_is_what_datacomp_s_tools_make(
    tmp_path_factory: pytest.TempPathFactory, uids: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("uids")
    as_datacomp_writes(folder / "theirs.npy", sorted(set(uids)))
    write_uids(folder / "ours.npy", uids_of(pa.array([*uids, *uids[:3]], pa.string()))[0])
    theirs, ours = (np.load(folder / f"{name}.npy") for name in ("theirs", "ours"))
    assert ours.dtype == np.dtype("u8,u8") == theirs.dtype
    assert ours.tolist() == theirs.tolist()


def test_the_number_is_that_of_the_hex_digits() -> None:
    uid = hashlib.md5(b"a", usedforsecurity=False).hexdigest()
    found, _ = uids_of(pa.array([uid]))
    assert (int(found["f0"][0]) << 64) + int(found["f1"][0]) == int(uid, 16)


UIDS = [("f0", "<u8"), ("f1", "<u8")]


def archive() -> bytes:
    made = io.BytesIO()
    np.savez(made, np.zeros(3, "u8,u8"))
    return made.getvalue()


def header(text: str) -> bytes:
    """A .npy file of this header, without values."""
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


def saved(array: Any) -> Any:
    return lambda path: np.save(path, array)


@pytest.mark.parametrize(
    ("write", "why"),
    [
        (lambda path: None, "No such file"),
        (lambda path: path.write_text("0" * 32), ""),
        (lambda path: path.write_bytes(b""), ""),
        (lambda path: path.write_bytes(archive()), "an archive"),
        (lambda path: path.write_bytes(b"PK\x03\x04"), "an archive"),
        (lambda path: path.mkdir(), "directory"),
        (lambda path: path.write_bytes(b"\x93NUMPY"), ""),
        (lambda path: path.write_bytes(header("{'descr': '<u8', 'fortran_order': False, 'shape': (1" + "0" * 30)), ""),
        (
            lambda path: path.write_bytes(header(f"{{'descr': {UIDS}, 'fortran_order': False, 'shape': ({10**30},)}}")),
            "",
        ),
        (lambda path: path.write_bytes(header(f"{{'descr': {UIDS}, 'fortran_order': False, 'shape': (9,)}}")), ""),
        (saved(np.arange(4, dtype=np.uint64)), "dtype uint64"),
        (saved(np.zeros((2, 2), "u8,u8")), "2 dimension"),
        (saved(np.array([(2, 0), (1, 0)], "u8,u8")), "not sorted"),
        (saved(np.array([(1, 2), (1, 1)], "u8,u8")), "not sorted"),
        (saved(np.array(["a"], object)), "Python objects"),
    ],
)
def test_another_file_is_refused(tmp_path: Path, write: Any, why: str) -> None:
    path = tmp_path / "uids.npy"
    write(path)
    columns = {"uid": pa.string()}
    for read in (SelectionConfig(uids=path).identity, lambda: Rules("a", SelectionConfig(uids=path)).check(columns)):
        with pytest.raises(RecipeError, match="must name a sorted file of uids") as raised:
            read()
        assert why in str(raised.value)


def test_a_file_is_known_by_what_it_holds(tmp_path: Path) -> None:
    for name, uids in (("one", ["0" * 32]), ("same", ["0" * 32]), ("other", ["1" * 32])):
        as_datacomp_writes(tmp_path / f"{name}.npy", uids)
    one, same, other = (SelectionConfig(uids=tmp_path / f"{name}.npy").identity() for name in ("one", "same", "other"))
    assert one == same != other
