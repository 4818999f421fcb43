"""Tombstones: what must not come back into a run, as digests, in `RUN/forgotten.parquet`.

A tombstone of kind `uid` is one row of the run; `row` is its URL and text in any spelling of the URL.  `url`, `host`
and `sha256` are rules, which also apply to rows added later.  They are kept as BLAKE2b of the requested URL (and text),
the host and the picture's SHA-256.  A digest does not reveal what it was made from, but anyone who knows a URL can
check whether it is listed: that is its purpose.

The file is also the log of the work: it is written before anything is removed, and work that it names remains to be
done.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from curation.identity import requested_urls, url_host
from pairmill.damage import damaged, undamaged
from pairmill.errors import RunDirError
from pairmill.pending import (
    FORGOTTEN_FILE,
    WORK,
    forgotten_table,
    read_forgotten,
    refuse_pending,
    work_of,
    write_forgotten,
)
from pairmill.store import Store
from pairmill.table_files import parquet_bytes

Kind = Literal["uid", "row", "url", "host", "sha256"]

#: shard: that of the row, null for a rule.  kept: whether the product held the row.  at: seconds since the epoch.
SCHEMA = pa.schema(
    [
        ("kind", pa.string()),
        ("digest", pa.string()),
        ("shard", pa.int32()),
        ("kept", pa.bool_()),
        ("at", pa.int64()),
    ]
)


def rule_digest(kind: Kind, value: str) -> str:
    """The digest that is stored for a rule: 128-bit BLAKE2b, hex; a uid is one already and stays unchanged.

    value: URL in the form of `identity.requested_url`; host in the form of `identity.url_host`, with a dot in front for
    every host below it; SHA-256 in lower-case hex.  Those of rows are made by `row_digests`.
    """
    if kind == "uid":
        return value
    content = value.encode("utf-8", "surrogatepass")
    return hashlib.blake2b(content, digest_size=16, person=f"pairmill/{kind}".encode()).hexdigest()


def row_digests(url: str, alt: str) -> tuple[str, ...]:
    """The digests of a row's URL, in each form in which it is compared, and its raw text."""
    return tuple(rule_digest("row", f"{form}\0{alt}") for form in requested_urls(url))


