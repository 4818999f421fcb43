"""A stage: one declaration, from which everything else about it is derived.

    class Blur(Stage):
        '''Drop pairs whose picture is out of focus.'''

        name, segment = "blur", "score"
        reads = ("sharpness",)
        adds = (Column("blurry", pa.float32(), "0-1, the higher the blurrier", carried=True),)
        drops = ("too_blurry",)
        pool = "model"
        Config = BlurConfig

        def setup(self, runtime):
            self.model = load(self.config.model)

        def __call__(self, rows):
            ...
            return self.drop(rows, too_blurry=pc.greater(rows["blurry"], self.config.most))

Our stages are lines of `curation.stages.STAGES`.  The recipe names a user's own by its import path,
`stages: [mypackage.stage:Blur]`, and it works like ours.  Recipe section, table, staleness, what is read, pools and
their checks, drop reasons, the report's chain, columns of the product, the dataset card and docs/stages.md follow from
it (`curation.flow`).

A stage's module is imported wherever a recipe is read, so heavy packages (torch, aiohttp, scipy) must be imported in
`setup`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from curation.schema import drop, live
from pairmill.config import EXECUTION, Config, Placement
from pairmill.meters import Meter
from pairmill.own_code import LONGEST_S
from pairmill.registry import NamedConfig
from pairmill.store import Store

#: Where in a job a stage runs.  `collect`, `score` and `rewrite` stream over the shards; `global` comes between them.
Segment = Literal["plan", "collect", "score", "global", "rewrite", "pack"]
SEGMENTS: tuple[Segment, ...] = ("plan", "collect", "score", "global", "rewrite", "pack")

#: The placement of a streaming stage where its configuration leaves it open (`pipelines.pools`).
#: tasks: short tasks on half a core.  fetch: actors that each keep about two cores busy.  model: actors that hold a
#: model, on a share of a GPU where there is one.
Pool = Literal["tasks", "fetch", "model"]


class Column(NamedTuple):
    """A column that a stage adds to every row.

    carried:  it is part of the product, `pairs/`.
    volatile: it is not part of a shard's content, because it naturally differs between runs (how long a fetch took).
    """

    name: str
    type: pa.DataType
    description: str = ""
    carried: bool = False
    volatile: bool = False


class StageConfig(NamedConfig, Placement):
    """Base of the configuration of a user's own stage: its name (import path), and its placement."""

    name: str = Field("", description="import path of the stage, package.module:attribute")
    on_error: Literal["fail", "drop"] = Field(
        "fail",
        description="what becomes of a row that the stage raises for: fail ends the job and names stage and row; drop "
        "drops it as `failed`",
    )
    timeout_s: float = Field(
        3600.0,
        gt=0,
        le=LONGEST_S,
        description="seconds that the stage may take for a shard",
        json_schema_extra=EXECUTION,
    )


@dataclass(frozen=True)
class Runtime:
    """What a worker gives to its stages at set-up.

    threads: of torch, for a model on a CPU; None: as torch chooses.
    decoders: decoder processes of each fetching actor.  exchange: calls the gate that all fetching actors share; None
    for a single worker.  warn: shows the operator a warning; '' withdraws it.
    job: that the worker is part of, by a name that no other job has; None: of none.
    """

    store: Store | None = None
    meter: Meter | None = None
    decoders: int = 1
    exchange: Callable[..., Any] | None = None
    warn: Callable[[str], None] | None = None
    threads: int | None = None
    job: str | None = None


