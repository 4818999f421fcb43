"""Which trial comes next: a function of the recipe, the trial's number, and what became of earlier trials.

The same sweep with the same seed proposes the same trials, in whatever order they end: number n waits for those it
learns from, instead of taking whichever happen to be done.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.study import StudyDirection
from optuna.trial import TrialState, create_trial

from pairmill.config import digest
from training.recipe import TrainRecipe
from tune.journal import State, Trial
from tune.recipe import ObjectiveConfig, SweepRecipe
from tune.space import Parameter, Point, Space, draw_points, matters

#: Share of the population that copies, and that is copied (Jaderberg et al. 2017, truncation selection: 20 %; in a
#: population as small as sweeps of training allow a quarter is one member of four).
_QUARTER = 0.25

#: What a number is multiplied by when it is changed, and how often it is drawn anew instead (ibid.).
_FACTORS, _ANEW = (0.8, 1.2), 0.25

_DIRECTIONS = {"max": StudyDirection.MAXIMIZE, "min": StudyDirection.MINIMIZE}

#: Ends of the trials so far, by id.
States = Mapping[str, State]


class Proposals(Protocol):
    """Trials by number, 0 … total - 1."""

    total: int

    def propose(self, number: int, earlier: Sequence[Trial], states: States) -> Trial | None:
        """The trial of this number; None while trials that it depends on are running.

        earlier: the trials 0 … number - 1.  states: of those that are done.
        """


def proposals_of(recipe: SweepRecipe, *, concurrent: int) -> Proposals:
    """What the recipe's search proposes, with so many trials at a time."""
    if recipe.search.method == "tpe":
        return Tpe(recipe, lag=concurrent)
    if recipe.search.method == "pbt":
        return Pbt(recipe)
    return Listed(drawn_trials(recipe))


def drawn_trials(recipe: SweepRecipe) -> list[Trial]:
    """Every grid value, and drawn values of the other keys; their order is drawn too."""
    points = list(draw_points(recipe.space, recipe.base, samples=recipe.search.trials, seed=recipe.search.seed))
    order = np.random.default_rng(recipe.search.seed).permutation(len(points))
    return [Trial(f"{number:03d}", points[drawn]) for number, drawn in enumerate(order)]


def repeats_of(best: Sequence[Trial], recipe: SweepRecipe) -> list[Trial]:
    """The best trials again, with the seeds that follow the base recipe's."""
    first = TrainRecipe.checked(recipe.base).train.seed
    return [
        trial._replace(id=f"{trial.id}-seed{seed}", role="repeat", of=trial.id, seed=seed)
        for trial in best
        for seed in range(first + 1, first + 1 + recipe.repeat.seeds)
    ]


class Listed:
    """Trials that are known from the start."""

    def __init__(self, trials: Sequence[Trial]) -> None:
        self._trials = trials
        self.total = len(trials)

    def propose(self, number: int, earlier: Sequence[Trial], states: States) -> Trial | None:
        """See Proposals."""
        return self._trials[number]


class Tpe:
    """Optuna's TPE; number n learns from the trials up to n - lag, so that its proposal does not depend on timing."""

    def __init__(self, recipe: SweepRecipe, *, lag: int) -> None:
        self._space, self._base, self._objectives = recipe.space, recipe.base, recipe.objectives
        self._search, self._lag = recipe.search, lag
        self.total = recipe.search.trials

    def propose(self, number: int, earlier: Sequence[Trial], states: States) -> Trial | None:
        """See Proposals."""
        known = earlier[: max(0, number - self._lag + 1)]
        if any(trial.id not in states for trial in known):
            return None
        study = study_of(self._space, self._objectives, [(trial.point, states[trial.id]) for trial in known])
        study.sampler = optuna.samplers.TPESampler(
            seed=_seed(self._search.seed, number), n_startup_trials=self._search.random_first
        )
        asked = study.ask()
        point: Point = {}
        for key, parameter in self._space.items():
            if matters(parameter, point, self._base):
                point[key] = _suggested(asked, key, parameter)
        return Trial(f"{number:03d}", point)


