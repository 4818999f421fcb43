"""Run a sweep: propose trials, train them side by side on Ray Tune, repeat the best ones, report.

    recipe -> proposals -> Tuner(TrialRun) -> RUN/trials/*/ -> repeats -> RUN/sweep.json, sweep.html, best-recipe.yaml

Running the same recipe again resumes it: trials that are done do not run again, others resume from their last
checkpoint.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import ray
from ray import tune as ray_tune
from ray.tune.search import Searcher

from pairmill.aside import keep_aside
from pairmill.cluster import alive_nodes, connected
from pairmill.errors import JobError, PairmillError, RunDirError, UserError
from pairmill.faults import fault_point
from pairmill.layout import RECIPE_FILE
from pairmill.origin import with_origin
from pairmill.stopping import stoppable
from pairmill.store import Store
from pairmill.worker_errors import raised_by
from pairmill.yaml_text import read_mapping
from training.intact import changed_keys
from training.recipe import TrainRecipe
from tune.check import check, trials_at_a_time
from tune.halving import Halving, Leg, Standing, rungs_of
from tune.journal import STOP_FILE, Journal, State, Trial
from tune.progress import Progress, counted_by_status
from tune.proposals import Listed, Proposals, proposals_of, rank, repeats_of
from tune.recipe import SweepRecipe
from tune.report import write_report
from tune.space import recipe_at
from tune.trial import TrialRun

logger = logging.getLogger("pairmill")


def sweep(recipe: SweepRecipe, *, quiet: bool = False, first: Callable[[], object] = lambda: None) -> dict[str, Any]:
    """Run a sweep, or what is left of it; returns RUN/sweep.json: trials, ranking, best.

    quiet: plain lines on a terminal too, not the live table.
    first: what the trials need, made when the run directory is this sweep's alone.
    Ctrl-C and SIGTERM save a checkpoint of every running trial first.  A trial that fails is recorded with its error
    and does not end the sweep.  Raises UserError before any work for a wrong recipe, space, data or run directory, and
    JobError if no trial finished.
    """
    store = Store(recipe.run_dir)
    store.check_writable()
    claim(recipe)
    check(recipe)
    began = time.time()
    compute = TrainRecipe.checked(recipe.base).compute

    def stopped() -> bool:
        return store.read_text(STOP_FILE) is not None

    with ExitStack() as held:
        held.enter_context(store.locked())
        claim(recipe)  # another one may have ended meanwhile
        first()
        held.enter_context(connected(compute.address, num_cpus=compute.num_cpus, dashboard=compute.dashboard))
        concurrent = trials_at_a_time(recipe, ray.cluster_resources(), alive_nodes())
        journal = Journal(store)
        _heal(journal)
        store.write_bytes(RECIPE_FILE, with_origin(recipe.to_yaml()).encode())
        store.remove(STOP_FILE)
        with stoppable(lambda: store.write_bytes(STOP_FILE, b""), "saving the running trials"):
            proposals = proposals_of(recipe, concurrent=concurrent)
            halving = _halving(recipe)
            _run(recipe, journal, proposals, halving, concurrent, quiet=quiet)
            if halving is not None and not stopped():
                _leave_the_others(recipe, journal, halving)
                logger.info("the search is over: %s", counted_by_status(journal))
            if not stopped() and recipe.search.method != "pbt":
                searched = [trial for trial in journal.trials() if trial.role == "search"]
                states = {trial.id: journal.state(trial.id) for trial in searched}
                fault_point("tune.repeat")
                best = rank(searched, states, recipe.objectives[0])[: recipe.repeat.best]
                _run(recipe, journal, Listed(repeats_of(best, recipe)), None, concurrent, quiet=quiet)
        fault_point("tune.report")
        report = write_report(recipe, journal, finished=not stopped(), seconds=time.time() - began)
        if report["finished"] and report["best"] is None:
            cause = next((t["error"] for t in report["trials"] if t["error"]), "none was proposed")
            raise JobError(
                f"no trial of the sweep finished; the first error: {cause}\n"
                "fix: correct its cause and give a new run_dir"
            )
        return report


def claim(recipe: SweepRecipe, *, resume: bool = False) -> None:
    """Raises RunDirError if the run directory holds another sweep; with `resume`, also if it holds none."""
    store = Store(recipe.run_dir)
    before = store.read_bytes(RECIPE_FILE).decode(errors="replace") if store.exists(RECIPE_FILE) else None
    if before is None:
        if resume:
            raise RunDirError(
                "--resume must be given a run_dir that holds a sweep",
                value=store.uri,
                fix="leave --resume out to start one",
            )
        return
    try:
        old, new = _identity(SweepRecipe.checked(read_mapping(before, RECIPE_FILE))), _identity(recipe)
    except PairmillError:
        if _are_of(recipe, Journal(store)):
            return
        old, new = {}, {f"the whole recipe: {store.path(RECIPE_FILE)} is damaged, or not a sweep's": True}
    changed = [section for section in new if old.get(section) != new[section]]
    if changed:
        raise RunDirError(
            "run_dir must be new or hold a sweep of the same recipe",
            value=", ".join(changed),
            fix=f"give another run_dir, or the recipe of {store.path(RECIPE_FILE)}",
        )


def _heal(journal: Journal) -> None:
    """Keep a damaged recipe aside, which `claim` has let pass, and damaged files of trials."""
    store = journal.store
    try:
        SweepRecipe.checked(read_mapping(store.read_text(RECIPE_FILE) or "", RECIPE_FILE))
    except PairmillError as error:
        if store.exists(RECIPE_FILE):
            keep_aside(store, RECIPE_FILE, error, "it is written again")
    journal.heal()


def _are_of(recipe: SweepRecipe, journal: Journal) -> bool:
    """Whether a sweep's trials were made with this recipe, as the recipes of their runs say."""
    runs = [(trial, Store(journal.folder(trial.id))) for trial in journal.trials()]
    begun = [(trial, run) for trial, run in runs if run.exists(RECIPE_FILE)]
    for trial, run in begun:
        names = {"run_dir": run.uri, "name": f"{recipe.name}-{trial.id}"}
        if changed_keys(run, recipe_at(recipe.base, trial.point, trial.seed, **names)):
            return False
    return bool(begun)


