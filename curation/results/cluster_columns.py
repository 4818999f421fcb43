"""Clusters that a head has written into a column, by size, with pictures of the largest.

Numbers that name something (a cluster, a concept, a label, a class) are told from those that count or measure by what
their head calls them.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from curation.heads.stage import Score
from curation.results.cluster_sample import MOST, SHOWN
from curation.results.data import Pick
from curation.results.outcome import Outcome, Run
from curation.results.shown_rows import alive_before, pictured
from curation.results.tallies import Frequent
from curation.stage import Column

#: What heads call such numbers.
_NAMES = ("cluster", "concept", "label", "class")

#: Clusters that are counted: beyond twice so many, the smallest are forgotten.
_COUNTED = 1 << 16


def is_category(column: Column) -> bool:
    """Whether the numbers of a head's column name something.  column: described as `head: field`."""
    return pa.types.is_integer(column.type) and column.description.rpartition(": ")[2] in _NAMES


class ClusterColumns:
    """The rows of each cluster of the columns of a run."""

    def __init__(self, run: Run) -> None:
        self._flow, self._pictured = run.tables.flow, pictured(run)
        self.columns = [
            column.name
            for stage in self._flow.stages
            if isinstance(stage, Score)
            for column in stage.adds
            if is_category(column)
        ]
        self._rows: dict[str, Frequent[int]] = {name: Frequent(_COUNTED) for name in self.columns}
        self._kept: dict[str, Counter[int]] = {name: Counter() for name in self.columns}
        self._some: dict[str, dict[int, list[Pick]]] = {name: {} for name in self.columns}

    def add(self, outcome: Outcome) -> None:
        """Count one shard, as far as it is processed."""
        rows = outcome.rows
        for name in self.columns:
            if name not in rows.schema.names:
                continue
            values = rows[name].to_pylist()
            here = [at for at in np.flatnonzero(alive_before(self._flow, rows)).tolist() if values[at] is not None]
            kept = rows["drop_reason"].is_null().to_pylist()
            self._rows[name].add(Counter(values[at] for at in here))
            self._kept[name].update(values[at] for at in here if kept[at])
            if len(self._kept[name]) > 2 * _COUNTED:
                self._kept[name] = Counter({one: self._kept[name][one] for one in self._rows[name].counts})
            if outcome.shard in self._pictured:
                some = self._some[name]
                for at in here:
                    pick = Pick(rows["uid"][at].as_py(), outcome.shard, at)
                    some[values[at]] = heapq.nsmallest(SHOWN, [*some.get(values[at], ()), pick])

    def picks(self) -> list[Pick]:
        """The rows that are shown."""
        return [
            pick
            for name in self.columns
            for cluster in self._rows[name].most_common(MOST)
            for pick in self._some[name].get(cluster, ())
        ]

    def data(self, shown: Mapping[Pick, Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Plain data, a line for each column.  shown: what is shown of each of `picks`."""
        return [
            {
                **{"embedding": None, "column": name, "rows": counted.counts.total(), "groups": len(counted.counts)},
                "clusters": [
                    {
                        **{"name": cluster, "rows": rows, "kept": self._kept[name][cluster]},
                        "shown": [shown[pick] for pick in self._some[name].get(cluster, ())],
                    }
                    for cluster, rows in counted.most_common(MOST).items()
                ],
            }
            for name, counted in self._rows.items()
            if counted.counts
        ]
