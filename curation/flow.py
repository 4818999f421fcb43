"""The flow of a recipe: its stages in order, and what their declarations imply.

stages -> tables (columns, identity, upstream), reads of each segment, drop reasons, columns of the product
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import pyarrow as pa

from curation.decontamination.stage import Decontaminate
from curation.duplicates.stage import Deduplicate
from curation.own_stage import RESERVED_BEGINNINGS, RESERVED_ENDS, STREAMED, check_places, own_stage
from curation.pack import Pack
from curation.schema import DROPS
from curation.selections.late import late_selections, require_early
from curation.selections.stage import Select, rules_of, selecting
from curation.selections.steps import Rules
from curation.stage import SEGMENTS, Column, NamedStage, Segment, Stage
from curation.stage_order import active, in_order, readers_last
from curation.stages import SECTIONS, STAGES
from curation.table import PLAN, Table
from pairmill.config import digest
from pairmill.errors import RecipeError, UserError, nearest
from pairmill.layout import FILTER_TABLE, PAIRS, SELECTIONS
from pairmill.registry import NamedConfig, is_import_path, source_digest

S = TypeVar("S", bound=Stage)

#: What no column of a user's choice can be called: columns of tables and of steps between them, and words.
_TAKEN = frozenset(
    (*DROPS, "input", "shard", "row", "kind", "key", "keep", "reason", "weight", "duplicate_group", "group_id")
)
_WORDS = frozenset(("all", "true", "false", "null", "score"))

#: A name that the user gives to a stage of `SECTIONS`.
_GIVEN = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,31}")


class Flow:
    """The active stages of one recipe, in the order in which a row passes them."""

    def __init__(self, stages: Iterable[Stage], rules: Iterable[Rules] = ()) -> None:
        """stages: ours in the order of `STAGES`, those of `SECTIONS` by name, then a user's own in the recipe's order.

        rules: the selections of the recipe, each after those that it is made from.

        Raises RecipeError for two stages or two columns of one name, for a column that no stage before adds, and for a
        place in which a stage could not run.
        """
        self.stages = tuple(in_order(active(stages)))
        self._by_name: dict[str, Stage] = {}
        self.owners: dict[str, str] = {}  #: column -> the table that it is committed to
        self.columns: dict[str, Column] = {}  #: every column, in flow order
        for stage in self.stages:
            if stage.name in self._by_name:
                raise RecipeError(
                    "stages must have different names", value=f"two stages {stage.name}", fix="rename one of them"
                )
            self._by_name[stage.name] = stage
            stage.see(self.columns)
            if not stage.reads_input:
                self._check_reads(stage, self.columns)
            for column in stage.adds:
                if column.name in self.columns or column.name in DROPS:
                    raise RecipeError(
                        "every column must be added by one stage only",
                        value=f"{stage.name} adds {column.name}, which another stage adds",
                        fix="give the column another name",
                    )
                self.columns[column.name] = column
                self.owners[column.name] = stage.table_name
        self.rules = tuple(one.seeing(self.columns) for one in rules)
        written = [stage for stage in self.stages if stage.segment == "rewrite"]
        #: Column -> the stage that makes it for the rows of the product's selection alone.
        self.made_later = {column: stage.name for stage in written for column in stage.column_names()}
        #: The selections that read such columns, which are made after them.
        self.late = late_selections(self.rules, self.made_later)
        check_places(self.stages)
        for stage in self.stages:
            stage.inner = tuple(other for other in self.stages if other.within == stage.name)
            stage.others = {name: self.named(name) for name in stage.looks_at}

    def _check_reads(self, stage: Stage, known: Iterable[str]) -> None:
        for name in stage.reads:
            if name not in known and name not in DROPS:
                raise RecipeError(
                    f"the columns that stage {stage.name} reads must be added by stages before it",
                    value=name,
                    fix=f"perhaps you mean: {nearest(name, known)}; or set its `after`, or reads_input = True for a "
                    "column of the list",
                )

    def check(self, planned: pa.Schema) -> None:
        """Check every stage's configuration against the columns before it.  Raises RecipeError.

        planned: the schema of a plan shard, whose struct `input` holds the list's own columns.
        """
        types: dict[str, pa.DataType] = {f.name: f.type for f in planned if f.name != "input"}
        own = {f.name: f.type for f in planned.field("input").type} if "input" in planned.names else {}
        listed = {f"input.{name}": kind for name, kind in own.items()}
        for stage in self.stages:
            stage.check({**own, **types, **listed})
            if stage.segment == "global":
                for rules in self.rules:
                    if rules.name not in self.late:
                        rules.check({**own, **types, **listed})
            self._check_reads(stage, {**own, **types, **listed})
            types |= {column.name: column.type for column in stage.adds}
        compared = {
            one.given: [kind.name for kind in one.kinds] for one in self.stages if isinstance(one, Decontaminate)
        }
        for rules in self.rules:
            if rules.name in self.late:
                rules.check({**own, **types, **listed})
            if rules.config.decontaminate is not None:
                rules.config.decontaminate.check_kinds(compared, f"selections.{rules.name}.decontaminate")

    @property
    def order(self) -> tuple[str, ...]:
        """The names of the stages."""
        return tuple(self._by_name)

    @property
    def reasons(self) -> dict[str, tuple[str, ...]]:
        """Stage -> its drop reasons."""
        return {stage.name: stage.drops for stage in self.stages}

    def __contains__(self, name: str) -> bool:
        return name in self._by_name

    def named(self, name: str) -> Stage:
        """The stage of this name.  Raises KeyError if the recipe has none."""
        return self._by_name[name]

    def of(self, kind: type[S]) -> S:
        """The stage of this class.  Raises KeyError if the recipe has none."""
        found = self._by_name[kind.name]
        if not isinstance(found, kind):
            raise KeyError(kind.name)
        return found

    def with_rules(self, rules: Iterable[Rules]) -> Flow:
        """The same stages with other selections."""
        return Flow(self.stages, rules)

    @property
    def selecting(self) -> Deduplicate | Select:
        """The global step that says which rows go on to the product, and so the name of that selection."""
        return next(stage for stage in self.stages if isinstance(stage, Deduplicate | Select))

    def segment(self, name: Segment) -> tuple[Stage, ...]:
        """The stages of a segment."""
        return tuple(stage for stage in self.stages if stage.segment == name)

    def before(self, name: str) -> tuple[str, ...]:
        """The stages before one of them."""
        return self.order[: self.order.index(name)]

    def after(self, name: str) -> tuple[str, ...]:
        """The stages after one of them."""
        return self.order[self.order.index(name) + 1 :]

    @property
    def carried(self) -> dict[str, Column]:
        """The columns of the product that stages add, in flow order."""
        return {name: column for name, column in self.columns.items() if column.carried}

    # What is read

    def by_table(self, columns: Iterable[str]) -> dict[str, tuple[str, ...]]:
        """Table -> those of `columns` that it holds, tables in flow order; columns of the plan always exist."""
        wanted = set(columns)
        found: dict[str, list[str]] = {}
        for name, table in self.owners.items():
            if name in wanted and table not in (PLAN, PAIRS):
                found.setdefault(table, []).append(name)
        return {table: tuple(names) for table, names in found.items()}


class Tables:
    """The tables of a flow, in the order in which rows pass them, as the store keys them."""

    def __init__(
        self,
        flow: Flow,
        *,
        selection: str,
        beside: bool = False,
        keyed: bool = True,
        lenient: bool = False,
        identified: Mapping[str, Any] | None = None,
    ) -> None:
        """selection: its name.

        beside: the selection has its own narrow tables (`columns/filter-NAME`), so that the run's stay unchanged.
        keyed: whether shards get keys, for which models are looked up; reading needs no keys.
        lenient: a table whose key cannot be made, because a model or file is missing, gets one that no shard has.
        identified: the `identities` of stages that are known already.
        Raises UserError if a stage's model cannot be found, unless lenient.
        """
        self.flow, self.keyed, self._lenient = flow, keyed, lenient
        self.unkeyed: dict[str, UserError] = {}  #: table -> why its key cannot be made
        self.selection = f"{SELECTIONS}/{selection}"
        self._names: dict[str, str] = {}
        #: Stage -> plain data that decides what it makes, with its model's revision, for which files are read whole.
        self.identities: dict[str, Any] = dict(identified or {})
        #: Stage -> digest of its identity and of its model's revision.
        self.made_by: dict[str, str] = {}
        for stage in flow.stages:
            self._names.setdefault(stage.table_name, self._name(stage, selection, beside))
        self.all: tuple[Table, ...] = tuple(self._made())

    def _name(self, stage: Stage, selection: str, beside: bool) -> str:
        name = stage.table_name
        if name == SELECTIONS:
            return self.selection
        # A selection has other filters; what comes before them is shared.
        narrow = stage.segment in ("collect", "score") and name.startswith("columns/")
        narrow = narrow and (name == FILTER_TABLE or FILTER_TABLE in self._names)
        return f"{name}-{selection}" if beside and narrow else name

    def _made(self) -> Iterator[Table]:
        last_dropping: str | None = None
        counted: list[str] = []
        groups: dict[str, list[Stage]] = {}
        for stage in self.flow.stages:
            groups.setdefault(stage.table_name, []).append(stage)
        waiting: list[str] = []
        for name, stages in groups.items():
            if name == PLAN:  # the first table after it counts its drops
                waiting += [stage.name for stage in stages]
                continue
            if name == PAIRS:
                continue
            columns = [column for stage in stages for column in (*stage.adds, *stage.kept_beside)]
            drops = any(stage.drops for stage in stages)
            # Rows that are dropped before a model keep its result, so its table shows which those are.
            shows = (drops or any(stage.made_from for stage in stages)) and name != SELECTIONS
            reads = {read for stage in stages for read in (*stage.reads, *stage.optional)}
            upstream = [self._names[table] for table in self.flow.by_table(reads) if table != name]
            if last_dropping is not None and last_dropping not in upstream:
                upstream.append(last_dropping)
            upstream += [table for stage in stages for table in stage.counted]
            identity = self._identity(self._names[name], stages)
            self.made_by |= {stage.name: digest(one) for stage, one in zip(stages, identity or (), strict=False)}
            own = [*waiting, *(stage.name for stage in stages)]
            yield Table(
                self._names[name],
                (*(c.name for c in columns), *(DROPS if shows else ())),
                identity,
                # Everything else it reads was made from the plan.
                tuple(upstream) or (PLAN,),
                tuple(own),
                tuple(counted),
                frozenset(c.name for c in columns if c.volatile),
                drops=drops or shows,
                makers=tuple(stages),
                own=name if name != self._names[name] and name != SELECTIONS else "",
            )
            counted += own
            waiting = []
            if drops:
                last_dropping = self._names[name]

    def _identity(self, table: str, stages: Sequence[Stage]) -> Any:
        if not self.keyed:
            return []
        try:
            return [self._identified(stage) for stage in stages]
        except UserError as error:
            if not self._lenient:
                raise
            self.unkeyed[table] = error
            return None

    def _identified(self, stage: Stage) -> Any:
        if stage.name not in self.identities:
            found = [stage.identity(), stage.revision(), *_own_source(stage), *_version(stage)]
            self.identities[stage.name] = found
        return self.identities[stage.name]

    def through(self, flow: Flow, selection: str) -> Tables:
        """The tables where rows pass through another selection of the same recipe; what is keyed is not keyed again.

        flow: of the recipe with that selection.
        """
        return Tables(flow, selection=selection, keyed=self.keyed, identified=self.identities)

    def of(self, segment: Segment) -> tuple[Table, ...]:
        """The tables that a segment writes."""
        names = dict.fromkeys(self._names[s.table_name] for s in self.flow.segment(segment) if s.segment in STREAMED)
        return tuple(table for table in self.all if table.name in names)

    def counted(self, segment: Segment) -> dict[str, tuple[str, ...]]:
        """What a segment reads of tables that are made from the whole list first: table -> columns."""
        return {table: columns for s in self.flow.segment(segment) for table, columns in s.counted.items()}

    def before(self, segment: Segment) -> tuple[Table, ...]:
        """The tables that earlier segments write."""
        early = SEGMENTS[: SEGMENTS.index(segment)]
        names = {self._names[stage.table_name] for stage in self.flow.stages if stage.segment in early}
        return tuple(table for table in self.all if table.name in names)

    def selected(self, contents: Mapping[str, Mapping[int, str]]) -> Table:
        """The selection, keyed by the contents (table -> shard -> content) of every shard it reads."""
        made = self.named(self.selection)
        seen = digest([[content for _, content in sorted(contents[name].items())] for name in made.upstream])
        return replace(made, identity=[made.identity, seen], upstream=())

    def name_of(self, stage: Stage) -> str:
        """The table of a stage."""
        return self._names[stage.table_name]

    def named(self, name: str) -> Table:
        """The table of this name.  Raises KeyError if there is none."""
        for table in self.all:
            if table.name == name:
                return table
        raise KeyError(name)

    def select(self, columns: Iterable[str]) -> dict[str, tuple[str, ...]]:
        """Table -> those of `columns` that it holds, by the tables' names in the store."""
        return {self._names[table]: names for table, names in self.flow.by_table(columns).items()}

    def reads(self, columns: Iterable[str], segment: Segment) -> dict[str, tuple[str, ...]]:
        """What a segment loads: those columns, and the drops so far."""
        wanted = {name: list(columns) for name, columns in self.select(columns).items()}
        dropping = [t.name for t in self.before(segment) if t.drops]
        if self.selection in dropping:
            wanted.setdefault(self.selection, []).extend(("keep", "reason"))
            # It records which rows it drops, but not where the others were dropped.
            dropping.remove(self.selection)
        for table in (*dropping[-1:], *(t.name for t in self.of(segment) if t.drops)):
            wanted.setdefault(table, []).extend(DROPS)
        return {t.name: tuple(dict.fromkeys(wanted[t.name])) for t in self.all if t.name in wanted}


