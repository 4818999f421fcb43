"""Scores of a run and the thresholds that its filter and its selections have for them, in one pass over narrow columns.

A score is a column of the segment `score`, or of embedded texts, that is one number a row, and every number that a
rule of the filter or of a selection compares (`curation.selections.thresholds`).  It is counted over the rows that come
to the selections: those that no stage before them dropped; one that the filter compares over those that come to the
filter; a score of texts that models write over those that texts were written for.  Beside each threshold are the rows
nearest to it on either side, ties by uid.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from curation.embedding.encoder_stage import EncoderStage
from curation.filters.stage import Filter
from curation.flow import Flow
from curation.heads.stage import Score
from curation.results.cluster_columns import is_category
from curation.results.data import Pick
from curation.results.filter_thresholds import filter_thresholds
from curation.results.outcome import Outcome, Run
from curation.results.shown_rows import alive_before, columns_to_read, pictured, with_own
from curation.results.sketch import Sketch
from curation.results.tallies import Frequent
from curation.schema import set_columns
from curation.selections.expression import ALL, evaluate, names_of, parse_names
from curation.selections.selected_tables import facts_in
from curation.selections.steps import TOP
from curation.selections.thresholds import Threshold, thresholds_of
from pairmill.damage import damaged
from pairmill.layout import SELECTIONS
from pairmill.store import Store, shard_file

#: Rows shown on each side of a threshold, thresholds that have such rows, and groups whose own thresholds are listed.
SHOWN, MOST_GALLERIES, GROUPS_SHOWN = 6, 24, 8

_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)

Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]


class Near(NamedTuple):
    """A row near a threshold; the nearest are the smallest."""

    distance: float
    pick: Pick
    value: float
    limit: float
    group: str | None


class ScoreTally:
    """What is counted of each score, and of each threshold."""

    def __init__(self, run: Run) -> None:
        self._run, flow = run, run.tables.flow
        filtering = filter_thresholds(flow)
        selecting = thresholds_in(run.store, [one.name for one in flow.rules])
        self.thresholds = [*selecting, *(one.threshold for one in filtering)]
        self._owners = _score_columns(flow)
        self._compared = {one.subject: one for one in self.thresholds}
        names = dict.fromkeys([*self._owners, *self._compared])
        self._sketches = {name: (Sketch(), Sketch()) for name in names}
        self._missing = dict.fromkeys(names, 0)
        #: Those of texts that models write: rows that the selection leaves out may have some of an earlier recipe.
        later = flow.made_later.keys()
        self._late = {name for name in names if later & {name, *self._columns_of(name)}}
        #: Those that the filter compares: rows that it drops have them too.
        self._early = {one.threshold.subject for one in filtering}
        self._sides = [_Sides(one, one.rule) for one in selecting]
        self._filter_sides = [_Sides(one.threshold, one.reason) for one in filtering]
        self._pictured = pictured(run)
        self.columns = columns_to_read(
            run, ["width", *self._owners, *(name for one in self.thresholds for name in one.columns)]
        )

    def add(self, outcome: Outcome) -> None:
        """Count one shard, as far as it is processed."""
        rows = with_own(outcome.rows)
        alive = alive_before(self._run.tables.flow, rows)
        kept = alive & np.asarray(rows["drop_reason"].is_null(), np.bool_)
        written = alive & ~_dropped_by([self._run.tables.flow.selecting.name], rows)
        filtered = self._filtered(rows)
        for name, (everything, of_kept) in self._sketches.items():
            values = self._numbers(name, rows)
            if values is not None:
                come = written if name in self._late else filtered if name in self._early else alive
                everything.add(values[come])
                of_kept.add(values[kept])
                self._missing[name] += int(np.isnan(values[come]).sum())
        chosen: dict[str, pa.Table | None] = {}
        for sides in self._sides:
            name = sides.threshold.selection
            if name not in chosen:
                chosen[name] = _chosen(self._run.store, sides.threshold, outcome)
            if (selection := chosen[name]) is not None and set(sides.threshold.columns) <= set(rows.schema.names):
                come = written if sides.threshold.subject in self._late else alive
                sides.add(outcome.shard, rows, come, selection, outcome.shard in self._pictured)

        verdict = _verdict_of_filter(rows)
        for sides in self._filter_sides:
            if set(sides.threshold.columns) <= set(rows.schema.names):
                sides.add(outcome.shard, rows, filtered, verdict, outcome.shard in self._pictured)

    def _filtered(self, rows: pa.Table) -> Mask:
        """The rows that come to the filter."""
        flow = self._run.tables.flow
        return ~_dropped_by(flow.before(Filter.name) if Filter.name in flow else (), rows)

    def _columns_of(self, name: str) -> list[str]:
        return self._compared[name].columns if name in self._compared else []

    def _numbers(self, name: str, rows: pa.Table) -> Floats | None:
        if (one := self._compared.get(name)) is not None:
            return one.numbers(rows) if set(one.columns) <= set(rows.schema.names) else None
        if name not in rows.schema.names:
            return None
        # As in expressions, a long whole number, such as an id, is the nearest that float64 has.
        return np.asarray(rows[name].cast(pa.float64(), safe=False).fill_null(np.nan), np.float64)

    def picks(self) -> list[Pick]:
        """The rows that are shown."""
        return [near.pick for sides in self._all_sides[:MOST_GALLERIES] for side in sides.near for near in side]

    @property
    def _all_sides(self) -> list[_Sides]:
        return [*self._sides, *self._filter_sides]

    def data(self, shown: Mapping[Pick, Mapping[str, Any]]) -> dict[str, Any]:
        """Plain data: `scores` and `thresholds`.  shown: what is shown of each of `picks`."""
        thresholds = [
            sides.data(shown if at < MOST_GALLERIES else {}) for at, sides in enumerate(self._all_sides) if sides.rows
        ]
        return {
            "scores": [
                self._score(name, [one for one in thresholds if one["subject"] == name])
                for name, (everything, _) in self._sketches.items()
                if len(everything)
            ],
            "thresholds": thresholds,
        }

    def _score(self, name: str, thresholds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        everything, kept = self._sketches[name]
        edges = everything.edges([limit["value"] for one in thresholds for limit in one["limits"]])
        found = {f"p{round(100 * share)}": _short(everything.quantile(share)) for share in _QUANTILES}
        return {
            "name": name,
            "stage": self._owners.get(name),
            "rows": len(everything),
            "missing": self._missing[name],
            "min": _short(everything.least),
            **found,
            "max": _short(everything.largest),
            "error": everything.error,
            "edges": edges,
            "all": everything.counts(edges),
            "kept": kept.counts(edges),
        }


class _Sides:
    """The rows on both sides of a threshold."""

    def __init__(self, threshold: Threshold, reason: str) -> None:
        """reason: of the rows that the rule leaves out."""
        self.threshold, self._reason = threshold, reason
        self.limits: Frequent[tuple[str, float]] = Frequent()
        #: Rows that pass and that the selection keeps; rows that do not, and that this rule leaves out.
        self.rows, self.counts = 0, [0, 0]
        self.near: list[list[Near]] = [[], []]

    def add(self, shard: int, rows: pa.Table, alive: Mask, selection: pa.Table, pictured: bool) -> None:
        """selection: keep and reason of the same rows.  pictured: whether rows of this shard may be shown."""
        one = self.threshold
        numbers, limits = one.numbers(rows), one.limits(rows)
        there = alive & np.isfinite(numbers) & np.isfinite(limits)
        passes = one.passes(numbers, limits)
        keep = np.asarray(selection["keep"], np.bool_)
        here = np.array([reason == self._reason for reason in selection["reason"].to_pylist()], np.bool_)
        groups = one.groups(rows)
        at_all = np.flatnonzero(there)
        if one.by is None:
            values = np.unique(limits[at_all], return_counts=True)
            self.limits.add({("", float(value)): int(n) for value, n in zip(*values, strict=True)})
        else:
            self.limits.add(Counter((groups[at] or "", float(limits[at])) for at in at_all.tolist()))
        self.rows += int(there.sum())
        image = np.asarray(rows["width"].is_valid(), np.bool_) if "width" in rows.schema.names else np.zeros(len(rows))
        distance = np.abs(numbers - limits)
        # Of equal scores, some are among the best and some are not.
        fails = there & here if one.rule == TOP else there & ~passes & here
        for side, mask in enumerate((there & passes & keep, fails)):
            self.counts[side] += int(mask.sum())
            if pictured:
                self._take(side, mask & (image > 0), distance, shard, rows["uid"], (numbers, limits, groups))

    def _take(
        self,
        side: int,
        mask: Mask,
        distance: Floats,
        shard: int,
        uids: pa.ChunkedArray,
        of_row: tuple[Floats, Floats, Sequence[str | None]],
    ) -> None:
        at = np.flatnonzero(mask)
        if len(at) > SHOWN:
            # All that are as near as the last of the nearest: uids decide among them.
            at = at[distance[at] <= np.partition(distance[at], SHOWN - 1)[SHOWN - 1]]
        numbers, limits, groups = of_row
        found = [
            Near(float(distance[n]), Pick(uids[n].as_py(), shard, n), float(numbers[n]), float(limits[n]), groups[n])
            for n in at.tolist()
        ]
        self.near[side] = heapq.nsmallest(SHOWN, [*self.near[side], *found], key=lambda near: near[:2])

    def data(self, shown: Mapping[Pick, Mapping[str, Any]]) -> dict[str, Any]:
        """Plain data."""
        one = self.threshold
        limits = self.limits.most_common(GROUPS_SHOWN)
        sides = {
            name: {
                "rows": self.counts[side],
                "shown": [
                    {**shown[near.pick], "value": _short(near.value), "limit": _short(near.limit), "group": near.group}
                    for near in self.near[side]
                    if near.pick in shown
                ],
            }
            for side, name in enumerate(("passing", "failing"))
        }
        return {
            **{"selection": one.selection, "rule": one.rule, "subject": one.subject, "sign": one.sign},
            **{"against": one.against, "by": one.by, "groups": len(self.limits.counts)},
            "limits": [
                {"group": group or None, "value": _short(value), "rows": n} for (group, value), n in limits.items()
            ],
            **sides,
        }


def thresholds_in(store: Store, first: Sequence[str] = ()) -> list[Threshold]:
    """The thresholds of all selections of a run, as their manifests have them.  first: names that come first."""
    there = store.folders(SELECTIONS)
    names = [*(one for one in first if one in there), *(one for one in there if one not in first)]
    return [one for name in names for one in thresholds_of(name, facts_in(store, name))]


def _chosen(store: Store, one: Threshold, outcome: Outcome) -> pa.Table | None:
    """keep and reason of a shard's rows in a threshold's selection, no reason for rows that it does not choose from.

    None while it has none.  Raises DamagedError if it holds other rows.
    """
    if (rows := _selected(store, one.selection, outcome)) is None:
        return None
    tree = parse_names(one.source, f"selections.{one.selection}.from")
    masks: dict[str, Mask] = {ALL: np.ones(len(rows), np.bool_)}
    for name in names_of(tree):
        if name != ALL:
            base = _selected(store, name, outcome)
            masks[name] = masks[ALL] if base is None else np.asarray(base["keep"], np.bool_)
    return set_columns(rows, {"reason": pc.if_else(pa.array(evaluate(tree, masks)), rows["reason"], None)})


def _selected(store: Store, name: str, outcome: Outcome) -> pa.Table | None:
    table = f"{SELECTIONS}/{name}"
    if store.entry(table, outcome.shard) is None:
        return None
    rows = store.load(table, outcome.shard, ["uid", "keep", "reason"])
    if not rows["uid"].equals(outcome.rows["uid"]):
        raise damaged(store.path(shard_file(table, outcome.shard)), "it holds other rows than the plan")
    return rows


def _dropped_by(stages: Collection[str], rows: pa.Table) -> Mask:
    return np.array([name in stages for name in rows["drop_stage"].to_pylist()], np.bool_)


def _verdict_of_filter(rows: pa.Table) -> pa.Table:
    """keep and reason of the rows that come to the filter, as a selection has them."""
    dropped = pa.array(_dropped_by([Filter.name], rows))
    return pa.table({"keep": pc.invert(dropped), "reason": pc.if_else(dropped, rows["drop_reason"], None)})


def _score_columns(flow: Flow) -> dict[str, str]:
    """The columns of scores that are one number a row, those of texts that models write too, with the stage of each."""
    found = {}
    for stage in flow.stages:
        if stage.segment != "score" and not isinstance(stage, EncoderStage):
            continue
        for column in stage.adds:
            counted = pa.types.is_integer(column.type) and isinstance(stage, Score) and not is_category(column)
            if pa.types.is_floating(column.type) or counted:
                found[column.name] = stage.name
    return found


def _short(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else float(f"{value:.6g}")
