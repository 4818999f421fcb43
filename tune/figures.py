"""The geometry of the sweep report's figures: shapes in percent, so that a page of any width can draw them.

SVG's y grows downwards: a shape at `top` 0 is at the upper edge.  A dot is a stroke of no length with round ends, which
stays round however its figure is stretched.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, TypeVar

T = TypeVar("T")
Word = Callable[[float], str]

#: Where a smooth line between two uprights bends, as a share of the way.
_BEND = 0.45
#: Of the height of a figure of uprights, what the lane of keys that do not matter takes.
_LANE = 14.0
#: Lines through the same value are spread over this much of an upright, or over the room there is between two values.
_BAND = 9.0


class Axis(NamedTuple):
    """One side of a figure.  ticks: (percent from the low end, what is written there)."""

    low: float
    high: float
    log: bool
    ticks: list[tuple[float, str]]

    def at(self, value: float) -> float:
        """Percent of the way from the low end to the high end."""
        return 100 * _way(self.low, self.high, self.log, value)


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
    """What becomes a line: values over steps.  kind: `stopped` ends in a dot.  label: written at its end, if any."""

    points: Sequence[tuple[float, float]]
    kind: str
    title: str
    label: str


class Spot(NamedTuple):
    """What becomes a dot.  label: written above it, if any."""

    x: float
    y: float
    kind: str
    title: str
    label: str


class Dimension(NamedTuple):
    """One upright: percent from its lower end for each line, None where a line has no value there."""

    name: str
    note: str
    shares: list[float | None]
    rungs: list[tuple[float, str]]


class Upright(NamedTuple):
    """A drawn dimension.  rungs: (top, word)."""

    name: str
    note: str
    left: float
    rungs: list[tuple[float, str]]


class Parallel(NamedTuple):
    """Uprights side by side, from `top` 0 to `bottom`, and a line for each trial through all of them."""

    uprights: list[Upright]
    bottom: float
    marks: list[Mark]


# Axes


def axis(values: Iterable[float], word: Word, *, log: bool = False, zero: bool = False, snug: bool = False) -> Axis:
    """An axis that holds all values, which are at least one; on a linear one, round numbers are marked.

    log: logarithmic, if all values are positive.  zero: from 0 on, unless a value is below or all are far from it.
    snug: from the least value to the greatest; else a linear axis begins and ends at a mark.
    """
    numbers = list(values)
    low, high = min(numbers), max(numbers)
    log = log and low > 0
    if zero and 0 <= low < 0.4 * high:
        low = 0.0
    if high - low <= max(1e-9 * max(abs(low), abs(high)), 1e-100):
        low, high = (low / 2, high * 2) if log else (low - (abs(low) / 10 or 0.5), high + (abs(high) / 10 or 0.5))
    if log:
        marks = _log_marks(low, high)
    else:
        step = _step((high - low) / 5)
        if not snug:
            low, high = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        marks = [step * number for number in range(first, last + 1)]
    return Axis(low, high, log, [(100 * _way(low, high, log, mark), word(mark)) for mark in marks])


def _way(low: float, high: float, log: bool, value: float) -> float:
    if log:
        return (math.log(value) - math.log(low)) / (math.log(high) - math.log(low))
    return (value - low) / (high - low)


def _step(least: float) -> float:
    """The first of …, 1, 2, 2.5, 5, 10, … that is not below `least`."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(power * part for part in (1, 2, 2.5, 5, 10) if power * part >= least * (1 - 1e-9))


