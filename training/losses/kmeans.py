"""k-means of points that every rank has alike: the ranks share the work, and all get the same bits.

N points, C clusters, E dimensions.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812  torch's own name for it
from torch import Tensor

from training.gather import Exchange

#: Share of the squared distance by which a restart must be better: equal clusters in another order are not, whatever
#: the rounding of the sums, which depends on the number of ranks.
_ALIKE = 1e-6


class Clusters(NamedTuple):
    """What k-means found."""

    centroid_CE: Tensor
    label_N: Tensor  #: int64, the nearest centroid of each point


def clusters(
    point_NE: Tensor,
    count: int,
    *,
    iterations: int,
    restarts: int,
    seed: int,
    exchange: Exchange,
    tile: tuple[int, int],
) -> Clusters:
    """Lloyd's algorithm from `count` of the points, drawn by the seed; of `restarts` the one of least squared distance.

    A cluster without points keeps its centroid.  Every rank gives the same points, and computes a share of them: a
    collective call.  Sums are float64 and of an order that is always the same.
    """
    share = -(-len(point_NE) // exchange.world)
    first = exchange.rank * share
    own_nE = point_NE[first : first + share]
    random = torch.Generator().manual_seed(seed)
    best, least = None, None
    for _ in range(restarts):
        drawn = torch.randperm(len(point_NE), generator=random)[:count]
        centroid_CE = point_NE[drawn.to(point_NE.device)]
        for _ in range(iterations):
            label_n, _ = nearest(own_nE, centroid_CE, tile)
            sums, number = sums_by_label(own_nE, label_n, count)
            total, number_C = exchange.total(sums), exchange.total(number)
            mean_CE = (total / number_C.clamp(min=1)[:, None]).to(centroid_CE.dtype)
            centroid_CE = torch.where(number_C[:, None] > 0, mean_CE, centroid_CE)
        label_n, distance_n = nearest(own_nE, centroid_CE, tile)
        far = exchange.total(distance_n.double().sum())
        if least is None or far < least * (1 - _ALIKE):
            padded_n = F.pad(label_n, (0, share - len(label_n)))
            best, least = Clusters(centroid_CE, exchange.everyone(padded_n)[: len(point_NE)]), far
    if best is None:
        raise ValueError(f"restarts must be 1 or more: {restarts}")
    return best


def means_by_label(value_NE: Tensor, label_N: Tensor, count: int) -> Tensor:
    """The mean of the values of each label [C, E]; zeros for a label without any."""
    sums, number = sums_by_label(value_NE, label_N, count)
    return (sums / number.clamp(min=1)[:, None]).to(value_NE.dtype)


def sums_by_label(value_NE: Tensor, label_N: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Sums of the values of each label, float64 [C, E], and how many there are, int64 [C]."""
    number = torch.bincount(label_N, minlength=count)
    # Sorted, because scattered sums on a GPU are of any order.
    ordered = value_NE[label_N.argsort(stable=True)].double()
    return torch.segment_reduce(ordered, "sum", lengths=number, initial=0.0), number


def nearest(point_NE: Tensor, centroid_CE: Tensor, tile: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The nearest centroid of each point [N], the first of equal ones, and the squared distance to it."""
    labels, distances = [], []
    size_C = centroid_CE.square().sum(1)
    for some in torch.split(point_NE, tile[0]):
        label = torch.zeros(len(some), dtype=torch.int64, device=some.device)
        least = torch.full_like(label, torch.inf, dtype=point_NE.dtype)
        for first in range(0, len(centroid_CE), tile[1]):
            there = slice(first, first + tile[1])
            near, at = (size_C[there] - 2 * (some @ centroid_CE[there].T)).min(1)
            label = torch.where(near < least, at + first, label)
            least = torch.minimum(near, least)
        labels.append(label)
        distances.append((least + some.square().sum(1)).clamp(min=0))
    return torch.cat(labels), torch.cat(distances)
