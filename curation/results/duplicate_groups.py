"""Families of duplicates: how many rows one stands for, by kind, and the largest with their pictures.

A family of a kind is the best row and all rows that are left out for that kind in favour of it, or, where duplicates
stay (`keep: all`), that are in one group with it, whether or not another rule leaves some of these out.  The best row
may be one of another run (`against`), which counts and cannot be shown.

What is counted is 17 bytes for each row that is left out.  They are kept in this process while they are few, and then
divided among files by family, each of which is counted by itself: memory does not grow with the rows.
"""

from __future__ import annotations

import heapq
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from curation.duplicates.kinds import kinds_of, reasons
from curation.duplicates.other_runs import ELSEWHERE, of_other_runs, own_uids
from curation.results.data import Pick
from curation.results.outcome import Run
from curation.schema import set_columns
from curation.selections.balance_rule import BALANCE, NO_ENTRY
from curation.selections.steps import NOT_SELECTED, QUOTA, TOP, WHERE
from curation.selections.uids import uids_of
from pairmill import layout
from pairmill.damage import damaged
from pairmill.layout import SELECTIONS
from pairmill.store import shard_file

#: Families of a kind that are shown, rows of each, and selections whose families are counted.
LARGEST, SHOWN, MOST_SELECTIONS = 3, 8, 4

#: The kind of duplicates that stay, each family a group.
KEPT = "group"

#: In place of a kind: a selection that takes families over does not say for which the row was left out.
_UNKNOWN = ""

#: What other rules of a selection leave rows out for; `decontaminate` has reasons of its own.
_NO_KINDS = {NOT_SELECTED, WHERE, QUOTA, TOP, BALANCE, NO_ENTRY}

#: Rows that are left out, in this process before they go to files, and the files.
_ROWS, _FILES = 1 << 20, 64

_LEFT_OUT = np.dtype([("high", np.uint64), ("low", np.uint64), ("kind", np.uint8)])
_READ = ["uid", "reason", "duplicate_group"]

#: Sizes of families that are counted together: from each to below the next.
_SIZES = (2, 3, 4, 5, 6, 8, 11, 21, 51, 101, 1001)


class Family(NamedTuple):
    """The size is that of all rows, the one that stays with them."""

    selection: str
    kind: str
    uid: str
    size: int

    @property
    def here(self) -> bool:
        """Whether the row that stays is one of this run.  That of another may have the uid of a row here."""
        return not self.kind.endswith(ELSEWHERE)


class GroupTally:
    """The families of the selections of a run that look for duplicates."""

    def __init__(self, run: Run) -> None:
        self._store, flow = run.store, run.tables.flow
        kinds = [kind for one in flow.rules for kind in kinds_of(one.config.duplicates)]
        others = _NO_KINDS.union(
            *(one.config.decontaminate.reasons for one in flow.rules if one.config.decontaminate is not None)
        )
        elsewhere = {f"{kind.name}{ELSEWHERE}" for kind in kinds}
        self._kinds = {*reasons(), *flow.selecting.drops, *(kind.name for kind in kinds), *elsewhere} - others
        names = [flow.selecting.selection, *(one.name for one in flow.rules if one.config.dedup)]
        names.append(str((run.recipe.get("deduplicate") or {}).get("name") or "default"))
        self.selections = [name for name in dict.fromkeys(names) if self._has_groups(name)][:MOST_SELECTIONS]
        self._grouped = {name for name in self.selections if layout.GROUP_ID in self._columns(name)}
        self._left_out = {name: _Rows() for name in self.selections}

    def _has_groups(self, name: str) -> bool:
        return "duplicate_group" in self._columns(name)

    def _columns(self, name: str) -> list[str]:
        index = self._store.index(f"{SELECTIONS}/{name}")
        return list(self._store.schema(shard_file(f"{SELECTIONS}/{name}", min(index))).names) if index else []

    def add(self, shard: int, uids: pa.ChunkedArray) -> None:
        """Count one shard.  uids: of its rows."""
        for name in self.selections:
            if (rows := self._rows(name, shard)) is not None:
                if not rows["uid"].equals(uids):
                    raise damaged(
                        self._store.path(shard_file(f"{SELECTIONS}/{name}", shard)), "it holds other rows than the plan"
                    )
                of_kinds = self._of_kinds(name, rows.filter(_left_out(rows)))
                self._left_out[name].add(of_kinds.filter(pc.not_equal(of_kinds["reason"], _UNKNOWN)))

    def _of_kinds(self, name: str, rows: pa.Table) -> pa.Table:
        """With `KEPT` for rows of groups that stay, and which no kind leaves out."""
        other = KEPT if name in self._grouped else _UNKNOWN
        found = [
            reason if reason in self._kinds else KEPT if reason is None else other
            for reason in rows["reason"].to_pylist()
        ]
        return set_columns(rows, {"reason": pa.array(found, pa.string())})

    def _rows(self, name: str, shard: int) -> pa.Table | None:
        table = f"{SELECTIONS}/{name}"
        return None if self._store.entry(table, shard) is None else self._store.load(table, shard, _READ)

    def families(self) -> dict[tuple[str, str], dict[str, Any]]:
        """(selection, kind) -> groups, rows left out, sizes, and the largest families (`Family`)."""
        found: dict[tuple[str, str], dict[str, Any]] = {}
        for name in self.selections:
            for kind, counted in self._left_out[name].counted().items():
                largest = [Family(name, kind, uid, size) for size, uid in counted.largest]
                found[name, kind] = {
                    **{"groups": int(counted.sizes.sum()), "rows": counted.rows},
                    **{"sizes": _worded(counted.sizes), "largest": largest},
                }
        return found

    def members(self, families: Sequence[Family], shards: Sequence[int]) -> dict[Family, list[Pick]]:
        """Some rows of each family: the one that stays, if it is still there, and those of smallest uid."""
        wanted: dict[str, list[Family]] = defaultdict(list)
        for family in families:
            wanted[family.selection].append(family)
        found: dict[Family, list[tuple[bool, Pick]]] = {family: [] for family in families}
        for shard in shards:
            for name, some in wanted.items():
                if (rows := self._rows(name, shard)) is not None:
                    _take(found, some, shard, self._of_kinds(name, rows))
        return {family: [pick for _, pick in sorted(picks)] for family, picks in found.items()}


