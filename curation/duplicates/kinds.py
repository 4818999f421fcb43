"""What a kind of duplicate is, which kinds there are, and the recipe section that chooses among them.

A kind is one declaration: its name, which is the drop reason, its strength, the columns it reads, the keys that bring
rows together, and which of the rows that meet are duplicates of each other:

    class DuplicateCaption(EqualValues):
        "Rows of equal caption."

        name, strength = "duplicate_caption", 5     # weaker than any of ours
        reads = ("caption",)
        columns = pa.schema([("caption", pa.string())])

    deduplicate:
      kinds: [duplicate_image, "my_package.my_module:DuplicateCaption"]

What is read and shuffled, the edges and the reasons are derived from the active kinds.

A kind may learn from a sample of the run before it gives keys: clusters, quantiles, the frequent words.

    class DuplicateVector(Kind):
        name, strength = "duplicate_vector", 5
        columns = pa.schema([("vector", pa.binary())])

        def __init__(self, config):             # `reads` and `columns` may depend on the configuration
            super().__init__(config)
            self.reads = (config.column,)

        def sample_rows(self, rows): return 64 * max(1, rows // 1000)
        def fit(self, sample, rows): return centroids_of(sample["vector"])
        def keys(self, rows): ...               # with self.state, which is what `fit` returned
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field, field_validator

from curation.duplicates.other_runs import ELSEWHERE
from curation.schema import COUNTS, NAME, NAME_RULE, Status
from curation.selections.expression import ALL, WORDS
from pairmill.config import Config
from pairmill.errors import RecipeError
from pairmill.registry import ChosenBy, NamedConfig, Registry, derived_from, is_import_path, source_digest

Indices = npt.NDArray[np.int64]

#: What brings rows together: the position of a row in the given table, and a key.  A row may have many keys; one
#: without keys is left out.  Unequal rows that share a key only cost time.
KEYS = pa.schema([("row", pa.int64()), ("key", pa.int64())])

#: What a row of a kind takes that does not say otherwise, in bytes.
ROW_BYTES = 128

#: The kind of pictures of equal bytes.
EQUAL_IMAGES = "duplicate_image"

#: The score that needs no column of its own: original width × height.
PIXELS = "pixels"


class Kind(ABC):
    """Base of every kind of duplicate.

    name:     the drop reason.
    strength: a row that several kinds join to a better one gets the reason of the strongest.
    reads:    columns of the plan and of the stages before deduplication.
    columns:  what the kind compares of a row.  They are shuffled for all rows of a run, so keep them narrow; a type of
              variable size (string, binary, list) costs nothing in the rows of other kinds.
    Config:   the kind's own keys of the recipe.
    timeout_s: seconds that one call of a method may take, of a kind that is not ours.
    seed:     another one chooses another sample.

    `reads` and `columns` may depend on the configuration; then `__init__` sets them.

    A kind that must learn from the whole run first (`sample_rows`, `fit`) has what it learnt in `state`: None before,
    and in all calls of `keys`, `rank` and `edges` what `fit` returned.  It is pickled for every worker.

    Every method but `fit` may be called any number of times, in any process, on any part of the rows.
    """

    name: ClassVar[str]
    strength: ClassVar[float]
    reads: tuple[str, ...]
    columns: pa.Schema
    Config: ClassVar[type[NamedConfig]] = NamedConfig
    timeout_s: ClassVar[float] = 3600.0

    def __init__(self, config: NamedConfig) -> None:
        self.config = config
        self.state: Any = None

    @classmethod
    def resolved(cls, config: NamedConfig, columns: Collection[str]) -> NamedConfig:
        """The configuration, with what it leaves to the columns that there are filled in.

        columns: names of those that the stages before deduplication add.  Raises RecipeError where they do not decide.
        """
        return config

    def check(self, columns: Mapping[str, pa.DataType]) -> None:  # noqa: B027 - most kinds have nothing to refuse
        """Raise RecipeError for columns of types that the kind cannot compare.

        columns: all there are, those of the list too; the kind's `reads` are among them.
        """

    @property
    def keys_per_row(self) -> int:
        """About how many keys a row has at most; sizes the shuffle."""
        return 1

    @property
    def row_bytes(self) -> int:
        """About how many bytes `columns` take for a key of a row; sizes the shuffle."""
        return ROW_BYTES

    @property
    def seed(self) -> int:
        """Decides which rows the sample has."""
        return 0

    @property
    def ranks(self) -> bool:
        """Whether `rank` decides which row of a family stays, in the place of `deduplicate.score`."""
        return False

    def sample_rows(self, rows: int) -> int:
        """How many rows `fit` must have; 0: there is nothing to fit.

        rows: of all runs that are compared, those that were dropped too.
        """
        return 0

    def fit(self, sample: pa.Table, rows: int) -> Any:
        """What the kind learns from a sample, before it is asked for keys: its `state`.

        sample: `columns` of at most `sample_rows` rows in an order of chance, the same for any layout of the run; rows
        that are null in all columns are not among them.  rows: as for `sample_rows`.
        """
        raise NotImplementedError(f"{self.name} asks for a sample and does nothing with it; define fit")

    def rank(self, rows: pa.Table) -> pa.Array:
        """A number for each row (float64), the highest of a family stays; null is the lowest.  If `ranks`.

        rows: `columns`.
        """
        raise NotImplementedError(f"{self.name} must rank rows and does not; define rank")

    def narrow(self, rows: pa.Table) -> Mapping[str, pa.Array | pa.ChunkedArray]:
        """The values of `columns` for each of the rows, from those of `reads`; unchanged unless a kind overrides this.

        rows: live rows of a shard, of another run too; `uid` is always there, and begins with NAME: in another run.
        """
        return {name: rows[name] for name in self.columns.names}

    @abstractmethod
    def keys(self, rows: pa.Table) -> pa.Table:
        """The keys of some rows, such that any two duplicates share one; schema `KEYS`.

        rows: `columns`.
        """

    @abstractmethod
    def edges(self, rows: pa.Table) -> tuple[Indices, Indices]:
        """Positions (a, b) of rows that are duplicates: enough pairs to connect what all pairs connect.

        rows: `columns` and `key` (int64); all rows of each key that occurs, in any order.  A row occurs once for each
        of its keys.
        """


def _check_declared(name: str, found: Any) -> None:
    """Raise RecipeError for a class at an import path that is no kind, or declares what cannot work."""
    derived_from(Kind, key="deduplicate.kinds")(name, found)
    kind: type[Kind] = found

    def refuse(rule: str, value: object, fix: str) -> None:
        raise RecipeError(f"the kind {name} of deduplicate.kinds must {rule}", value=value, fix=fix)

    # A kind with an __init__ of its own may set these two there: `_check_made`.
    late = () if kind.__init__ is Kind.__init__ else ("reads", "columns")
    for attribute in ("name", "strength", "reads", "columns"):
        if not hasattr(kind, attribute) and attribute not in late:
            refuse(f"declare `{attribute}`", f"no {attribute}", f"set {attribute}")
    if not (isinstance(kind.name, str) and NAME.fullmatch(kind.name)):
        refuse(f"have a name of {NAME_RULE}", repr(kind.name), "rename it")
    taken = {*COUNTS, *(status.value for status in Status), *(one for one in KINDS.names if KINDS.get(one) is not kind)}
    if kind.name in taken:
        refuse("have a drop reason of its own as its name", kind.name, "rename it")
    if kind.name.endswith(ELSEWHERE):
        refuse(
            f"have a name that does not end in {ELSEWHERE}, as rows that go for another run's", kind.name, "rename it"
        )
    if (
        isinstance(kind.strength, bool)
        or not isinstance(kind.strength, int | float)
        or not math.isfinite(kind.strength)
    ):
        refuse("have a number as its strength", repr(kind.strength), "write, for example, strength = 5")
    if not late:
        _check_columns(kind, refuse)


def _check_made(kind: Kind) -> Kind:
    """The kind.  Raises RecipeError if its `__init__` did not set `reads` and `columns`, or to what cannot work."""

    def refuse(rule: str, value: object, fix: str) -> None:
        raise RecipeError(f"the kind {kind.config.name} of deduplicate.kinds must {rule}", value=value, fix=fix)

    for attribute in ("reads", "columns"):
        if not hasattr(kind, attribute):
            refuse(f"declare `{attribute}`", f"no {attribute}", f"set {attribute}, in the class or in __init__")
    _check_columns(kind, refuse)
    return kind


def _check_columns(kind: Any, refuse: Callable[[str, object, str], None]) -> None:
    """kind: a class or an instance."""
    if not isinstance(kind.reads, list | tuple) or not all(isinstance(read, str) for read in kind.reads):
        refuse("declare `reads` as a tuple of names", repr(kind.reads), 'write reads = ("caption",)')
    if not isinstance(kind.columns, pa.Schema) or not len(kind.columns) or "key" in kind.columns.names:
        refuse(
            "declare `columns` as a pyarrow.Schema of one column or more, none of them named key",
            repr(kind.columns),
            'write columns = pa.schema([("caption", pa.string())])',
        )
    own: Any = kind if isinstance(kind, type) else type(kind)
    plain = own.narrow is Kind.narrow
    if plain and (unread := [one for one in kind.columns.names if one not in kind.reads]):
        refuse("read the columns that it compares", unread[0], "add it to `reads`, or define `narrow`")


_HERE = "curation.duplicates"
KINDS: Registry[type[Kind]] = Registry(
    "deduplicate.kinds",
    {
        "duplicate_pair": f"{_HERE}.duplicate_pair:DuplicatePair",
        "duplicate_image": f"{_HERE}.duplicate_image:DuplicateImage",
        "near_duplicate_image": f"{_HERE}.near_duplicate_image:NearDuplicateImage",
        "near_duplicate_text": f"{_HERE}.near_duplicate_text:NearDuplicateText",
        "semantic_duplicate": f"{_HERE}.semantic_duplicate:SemanticDuplicate",
    },
    check=_check_declared,
)


def _default_kinds() -> tuple[NamedConfig, ...]:
    names = ("duplicate_pair", "duplicate_image", "near_duplicate_image")
    return tuple(KINDS.get(name).Config(name=name) for name in names)


class DeduplicateConfig(Config):
    """Which rows count as duplicates, and which of them stays."""

    enabled: bool = Field(True, description="whether duplicates are looked for; false: all rows stay")
    kinds: tuple[Annotated[NamedConfig, ChosenBy(KINDS)], ...] = Field(
        default_factory=_default_kinds,
        description="kinds of duplicates, in any order: each a name, or a mapping of `name` and that kind's keys",
    )
    score: str = Field(
        PIXELS, description="numeric column that ranks duplicates: the highest stays, then the smallest uid"
    )
    keep: Literal["best", "all"] = Field(
        "best",
        description="which rows of a family stay; all: every one, with a column `group_id`, by which training takes "
        "rows of one family as no negatives of each other; pictures of equal bytes are one family then, whatever kinds "
        "there are",
    )
    name: str = Field("default", pattern=r"^[A-Za-z0-9_-]+$", description="name of the selection")

    @field_validator("kinds")
    @classmethod
    def _each_once_strongest_first(cls, value: tuple[NamedConfig, ...]) -> tuple[NamedConfig, ...]:
        return strongest_first(value, "deduplicate.kinds")

    @field_validator("name")
    @classmethod
    def _no_word(cls, value: str) -> str:
        if value in (ALL, *WORDS):
            meant = "every row that no stage dropped" if value == ALL else "a word of expressions over selections"
            raise RecipeError(
                f"deduplicate.name must be another: {value} is {meant}", value=value, fix="choose another name"
            )
        return value

    def resolved(self, columns: Collection[str]) -> DeduplicateConfig:
        """With what the kinds leave to the columns of the stages before (their names) filled in.

        Raises RecipeError where these do not decide.
        """
        if not self.enabled:
            return self
        kinds = tuple(KINDS.get(config.name).resolved(config, columns) for config in self.kinds)
        return self.model_copy(update={"kinds": kinds})

    def identity(self) -> dict[str, Any]:
        """The configuration, with the source of each kind that is not ours."""
        own = {config.name: source_digest(config.name) for config in self.kinds if is_import_path(config.name)}
        return super().identity() | ({"sources": own} if own else {})


def strongest_first(kinds: Collection[NamedConfig], key: str) -> tuple[NamedConfig, ...]:
    """The kinds in the order of their strength.  key: of the recipe, for the message.

    Raises RecipeError for one that is named twice.
    """
    pairs = sorted(((KINDS.get(config.name), config) for config in kinds), key=lambda pair: _rank(pair[0]))
    names = [kind.name for kind, _ in pairs]
    if twice := [name for name in names if names.count(name) > 1]:
        raise RecipeError(
            f"{key} must name each kind once",
            value=f"{twice[0]} {names.count(twice[0])} times",
            fix="keep one of them, with its keys",
        )
    return tuple(config for _, config in pairs)


def kinds_of(config: DeduplicateConfig) -> tuple[Kind, ...]:
    """The active kinds, strongest first.  Raises RecipeError for kinds that cannot work, or not together."""
    if not config.enabled:
        return ()
    given = config.kinds
    if config.keep == "all" and all(one.name != EQUAL_IMAGES for one in given):
        # A group takes the place of the picture's digest in training, so it must not be narrower.
        given = strongest_first([*given, KINDS.get(EQUAL_IMAGES).Config(name=EQUAL_IMAGES)], "deduplicate.kinds")
    kinds = tuple(KINDS.get(chosen.name)(chosen) for chosen in given)
    for kind in kinds:
        if is_import_path(kind.config.name):
            _check_made(kind)
    if len(ranking := [kind.name for kind in kinds if kind.ranks]) > 1:
        raise RecipeError(
            "at most one of deduplicate.kinds must decide which row stays",
            value=", ".join(ranking),
            fix="let the others keep the best by deduplicate.score",
        )
    return kinds


def reasons() -> tuple[str, ...]:
    """The drop reasons of all registered kinds, strongest first."""
    return tuple(kind.name for kind in sorted(map(KINDS.get, KINDS.names), key=_rank))


def reads(config: DeduplicateConfig) -> tuple[str, ...]:
    """The columns that the active kinds and the score need."""
    if not config.enabled:
        return ()
    score = ("original_width", "original_height") if config.score == PIXELS else (config.score,)
    return tuple(dict.fromkeys([*(name for kind in kinds_of(config) for name in kind.reads), *score]))


def _rank(kind: type[Kind]) -> tuple[float, str]:
    return -kind.strength, kind.name
