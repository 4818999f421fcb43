"""Run a sweep: propose trials, train them side by side on Ray Tune, repeat the best ones, report.

    recipe -> proposals -> Tuner(TrialRun) -> RUN/trials/*/ -> repeats -> RUN/sweep.json, sweep.html, best-recipe.yaml

Running the same recipe again goes on: trials that are done are not run again, others from their last checkpoint.
"""

from __future__ import annotations

import logging
import os
import time
from typing import Any

import ray
import yaml
from ray import tune as ray_tune
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from curation.cluster import connected, stoppable
from curation.errors import JobError, PairmillError, RunDirError
from curation.faults import fault_point
from curation.store import Store
from training.recipe import TrainRecipe
from tune.check import check, trials_at_a_time
from tune.journal import STOP_FILE, Journal, Trial
from tune.progress import Progress
from tune.proposals import Listed, Proposals, proposals_of, rank, repeats_of
from tune.recipe import SweepRecipe
from tune.report import write_report
from tune.trial import TrialRun

logger = logging.getLogger("pairmill")

RECIPE_FILE = "recipe.yaml"

#: What a trial's actor reserves of a core.  It waits; the training workers it starts reserve their own.
_ACTOR_CPUS = 0.001


def sweep(recipe: SweepRecipe, *, quiet: bool = False) -> dict[str, Any]:
    """Run a sweep, or what is left of it; returns RUN/sweep.json: trials, ranking, best.

    Ctrl-C and SIGTERM save a checkpoint of every running trial first.  A trial that fails is recorded with its error
    and does not end the sweep.  Raises UserError before any work for a wrong recipe, space, data or run directory, and
    JobError if no trial finished.
    """
    store = Store(recipe.run_dir)
    _claim(store, recipe)
    check(recipe)
    began = time.time()
    compute = TrainRecipe.checked(recipe.base).compute

    def stopped() -> bool:
        return store.read_text(STOP_FILE) is not None

    with connected(compute.address, num_cpus=compute.num_cpus, dashboard=compute.dashboard):
        concurrent = trials_at_a_time(recipe, ray.cluster_resources())
        store.write_bytes(RECIPE_FILE, recipe.to_yaml().encode())
        store.remove(STOP_FILE)
        journal = Journal(store)
        with stoppable(lambda: store.write_bytes(STOP_FILE, b""), "saving the running trials"):
            proposals = proposals_of(recipe, concurrent=concurrent)
            _run(recipe, journal, proposals, _scheduler(recipe, journal), concurrent, quiet=quiet)
            if not stopped() and recipe.search.method != "pbt":
                searched = [trial for trial in journal.trials() if trial.role == "search"]
                states = {trial.id: journal.state(trial.id) for trial in searched}
                fault_point("tune.repeat")
                best = rank(searched, states, recipe.objectives[0])[: recipe.repeat.best]
                _run(recipe, journal, Listed(repeats_of(best, recipe)), FIFOScheduler(), concurrent, quiet=quiet)
    fault_point("tune.report")
    report = write_report(recipe, journal, finished=not stopped(), seconds=time.time() - began)
    if report["finished"] and report["best"] is None:
        first = next((t["error"] for t in report["trials"] if t["error"]), "none was proposed")
        raise JobError(f"no trial of the sweep finished; the first error: {first}")
    return report


def _claim(store: Store, recipe: SweepRecipe) -> None:
    """Raises RunDirError for a run directory that another sweep was begun in."""
    before = store.read_text(RECIPE_FILE)
    if before is None:
        return
    try:
        old, new = _identity(SweepRecipe.checked(yaml.safe_load(before))), _identity(recipe)
    except PairmillError:
        old, new = {}, {"the whole recipe: it is not one of a sweep": None}
    changed = [section for section in new if old.get(section) != new[section]]
    if changed:
        raise RunDirError(
            "a sweep keeps its recipe: a run_dir that was begun with another one is not gone on with",
            value=", ".join(changed),
            fix=f"give another run_dir, or the recipe of {store.path(RECIPE_FILE)}",
        )


def _identity(recipe: SweepRecipe) -> dict[str, Any]:
    """What decides which trials there are, what they learn and how they are ranked; not where and how they run."""
    base = TrainRecipe.checked(recipe.base)
    sections = recipe.identity()
    return {name: sections[name] for name in ("space", "selections", "search", "objectives", "repeat")} | {
        "train": {k: v for k, v in base.identity().items() if k not in ("run_dir", "name")},
        "train.evaluate": base.evaluate.identity(),
    }


