"""The segments of a curation job: which shards each works on, through which stages, into which tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import ray
from ray.data import ActorPoolStrategy, Dataset, from_items, read_datasource

from curation.code import CodeLog
from curation.common_texts import mark_common_texts
from curation.dataset_card import write_card
from curation.decontamination.stage import Decontaminate
from curation.download import Download
from curation.duplicates.stage import Deduplicate
from curation.embedding.stage import Embed
from curation.flow import Tables
from curation.healing import parts_of_another_size
from curation.pack import Pack, product_columns
from curation.parts import wanted_parts
from curation.plan import input_type
from curation.plan_file import Plan
from curation.policy import Policy
from curation.reuse import reads_for_reuse
from curation.selection import apply_selection
from curation.selections.selected_tables import over_all, selected_table
from curation.selections.stage import Select
from curation.selections.steps import Rules
from curation.shards import ShardSink, ShardSource, Work, ahead, listed, outstanding
from curation.stage import Segment, Stage
from curation.table import PLAN, Table
from curation.web.gate_client import gate_settings
from curation.web.host_gate import HostGate
from pairmill.faults import fault_point
from pairmill.layout import PAIRS
from pairmill.store import Entry, Store
from pipelines.actors import RESTARTS, Actors
from pipelines.consent import CountAgain, ask, model_again, refuse_to_fetch
from pipelines.invocations import Invocation
from pipelines.pools import Pools
from pipelines.recipe import CurateRecipe
from pipelines.stages.compared_runs import runs_to_compare
from pipelines.stages.deduplicate import Families, SelectStage, losers_over
from pipelines.stages.evaluation_sets import make_evaluation_sets
from pipelines.stages.pack import Packing, PackStage
from pipelines.stages.pictures import ErasingStage, ForRetry, RetryStage
from pipelines.stages.prepared import PrepareStage, freeing, seeing_alike
from pipelines.stages.reporting import name_run
from pipelines.stages.row_stage import ActorStage, RowStage, Setting, named
from pipelines.stages.select import SelectionOver

#: Of a short task: half a core, so that a small node has room for it beside the actors; and how often it is tried again
#: if its process ends.  Ray Data's own default is no limit.
_TASKS: Mapping[str, Any] = {"num_cpus": 0.5, "max_retries": RESTARTS}

#: A batch is a block is a shard.
_SHARDS: Mapping[str, Any] = {"batch_size": None, "batch_format": "pyarrow"}


class Job:
    """One invocation: what every segment needs, and the segments in order."""

    def __init__(
        self,
        recipe: CurateRecipe,
        store: Store,
        planned: Plan,
        tables: Tables,
        pools: Pools,
        board: Any,
        journal: Invocation,
        actors: Actors,
        *,
        yes: bool,
        committed: Mapping[str, Mapping[int, Entry]] | None = None,
        accept: Callable[[], None] = lambda: None,
        other_code: bool = False,
    ) -> None:
        """yes: expensive work may be repeated.  committed: listings of tables made just before, by name.

        accept: called before each piece of work that the recipe asks for, after what may refuse it.
        other_code: tables may have rows that were made by other code (`curation.code`).
        """
        self._code = CodeLog(store, accept=other_code)
        self.yes, self._listed, self._accept = yes, dict(committed or {}), accept
        self.recipe, self.store, self.planned, self.tables = recipe, store, planned, tables
        self.flow = tables.flow
        #: The tables of which the deduplicate section makes the selection, whatever the product is made from.
        self.plain = tables
        if isinstance(self.flow.selecting, Select):
            name = recipe.deduplicate.name
            self.plain = tables.through(recipe.flow(name), name)
        self.pools, self.board, self.journal, self.actors = pools, board, journal, actors
        self.input_type = input_type(store, planned.inputs[-1])
        name_run(store.uri)

    def retry_failed(self) -> None:
        """Fetch again the rows of committed shards that may succeed now."""
        stage, policy = self.flow.of(Download), self.flow.of(Policy)
        images = self.tables.named(self.tables.name_of(stage))
        manifests = self.store.manifests(images.name)
        plans = self._contents(PLAN)
        again = [
            Work(int(m["shard"]), {PLAN: plans[int(m["shard"])], images.name: m["content"]})
            for m in manifests
            if int(m["shard"]) in plans and policy.may_have_retriable(m)
        ]
        look = ForRetry(self.store, images, policy)
        self._listed = {}
        with self.journal.segment("retry-failed"):
            if again:
                self._code.begin(images.name, images.makers, there=True)
            for wave in _waves(again, self.recipe.cluster.wave_shards):
                self._may_fetch(len(wave))
                self._accept()
                rows = self._read("retry-failed", wave, {images.name: look.reads}, look)
                rows = self._staged(rows, stage, len(wave), RetryStage)
                self._write(rows, [images])

    def collect(self) -> None:
        """Fetch and inspect every missing row, and apply policy and filters to all."""
        if (most := self.recipe.filter.common_above) is not None:
            mark_common_texts(self.store, self.planned, most)
        self.stream("collect")

    def stream(self, segment: Segment) -> None:
        """Run the stages of a streaming segment over every shard that lacks one of their tables."""
        tables = self.tables.of(segment)
        if not tables:
            return
        given = [PLAN, *self.tables.counted(segment), *(table.name for table in self.tables.before(segment))]
        with self.journal.segment(segment):
            names = [*given, *(table.name for table in tables)]
            known, self._listed = self._listed, {}
            committed = {**known, **listed(self.store, [name for name in names if name not in known])}
            for at, table in enumerate(tables[:-1]):
                if any(stage.expensive for stage in table.makers):
                    continue
                work = outstanding(self.store, tables, self.planned.shard_numbers(), given, committed)
                ready = ahead(work, table, [committed[later.name] for later in tables[at + 1 :]])
                if ready:
                    self._note_code([table], work, committed)
                    self._run(segment, [table], ready)
                    committed = {**listed(self.store, committed)}
            work = outstanding(self.store, tables, self.planned.shard_numbers(), given, committed)
            self._ask(segment, tables, work, committed)
            self._note_code(tables, work, committed)
            self._run(segment, tables, work)

    def _note_code(
        self, tables: Sequence[Table], work: Sequence[Work], committed: Mapping[str, Mapping[int, Entry]]
    ) -> None:
        """Raise RunDirError if tables would mix rows of today's code with those of other code, without consent.

        work: every outstanding shard.  committed: the tables as they are.
        """
        for table in tables:
            missing = {one.shard for one in work if table.name not in one.fresh}
            if missing:
                there = committed[table.name].keys()
                kept = there if any(stage.expensive for stage in table.makers) else there - missing
                self._code.begin(table.name, table.makers, there=bool(kept))

    def _ask(
        self,
        segment: Segment,
        tables: Sequence[Table],
        work: Sequence[Work],
        committed: Mapping[str, Mapping[int, Entry]],
    ) -> None:
        """Raise ConsentError if models would repeat more work than they add.  committed: the tables as they are."""
        makers = {stage: table for table in tables for stage in table.makers if stage.made_from is not None}
        there = {
            table.name: {w.shard for w in work if table.name not in w.fresh} & committed[table.name].keys()
            for table in makers.values()
        }
        stale = [w for w in work if any(w.shard in shards for shards in there.values())]
        if self.yes or not stale:
            return
        reads, prepare = self._reads([name for stage in makers for name in reads_for_reuse(stage)], segment)
        counts: list[dict[str, Any]] = []
        for wave in _waves(stale, self.recipe.cluster.wave_shards):
            rows = self._read(f"{segment}: what is there", wave, reads, prepare, tables)
            counts += rows.map_batches(CountAgain(list(makers), self.tables, there), **_TASKS, **_SHARDS).take_all()
        dropping = [table for table in self.tables.before(segment) if table.drops]
        for stage, table in makers.items():
            shards = {shard: committed[table.name][shard] for shard in there[table.name]}
            found = model_again(self.store, self.tables, stage, counts, shards)
            none = [w.shard for w in work if w.shard not in committed[table.name]]
            if found.again > found.new and none and dropping:
                # Shards without results add what the stages before keep of them.
                last = dropping[-1]
                index = {shard: committed[last.name][shard] for shard in none}
                kept = [m["stages"][last.stages[-1]]["rows_kept"] for m in self.store.manifests(last.name, index)]
                found = found._replace(new=found.new + sum(kept))
            ask(found, yes=False)

    def _reads(self, names: Iterable[str], segment: Segment) -> tuple[dict[str, tuple[str, ...]], Any]:
        """What to load of the tables for these columns, and what turns it into the rows that a stage sees."""
        reads = self.tables.reads(names, segment) | self.tables.counted(segment)
        if self.tables.selection not in reads:
            return reads, None
        made_by = self.flow.selecting
        later = self.flow.after(made_by.name)
        return reads, partial(apply_selection, stage=made_by.name, reasons=made_by.drops, later=later)

    def _run(self, segment: Segment, tables: Sequence[Table], work: list[Work]) -> None:
        """Run the stages of some tables of a segment over outstanding shards, and sweep what killed writers left."""
        # What is committed everywhere needs nothing to be read for it: pictures, for new captions.
        names = {table.name for table in tables if any(table.name not in one.fresh for one in work)}
        stages = [s for s in self.flow.segment(segment) if self.tables.name_of(s) in names and not s.within]
        wanted = [name for s in stages for name in (*s.reads, *s.optional, *reads_for_reuse(s))]
        reads, prepare = self._reads(wanted, segment)
        if any(stage.pool == "fetch" for stage in stages):
            makes = {self.tables.name_of(stage) for stage in stages if stage.pool == "fetch"}
            self._may_fetch(sum(not makes <= one.fresh.keys() for one in work))
        sets = [s for s in stages if isinstance(s, Decontaminate)]
        missing = {self.tables.name_of(stage) for stage in sets}
        if any(not missing <= one.fresh.keys() for one in work):
            make_evaluation_sets(sets, self.store, self.pools, self.actors)
        for wave in _waves(work, self.recipe.cluster.wave_shards):
            self._accept()
            rows = self._read(segment, wave, reads, prepare, tables)
            working = [s for s in stages if any(self.tables.name_of(s) not in one.fresh for one in wave)]
            kinds: dict[str, type[RowStage]] = {Policy.name: ErasingStage}
            # Before the first of those that see the same pictures: what others paint over is found in between.
            prepared = {
                group[0].name: PrepareStage(group, self.tables)
                for group in seeing_alike([stage for stage in working if isinstance(stage, Embed)])
            }
            for prepare in prepared.values():
                kinds |= {name: freeing(spent) for name, spent in prepare.last_uses().items()}
            for stage in working:
                if stage.name in prepared:
                    rows = rows.map_batches(prepared[stage.name], **_TASKS, **_SHARDS)
                rows = self._staged(rows, stage, len(wave), kinds.get(stage.name))
            self._write(rows, tables)
        for table in tables:
            self.store.sweep(table.name)

    def _may_fetch(self, shards: int) -> None:
        if not self.recipe.download.enabled:
            refuse_to_fetch(self.store, shards)

    def _staged(self, rows: Dataset, stage: Stage, shards: int, kind: type[RowStage] | None = None) -> Dataset:
        """`rows` through a stage, in tasks or in actors, as it declares.  shards: their number."""
        gate = None
        if stage.pool == "fetch":
            options = self.actors.options("host gate")
            gate = ray.remote(HostGate).options(num_cpus=0, **options).remote(**gate_settings(stage.config))
        model_threads = self.pools.threads.get(stage.name)
        setting = Setting(self.store, self.board, self.tables, self.pools.decoders, gate, model_threads)
        pool = self.pools.of.get(stage.name)
        if pool is None:
            return rows.map_batches(named(stage, kind or RowStage)(stage, setting), **_TASKS, **_SHARDS)
        at_once = stage.shards_at_once
        # One shard more than is worked on, so that the last slow URLs of one do not leave the actor idle.
        threads = {"max_tasks_in_flight_per_actor": at_once + 1, "max_concurrent_calls_per_actor": at_once}
        return rows.map_batches(
            named(stage, kind or ActorStage),
            fn_constructor_args=(stage, setting),
            compute=ActorPoolStrategy(
                **pool.sizes(shards), **(threads | {"enable_true_multi_threading": True} if at_once > 1 else {})
            ),
            **pool.reserves(),
            ray_remote_args_fn=partial(self.actors.options, stage.name, isolates=stage.isolates),
            **_SHARDS,
        )

    def deduplicate(self) -> None:
        """The barrier: find the losers over the whole run, and write the selection."""
        plain = self.plain
        given = [table.name for table in plain.before("global")]
        contents = {name: self._contents(name) for name in given}
        selected, stage = plain.selected(contents), plain.flow.of(Deduplicate)
        with self.journal.segment("deduplicate"):
            families = None
            committed = listed(self.store, [*given, selected.name])
            work = outstanding(self.store, [selected], self.planned.shard_numbers(), given, committed)
            self._note_code([selected], work, committed)
            for wave in _waves(work, self.recipe.cluster.wave_shards):
                self._accept()
                families = families or self._families()
                rows = self._read("deduplicate", wave, plain.reads((), "global"))
                select_stage = SelectStage(families, stage, plain.flow.before(stage.name), self.board)
                rows = rows.map_batches(select_stage, **_TASKS, **_SHARDS)
                self._write(rows, [selected])
            self.store.sweep(selected.name)

    def select(self, *, late: bool = False) -> None:
        """Make the recipe's selections that are missing or stale.

        late: those that read what is made after the barrier (`curation.selections.late`); else the others.
        """
        chosen = [one for one in self.flow.rules if (one.name in self.flow.late) == late]
        self.select_by(chosen, "select-late" if late else "select")

    def select_by(self, rules: Sequence[Rules], segment: str = "select") -> None:
        """Make selections that are missing or stale.  rules: each after its bases.  segment: for the journal."""
        if not rules:
            return
        with self.journal.segment(segment):
            for one in rules:
                self._select(one)

    def _select(self, rules: Rules) -> None:
        made = selected_table(self.plain, rules)
        given = made.table.upstream
        committed = listed(self.store, [*given, made.table.name])
        contents = {name: {n: entry.content for n, entry in committed[name].items()} for name in given}
        others = runs_to_compare(rules, self.plain, made.reads)
        seen = {other.name: other.content for other in others}
        table = over_all(made.table, contents, seen) if rules.of_all else made.table
        work = outstanding(self.store, [table], self.planned.shard_numbers(), given, committed)
        self._note_code([table], work, committed)
        for other in others if work else ():
            other.check_made_alike(self.store)
        over = SelectionOver(self.store, made, rules, self.planned, self.input_type, others)
        for wave in _waves(work, self.recipe.cluster.wave_shards):
            self._accept()
            rows = self._read("select", wave, made.reads)
            shown = self.board if rules.name == self.recipe.selection else None
            rows = rows.map_batches(over.stage(shown), **_TASKS, **_SHARDS)
            self._write(rows, [table])
        self.store.sweep(table.name)

    def _contents(self, table: str) -> dict[int, str]:
        return {shard: entry.content for shard, entry in self.store.index(table).items()}

    def _narrow_reads(self) -> Mapping[str, Sequence[str]]:
        return self.plain.reads(self.plain.flow.of(Deduplicate).reads, "global")

    def _families(self) -> Families:
        """The families of duplicates of the whole run."""
        fault_point("barrier.deduplicate")
        shards, rows = self.planned.shard_numbers(), self.planned.rows
        return losers_over(self.store, shards, rows, self._narrow_reads(), self.plain.flow.of(Deduplicate).config)

    def pack(self) -> None:
        """Write the product from the committed tables."""
        self._accept()
        reads, prepare = self._reads(self.flow.of(Pack).columns_read(self.flow.carried), "pack")
        committed = self.store.index(PAIRS)
        if damages := parts_of_another_size(self.store, committed):
            raise damages[0]
        wanted = wanted_parts(self.store, self.tables, self.planned)
        parts = [
            {"number": part.number, "shards": list(part.shards), "key": part.key}
            for part in wanted
            if part.number not in committed or committed[part.number].key != part.key
        ]
        with self.journal.segment("pack"):
            for number in set(committed) - {part.number for part in wanted}:
                self.store.remove_shard(PAIRS, number)
            if parts:
                kept = len(parts) < len(wanted)
                self._code.begin(PAIRS, [self.flow.of(Pack)], there=kept)
                rows = from_items(parts, override_num_blocks=len(parts))
                rows.set_name("pack")
                columns = product_columns(self.flow.carried)
                packing = Packing(self.recipe.pack, self.recipe.image, columns, self.input_type)
                stage = PackStage(packing, self.store, reads, prepare, self.board)
                rows.map_batches(stage, max_retries=RESTARTS, **_SHARDS).materialize()
            self.store.sweep(PAIRS)
            write_card(self.store, self.recipe.model_dump(mode="json"), self.flow.carried)

    def _read(
        self,
        segment: str,
        work: Sequence[Work],
        columns: Mapping[str, Sequence[str]],
        prepare: Any = None,
        earlier: Sequence[Table] = (),
    ) -> Dataset:
        source = ShardSource(self.store, work, columns, prepare, self.input_type, earlier)
        rows = read_datasource(source, override_num_blocks=len(work), ray_remote_args=_TASKS)
        rows.set_name(segment)  # the name on the dashboard of it and of all made from it
        return rows

    def _write(self, rows: Dataset, tables: Sequence[Table]) -> None:
        rows.write_datasink(ShardSink(self.store, tables, self.journal.run), ray_remote_args=_TASKS)


def _waves(work: list[Work], size: int) -> Iterator[list[Work]]:
    for at in range(0, len(work), size):
        yield work[at : at + size]
