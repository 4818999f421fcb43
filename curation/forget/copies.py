"""Take rows out of copies of the product: the tars and parquet files that `pairmill export` and `rows` write.

What stays is copied unchanged: samples of a tar byte for byte, rows of a parquet file in their row groups.  Files and
samples keep their names and numbers.
"""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import IO, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pairmill.atomic import whole_file
from pairmill.errors import UserError
from pairmill.faults import fault_point
from pairmill.tars import samples

#: The file of a folder of tars that says how many samples each has.
_SIZES = "sizes.json"


class Copy(NamedTuple):
    """A file that holds rows to remove: how many, and its size in bytes."""

    path: Path
    rows: int
    bytes: int


def find_copies(place: Path, uids: Collection[str]) -> list[Copy]:
    """The files at `place` (a file, or a folder and those within) that hold rows with one of these uids.

    Raises UserError if there is no file that can be read, or a file whose rows have no uid.
    """
    found = [Copy(file, _HELD[file.suffix](file, uids)[0], file.stat().st_size) for file in _files(place)]
    return [one for one in found if one.rows]


def clean_copies(place: Path, uids: Collection[str]) -> int:
    """Rewrite the files at `place` without the rows that have one of these uids; returns how many those were.

    Wherever it is killed, repeating the call completes it.  Raises as `find_copies`, and UserError for a tar that is
    cut short.
    """
    gone = 0
    sizes: dict[Path, int] = {}
    for file in _files(place):
        rows, others = _HELD[file.suffix](file, uids)
        if rows:
            fault_point("forget.copy")
            (_clean_tar if file.suffix == ".tar" else _clean_parquet)(file, uids)
        gone, sizes[file] = gone + rows, others
    folder = place if place.is_dir() else place.parent
    # What killed writers left, inside and beside it (`pairmill.atomic`).
    for partial in [*folder.rglob(".*.partial"), *place.parent.glob(f".{place.name}.*.partial")]:
        shutil.rmtree(partial) if partial.is_dir() else partial.unlink(missing_ok=True)
    for listed in folder.rglob(_SIZES):
        was = json.loads(listed.read_text())
        now = {name: sizes.get(listed.parent / name, size) for name, size in was.items()}
        if now != was:
            with whole_file(listed) as stream:
                stream.write(json.dumps(now, indent=1).encode())
    return gone


def _files(place: Path) -> list[Path]:
    within = sorted(place.rglob("*")) if place.is_dir() else [place]
    files = [file for file in within if file.suffix in _HELD and file.is_file()]
    if not files:
        raise UserError(
            "--also must name an export or a file of `pairmill rows`",
            value=f"{place} has no .tar or .parquet file",
            fix="give the folder that `pairmill export` wrote",
        )
    return files


class _Sample(NamedTuple):
    """A sample of a tar: the bytes from its first header to its last content, and its uid."""

    start: int
    end: int
    uid: str


def _samples(tar: tarfile.TarFile) -> Iterator[_Sample]:
    for key, members in samples(tar):
        start, end, uid = -1, 0, None
        for ending, member in members:
            start = member.offset if start < 0 else start
            end = member.offset_data + -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
            if ending == "json" and (file := tar.extractfile(member)) is not None:
                uid = json.loads(file.read()).get("uid")
        if not isinstance(uid, str):
            raise _without_uid(f"sample {key} of {tar.name!s}")
        yield _Sample(start, end, uid)


def _held_by_tar(file: Path, uids: Collection[str]) -> tuple[int, int]:
    with tarfile.open(file, "r:") as tar:
        held = [sample.uid in uids for sample in _samples(tar)]
    return sum(held), len(held) - sum(held)


def _clean_tar(file: Path, uids: Collection[str]) -> None:
    with file.open("rb") as source, tarfile.open(fileobj=source, mode="r:") as tar:
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
            raise UserError(
                "every sample of a copy must be complete",
                value=f"{source.name} ends within a sample",
                fix="leave it out of --also, and write it again from the run",
            )
        target.write(piece)
        size -= len(piece)


def _held_by_parquet(file: Path, uids: Collection[str]) -> tuple[int, int]:
    with pq.ParquetFile(file) as parquet:
        if "uid" not in parquet.schema_arrow.names:
            raise _without_uid(str(file))
        asked = pa.array(sorted(uids), pa.string())
        batches = parquet.iter_batches(columns=["uid"], use_threads=False)
        held = sum(pc.sum(pc.is_in(batch["uid"], asked)).as_py() or 0 for batch in batches)
        return held, parquet.metadata.num_rows - held


def _clean_parquet(file: Path, uids: Collection[str]) -> None:
    asked = pa.array(sorted(uids), pa.string())
    with (
        pq.ParquetFile(file) as parquet,
        whole_file(file) as stream,
        pq.ParquetWriter(stream, parquet.schema_arrow, compression="zstd") as writer,
    ):
        for number in range(parquet.num_row_groups):
            group = parquet.read_row_group(number, use_threads=False)
            left = group.filter(pc.invert(pc.is_in(group["uid"], asked)))
            if len(left):
                writer.write_table(left, row_group_size=len(left))


def _without_uid(what: str) -> UserError:
    return UserError(
        "every row of a copy must have its uid",
        value=what,
        fix="leave it out of --also, and write it again from the run",
    )


#: How to count the rows of a file: those with one of some uids, and the others.
_HELD: Mapping[str, Callable[[Path, Collection[str]], tuple[int, int]]] = {
    ".tar": _held_by_tar,
    ".parquet": _held_by_parquet,
}