def _run(
    recipe: SweepRecipe,
    journal: Journal,
    proposals: Proposals,
    scheduler: TrialScheduler,
    concurrent: int,
    *,
    quiet: bool,
) -> None:
    """Run the proposed trials that are not done yet."""
    if not _outstanding(journal, proposals):
        return  # Ray Tune waits for ever for a first trial
    searcher = _Searcher(recipe, journal, proposals, replay=isinstance(scheduler, AsyncHyperBandScheduler))
    os.environ.update(
        TUNE_DISABLE_AUTO_CALLBACK_LOGGERS="1",  # a trial's run tells its own metrics, in full
        TUNE_DISABLE_SIGINT_HANDLER="1",  # ours lets the trials save first
        TUNE_DISABLE_STRICT_METRIC_CHECKING="1",  # a trial that is stopped at its start has no metric
        RAY_CHDIR_TO_TRIAL_DIR="0",
        RAY_AIR_NEW_OUTPUT="0",
    )
    # It misses the files of the loggers that are turned off.
    logging.getLogger("ray.tune.analysis.experiment_analysis").setLevel(logging.ERROR)
    objective = recipe.objectives[0]
    tuner = ray_tune.Tuner(
        ray_tune.with_resources(TrialRun, {"CPU": _ACTOR_CPUS}),
        tune_config=ray_tune.TuneConfig(
            metric=objective.metric,
            mode=objective.mode,
            search_alg=searcher,
            scheduler=scheduler,
            num_samples=proposals.total,
            max_concurrent_trials=concurrent,
            reuse_actors=True,
            trial_name_creator=lambda trial: f"{recipe.name}-{trial.config['trial']}",
            trial_dirname_creator=lambda trial: str(trial.config["trial"]),
        ),
        run_config=ray_tune.RunConfig(
            name=f"{recipe.name}-{time.time_ns()}",
            storage_path=f"{journal.store.uri}/tune",
            callbacks=[Progress(journal, recipe, proposals.total, quiet=quiet)],
            # A trial whose actor or node was lost goes on from its own last checkpoint; one that failed does so again.
            failure_config=ray_tune.FailureConfig(max_failures=1),
            checkpoint_config=ray_tune.CheckpointConfig(checkpoint_at_end=False),
            verbose=0,
        ),
    )
    tuner.fit()


def _outstanding(journal: Journal, proposals: Proposals) -> bool:
    """Whether any proposed trial is not done yet."""
    earlier: list[Trial] = []
    while len(earlier) < proposals.total:
        states = {trial.id: journal.state(trial.id) for trial in earlier}
        trial = proposals.propose(len(earlier), earlier, states)
        known = None if trial is None else journal.recorded(trial.id)
        if known is None or not journal.state(known.id).final:
            return True
        earlier.append(known)
    return False


class _Searcher(Searcher):  # type: ignore[misc]  # Ray has no types
    """Hands Tune the proposals, in order, each recorded before it is begun."""

    def __init__(self, recipe: SweepRecipe, journal: Journal, proposals: Proposals, *, replay: bool) -> None:
        """replay: hand Tune also trials that are done, for a scheduler that compares others with them."""
        super().__init__(metric=recipe.objectives[0].metric, mode=recipe.objectives[0].mode)
        self._recipe, self._journal, self._proposals, self._replay = recipe, journal, proposals, replay
        self._base, self._folder = recipe.base, os.getcwd()
        self._proposed: list[Trial] = []

    def suggest(self, trial_id: str) -> Any:
        """The next trial; None if it has to wait for others; FINISHED behind the last."""
        while len(self._proposed) < self._proposals.total:
            if self._journal.store.read_text(STOP_FILE) is not None:
                return Searcher.FINISHED
            states = {t.id: s for t in self._proposed if (s := self._journal.state(t.id)).final}
            trial = self._proposals.propose(len(self._proposed), self._proposed, states)
            if trial is None:
                return None
            known = self._journal.recorded(trial.id)
            if known is None:
                fault_point("tune.propose")
                self._journal.record(trial)
                fault_point("tune.proposed")
            else:
                trial = known
            self._proposed.append(trial)
            state = self._journal.state(trial.id)
            if state.status == "failed" or (state.final and not self._replay):
                continue
            common = {"run_dir": self._journal.store.uri, "name": self._recipe.name, "folder": self._folder}
            return {"trial": trial.id, "base": self._base, **common}
        return Searcher.FINISHED

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        """Nothing: what became of a trial is read from its run."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the journal is on disk as it is."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing."""


class _Halving(AsyncHyperBandScheduler):  # type: ignore[misc]  # Ray has no types
    """Ray's ASHA; whom it stops is written down before the trial hears of it."""

    def __init__(self, journal: Journal, **options: Any) -> None:
        super().__init__(**options)
        self._journal = journal

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        decision = str(super().on_trial_result(tune_controller, trial, result))
        if decision != TrialScheduler.STOP or result["step"] >= self._max_t:
            # At the last step there is nothing left to stop.
            return str(TrialScheduler.CONTINUE)
        fault_point("tune.stop")
        self._journal.stop(trial.config["trial"], int(result["step"]))
        fault_point("tune.stopped")
        return decision


def _scheduler(recipe: SweepRecipe, journal: Journal) -> TrialScheduler:
    if recipe.search.scheduler == "none" or recipe.search.method == "pbt":
        return FIFOScheduler()
    base = TrainRecipe.checked(recipe.base)
    every = base.evaluate.every_steps
    assert every is not None, "SweepRecipe checks this"
    return _Halving(
        journal,
        time_attr="step",
        max_t=base.train.steps or 10**9,
        grace_period=recipe.search.grace_steps or every,
        reduction_factor=recipe.search.reduction,
        # One that has reached the end is finished, not stopped.
        stop_last_trials=False,
    )
