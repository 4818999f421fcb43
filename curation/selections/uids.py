"""Files of uids, as DataComp exchanges selections: a sorted NumPy array of 128-bit numbers, `.npy`, dtype "u8,u8".

An entry is a pair of little-endian unsigned 64-bit numbers, (f0, f1): the first and the last 16 of the uid's 32 hex
digits.  Source: the README of mlfoundations/datacomp's webdataset-resharder, which takes such files.  DataComp's own
uids are a column `uid` of its lists, and other numbers than the uids of our rows (`curation.identity.row_uid`).
"""

from __future__ import annotations

import hashlib
import os
from functools import lru_cache
from pathlib import Path
from tokenize import TokenError  # which numpy lets through for a header that it cannot read

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pairmill.atomic import whole_file
from pairmill.config import file_stamp
from pairmill.errors import RecipeError

DTYPE = np.dtype("<u8,<u8")

#: What every .npy file begins with.
_MAGIC = b"\x93NUMPY"
_DIGITS = 32
_CHUNK = 1 << 20
_HEX = r"^[0-9a-fA-F]{32}$"

Uids = npt.NDArray[np.void]


def uids_of(column: pa.ChunkedArray | pa.Array) -> tuple[Uids, npt.NDArray[np.bool_]]:
    """The uids of a column of texts, [rows], and which rows have one: 32 hex digits.  The others are 0."""
    good = pc.fill_null(pc.match_substring_regex(column, _HEX), False)
    filled = pc.if_else(good, column, "0" * _DIGITS)
    flat = (filled.combine_chunks() if isinstance(filled, pa.ChunkedArray) else filled).cast(pa.string())
    halves = np.frombuffer(bytes.fromhex("".join(flat.to_pylist())), ">u8").reshape(-1, 2)
    found = np.empty(len(flat), DTYPE)
    found["f0"], found["f1"] = halves[:, 0], halves[:, 1]
    return found, np.asarray(good, np.bool_)


def read_uids(path: Path) -> Uids:
    """The uids of a file, sorted, mapped into memory.  Raises RecipeError for a file that is none of uids, sorted."""
    another = "give a file of `pairmill select --export`, or of DataComp"
    try:
        with path.open("rb") as stream:
            first = stream.read(len(_MAGIC))
        found: Uids | None = np.load(path, mmap_mode="r", allow_pickle=False) if first == _MAGIC else None
    except (OSError, ValueError, EOFError, OverflowError, TypeError, SyntaxError, MemoryError, TokenError) as error:
        raise _refused(path, str(error), another) from error
    if first.startswith(b"PK"):
        raise _refused(path, "an archive, such as .npz", "save its array as .npy: np.save(path, np.sort(array))")
    if found is None:
        raise _refused(path, "no .npy file" if first else "an empty file", another)
    if found.dtype.names is None or found.dtype != DTYPE or found.ndim != 1:
        raise _refused(path, f"dtype {found.dtype}, {found.ndim} dimension(s)", "write it as np.dtype('u8,u8')")
    return found


def uids_digest(path: Path) -> str:
    """Hex digest of what a file of uids holds.  Raises RecipeError as `read_uids`, and for one that is not sorted."""
    try:
        stamp = file_stamp(path)
    except OSError as error:
        raise _refused(path, str(error), "give a file that is there") from error
    return _digest(path.absolute(), stamp)


@lru_cache(maxsize=64)
def _digest(path: Path, stamp: tuple[int, ...]) -> str:
    """stamp: changes with the file, whose reading may take a minute."""
    found = read_uids(path)
    digest = hashlib.blake2b(digest_size=16)
    last: tuple[int, int] | None = None
    for at in range(0, len(found), _CHUNK):
        part = np.ascontiguousarray(found[at : at + _CHUNK])
        high, low = part["f0"], part["f1"]
        rises = (high[1:] > high[:-1]) | ((high[1:] == high[:-1]) & (low[1:] >= low[:-1]))
        first = (int(high[0]), int(low[0]))
        if not rises.all() or (last is not None and first < last):
            raise _refused(path, "uids that are not sorted", "sort it: np.save(path, np.sort(np.load(path)))")
        last = (int(high[-1]), int(low[-1]))
        digest.update(part.tobytes())
    return digest.hexdigest()


def contained(column: pa.ChunkedArray | pa.Array, uids: Uids) -> npt.NDArray[np.bool_]:
    """Mask of the rows whose uid is among sorted uids."""
    asked, good = uids_of(column)
    if not len(uids) or not len(asked):
        return np.zeros(len(asked), np.bool_)
    at = np.searchsorted(uids, asked)
    at[at == len(uids)] = 0
    found: npt.NDArray[np.bool_] = np.asarray(uids[at] == asked) & good
    return found


def write_uids(path: Path, uids: Uids) -> None:
    """Write uids as a file of them, sorted, each once, whole or not at all.  Raises OSError."""
    with whole_file(Path(os.path.abspath(path)), fault="export.uids") as file:
        np.save(file, np.unique(uids))


def _refused(path: Path, why: str, fix: str) -> RecipeError:
    return RecipeError("`uids` of a selection must name a sorted file of uids", value=f"{str(path)!r}: {why}", fix=fix)
