"""Take rows out of copies of the product: the tars and parquet files that `pairmill export` and `rows` write.

What stays is copied unchanged: samples of a tar byte for byte, rows of a parquet file in their row groups.  Files and
samples keep their names and numbers.  A run is never a copy: its own files are refused.
"""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import IO, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pairmill.atomic import partials_of, whole_file
from pairmill.bounded_tar import BoundedTar
from pairmill.errors import UserError
from pairmill.faults import fault_point
from pairmill.layout import PLAN_JSON
from pairmill.store import MANIFESTS
from pairmill.tars import split_name

#: The file of a folder of tars that says how many samples each has.
_SIZES = "sizes.json"
#: Files beside the rows that hold none: that one, and the dataset card.
_WITHOUT_ROWS = (_SIZES, "README.md")


class Copy(NamedTuple):
    """A file that holds rows to remove: how many, and its size in bytes."""

    path: Path
    rows: int
    bytes: int


class NoCopy(UserError):
    """There is no copy where --also says."""


def find_copies(place: Path, uids: Collection[str]) -> list[Copy]:
    """The files at `place` (a file, or a folder and those within) that hold rows with one of these uids.

    Raises NoCopy if there is no such file, and UserError for a place that is part of a run or has one within, a file
    that cannot be read, or a file whose rows have no uid.
    """
    found = [Copy(file, _count(file, uids)[0], file.stat().st_size) for file in _files(place)]
    return [one for one in found if one.rows]


def clean_copies(place: Path, uids: Collection[str]) -> int:
    """Rewrite the files at `place` without the rows that have one of these uids; returns how many those were.

    Wherever it is killed, repeating the call completes it.  Raises as `find_copies`, and OSError for a file that cannot
    be written; then all other files are cleaned.
    """
    gone = 0
    sizes: dict[Path, int] = {}
    failures: list[UserError | OSError] = []
    for file in _files(place):
        try:
            rows, others = _count(file, uids)
            if rows:
                fault_point("forget.copy")
                # The file itself: replacing a link would leave the rows where it leads.
                _KINDS[file.suffix.lower()].clean(_real(file), uids)
        except (UserError, OSError) as error:
            failures.append(error)
            continue
        gone, sizes[file] = gone + rows, others
    for partial in partials_of(map(_real, sizes)):
        partial.unlink(missing_ok=True)
    for folder in {file.parent for file in sizes if file.suffix.lower() == ".tar"}:
        _correct_sizes(folder / _SIZES, sizes)
    if failures:
        raise failures[0]
    return gone


def not_searched(place: Path) -> list[Path]:
    """What lies in a folder and may hold rows, but is not searched: links to folders, and files of other kinds.

    Among these are files that a writer has not finished, but for those that `clean_copies` removes.
    """
    if not place.is_dir():
        return []
    files = _files(place)
    known = {*files, *partials_of(map(_real, files))}
    within = (path for path in sorted(place.rglob("*")) if path not in known and path.name not in _WITHOUT_ROWS)
    return [path for path in within if path.is_symlink() or not path.is_dir()]


def _files(place: Path) -> list[Path]:
    within = sorted(place.rglob("*")) if place.is_dir() else [place]
    _refuse_runs([place, *within])
    files = [file for file in within if file.suffix.lower() in _KINDS and file.is_file()]
    if not files:
        raise NoCopy(
            "--also must name an export or a file of `pairmill rows`",
            value=f"{place} has no .tar or .parquet file",
            fix="give the folder that `pairmill export` wrote",
        )
    return files


def _refuse_runs(paths: Iterable[Path]) -> None:
    """Raise UserError if one of these is a run or a table of one, is in one, or is a link into one."""
    # Links within a folder are not followed, but a file may be one, and so may the folder itself.
    seen: set[Path] = set()
    for path in paths:
        real = _real(path)
        for folder in (real, *real.parents):
            if folder in seen:
                break
            seen.add(folder)
            if (folder / PLAN_JSON).exists() or (folder / MANIFESTS).exists():
                raise UserError(
                    "--also must name copies of the product, and no part of any run",
                    value=f"{path}: {folder} is a run directory or a table of one",
                    fix="give what `pairmill export` or `pairmill rows` wrote; "
                    f"in a table that you copied out of a run, delete {MANIFESTS}/ first",
                )


def _real(path: Path) -> Path:
    """Where a path leads; unlike `Path.resolve`, for a loop of links too."""
    return Path(os.path.realpath(path))


def _count(file: Path, uids: Collection[str]) -> tuple[int, int]:
    """How many rows of a file have one of these uids, and how many have not.  Raises UserError if it cannot be read."""
    try:
        return _KINDS[file.suffix.lower()].tally(file, uids)
    except (OSError, tarfile.TarError, pa.ArrowException, ValueError) as error:
        raise UserError(
            "every file of a copy must be readable",
            value=f"{file}: {error}",
            fix="leave it out of --also; delete it, or write it again from the run",
        ) from error


