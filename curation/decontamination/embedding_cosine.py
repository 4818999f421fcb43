"""Pictures of an evaluation set whose embedding points the same way as that of a row.

The set's pictures are embedded by the model of `embed.NAME`, as the run's own are: decoded, resized and encoded in the
same way first.  What counts as alike depends on the model, so look at the matches that the report shows.

Products are those of `curation.duplicates.exact_products`: the same on every machine.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from pydantic import Field

from curation.decontamination.match_kinds import Matches, MatchKind, Pictured, Pictures
from curation.duplicates.exact_products import exact_pairs, margin, widened
from curation.embedding.vectors import vectors_of
from curation.schema import DROPS, Status
from pairmill.errors import RecipeError
from pairmill.registry import NamedConfig

if TYPE_CHECKING:
    from curation.embedding.stage import Embed

#: Names of the columns that the stage `embed` adds.
PREFIX = "image_embedding_"

#: Rows and items of a block of products: 16 MB.
_BLOCK_ROWS, _BLOCK_ITEMS = 512, 8192


class EmbeddingCosineConfig(NamedConfig):
    """Which embedding is compared, and how near it must be."""

    embedding: str | None = Field(None, description="name in the section `embed`; null: the only one there is")
    cosine: float = Field(0.95, gt=0, le=1, description="least cosine of the embeddings of like pictures")


class EmbeddingCosine(MatchKind):
    """Pictures whose embeddings have a cosine of at least `cosine`."""

    name = "embedding"
    Config = EmbeddingCosineConfig
    config: EmbeddingCosineConfig

    def __init__(self, config: EmbeddingCosineConfig) -> None:
        super().__init__(config)
        if config.embedding is not None:
            self.models = (f"embed-{config.embedding}",)
            self.reads = (f"{PREFIX}{config.embedding}",)
            self.columns = pa.schema([(self.reads[0], pa.list_(pa.float16()))])
        else:
            self.reads = ()

    @classmethod
    def resolved(cls, config: Any, columns: Collection[str]) -> Any:
        """With the only embedding there is, if it names none."""
        if config.embedding is not None:
            return config
        known = [name.removeprefix(PREFIX) for name in columns if name.startswith(PREFIX)]
        if len(known) == 1:
            return config.model_copy(update={"embedding": known[0]})
        raise RecipeError(
            "the kind embedding of an evaluation set must know by which model pictures are embedded",
            value=f"no `embedding`, and {', '.join(known) or 'no section embed'}",
            fix=f"set its key `embedding`, for example to {known[0]}" if known else "add a model to `embed`",
        )

    def fingerprints(self, items: Sequence[Pictured], models: Mapping[str, Embed]) -> Mapping[str, pa.Array]:
        """The unit vector of each picture that can be decoded."""
        stage = models[self.models[0]]
        images = [one.inspected.image if one.inspected.status is Status.SUCCESS else None for one in items]
        rows = pa.table(
            {
                "uid": pa.array([one.item.name for one in items], pa.string()),
                "image": pa.array(images, pa.binary()),
                "caption": pa.nulls(len(items), pa.string()),
                **{name: pa.nulls(len(items), pa.string()) for name in DROPS},
            }
        )
        made = stage(rows)[self.reads[0]].combine_chunks() if len(items) else pa.array([], self.columns.field(0).type)
        return {self.reads[0]: pa.array(made.to_pylist(), self.columns.field(0).type)}

    def index(self, reference: pa.Table) -> Any:
        """The vectors of the items that have one, and which these are."""
        vectors, there = vectors_of(reference[self.reads[0]])
        return vectors, np.flatnonzero(there), exact_pairs(vectors, vectors)

    def matches(self, rows: pa.Table, index: Any, pictures: Pictures) -> Matches:
        """Rows and items whose cosine is large enough, which is the similarity."""
        items, item, squares = index
        vectors, there = vectors_of(rows[self.reads[0]])
        row, own = np.flatnonzero(there), exact_pairs(vectors, vectors)
        found = [Matches.none()]
        if not len(row) or not len(item):
            return found[0]
        # float32 may be wrong by this, and a stored vector of float16 is a little longer or shorter than 1.
        least = self.config.cosine * 0.99 - margin(vectors.shape[1])
        for top in range(0, len(vectors), _BLOCK_ROWS):
            some = widened(vectors[top : top + _BLOCK_ROWS])
            for left in range(0, len(items), _BLOCK_ITEMS):
                products = some @ widened(items[left : left + _BLOCK_ITEMS]).T
                a, b = np.nonzero(products >= least)
                a, b = a + top, b + left
                lengths = np.sqrt(own[a] * squares[b])
                cosine = exact_pairs(vectors[a], items[b]) / np.where(lengths > 0, lengths, np.inf)
                near = cosine >= self.config.cosine
                found.append(Matches(row[a[near]], item[b[near]], cosine[near].astype(np.float32)))
        return Matches(*(np.concatenate(parts) for parts in zip(*found, strict=True)))
