"""Edges: the one currency of deduplication.

Every kind of duplicate (equal bytes, near images; later MinHash, embeddings) is found by its own function, which takes
rows that were brought together by some key and returns an edge table.  `survivors` (deduplicate) takes the
edges of all kinds together.  Only connected components matter: which member of a group is the centre of its star, and
in which direction an edge points, changes nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Indices = npt.NDArray[np.int64]

#: What the search for duplicates needs to know of a row; live rows with an image only.
ROWS = pa.schema(
    [
        ("uid", pa.string()),
        ("shard", pa.int32()),
        ("row", pa.int32()),  # position in the shard
        ("sha256", pa.string()),  # hex, of the original bytes
        ("phash", pa.uint64()),
        ("caption_digest", pa.int64()),  # of the normalised caption
        ("score", pa.float64()),  # the higher, the better; a missing one is the worst
    ]
)

#: What an edge carries of each of its two rows, so that no join back to the rows is needed.  Of sha256 it has the first
#: 16 digits: it is compared within one component only, where 64 bits do not collide.
ENDPOINT = ("uid", "shard", "row", "sha256", "caption_digest", "score")
_SHA256_DIGITS = 16

EDGES = pa.schema([pa.field(f"{end}_{name}", ROWS.field(name).type) for end in "ab" for name in ENDPOINT])


def edges_between(rows: pa.Table, a: Indices, b: Indices) -> pa.Table:
    """One edge from row a[i] to row b[i] of `rows` (columns `ENDPOINT`) for each i; schema `EDGES`."""
    columns = {}
    for end, indices in (("a", a), ("b", b)):
        picked = rows.select(ENDPOINT).take(pa.array(indices))
        for name in ENDPOINT:
            column = picked[name]
            columns[f"{end}_{name}"] = (
                pc.utf8_slice_codeunits(column, 0, _SHA256_DIGITS) if name == "sha256" else column
            )
    return pa.table(columns, schema=EDGES)


def stars(groups: npt.NDArray[Any]) -> tuple[Indices, Indices]:
    """Edges (a, b) from the first row of each group to its other rows: n - 1 for a group of n.

    groups: [n], the group of each row, as any sortable value.
    """
    _, first, inverse = np.unique(groups, return_index=True, return_inverse=True)
    centre = first[inverse.reshape(-1)]
    others = np.flatnonzero(centre != np.arange(len(groups)))
    return centre[others], others


def combined(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> Indices:
    """Group of each row when both keys must agree: dense numbers from 0, for `stars` or for combining further."""
    _, one_code = np.unique(one, return_inverse=True)
    _, other_code = np.unique(other, return_inverse=True)
    # Codes are below the number of rows, which is below 2^31, so the product fits.
    both = one_code.reshape(-1) * (int(other_code.max(initial=0)) + 1) + other_code.reshape(-1)
    codes: Indices = np.unique(both, return_inverse=True)[1].reshape(-1)
    return codes
