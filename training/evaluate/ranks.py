"""The rank of every positive among all keys, and whether one is in the top k: under recall, rank variance and accuracy.

queries × keys is walked in blocks, so memory is O(query_chunk · key_chunk), whatever the number of queries and keys.

Ties are pessimistic: a key that is no positive of the query and scores as high as a positive goes before it.  Hence a
constant model has recall 0, not 1, and the order of the keys never decides.  The exception are keys that are equal by
nature (the same text given for two images): no model can tell them apart, so `hits` lets torch's `topk` choose among
them, as CLIP_benchmark does.  "As high" means within `TIE`: scores are float64, in which only equal keys come so near.
A score that is not a number counts as higher than every positive.

Shapes: N queries, M keys, P positive pairs (query, key), D embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from training.precision import full_precision

#: More than the rounding of a float64 dot product of unit vectors (about sqrt(D) · 2^-53), and much less than that of
#: the float32 embeddings: what CLIP_benchmark's float32 scores tell apart is told apart here.
TIE = 1e-12

QUERY_CHUNK = 1024
KEY_CHUNK = 8192

#: Scores that `hits` sorts at a time.
_SORTED = 2**24


class Positives(NamedTuple):
    """Which keys are positives of which query, in compressed sparse rows (both int64).

    The positives of query i are `indices_P[indptr[i] : indptr[i + 1]]`, distinct and ascending; `indptr` has N + 1
    entries.
    """

    indptr: Tensor
    indices_P: Tensor

    @property
    def counts(self) -> Tensor:
        """int64 [N], positives of each query."""
        return self.indptr.diff()


class Ranks(NamedTuple):
    """1-based ranks, int64.

    `best_N` is M + 1 where a query has no positive; `each_P` follows `Positives.indices_P`.
    """

    best_N: Tensor
    each_P: Tensor


def positives_of(query_P: Tensor, key_P: Tensor, queries: int, keys: int) -> Positives:
    """Positives from (query, key) pairs (int64 [P]) in any order; repeated pairs count once."""
    pairs = torch.unique(query_P * max(keys, 1) + key_P)
    query_P, key_P = pairs // max(keys, 1), pairs % max(keys, 1)
    indptr = torch.zeros(queries + 1, dtype=torch.int64, device=query_P.device)
    indptr[1:] = torch.bincount(query_P, minlength=queries).cumsum(0)
    return Positives(indptr, key_P)


@torch.inference_mode()
def positive_ranks(
    queries_ND: Tensor,
    keys_MD: Tensor,
    positives: Positives,
    *,
    query_chunk: int = QUERY_CHUNK,
    key_chunk: int = KEY_CHUNK,
) -> Ranks:
    """Rank of each positive by dot product, highest first.

    queries_ND, keys_MD: float32, unit rows, on one device; positives: on the same device.
    A positive's rank is 1 + the keys that are no positives of its query and score higher or tie + the positives of its
    query that come before it (higher score first, equal scores by key).  So `best_N <= k <= M` says "some positive is
    among the top k", the hit of CLIP-like papers.
    """
    queries, keys = len(queries_ND), len(keys_MD)
    query_P = torch.repeat_interleave(torch.arange(queries, device=queries_ND.device), positives.counts)
    key_P = positives.indices_P
    score_P = torch.empty(len(key_P), device=queries_ND.device, dtype=torch.float64)
    ahead_P = torch.zeros_like(key_P)
    with full_precision(queries_ND.device):
        for p in range(0, len(key_P), query_chunk):
            part = slice(p, p + query_chunk)
            score_P[part] = (queries_ND[query_P[part]].double() * keys_MD[key_P[part]].double()).sum(1)
        for q in range(0, queries, query_chunk):
            q_end = min(q + query_chunk, queries)
            block_ND = queries_ND[q:q_end].double()
            first, last = int(positives.indptr[q]), int(positives.indptr[q_end])
            row_p, column_p = query_P[first:last] - q, key_P[first:last]
            for k in range(0, keys, key_chunk):
                k_end = min(k + key_chunk, keys)
                scores = block_ND @ keys_MD[k:k_end].double().T
                here = (column_p >= k) & (column_p < k_end)
                scores[row_p[here], column_p[here] - k] = -torch.inf
                for p in range(first, last, query_chunk):
                    part = slice(p, min(p + query_chunk, last))
                    # "not lower" rather than "as high": it is also true when either side is not a number.
                    behind = scores[query_P[part] - q] < (score_P[part] - TIE)[:, None]
                    ahead_P[part] += (~behind).sum(1)
    each_P = (1 + ahead_P + _place_among_positives(query_P, score_P, positives.indptr)).clamp(max=keys)
    best_N = torch.full((queries,), keys + 1, dtype=torch.int64, device=queries_ND.device)
    best_N.scatter_reduce_(0, query_P, each_P, "amin")
    return Ranks(best_N, each_P)


@torch.inference_mode()
def hits(
    queries_ND: Tensor, keys_MD: Tensor, positives: Positives, ks: Sequence[int], *, same_M: Tensor | None = None
) -> Tensor:
    """Whether a positive of each query is among its top k, for each of `ks`; bool [len(ks), N].

    queries_ND, keys_MD, positives: as for `positive_ranks`.  same_M: int64, keys of one number are equal by nature, and
    the embedding of the first stands for all; None: no two are.
    """
    if same_M is None or len(torch.unique(same_M)) == len(keys_MD):
        return _by_rank(queries_ND, keys_MD, positives, ks)
    first_C, class_M = firsts(same_M)
    query_P = torch.repeat_interleave(torch.arange(len(queries_ND), device=queries_ND.device), positives.counts)
    drawn_N = torch.zeros(len(queries_ND), dtype=torch.bool, device=queries_ND.device)
    drawn_N[query_P[torch.bincount(class_M)[class_M[positives.indices_P]] > 1]] = True
    hit_KN = torch.empty((len(ks), len(queries_ND)), dtype=torch.bool, device=queries_ND.device)
    # Where no positive has an equal, its rank says it, and others that are equal count one by one.
    plain = (~drawn_N).nonzero()[:, 0]
    hit_KN[:, plain] = _by_rank(queries_ND[plain], keys_MD, _of(positives, plain), ks)
    drawn = drawn_N.nonzero()[:, 0]
    own, block_ND, distinct_CD = _of(positives, drawn), queries_ND[drawn], keys_MD[first_C]
    row_P = torch.repeat_interleave(torch.arange(len(drawn), device=drawn.device), own.counts)
    of_class = positives_of(row_P, class_M[own.indices_P], len(drawn), len(first_C))
    # Among keys that differ, ties are misses as everywhere.
    hit_KN[:, drawn] = _by_rank(block_ND, distinct_CD, of_class, ks) & _by_topk(block_ND, distinct_CD, class_M, own, ks)
    return hit_KN


def _by_rank(queries_ND: Tensor, keys_MD: Tensor, positives: Positives, ks: Sequence[int]) -> Tensor:
    """`hits` of keys that differ."""
    best_N = positive_ranks(queries_ND, keys_MD, positives).best_N
    return (best_N <= torch.tensor(list(ks), device=best_N.device)[:, None]) & (positives.counts > 0)


def _by_topk(
    queries_ND: Tensor, distinct_CD: Tensor, class_M: Tensor, positives: Positives, ks: Sequence[int]
) -> Tensor:
    """`hits` as torch's `topk` gives them; keys_MD is `distinct_CD[class_M]`."""
    hit_KN = torch.zeros((len(ks), len(queries_ND)), dtype=torch.bool, device=queries_ND.device)
    step = max(1, _SORTED // len(class_M))
    for n in range(0, len(queries_ND), step):
        block_ND = queries_ND[n : n + step].double()
        own = _of(positives, torch.arange(n, n + len(block_ND), device=block_ND.device))
        row_P = torch.repeat_interleave(torch.arange(len(block_ND), device=block_ND.device), own.counts)
        with full_precision(block_ND.device):
            # Scores of equal keys are made once, so that they are equal to the last bit.
            scores = torch.cat([block_ND @ part.double().T for part in torch.split(distinct_CD, KEY_CHUNK)], 1)[
                :, class_M
            ]
        is_own = torch.zeros_like(scores, dtype=torch.bool)
        is_own[row_P, own.indices_P] = True
        for at, k in enumerate(ks):
            top = scores.topk(min(k, len(class_M)), dim=1).indices
            hit_KN[at, n : n + step] = is_own.gather(1, top).any(1)
    return hit_KN


def _of(positives: Positives, row_n: Tensor) -> Positives:
    """The positives of some queries."""
    counts = positives.counts[row_n]
    indptr = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    shift = torch.repeat_interleave(positives.indptr[row_n] - indptr[:-1], counts)
    return Positives(indptr, positives.indices_P[shift + torch.arange(len(shift), device=shift.device)])


def firsts(same_M: Tensor) -> tuple[Tensor, Tensor]:
    """The first key of each number, int64 [C], and which of these each key is equal to, int64 [M]."""
    _, class_M = torch.unique(same_M, return_inverse=True)
    first_C = torch.full((int(class_M.max()) + 1,), len(same_M), device=same_M.device)
    first_C.scatter_reduce_(0, class_M, torch.arange(len(same_M), device=same_M.device), "amin")
    return first_C, class_M


def _place_among_positives(query_P: Tensor, score_P: Tensor, indptr: Tensor) -> Tensor:
    """How many positives of its own query come before each positive; int64 [P]."""
    by_score = torch.argsort(score_P, descending=True, stable=True)
    order = by_score[torch.argsort(query_P[by_score], stable=True)]
    place_P = torch.empty_like(query_P)
    place_P[order] = torch.arange(len(order), device=order.device) - indptr[query_P[order]]
    return place_P
