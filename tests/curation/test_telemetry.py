from collections.abc import Iterable

import pyarrow as pa
import pytest

from curation.recaption import RECAPTION
from curation.telemetry import METRICS, count_fetches, count_rows, count_texts
from pairmill import meters
from pairmill.errors import IntegrityError
from pairmill.meters import Meter, Metric, exported
from training.telemetry import METRICS as TRAINING


class Recorded(Meter):
    """What a meter counts, by name and tags' values."""

    def __init__(self) -> None:
        super().__init__(METRICS, run="r")
        self.counts: dict[tuple[str, ...], float] = {}
        self.observed: dict[tuple[str, ...], list[float]] = {}

    def add(self, name: str, amount: float, **tags: str) -> None:
        super().add(name, amount, **tags)
        self.counts[(name, *tags.values())] = amount

    def observe(self, name: str, values: Iterable[float], **tags: str) -> None:
        self.observed[(name, *tags.values())] = list(values)


def test_rows_are_counted_by_stage_and_outcome() -> None:
    meter = Recorded()
    count_rows(
        meter, {"download": {"rows_in": 9, "rows_kept": 6, "timeout": 3}, "inspect": {"rows_in": 6, "rows_kept": 6}}
    )
    assert meter.counts == {
        ("pairmill_rows", "download", "kept"): 6,
        ("pairmill_rows", "download", "timeout"): 3,
        ("pairmill_rows", "inspect", "kept"): 6,
    }


def test_fetches_are_counted_by_what_became_of_them() -> None:
    rows = pa.table(
        {
            "status": ["success", "success", "http_client_error", "forbidden_address", None, "decode_error", "timeout"],
            "http_status": pa.array([200, 200, 404, None, None, 999, None], pa.int16()),
            "attempts": pa.array([1, 2, 1, 0, None, 1, 3], pa.int8()),
            "elapsed_s": pa.array([0.25, 1.5, 0.5, 0.0, None, 0.75, 8.0], pa.float32()),
            "original_bytes": pa.array([1000, 500, 9, 0, None, 70, 0], pa.int64()),
            "image": pa.array([b"1234", b"56", None, None, None, None, None], pa.binary()),
        }
    )
    meter = Recorded()
    count_fetches(meter, rows)
    assert meter.counts == {
        ("pairmill_fetches", "success", "2xx"): 2,
        ("pairmill_fetches", "http_client_error", "4xx"): 1,
        ("pairmill_fetches", "forbidden_address", "none"): 1,
        ("pairmill_fetches", "decode_error", "other"): 1,
        ("pairmill_fetches", "timeout", "none"): 1,
        ("pairmill_bytes", "fetched"): 1579,
        ("pairmill_bytes", "stored"): 6,
    }
    # The refused URL was not asked for.
    assert meter.observed == {
        ("pairmill_fetch_seconds", "success"): [0.25, 1.5],
        ("pairmill_fetch_seconds", "failure"): [0.5, 0.75, 8.0],
    }


def test_texts_are_counted_where_there_is_one() -> None:
    texts = [[{"text": "a red apple"}, {"text": None}], [], None, [{"text": "a fox"}]]
    meter = Recorded()
    count_texts(meter, "recaption", pa.chunked_array([pa.array(texts, pa.list_(RECAPTION))]))
    assert meter.counts == {("pairmill_texts", "recaption"): 2}


def test_outside_ray_nothing_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr(meters, "_instrument", None)
    Meter(METRICS, run="r").add("pairmill_rows", 1, stage="filter", outcome="kept")


@pytest.mark.parametrize("name", sorted({**METRICS, **TRAINING}))
def test_ray_takes_every_metric_as_it_is_declared(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray refuses bad names, missing tags and bad bounds."""
    monkeypatch.setattr("ray.is_initialized", lambda: True)
    metrics = {**METRICS, **TRAINING}
    meter, tags = Meter(metrics, run="r"), dict.fromkeys(metrics[name].tags, "x")
    match metrics[name].kind:
        case "counter":
            meter.add(name, 2, **tags)
            meter.add(name, 0, **tags)
        case "gauge":
            meter.set(name, 2, **tags)
        case "histogram":
            meter.observe(name, [0.1, 100.0], **tags)
    made = meters._instrument(name, metrics[name])
    assert (made.info["name"], made.info["tag_keys"]) == (name, ("run", *metrics[name].tags))


def test_what_is_not_in_the_table_is_a_bug() -> None:
    meter = Meter(METRICS, run="r")
    with pytest.raises(KeyError):
        meter.add("pairmill_hosts", 1)
    with pytest.raises(IntegrityError, match="must be recorded as a gauge"):
        meter.add("pairmill_queue", 1, queue="fetch")
    with pytest.raises(IntegrityError, match="with the tags stage"):
        meter.add("pairmill_texts", 1, url="https://example.org/a.jpg")


def test_names_that_prometheus_sees() -> None:
    metrics = {"a": Metric("counter", (), ""), "b": Metric("gauge", (), ""), "c": Metric("histogram", (), "", (1.0,))}
    assert exported(metrics) == {"ray_a_total": "a", "ray_b": "b", "ray_c_bucket": "c", "ray_c_count": "c"}
