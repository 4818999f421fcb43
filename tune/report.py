"""The sweep's report: every trial, the ranking with its uncertainty, what matters, and the recipe that won.

reads: RUN/trials/
adds:  RUN/sweep.json, RUN/sweep.html, RUN/best-recipe.yaml
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from statistics import mean, stdev
from typing import Any

import optuna
import pyarrow.fs as pafs
from scipy import stats

from pairmill.layout import RECIPE_FILE
from training.recipe import TrainRecipe
from tune.journal import Journal, State, Trial, evaluations
from tune.page import render
from tune.proposals import rank, study_of
from tune.recipe import ObjectiveConfig, SweepRecipe
from tune.space import recipe_at

#: Two points whose means differ with less confidence than this are a tie.
CONFIDENCE = 0.95

#: Points of a loss curve in the report, at most.
_CURVE = 200


def write_report(recipe: SweepRecipe, journal: Journal, *, finished: bool, seconds: float) -> dict[str, Any]:
    """Write RUN/sweep.json, sweep.html and best-recipe.yaml; returns the first's data.

    seconds: of the wall clock, of this invocation.
    """
    report = build_report(recipe, journal, finished=finished, seconds=seconds)
    journal.store.write_json("sweep.json", report)
    journal.store.write_bytes("sweep.html", render(report).encode())
    if report["best"] is not None:
        best = next(t for t in report["trials"] if t["id"] == report["best"]["trial"])
        won = TrainRecipe.checked({**best["recipe"], "run_dir": f"{journal.store.uri}/best", "name": recipe.name})
        journal.store.write_bytes("best-recipe.yaml", won.to_yaml().encode())
    if finished and recipe.keep_checkpoints == "best":
        kept = {entry["trial"] for entry in report["ranking"][: max(1, recipe.repeat.best)]}
        _remove_checkpoints(recipe, journal, kept)
    return report


def build_report(recipe: SweepRecipe, journal: Journal, *, finished: bool, seconds: float) -> dict[str, Any]:
    """What became of a sweep, finished or not, as plain data (see docs/sweeps.md for its keys)."""
    trials = journal.trials()
    states = {trial.id: journal.state(trial.id) for trial in trials}
    searched = [trial for trial in trials if trial.role == "search"]
    base = TrainRecipe.checked(recipe.base)
    described = [_described(recipe, journal, trial, states[trial.id]) for trial in trials]
    if recipe.search.method == "pbt":
        last = max((t.until or 0 for t in searched), default=0)
        compared = [t for t in searched if t.until == last]
    else:
        compared = searched
    ranked = rank(compared, states, recipe.objectives[0])
    ranking = ranking_of(ranked, trials, states, recipe.objectives[0])
    best = None
    if ranking:
        first = ranking[0]
        tied = [entry["trial"] for entry in ranking[1:] if entry["tied_with_best"]]
        state = states[first["trial"]]
        best = {"trial": first["trial"], "tied_with": tied, "metrics": state.metrics, "checkpoint": state.checkpoint}
        best["segments"] = _segments(first["trial"], {trial.id: trial for trial in trials})
    done = [(t.point, states[t.id]) for t in compared if states[t.id].status in ("finished", "stopped")]
    return {
        "name": recipe.name,
        "run_dir": journal.store.uri,
        "seed": recipe.search.seed,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "finished": finished and all(state.final for state in states.values()),
        "search": recipe.search.model_dump(mode="json") | {"steps": base.train.steps},
        "objectives": [o.model_dump(mode="json") for o in recipe.objectives],
        "space": {key: p.model_dump(mode="json", exclude_none=True) for key, p in recipe.space.items()},
        "trials": described,
        "ranking": ranking,
        "pareto": pareto_of(recipe, searched, states) if len(recipe.objectives) > 1 else [],
        "importance": importance_of(recipe, done),
        "best": best,
        "steps_total": sum(t["steps"] - _begun(trial, states) for t, trial in zip(described, trials, strict=True)),
        "steps_full": sum(
            (t.until or base.train.steps or max(s["steps"] for s in described)) - _begun(t, states) for t in trials
        ),
        "seconds_total": round(seconds, 1),
    }


def _begun(trial: Trial, states: Mapping[str, State]) -> int:
    """The step of the checkpoint that a segment of pbt began from."""
    return states[trial.of].steps if trial.begin is not None and trial.of is not None else 0


def _segments(name: str, trials: Mapping[str, Trial]) -> list[dict[str, Any]]:
    """How a trial of pbt came to be: its own segment last, each begun from the checkpoint of the one before."""
    found: list[dict[str, Any]] = []
    trial: Trial | None = trials[name]
    while trial is not None:
        found.insert(0, {"trial": trial.id, "until": trial.until, "point": trial.point})
        trial = trials[trial.of] if trial.begin is not None and trial.of is not None else None
    return found


def _described(recipe: SweepRecipe, journal: Journal, trial: Trial, state: State) -> dict[str, Any]:
    lines = [line for line in journal.lines(trial.id) if line["step"] <= state.steps]
    losses = [[line["step"], line["loss"]] for line in lines if "loss" in line]
    every = max(1, math.ceil(len(losses) / _CURVE))
    speeds = [line["samples_per_second"] for line in lines if "samples_per_second" in line]
    resolved = journal.store.read_text(f"trials/{trial.id}/{RECIPE_FILE}")
    point = recipe_at(recipe.base, trial.point, trial.seed) if resolved is not None else None
    batch = point.data.batch_size if point else 0
    shown = ("step", *(objective.metric for objective in recipe.objectives))
    return {
        **{key: value for key, value in trial._asdict().items() if key not in ("begin", "until")},
        "seed": trial.seed if trial.seed is not None else recipe.base["train"]["seed"],
        "recipe": point.model_dump(mode="json") if point else None,
        "status": state.status,
        "metrics": state.metrics,
        "steps": state.steps,
        "seconds": round(sum(batch / speed for speed in speeds if speed), 1),
        "error": state.error,
        "curve": [{key: line[key] for key in shown if key in line} for line in evaluations(lines)],
        "losses": losses[::every],
    }


def ranking_of(
    ranked: Sequence[Trial], trials: Sequence[Trial], states: Mapping[str, State], objective: ObjectiveConfig
) -> list[dict[str, Any]]:
    """The points, best first: those that were repeated by their mean, then the others by their one run.

    low and high are the 95 % interval of the mean by Student's t.  A point is tied with the best one if Welch's test
    does not separate their means, or if either has a single run.
    """
    sign = -1 if objective.mode == "max" else 1
    values: dict[str, list[float]] = {t.id: [states[t.id].metrics[objective.metric]] for t in ranked}
    for trial in trials:
        state = states[trial.id]
        known = state.status == "finished" and objective.metric in state.metrics
        if trial.role == "repeat" and trial.of in values and known:
            values[trial.of].append(state.metrics[objective.metric])
    order = sorted(ranked, key=lambda t: (len(values[t.id]) == 1, sign * mean(values[t.id])))
    entries = []
    for trial in order:
        own, best = values[trial.id], values[order[0].id]
        low, high = interval(own)
        entry = {"trial": trial.id, "point": trial.point, "mean": mean(own), "low": low, "high": high}
        entries.append(entry | {"runs": len(own), "tied_with_best": trial is not order[0] and not apart(own, best)})
    return entries


def interval(values: Sequence[float]) -> tuple[float | None, float | None]:
    """The 95 % interval of the mean (Student's t, n - 1 degrees of freedom); None, None of a single value."""
    if len(values) < 2:
        return None, None
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1)) * stdev(values) / math.sqrt(len(values))
    return mean(values) - half, mean(values) + half


