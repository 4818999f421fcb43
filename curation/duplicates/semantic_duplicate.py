"""Semantic duplicates: pictures whose embeddings point the same way (SemDeDup, Abbas et al. 2023, arXiv 2303.09540).

Rows are compared only within their clusters (`curation.duplicates.vector_clusters`), so pairs that a border separates
are missed.  Against this a row goes to further clusters too (`probes`) where it is so near to the border that a
duplicate may lie beyond.  `benchmarks/semantic.py` measures how many pairs are found.

Two rows are linked if the cosine of their embeddings, computed without any rounding of sums, is above 1 - epsilon.
Equal embeddings are linked in stars, and only one of each takes part in the comparison.  A cluster is compared in
blocks of fixed size, and what is found is reduced to a spanning forest time and again: memory is that of the
partition's vectors and a block of products, however large a cluster or a family is.

Clusters are of like sizes except where thousands of rows are nearly the same picture: no centre divides those.  A
cluster that the sample says will have more than `_MOST_TOGETHER` rows is cut into chunks by chance, and about
`_CONNECTORS` rows are in all of them, so that what is nearly the same is still one family.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from curation.duplicates.components import star
from curation.duplicates.edges import stars
from curation.duplicates.exact_products import IN_CACHE, Vectors, by_value, exact_pairs, margin, widened
from curation.duplicates.fitting import keyed_hashes
from curation.duplicates.kinds import KEYS, Indices, Kind
from curation.duplicates.small_integers import Rounded, above, rounded
from curation.duplicates.vector_clusters import Clusters, clusters_of
from pairmill.errors import RecipeError
from pairmill.registry import NamedConfig

#: Names of the columns that the stage `embed` adds.
PREFIX = "image_embedding_"

#: Rows of the run for each cluster, if the recipe does not say how many there are.  About 500 products to compare a row
#: with its cluster then are more than what finding the cluster takes, up to some million rows.
_ROWS_PER_CLUSTER = 1000

#: Clusters at most, and rows of the sample for each: faiss warns below 39.  163,840 rows of 512 numbers are 168 MB.
_MOST_CLUSTERS, _SAMPLED_PER_CLUSTER = 4096, 40

#: Most rows of a cluster that meet, 512 MB of embeddings of 512 numbers; and rows of a larger one that meet all others.
_MOST_TOGETHER, _CONNECTORS = 500_000, 4000

#: How near to the border of a cluster a row must be to go to the next one too, as a share of how far apart duplicates
#: may be.  At 1 no duplicate is missed if the centres are 1 apart.  Half of it finds 99.6 % instead of 99.8 % of near
#: copies, for 1.4 clusters a row instead of 1.6, as directions in 512 dimensions are seldom those of the two centres.
_REACH = 0.5

#: Key of the hashes that decide it, which must not be those of a sample.
_LOTS = 2**64 - 1

#: Where a key has the number of its chunk.
_CHUNK = 1 << 20

#: Products of a block: 512 by 8,192 are 16 MB.
_BLOCK_ROWS, _BLOCK_COLUMNS = 512, 8192

#: Where more than one pair in so many may be near enough, products of float32 take less time than exact ones.
_FEW = 256

#: Numbers by which vectors are told apart before all are looked at.
_FIRST = 8

#: Pairs found before they are reduced to a forest: 16 MB.
_MAX_PAIRS = 1 << 20


class SemanticDuplicateConfig(NamedConfig):
    """How similar semantic duplicates are, and how they are looked for."""

    embedding: str | None = Field(
        None,
        description="column with the embeddings, a list of floating-point numbers each; null: the only one named "
        f"`{PREFIX}…` that a stage adds",
    )
    epsilon: float = Field(
        0.01,
        gt=0,
        lt=1,
        description="rows are duplicates if the cosine of their embeddings is above 1 - epsilon; a larger one drops "
        "more (0.01: NeMo Curator's tutorial on images)",
    )
    clusters: int | None = Field(
        None,
        ge=1,
        description="clusters in which rows are compared; null: one for each 1,000 rows of the run, but at most 4,096",
    )
    iterations: int = Field(20, ge=1, description="most rounds of k-means")
    probes: int = Field(
        2,
        ge=1,
        le=16,
        description="most clusters that a row is compared in, if it is near to the border of several; more find more "
        "pairs across borders",
    )
    keep: Literal["best", "hard"] = Field(
        "best",
        description="which row of a family stays; best: by deduplicate.score; hard: the farthest from the centre of "
        "its cluster, as in SemDeDup, in families of all kinds",
    )
    seed: int = Field(0, ge=0, description="decides by which rows the clusters are fitted")


class Learnt(NamedTuple):
    """clusters; and into how many chunks each of them is cut, [k]."""

    clusters: Clusters
    chunks: Indices


class SemanticDuplicate(Kind):
    """Images whose embeddings have a cosine above 1 - `epsilon`, within clusters of the embeddings."""

    name, strength = "semantic_duplicate", 2
    # float16, of unit length; a number of chance
    columns = pa.schema([("vector", pa.binary()), ("lot", pa.uint32())])
    Config = SemanticDuplicateConfig
    config: SemanticDuplicateConfig
    state: Learnt | None

    def __init__(self, config: SemanticDuplicateConfig) -> None:
        super().__init__(config)
        self.reads = () if config.embedding is None else (config.embedding,)

    @classmethod
    def resolved(cls, config: NamedConfig, columns: Collection[str]) -> NamedConfig:
        """With the only embedding there is, if it names none."""
        if not isinstance(config, SemanticDuplicateConfig) or config.embedding is not None:
            return config
        known = [name for name in columns if name.startswith(PREFIX)]
        if len(known) == 1:
            return config.model_copy(update={"embedding": known[0]})
        raise RecipeError(
            f"{cls.name} of deduplicate.kinds must know which column holds the embeddings",
            value=f"no `embedding`, and {', '.join(known) or f'no column {PREFIX}…'}",
            fix=f"set its key `embedding`, for example to {known[0]}"
            if known
            else "add a model to `embed`, or set its key `embedding` to a column of your list",
        )

    def check(self, columns: Mapping[str, pa.DataType]) -> None:
        """Raise RecipeError for a column that holds no lists of floating-point numbers."""
        found = columns[self.reads[0]]
        lists = pa.types.is_list(found) or pa.types.is_large_list(found) or pa.types.is_fixed_size_list(found)
        if not (lists and pa.types.is_floating(found.value_type)):
            raise RecipeError(
                f"the embedding of {self.name} must be a column of lists of floating-point numbers",
                value=f"{self.reads[0]}: {found}",
                fix=f"name another column in its key `embedding`; the stage `embed` adds {PREFIX}…",
            )

    @property
    def keys_per_row(self) -> int:
        """One for each probe."""
        return self.config.probes

    @property
    def row_bytes(self) -> int:
        """What an embedding takes; that of 512 numbers before any is known."""
        return 1024 if self.state is None else 2 * self.state.clusters.leaves.shape[1]

    @property
    def ranks(self) -> bool:
        """Whether the farthest from the centre stays."""
        return self.config.keep == "hard"

    @property
    def seed(self) -> int:
        """Of the sample."""
        return self.config.seed

    def narrow(self, rows: pa.Table) -> Mapping[str, pa.Array | pa.ChunkedArray]:
        """The embeddings as float16, of unit length; null where there is none, or none that has a direction."""
        vectors = _unit_vectors(rows[self.reads[0]])
        lots = (keyed_hashes(rows["uid"], _LOTS) >> np.uint64(32)).astype(np.uint32)
        return {"vector": vectors, "lot": pc.if_else(vectors.is_valid(), pa.array(lots), None)}

    def sample_rows(self, rows: int) -> int:
        """40 for each cluster."""
        return _SAMPLED_PER_CLUSTER * min(_MOST_CLUSTERS, self._count(rows))

    def fit(self, sample: pa.Table, rows: int) -> Learnt | None:
        """The clusters of the sample; None if there are no embeddings."""
        lengths = pc.binary_length(sample["vector"])
        if not len(lengths):
            return None
        # Of embeddings of several lengths the most frequent counts; the others are compared with nothing.
        length = max(pc.value_counts(lengths).to_pylist(), key=lambda one: (one["counts"], one["values"]))["values"]
        vectors = _matrix(sample["vector"], length)[1]
        clusters = clusters_of(vectors, self._count(rows), self.config.iterations)
        share = np.bincount(clusters.of(vectors)[1], minlength=len(clusters.leaves)) / len(vectors)
        return Learnt(clusters, np.maximum(1, np.ceil(share * rows / _MOST_TOGETHER)).astype(np.int64))

    def keys(self, rows: pa.Table) -> pa.Table:
        """The nearest clusters of each row with an embedding."""
        if self.state is None:
            return KEYS.empty_table()
        at, vectors = _matrix(rows["vector"], self.row_bytes)
        reach = _REACH * (2 * self.config.epsilon) ** 0.5
        row, cluster = self.state.clusters.of(vectors, self.config.probes, reach)
        row, chunks = at[row], self.state.chunks[cluster]
        lot = rows["lot"].to_numpy()[row].astype(np.int64)
        connects = (chunks > 1) & (lot < 2**32 * _CONNECTORS / (chunks * _MOST_TOGETHER))
        again = np.where(connects, chunks, 1)
        row, cluster, chunks = (np.repeat(one, again) for one in (row, cluster, chunks))
        # A row that connects is in every chunk, any other in one.
        number = np.arange(len(row)) - np.repeat(np.cumsum(again) - again, again)
        chunk = np.where(np.repeat(connects, again), number, np.repeat(lot, again) % chunks)
        return pa.table({"row": row, "key": cluster * _CHUNK + chunk}, schema=KEYS)

    def rank(self, rows: pa.Table) -> pa.Array:
        """1 - the cosine with the centre of the nearest cluster."""
        distance = np.full(len(rows), np.nan)
        if self.state is not None:
            at, vectors = _matrix(rows["vector"], self.row_bytes)
            row, cluster = self.state.clusters.of(vectors)
            distance[at[row]] = 1 - exact_pairs(vectors[row], self.state.clusters.leaves[cluster])
        return pa.array(distance, pa.float64(), from_pandas=True)

    def edges(self, rows: pa.Table) -> tuple[Indices, Indices]:
        """Pairs of equal key with a cosine above 1 - `epsilon`: enough to connect what all such pairs connect."""
        at, vectors = _matrix(rows["vector"], self.row_bytes)
        key = rows["key"].to_numpy()[at]
        order = np.argsort(key, kind="stable")
        ends = np.append(np.flatnonzero(np.diff(key[order], prepend=key[order[:1]] - 1)), len(order))
        found = [(np.empty(0, np.int64), np.empty(0, np.int64))]
        for begin, end in pairwise(ends):
            if end - begin > 1:
                members = order[begin:end]
                a, b = close_pairs(vectors[members], self.config.epsilon)
                found.append((at[members[a]], at[members[b]]))
        return np.concatenate([a for a, _ in found]), np.concatenate([b for _, b in found])

    def _count(self, rows: int) -> int:
        return self.config.clusters or max(1, min(_MOST_CLUSTERS, rows // _ROWS_PER_CLUSTER))


def close_pairs(vectors: Vectors, epsilon: float) -> tuple[Indices, Indices]:
    """Positions (a, b) that connect what all pairs with a cosine above 1 - epsilon connect; no more than vectors."""
    # The first numbers tell most vectors apart.
    _, same, count = np.unique(by_value(vectors[:, :_FIRST]), return_inverse=True, return_counts=True)
    alike = np.flatnonzero(count[same] > 1)
    centre, copies = (alike[end] for end in stars(by_value(vectors[alike])))
    alone = np.ones(len(vectors), np.bool_)
    alone[copies] = False
    kept = np.flatnonzero(alone)
    a, b = _close(vectors[kept], epsilon)
    return np.concatenate([centre, kept[a]]), np.concatenate([copies, kept[b]])


def _close(vectors: Vectors, epsilon: float) -> tuple[Indices, Indices]:
    """As `close_pairs`, for different vectors."""
    least = 1 - epsilon
    forest, found, pairs = [np.empty((2, 0), np.int64)], [np.empty((2, 0), np.int64)], 0
    for right in range(0, len(vectors), _BLOCK_COLUMNS):
        columns = _units(vectors[right : right + _BLOCK_COLUMNS])
        for top in range(0, min(right + _BLOCK_COLUMNS, len(vectors)), _BLOCK_ROWS):
            # Only what is above the diagonal.
            skip = max(0, top - right)
            if top < right:
                block = _units(vectors[top : top + _BLOCK_ROWS])
            else:
                block = columns.part(skip, skip + _BLOCK_ROWS)
            a, b, sure = _near(block, columns.part(skip), least)
            a, b = a + top, b + right + skip
            unsure = np.flatnonzero(~sure & (a < b))
            one, other = vectors[a[unsure]], vectors[b[unsure]]
            squared = exact_pairs(one, one) * exact_pairs(other, other)
            sure[unsure] = exact_pairs(one, other) > least * np.sqrt(squared)
            here = sure & (a < b)
            found.append(np.stack([a[here], b[here]]))
            pairs += int(here.sum())
            if pairs > _MAX_PAIRS:
                forest, found, pairs = [np.stack(star(*np.concatenate(forest + found, 1)))], [], 0
    a, b = np.concatenate(forest + found, 1)
    return star(a, b) if len(a) > len(vectors) else (a, b)


class _Units(NamedTuple):
    """Vectors of unit length, [n, D], as float32 and rounded."""

    wide: npt.NDArray[np.float32]
    rounded: Rounded

    def part(self, begin: int, end: int | None = None) -> _Units:
        """The vectors from `begin` to before `end`, without a copy."""
        return _Units(self.wide[begin:end], self.rounded.part(begin, end))


def _units(vectors: Vectors) -> _Units:
    wide = widened(vectors)
    wide *= (1 / np.sqrt(np.einsum("nd,nd->n", wide, wide)))[:, None]
    return _Units(wide, rounded(wide))


def _near(rows: _Units, columns: _Units, least: float) -> tuple[Indices, Indices, npt.NDArray[np.bool_]]:
    """Rows and columns whose cosine may be above `least`, and whether it certainly is: [n] each."""
    a, b = above(rows.rounded, columns.rounded, least)
    if len(a) * _FEW <= len(rows.wide) * len(columns.wide):
        return a, b, np.zeros(len(a), np.bool_)
    wrong, products = 2 * margin(rows.wide.shape[1]), rows.wide @ columns.wide.T
    a, b = np.divmod(np.flatnonzero(products > least - wrong), products.shape[1])
    return a, b, products[a, b] > least + wrong


def _matrix(column: pa.ChunkedArray, length: int) -> tuple[Indices, Vectors]:
    """The positions of the embeddings of so many bytes, [n], and these, [n, D]."""
    there = pc.fill_null(pc.equal(pc.binary_length(column), length), False)
    at = np.flatnonzero(there.to_numpy())
    chosen = column if len(at) == len(column) else column.take(pa.array(at))
    joined = chosen.combine_chunks() if chosen.num_chunks != 1 else chosen.chunk(0)
    if not len(at):
        return at, np.empty((0, length // 2), np.float16)
    begin = np.frombuffer(joined.buffers()[1], np.int32)[joined.offset]
    data = np.frombuffer(joined.buffers()[2], np.float16, len(at) * length // 2, int(begin))
    return at, data.reshape(len(at), -1)


def _unit_vectors(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return pa.chunked_array([_of_chunk(chunk) for chunk in column.chunks], pa.binary())


def _of_chunk(chunk: Any) -> pa.Array:
    """The vectors of unit length as bytes of float16; null for none, an empty one, zeros, infinities and no numbers.

    Those of float16 that have about unit length already stay as they are.
    """
    n = len(chunk)
    if pa.types.is_fixed_size_list(chunk.type):
        size = chunk.type.list_size
        begins = np.arange(n + 1) * size
        values = chunk.values.slice(chunk.offset * size, n * size)
    else:
        offsets = chunk.offsets.to_numpy().astype(np.int64)
        begins, values = offsets - offsets[0], chunk.values.slice(offsets[0], offsets[-1] - offsets[0])
    numbers, sizes = _numbers(values), np.diff(begins)
    # A null list may have any values behind it.
    there = chunk.is_valid().to_numpy(zero_copy_only=False) & (sizes > 0)
    length = _lengths(numbers, begins, there)
    there &= np.isfinite(length) & (length > 0)
    if not there.all():
        numbers, sizes, length = numbers[np.repeat(there, sizes)], np.where(there, sizes, 0), length[there]
    unit = (np.abs(length - 1) < 0.01) & (numbers.dtype == np.float16)
    if not unit.all():
        numbers = numbers / np.repeat(np.where(unit, 1, length), sizes[there])
    offsets = np.concatenate([[0], np.cumsum(2 * sizes)]).astype(np.int32)
    data = np.ascontiguousarray(numbers.astype(np.float16, copy=False))
    return pa.Array.from_buffers(
        pa.binary(), n, [pa.array(there).buffers()[1], pa.py_buffer(offsets), pa.py_buffer(data)]
    )


def _lengths(numbers: npt.NDArray[Any], begins: Indices, there: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """The length of the vector from each of `begins` to the next, [n]; 0 where none is there."""
    n = len(there)
    if n and there.all() and numbers.dtype == np.float16 and (np.diff(begins) == begins[1]).all():
        alike = numbers.reshape(n, -1)
        squares = np.concatenate([_squares(alike[at : at + IN_CACHE]) for at in range(0, n, IN_CACHE)])
        # Else there may be infinities, which it does not know.
        if (np.abs(squares - 1) < 0.01).all():
            lengths: npt.NDArray[np.float64] = np.sqrt(squares, dtype=np.float64)
            return lengths
    if not n:
        return np.zeros(0)
    squares = np.append(np.square(numbers, dtype=np.float64), 0)
    return np.sqrt(np.where(there, np.add.reduceat(squares, begins[:-1]), 0))


def _squares(vectors: Vectors) -> npt.NDArray[np.float32]:
    wide = widened(vectors)
    squares: npt.NDArray[np.float32] = np.einsum("nd,nd->n", wide, wide)
    return squares


def _numbers(values: Any) -> npt.NDArray[Any]:
    """The numbers of a list; a null in it is no number."""
    if values.null_count and values.type == pa.float16():
        values = values.cast(pa.float32())
    numbers: npt.NDArray[Any] = values.to_numpy(zero_copy_only=False)
    return numbers