class Stage:
    """Base of every stage.  An instance is the declaration under one configuration, and is cheap until `setup`.

    `reads`, `counted`, `adds` and `libraries` may depend on the configuration; then a stage's `__init__` sets them.
    """

    #: Its name in the report, metrics, manifests and the recipe; unique in a recipe.
    name: str
    segment: ClassVar[Segment]
    #: Its section of the recipe; default: `name`.
    section: ClassVar[str] = ""
    #: Default: `columns/NAME`.  Consecutive stages may share a table.
    table: str = ""
    #: The stage that it follows; default: the last of its segment.
    after: ClassVar[str] = ""
    #: Whether it follows the stages of `SECTIONS` of its segment too; ours otherwise come before them.
    last_of_segment: ClassVar[bool] = False
    #: The earlier stage whose call does its work and whose table it shares.
    within: ClassVar[str] = ""
    Config: ClassVar[type[Config]] = StageConfig
    #: None: the stage has no workers of its own (`within`, or a global step).
    pool: Pool | None = "tasks"
    #: Whether it finds the row that its process dies of, and leaves it out.
    isolates: ClassVar[bool] = False
    #: Shards that one actor works on at a time.
    shards_at_once: ClassVar[int] = 1
    #: Stages before it whose configuration it needs; the flow puts them into `others`.
    looks_at: ClassVar[tuple[str, ...]] = ()
    #: Stages of which one at least must be in the recipe for it to be there too; none: it does not depend on others.
    only_with: ClassVar[tuple[str, ...]] = ()
    #: What decides a row's result, if that is less than what it reads; `image` stands for what a picture follows from.
    decided_by: ClassVar[tuple[str, ...] | None] = None
    #: Whether `reads` may also name columns of the input list (NAME, or input.NAME), which only `check` can know.
    reads_input: bool = False
    #: Raised when the code is corrected so that what earlier versions made must be made again; it is part of the key.
    version: ClassVar[int] = 1
    drops: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    #: Columns that it reads if an earlier stage adds them.
    optional: tuple[str, ...] = ()
    adds: tuple[Column, ...] = ()
    #: What it reads of tables that the job makes from the whole list before the first segment: table -> columns.
    counted: Mapping[str, tuple[str, ...]] = {}
    #: Distributions whose release may change its values, beside those of its engines; of a stage that is not ours,
    #: without any: all that its module imports (`curation.code`).
    libraries: tuple[str, ...] = ()

    def __init__(self, config: Any) -> None:
        """config: an instance of `Config`.  Raises UserError for one that cannot work in this environment."""
        self.config = config
        #: The stages of the flow that are `within` this one.
        self.inner: tuple[Stage, ...] = ()
        #: The stages of the flow that `looks_at` names.
        self.others: Mapping[str, Stage] = {}

    @property
    def active(self) -> bool:
        """Whether a recipe with this configuration has the stage at all."""
        return True

    @property
    def expensive(self) -> bool:
        """Whether it fetches or holds a model: such work is not repeated without consent, nor for unchanged rows."""
        return self.pool in ("fetch", "model")

    def identity(self) -> object:
        """Plain data that decides what the stage computes; a change makes its table stale."""
        return self.config.identity()

    def revision(self) -> object:
        """Plain data that names the exact models it uses; None for a stage without any.

        Raises UserError if a model cannot be found.
        """
        return None

    def entries(self) -> tuple[Any, ...]:
        """Entries of registries that it runs, beside those that fields of its configuration choose."""
        return ()

    def own_code(self) -> tuple[str, ...]:
        """Import paths of functions that its configuration names outside of registries."""
        return ()

    def see(self, columns: Collection[str]) -> None:
        """Learn the names of the columns that the stages before it add, before its `reads` and `adds` are asked for.

        Raises UserError for a configuration that they leave undecided.
        """

    def check(self, columns: Mapping[str, pa.DataType]) -> None:
        """Raise UserError for a configuration that does not fit the columns before the stage."""

    def probe(self) -> None:
        """Raise UserError for files that will fail the work, before any is done; `check` was called before."""

    def setup(self, runtime: Runtime) -> None:
        """Load what the work needs, once in each worker."""

    def __call__(self, rows: pa.Table) -> pa.Table:
        """The same rows in the same order, with the columns of `adds`, some of them dropped for one of `drops`.

        rows: a whole shard, dropped rows too, with at least the columns of `reads`, drop_stage and drop_reason.
        """
        raise NotImplementedError(f"{self.name} has no work of its own")

    def drop(self, rows: pa.Table, **masks: pa.Array | pa.ChunkedArray) -> pa.Table:
        """Drop the live rows of each mask (null is false) for the reason that is its name; the first reason wins.

        Raises IntegrityError for a reason that the stage does not declare.
        """
        return drop(rows, self.name, masks, self.drops)

    def left_alone(self, rows: pa.Table) -> pa.Array:
        """Mask of the rows that the stage left alone, according to its columns; it may be wrong only for live rows."""
        mask: pa.Array = pa.array([True] * len(rows))
        for column in self.adds:
            mask = pc.and_(mask, pc.is_null(rows[column.name]))
        return mask

    @property
    def made_from(self) -> Column | None:
        """The column of what each row's result was made from, for stages with models (`curation.reuse`)."""
        if self.pool != "model":
            return None
        return Column(f"{self.name}_made_from", pa.uint64(), "what the result was made from", volatile=True)

    @property
    def verdict(self) -> Column | None:
        """The column of the reasons for which a stage with a model drops rows, even while an earlier one does."""
        if self.made_from is None or not self.drops:
            return None
        return Column(f"{self.name}_verdict", pa.string(), "why the stage drops the row", volatile=True)

    @property
    def kept_beside(self) -> tuple[Column, ...]:
        """The columns that its table has for `curation.reuse`."""
        return tuple(column for column in (self.made_from, self.verdict) if column is not None)

    def outdated(self, rows: pa.Table) -> pa.Array | pa.ChunkedArray | None:
        """Mask of the rows to work on if its table holds results already; None: those that `made_from` selects.

        rows: with the stage's own columns as its table has them.
        """
        return None

    def unfinished(self, rows: pa.Table) -> pa.Array | pa.ChunkedArray:
        """Mask of the rows that failed, in whole or in part, for a reason that may pass; null is false.

        rows: with at least the columns that the stage adds.
        """
        return pa.array([False] * len(rows))

    def usable(self, rows: pa.Table) -> pa.Array | pa.ChunkedArray:
        """How many good results each row has (integers).  Of two unfinished attempts, the one with more stays.

        rows: as for `unfinished`.
        """
        return pa.array(np.invert(as_mask(self.unfinished(rows))).astype(np.int64))

    def preferred(self, old: pa.Table, new: pa.Table) -> pa.Table:
        """The result for rows that were worked on again: the old or the new row for each, in order."""
        return new

    def facts(self, rows: pa.Table) -> dict[str, Any]:
        """What a shard's manifest records about the stage's columns, as plain data."""
        return {}

    def count(self, meter: Meter, rows: pa.Table) -> None:
        """Add what the stage did with these rows to metrics of its own."""

    @classmethod
    def section_name(cls) -> str:
        """The recipe's section that configures it."""
        return cls.section or cls.name

    @property
    def table_name(self) -> str:
        """The table that its columns are committed to."""
        return self.table or f"columns/{self.name}"

    def column_names(self) -> tuple[str, ...]:
        """The names of the columns it adds."""
        return tuple(column.name for column in self.adds)


