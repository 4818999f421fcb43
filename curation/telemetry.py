"""The metrics of curation: their table, and what a shard adds to them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc

from pairmill.meters import Meter, Metric

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
    "pairmill_generations": Metric(
        "counter", ("stage", "outcome"), "Requests for texts by what the cache knew: hit, miss, damaged; and texts kept"
    ),
    "pairmill_queue": Metric("gauge", ("queue",), "URLs in hand that are not through: fetch, decode"),
}


def count_rows(meter: Meter, counts: Mapping[str, Mapping[str, int]]) -> None:
    """Rows that stages have done.  counts: as `schema.count_drops` gives them."""
    for stage, of_stage in counts.items():
        meter.add("pairmill_rows", of_stage["rows_kept"], stage=stage, outcome="kept")
        for reason in of_stage.keys() - {"rows_in", "rows_kept"}:
            meter.add("pairmill_rows", of_stage[reason], stage=stage, outcome=reason)


def count_fetches(meter: Meter, rows: pa.Table) -> None:
    """What became of downloaded rows, with the columns of `Download`; rows dropped before have no status."""
    meter.add("pairmill_bytes", pc.sum(rows["original_bytes"]).as_py() or 0, kind="fetched")
    meter.add("pairmill_bytes", pc.sum(pc.binary_length(rows["image"])).as_py() or 0, kind="stored")
    rows = rows.select(["status", "http_status", "attempts", "elapsed_s"]).filter(pc.is_valid(rows["status"]))
    kinds = Counter(zip(rows["status"].to_pylist(), map(_answer, rows["http_status"].to_pylist()), strict=True))
    for (status, answer), urls in kinds.items():
        meter.add("pairmill_fetches", urls, status=status, answer=answer)
    # A URL that was refused without a request took no time, and says nothing about the web.
    asked = rows.filter(pc.greater(rows["attempts"], 0))
    good = pc.equal(asked["status"], "success")
    for outcome, mask in (("success", good), ("failure", pc.invert(good))):
        meter.observe("pairmill_fetch_seconds", asked["elapsed_s"].filter(mask).to_pylist(), outcome=outcome)


def count_texts(meter: Meter, stage: str, texts: pa.ChunkedArray) -> None:
    """Texts that a stage's model wrote, failures left out.  texts: a list for each row, of structs with `text`."""
    written = pc.is_valid(pc.struct_field(pc.list_flatten(texts), "text"))
    meter.add("pairmill_texts", pc.sum(written).as_py() or 0, stage=stage)


def count_generations(meter: Meter, stage: str, outcome: str, requests: int) -> None:
    """Requests that the cache of generations had (hit) or not (miss, damaged), and texts put there (kept)."""
    meter.add("pairmill_generations", requests, stage=stage, outcome=outcome)


def _answer(code: int | None) -> str:
    """200 -> 2xx.  Some servers answer with status codes that HTTP does not define."""
    if code is None:
        return "none"
    return f"{code // 100}xx" if 100 <= code < 600 else "other"
