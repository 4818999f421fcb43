"""Cut the input list into shards, once: the same rows, in a seeded order, whatever the memory and the machine.

adds:  uid, index (int64, position in the input), url, alt, input, drop_stage, drop_reason
drops: duplicate_input

The order is an external sort by a keyed hash of the uid.  That is a shuffle (so the hosts of a list spread over the
shards and over time), it needs the memory of one bucket, and it brings rows of equal uid side by side.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from curation.identity import row_uid, shuffle_key
from curation.inputs import InputConfig, InputFile, extra_fields, find_files, read_rows
from curation.schema import drop, set_columns
from curation.stage import Column, Stage
from curation.table import PLAN
from pairmill.config import Config, digest
from pairmill.errors import InputError, RunDirError
from pairmill.store import Store, shard_file

#: Input bytes a bucket of the external sort holds; a list's rows take a few times that in memory.
_BUCKET_BYTES = 64 * 2**20
_MAX_BUCKETS = 1024


class ShardsConfig(Config):
    """How the input is cut into units of work, retry and commit."""

    rows_per_shard: int = Field(2000, ge=1, le=100_000, description="rows of a shard")
    seed: int = Field(0, ge=0, description="seed of the order in which rows are visited")


class Planned(Stage):
    """Give every row its uid and its place; of rows with equal URL and text the first in input order lives."""

    name, segment, section, table, pool = "plan", "plan", "shards", PLAN, None
    adds = (
        Column("uid", pa.string(), "128-bit BLAKE2b of the canonical URL and the raw alt text", carried=True),
        Column("index", pa.int64(), "position in the input"),
        Column("url", pa.string(), "where the image was found", carried=True),
        Column("alt", pa.string(), "the alt text as it was found", carried=True),
    )
    drops = ("duplicate_input",)
    Config = ShardsConfig


class Plan(Config):
    """What `plan/plan.json` says of a planned run."""

    fingerprint: str
    rows: int
    shards: int
    files: list[str]
    listing: str
    cut: str

    def shard_numbers(self) -> range:
        """The shards of the run."""
        return range(self.shards)


def plan(store: Store, inputs: InputConfig, shards: ShardsConfig) -> Plan:
    """The plan of this run directory: the one that is there if it is of the same input, else a new one.

    Raises InputError for an input that cannot be read, RunDirError if the directory holds another input's plan.
    """
    files = find_files(inputs)
    # Names and sizes tell cheaply whether the input is the one that was planned; the fingerprint tells for sure.
    listing = digest([[f.path, f.size, f.kind] for f in files] + [inputs.identity()])
    cut = digest(shards.identity())
    known = store.read_json("plan/plan.json")
    if known is not None:
        old = Plan.model_validate(known)
        if old.listing == listing and old.cut == cut:
            return old
        changed = "shards.*" if old.listing == listing else "input.* or the input files"
        raise RunDirError(
            "a run directory belongs to one input, cut into shards in one way",
            value=f"{store.uri} was planned from {', '.join(old.files[:3])}, and {changed} changed since",
            fix="give another run_dir, or delete this one if its rows are not needed",
        )
    extra = extra_fields(files, inputs)
    fingerprint = hashlib.blake2b(digest([shards.identity(), str(extra)]).encode(), digest_size=8)
    rows = numbered = 0
    with tempfile.TemporaryDirectory(prefix="pairmill-plan-") as scratch:
        counts = _TextCounts(Path(scratch))
        pieces = _sorted_rows(files, inputs, shards.seed, extra, Path(scratch))
        for shard, table in enumerate(_cut(pieces, shards.rows_per_shard)):
            rows, numbered = rows + len(table), shard + 1
            for name in ("uid", "index", "drop_reason"):
                fingerprint.update("\n".join(map(str, table[name].to_pylist())).encode())
            counts.add(table)
            store.write_table(shard_file("plan", shard), table, "plan.shard")
        store.write_table("plan/text_counts.parquet", counts.table())
    if not rows:
        raise InputError("the input must have at least one row", value=inputs.path, fix="check input.path")
    made = Plan(
        fingerprint=fingerprint.hexdigest(),
        rows=rows,
        shards=numbered,
        files=[f.path for f in files],
        listing=listing,
        cut=cut,
    )
    store.write_json("plan/plan.json", made.model_dump(), "plan.commit")
    return made


def _sorted_rows(
    files: list[InputFile], inputs: InputConfig, seed: int, extra: pa.StructType, scratch: Path
) -> Iterator[pa.Table]:
    """All rows in the order of their shuffle keys, a bucket at a time, duplicates marked."""
    buckets = min(_MAX_BUCKETS, 1 + sum(f.size for f in files) // _BUCKET_BYTES)
    writers: dict[int, pa.ipc.RecordBatchFileWriter] = {}
    start = 0
    for file in files:
        for batch in read_rows(file, inputs, extra):
            keyed = _with_identity(batch, start, seed)
            start += len(keyed)
            # Bucket b holds the b-th slice of the key space, so that bucket order is key order.
            bucket = (keyed["key"].to_numpy() >> np.uint64(32)) * np.uint64(buckets) >> np.uint64(32)
            for b in np.unique(bucket):
                part = keyed.filter(pa.array(bucket == b))
                if b not in writers:
                    writers[b] = pa.ipc.new_file(str(scratch / f"{b}.arrow"), part.schema)
                writers[b].write_table(part)
    for writer in writers.values():
        writer.close()
    for b in sorted(writers):
        spill = scratch / f"{b}.arrow"
        with pa.memory_map(str(spill)) as source:
            yield _mark_duplicates(pa.ipc.open_file(source).read_all())
        spill.unlink()


def _with_identity(batch: pa.Table, start: int, seed: int) -> pa.Table:
    uids = [row_uid(u, a) for u, a in zip(batch["url"].to_pylist(), batch["alt"].to_pylist(), strict=True)]
    identity = {
        "key": pa.array([shuffle_key(uid, seed) for uid in uids], pa.uint64()),
        "uid": pa.array(uids, pa.string()),
        "index": pa.array(range(start, start + len(uids)), pa.int64()),
    }
    return set_columns(pa.table(identity), {name: batch[name] for name in batch.schema.names})


def _mark_duplicates(bucket: pa.Table) -> pa.Table:
    order = pc.sort_indices(bucket, [("key", "ascending"), ("uid", "ascending"), ("index", "ascending")])
    rows = bucket.take(order).drop_columns(["key"])
    nulls = pa.nulls(len(rows), pa.string())
    rows = rows.append_column("drop_stage", nulls).append_column("drop_reason", nulls)
    uid = rows["uid"].combine_chunks()
    again = pa.array(np.r_[False, np.asarray(pc.equal(uid[1:], uid[:-1]))])
    return drop(rows, Planned.name, {"duplicate_input": again}, Planned.drops)


def _cut(pieces: Iterator[pa.Table], rows_per_shard: int) -> Iterator[pa.Table]:
    """Tables of exactly `rows_per_shard` rows, the last one shorter."""
    rest: pa.Table | None = None
    for piece in pieces:
        rest = piece if rest is None else pa.concat_tables([rest, piece])
        whole = len(rest) // rows_per_shard * rows_per_shard
        for at in range(0, whole, rows_per_shard):
            yield rest.slice(at, rows_per_shard).combine_chunks()
        rest = rest.slice(whole)
    if rest is not None and len(rest):
        yield rest.combine_chunks()


class _TextCounts:
    """How many rows share each alt text, counted on disk: digests are spilled by their first byte."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch

    def add(self, table: pa.Table) -> None:
        from curation.filters.text import text_digest  # with all filters; reading a plan needs none

        live = table.filter(pc.is_null(table["drop_reason"]))
        digests = np.frombuffer(b"".join(text_digest(alt) for alt in live["alt"].to_pylist()), dtype="<u8")
        first = digests & np.uint64(0xFF)
        for byte in np.unique(first):
            with (self._scratch / f"{byte}.digests").open("ab") as spill:
                digests[first == byte].tofile(spill)

    def table(self) -> pa.Table:
        """digest (uint64), images (int64), for the texts that more than one row has."""
        found = [np.unique(np.fromfile(f, dtype="<u8"), return_counts=True) for f in self._scratch.glob("*.digests")]
        shared = [(values[n > 1], n[n > 1]) for values, n in found]
        digests = np.concatenate([d for d, _ in shared] or [np.empty(0, "<u8")])
        images = np.concatenate([n for _, n in shared] or [np.empty(0, np.int64)])
        order = np.argsort(digests)
        return pa.table(
            {"digest": pa.array(digests[order], pa.uint64()), "images": pa.array(images[order], pa.int64())}
        )


def common_texts(store: Store, more_than: int | None) -> frozenset[bytes]:
    """Digests of the alt texts that more than `more_than` rows share (none if it is None)."""
    if more_than is None:
        return frozenset()
    counts = store.read_table("plan/text_counts.parquet")
    digests = counts.filter(pc.greater(counts["images"], more_than))["digest"].to_numpy()
    return frozenset(int(d).to_bytes(8, "little") for d in digests)
