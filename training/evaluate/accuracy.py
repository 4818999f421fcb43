"""Accuracy of zero-shot classification.

Shapes: N images, C classes, D embedding.
"""

from __future__ import annotations

import torch
from torch import Tensor

from training.evaluate.ranks import firsts, positive_ranks, positives_of
from training.precision import full_precision

#: Images whose logits are in memory at a time.
_IMAGE_CHUNK = 1024


def accuracy_metrics(image_ND: Tensor, class_CD: Tensor, label_N: Tensor, name_C: Tensor) -> dict[str, float]:
    """Fractions, by CLIP_benchmark's names; label_N is int64, the class of each image.

    name_C: int64, classes of one number have the same name to the tokenizer, as two pairs of ImageNet's have.
    acc1, acc5: the true class is the nearest, among the five nearest (acc5 only with five classes or more).  Ties count
    as wrong (`ranks`), except among classes of one name: there torch's `topk` chooses, as in CLIP_benchmark 1.6.
    mean_per_class_recall: share of the images of a class that are nearest to it (the first class of that name),
    averaged over the classes that have images.  chance: 1 / C, the expected acc1 of a random guess.
    """
    classes = len(class_CD)
    if len(torch.unique(name_C)) < classes:
        first_N, five_N, nearest_N = _by_name(image_ND, class_CD, label_N, name_C)
    else:
        row_N = torch.arange(len(label_N), device=label_N.device)
        positives = positives_of(row_N, label_N, len(label_N), classes)
        rank_N = positive_ranks(image_ND, class_CD, positives).best_N
        first_N, five_N, nearest_N = rank_N <= 1, rank_N <= 5, rank_N <= 1
    images_C = torch.bincount(label_N, minlength=classes)
    recall_C = torch.bincount(label_N, weights=nearest_N.double(), minlength=classes) / images_C
    metrics = {"acc1": float(first_N.double().mean())}
    if classes >= 5:
        metrics["acc5"] = float(five_N.double().mean())
    metrics["mean_per_class_recall"] = float(recall_C[images_C > 0].mean())
    metrics["chance"] = 1 / classes
    return metrics


def _by_name(image_ND: Tensor, class_CD: Tensor, label_N: Tensor, name_C: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Whether the true class is chosen first by `topk`, among the first five, and first by `argmax`; bool [N] each.

    CLIP_benchmark takes acc1 from the same `topk` as acc5, and which of equal scores that puts first depends on its k.
    """
    first_of_C, names = firsts(name_C)
    row_N = torch.arange(len(label_N), device=label_N.device)
    # Among names, which are distinct, ties count as wrong as everywhere.
    positives = positives_of(row_N, names[label_N], len(label_N), len(first_of_C))
    rank_N = positive_ranks(image_ND, class_CD[first_of_C], positives).best_N
    chosen: list[tuple[Tensor, Tensor, Tensor]] = []
    with full_precision(image_ND.device):
        for at in range(0, len(label_N), _IMAGE_CHUNK):
            part = slice(at, at + _IMAGE_CHUNK)
            logits = 100.0 * image_ND[part] @ class_CD.T
            top = logits.topk(5 if len(class_CD) >= 5 else 1, dim=1).indices
            own = label_N[part, None]
            chosen.append((top[:, 0] == own[:, 0], (top == own).any(1), logits.argmax(1) == own[:, 0]))
    first_N, five_N, nearest_N = (torch.cat(parts) for parts in zip(*chosen, strict=True))
    return first_N & (rank_N <= 1), five_N & (rank_N <= 5), nearest_N & (rank_N <= 1)
