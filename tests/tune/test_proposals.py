"""Which trial comes next: without Ray, from made-up ends of trials."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from tests.tune.test_space import TRAIN
from tune.journal import State, Trial
from tune.proposals import Proposals, drawn_trials, proposals_of, rank, repeats_of
from tune.recipe import ObjectiveConfig, SweepRecipe

METRIC = "val/recall"


def recipe(space: Mapping[str, Any], **sections: Any) -> SweepRecipe:
    train = {**TRAIN, "temperature": {"learnable": False}}
    base = {"run_dir": "r", "train": train, "space": space, "objectives": [{"metric": METRIC}]}
    return SweepRecipe.checked({**base, **sections})


def done(value: float, checkpoint: str | None = None) -> State:
    return State("finished", {METRIC: value}, 40, checkpoint, None)


def play(proposals: Proposals, ends: Callable[[Trial], State], *, late: int = 1) -> list[Trial]:
    """Propose all trials where a trial ends only when `late` later ones are out, or when the proposals wait for it."""
    trials: list[Trial] = []
    states: dict[str, State] = {}
    while len(trials) < proposals.total:
        trial = proposals.propose(len(trials), trials, states)
        if trial is None or len(trials) - len(states) >= late:
            first = trials[len(states)]
            states[first.id] = ends(first)
        else:
            trials.append(trial)
    return trials


SPACE = {"optim.lr": {"loguniform": [1e-4, 1e-1]}, "loss.objective": {"grid": ["clip", "one_to_k"]}}


def quality(trial: Trial) -> State:
    return done(-abs(trial.point["optim.lr"] - 0.01) + (0.1 if trial.point["loss.objective"] == "one_to_k" else 0.0))


def test_drawn_trials_have_ids_in_an_order_that_the_seed_draws() -> None:
    trials, again, other = (drawn_trials(recipe(SPACE, search={"trials": 8, "seed": seed})) for seed in (0, 0, 1))
    assert trials == again
    assert [t.id for t in trials] == [f"{n:03d}" for n in range(16)]
    losses = [[t.point["loss.objective"] for t in of] for of in (trials, other)]
    assert losses[0] != losses[1]
    assert sorted(losses[0]) == sorted(losses[1]) == ["clip"] * 8 + ["one_to_k"] * 8


def test_repeats_are_the_same_points_with_the_seeds_that_follow() -> None:
    first = Trial("004", {"optim.lr": 0.1})
    found = repeats_of([first], recipe(SPACE, repeat={"seeds": 2}))
    assert [(t.id, t.of, t.seed, t.role, t.point) for t in found] == [
        ("004-seed1", "004", 1, "repeat", first.point),
        ("004-seed2", "004", 2, "repeat", first.point),
    ]


def test_rank_leaves_out_what_did_not_finish_and_keeps_the_order_of_equals() -> None:
    trials = [Trial(name, {}) for name in "abcd"]
    states = {"a": done(1), "b": done(2), "c": done(2), "d": State("stopped", {METRIC: 9}, 10, None, None)}
    assert [t.id for t in rank(trials, states, ObjectiveConfig(metric=METRIC))] == ["b", "c", "a"]
    assert [t.id for t in rank(trials, states, ObjectiveConfig(metric=METRIC, mode="min"))] == ["a", "b", "c"]


def test_tpe_proposes_the_same_trials_whenever_they_end() -> None:
    tpe = recipe(SPACE, search={"method": "tpe", "trials": 14, "random_first": 4})
    soon, late = (play(proposals_of(tpe, concurrent=3), quality, late=n) for n in (1, 3))
    assert soon == late


def test_tpe_finds_what_is_good() -> None:
    tpe = recipe(SPACE, search={"method": "tpe", "trials": 40, "random_first": 8})
    trials = play(proposals_of(tpe, concurrent=1), quality)
    # The last draws are near the best value and of the better loss far more often than chance (1 of 2, 1 of 3).
    last = trials[-15:]
    assert sum(t.point["loss.objective"] == "one_to_k" for t in last) >= 12
    assert sum(0.003 < t.point["optim.lr"] < 0.03 for t in last) >= 9


def test_tpe_takes_failed_trials_and_conditions() -> None:
    space = {
        "loss.objective": {"grid": ["clip", "siglip"]},
        "loss.objective.bias_init": {"uniform": [-12, -4], "when": {"loss.objective": "siglip"}},
    }
    tpe = recipe(space, search={"method": "tpe", "trials": 12, "random_first": 4})

    def fails(trial: Trial) -> State:
        return State("failed", {}, 0, None, "boom") if trial.point["loss.objective"] == "clip" else done(0.5)

    trials = play(proposals_of(tpe, concurrent=1), fails)
    assert all(("loss.objective.bias_init" in t.point) == (t.point["loss.objective"] == "siglip") for t in trials)


def members(trials: list[Trial], generation: int) -> list[Trial]:
    return [t for t in trials if t.id.startswith(f"g{generation:02d}")]


@pytest.fixture
def pbt() -> list[Trial]:
    wanted = recipe(
        {"temperature.init": {"loguniform": [0.02, 0.2]}, "optim.lr": {"loguniform": [1e-4, 1e-1]}},
        search={"method": "pbt", "trials": 4, "segment_steps": 10},
    )
    return play(proposals_of(wanted, concurrent=2), lambda t: done(t.point["optim.lr"], f"checkpoints/{t.id}"))


def test_pbt_goes_on_in_segments_from_checkpoints(pbt: list[Trial]) -> None:
    assert len(pbt) == 4 * 4
    assert all(t.begin is None and t.until == 10 for t in members(pbt, 0))
    for generation in (1, 2, 3):
        before = {t.id for t in members(pbt, generation - 1)}
        for trial in members(pbt, generation):
            assert trial.until == 10 * (generation + 1)
            assert trial.of in before and trial.begin == f"checkpoints/{trial.of}"


def test_pbt_lets_the_worst_member_go_on_from_the_best_with_other_values(pbt: list[Trial]) -> None:
    for generation in (1, 2, 3):
        before = sorted(members(pbt, generation - 1), key=lambda t: t.point["optim.lr"])
        follow = {t.id[-3:]: t for t in members(pbt, generation)}
        worst, best = before[0], before[-1]
        assert follow[worst.id[-3:]].of == best.id
        assert follow[worst.id[-3:]].point != best.point
        for other in before[1:]:
            assert follow[other.id[-3:]].of == other.id
            assert follow[other.id[-3:]].point == other.point


def test_pbt_stays_in_the_range(pbt: list[Trial]) -> None:
    assert all(0.02 <= t.point["temperature.init"] <= 0.2 and 1e-4 <= t.point["optim.lr"] <= 1e-1 for t in pbt)