def flow_of(recipe: Mapping[str, Any], selection: str | None = None) -> Flow:
    """The flow of a recipe's sections: plain data, as recipe.yaml holds it, or configurations.

    selection: through which the rows pass, for a recipe's own selections and the deduplicate section's; None, or
    another one: that of the product.
    Raises RecipeError for a section that breaks a rule.
    """
    ours = [_configured(STAGES.get(name), recipe) for name in STAGES.names]
    chosen = readers_last([stage for name in SECTIONS.names for stage in _chosen(SECTIONS.get(name), recipe)])
    deduplicate = next(stage for stage in ours if isinstance(stage, Deduplicate))
    given = deduplicate.selection
    rules = rules_of(recipe, given)
    packed = next(stage for stage in ours if isinstance(stage, Pack)).config.selection or given
    if selection is not None and selection in (given, *(one.name for one in rules)):
        packed = selection
    if packed != given:
        select = selecting(rules, packed, "pack.selection", deduplicate)
        ours = [select if isinstance(stage, Deduplicate) else stage for stage in ours]
    own = [own_stage(given) for given in recipe.get("stages") or ()]
    last = [stage for stage in ours if stage.last_of_segment]
    flow = Flow([*(stage for stage in ours if stage not in last), *chosen, *last, *own], rules)
    if selection is None:
        require_early(flow.selecting.selection, rules, flow.made_later)
    return flow