def _left_out(rows: pa.Table) -> pa.ChunkedArray:
    """Mask of the rows that another row of their family stands for."""
    group = rows["duplicate_group"]
    return pc.fill_null(pc.or_(pc.not_equal(own_uids(group), rows["uid"]), of_other_runs(group)), False)


def _take(found: dict[Family, list[tuple[bool, Pick]]], some: Sequence[Family], shard: int, rows: pa.Table) -> None:
    for family in some:
        best = pc.and_(pc.equal(rows["uid"], family.uid), family.here)
        mask = pc.and_(
            pc.equal(own_uids(rows["duplicate_group"]), family.uid),
            pc.or_(best, pc.equal(rows["reason"], family.kind)),
        )
        places = np.flatnonzero(np.asarray(pc.fill_null(mask, False), np.bool_))
        uids = rows["uid"].take(pa.array(places))
        # The best row may be of any uid.
        order = pc.sort_indices(pc.if_else(best.take(pa.array(places)), "", uids))[:SHOWN].to_numpy()
        picks = [Pick(uids[at].as_py(), shard, int(places[at])) for at in order]
        here = [(pick.uid != family.uid or not family.here, pick) for pick in picks]
        found[family] = heapq.nsmallest(SHOWN, [*found[family], *here])


class _Counted(NamedTuple):
    """sizes: families by `_SIZES`.  rows: left out.  largest: (size, uid), the largest first."""

    sizes: npt.NDArray[np.int64]
    rows: int
    largest: list[tuple[int, str]]


class _Rows:
    """Rows that are left out: their families and kinds."""

    def __init__(self) -> None:
        self._kinds: dict[str, int] = {}
        self._here: list[npt.NDArray[Any]] = []
        self._rows = 0
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def add(self, rows: pa.Table) -> None:
        made = np.empty(len(rows), _LEFT_OUT)
        uids, _ = uids_of(own_uids(rows["duplicate_group"]))
        made["high"], made["low"] = uids["f0"], uids["f1"]
        made["kind"] = [self._kinds.setdefault(kind, len(self._kinds)) for kind in rows["reason"].to_pylist()]
        self._here.append(made)
        self._rows += len(made)
        if self._rows >= _ROWS:
            self._spill()

    def _spill(self) -> None:
        self._folder = self._folder or tempfile.TemporaryDirectory(prefix="pairmill-families-")
        rows = np.concatenate(self._here)
        file = rows["high"] % np.uint64(_FILES)
        for number in range(_FILES):
            with (Path(self._folder.name) / str(number)).open("ab") as stream:
                rows[file == number].tofile(stream)
        self._here, self._rows = [], 0

    def _parts(self) -> Iterator[npt.NDArray[Any]]:
        if self._folder is None:
            yield np.concatenate([np.empty(0, _LEFT_OUT), *self._here])
            return
        self._here.append(np.empty(0, _LEFT_OUT))
        self._spill()
        for number in range(_FILES):
            yield np.fromfile(Path(self._folder.name) / str(number), _LEFT_OUT)
        self._folder.cleanup()
        self._folder = None

    def counted(self) -> dict[str, _Counted]:
        """By kind, in the order of their names."""
        sizes = {kind: np.zeros(len(_SIZES), np.int64) for kind in self._kinds}
        rows: dict[str, int] = dict.fromkeys(self._kinds, 0)
        largest: dict[str, list[tuple[int, str]]] = {kind: [] for kind in self._kinds}
        for part in self._parts():
            for kind, code in self._kinds.items():
                families, counts = np.unique(part[part["kind"] == code], return_counts=True)
                if not len(families):
                    continue
                size = counts + 1
                rows[kind] += int(counts.sum())
                np.add.at(sizes[kind], np.searchsorted(_SIZES, size, "right") - 1, 1)
                least = np.partition(size, max(0, len(size) - LARGEST))[max(0, len(size) - LARGEST)]
                some = [
                    (int(size[at]), f"{int(families['high'][at]):016x}{int(families['low'][at]):016x}")
                    for at in np.flatnonzero(size >= least).tolist()
                ]
                largest[kind] = heapq.nsmallest(LARGEST, [*largest[kind], *some], key=lambda one: (-one[0], one[1]))
        return {kind: _Counted(sizes[kind], rows[kind], largest[kind]) for kind in sorted(self._kinds)}


def _worded(sizes: npt.NDArray[np.int64]) -> dict[str, int]:
    """Families by size, as `2`, `6-7`, `1001-`; without empty lines at the end."""
    ends = [*(following - 1 for following in _SIZES[1:]), None]
    words = [
        str(first) if last == first else f"{first}-{'' if last is None else last}"
        for first, last in zip(_SIZES, ends, strict=True)
    ]
    filled = np.flatnonzero(sizes)
    return dict(zip(words[: filled[-1] + 1], sizes[: filled[-1] + 1].tolist(), strict=True)) if len(filled) else {}