def _identity(recipe: SweepRecipe) -> dict[str, Any]:
    """What decides which trials there are, what they learn and how they are ranked; not where and how they run."""
    base = TrainRecipe.checked(recipe.base)
    sections = recipe.identity()
    return {name: sections[name] for name in ("space", "selections", "search", "objectives", "repeat")} | {
        "train": {k: v for k, v in base.identity().items() if k not in ("run_dir", "name")},
        "train.evaluate": base.evaluate.identity(),
    }


def _halving(recipe: SweepRecipe) -> Halving | None:
    search, base = recipe.search, TrainRecipe.checked(recipe.base)
    if search.scheduler == "none" or search.method == "pbt":
        return None
    first = search.grace_steps or base.evaluate.every_steps
    assert first is not None and base.train.steps is not None
    rungs = rungs_of(first, search.reduction, base.train.steps)
    return Halving(rungs, search.reduction, finalists=max(1, recipe.repeat.best))


def _leave_the_others(recipe: SweepRecipe, journal: Journal, halving: Halving) -> None:
    """The search is over: trials that wait at a rung stay there."""
    for trial in journal.trials():
        passed = len(journal.standing(trial.id, halving.rungs, recipe.objectives[0]).values)
        if trial.role == "search" and passed:
            journal.stop(trial.id, halving.rungs[passed - 1])
            fault_point("tune.stopped")


def _run(
    recipe: SweepRecipe,
    journal: Journal,
    proposals: Proposals,
    halving: Halving | None,
    concurrent: int,
    *,
    quiet: bool,
) -> None:
    """Run the proposed trials that are not done yet."""
    searcher = _Searcher(recipe, journal, proposals, halving)
    if not searcher.has_work():
        return  # Ray Tune would wait for ever for a first trial
    os.environ.update(
        TUNE_DISABLE_AUTO_CALLBACK_LOGGERS="1",  # a trial's run reports its own metrics, in full
        TUNE_DISABLE_SIGINT_HANDLER="1",  # ours lets the trials save first
        TUNE_DISABLE_STRICT_METRIC_CHECKING="1",  # a trial that is stopped at its start has no metric
        RAY_CHDIR_TO_TRIAL_DIR="0",
        RAY_AIR_NEW_OUTPUT="0",
    )
    # It complains that the files of the disabled loggers are missing.
    logging.getLogger("ray.tune.analysis.experiment_analysis").setLevel(logging.ERROR)
    objective = recipe.objectives[0]
    tuner = ray_tune.Tuner(
        TrialRun,
        tune_config=ray_tune.TuneConfig(
            metric=objective.metric,
            mode=objective.mode,
            search_alg=searcher,
            num_samples=-1,  # until the searcher has no more
            max_concurrent_trials=concurrent,
            reuse_actors=True,
            trial_name_creator=_leg_name,
            trial_dirname_creator=_leg_name,
        ),
        run_config=ray_tune.RunConfig(
            name=f"{recipe.name}-{time.time_ns()}",
            storage_path=f"{journal.store.uri}/tune",
            callbacks=[Progress(journal, recipe, proposals.total, quiet=quiet)],
            # A trial whose actor or node was lost resumes from its own last checkpoint.
            failure_config=ray_tune.FailureConfig(max_failures=1),
            checkpoint_config=ray_tune.CheckpointConfig(checkpoint_at_end=False),
            verbose=0,
        ),
    )
    for error in tuner.fit().errors:
        # What a trial's training raises is in the journal; this is what kept a trial from its run.
        if isinstance(raised := raised_by(error), UserError):
            raise raised from error


