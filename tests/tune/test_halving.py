"""Which trials continue: made-up trials of known worth, played by one or many at a time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tune.halving import Halving, Leg, Standing, rungs_of

RUNGS = [20, 80, 120]


def play(worth: list[float], places: int, finalists: int = 2, reduction: float = 4.0) -> tuple[dict[str, int], int]:
    """Steps of each trial and of all, where a trial's objective is its worth at every rung."""
    halving = Halving(RUNGS, reduction, finalists)
    standings: dict[str, Standing] = {}
    busy: list[Leg] = []
    given_out: set[Leg] = set()
    fresh = [f"{number:03d}" for number in range(len(worth))]
    while True:
        at_work = {leg.trial for leg in busy}
        if fresh:
            standings[fresh.pop(0)] = Standing([], 0)
        leg = (
            halving.broken_off(standings, at_work, given_out)
            or halving.promotion(standings, at_work, given_out)
            or halving.last_leg(standings, at_work, given_out)
        )
        if leg is not None:
            assert leg.trial not in at_work and leg not in given_out
            busy.append(leg)
            given_out.add(leg)
        if leg is None and not busy:
            break
        if leg is None or len(busy) == places:
            done = busy.pop(0)
            values = [*standings[done.trial].values, worth[int(done.trial)]]
            assert done.until == RUNGS[len(values) - 1]
            standings[done.trial] = Standing(values, done.until)
    return {trial: s.steps for trial, s in standings.items()}, sum(s.steps for s in standings.values())


def test_rungs_are_a_geometric_row_that_ends_with_the_last_step() -> None:
    assert rungs_of(20, 4, 120) == [20, 80, 120]
    assert rungs_of(10, 3, 90) == [10, 30, 90]
    assert rungs_of(8, 4, 6) == [6]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40, unique=True), st.integers(1, 8), st.integers(1, 3))
def test_everyone_gets_to_the_first_rung_and_the_best_to_the_end(
    worth: list[float], places: int, finalists: int
) -> None:
    steps, _ = play(worth, places, finalists)
    assert set(steps.values()) <= set(RUNGS) and len(steps) == len(worth)
    best = f"{worth.index(max(worth)):03d}"
    assert steps[best] == RUNGS[-1]
    assert sum(s == RUNGS[-1] for s in steps.values()) >= min(finalists, len(worth))


@pytest.mark.parametrize("places", [1, 2])
def test_the_grid_of_the_demo_costs_at_most_two_fifths(places: int) -> None:
    rising = [number / 12 for number in range(12)]  # the worst order: everybody is better than who came before
    for worth in (rising, rising[::-1], [(5 * number) % 12 / 12 for number in range(12)]):
        _, steps = play(worth, places)
        assert 12 * 20 + 3 * 60 + 2 * 40 <= steps <= 0.4 * 12 * 120


def test_who_was_on_its_way_goes_on_first() -> None:
    halving = Halving(RUNGS, 4, 1)
    standings = {"000": Standing([0.1], 27), "001": Standing([0.5], 20), "002": Standing([], 0)}
    assert halving.broken_off(standings) == Leg("000", 80)
    assert halving.broken_off(standings, busy={"000"}) == Leg("002", 20)
    assert halving.broken_off(standings, busy={"000"}, given={Leg("002", 20)}) is None
    assert halving.last_leg(standings, busy={"000"}) is None, "one is on its way to a rung before the last"


def test_a_trial_without_the_objective_goes_nowhere() -> None:
    standings = {f"{n}": Standing([0.1 if n else -float("inf")], 20) for n in range(4)}
    assert Halving(RUNGS, 4, 1).promotion(standings) == Leg("1", 80)
