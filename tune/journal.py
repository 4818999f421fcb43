"""What is known of a sweep's trials, on disk: none that was proposed is lost, none that is done runs again.

    RUN/trials/007/trial.json     what it is: point, seed, where it begins and ends          (written first)
    RUN/trials/007/…              its training run: recipe.yaml, metrics.jsonl, result.json, checkpoints, tensorboard/
    RUN/trials/007/stopped.json   it was left at a rung, because others were ahead
    RUN/trials/007/failed.json    it failed

Its status follows from which of these are there, so there is nothing to bring up to date after a kill.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any, NamedTuple

import pyarrow.fs as pafs

from pairmill.aside import keep_aside
from pairmill.damage import damaged
from pairmill.errors import UserError
from pairmill.store import Store
from training.intact import METRICS_FILE, read_result, whole_lines
from tune.halving import Standing
from tune.recipe import SPEED, ObjectiveConfig
from tune.space import Point

TRIAL_FILE, STOPPED_FILE, FAILED_FILE = "trial.json", "stopped.json", "failed.json"

#: While this file is in the sweep's run directory, its trials save a checkpoint and stop, and no other begins.
STOP_FILE = "stop"

#: Steps left out of a trial's speed: they hold start-up.
_WARM_UP = 2


class Trial(NamedTuple):
    """What a trial is."""

    id: str
    point: Point
    role: str = "search"  #: search, or repeat: another seed of a point
    of: str | None = None  #: the trial that a repeat repeats, or that a pbt segment continues
    seed: int | None = None  #: train.seed; None: the base recipe's
    begin: str | None = None  #: checkpoint to begin from; None: as the recipe says
    until: int | None = None  #: step to end at; None: the recipe's last


class State(NamedTuple):
    """What became of it so far."""

    status: str  #: unfinished, stopped, failed, finished
    metrics: dict[str, float]  #: of the latest evaluation, and samples_per_second
    steps: int
    checkpoint: str | None
    error: str | None

    @property
    def final(self) -> bool:
        """Whether it is over."""
        return self.status != "unfinished"


class Journal:
    """The trials of a sweep's run directory."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._final: dict[str, State] = {}

    def folder(self, trial: str) -> str:
        """The run directory of a trial."""
        return f"{self.store.uri}/trials/{trial}"

    def record(self, trial: Trial) -> None:
        """A trial is proposed."""
        begin = trial.begin and trial.begin.removeprefix(f"{self.store.uri}/")  # so that the sweep can be moved
        self.store.write_json(f"trials/{trial.id}/{TRIAL_FILE}", trial._replace(begin=begin)._asdict())

    def recorded(self, trial: str) -> Trial | None:
        """What was proposed under an id."""
        found = self.store.read_json(f"trials/{trial}/{TRIAL_FILE}")
        if found is None:
            return None
        known = Trial(**found)
        if known.begin is not None and known.begin.startswith("trials/"):
            known = known._replace(begin=f"{self.store.uri}/{known.begin}")
        return known

    def trials(self) -> list[Trial]:
        """All that were proposed, by id."""
        selector = pafs.FileSelector(self.store.path("trials"), allow_not_found=True)
        names = sorted(i.base_name for i in self.store.filesystem.get_file_info(selector))
        return [trial for name in names if (trial := self.recorded(name)) is not None]

    def heal(self) -> None:
        """Keep damaged files of trials aside: such a trial is proposed, or run, again.  The lock must be held."""
        for name in (
            f"trials/{t}/{f}" for t in self.store.folders("trials") for f in (TRIAL_FILE, STOPPED_FILE, FAILED_FILE)
        ):
            try:
                found = self.store.read_json(name)
                if found is not None and not isinstance(found, dict):
                    raise damaged(self.store.path(name), "it is not a trial's")
                if found is not None and name.endswith(TRIAL_FILE):
                    Trial(**found)
            except (UserError, TypeError) as error:
                keep_aside(self.store, name, error, "it is made again")

    def stop(self, trial: str, step: int) -> None:
        """A trial stays at a rung; one that is already final stays as it is."""
        if not self.state(trial).final:
            self.store.write_json(f"trials/{trial}/{STOPPED_FILE}", {"step": step})

    def fail(self, trial: str, error: str) -> None:
        """A trial failed."""
        self.store.write_json(f"trials/{trial}/{FAILED_FILE}", {"error": error})

    def state(self, trial: str) -> State:
        """What became of a trial so far."""
        if trial in self._final:
            return self._final[trial]
        state = self._read(trial)
        if state.final:
            self._final[trial] = state
        return state

    def standing(self, trial: str, rungs: Sequence[int], objective: ObjectiveConfig) -> Standing:
        """How far a trial got, and its objective at each rung that a leg ended at; -inf where it has none there.

        A leg that was killed between its evaluation and its checkpoint did not end: the line may still be removed.
        """
        sign, lines = 1 if objective.mode == "max" else -1, self.lines(trial)
        reached = {line["step"]: line.get(objective.metric) for line in evaluations(lines)}
        result = self._result(trial)
        ended = -1 if result is None else int(result["step"])
        if self.state(trial).status == "finished":
            ended = max(ended, *rungs)
            # It may have fewer steps than others, by its own recipe.
            last = evaluations(lines)[-1].get(objective.metric)
            reached = {rung: reached.get(rung, last) for rung in rungs}
        values: list[float] = []
        for rung in rungs:
            if rung not in reached or rung > ended:
                break
            value = reached[rung]
            values.append(-math.inf if value is None else sign * value)
        return Standing(values, int(lines[-1]["step"]) if lines else 0)

    def at_step(self, trial: str, step: int) -> State:
        """A trial's state at its evaluation at a step; its last state, if it failed or ended before that."""
        state, lines = self.state(trial), [line for line in self.lines(trial) if line["step"] <= step]
        evaluated = [line for line in evaluations(lines) if line["step"] == step]
        if state.status == "failed" or (state.final and not evaluated):
            return state
        return State("stopped", _metrics(lines, evaluated), step, None, None)

    def _read(self, trial: str) -> State:
        failed = self.store.read_json(f"trials/{trial}/{FAILED_FILE}")
        stopped = self.store.read_json(f"trials/{trial}/{STOPPED_FILE}")
        result = self._result(trial)
        lines = self.lines(trial)
        if stopped is not None:
            # It was compared at its last rung, not by what came after.
            lines = [line for line in lines if line["step"] <= stopped["step"]]
        metrics = _metrics(lines, evaluations(lines))
        known = self.recorded(trial)
        until = known.until if known is not None and known.until is not None else math.inf
        finished = result is not None and result["step"] >= min(until, result["steps"])
        status = "failed" if failed else "stopped" if stopped else "finished" if finished else "unfinished"
        steps = int(lines[-1]["step"]) if lines else 0
        return State(status, metrics, steps, (result or {}).get("checkpoint"), (failed or {}).get("error"))

    def lines(self, trial: str) -> list[dict[str, Any]]:
        """The lines of a trial's metrics that are whole; without NaN, which has no place in an order."""
        name = f"trials/{trial}/{METRICS_FILE}"
        text = self.store.read_bytes(name) if self.store.exists(name) else b""
        return [_line(line) for line in whole_lines(text)[0]]

    def _result(self, trial: str) -> dict[str, Any] | None:
        """A trial's result; None if it has none, or a damaged one, which its run writes again."""
        try:
            return read_result(Store(self.folder(trial)))
        except ValueError:
            return None


def _line(text: bytes) -> dict[str, Any]:
    found = json.loads(text, parse_constant=lambda _: None)  # NaN, Infinity, -Infinity
    return {name: value for name, value in found.items() if value is not None}


def _metrics(lines: Sequence[dict[str, Any]], evaluated: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The last evaluation's, and the speed up to there."""
    metrics = {name: value for name, value in evaluated[-1].items() if name != "step"} if evaluated else {}
    if (speed := samples_per_second(lines)) is not None:
        metrics[SPEED] = speed
    return metrics


def evaluations(lines: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The lines of a run's metrics that report an evaluation."""
    return [line for line in lines if "loss" not in line]


def samples_per_second(lines: Iterable[dict[str, Any]]) -> float | None:
    """The median over a run's steps without the first ones; None if it has no others."""
    speeds = [line[SPEED] for line in lines if SPEED in line][_WARM_UP:]
    return float(median(speeds)) if speeds else None
