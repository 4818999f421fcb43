"""What a run's pictures are of: clusters of their embeddings by size, over a sample, with the pictures in their middle.

The sample is that of whole shards, evenly chosen: rows are in an order of chance there, and few files are read however
large the run is.  Clusters are found as semantic duplicates find theirs, the same to the last bit on every machine
(`curation.duplicates.vector_clusters`), in the order of the rows' uids.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from curation.duplicates.exact_products import Vectors, exact_pairs, nearest
from curation.duplicates.vector_clusters import k_means
from curation.embedding.stage import Embed
from curation.embedding.vectors import vectors_of
from curation.results.data import Pick
from curation.results.outcome import Run, read_outcome
from curation.results.shown_rows import alive_before

#: Rows of the sample, about so many at most.
SAMPLE = 20_000

#: Clusters at most, rows of the sample for each at least, and rows of a cluster that are shown.
MOST, _ROWS_EACH, SHOWN = 24, 25, 6

_ITERATIONS = 10


class ClusterSample:
    """The clusters of the first of a run's embeddings that is there; none without one."""

    def __init__(self, run: Run) -> None:
        names = [stage.given for stage in run.tables.flow.stages if isinstance(stage, Embed)]
        self._embedding = next((name for name in sorted(names)), "")
        self._rows = 0
        self._clusters: list[dict[str, Any]] = []
        if self._embedding:
            self._find(run)

    def _find(self, run: Run) -> None:
        column = f"image_embedding_{self._embedding}"
        picks: list[Pick] = []
        kept: list[bool] = []
        found: list[Vectors] = []
        for shard in _sampled(run):
            rows = read_outcome(run, shard, [column, "width"]).rows
            if column not in rows.schema.names:
                continue
            vectors, there = vectors_of(rows[column])
            alive = alive_before(run.tables.flow, rows)[there]
            at = np.flatnonzero(there)[alive]
            picks += [Pick(rows["uid"][n].as_py(), shard, n) for n in at.tolist()]
            kept += np.asarray(rows["drop_reason"].is_null(), np.bool_)[at].tolist()
            if len(at):
                found.append(vectors[alive])
        if len(picks) < 2 * _ROWS_EACH:
            return
        order = sorted(range(len(picks)), key=picks.__getitem__)
        vectors = np.concatenate(found)[order]
        picks, stays = [picks[at] for at in order], np.array(kept)[order]
        centroids = k_means(vectors, min(MOST, len(picks) // _ROWS_EACH), _ITERATIONS)
        member = nearest(vectors, centroids)[:, 0]
        middle = exact_pairs(vectors, centroids[member])
        self._rows = len(picks)
        for number in range(len(centroids)):
            of = np.flatnonzero(member == number)
            if len(of):
                # Rows are in the order of uids, which decide among equals.
                shown = of[np.argsort(-middle[of], kind="stable")[:SHOWN]]
                self._clusters.append(
                    {"rows": len(of), "kept": int(stays[of].sum()), "shown": [picks[at] for at in shown.tolist()]}
                )
        self._clusters.sort(key=lambda one: (-one["rows"], one["shown"]))

    def picks(self) -> list[Pick]:
        """The rows that are shown."""
        return [pick for one in self._clusters for pick in one["shown"]]

    def data(self, shown: Mapping[Pick, Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Plain data, as `ClusterColumns.data`; [] without clusters.  shown: what is shown of each of `picks`."""
        if not self._clusters:
            return []
        clusters = [{**one, "name": None, "shown": [shown[pick] for pick in one["shown"]]} for one in self._clusters]
        of = {"embedding": self._embedding, "column": None, "rows": self._rows, "groups": len(clusters)}
        return [{**of, "clusters": clusters}]


def _sampled(run: Run) -> list[int]:
    """The shards of the sample: all of a run that is small."""
    numbers = list(run.plan.shard_numbers())
    wanted = max(1, min(len(numbers), round(SAMPLE * len(numbers) / max(1, run.plan.rows))))
    return [numbers[int(at * len(numbers) / wanted)] for at in range(min(wanted, len(numbers)))]
