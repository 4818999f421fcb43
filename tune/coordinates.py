"""The geometry of parallel coordinates: an upright for each key, and a line for each trial through its values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from pairmill.axes import Axis
from pairmill.charts import Mark, bend

#: Where a smooth line between two uprights bends, as a share of the way.
_BEND = 0.45
#: Share of a figure's height, in percent, that the lane of keys that do not matter takes.
_LANE = 14.0
#: Lines through the same value are spread over this much of an upright, or over the room there is between two values.
_BAND = 9.0


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


def numeric(name: str, note: str, values: Sequence[float | None], scale: Axis) -> Dimension:
    """A dimension of numbers."""
    shares = [None if value is None else scale.at(value) for value in values]
    return Dimension(name, note, shares, scale.ticks)


def categorical(name: str, values: Sequence[str | None], known: Sequence[str]) -> Dimension:
    """A dimension of words, the first of `known` on top.  Lines of one word are side by side, in the order given."""
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
        path += bend(lefts[number - 1], tops[number - 1], lefts[number], tops[number], _BEND)
    return path