class Pbt:
    """Population-based training by segments: trial g * population + m is member m's segment g.

    After each segment a member of the worst quarter continues from the checkpoint of one of the best quarter, with that
    one's values changed; every other member continues from its own (Jaderberg et al. 2017).
    """

    def __init__(self, recipe: SweepRecipe) -> None:
        self._recipe, self._space, self._base = recipe, recipe.space, recipe.base
        first = draw_points(self._space, self._base, samples=recipe.search.trials, seed=recipe.search.seed)
        self._first = list(first)[: recipe.search.trials]
        steps = TrainRecipe.checked(self._base).train.steps
        assert steps is not None and recipe.search.segment_steps is not None
        self._segment = recipe.search.segment_steps
        self.total = len(self._first) * (steps // self._segment)

    def propose(self, number: int, earlier: Sequence[Trial], states: States) -> Trial | None:
        """See Proposals."""
        members = len(self._first)
        generation, member = divmod(number, members)
        name, until = f"g{generation:02d}-m{member:02d}", (generation + 1) * self._segment
        if generation == 0:
            return Trial(name, self._first[member], until=until)
        before = earlier[(generation - 1) * members : generation * members]
        if any(trial.id not in states for trial in before):
            return None
        ranked = rank(before, states, self._recipe.objectives[0])
        if not ranked:
            return Trial(name, before[member].point, of=before[member].id, until=until)
        exchanged = max(1, int(_QUARTER * members))
        rng = np.random.default_rng((self._recipe.search.seed, generation, member))
        own = before[member]
        parent, point = own, own.point
        if own not in ranked or (own in ranked[-exchanged:] and len(ranked) > exchanged):
            parent = ranked[int(rng.integers(min(exchanged, len(ranked))))]
            point = _changed(self._space, self._base, parent.point, rng)
        return Trial(name, point, of=parent.id, begin=states[parent.id].checkpoint, until=until)


def rank(trials: Sequence[Trial], states: States, objective: ObjectiveConfig) -> list[Trial]:
    """The finished trials that have the objective's metric, best first; earlier numbers first where they are equal."""
    sign = -1 if objective.mode == "max" else 1
    done = [
        (sign * states[trial.id].metrics[objective.metric], number, trial)
        for number, trial in enumerate(trials)
        if states[trial.id].status == "finished" and objective.metric in states[trial.id].metrics
    ]
    return [trial for *_, trial in sorted(done, key=lambda entry: entry[:2])]


def study_of(space: Space, objectives: Sequence[ObjectiveConfig], known: Sequence[tuple[Point, State]]) -> optuna.Study:
    """An Optuna study (in memory) that holds these trials; failed ones and those without a metric as failed."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # it announces every study
    directions = [_DIRECTIONS[o.mode] for o in objectives]
    study = optuna.create_study(directions=directions)
    for point, state in known:
        distributions = {key: distribution_of(space[key]) for key in point}
        values = [state.metrics.get(o.metric, math.nan) for o in objectives]
        whole = state.status != "failed" and all(map(math.isfinite, values))
        study.add_trial(
            create_trial(
                params={key: _encoded(space[key], value) for key, value in point.items()},
                distributions=distributions,
                values=values if whole else None,
                state=TrialState.COMPLETE if whole else TrialState.FAIL,
            )
        )
    return study


def distribution_of(parameter: Parameter) -> BaseDistribution:
    """Optuna's form of a parameter; for a grid or a choice, the number of the value, which may be of any type."""
    if parameter.values is not None:
        return CategoricalDistribution(list(range(len(parameter.values))))
    assert parameter.limits is not None
    low, high = parameter.limits
    return FloatDistribution(
        low, high, log=parameter.loguniform is not None, step=parameter.quniform[2] if parameter.quniform else None
    )


def _suggested(asked: optuna.Trial, key: str, parameter: Parameter) -> Any:
    if parameter.values is not None:
        return parameter.values[int(asked.suggest_categorical(key, list(range(len(parameter.values)))))]
    assert parameter.limits is not None
    step = parameter.quniform[2] if parameter.quniform else None
    return asked.suggest_float(key, *parameter.limits, log=parameter.loguniform is not None, step=step)


def _encoded(parameter: Parameter, value: Any) -> Any:
    return parameter.values.index(value) if parameter.values is not None else value


def _changed(space: Space, base: Mapping[str, Any], point: Point, rng: np.random.Generator) -> Point:
    """A parent's point with every value that is a number moved, and now and then a value drawn anew."""
    changed: Point = {}
    for key, parameter in space.items():
        if not matters(parameter, changed, base):
            continue
        anew = key not in point or rng.random() < _ANEW
        if anew or parameter.limits is None:
            changed[key] = parameter.draw(float(rng.random())) if anew else point[key]
        else:
            low, high = parameter.limits
            moved = min(high, max(low, point[key] * _FACTORS[int(rng.integers(2))]))
            if parameter.quniform:
                step = parameter.quniform[2]
                moved = low + step * min(round((moved - low) / step), int((high - low) / step + 1e-9))
            changed[key] = float(moved)
    return changed


def _seed(seed: int, number: int) -> int:
    return int(digest([seed, number]), 16) % 2**32
