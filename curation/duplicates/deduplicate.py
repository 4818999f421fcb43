"""Find duplicate pairs, duplicate images and near-duplicate images over the whole run, and keep the best of each.

reads: uid, sha256, phash, caption_digest, and the column named by `deduplicate.score`
adds:  —
drops: duplicate_pair, duplicate_image, near_duplicate_image

A global step on narrow tables.  The driver brings rows together and these pure functions do the rest:

    rows by sha256               -> exact_edges ┐
    bands(rows) by band_key      -> near_edges  ┴-> survivors -> the losers, to be written as a selection

Duplicates are transitive: A like B and B like C makes one family, of which one row stays: the one with the highest
score, of those the one with the smallest uid.  So the result does not depend on the order of the rows, on how they are
divided, or on how many machines there are.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from curation.duplicates.edges import EDGES, ENDPOINT, ROWS, Indices, combined, edges_between, stars
from curation.duplicates.near import bands, near_edges
from pairmill.config import Config

#: The score that needs no column of its own: original width × height.
PIXELS = "pixels"


class DeduplicateConfig(Config):
    """Which rows count as duplicates, and which of them stays."""

    enabled: bool = True
    exact_image: bool = Field(default=True, description="images of equal bytes (SHA-256) are duplicates")
    exact_pair: bool = Field(
        default=True,
        description="images of equal bytes with equal normalised captions are duplicates; implied by exact_image",
    )
    near_image: bool = Field(
        default=True, description="images whose perceptual hashes differ in at most max_distance bits are duplicates"
    )
    max_distance: int = Field(
        default=4, ge=0, le=15, description="bits of 64 in which the hashes of near-duplicates may differ"
    )
    min_bits: int = Field(
        default=8,
        ge=0,
        le=32,
        description="a hash with fewer ones or fewer zeros (bits) belongs to a flat picture, which is compared by "
        "its bytes only",
    )
    score: str = Field(
        default=PIXELS, description="numeric column that ranks duplicates: the highest stays, then the smallest uid"
    )
    name: str = Field(
        default="default", pattern=r"^[A-Za-z0-9_-]+$", description="name of the selection that is written"
    )


#: Schema of `survivors`: one line for each row that is to be dropped.
LOSERS = pa.schema(
    [
        ("uid", pa.string()),
        ("shard", pa.int32()),
        ("row", pa.int32()),
        ("reason", pa.string()),
        ("survivor", pa.string()),  # uid of the row that stays in its place
    ]
)


def exact_edges(rows: pa.Table, *, config: DeduplicateConfig) -> pa.Table:
    """Edges between rows of equal sha256, or of equal sha256 and caption if only pairs count; schema `EDGES`.

    rows: schema `ROWS`, with all rows of each sha256 that occurs.
    """
    if not (config.exact_image or config.exact_pair):
        return EDGES.empty_table()
    rows = rows.filter(pc.is_valid(rows["sha256"]))
    groups = _codes(rows["sha256"])
    if not config.exact_image:
        groups = combined(groups, _codes(rows["caption_digest"]))
    return edges_between(rows, *stars(groups))


def survivors(edges: pa.Table) -> pa.Table:
    """All rows but the best of each connected component, ordered by shard and row; schema `LOSERS`.

    edges: schema `EDGES`, of all kinds and partitions together, in any order.

    The reason of a row: duplicate_pair if a better one of its component has the same bytes and caption, else
    duplicate_image if a better one has the same bytes, else near_duplicate_image.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if not edges.num_rows:
        return LOSERS.empty_table()
    ends = pa.concat_tables(
        [edges.select([f"{end}_{name}" for name in ENDPOINT]).rename_columns(ENDPOINT) for end in "ab"]
    )
    place = ends["shard"].to_numpy().astype(np.int64) << 32 | ends["row"].to_numpy()
    _, first, node = np.unique(place, return_index=True, return_inverse=True)
    a, b = node.reshape(2, -1)
    graph = coo_array((np.ones(len(a), dtype=np.int8), (a, b)), shape=(len(first), len(first)))
    _, component = connected_components(graph, directed=False)

    nodes = ends.take(pa.array(first)).append_column("component", pa.array(component))
    # Arrow puts a missing score behind every other.
    nodes = nodes.sort_by([("component", "ascending"), ("score", "descending"), ("uid", "ascending")])
    component = nodes["component"].to_numpy()
    image = combined(component, _codes(nodes["sha256"]))
    pair = combined(image, _codes(nodes["caption_digest"]))
    reason = np.full(len(component), "near_duplicate_image", dtype=object)
    reason[stars(image)[1]] = "duplicate_image"
    reason[stars(pair)[1]] = "duplicate_pair"

    best, losers = stars(component)
    found = nodes.take(pa.array(losers)).select(["uid", "shard", "row"])
    found = found.append_column("reason", pa.array(reason[losers], pa.string()))
    found = found.append_column("survivor", nodes["uid"].take(pa.array(best)))
    return found.cast(LOSERS).sort_by([("shard", "ascending"), ("row", "ascending")])


def find_losers(rows: pa.Table, *, config: DeduplicateConfig) -> pa.Table:
    """The whole of the step, for rows that fit in memory; schemas `ROWS` and `LOSERS`.

    What the driver does over a cluster gives the same.
    """
    assert rows.schema.names == ROWS.names
    edges = [exact_edges(rows, config=config)]
    if config.near_image:
        banded = bands(rows, max_distance=config.max_distance, min_bits=config.min_bits)
        edges.append(near_edges(banded, max_distance=config.max_distance))
    return survivors(pa.concat_tables(edges))


def _codes(column: pa.ChunkedArray) -> Indices:
    """A number for each value, equal for equal values; a missing value equals a missing value."""
    encoded = column.combine_chunks().dictionary_encode(null_encoding="encode")
    codes: Indices = encoded.indices.to_numpy().astype(np.int64)
    return codes