def _configured(kind: type[Stage], recipe: Mapping[str, Any]) -> Stage:
    given = recipe.get(kind.section_name())
    if not isinstance(given, kind.Config):
        given = kind.Config.checked(given or {}, at=kind.section_name())
    return kind(given)


def _chosen(kind: type[NamedStage], recipe: Mapping[str, Any]) -> Iterator[NamedStage]:
    """The stages of a section of any number, in the order of their names."""
    section = kind.section_name()
    for name, given in sorted(section_of(recipe.get(section), section).items()):
        yield kind(kind.configured(given, at=f"{section}.{name}"), name)


def section_of(given: Any, section: str) -> Mapping[str, Any]:
    """A section that maps names to stages.  Raises RecipeError for another form, and for a name that no column has."""
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise RecipeError(
            f"{section} must be a mapping from names to their keys", value=given, fix=f"write {section}: {{NAME: …}}"
        )
    for name in given:
        if not (isinstance(name, str) and _GIVEN.fullmatch(name)):
            raise RecipeError(
                f"the names in {section} must be letters, digits and _, beginning with a letter: columns have them",
                value=name,
                fix="rename it, for example b32",
            )
        words = keyword.iskeyword(name) or name in _WORDS
        if words or name in _TAKEN or name.endswith(RESERVED_ENDS) or name.startswith(RESERVED_BEGINNINGS):
            raise RecipeError(
                f"the names in {section} must not be words that expressions or tables use",
                value=name,
                fix=f"rename it, for example my_{name}",
            )
    return given


def _own_source(stage: Stage) -> list[Any]:
    """The source and the form of the results of a stage that is not ours, whatever its `identity` says."""
    name = stage.config.name if isinstance(stage.config, NamedConfig) else ""
    if not is_import_path(name):
        return []
    return [source_digest(name), [[column.name, str(column.type)] for column in stage.adds], list(stage.drops)]


def _version(stage: Stage) -> list[int]:
    """The version of a stage that was corrected since its first one."""
    return [stage.version] if stage.version > 1 else []
