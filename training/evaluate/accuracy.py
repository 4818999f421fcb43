"""Accuracy of zero-shot classification.

Shapes: N images, C classes, D embedding.
"""

from __future__ import annotations

import torch
from torch import Tensor

from training.evaluate.ranks import positive_ranks, positives_of


def accuracy_metrics(image_ND: Tensor, class_CD: Tensor, label_N: Tensor) -> dict[str, float]:
    """Fractions, by CLIP_benchmark's names; label_N is int64, the class of each image.

    acc1, acc5: the true class is the nearest, among the five nearest (acc5 only with five classes or more).  Ties count
    as wrong (`ranks`).  mean_per_class_recall: acc1 of each class that has images, averaged over those classes.
    chance: 1 / C, the expected acc1 of a random guess.
    """
    classes = len(class_CD)
    row_N = torch.arange(len(label_N), device=label_N.device)
    rank_N = positive_ranks(image_ND, class_CD, positives_of(row_N, label_N, len(label_N), classes)).best_N
    right_N = (rank_N <= 1).double()
    images_C = torch.bincount(label_N, minlength=classes)
    recall_C = torch.bincount(label_N, weights=right_N, minlength=classes) / images_C
    metrics = {"acc1": float(right_N.mean())}
    if classes >= 5:
        metrics["acc5"] = float((rank_N <= 5).double().mean())
    metrics["mean_per_class_recall"] = float(recall_C[images_C > 0].mean())
    metrics["chance"] = 1 / classes
    return metrics