class Tombstones:
    """What is forgotten in a run, or will be."""

    def __init__(self, table: pa.Table | None = None, work: Mapping[str, Any] | None = None) -> None:
        """table: schema `SCHEMA`.  work: what remains to be done, as plain data; its `at` says for which tombstones."""
        self.table = SCHEMA.empty_table() if table is None else table
        self.work: dict[str, Any] = dict(work or {})

    @classmethod
    def read(cls, store: Store) -> Tombstones:
        """The tombstones of a run; none if nothing was ever forgotten there.  Raises RunDirError for a damaged file."""
        data = read_forgotten(store)
        if data is None:
            return cls()
        table = forgotten_table(store, data)
        work = work_of(store, table)
        with undamaged(store.path(FORGOTTEN_FILE), local=True):
            stones = table.cast(SCHEMA)
            stones.validate(full=True)
        if (fault := _fault(stones)) is not None:
            raise damaged(store.path(FORGOTTEN_FILE), fault)
        return cls(stones, work)

    def write(self, store: Store, fault: str) -> None:
        """Write them, all or nothing.  The caller must hold the run's lock."""
        table = self.table.replace_schema_metadata({WORK: json.dumps(self.work)})
        write_forgotten(store, parquet_bytes(table), fault)

    def with_rows(self, table: pa.Table) -> Tombstones:
        """These tombstones and new ones of `table`; existing ones stay unchanged."""
        known = set(_keys(self.table))
        new = table.filter(pa.array([key not in known for key in _keys(table)], pa.bool_()))
        return Tombstones(pa.concat_tables([self.table, new]), self.work)

    def same_as(self, other: Tombstones) -> bool:
        """Whether both hold the same tombstones and the same work."""
        return self.work == other.work and bool(self.table.equals(other.table))

    @property
    def pending(self) -> pa.Table:
        """The rows that remain to be taken out."""
        return self.table.filter(
            pc.and_(pc.equal(self.table["at"], self.work.get("at", -1)), pc.is_valid(self.table["shard"]))
        )

    @property
    def uids(self) -> frozenset[str]:
        """The uids of the rows."""
        return self._of["uid"]

    def kept_by_shard(self) -> Mapping[int, int]:
        """Shard -> forgotten rows that the product held: parts are cut as if they still existed."""
        rows = self.table.filter(pc.and_(pc.equal(self.table["kind"], "uid"), pc.fill_null(self.table["kept"], False)))
        return Counter(rows["shard"].to_pylist())

    def covers(self, uid: str, url: str, alt: str) -> bool:
        """Whether a row with this uid, this URL and this raw text is forgotten."""
        if uid in self._of["uid"] or self.covers_url(url):
            return True
        return bool(self._of["row"]) and not self._of["row"].isdisjoint(row_digests(url, alt))

    def covers_url(self, url: str) -> bool:
        """Whether a rule forbids this URL or its host."""
        if self._of["url"] and any(rule_digest("url", form) in self._of["url"] for form in requested_urls(url)):
            return True
        return bool(self._of["host"]) and any(rule_digest("host", h) in self._of["host"] for h in _hosts(url))

    def covers_picture(self, sha256: str | None) -> bool:
        """Whether a rule forbids the picture whose original bytes have this SHA-256 (hex)."""
        return bool(self._of["sha256"] and sha256) and rule_digest("sha256", str(sha256)) in self._of["sha256"]

    def mask(self, uids: Sequence[str], urls: Sequence[str], alts: Sequence[str]) -> npt.NDArray[np.bool_]:
        """Which of some rows are forgotten."""
        if not len(self.table):
            return np.zeros(len(uids), np.bool_)
        return np.fromiter(map(self.covers, uids, urls, alts), np.bool_, len(uids))

    @cached_property
    def _of(self) -> Mapping[str, frozenset[str]]:
        found: dict[str, set[str]] = {kind: set() for kind in get_args(Kind)}
        for kind, digest in zip(self.table["kind"].to_pylist(), self.table["digest"].to_pylist(), strict=True):
            found[kind].add(digest)
        return {kind: frozenset(digests) for kind, digests in found.items()}


def _fault(stones: pa.Table) -> str | None:
    """What is wrong with a table of the right columns; None if nothing is."""
    for name in ("kind", "digest", "at"):
        if stones[name].null_count:
            return f"a tombstone has no {name}"
    if not pc.all(pc.is_in(stones["kind"], pa.array(get_args(Kind))), min_count=0).as_py():
        return "a tombstone has an unknown kind"
    if (pc.min(stones["shard"]).as_py() or 0) < 0:
        return "a tombstone has a shard below 0"
    lost = pc.and_(pc.fill_null(stones["kept"], False), pc.is_null(stones["shard"]))
    return "a tombstone is of a kept row without its shard" if pc.any(lost, min_count=0).as_py() else None


def _keys(table: pa.Table) -> Iterator[tuple[Any, ...]]:
    return zip(*(table[name].to_pylist() for name in ("kind", "digest", "shard")), strict=True)


@contextmanager
def copying(store: Store) -> Iterator[None]:
    """Around a block that reads rows and writes them elsewhere, where no later `forget` would find them.

    Raises RunDirError before it if rows remain to be taken out, and after it (also in place of its error) if rows were
    forgotten meanwhile.
    """
    refuse_pending(store)
    before = Tombstones.read(store)
    try:
        yield
    except Exception as error:
        _require_same(store, before, error)
        raise
    _require_same(store, before)


def _require_same(store: Store, before: Tombstones, cause: Exception | None = None) -> None:
    if not Tombstones.read(store).same_as(before):
        raise RunDirError(
            "no row must be forgotten while the rows of a run are copied",
            value=f"rows of {store.uri} were forgotten meanwhile, so what was written is removed",
            fix="run the same command again, once `pairmill forget` has ended",
        ) from cause


def _hosts(url: str) -> Iterator[str]:
    """The rules that cover the host of this URL: itself, and a dot with each host above it."""
    host = url_host(url)
    if host:
        yield host
        labels = host.split(".")
        yield from ("." + ".".join(labels[at:]) for at in range(1, len(labels)))
