"""Scales of figures: where a value falls between two ends, in percent, and the round numbers marked there."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TypeVar

T = TypeVar("T")

#: How a value is written.
Word = Callable[[float], str]


class Axis(NamedTuple):
    """One side of a figure.  ticks: (percent from the low end, label)."""

    low: float
    high: float
    log: bool
    ticks: list[tuple[float, str]]

    def at(self, value: float) -> float:
        """Percent of the way from the low end to the high end."""
        return 100 * _way(self.low, self.high, self.log, value)


def axis(values: Iterable[float], word: Word, *, log: bool = False, zero: bool = False, snug: bool = False) -> Axis:
    """An axis that holds all values (at least one); a linear axis has its ticks at round numbers.

    log: logarithmic, if all values are positive.  zero: start at 0, unless a value is below it or all are far from it.
    snug: from the least value to the greatest; else a linear axis begins and ends at a tick.
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
        step = round_step((high - low) / 5)
        if not snug:
            low, high = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        marks = [step * number for number in range(first, last + 1)]
    return Axis(low, high, log, [(100 * _way(low, high, log, mark), word(mark)) for mark in marks])


def _way(low: float, high: float, log: bool, value: float) -> float:
    if log:
        return (math.log(value) - math.log(low)) / (math.log(high) - math.log(low))
    return (value - low) / (high - low)


def round_step(least: float) -> float:
    """The first of …, 1, 2, 2.5, 5, 10, … that is not below `least`, which is positive."""
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
