"""Recall of retrieval both ways, with several texts an image and several images a text, by language and by kind.

    texts (one row an occurrence: text, its image, language, kind)
      → pool: the texts and the images of a subset of the occurrences, with their positive pairs
      → ranks of the best positive, both ways → recall@k, chance, and rank variance over languages and kinds

Metric names are CLIP_benchmark's: `image_retrieval_recall@k` asks with a text for its images, `text_retrieval_recall@k`
asks with an image for its texts; a hit is any positive in the top k (Karpathy & Fei-Fei 2015, and CLIP).  A prefix
names the subset: `language_zh/…`, `kind_long/…` (long-text retrieval).  A subset is measured as a dataset of its own:
only its texts, and only the images that have one.

As there, each occurrence of a text is a text of its own, even where equal texts describe several images, which no model
can tell apart; so are images whose pictures are equal; and an image without a text is among the images, and is a query
that finds none.  Where there are equal texts, `distinct_texts/…` has the numbers with those as one key with several
positives.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pairmill.errors import IntegrityError
from training.evaluate.rank_variance import mean_rank_variance
from training.evaluate.ranks import hits, positive_ranks, positives_of


class Pool(NamedTuple):
    """Some images, some texts, and which belong together.

    image_I, text_U: int64, rows of the embedding matrices.  image_P, text_P: int64, positive pairs as positions in
    `image_I` and `text_U`.  same_I, key_U: int64, equal images and texts have the same; None: they are distinct.
    """

    image_I: Tensor
    text_U: Tensor
    image_P: Tensor
    text_P: Tensor
    same_I: Tensor | None = None
    key_U: Tensor | None = None


def recall_metrics(
    image_ND: Tensor,
    text_MD: Tensor,
    text_to_image_M: Tensor,
    language_M: Sequence[str],
    kind_M: Sequence[str],
    ks: Sequence[int] = (1, 5, 10),
    *,
    key_M: Tensor | None = None,
    same_N: Tensor | None = None,
) -> dict[str, float]:
    """Recall@k of all texts, of each language and of each kind (where there are several), and of distinct texts.

    image_ND, text_MD: float32, unit rows, one device.  Row m of `text_MD` is a text of image `text_to_image_M[m]`
    (int64) in `language_M[m]` and of kind `kind_M[m]`.  key_M, same_N (int64): equal numbers are equal texts and equal
    images (see above), and the embedding of the first stands for all.  Without them no two are equal.

    `image_retrieval_chance@1`, `text_retrieval_chance@1`: expected recall@1 of a random order (`chance_recall`).
    """
    image_M, key_M = _located(image_ND, text_MD, text_to_image_M, language_M, kind_M, key_M)
    same_N = None if same_N is None else same_N.to(image_ND.device)
    every_M = torch.ones_like(image_M, dtype=torch.bool)
    image_I, text_U = (torch.arange(len(rows), device=rows.device) for rows in (image_ND, text_MD))
    metrics = _recalls(image_ND, text_MD, Pool(image_I, text_U, image_M, text_U, same_N, key_M), ks)
    for facet, masks in _facets(language_M, kind_M, image_ND.device):
        for value, mask_M in masks.items():
            found = _recalls(image_ND, text_MD, occurrences_of(mask_M, image_M, key_M, same_N), ks)
            metrics |= {f"{facet}_{value}/{name}": number for name, number in found.items()}
    if len(torch.unique(key_M)) < len(key_M):
        pool = pool_of(every_M, image_M, key_M)
        pool = pool._replace(image_I=image_I, image_P=pool.image_I[pool.image_P], same_I=same_N)
        found = _recalls(image_ND, text_MD, pool, ks)
        metrics |= {f"distinct_texts/{name}": number for name, number in found.items()}
    return metrics


def rank_variance_metrics(
    image_ND: Tensor,
    text_MD: Tensor,
    text_to_image_M: Tensor,
    language_M: Sequence[str],
    kind_M: Sequence[str],
    *,
    key_M: Tensor | None = None,
) -> dict[str, float]:
    """`rank_variance` over languages and over kinds, where there are several; arguments as of `recall_metrics`.

    `mrv_language/…`, `mrv_kind/…`: over the images that have a text in every language (kind), each language ranked
    among its own texts; `text_retrieval_*`, `image_retrieval_*`, their mean, and `instances`.
    """
    image_M, key_M = _located(image_ND, text_MD, text_to_image_M, language_M, kind_M, key_M)
    metrics: dict[str, float] = {}
    for facet, masks in _facets(language_M, kind_M, image_ND.device):
        variance = _rank_variance(image_ND, text_MD, masks, image_M, key_M)
        metrics |= {f"mrv_{facet}/{name}": number for name, number in variance.items()}
    return metrics


def _located(
    image_ND: Tensor,
    text_MD: Tensor,
    text_to_image_M: Tensor,
    language_M: Sequence[str],
    kind_M: Sequence[str],
    key_M: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """`text_to_image_M` and `key_M` where the images are."""
    if not len(text_MD) == len(text_to_image_M) == len(language_M) == len(kind_M):
        raise IntegrityError(
            f"texts must be as many as their images, languages and kinds: {len(text_MD)}, {len(text_to_image_M)}, "
            f"{len(language_M)}, {len(kind_M)}"
        )
    device = image_ND.device
    return text_to_image_M.to(device), torch.arange(len(text_MD), device=device) if key_M is None else key_M.to(device)


def _facets(
    language_M: Sequence[str], kind_M: Sequence[str], device: torch.device
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Languages and kinds where there are several, each value with the mask of its texts, bool [M]."""
    for facet, values in (("language", language_M), ("kind", kind_M)):
        array_M = np.asarray(values)
        masks = {value: torch.from_numpy(array_M == value).to(device) for value in sorted(set(values))}
        if len(masks) > 1:
            yield facet, masks


