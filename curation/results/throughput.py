"""How fast a run fetched: images committed over the wall time of the fetching segments, and the rate over time.

reads: the journal, and the manifests of images

Interrupted runs count up to their last commit; the time between runs does not count.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from curation.results.outcome import Run

#: Segments of the journal in which images are committed.
_FETCHING = ("collect", "retry-failed")
_BINS = 48


class Span(NamedTuple):
    """When an invocation was fetching (seconds since the epoch), and how long earlier ones had fetched (s)."""

    run: int
    start: float
    end: float
    before: float


def throughput(run: Run) -> dict[str, Any]:
    """images, seconds, images_per_second, and the course: bin_seconds, and images/s and rows/s in each bin.

    `runs` says where in that course (seconds) each invocation starts.  All is zero if nothing was fetched.
    """
    manifests = list(run.manifests["images"].values())
    spans = _spans(run, manifests)
    seconds = sum(span.end - span.start for span in spans.values())
    if seconds <= 0:
        return {"images": 0, "seconds": 0.0, "images_per_second": 0.0, "bin_seconds": 0.0, "bins": [], "runs": []}
    edges = np.linspace(0, seconds, _BINS + 1)
    images, rows = np.zeros(_BINS), np.zeros(_BINS)
    total = 0
    for manifest in manifests:
        span = spans.get(manifest["run"])
        if span is None:
            continue
        # For a shard that was committed again, only what was fetched for that.
        fetched = int(manifest["worked"]["inspect"].get("kept", manifest["stages"]["inspect"]["rows_kept"]))
        total += fetched
        share = _share(manifest, span, edges)
        images += share * fetched
        rows += share * int(manifest["rows"])
    width = seconds / _BINS
    return {
        "images": total,
        "seconds": round(seconds, 3),
        "images_per_second": round(total / seconds, 3),
        "bin_seconds": round(width, 3),
        "bins": [
            {"images_per_second": round(float(i / width), 2), "rows_per_second": round(float(r / width), 2)}
            for i, r in zip(images, rows, strict=True)
        ],
        "runs": [{"run": span.run, "start_s": round(span.before, 3)} for span in spans.values()],
    }


def _spans(run: Run, manifests: list[Mapping[str, Any]]) -> dict[int, Span]:
    """The invocations that committed images, by number, in order."""
    last: dict[int, float] = {}
    for manifest in manifests:
        last[manifest["run"]] = max(manifest["committed_at"], last.get(manifest["run"], 0.0))
    spans: dict[int, Span] = {}
    before = 0.0
    for record in run.records:
        number = int(record["run"])
        segments = [record["segments"][name] for name in _FETCHING if name in record["segments"]]
        if number not in last or not segments:
            continue
        start = min(started for started, _ in segments)
        # A killed run did not record when its segment ended.
        ends = [ended for _, ended in segments if ended is not None]
        end = max(ends) if len(ends) == len(segments) else last[number]
        if end > start:
            spans[number] = Span(number, start, end, before)
            before += end - start
    return spans


def _share(manifest: Mapping[str, Any], span: Span, edges: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """How a shard's work is spread over the bins: evenly over the seconds that its download took."""
    done = min(max(manifest["committed_at"], span.start), span.end)
    started = max(span.start, done - manifest["seconds"].get("download", 0.0))
    at = np.clip(edges, started - span.start + span.before, done - span.start + span.before)
    parts = np.diff(at)
    if parts.sum() > 0:
        return np.asarray(parts / parts.sum())
    share = np.zeros(len(edges) - 1)
    share[min(int(np.searchsorted(edges, at[0], "right")) - 1, len(share) - 1)] = 1.0
    return share