def apart(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether the means of two points differ beyond noise.

    Welch's test (1947) where both were repeated.  A single run is compared with the interval of the repeated one,
    widened to that of a single further run; two single runs say nothing about noise, so they are never apart.
    """
    if len(one) < 2 and len(other) < 2:
        return False
    if len(one) < 2 or len(other) < 2:
        (single,), many = (one, other) if len(one) < 2 else (other, one)
        half = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(many) - 1)) * stdev(many) * math.sqrt(1 + 1 / len(many))
        return abs(single - mean(many)) > half
    if stdev(one) == stdev(other) == 0:
        return mean(one) != mean(other)
    return float(stats.ttest_ind(one, other, equal_var=False).pvalue) < 1 - CONFIDENCE


def pareto_of(recipe: SweepRecipe, trials: Sequence[Trial], states: Mapping[str, State]) -> list[str]:
    """The finished trials that no other beats in all objectives."""
    whole = [
        t
        for t in trials
        if states[t.id].status == "finished" and all(o.metric in states[t.id].metrics for o in recipe.objectives)
    ]
    if not whole:
        return []
    study = study_of(recipe.space, recipe.objectives, [(t.point, states[t.id]) for t in whole])
    return sorted(whole[found.number].id for found in study.best_trials)


def importance_of(recipe: SweepRecipe, done: Sequence[tuple[Any, State]]) -> dict[str, float] | None:
    """The share of each key in what makes a trial good (PED-ANOVA, Watanabe et al. 2023); None if there are too few."""
    space, objective = recipe.space, recipe.objectives[0]
    known = [(point, state) for point, state in done if objective.metric in state.metrics and set(point) <= set(space)]
    if len(known) < 4 or len({state.metrics[objective.metric] for _, state in known}) < 2:
        return None
    study = study_of(space, [objective], known)
    try:
        found = optuna.importance.get_param_importances(
            study, evaluator=optuna.importance.PedAnovaImportanceEvaluator()
        )
    except (RuntimeError, ValueError):
        return None  # a key that never varies, or too few different values
    return {key: float(value) for key, value in found.items()}


def _remove_checkpoints(recipe: SweepRecipe, journal: Journal, kept: set[str]) -> None:
    for trial in journal.trials():
        if trial.id not in kept:
            folder = journal.store.path(f"trials/{trial.id}/{recipe.name}-{trial.id}")
            if journal.store.filesystem.get_file_info(folder).type == pafs.FileType.Directory:
                journal.store.filesystem.delete_dir(folder)
