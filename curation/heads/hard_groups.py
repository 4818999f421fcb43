"""Groups of pairs that a model mistakes for each other: SaHa (Ju and Lee 2025).

    of a picture x_i      the captions y_j with the largest x_i . y_j, j not i         what it is mistaken for
    of those, owners j    with the smallest x_i . x_j                                  and is unlike: no false negatives
    group                 i and the `size` - 1 first of them; a row is in one group

`data.keep_together` of a training recipe keeps a group in one batch.  The paper searches all queries of a data set;
here a row's group is among rows that are near to it in the run, which training reads together (`BLOCK` of a shard).
There leftover rows are grouped again with rows that have a group; here with what is left of their candidates, and a
row with none has no group.

Shapes: N pairs, D dimensions.
"""

from __future__ import annotations

import hashlib
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field

from curation.duplicates.exact_products import by_value, exact
from curation.heads.learnt_filter import Pairs
from curation.heads.loss_mixture import both_vectors
from pairmill.registry import NamedConfig

#: Rows of a shard among which groups are found: all their products are held at once, 3 * 8 bytes each.
BLOCK = 2048


class HardGroupsConfig(NamedConfig):
    """How large.  Defaults: the paper's and its code's (top_k 15, pool_mult 3)."""

    embedding: str = Field(description="name in the section `embed`")
    size: int = Field(16, ge=2, description="rows of a group, at most; SaHa: 16, the batch of a device")
    pool: int = Field(3, ge=1, description="owners that are looked at for each row of a group")


class HardGroups:
    """Which group of mutually hard pairs a row is in, by the vectors of pictures and captions (SaHa).

    Column: NAME, a number of the group, unlike that of any other; null for a row in none.
    """

    libraries = ("numpy",)
    input: Literal["embedding"] = "embedding"
    Config = HardGroupsConfig
    columns = pa.schema([("group", pa.int64())])

    def __init__(self, config: HardGroupsConfig) -> None:
        self._config = config

    @classmethod
    def reads(cls, config: HardGroupsConfig) -> tuple[str, ...]:
        """The vectors of captions."""
        return (f"text_embedding_{config.embedding}",)

    @classmethod
    def revision(cls, config: HardGroupsConfig) -> str:
        """Nothing but the keys decides."""
        return "1"

    @classmethod
    def load(cls, config: HardGroupsConfig) -> HardGroups:
        """The head."""
        return cls(config)

    def __call__(self, images: pa.Array | pa.ChunkedArray, **more: pa.Array | pa.ChunkedArray) -> pa.Table:
        """Its column of the rows of a shard; null without the vector of the picture or of the caption too."""
        pairs, mask = both_vectors(images, more[f"text_embedding_{self._config.embedding}"])
        found = np.full(len(pairs.images), -1, np.int64)
        for begin in range(0, len(found), BLOCK):
            part = slice(begin, begin + BLOCK)
            some = Pairs(pairs.images[part], pairs.texts[part], [])
            groups = hard_groups(some, size=self._config.size, pool=self._config.pool)
            for group in groups:
                found[part][group] = _number(some, group)
        placed = np.full(len(mask), -1, np.int64)
        placed[mask] = found
        return pa.table([pa.array(placed, pa.int64(), mask=placed < 0)], schema=self.columns)


def hard_groups(pairs: Pairs, *, size: int, pool: int) -> list[list[int]]:
    """Groups of at most `size` rows, and of 2 or more, no row in two.  pool: owners looked at are pool * (size - 1).

    Rows begin groups in their order.  Copies of a row's picture or caption are no candidates of it.
    """
    others = size - 1
    crossed, alike = exact(pairs.images, pairs.texts), exact(pairs.images, pairs.images)
    of_images, of_texts = by_value(pairs.images), by_value(pairs.texts)
    crossed[(of_images[:, None] == of_images) | (of_texts[:, None] == of_texts)] = -np.inf
    free = np.ones(len(crossed), np.bool_)
    groups = []
    for wanted in (others, 1):  # whole groups first, then smaller ones of what is left
        for row in range(len(crossed)):
            if not free[row]:
                continue
            retrieved = np.argsort(-crossed[row], kind="stable")[: 2 * others * pool]
            owners = retrieved[free[retrieved] & (crossed[row][retrieved] > -np.inf)][: others * pool]
            if len(owners) < wanted:
                continue
            chosen = owners[np.argsort(alike[row][owners], kind="stable")][:others]
            groups.append([row, *chosen.tolist()])
            free[groups[-1]] = False
    return groups


def _number(pairs: Pairs, group: Any) -> int:
    """63 bits that stand for the pairs of a group, wherever in the run they are."""
    vectors: list[npt.NDArray[np.float16]] = [pairs.images[group], pairs.texts[group]]
    found = hashlib.blake2b(b"".join(one.tobytes() for one in vectors), digest_size=8).digest()
    return int.from_bytes(found, "big") >> 1
