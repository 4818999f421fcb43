"""Zero-shot classification: an image has the class whose averaged prompt embedding is nearest (Radford et al. 2021).

    class names × templates → prompts → unit embeddings → mean → unit classifier row a class
    image embeddings × classifier → rank of the true class → acc1, acc5, mean per-class recall

Shapes: N images, C classes, T templates, D embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from pairmill.errors import RecipeError
from training.evaluate.prompts import fill
from training.evaluate.ranks import positive_ranks, positives_of


def classifier_weights(
    embed: Callable[[list[str]], Tensor], class_names: Sequence[str], templates: Sequence[str], batch_size: int = 256
) -> Tensor:
    """Classifier float32 [C, D]: every prompt's unit embedding, averaged over the templates, made unit again.

    embed: texts to unit embeddings float32 [n, D].  About `batch_size` prompts are embedded at a time, whole classes
    together, so memory does not grow with C·T.  The recipe of OpenAI's CLIP notebook, in open_clip as well.
    """
    classes = max(1, batch_size // len(templates))
    weights = []
    for first in range(0, len(class_names), classes):
        names = class_names[first : first + classes]
        prompts_D = embed([fill(template, name) for name in names for template in templates])
        weights.append(normalize(prompts_D.view(len(names), len(templates), -1).mean(1), dim=-1))
    return torch.cat(weights)


def zero_shot_metrics(image_ND: Tensor, weights_CD: Tensor, label_N: Tensor) -> dict[str, float]:
    """Fractions, by CLIP_benchmark's names; label_N is int64, the class of each image.

    acc1, acc5: the true class is the nearest, among the five nearest (acc5 only with five classes or more).  Ties count
    as wrong (`ranks`).  mean_per_class_recall: acc1 of each class that has images, averaged over those classes.
    chance: 1 / C, the expected acc1 of a random guess.
    """
    classes = len(weights_CD)
    row_N = torch.arange(len(label_N), device=label_N.device)
    rank_N = positive_ranks(image_ND, weights_CD, positives_of(row_N, label_N, len(label_N), classes)).best_N
    right_N = (rank_N <= 1).double()
    images_C = torch.bincount(label_N, minlength=classes)
    recall_C = torch.bincount(label_N, weights=right_N, minlength=classes) / images_C
    metrics = {"acc1": float(right_N.mean())}
    if classes >= 5:
        metrics["acc5"] = float((rank_N <= 5).double().mean())
    metrics["mean_per_class_recall"] = float(recall_C[images_C > 0].mean())
    metrics["chance"] = 1 / classes
    return metrics


class Labels:
    """The class of a row, from its texts."""

    def __init__(self, class_names: dict[str, list[str]], by: str) -> None:
        """by: `name` (a text equals a class name in any language, case and outer space apart) or `index` (0-based).

        Raises RecipeError if two classes share a name, since then a name is no label.
        """
        self._classes = len(next(iter(class_names.values())))
        self._of: dict[str, int] | None = None
        if by == "index":
            return
        self._of = {}
        for names in class_names.values():
            for label, name in enumerate(names):
                other = self._of.setdefault(_folded(name), label)
                if other != label:
                    raise RecipeError(
                        "class names differ from each other where a row's class is given by name",
                        value=f"{name!r} is class {other} and class {label}",
                        fix="rename one, or give classes by number with `label: index`",
                    )

    def __call__(self, texts: Sequence[str]) -> int | None:
        """The class of the first text that names one; None if none does."""
        for text in texts:
            if self._of is not None:
                label = self._of.get(_folded(text))
            else:
                label = int(text) if text.strip().isdecimal() else None
            if label is not None and label < self._classes:
                return label
        return None


def _folded(name: str) -> str:
    return name.strip().casefold()
