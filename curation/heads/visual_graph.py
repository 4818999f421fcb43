"""Texts smoothed over pictures that look alike, as CAPro does (Qin et al. 2023, arXiv 2310.09761, section 3).

    R(i)   the pictures j among the k nearest of i that have i among their k nearest, and i itself
    V_ij   exp(-d_ij) for j of R(i), else 0;  d_ij = 1 - cos(x_i, x_j)
    J_ij   sum_l min(V_il, V_jl) / sum_l max(V_il, V_jl): how alike their neighbourhoods are (Zhong et al. 2017)
    A_ij   J_ij for j of R(i), so A_ii = 1
    s'     D^(-1/2) A D^(-1/2) s,  D the sums of A's rows

Shapes: N pictures and texts of D dimensions, k neighbours.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from curation.duplicates.exact_products import exact, exact_pairs

_BLOCK = 512


def smoothed(images: npt.NDArray[np.float16], texts: npt.NDArray[np.float16], k: int) -> npt.NDArray[np.float64]:
    """The smoothed vectors of the texts, [N, D], of unit length."""
    from scipy.sparse import diags_array

    graph = adjacency(images, k)
    scale = diags_array(1 / np.sqrt(np.asarray(graph.sum(axis=1)).reshape(-1)))
    found = (scale @ graph @ scale) @ texts.astype(np.float64)
    length = np.linalg.norm(found, axis=1, keepdims=True)
    unit: npt.NDArray[np.float64] = found / np.where(length > 0, length, 1)
    return unit


def adjacency(images: npt.NDArray[np.float16], k: int) -> Any:
    """A, a sparse matrix [N, N], symmetric, with ones on its diagonal."""
    from scipy.sparse import coo_array

    near = neighbours(images, k)
    n = len(images)
    rows = np.repeat(np.arange(n), near.shape[1])
    forward = coo_array((np.ones(rows.size, np.int8), (rows, near.reshape(-1))), shape=(n, n)).tocsr()
    mutual = forward.multiply(forward.T).tocoo()
    itself = np.arange(n)
    i, j = np.concatenate([mutual.row, itself]), np.concatenate([mutual.col, itself])
    distance = np.where(i == j, 0.0, 1 - exact_pairs(images[i], images[j]))
    weights = coo_array((np.exp(-distance), (i, j)), shape=(n, n)).tocsr()
    sums = np.asarray(weights.sum(axis=1)).reshape(-1)
    shared = np.zeros(len(i))
    for begin in range(0, len(i), 1 << 14):
        part = slice(begin, begin + (1 << 14))
        least = weights[i[part]].minimum(weights[j[part]])
        shared[part] = np.asarray(least.sum(axis=1)).reshape(-1)
    alike = shared / (sums[i] + sums[j] - shared)
    return coo_array((np.where(i == j, 1.0, alike), (i, j)), shape=(n, n)).tocsr()


def neighbours(vectors: npt.NDArray[np.float16], k: int) -> npt.NDArray[np.int64]:
    """The k vectors with the largest products with each, without itself, [N, k] by place; of equal ones, the first."""
    n = len(vectors)
    k = min(k, n - 1)
    found = np.empty((n, k), np.int64)
    for begin in range(0, n, _BLOCK):
        products = exact(vectors[begin : begin + _BLOCK], vectors)
        rows = np.arange(len(products))
        products[rows, begin + rows] = -np.inf
        last = np.partition(products, n - k, axis=1)[:, n - k, None] if k else np.full((len(products), 1), np.inf)
        above, ties = products > last, products == last
        # As many of the ties as are missing, the first of them.
        chosen = above | (ties & (np.cumsum(ties, axis=1) <= k - above.sum(1, keepdims=True)))
        found[begin : begin + _BLOCK] = np.nonzero(chosen)[1].reshape(len(products), k)
    return found
