"""Two selections of a run side by side: how many rows both keep, and which only one of them does, and why.

reads: keep, reason (both selections); language, caption (the filter's table); url, alt (plan); image
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from curation.plan import open_plan
from curation.results.data import Pick
from curation.results.outcome import open_run
from curation.results.page import count, share
from curation.results.score_tally import thresholds_in
from curation.results.shown_rows import read_shown
from curation.results.thumbnails import place, thumbnails
from curation.results.withheld import Withheld
from curation.selections.uids import Uids, uids_of
from curation.table import PLAN
from pairmill.damage import damaged
from pairmill.errors import RunDirError, UserError, nearest
from pairmill.layout import FILTER_TABLE, SELECTIONS, filter_table
from pairmill.pages import page_template
from pairmill.store import Entry, Store, shard_file

#: Rows shown of those that only one of the two keeps.
SHOWN = 12


class TwoSelections:
    """What two selections of a run keep, counted over its shards; memory does not grow with the rows."""

    def __init__(self, store: Store, a: str, b: str) -> None:
        """Raises UserError for a name that is no selection of the run, RunDirError for one that is not complete."""
        if a == b:
            raise UserError("--diff must name two selections", value=f"{a} twice", fix="name another one")
        self._store, self.names = store, (a, b)
        self._shards = list(open_plan(store).shard_numbers())
        for name in self.names:
            require_selection(store, name, self._shards)
        self.both = 0
        self.only: dict[str, Counter[str]] = {name: Counter() for name in self.names}  # reason of the other -> rows
        self.kept: dict[str, Counter[str]] = {name: Counter() for name in self.names}  # language -> rows
        self.common: Counter[str] = Counter()
        self._picks: dict[str, list[Pick]] = {name: [] for name in self.names}
        for shard in self._shards:
            self._count(shard)

    def _count(self, shard: int) -> None:
        kept, reasons, languages = {}, {}, None
        uids = None
        for name in self.names:
            table = f"{SELECTIONS}/{name}"
            rows = self._store.load(table, shard, ["uid", "keep", "reason"])
            uids = rows["uid"] if uids is None else uids
            if not rows["uid"].equals(uids):
                raise damaged(self._store.path(shard_file(table, shard)), "it holds other rows than the plan")
            kept[name], reasons[name] = np.asarray(rows["keep"], np.bool_), rows["reason"]
            languages = self._languages(name, shard, len(rows))
            self.kept[name].update(_counted(languages, kept[name]))
        (a, b), known = self.names, uids.to_pylist() if uids is not None else []
        both = kept[a] & kept[b]
        self.both += int(both.sum())
        self.common.update(_counted(self._languages(a, shard, len(both)), both))
        for name, other in ((a, b), (b, a)):
            here = kept[name] & ~kept[other]
            self.only[name].update(reasons[other].filter(pa.array(here)).to_pylist())
            found = [Pick(known[at], shard, int(at)) for at in np.flatnonzero(here)]
            self._picks[name] = heapq.nsmallest(SHOWN, self._picks[name] + found)

    def _languages(self, name: str, shard: int, rows: int) -> pa.ChunkedArray:
        table = _filters_of(self._store, name)
        if table is None:
            return pa.chunked_array([pa.nulls(rows, pa.string())])
        return self._store.load(table, shard, ["language"])["language"]

    def data(self) -> dict[str, Any]:
        """The counts as plain data.  `only`: the rows that one keeps and the other does not, by the other's reason."""
        a, b = self.names
        languages = sorted({*self.kept[a], *self.kept[b]}, key=lambda one: (-self.kept[a][one], one))
        return {
            "a": a,
            "b": b,
            "both": self.both,
            "only": {
                name: {"rows": self.only[name].total(), "reasons": dict(self.only[name].most_common())}
                for name in self.names
            },
            "languages": {
                one: {
                    "both": self.common[one],
                    "only": {name: self.kept[name][one] - self.common[one] for name in self.names},
                }
                for one in languages
            },
        }

    def page(self) -> str:
        """The same as a page, with some rows that only one of the two keeps: those of smallest uid."""
        run = open_run(self._store)
        withheld = Withheld(thresholds_in(self._store), run.tables.flow.columns)
        found = read_shown(run, (pick for picks in self._picks.values() for pick in picks), withheld)
        shown = {
            name: [{**found[pick], **self._entry(name, pick)} for pick in sorted(picks)]
            for name, picks in self._picks.items()
        }
        pictures = thumbnails(self._store, [entry for entries in shown.values() for entry in entries])
        template = page_template(Path(__file__).with_name("compare.html.j2"), {"count": count, "share": share})
        return template.render(found=self.data(), shown=shown, pictures=pictures, place=place, run_dir=self._store.uri)

    def _entry(self, name: str, pick: Pick) -> dict[str, Any]:
        other = self.names[1 - self.names.index(name)]
        reason = self._store.load(f"{SELECTIONS}/{other}", pick.shard, ["reason"])["reason"][pick.row].as_py()
        language = self._languages(name, pick.shard, pick.row + 1)[pick.row].as_py()
        # `thumbnails` withholds pictures by the reason, too.
        return {"language": language, "reason": reason, "drop_reason": reason}