def _log_marks(low: float, high: float) -> list[float]:
    """Three to six round numbers within the range; its ends where it holds too few."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for parts in ((1,), (1, 3), (1, 2, 5)):
        marks = [part * 10.0**power for power in powers for part in parts]
        marks = [mark for mark in marks if low * (1 - 1e-9) <= mark <= high * (1 + 1e-9)]
        if len(marks) >= 3:
            return thinned(marks, 6)
    return [low, high]


def thinned(items: Sequence[T], most: int) -> list[T]:
    """At most `most` items, evenly chosen, with the first and the last."""
    if len(items) <= most:
        return list(items)
    return [items[round(n * (len(items) - 1) / (most - 1))] for n in range(most)]


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
    """A dot for each spot, in the order given; a label is left out where it would lie on that of a later spot."""
    marks: list[Mark] = []
    labels: list[Label] = []
    for spot in reversed(spots):
        left, top = _place(spot.x, spot.y, x, y)
        marks.insert(0, Mark(f"dot {spot.kind}", _dot(left, top), spot.title))
        if spot.label and not any(abs(left - label.left) < 9 and abs(top - label.top) < 7 for label in labels):
            labels.append(Label(left, top, spot.label, f"{spot.kind} above"))
    return Plot(x, y, marks, labels)


def stairs(corners: Iterable[tuple[float, float]], x: Axis, y: Axis, *, less_x: bool) -> str:
    """The edge of what the corners, none of which dominates another, leave behind.  less_x: a smaller x is better."""
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
    """The labels with at least `gap` percent of the height between any two, as near to their places as that allows."""
    ordered = sorted(labels, key=lambda label: label.top)
    tops: list[float] = []
    for label in ordered:
        tops.append(max(label.top, tops[-1] + gap) if tops else max(label.top, 0.0))
    limit = 100.0
    for number in range(len(tops) - 1, -1, -1):
        tops[number] = limit = min(tops[number], limit)
        limit -= gap
    return [label._replace(top=top) for label, top in zip(ordered, tops, strict=True)]


# Parallel coordinates


def numeric(name: str, note: str, values: Sequence[float | None], scale: Axis) -> Dimension:
    """A dimension of numbers."""
    shares = [None if value is None else scale.at(value) for value in values]
    return Dimension(name, note, shares, scale.ticks)


def categorical(name: str, values: Sequence[str | None], known: Sequence[str]) -> Dimension:
    """A dimension of words, the first of `known` on top.  Lines of one word lie side by side, in the order given."""
    known = list(dict.fromkeys([*known, *(value for value in values if value is not None)]))
    at = {word: 100 - 100 * (number + 0.5) / len(known) for number, word in enumerate(known)}
    members: Mapping[str, list[int]] = {word: [] for word in known}
    for line, value in enumerate(values):
        if value is not None:
            members[value].append(line)
    shares: list[float | None] = [None] * len(values)
    band = min(_BAND, 60 / len(known))
    for word, lines in members.items():
        for line, place in zip(lines, _spread(len(lines)), strict=True):
            shares[line] = at[word] + band * (place - 0.5)
    return Dimension(name, "", shares, [(share, word) for word, share in at.items()])


def _spread(lines: int) -> list[float]:
    """Places for so many lines in a band from 0 to 1."""
    return [(number + 0.5) / lines for number in range(lines)]


def parallel(dimensions: Sequence[Dimension], lines: Sequence[tuple[str, str]]) -> Parallel:
    """A line, of (kind, title), through its values in all dimensions.

    A line without a value passes below the upright, in a lane of its own; in the last dimension, it ends before.
    """
    inner, last = dimensions[:-1], dimensions[-1]
    bottom = 100 - _LANE if any(None in dimension.shares for dimension in inner) else 100.0
    lane = 100 - _LANE / 3
    uprights, columns = [], []
    for number, dimension in enumerate(dimensions):
        left = 100 * (number + 0.5) / len(dimensions)
        rungs = [((100 - share) * bottom / 100, word) for share, word in dimension.rungs]
        if dimension is not last and None in dimension.shares:
            rungs.append((lane, "–"))
        uprights.append(Upright(dimension.name, dimension.note, left, rungs))
        missing = [line for line, share in enumerate(dimension.shares) if share is None]
        passing = {line: lane + _LANE * (0.5 - at) / 2 for line, at in zip(missing, _spread(len(missing)), strict=True)}
        columns.append(
            [passing[n] if share is None else (100 - share) * bottom / 100 for n, share in enumerate(dimension.shares)]
        )
    lefts = [upright.left for upright in uprights]
    marks = []
    for number, (kind, title) in enumerate(lines):
        passed = columns if last.shares[number] is not None else columns[:-1]
        marks.append(Mark(f"line {kind}", _smooth(lefts, [column[number] for column in passed]), title))
    return Parallel(uprights, bottom, marks)


def _smooth(lefts: Sequence[float], tops: Sequence[float]) -> str:
    """A line through the places, level at each; `tops` may end early."""
    path = f"M{lefts[0]:.2f} {tops[0]:.2f}"
    for number in range(1, len(tops)):
        x, y, to, there = lefts[number - 1], tops[number - 1], lefts[number], tops[number]
        bend = _BEND * (to - x)
        path += f"C{x + bend:.2f} {y:.2f} {to - bend:.2f} {there:.2f} {to:.2f} {there:.2f}"
    return path
