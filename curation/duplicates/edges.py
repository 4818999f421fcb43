"""Edges: the common form of every kind of duplicate.

Every kind finds its own edges, among rows that some key brought together.  `survivors` (deduplicate)
takes the edges of all kinds together.  Only connected components matter: which member of a group is the centre of its
star, and which way an edge points, makes no difference.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curation.duplicates.kinds import Indices

#: What an edge carries of each of its two rows, so that no join back to the rows is needed.
ENDPOINT = pa.schema(
    [
        ("uid", pa.string()),
        ("shard", pa.int32()),
        ("row", pa.int32()),  # position in the shard
        ("score", pa.float64()),  # higher is better; a missing one is the worst
    ]
)

#: `kind` is the position of the edge's kind among the active ones, strongest first.
EDGES = pa.schema(
    [("kind", pa.int8()), *(pa.field(f"{end}_{field.name}", field.type) for end in "ab" for field in ENDPOINT)]
)


def edges_between(rows: pa.Table, a: Indices, b: Indices, *, kind: int) -> pa.Table:
    """One edge from row a[i] to row b[i] of `rows` (columns `ENDPOINT`) for each i; schema `EDGES`."""
    columns = {"kind": pa.repeat(pa.scalar(kind, pa.int8()), len(a))}
    for end, indices in (("a", a), ("b", b)):
        picked = rows.select(ENDPOINT.names).take(pa.array(indices))
        columns |= {f"{end}_{name}": picked[name] for name in ENDPOINT.names}
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