def default_table(kind: type[Stage]) -> str:
    """The table of the stages of a class that is not a `NamedStage`."""
    return kind.table or f"columns/{kind.name}"


class NamedStage(Stage):
    """Base of the stages of a section that holds any number of them, by names that the user chooses.

        embed:
          clip: {model: ViT-B-32, pretrained: …}      # the stage embed-clip, its table columns/embed-clip

    Such a section is a line of `curation.stages.SECTIONS`.
    """

    #: What a field of the recipe holds for each name; default: `Config`.
    Entry: ClassVar[Any] = None
    #: The section in words.
    meaning: ClassVar[str]
    #: What the names of its stages begin with; default: the section.
    prefix: ClassVar[str] = ""

    def __init__(self, config: Any, given: str) -> None:
        """given: the name in the recipe."""
        super().__init__(config)
        #: The name that the user gave it, which its columns have.
        self.given = given
        self.name = self.stage_name(given)

    @classmethod
    def stage_name(cls, given: str) -> str:
        """The name of the stage of an entry."""
        return f"{cls.prefix or cls.section_name()}-{given}"

    @classmethod
    def configured(cls, given: Any, *, at: str) -> Any:
        """The configuration of plain data, or of itself.  at: its key.  Raises RecipeError."""
        return given if isinstance(given, cls.Config) else cls.Config.checked(given or {}, at=at)


def spread(values: Any, type_: pa.DataType, mask: pa.Array) -> pa.Array:
    """`values`, one for each true of `mask`, at those places of a column of len(mask); null elsewhere.

    No values at all give a column of nulls.
    """
    array = values if isinstance(values, pa.Array) else pa.array(values, type_)
    if not len(array):
        return pa.nulls(len(mask), type_)
    return pc.replace_with_mask(pa.nulls(len(mask), type_), mask, array)


def as_mask(mask: pa.Array | pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    """A mask of Arrow as one of numpy; null is false."""
    return np.asarray(pc.fill_null(mask, False), np.bool_)


def live_mask(rows: pa.Table) -> pa.Array:
    """Mask of the rows that no stage has dropped, in one piece."""
    return live(rows).combine_chunks()
