"""Which rows of a bundle share a batch, where a column of the data decides it: pure functions over its numbers.

    cluster_by      a global batch is of one cluster (MCL, Zhang et al. 2024): negatives that look alike
    keep_together   the rows of a group are in one batch, all on one worker (SaHa, Ju and Lee 2025): mutually hard rows

Neither changes which rows an epoch reads, nor in which bundle a row is: both only order the rows of a bundle.  So each
row is still read once an epoch, nothing is kept from bundle to bundle, and memory does not grow with the data.  The
price is that what is together must be found together:

    cluster_by      the bundles of all lanes at one place are a window of lanes * bundle_rows rows.  A cluster gives it
                    as many pure batches as each lane has whole shares of it; what is left over is laid end to end, by
                    clusters in an order that all lanes have, so that a mixed batch is of a few clusters.  Clusters must
                    be spread over the data, as a crawl is, not one after another
    keep_together   a group is whole if its rows are in one bundle, and are no more than a lane's share of a batch;
                    bundles end where pieces do if one ends near, so of pieces of at most half a bundle none is cut

Shapes: V lanes, R rows of a bundle of one lane (with `cluster_by`, a multiple of its share of a batch), C columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

#: The number of a row that has none.
NONE = -1


class BatchPolicy(NamedTuple):
    """columns: of integers; of several, rows of a cluster agree in all.  groups: `keep_together`, else `cluster_by`."""

    columns: tuple[str, ...]
    groups: bool = False

    @property
    def key(self) -> str:
        """Of the section `data`."""
        return "keep_together" if self.groups else "cluster_by"


def of_one_cluster(
    numbers: Sequence[Ints], lane: int, share: int, common: np.random.Generator | None, own: np.random.Generator | None
) -> Ints:
    """int64 [R]: the rows of a lane's bundle in the order that they are consumed, `share` for each batch.

    numbers: [R, C] of every lane; a row without a number is of a cluster of such rows.
    common: the same in all lanes; own: of this lane; None: nothing is shuffled.
    """
    together = np.concatenate(numbers)
    labels = np.unique(together, axis=0, return_inverse=True)[1].reshape(len(numbers), -1)
    clusters = int(labels.max()) + 1
    counts = np.stack([np.bincount(of_lane, minlength=clusters) for of_lane in labels])
    pure = counts.min(0) // share * share
    places = np.arange(clusters) if common is None else common.permutation(clusters)
    rows = np.arange(labels.shape[1]) if own is None else own.permutation(labels.shape[1])
    rows = rows[np.argsort(places[labels[lane][rows]], kind="stable")]
    of_rows = labels[lane][rows]
    starts = np.zeros(clusters, np.int64)
    found, first = np.unique(of_rows, return_index=True)
    starts[found] = first
    is_pure = np.arange(len(rows)) - starts[of_rows] < pure[of_rows]
    blocks = np.concatenate([rows[is_pure], rows[~is_pure]]).reshape(-1, share)
    return (blocks if common is None else common.permutation(blocks)).reshape(-1)


def of_whole_groups(numbers: Ints, share: int, own: np.random.Generator | None, *, offset: int = 0) -> Ints:
    """int64 [R]: the rows of a bundle in the order that they are consumed, `share` for each batch.

    numbers: [R, C]; a row with NONE anywhere is of no group.  Larger groups are placed first, each in the first batch
    that has room (first fit decreasing); one that fits nowhere, or is larger than `share`, is split.
    offset: rows of the first batch that come from the bundle before.  own: of the lane; None: nothing is shuffled.
    """
    rows = np.arange(len(numbers)) if own is None else own.permutation(len(numbers))
    grouped = rows[(numbers[rows] != NONE).all(1)]
    labels = np.unique(numbers[grouped], axis=0, return_inverse=True)[1].reshape(-1)
    sizes = np.bincount(labels)
    members = np.split(grouped[np.argsort(labels, kind="stable")], np.cumsum(sizes)[:-1]) if len(grouped) else []
    # Groups of one size are placed in the order of their first rows, which is random.
    places = np.argsort(rows)
    members.sort(key=lambda group: int(places[group[0]]))
    parts = [group[at : at + share] for group in members for at in range(0, len(group), share)]
    parts.sort(key=len, reverse=True)
    room = np.diff([0, *range(share - offset, len(rows), share), len(rows)])
    whole = np.flatnonzero(room == share)
    batches: list[list[int]] = [[] for _ in room]
    for part in parts:
        at = int(np.argmax(room >= len(part)))
        if len(part) > 1 and room[at] >= len(part):
            batches[at] += part.tolist()
            room[at] -= len(part)
    placed = np.zeros(len(rows), np.bool_)
    placed[[row for batch in batches for row in batch]] = True
    left = iter(rows[~placed[rows]].tolist())
    for batch, free in zip(batches, room.tolist(), strict=True):
        batch += [next(left) for _ in range(free)]
    order = np.arange(len(batches))
    if own is not None:
        order[whole] = own.permutation(whole)
    return np.array([row for at in order for row in batches[at]], np.int64)