def occurrences_of(mask_M: Tensor, image_M: Tensor, key_M: Tensor, same_N: Tensor | None) -> Pool:
    """The text occurrences where `mask_M` is true, each as a text of its own, and their images."""
    row_S = mask_M.nonzero()[:, 0]
    image_I, image_P = torch.unique(image_M[row_S], return_inverse=True)
    same_I = None if same_N is None else same_N[image_I]
    return Pool(image_I, row_S, image_P, torch.arange(len(row_S), device=row_S.device), same_I, key_M[row_S])


def pool_of(mask_M: Tensor, image_M: Tensor, key_M: Tensor) -> Pool:
    """The distinct texts of the occurrences where `mask_M` is true, and their images."""
    row_S = mask_M.nonzero()[:, 0]
    image_I, image_P = torch.unique(image_M[row_S], return_inverse=True)
    keys, text_P = torch.unique(key_M[row_S], return_inverse=True)
    text_U = torch.full((len(keys),), len(key_M), device=key_M.device)
    text_U.scatter_reduce_(0, text_P, row_S, "amin")
    return Pool(image_I, text_U, image_P, text_P)


def chance_recall(positives_N: Tensor, keys: int, k: int) -> float:
    """Expected recall@k of a random order of `keys`: the mean over queries of 1 - C(M - P, k) / C(M, k).

    positives_N: int64, positives P of each query.  For one positive each it is k / M.
    """
    if k >= keys:
        return float((positives_N > 0).double().mean())
    left_N = (keys - positives_N).double()
    missed_N = torch.ones_like(left_N)
    for drawn in range(k):
        missed_N *= ((left_N - drawn) / (keys - drawn)).clamp(min=0)
    return float(1 - missed_N.mean())


def _recalls(image_ND: Tensor, text_MD: Tensor, pool: Pool, ks: Sequence[int]) -> dict[str, float]:
    image_ID, text_UD = image_ND[pool.image_I], text_MD[pool.text_U]
    metrics: dict[str, float] = {}
    for name, queries, keys, query_P, key_P, same_M in (
        ("text_retrieval", image_ID, text_UD, pool.image_P, pool.text_P, pool.key_U),
        ("image_retrieval", text_UD, image_ID, pool.text_P, pool.image_P, pool.same_I),
    ):
        positives = positives_of(query_P, key_P, len(queries), len(keys))
        hit_KN = hits(queries, keys, positives, ks, same_M=same_M)
        metrics |= {f"{name}_recall@{k}": float(hit_N.double().mean()) for k, hit_N in zip(ks, hit_KN, strict=True)}
        metrics[f"{name}_chance@1"] = chance_recall(positives.counts, len(keys), 1)
    return metrics


def _rank_variance(
    image_ND: Tensor, text_MD: Tensor, masks: Mapping[str, Tensor], image_M: Tensor, key_M: Tensor
) -> dict[str, float]:
    """MRV both ways and its mean; {"instances": 0} if no image has a text of every value.

    An image with several texts of one value has the rank of its best one, as in recall.
    """
    complete_N = torch.ones(len(image_ND), dtype=torch.bool, device=image_ND.device)
    for mask_M in masks.values():
        complete_N &= torch.bincount(image_M[mask_M], minlength=len(image_ND)) > 0
    instances = int(complete_N.sum())
    if not instances:
        return {"instances": 0.0}
    text_ranks, image_ranks = [], []
    for mask_M in masks.values():
        pool = pool_of(mask_M & complete_N[image_M], image_M, key_M)
        image_ID, text_UD = image_ND[pool.image_I], text_MD[pool.text_U]
        to_text = positives_of(pool.image_P, pool.text_P, instances, len(text_UD))
        text_ranks.append(positive_ranks(image_ID, text_UD, to_text).best_N)
        to_image = positives_of(pool.text_P, pool.image_P, len(text_UD), instances)
        of_text_U = positive_ranks(text_UD, image_ID, to_image).best_N
        of_image_I = torch.full_like(text_ranks[-1], instances + 1)
        image_ranks.append(of_image_I.scatter_reduce(0, pool.image_P, of_text_U[pool.text_P], "amin"))
    by_text = mean_rank_variance(torch.stack(text_ranks, 1))
    by_image = mean_rank_variance(torch.stack(image_ranks, 1))
    return (
        {f"text_retrieval_{name}": number for name, number in by_text.items()}
        | {f"image_retrieval_{name}": number for name, number in by_image.items()}
        | {name: (by_text[name] + by_image[name]) / 2 for name in by_text}
        | {"instances": float(instances)}
    )
