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
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field, field_validator

from curation.schema import COUNTS, NAME, NAME_RULE, Status
from pairmill.config import Config
from pairmill.errors import RecipeError
from pairmill.registry import ChosenBy, NamedConfig, Registry, derived_from, is_import_path, source_digest

Indices = npt.NDArray[np.int64]

#: What brings rows together: the position of a row in the given table, and a key.  A row may have many keys; one
#: without keys is left out.  Unequal rows that share a key only cost time.
KEYS = pa.schema([("row", pa.int64()), ("key", pa.int64())])

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

    Every method may be called any number of times, in any process, on any part of the rows.
    """

    name: ClassVar[str]
    strength: ClassVar[float]
    reads: ClassVar[tuple[str, ...]]
    columns: ClassVar[pa.Schema]
    Config: ClassVar[type[NamedConfig]] = NamedConfig
    timeout_s: ClassVar[float] = 3600.0

    def __init__(self, config: NamedConfig) -> None:
        self.config = config

    @property
    def keys_per_row(self) -> int:
        """About how many keys a row has at most; sizes the shuffle."""
        return 1

    def narrow(self, rows: pa.Table) -> Mapping[str, pa.Array | pa.ChunkedArray]:
        """The values of `columns` for each of the rows, from those of `reads`; unchanged unless a kind overrides this.

        rows: live rows of a shard.
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

    for attribute in ("name", "strength", "reads", "columns"):
        if not hasattr(kind, attribute):
            refuse(f"declare `{attribute}`", f"no {attribute}", f"set {attribute}")
    if not (isinstance(kind.name, str) and NAME.fullmatch(kind.name)):
        refuse(f"have a name of {NAME_RULE}", repr(kind.name), "rename it")
    taken = {*COUNTS, *(status.value for status in Status), *(one for one in KINDS.names if KINDS.get(one) is not kind)}
    if kind.name in taken:
        refuse("have a drop reason of its own as its name", kind.name, "rename it")
    if (
        isinstance(kind.strength, bool)
        or not isinstance(kind.strength, int | float)
        or not math.isfinite(kind.strength)
    ):
        refuse("have a number as its strength", repr(kind.strength), "write, for example, strength = 5")
    if not isinstance(kind.reads, list | tuple) or not all(isinstance(read, str) for read in kind.reads):
        refuse("declare `reads` as a tuple of names", repr(kind.reads), 'write reads = ("caption",)')
    if not isinstance(kind.columns, pa.Schema) or not len(kind.columns) or "key" in kind.columns.names:
        refuse(
            "declare `columns` as a pyarrow.Schema of one column or more, none of them named key",
            repr(kind.columns),
            'write columns = pa.schema([("caption", pa.string())])',
        )
    if kind.narrow is Kind.narrow and (unread := [one for one in kind.columns.names if one not in kind.reads]):
        refuse("read the columns that it compares", unread[0], "add it to `reads`, or define `narrow`")


_HERE = "curation.duplicates"
KINDS: Registry[type[Kind]] = Registry(
    "deduplicate.kinds",
    {
        "duplicate_pair": f"{_HERE}.duplicate_pair:DuplicatePair",
        "duplicate_image": f"{_HERE}.duplicate_image:DuplicateImage",
        "near_duplicate_image": f"{_HERE}.near_duplicate_image:NearDuplicateImage",
        "near_duplicate_text": f"{_HERE}.near_duplicate_text:NearDuplicateText",
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
    name: str = Field("default", pattern=r"^[A-Za-z0-9_-]+$", description="name of the selection")

    @field_validator("kinds")
    @classmethod
    def _each_once_strongest_first(cls, value: tuple[NamedConfig, ...]) -> tuple[NamedConfig, ...]:
        kinds = sorted(((KINDS.get(config.name), config) for config in value), key=lambda pair: _rank(pair[0]))
        names = [kind.name for kind, _ in kinds]
        if twice := [name for name in names if names.count(name) > 1]:
            raise RecipeError(
                "deduplicate.kinds must name each kind once",
                value=f"{twice[0]} {len(twice)} times",
                fix="keep one of them, with its keys",
            )
        return tuple(config for _, config in kinds)

    def identity(self) -> dict[str, Any]:
        """The configuration, with the source of each kind that is not ours."""
        own = {config.name: source_digest(config.name) for config in self.kinds if is_import_path(config.name)}
        return super().identity() | ({"sources": own} if own else {})


def kinds_of(config: DeduplicateConfig) -> tuple[Kind, ...]:
    """The active kinds, strongest first."""
    if not config.enabled:
        return ()
    return tuple(KINDS.get(chosen.name)(chosen) for chosen in config.kinds)


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
