"""The geometry of figures: SVG shapes in percent, so that a page of any width can draw them.

SVG's y grows downwards: a shape at `top` 0 is at the upper edge.  A dot is a stroke of zero length with round ends: it
stays round however the figure is stretched.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from pairmill.axes import Axis, Word, axis

#: The least number of columns of a chart, if it has as many bins.
_LEAST_COLUMNS = 8


class Mark(NamedTuple):
    """A path with its CSS classes, and what is shown under the pointer."""

    kind: str
    path: str
    title: str


class Label(NamedTuple):
    """A word beside a mark."""

    left: float
    top: float
    word: str
    kind: str


class Plot(NamedTuple):
    """Marks over two axes."""

    x: Axis
    y: Axis
    marks: list[Mark]
    labels: list[Label]


class Course(NamedTuple):
    """A line to draw: values over steps.  kind: `stopped` ends in a dot.  label: written at its end, if any."""

    points: Sequence[tuple[float, float]]
    kind: str
    title: str
    label: str


class Spot(NamedTuple):
    """A dot to draw.  label: written above it, if any."""

    x: float
    y: float
    kind: str
    title: str
    label: str


class Column(NamedTuple):
    """A column of a chart.  behind, front: heights of all rows and of the kept ones, in percent of the highest."""

    behind: float
    front: float
    title: str


class Columns(NamedTuple):
    """Columns side by side, and words under their edges: (percent of the width, word)."""

    columns: list[Column]
    ticks: list[tuple[float, str]]
    highest: float


# Lines and dots


def curves(courses: Sequence[Course], x_word: Word, y_word: Word, *, zero: bool = False) -> Plot | None:
    """A line for each course, in the order given, so the last is on top; None if no course has a point."""
    drawn = [course for course in courses if course.points]
    if not drawn:
        return None
    x = axis([0.0, *(at for course in drawn for at, _ in course.points)], x_word, snug=True)
    y = axis((value for course in drawn for _, value in course.points), y_word, zero=zero)
    marks, labels = [], []
    for course in drawn:
        marks.append(Mark(f"line {course.kind}", _line(course.points, x, y), course.title))
        left, top = _place(*course.points[-1], x, y)
        if "stopped" in course.kind.split() or len(course.points) == 1:
            marks.append(Mark(f"dot {course.kind}", _dot(left, top), course.title))
        if course.label:
            labels.append(Label(left, top, course.label, course.kind))
    return Plot(x, y, marks, _apart(labels, 6.5))


def scatter(spots: Sequence[Spot], x: Axis, y: Axis) -> Plot:
    """A dot for each spot, in the order given; a label that would cover that of a later spot is left out."""
    marks: list[Mark] = []
    labels: list[Label] = []
    for spot in reversed(spots):
        left, top = _place(spot.x, spot.y, x, y)
        marks.insert(0, Mark(f"dot {spot.kind}", _dot(left, top), spot.title))
        if spot.label and not any(abs(left - label.left) < 9 and abs(top - label.top) < 7 for label in labels):
            labels.append(Label(left, top, spot.label, f"{spot.kind} above"))
    return Plot(x, y, marks, labels)


def stairs(corners: Iterable[tuple[float, float]], x: Axis, y: Axis, *, less_x: bool) -> str:
    """The edge of the area that the corners dominate; none may dominate another.  less_x: a smaller x is better."""
    path = ""
    for corner in sorted(corners):
        left, top = (f"{number:.2f}" for number in _place(*corner, x, y))
        step = f"H{left}V{top}" if less_x else f"V{top}H{left}"
        path += step if path else f"M{left} {top}"
    return path


def _place(x_value: float, y_value: float, x: Axis, y: Axis) -> tuple[float, float]:
    return x.at(x_value), 100 - y.at(y_value)


def _line(points: Iterable[tuple[float, float]], x: Axis, y: Axis) -> str:
    places = (_place(*point, x, y) for point in points)
    return "M" + "L".join(f"{left:.2f} {top:.2f}" for left, top in places)


def _dot(left: float, top: float) -> str:
    return f"M{left:.2f} {top:.2f}h0"


def _apart(labels: Sequence[Label], gap: float) -> list[Label]:
    """The labels moved at least `gap` percent of the height apart, each as near to its own place as that allows."""
    ordered = sorted(labels, key=lambda label: label.top)
    tops: list[float] = []
    for label in ordered:
        tops.append(max(label.top, tops[-1] + gap) if tops else max(label.top, 0.0))
    limit = 100.0
    for number in range(len(tops) - 1, -1, -1):
        tops[number] = limit = min(tops[number], limit)
        limit -= gap
    return [label._replace(top=top) for label, top in zip(ordered, tops, strict=True)]


def bend(x: float, y: float, to: float, there: float, share: float, decimals: int = 2) -> str:
    """The rest of a path from (x, y), level at both ends.  share: of the way, where it bends; decimals: of y."""
    reach = share * (to - x)
    start, end = f"{y:.{decimals}f}", f"{there:.{decimals}f}"
    return f"C{x + reach:.2f} {start} {to - reach:.2f} {end} {to:.2f} {end}"


# Columns


def compared(edges: Sequence[float], everything: Sequence[int], kept: Sequence[int], word: Word) -> Columns | None:
    """The distribution of all rows with that of the kept ones in front of it; None if there are no rows.

    edges: of the bins, ascending.  everything, kept: rows in each bin, one bin more than there are edges: below the
    first, between each two, above the last.  word: how an edge is written.
    """
    filled = [at for at, n in enumerate(everything) if n]
    if not filled:
        return None
    # Room on both sides, so that a narrow distribution does not look like a wide one.
    room = max(1, (_LEAST_COLUMNS - (filled[-1] - filled[0] + 1) + 1) // 2)
    first, last = max(0, filled[0] - room), min(len(everything) - 1, filled[-1] + room)
    highest = max(everything)
    columns, ticks = [], []
    step = -(-(last - first + 1) // 5)
    for at in range(first, last + 1):
        low = word(edges[at - 1]) if at else ""
        high = word(edges[at]) if at < len(edges) else ""
        title = f"{low} – {high}: {everything[at]:,}"
        if kept is not everything:
            title += f", kept {kept[at]:,}"
        columns.append(Column(100 * everything[at] / highest, 100 * kept[at] / highest, title))
        if at and (at - first) % step == 0 and at > first:
            ticks.append((100 * (at - first) / (last - first + 1), low))
    return Columns(columns, ticks, highest)


def distribution(edges: Sequence[float], counts: Sequence[int], word: Word) -> Columns | None:
    """One distribution; None if it is empty."""
    return compared(edges, counts, counts, word)
