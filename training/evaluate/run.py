"""Evaluate a dual encoder on the datasets of a recipe: `evaluate` is what a training run and `pairmill evaluate` call.

    rows (image bytes, texts) → decode, corrupt images counted → image embeddings
    texts or class prompts → text embeddings
    → metrics → records

What the rows of a dataset mean, and how many records it makes, is its kind's; what is measured is the metrics'.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from pairmill.errors import RecipeError
from pairmill.towers.embed import AnyTokenizer, evaluating
from training.evaluate.config import EvaluateConfig
from training.evaluate.datasets import datasets_of, metrics_of
from training.evaluate.encoder import Encoder, Transform
from training.evaluate.metrics import Metric
from training.evaluate.results import Record


def evaluate(
    model: nn.Module,
    tokenize: AnyTokenizer,
    transform: Transform,
    config: EvaluateConfig,
    *,
    device: torch.device | str = "cpu",
    name: str,
    pretrained: str = "",
    autocast: torch.dtype | None = None,
) -> list[Record]:
    """Every dataset of the recipe, in its order.

    model: an open_clip model, on `device`; its modules are in the mode they were in afterwards.  name, pretrained: what
    the records call the model (architecture) and its weights (a tag, a run's step).  autocast: dtype to compute in;
    embeddings are normalised and compared in float32 in any case.
    Raises RecipeError (a key is wrong, a file is missing), InputError (a dataset has nothing to evaluate on).
    """
    encoder = Encoder(
        model, tokenize, transform, torch.device(device), autocast, config.batch_size, config.decode_threads
    )
    metrics = metrics_of(config)
    records: list[Record] = []
    with evaluating(model):
        for dataset_name, kind in datasets_of(config).items():
            for embedded in kind(encoder):
                records.append(
                    Record(
                        dataset=dataset_name,
                        model=name,
                        pretrained=pretrained,
                        task=kind.task,
                        metrics=measured(metrics, embedded.features),
                        language=embedded.language,
                        images=embedded.images,
                        texts=embedded.texts,
                        skipped=embedded.skipped,
                    )
                )
    return records


def measured(metrics: Mapping[str, Metric], features: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of all metrics that find the features they need, in the metrics' order.

    Raises RecipeError if two metrics give numbers of the same name.
    """
    found: dict[str, float] = {}
    for name, metric in metrics.items():
        if not features.keys() >= set(metric.needs):
            continue
        numbers = metric(**{need: features[need] for need in metric.needs})
        if twice := found.keys() & numbers.keys():
            raise RecipeError(
                "metrics must give numbers of different names",
                value=f"{name} gives {min(twice)}, as another metric does",
                fix="rename it, for example with a prefix of its own, or leave one out of evaluate.metrics",
            )
        found |= {key: float(number) for key, number in numbers.items()}
    return found
