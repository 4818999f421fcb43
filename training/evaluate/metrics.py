"""Metrics of evaluation: which features each needs, its own keys, and the numbers that it makes of them.

A metric is one class in one file and one line in the registry below, or its import path in the recipe.  It is measured
on every dataset whose kind gives the features that it needs (`dataset_kinds` lists them):

    class Spread(Metric):
        "Mean distance of the images from their centroid."

        needs = ("image_ND",)

        def __call__(self, *, image_ND):
            return {"spread": float((image_ND - image_ND.mean(0)).norm(dim=1).mean())}

The arithmetic of those here is in the modules that they import when they are called, so that reading a recipe does not
import torch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, PositiveInt

from pairmill.registry import NamedConfig, Registry, derived_from, require_names

if TYPE_CHECKING:
    from torch import Tensor


class Metric(ABC):
    """Base of every metric.  Config: its own keys.  needs: names of the features that `__call__` takes."""

    Config: ClassVar[type[NamedConfig]] = NamedConfig
    needs: ClassVar[tuple[str, ...]]

    def __init__(self, config: NamedConfig) -> None:
        self.config: Any = config

    @abstractmethod
    def __call__(self, *args: Any, **features: Any) -> dict[str, float]:
        """Numbers by name, of the features in `needs`, as keyword arguments; no other metric may use these names."""


class RecallConfig(NamedConfig):
    """Where recall is taken."""

    at: tuple[PositiveInt, ...] = Field((1, 5, 10), min_length=1, description="k of recall@k")


class Recall(Metric):
    """Retrieval recall@k both ways with its chance: of all texts, of each language, of each kind and of distinct texts.

    `image_retrieval_recall@k` asks with a text for its images, `text_retrieval_recall@k` with an image for its texts.
    """

    Config = RecallConfig
    needs = ("image_ND", "same_N", "text_UD", "image_P", "text_P", "language_P", "kind_P")

    def __call__(
        self,
        *,
        image_ND: Tensor,
        same_N: Tensor,
        text_UD: Tensor,
        image_P: Tensor,
        text_P: Tensor,
        language_P: Sequence[str],
        kind_P: Sequence[str],
    ) -> dict[str, float]:
        """See `recall.recall_metrics`."""
        from training.evaluate.recall import recall_metrics

        texts = text_UD[text_P], image_P, language_P, kind_P
        return recall_metrics(image_ND, *texts, self.config.at, key_M=text_P, same_N=same_N)


class RankVariance(Metric):
    """Mean rank variance over languages and over kinds of text (Nie et al. 2024): is one image ranked alike in all?"""

    needs = ("image_ND", "text_UD", "image_P", "text_P", "language_P", "kind_P")

    def __call__(
        self,
        *,
        image_ND: Tensor,
        text_UD: Tensor,
        image_P: Tensor,
        text_P: Tensor,
        language_P: Sequence[str],
        kind_P: Sequence[str],
    ) -> dict[str, float]:
        """See `recall.rank_variance_metrics`."""
        from training.evaluate.recall import rank_variance_metrics

        return rank_variance_metrics(image_ND, text_UD[text_P], image_P, language_P, kind_P, key_M=text_P)


class Geometry(Metric):
    """Geometry of the two clouds of embeddings: modality gap, alignment, uniformity, effective rank."""

    needs = ("image_ND", "text_UD", "image_P", "text_P")

    def __call__(self, *, image_ND: Tensor, text_UD: Tensor, image_P: Tensor, text_P: Tensor) -> dict[str, float]:
        """See `geometry.geometry_metrics`."""
        from training.evaluate.geometry import geometry_metrics

        found = geometry_metrics(image_ND, text_UD, image_P, text_P)
        return {f"geometry/{name}": number for name, number in found.items()}


class Accuracy(Metric):
    """Accuracy of classification, by CLIP_benchmark's names: acc1, acc5, mean per-class recall, and chance."""

    needs = ("image_ND", "class_CD", "label_N", "name_C")

    def __call__(self, *, image_ND: Tensor, class_CD: Tensor, label_N: Tensor, name_C: Tensor) -> dict[str, float]:
        """See `accuracy.accuracy_metrics`."""
        from training.evaluate.accuracy import accuracy_metrics

        return accuracy_metrics(image_ND, class_CD, label_N, name_C)


def _check_metric(name: str, found: Any) -> None:
    derived_from(Metric, key="evaluate.metrics")(name, found)
    require_names(name, found, "needs", what="a metric of evaluate.metrics", example='("image_ND",)')


METRICS: Registry[type[Metric]] = Registry(
    "evaluate.metrics",
    {
        "recall": f"{__name__}:Recall",
        "rank_variance": f"{__name__}:RankVariance",
        "geometry": f"{__name__}:Geometry",
        "accuracy": f"{__name__}:Accuracy",
    },
    check=_check_metric,
)
