"""A metric is recorded as its table declares it: the dashboards and alerts are made from the table."""

from __future__ import annotations

import pytest

from pairmill.errors import IntegrityError
from pairmill.meters import Meter, Metric

METER = Meter({"rows": Metric("counter", ("stage",), "rows"), "queue": Metric("gauge", (), "queue")}, run="r")


def test_a_metric_of_another_kind_or_with_other_tags_is_refused() -> None:
    with pytest.raises(IntegrityError, match="rows must be recorded as a counter with the tags stage; got gauge"):
        METER.set("rows", 1, stage="filter")
    with pytest.raises(IntegrityError, match=r"rows must be recorded .*; got counter with shard"):
        METER.add("rows", 1, shard="3")
    with pytest.raises(IntegrityError, match="queue must be recorded as a gauge"):
        METER.observe("queue", [1.0])
