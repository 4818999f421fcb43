"""What the report shows of scores, thresholds, duplicates, clusters and balance.

    add     one pass over narrow columns: histograms, rows near thresholds, sizes of families, mentions of entries
    data    a second one over selections, for the rows of the largest families, and the embeddings of a sample

Then come the few rows that are shown, with their captions; their pictures are read by `thumbnails`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from curation.embedding.source_probe import source_probes
from curation.results.balance_counts import BalanceTally
from curation.results.cluster_columns import ClusterColumns
from curation.results.cluster_sample import ClusterSample
from curation.results.contamination import ContaminationTally
from curation.results.data import Pick
from curation.results.duplicate_groups import Family, GroupTally
from curation.results.outcome import Outcome, Run
from curation.results.score_tally import ScoreTally
from curation.results.shown_rows import read_shown
from curation.results.withheld import Withheld
from pairmill.config import digest


class Insights:
    """All of it, over the shards of one run."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._scores, self._groups, self._balance = ScoreTally(run), GroupTally(run), BalanceTally(run)
        self._contamination, self._clusters = ContaminationTally(run), ClusterColumns(run)
        self.withheld = Withheld(self._scores.thresholds, run.tables.flow.columns)
        #: What `read_outcome` must be asked for.
        parts = (self._scores, self._balance, self._contamination, self._clusters)
        self.columns = tuple(dict.fromkeys(name for part in parts for name in part.columns))

    def add(self, outcome: Outcome) -> None:
        """Count one shard, as far as it is processed."""
        self._scores.add(outcome)
        self._groups.add(outcome.shard, outcome.rows["uid"])
        self._balance.add(outcome)
        self._contamination.add(outcome)
        self._clusters.add(outcome)

    def data(self) -> dict[str, Any]:
        """Plain data, for report.json: scores, thresholds, duplicates, clusters, balance, contamination, probes."""
        counted = self._groups.families()
        families = [family for one in counted.values() for family in one["largest"]]
        members = self._groups.members(families, list(self._run.plan.shard_numbers())) if families else {}
        clusters = self._clusters if self._clusters.columns else ClusterSample(self._run)
        picks = [*self._scores.picks(), *(pick for some in members.values() for pick in some), *clusters.picks()]
        shown = read_shown(self._run, [*picks, *self._contamination.picks()], self.withheld)
        return {
            **self._scores.data(shown),
            "duplicates": _merged(
                {
                    **{"selections": [selection], "kind": kind, **one},
                    "largest": [_family(family, members[family], shown) for family in one["largest"]],
                }
                for (selection, kind), one in counted.items()
            ),
            "clusters": clusters.data(shown),
            "balance": self._balance.data(),
            "contamination": self._contamination.data(self._run.store, shown),
            "probes": [
                {**one, "outdated": one["content"] != self._content(one)} for one in source_probes(self._run.store)
            ],
        }

    def _content(self, probe: Mapping[str, Any]) -> str:
        """The digest of the vectors' table that a probe is of, as they are now."""
        index = self._run.store.index(f"columns/embed-{probe['embedding']}")
        return digest([entry.content for _, entry in sorted(index.items())])


def _merged(kinds: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Selections that have the same families of a kind together."""
    found: list[dict[str, Any]] = []
    for one in kinds:
        same = next((other for other in found if _but_names(other) == _but_names(one)), None)
        if same is None:
            found.append(one)
        else:
            same["selections"] += one["selections"]
    return found


def _but_names(kind: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in kind.items() if name != "selections"}


def _family(family: Family, members: list[Pick], shown: Mapping[Pick, Mapping[str, Any]]) -> dict[str, Any]:
    rows = [{**shown[pick], "best": family.here and pick.uid == family.uid} for pick in members]
    # A best row that was forgotten is named nowhere.
    best = family.uid if any(row["best"] for row in rows) else None
    return {"uid": best, "size": family.size, "shown": rows}


def shown_in(report: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The rows that `Insights.data` shows with a picture, in the order of the page."""
    for threshold in report["thresholds"]:
        for side in ("passing", "failing"):
            yield from threshold[side]["shown"]
    for kind in report["duplicates"]:
        for family in kind["largest"]:
            yield from family["shown"]
    for evaluation in report["contamination"]:
        for kind in evaluation["kinds"]:
            yield from (pair["row"] for pair in kind["pairs"])
    for found in report["clusters"]:
        for cluster in found["clusters"]:
            yield from cluster["shown"]
