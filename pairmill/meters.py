"""Metrics for Prometheus: what a metric is, and how a worker records one through Ray's agent.

Ray's agent on each node serves what its workers record, as `ray_<name>`; `exported` gives those names.  The
agent keeps the counters of workers that are gone, so sums over workers only grow.  Compute rates as differences of
sums: `rate(...)` would leave out the first report of each worker, which is a whole shard.  Tags come from closed
vocabularies and from the run's name: never a URL, a host or a text.

Outside Ray recording does nothing, at the cost of checking a flag.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, Literal, NamedTuple

from pairmill.errors import IntegrityError


class Metric(NamedTuple):
    """One metric, for all values of its tags."""

    kind: Literal["counter", "gauge", "histogram"]
    tags: tuple[str, ...]  #: in addition to `run`, which all have
    description: str
    bounds: tuple[float, ...] = ()  #: of a histogram's buckets


def exported(metrics: Mapping[str, Metric]) -> dict[str, str]:
    """The series that Prometheus sees (Ray 2.60) -> the metric each belongs to.

    A histogram's `_sum` is left out: Ray's agent sums the midpoints of the buckets, not what was observed.
    """
    suffixes = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_count")}
    return {f"ray_{name}{suffix}": name for name, metric in metrics.items() for suffix in suffixes[metric.kind]}


class Meter:
    """Records the metrics of one table under one run's name."""

    def __init__(self, metrics: Mapping[str, Metric], *, run: str) -> None:
        self._metrics, self._run = metrics, run

    def add(self, name: str, amount: float, **tags: str) -> None:
        """Add to a counter."""
        instrument = self._instrument(name, "counter", tags)
        if instrument is not None and amount:  # Ray refuses to add 0
            instrument.inc(amount, tags={"run": self._run, **tags})

    def set(self, name: str, value: float, **tags: str) -> None:
        """Set a gauge."""
        instrument = self._instrument(name, "gauge", tags)
        if instrument is not None:
            instrument.set(value, tags={"run": self._run, **tags})

    def observe(self, name: str, values: Iterable[float], **tags: str) -> None:
        """Add values to a histogram; takes about 15 µs a value."""
        instrument = self._instrument(name, "histogram", tags)
        if instrument is not None:
            labels = {"run": self._run, **tags}
            for value in values:
                instrument.observe(value, tags=labels)

    def _instrument(self, name: str, kind: str, tags: Mapping[str, str]) -> Any:
        """Ray's object; None outside Ray.  A name, kind or tag must be in the table: another is a bug of ours."""
        metric = self._metrics[name]
        if metric.kind != kind or tags.keys() != set(metric.tags):
            wanted = f"{metric.kind} with the tags {', '.join(metric.tags)}"
            raise IntegrityError(f"metric {name} must be recorded as a {wanted}; got {kind} with {', '.join(tags)}")
        ray = sys.modules.get("ray")
        return _instrument(name, metric) if ray is not None and ray.is_initialized() else None


@lru_cache
def _instrument(name: str, metric: Metric) -> Any:
    from ray.util import metrics

    tags = ("run", *metric.tags)
    if metric.kind == "histogram":
        return metrics.Histogram(name, metric.description, boundaries=list(metric.bounds), tag_keys=tags)
    return {"counter": metrics.Counter, "gauge": metrics.Gauge}[metric.kind](name, metric.description, tag_keys=tags)
