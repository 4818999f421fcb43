"""The metrics of curation: their one table, what a shard adds to them, and how they reach Prometheus.

Ray's agent on each node serves what its workers record, as `ray_<name>`; `exported` says under which names.  It keeps
the counters of workers that are gone, so sums over workers only grow, and rates are differences of sums: `rate(...)`
would leave out what each worker told first, which is a whole shard.  Tags come from closed vocabularies and from the
run's name: never a URL, a host or a text.

Outside Ray recording does nothing, and costs a look at a flag.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from curation.schema import Stage


class Metric(NamedTuple):
    """One metric, whatever its tags are."""

    kind: Literal["counter", "gauge", "histogram"]
    tags: tuple[str, ...]  #: besides `run`, which all have
    description: str
    bounds: tuple[float, ...] = ()  #: of a histogram's buckets


METRICS: Mapping[str, Metric] = {
    "pairmill_rows": Metric("counter", ("stage", "outcome"), "Rows done by a stage: kept, or why they were dropped"),
    "pairmill_fetches": Metric("counter", ("status", "answer"), "URLs done, by status and class of the HTTP answer"),
    "pairmill_fetch_seconds": Metric(
        "histogram",
        ("outcome",),
        "Seconds a URL took, retries included, waits for its host and robots.txt not: success, failure",
        (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0),
    ),
    "pairmill_bytes": Metric("counter", ("kind",), "Bytes of images: fetched, and stored after re-encoding"),
    "pairmill_texts": Metric("counter", ("stage",), "Texts written by a model"),
    "pairmill_queue": Metric("gauge", ("queue",), "URLs in hand that are not through: fetch, decode"),
}


def exported(metrics: Mapping[str, Metric]) -> dict[str, str]:
    """The series that Prometheus sees (Ray 2.60) -> the metric each belongs to.

    A histogram's `_sum` is left out: Ray's agent adds up the middles of the buckets, not what was observed.
    """
    suffixes = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_count")}
    return {f"ray_{name}{suffix}": name for name, metric in metrics.items() for suffix in suffixes[metric.kind]}


class Meter:
    """Records the metrics of one table under one run's name."""

    def __init__(self, metrics: Mapping[str, Metric], *, run: str) -> None:
        self._metrics, self._run = metrics, run

    def add(self, name: str, amount: float, **tags: str) -> None:
        """To a counter."""
        instrument = self._instrument(name, "counter", tags)
        if instrument is not None and amount:  # Ray refuses to add nothing
            instrument.inc(amount, tags={"run": self._run, **tags})

    def set(self, name: str, value: float, **tags: str) -> None:
        """A gauge."""
        instrument = self._instrument(name, "gauge", tags)
        if instrument is not None:
            instrument.set(value, tags={"run": self._run, **tags})

    def observe(self, name: str, values: Iterable[float], **tags: str) -> None:
        """In a histogram; takes about 15 µs a value."""
        instrument = self._instrument(name, "histogram", tags)
        if instrument is not None:
            told = {"run": self._run, **tags}
            for value in values:
                instrument.observe(value, tags=told)

    def _instrument(self, name: str, kind: str, tags: Mapping[str, str]) -> Any:
        """Ray's object; None outside Ray.  A name, kind or tag that is not in the table is a bug of ours."""
        metric = self._metrics[name]
        assert metric.kind == kind, f"{name} is a {metric.kind}"
        assert tags.keys() == set(metric.tags), f"{name} has the tags {', '.join(metric.tags)}"
        ray = sys.modules.get("ray")
        return _instrument(name, metric) if ray is not None and ray.is_initialized() else None


@lru_cache
def _instrument(name: str, metric: Metric) -> Any:
    from ray.util import metrics

    tags = ("run", *metric.tags)
    if metric.kind == "histogram":
        return metrics.Histogram(name, metric.description, boundaries=list(metric.bounds), tag_keys=tags)
    return {"counter": metrics.Counter, "gauge": metrics.Gauge}[metric.kind](name, metric.description, tag_keys=tags)


def count_rows(meter: Meter, counts: Mapping[str, Mapping[str, int]]) -> None:
    """Rows that stages have done.  counts: as `schema.count_drops` gives them."""
    for stage, of_stage in counts.items():
        meter.add("pairmill_rows", of_stage["rows_kept"], stage=stage, outcome="kept")
        for reason in of_stage.keys() - {"rows_in", "rows_kept"}:
            meter.add("pairmill_rows", of_stage[reason], stage=stage, outcome=reason)


def count_fetches(meter: Meter, rows: pa.Table) -> None:
    """What became of downloaded rows, columns as `download.COLUMNS`; those that were dropped before have no status."""
    meter.add("pairmill_bytes", pc.sum(rows["original_bytes"]).as_py() or 0, kind="fetched")
    meter.add("pairmill_bytes", pc.sum(pc.binary_length(rows["image"])).as_py() or 0, kind="stored")
    rows = rows.select(["status", "http_status", "attempts", "elapsed_s"]).filter(pc.is_valid(rows["status"]))
    kinds = Counter(zip(rows["status"].to_pylist(), map(_answer, rows["http_status"].to_pylist()), strict=True))
    for (status, answer), urls in kinds.items():
        meter.add("pairmill_fetches", urls, status=status, answer=answer)
    # A URL that was refused before it was asked for took no time, and says nothing of the web.
    asked = rows.filter(pc.greater(rows["attempts"], 0))
    good = pc.equal(asked["status"], "success")
    for outcome, mask in (("success", good), ("failure", pc.invert(good))):
        meter.observe("pairmill_fetch_seconds", asked["elapsed_s"].filter(mask).to_pylist(), outcome=outcome)


def count_texts(meter: Meter, stage: Stage, rows: pa.Table) -> None:
    """Texts that a model wrote, failures left out; rows with the column of lists that `stage` adds, if it adds one."""
    column = _TEXTS.get(stage)
    if column is not None:
        written = pc.is_valid(pc.struct_field(pc.list_flatten(rows[column]), "text"))
        meter.add("pairmill_texts", pc.sum(written).as_py() or 0, stage=stage.value)


_TEXTS = {Stage.RECAPTION: "recaptions", Stage.TRANSLATE: "translations"}


def _answer(code: int | None) -> str:
    """200 -> 2xx.  Some servers answer with numbers that HTTP does not have."""
    if code is None:
        return "none"
    return f"{code // 100}xx" if 100 <= code < 600 else "other"
