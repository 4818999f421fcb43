"""The geometry of the report's own figures: the funnel, and the pace of fetching."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pairmill.charts import Column, Columns, bend

#: Width of a stage in the funnel, and where in it the band starts and stops narrowing.
_STAGE, _NARROWS, _NARROW = 100.0, 16.0, 84.0
_HALF = 48.0  # half the funnel's height, of 100 in all


class Funnel(NamedTuple):
    """SVG path data, in a view box of `width` by 100."""

    width: float
    kept: str
    dropped: list[str]
    pending: list[str]


def funnel(stages: Sequence[Mapping[str, Any]], rows_in: int) -> Funnel:
    """A band whose height is the number of rows; it narrows where rows are dropped or still waiting."""
    unit = _HALF / max(rows_in, 1)
    upper: list[str] = []
    lower: list[str] = []
    dropped, pending = [], []
    waiting = float(rows_in)
    for at, stage in enumerate(stages):
        left = at * _STAGE
        start, end, right = left + _NARROWS, left + _NARROW, left + _STAGE
        arrived, leaving = stage["rows_in"] * unit, stage["rows_kept"] * unit
        edges = ((left, waiting * unit), (start, arrived), (end, leaving), (right, leaving))
        upper.append(_edge(edges, -1, "M" if at == 0 else "L"))
        lower.insert(0, _edge(edges[::-1], +1, "L"))
        if stage["rows_kept"] < stage["rows_in"]:
            dropped += [_wedge(start, end, arrived, leaving, sign) for sign in (-1, +1)]
        if stage["rows_in"] < waiting:
            pending += [_wedge(left, start, waiting * unit, arrived, sign) for sign in (-1, +1)]
        waiting = stage["rows_kept"]
    return Funnel(len(stages) * _STAGE, " ".join([*upper, *lower, "Z"]), dropped, pending)


def _edge(points: Sequence[tuple[float, float]], sign: int, first: str) -> str:
    """One edge of the band through (x, half height), above (-1) or below (+1) its middle line."""
    (x, half), *rest = points
    path = [f"{first}{x:.2f} {50 + sign * half:.3f}"]
    for to, half_there in rest:
        path.append(_curve(x, half, to, half_there, sign))
        x, half = to, half_there
    return " ".join(path)


def _curve(x: float, half: float, to: float, half_there: float, sign: int) -> str:
    return bend(x, 50 + sign * half, to, 50 + sign * half_there, share=0.5, decimals=3)


def _wedge(x: float, to: float, half: float, half_there: float, sign: int) -> str:
    """The area between the band and its edge without narrowing."""
    y = 50 + sign * half
    return f"M{x:.2f} {y:.3f} {_curve(x, half, to, half_there, sign)} L{to:.2f} {y:.3f} Z"


def pace(throughput: Mapping[str, Any]) -> Columns | None:
    """Images per second over the time spent fetching, in front of rows per second; None if nothing was fetched."""
    bins = throughput["bins"]
    if not bins:
        return None
    highest = max(b["rows_per_second"] for b in bins) or 1.0
    columns = [
        Column(
            100 * b["rows_per_second"] / highest,
            100 * b["images_per_second"] / highest,
            f"{at * throughput['bin_seconds']:.1f} s: {b['images_per_second']:,.1f} images/s, "
            f"{b['rows_per_second']:,.1f} rows/s",
        )
        for at, b in enumerate(bins)
    ]
    seconds = throughput["seconds"]
    decimals = 1 if seconds < 10 else 0
    ticks = [(25.0 * at, _clock(seconds * at / 4, decimals)) for at in range(5)]
    return Columns(columns, ticks, highest)


def _clock(seconds: float, decimals: int) -> str:
    if seconds < 120:
        return f"{seconds:.{decimals}f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d} h" if minutes >= 60 else f"{minutes}:{rest:02d} min"
