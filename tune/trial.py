"""A trial as Ray Tune runs it: an actor that calls `training.train.train` and reports every evaluation to Tune.

A class and not a function, because Tune ends a function's thread without notice, and an abandoned training run keeps
its workers: here `cleanup` asks the run to stop, which saves a checkpoint, and waits until its workers are gone.
One actor runs many trials, one after another, since what it imports takes longer than it does.
"""

from __future__ import annotations

import os
import platform
import threading
from contextlib import suppress
from typing import Any

from ray import tune as ray_tune

from pairmill.errors import PairmillError, RunDirError
from pairmill.store import Store
from training import train as training
from training.worker import STOP_FILE as TRAINING_STOP_FILE
from tune.journal import STOP_FILE, Journal, Trial, evaluations
from tune.space import recipe_at

_POLL_S = 0.25

#: What the actor reserves of a core: it waits.
_ACTOR_CPUS = 0.001


class TrialRun(ray_tune.Trainable):  # type: ignore[misc]  # Ray has no types
    """One leg of one trial at a time.

    config: `trial` (its id), `until` (the step to end at, or None), `run_dir` of the sweep, `name`, `base` recipe,
    `folder`.
    """

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> ray_tune.PlacementGroupFactory:
        """What its actor reserves; the training workers that it starts reserve their own."""
        return ray_tune.PlacementGroupFactory([{"CPU": _ACTOR_CPUS}])

    def setup(self, config: dict[str, Any]) -> None:
        """Begin a trial, or resume it.  Raises RunDirError where the sweep's folder is not shared."""
        with suppress(FileNotFoundError):
            os.chdir(config["folder"])  # where relative paths of the recipe start
        self._store = Store(config["run_dir"])
        self._journal = Journal(self._store)
        trial = self._journal.recorded(config["trial"])
        if trial is None:  # the driver has written it
            raise RunDirError(
                "a sweep's run_dir must be a folder that all nodes see",
                value=f"{self._journal.folder(config['trial'])} is not there on {platform.node()}",
                fix="name a shared folder",
            )
        self._trial: Trial = trial
        self._reported = len(evaluations(self._journal.lines(self._trial.id)))
        self._thread = threading.Thread(target=self._run, args=(self._trial, config), daemon=True)
        if not self._stopping:
            self._thread.start()

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """The next trial in the same process."""
        self.cleanup()
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Wait for the next evaluation, or the end.  The journal records a failure: Tune must not retry."""
        while True:
            ended = not self._thread.is_alive()
            found = evaluations(self._journal.lines(self._trial.id))
            if len(found) > self._reported:
                self._reported += 1
                return found[self._reported - 1] | {"done": ended and self._reported == len(found)}
            if ended:
                return (found[-1] if found else {}) | {"done": True}
            if self._stopping:
                self._ask_to_stop()
            self._thread.join(_POLL_S)

    def cleanup(self) -> None:
        """End the trial's run, if it is still running: a checkpoint is saved and its workers are gone on return."""
        while self._thread.is_alive():
            # Again and again: a run that is just starting removes what an earlier one left.
            self._ask_to_stop()
            self._thread.join(1.0)

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
        """Nothing: the training run has its own checkpoints."""
        return {}

    def load_checkpoint(self, checkpoint: dict[str, Any] | None) -> None:
        """Nothing: the training run resumes from its own last checkpoint."""

    @property
    def _stopping(self) -> bool:
        return self._store.read_text(STOP_FILE) is not None

    def _ask_to_stop(self) -> None:
        trial = Store(self._journal.folder(self._trial.id))
        if trial.read_text(TRAINING_STOP_FILE) is None:
            trial.write_bytes(TRAINING_STOP_FILE, b"")

    def _run(self, trial: Trial, config: dict[str, Any]) -> None:
        try:
            names = {"run_dir": self._journal.folder(trial.id), "name": f"{config['name']}-{trial.id}"}
            recipe = recipe_at(config["base"], trial.point, trial.seed, **names)
            training.train(recipe, quiet=True, begin=trial.begin, until=config["until"] or trial.until)
        except PairmillError as error:
            self._journal.fail(trial.id, str(error))
        except BaseException as error:  # a bug of ours; the sweep continues
            self._journal.fail(trial.id, repr(error))
            raise