def _correct_sizes(listed: Path, sizes: Mapping[Path, int]) -> None:
    """Correct the number of samples of each tar in the list beside them."""
    if not listed.is_file():
        return
    try:
        was = json.loads(listed.read_text())
    except ValueError:
        return  # it is not ours
    if not isinstance(was, dict):
        return
    now = {name: sizes.get(listed.parent / name, size) for name, size in was.items()}
    if now != was:
        with whole_file(listed) as stream:
            stream.write(json.dumps(now, indent=1).encode())


class _Sample(NamedTuple):
    """A sample of a tar: the bytes from its first header to its last content, and its uid."""

    start: int
    end: int
    uid: str


def _samples(tar: tarfile.TarFile) -> Iterator[_Sample]:
    # As the export wrote them, and with every file, so that the rest stays byte for byte.
    for key, members in groupby((m for m in tar if m.isfile()), key=lambda m: split_name(m.name)[0]):
        start, end, uid = -1, 0, None
        for member in members:
            start = member.offset if start < 0 else start
            end = member.offset_data + -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
            if split_name(member.name)[1] == "json" and (file := tar.extractfile(member)) is not None:
                described = json.loads(file.read())
                uid = described.get("uid") if isinstance(described, dict) else None
        if not isinstance(uid, str):
            raise _without_uid(f"sample {key} of {tar.name!s}")
        yield _Sample(start, end, uid)


def _count_tar(file: Path, uids: Collection[str]) -> tuple[int, int]:
    with file.open("rb") as source, BoundedTar.open(fileobj=source, mode="r:") as tar:
        held = [sample.uid in uids for sample in _samples(tar)]
    return sum(held), len(held) - sum(held)


def _clean_tar(file: Path, uids: Collection[str]) -> None:
    with file.open("rb") as source, BoundedTar.open(fileobj=source, mode="r:") as tar:
        kept = [sample for sample in _samples(tar) if sample.uid not in uids]
        with whole_file(file) as stream:
            for sample in kept:
                source.seek(sample.start)
                _copy(source, stream, sample.end - sample.start)
            # The end of an archive: two empty blocks, and a whole number of records.
            written = sum(sample.end - sample.start for sample in kept) + 2 * tarfile.BLOCKSIZE
            stream.write(bytes(2 * tarfile.BLOCKSIZE + -written % tarfile.RECORDSIZE))


def _copy(source: IO[bytes], target: IO[bytes], size: int) -> None:
    while size:
        piece = source.read(min(size, 2**24))
        if not piece:
            raise OSError(f"{source.name} became shorter while it was read")
        target.write(piece)
        size -= len(piece)


def _count_parquet(file: Path, uids: Collection[str]) -> tuple[int, int]:
    with pq.ParquetFile(file) as parquet:
        if "uid" not in parquet.schema_arrow.names:
            raise _without_uid(str(file))
        batches = parquet.iter_batches(columns=["uid"], use_threads=False)
        held = sum(pc.sum(_mask(file, batch["uid"], uids)).as_py() or 0 for batch in batches)
        return held, parquet.metadata.num_rows - held


def _clean_parquet(file: Path, uids: Collection[str]) -> None:
    with (
        pq.ParquetFile(file) as parquet,
        whole_file(file) as stream,
        pq.ParquetWriter(stream, parquet.schema_arrow, compression="zstd", write_page_checksum=True) as writer,
    ):
        for number in range(parquet.num_row_groups):
            group = parquet.read_row_group(number, use_threads=False)
            left = group.filter(pc.invert(_mask(file, group["uid"], uids)))
            if len(left):
                writer.write_table(left, row_group_size=len(left))


def _mask(file: Path, column: pa.Array | pa.ChunkedArray, uids: Collection[str]) -> pa.Array | pa.ChunkedArray:
    """Which values of a column of uids are among these.  Other programs may write text in other types."""
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise _without_uid(f"{file}, whose uid is {kind}")
    return pc.is_in(column.cast(pa.string()), pa.array(sorted(uids), pa.string()))


def _without_uid(what: str) -> UserError:
    return UserError(
        "every row of a copy must have its uid",
        value=what,
        fix="leave it out of --also, and write it again from the run",
    )


class _Kind(NamedTuple):
    """tally: count the rows of a file with one of some uids, and the others.  clean: rewrite it without the former."""

    tally: Callable[[Path, Collection[str]], tuple[int, int]]
    clean: Callable[[Path, Collection[str]], None]


_KINDS: Mapping[str, _Kind] = {
    ".tar": _Kind(_count_tar, _clean_tar),
    ".parquet": _Kind(_count_parquet, _clean_parquet),
}
