"""The rank of every positive among all keys: the one primitive under retrieval recall, rank variance and accuracy.

queries × keys is walked in blocks, so memory is O(query_chunk · key_chunk), whatever the number of queries and keys.

Ties are pessimistic: a key that is no positive of the query and scores as high as a positive goes before it.  Hence a
constant model has recall 0, not 1, and the order of the keys never decides.  The exception are keys that are equal by
nature (the same text given for two images): no model can tell them apart, so the first of them goes first, as in
CLIP_benchmark.  "As high" means within `TIE`: scores are float64, in which only equal keys come so near.  A score that
is not a number counts as higher than every positive.

Shapes: N queries, M keys, P positive pairs (query, key), D embedding.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from training.precision import full_precision

#: More than the rounding of a float64 dot product of unit vectors (about sqrt(D) · 2^-53), and much less than that of
#: the float32 embeddings: what CLIP_benchmark's float32 scores tell apart is told apart here.
TIE = 1e-12

QUERY_CHUNK = 1024
KEY_CHUNK = 8192


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
    same_M: Tensor | None = None,
) -> Ranks:
    """Rank of each positive by dot product, highest first.

    queries_ND, keys_MD: float32, unit rows, on one device; positives: on the same device.
    same_M: int64, keys of one number are equal by nature; None: no two are.
    A positive's rank is 1 + the keys that are no positives of its query and score higher or tie + the positives of its
    query that come before it (higher score first, equal scores by key).  So `best_N <= k` says "some positive is among
    the top k", the hit of CLIP-like papers.
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
                    if same_M is not None:
                        equal = same_M[k:k_end] == same_M[key_P[part], None]
                        behind |= equal & (torch.arange(k, k_end, device=equal.device) > key_P[part, None])
                    ahead_P[part] += (~behind).sum(1)
    each_P = (1 + ahead_P + _place_among_positives(query_P, score_P, positives.indptr)).clamp(max=keys)
    best_N = torch.full((queries,), keys + 1, dtype=torch.int64, device=queries_ND.device)
    best_N.scatter_reduce_(0, query_P, each_P, "amin")
    return Ranks(best_N, each_P)


def _place_among_positives(query_P: Tensor, score_P: Tensor, indptr: Tensor) -> Tensor:
    """How many positives of its own query come before each positive; int64 [P]."""
    by_score = torch.argsort(score_P, descending=True, stable=True)
    order = by_score[torch.argsort(query_P[by_score], stable=True)]
    place_P = torch.empty_like(query_P)
    place_P[order] = torch.arange(len(order), device=order.device) - indptr[query_P[order]]
    return place_P