def selection_uids(store: Store, name: str, column: str = "uid") -> Uids:
    """The uids of the rows that a selection keeps, [rows].

    column: of the plan, `uid` or a column of the list, `input.NAME`, whose values are 32 hex digits.
    Raises UserError for a name that is no selection of the run, and for a row without such a value.
    """
    shards = list(open_plan(store).shard_numbers())
    require_selection(store, name, shards)
    found = []
    for shard in shards:
        kept = store.load(f"{SELECTIONS}/{name}", shard, ["uid", "keep"])
        values = kept["uid"] if column == "uid" else _listed(store, shard, column)
        uids, good = uids_of(values.filter(kept["keep"]))
        if not good.all():
            raise UserError(
                "--uid-column must name a column of 32 hex digits in every row that is exported",
                value=f"{column}, row {kept['uid'].filter(kept['keep'])[int(np.argmin(good))].as_py()} of {store.uri}",
                fix="leave it out: the rows' own uids are such numbers",
            )
        found.append(uids)
    return np.concatenate(found)


def _listed(store: Store, shard: int, column: str) -> pa.ChunkedArray:
    plain = column.removeprefix("input.")
    rows = store.load(PLAN, shard)
    there = [field.name for field in rows.schema.field("input").type] if "input" in rows.schema.names else []
    if plain not in there or not pa.types.is_string(rows.schema.field("input").type.field(plain).type):
        raise UserError(
            "--uid-column must name a column of texts of the list",
            value=column,
            fix=f"perhaps you mean: {nearest(plain, there)}" if there else "leave it out",
        )
    return pc.struct_field(rows["input"], [plain])


def require_selection(store: Store, name: str, shards: Iterable[int]) -> Mapping[int, Entry]:
    """The committed shards of a selection.  Raises UserError if there is none, RunDirError if it lacks shards."""
    index = store.index(f"{SELECTIONS}/{name}")
    if not index:
        known = [one for one in store.folders(SELECTIONS) if store.index(f"{SELECTIONS}/{one}")]
        raise UserError(
            "a selection must be one of the run",
            value=f"{name}, in {store.uri}",
            fix=f"perhaps you mean: {nearest(name, known)}" if known else "let the run finish: it has none yet",
        )
    if missing := set(shards) - index.keys():
        raise RunDirError(
            "a selection must have all shards of the run",
            value=f"{name} lacks {len(missing)} shards in {store.uri}",
            fix="run what made it again: `pairmill curate`, `pairmill select` or `pairmill sweep`",
        )
    return index


def _filters_of(store: Store, name: str) -> str | None:
    """The table with the languages of a selection's rows; None while there is none."""
    return next((table for table in (filter_table(name), FILTER_TABLE) if store.index(table)), None)


def _counted(languages: pa.ChunkedArray, mask: npt.NDArray[np.bool_]) -> Counter[str]:
    return Counter(language or "und" for language in languages.filter(pa.array(mask)).to_pylist())
