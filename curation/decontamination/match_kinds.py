"""What a kind of match is, which kinds there are, and the recipe section that names evaluation sets.

    decontaminate:
      coco: {path: /data/coco/val2017}
      ours: {path: holdout.parquet, kinds: [same_image, {name: embedding, embedding: clip, cosine: 0.96}]}

A kind is one class in one file and one line in `KINDS`; a user's own needs its import path only.  It says what is kept
of each item of the set (`columns`, `fingerprints`), what it reads of the run's rows (`reads`), and which of them are
alike (`index`, `matches`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field, field_validator

from curation.decontamination.evaluation_set import Item
from pairmill.config import Config
from pairmill.errors import RecipeError
from pairmill.registry import ChosenBy, NamedConfig, Registry, derived_from, is_import_path, source_digest

if TYPE_CHECKING:
    from curation.embedding.stage import Embed
    from curation.images.inspect import Inspected

Places = npt.NDArray[np.int64]


#: The stored pictures of some rows, encoded, read when they are asked for; None for a row without one.
Pictures = Callable[[Places], Sequence[bytes | None]]


class Pictured(NamedTuple):
    """An item with what became of its picture.

    inspected: as the run's own pictures are; its status is not success where there is none.
    """

    item: Item
    inspected: Inspected


class Matches(NamedTuple):
    """Row row[i] and item item[i] are alike, [n] all three; each pair once, in any order.

    similarity: float32, the higher the more alike; 1: in all that is compared.
    """

    row: Places
    item: Places
    similarity: npt.NDArray[np.float32]

    @classmethod
    def none(cls) -> Matches:
        """No pair."""
        return cls(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))


class MatchKind(ABC):
    """Base of every kind of match.

    name:    that matches have in the table.
    reads:   columns of the run's rows that are compared.
    columns: what is kept of each item beside `curation.decontamination.item_fingerprints.REFERENCE`.
    models:  names in `embed` of encoders that it needs for `fingerprints`.
    Config:  the kind's own keys of the recipe.
    timeout_s: seconds that one call of a method may take, of a kind that is not ours.

    `reads`, `columns` and `models` may depend on the configuration; then `__init__` sets them.
    """

    name: ClassVar[str]
    reads: tuple[str, ...]
    columns: pa.Schema = pa.schema([])
    models: tuple[str, ...] = ()
    Config: ClassVar[type[NamedConfig]] = NamedConfig
    timeout_s: ClassVar[float] = 3600.0

    def __init__(self, config: Any) -> None:
        self.config = config

    @classmethod
    def resolved(cls, config: Any, columns: Collection[str]) -> Any:
        """The configuration, with what it leaves to the columns that there are filled in.  Raises RecipeError."""
        return config

    def fingerprints(self, items: Sequence[Pictured], models: Mapping[str, Embed]) -> Mapping[str, pa.Array]:
        """The values of `columns` for each of the items.  models: those of `models`, loaded."""
        return {}

    @abstractmethod
    def index(self, reference: pa.Table) -> Any:
        """What rows are compared with, made once in each process from all items (`REFERENCE` and `columns`)."""

    @abstractmethod
    def matches(self, rows: pa.Table, index: Any, pictures: Pictures) -> Matches:
        """The rows and the items that are alike.

        rows: `reads`, of rows that no stage dropped.  pictures: for the few rows that narrow columns cannot decide.
        """


_HERE = "curation.decontamination"
KINDS: Registry[type[MatchKind]] = Registry(
    "decontaminate.kinds",
    {
        "same_image": f"{_HERE}.same_image:SameImage",
        "near_image": f"{_HERE}.near_image:NearImage",
        "caption": f"{_HERE}.caption_overlap:CaptionOverlap",
        "embedding": f"{_HERE}.embedding_cosine:EmbeddingCosine",
    },
    check=derived_from(MatchKind, key="decontaminate.kinds"),
)


def _default_kinds() -> tuple[NamedConfig, ...]:
    return tuple(KINDS.get(name).Config(name=name) for name in ("same_image", "near_image", "caption"))


class DecontaminateConfig(Config):
    """An evaluation set, and by what rows of the run count as taken from it."""

    path: str = Field(
        min_length=1,
        description="the set: a folder of pictures, with captions in a .txt of the same name (one a line), Parquet "
        "files, or webdataset tars; local, s3:// or gs://; a file or a pattern",
    )
    kinds: tuple[Annotated[NamedConfig, ChosenBy(KINDS)], ...] = Field(
        default_factory=_default_kinds,
        min_length=1,
        description="kinds of matches, the strongest first: each a name, or a mapping of `name` and that kind's keys",
    )
    image_column: str | None = Field(
        None, description="column of pictures of Parquet files; null: the usual names (image, jpg, …)"
    )
    text_column: str | None = Field(
        None, description="column of captions of Parquet files; null: the usual names (captions, caption, text, …)"
    )

    @field_validator("kinds")
    @classmethod
    def _each_once(cls, value: tuple[NamedConfig, ...]) -> tuple[NamedConfig, ...]:
        names = [KINDS.get(config.name).name for config in value]
        if twice := [name for name in names if names.count(name) > 1]:
            raise RecipeError(
                "kinds of an evaluation set must name each kind once", value=twice[0], fix="keep one of them"
            )
        return value

    def identity(self) -> dict[str, Any]:
        """What decides which rows match, beside the content of the set, with the source of kinds that are not ours."""
        own = {config.name: source_digest(config.name) for config in self.kinds if is_import_path(config.name)}
        found = {name: value for name, value in super().identity().items() if name != "path"}
        return found | ({"sources": own} if own else {})