def _leg_name(trial: Any) -> str:
    """What Ray's dashboard calls it: `sweep-demo-007`, or `sweep-demo-007-to-80` where it is trained to a rung."""
    config = trial.config
    return f"{config['name']}-{config['trial']}" + ("" if config["until"] is None else f"-to-{config['until']}")


class _Searcher(Searcher):  # type: ignore[misc]  # Ray has no types
    """Hands Tune the proposals, in order, each recorded before it is begun; with halving, one leg after another."""

    def __init__(self, recipe: SweepRecipe, journal: Journal, proposals: Proposals, halving: Halving | None) -> None:
        super().__init__(metric=recipe.objectives[0].metric, mode=recipe.objectives[0].mode)
        self._recipe, self._journal, self._proposals, self._halving = recipe, journal, proposals, halving
        self._common = {
            "run_dir": journal.store.uri,
            "name": recipe.name,
            "base": recipe.base,
            "folder": os.getcwd(),
        }
        self._proposed: list[Trial] = []
        self._given: set[Leg] = set()
        self._busy: dict[str, str] = {}  # trials by Tune's ids
        self._resting: dict[str, Standing | None] = {}  # as read, of trials that are not at work; None: out of the race
        self._first: Any = None

    def has_work(self) -> bool:
        """Whether there is anything to run."""
        self._first = self._next()
        return self._first is not Searcher.FINISHED

    def suggest(self, trial_id: str) -> Any:
        """The next leg of a trial; None if it has to wait for others; FINISHED after the last."""
        found, self._first = (self._next(), None) if self._first is None else (self._first, None)
        if isinstance(found, dict):
            self._busy[trial_id] = found["trial"]
        return found

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        """Another trial may continue; what became of this one is read from its run."""
        self._busy.pop(trial_id, None)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the journal is on disk as it is."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing."""

    def _next(self) -> Any:
        if self._journal.store.read_text(STOP_FILE) is not None:
            return Searcher.FINISHED
        while len(self._proposed) < self._proposals.total:
            trial = self._proposals.propose(len(self._proposed), self._proposed, self._ends())
            if trial is None:
                break
            known = self._journal.recorded(trial.id)
            if known is None:
                fault_point("tune.propose")
                self._journal.record(trial)
                fault_point("tune.proposed")
            self._proposed.append(known or trial)
            if self._journal.state(trial.id).final:
                continue
            leg = Leg(trial.id, 0) if self._halving is None else self._halved(self._halving.broken_off)
            if leg is not None:
                return self._handed_out(leg)
        if self._halving is not None:
            leg = self._halved(self._halving.promotion)
            if leg is None and len(self._proposed) == self._proposals.total:
                leg = self._halved(self._halving.last_leg)
            if leg is not None:
                fault_point("tune.promote")
                return self._handed_out(leg)
        return None if self._busy else Searcher.FINISHED

    def _halved(self, rule: Callable[..., Leg | None]) -> Leg | None:
        return rule(self._standings(), set(self._busy.values()), self._given)

    def _handed_out(self, leg: Leg) -> dict[str, Any]:
        self._given.add(leg)
        self._resting.pop(leg.trial, None)
        return {"trial": leg.trial, "until": leg.until or None, **self._common}

    def _standings(self) -> dict[str, Standing]:
        busy = set(self._busy.values())
        found: dict[str, Standing | None] = {}
        for trial in self._proposed:
            if trial.id in self._resting:
                found[trial.id] = self._resting[trial.id]
                continue
            found[trial.id] = self._standing(trial.id)
            if trial.id not in busy:
                self._resting[trial.id] = found[trial.id]
        return {trial: standing for trial, standing in found.items() if standing is not None}

    def _standing(self, trial: str) -> Standing | None:
        assert self._halving is not None
        if self._journal.state(trial).status in ("failed", "stopped"):
            return None
        return self._journal.standing(trial, self._halving.rungs, self._recipe.objectives[0])

    def _ends(self) -> dict[str, State]:
        """What is learnt from: with halving all are compared at the first rung, whichever continue and when."""
        if self._halving is None:
            return {t.id: s for t in self._proposed if (s := self._journal.state(t.id)).final}
        passed = {trial for trial, standing in self._standings().items() if standing.values}
        there = [t.id for t in self._proposed if t.id in passed or self._journal.state(t.id).final]
        return {trial: self._journal.at_step(trial, self._halving.rungs[0]) for trial in there}
