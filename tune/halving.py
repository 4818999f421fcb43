"""Asynchronous successive halving: which trials continue, and how far.

Every trial is trained to the first rung, a step at which trials are compared; of those that got there the best 1 of η
continue to the next rung, and so on to the last step (ASHA, Li et al. 2020).  No trial waits for a whole rung: a free
place goes to a trial that has not begun, else to the best that may continue.  (In Li et al. the latter comes first,
which reaches the end sooner and promotes more trials that turn out not to be among the best.)

Ray Tune's ASHA never pauses a trial: one continues unless it is behind earlier ones, so where few run at a time the
first ones run to the end for lack of a comparison: 77 % of all steps of the demo's grid of 12.  Here a trial waits at
its rung, with its checkpoint.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple


class Standing(NamedTuple):
    """How far a trial got."""

    values: Sequence[float]  #: the objective at each rung it got to; larger is better
    steps: int  #: it was trained for


class Leg(NamedTuple):
    """A trial that must train up to a step."""

    trial: str
    until: int


def rungs_of(first: int, reduction: float, last: int) -> list[int]:
    """Steps at which trials are compared: first, first·η, first·η², … and the last step."""
    rungs, at = [], float(first)
    while at < last:
        rungs.append(round(at))
        at *= reduction
    return [*rungs, last]


class Halving:
    """The rule.  It holds no state: which trials continue follows from how far each got, so a sweep can resume."""

    def __init__(self, rungs: Sequence[int], reduction: float, finalists: int) -> None:
        """rungs: increasing, the last is the last step.  finalists: least number of trials trained to the end."""
        self.rungs, self._reduction, self._finalists = list(rungs), reduction, finalists

    def broken_off(
        self, standings: Mapping[str, Standing], busy: Collection[str] = (), given: Collection[Leg] = ()
    ) -> Leg | None:
        """A trial that was begun, or was on its way to a rung, when the sweep was killed or asked to stop.

        standings: of all trials but failed ones.  busy: those at work.  given: legs handed out since the sweep was
        begun or resumed; none is given twice, even if it came to nothing.
        """
        for trial, standing in standings.items():
            leg, passed = self._leg(trial, standing), len(standing.values)
            on_its_way = standing.steps > self.rungs[passed - 1] if passed else True
            if on_its_way and trial not in busy and leg not in (None, *given):
                return leg
        return None

    def promotion(
        self, standings: Mapping[str, Standing], busy: Collection[str] = (), given: Collection[Leg] = ()
    ) -> Leg | None:
        """The best that may continue, the higher rung first; None if none may before others get further."""
        for passed in reversed(range(1, len(self.rungs))):
            there = _ranked({t: s for t, s in standings.items() if len(s.values) >= passed}, passed)
            for trial in there[: int(len(there) / self._reduction)]:
                leg = self._leg(trial, standings[trial])
                waits = len(standings[trial].values) == passed and trial not in busy
                if waits and leg not in (None, *given):
                    return leg
        return None

    def last_leg(
        self, standings: Mapping[str, Standing], busy: Collection[str] = (), given: Collection[Leg] = ()
    ) -> Leg | None:
        """With no trial left to begin and none that may continue: the best, as long as there are too few finalists.

        None also while others are on their way to a rung before the last one.
        """
        legs = {trial: self._leg(trial, standing) for trial, standing in standings.items()}
        if any(leg is not None and leg.until != self.rungs[-1] for trial, leg in legs.items() if trial in busy):
            return None
        if sum(leg is None or trial in busy for trial, leg in legs.items()) >= self._finalists:
            return None
        waiting = {t: s for t, s in standings.items() if s.values and t not in busy and legs[t] not in (None, *given)}
        furthest = max((len(s.values) for s in waiting.values()), default=0)
        best = _ranked({t: s for t, s in waiting.items() if len(s.values) == furthest}, furthest)
        return legs[best[0]] if best else None

    def _leg(self, trial: str, standing: Standing) -> Leg | None:
        """To the next rung; None for a trial that got to the last."""
        passed = len(standing.values)
        return Leg(trial, self.rungs[passed]) if passed < len(self.rungs) else None


def _ranked(standings: Mapping[str, Standing], passed: int) -> list[str]:
    """Best at the rung first; of equal ones the earlier."""
    return sorted(standings, key=lambda trial: (-standings[trial].values[passed - 1], trial))
