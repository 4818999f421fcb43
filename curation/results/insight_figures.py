"""The geometry of the figures of scores and of balance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pairmill.axes import Axis, axis, thinned
from pairmill.charts import Column, Columns


class Line(NamedTuple):
    """A threshold in a chart: percent of the width, the number of its rule, and what is shown under the pointer."""

    left: float
    number: int
    title: str


class ScoreChart(NamedTuple):
    """columns: all rows, and the kept ones in front.  lines: the thresholds.  rules: (number, threshold)."""

    columns: Columns
    lines: list[Line]
    rules: list[tuple[int, Mapping[str, Any]]]


class Curve(NamedTuple):
    """Two lines over logarithmic axes: SVG paths in percent."""

    x: Axis
    y: Axis
    before: str
    after: str


def number(value: float | None) -> str:
    """A score as people read it: four significant digits."""
    if value is None:
        return "–"
    if value and (abs(value) < 1e-4 or abs(value) >= 1e7):
        word = f"{value:.3g}"
    else:
        word = f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    return word.replace("-", "\N{MINUS SIGN}", 1) if value < 0 else word


def score_chart(score: Mapping[str, Any], thresholds: Sequence[Mapping[str, Any]]) -> ScoreChart:
    """The chart of a score.  thresholds: of the whole report, of which those of this score are drawn."""
    edges, everything, kept = list(score["edges"]), list(score["all"]), list(score["kept"])
    # What lies outside has a column only where there is something.
    first, last = (0 if everything[0] else 1), (len(edges) if everything[-1] else len(edges) - 1)
    width = last - first + 1
    highest = max(everything) or 1
    columns = []
    for at in range(first, last + 1):
        low = number(edges[at - 1]) if at else ""
        high = number(edges[at]) if at < len(edges) else ""
        words = f"{low} – {high}" if low and high else f"below {high}" if high else f"{low} or more"
        title = f"{words}: {everything[at]:,}, kept {kept[at]:,}"
        columns.append(Column(100 * everything[at] / highest, 100 * kept[at] / highest, title))

    def left(value: float) -> float:
        low, high = edges[0], edges[-1]
        way = (value - low) / (high - low) * (len(edges) - 1) + 1 - first
        return float(100 * min(max(way, 0.0), float(width)) / width)

    ticks = [(left(edge), number(edge)) for edge in thinned(edges, 6)]
    lines: list[Line] = []
    rules: list[tuple[int, Mapping[str, Any]]] = []
    for threshold in thresholds:
        if threshold["subject"] == score["name"]:
            rules.append((len(rules) + 1, threshold))
            for limit in threshold["limits"]:
                group = f" ({threshold['by']}: {limit['group']})" if threshold["by"] else ""
                title = f"{threshold['selection']}: {threshold['sign']} {number(limit['value'])}{group}"
                lines.append(Line(left(limit["value"]), len(rules), title))
    return ScoreChart(Columns(columns, ticks, highest), lines, rules)


def balance_curve(curve: Sequence[Mapping[str, int]]) -> Curve | None:
    """Captions that name an entry over the rank of the entry, before and after; None if it says nothing."""
    if len(curve) < 2 or curve[0]["before"] == curve[-1]["before"]:
        return None
    counts = [point[name] for point in curve for name in ("before", "after") if point[name]]
    x = axis([point["rank"] for point in curve], lambda value: f"{value:,.0f}", log=True)
    y = axis([1, *counts], lambda value: f"{value:,.0f}", log=True)

    def path(name: str) -> str:
        points = [f"{x.at(point['rank']):.2f} {100 - y.at(point[name]):.2f}" for point in curve if point[name]]
        return "M" + "L".join(points) if points else ""

    return Curve(x, y, path("before"), path("after"))
