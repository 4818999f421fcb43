"""The curation job, as the list of its stages.

    plan                                           -> plan/
    collect:  read, download, inspect, policy, filter -> images/, columns/policy/, columns/filter/
    score:    the stages that the recipe names     -> columns/<stage>/
    barrier:  deduplicate                          -> selections/<name>/
    select:   the selections that the recipe names -> selections/<name>/ of each
    rewrite:  recaption, translate, embed_texts, gate -> columns/<stage>/
    select:   those that read what is rewritten    -> selections/<name>/ of each
    pack                                           -> pairs/
    report                                         -> report.json, report.html

Every arrow ends in committed shards.  Running the job again does only what is not committed yet.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Sequence
from typing import Any

import ray

from curation import without_texts
from curation.download import Download
from curation.erase import finish_rewrites
from curation.filters.stage import Filter
from curation.flow import Tables
from curation.forget.takedown import complete_pending
from curation.forget.tombstones import Tombstones
from curation.healing import heal, set_records_aside
from curation.plan import open_plan, plan
from curation.plan_file import Plan, restore_plan
from curation.replan import plan_again
from curation.results.advice import advice
from curation.results.report import write_report
from curation.selections.steps import Rules
from curation.shards import listed, outstanding
from curation.table import PLAN
from pairmill.damage import DamagedError
from pairmill.errors import JobError, PairmillError
from pairmill.faults import fault_point
from pairmill.layout import kept_rows
from pairmill.origin import with_origin
from pairmill.pending import restore_forgotten
from pairmill.recipe_file import restore_recipe
from pairmill.store import Entry, Store, shard_file
from pairmill.worker_errors import died, first_cause, raised_by
from pipelines.actors import job_actors
from pipelines.consent import Acceptance, ConsentError, ask, fetch_again, refuse_to_fetch
from pipelines.invocations import Invocation, require_unchanged
from pipelines.pools import connected
from pipelines.progress import watched
from pipelines.recipe import CurateRecipe
from pipelines.segments import Job
from pipelines.selecting import require_curated
from pipelines.stages.compared_runs import check_other_runs

logger = logging.getLogger("pairmill")


def curate(
    recipe: CurateRecipe,
    *,
    command: str = "",
    quiet: bool = False,
    retry_failed: bool = False,
    planned: bool = False,
    yes: bool = False,
    other_code: bool = False,
    advise: bool = True,
) -> dict[str, Any]:
    """Run the job, or what is left of it, and return the report (`report.json`).

    quiet: plain lines instead of the live table, on a terminal too.
    retry_failed: first fetch again the rows that may succeed now (`Policy.retriable`).
    planned: the run is identified by its directory; its lists need not exist any more.
    yes: fetch and compute again what the recipe makes stale, however much it is.
    other_code: keep the rows that other code made of a table, and make the others by today's.
    advise: log what could be done next (`curation.results.advice`).
    Raises UserError for a wrong recipe or input, before any work, and for expensive work that would be repeated without
    `yes`, before that work; JobError when the job itself fails.
    """
    if not recipe.download.names_contact:
        logger.warning("download.user_agent names no contact: site owners cannot reach you and may block you")
    store, met = Store(recipe.run_dir), set[str]()
    report = None
    given: dict[str, Any] = {"command": command, "quiet": quiet, "yes": yes, "other_code": other_code}
    while report is None:
        try:
            _job(recipe, store, met, retry_failed=retry_failed, planned=planned, **given)
            retry_failed = False
            fault_point("report.write")
            report = write_report(store, selection=recipe.selection)
        except DamagedError as error:
            with store.locked():
                _heal(store, error, met, recipe, yes=yes)
    if advise:
        for line in advice(report):
            logger.info("%s", line)
    return report


def _job(
    recipe: CurateRecipe,
    store: Store,
    met: set[str],
    *,
    command: str,
    quiet: bool,
    retry_failed: bool,
    planned: bool,
    yes: bool,
    other_code: bool,
) -> None:
    """The job without its report.  met: as for `_healed`."""
    complete_pending(store)
    forgotten = Tombstones.read(store)
    made = open_plan(store, recipe.shards) if planned else plan(store, recipe.input, recipe.shards)
    tables = tables_of(recipe, made, store)
    with contextlib.suppress(DamagedError):  # the run's lock is needed to do something about it
        _may_begin(recipe, store, made, tables, yes=yes)
    acceptance = Acceptance(store, with_origin(recipe.to_yaml()))
    with (
        connected(recipe) as pools,
        Invocation(store, command) as journal,
        watched(made.rows, quiet=quiet) as board,
        job_actors() as actors,
    ):
        # Ray takes seconds to start, in which other processes may have worked here.
        require_unchanged(store, made, forgotten)
        restore_plan(store, made)
        restore_recipe(store)
        restore_forgotten(store)
        set_records_aside(store)
        finish_rewrites(store)  # before commits are listed
        retries = ["once"] if retry_failed else []

        def work() -> None:
            job = Job(
                *(recipe, store, made, tables, pools, board, journal, actors),
                yes=yes,
                committed=_may_begin(recipe, store, made, tables, yes=yes),
                accept=acceptance.accept,
                other_code=other_code,
            )
            if retries:
                job.retry_failed()
                retries.clear()
            job.collect()
            job.stream("score")
            job.deduplicate()
            job.select()
            job.stream("rewrite")
            job.select(late=True)
            job.pack()

        try:
            _healed(store, work, met, board, recipe, yes=yes)
        except ConsentError:
            acceptance.withdraw()
            raise


def _healed(
    store: Store, work: Callable[[], None], met: set[str], board: Any, recipe: CurateRecipe, *, yes: bool
) -> None:
    """Do the work, again after each damaged file that it meets and that can be made again.

    board: knows which own code is at work.  met: the damaged files so far; one that is damaged again is not made again.
    Raises JobError when the work fails, DamagedError for a file that only the user can restore.
    """
    while True:
        try:
            work()
        except ray.exceptions.RayError as error:
            cause = _cause(error, board)
            if not isinstance(cause, DamagedError):
                raise cause from error
            _heal(store, cause, met, recipe, yes=yes)
        except DamagedError as error:
            _heal(store, error, met, recipe, yes=yes)
        else:
            return


def _heal(store: Store, error: DamagedError, met: set[str], recipe: CurateRecipe, *, yes: bool) -> None:
    if error.path in met:
        raise error
    met.add(error.path)

    def replan(shard: int) -> bool:
        return plan_again(store, open_plan(store), recipe.input, recipe.shards, shard)

    logger.warning("%s", heal(store, error, yes=yes, replan=replan))


def _may_begin(
    recipe: CurateRecipe, store: Store, planned: Plan, tables: Tables, *, yes: bool
) -> dict[str, dict[int, Entry]]:
    """The committed shards of images/ and of what it is made from, if the job may fetch what is missing or stale.

    Raises ConsentError if that repeats more than it adds, RecipeError if the recipe must not fetch at all, RunDirError
    for a plan that is damaged.
    """
    images = tables.named(tables.name_of(tables.flow.of(Download)))
    committed = listed(store, [images.name, *images.upstream])
    missing = outstanding(store, [images], planned.shard_numbers(), images.upstream, committed)
    if recipe.download.enabled:
        ask(fetch_again(store, tables, planned, committed), yes=yes)
    else:
        refuse_to_fetch(store, len(missing))
    return committed


def select(recipe: CurateRecipe, *, command: str = "", quiet: bool = False) -> int:
    """Make the selection `deduplicate.name` of a curated run with another recipe; returns how many rows it keeps.

    The run's own tables and product stay as they are: the filters' columns go to a table of their own, and nothing is
    fetched, captioned or packed.  Raises what `curate` raises.
    """
    recipe = recipe.model_copy(update={"download": recipe.download.model_copy(update={"enabled": False})})
    store = Store(recipe.run_dir)
    complete_pending(store)
    forgotten = Tombstones.read(store)
    planned = open_plan(store, recipe.shards)
    tables = tables_of(recipe, planned, store, beside=True)
    with (
        connected(recipe) as pools,
        Invocation(store, command) as journal,
        watched(planned.rows, quiet=quiet) as board,
        job_actors() as actors,
    ):
        require_unchanged(store, planned, forgotten)
        finish_rewrites(store)

        def work() -> None:
            job = Job(recipe, store, planned, tables, pools, board, journal, actors, yes=True, other_code=True)
            job.collect()
            job.stream("score")
            job.deduplicate()

        _healed(store, work, set(), board, recipe, yes=False)
    return sum(kept_rows(manifest) for manifest in store.manifests(tables.selection))


def select_rules(recipe: CurateRecipe, rules: Sequence[Rules], *, command: str = "", quiet: bool = False) -> None:
    """Make selections of a curated run that are missing or stale.  rules: each after those that it is made from.

    Raises UserError for rules that do not fit the run, and for a run that is not curated so far.
    """
    store = Store(recipe.run_dir)
    complete_pending(store)
    forgotten = Tombstones.read(store)
    planned = open_plan(store, recipe.shards)
    flow = recipe.flow(recipe.deduplicate.name)
    whole = flow.with_rules(rules)
    whole.check(store.schema(shard_file(PLAN, planned.inputs[-1].first_shard)))
    rules = whole.rules
    check_other_runs(rules, store)
    tables = Tables(flow, selection=recipe.deduplicate.name, keyed=False)
    require_curated(store, tables, rules, planned.shard_numbers())
    with (
        connected(recipe) as pools,
        Invocation(store, command, beside=True) as journal,
        watched(planned.rows, quiet=quiet) as board,
        job_actors() as actors,
    ):
        require_unchanged(store, planned, forgotten)
        finish_rewrites(store)

        def work() -> None:
            job = Job(recipe, store, planned, tables, pools, board, journal, actors, yes=True, other_code=True)
            job.select_by(rules)

        _healed(store, work, set(), board, recipe, yes=False)


def tables_of(recipe: CurateRecipe, planned: Plan, store: Store, *, beside: bool = False) -> Tables:
    """The tables of a planned run, after checking its recipe against the columns of the plan.

    Raises UserError if a model cannot be found or a column does not exist.
    """
    flow = recipe.flow()
    # The shards of the last list have the columns of all lists.
    flow.check(store.schema(shard_file(PLAN, planned.inputs[-1].first_shard)))
    check_other_runs(flow.rules, store)
    for stage in flow.stages:
        stage.probe()
    if (warning := without_texts.warning(store, planned, flow.of(Filter).config)) is not None:
        logger.warning("%s", warning)
    return Tables(flow, selection=recipe.selection, beside=beside)


def _cause(error: BaseException, board: Any) -> PairmillError:
    """What a worker raised on purpose; else a JobError that says what failed, and which own code was at work."""
    if (raised := raised_by(error)) is not None:
        return raised
    own = ""
    if died(error):
        with contextlib.suppress(ray.exceptions.RayError, ray.exceptions.GetTimeoutError):
            own = "".join(
                f"\nIt was calling your own code: {name}" for name in ray.get(board.own_code.remote(), timeout=5)
            )
    return JobError(
        f"the job failed: {first_cause(error)}{own}\nWhat was committed stays; run the same command again to resume."
    )
