"""Evaluate a dual encoder on the datasets of a recipe: `evaluate` is what a training run and `pairmill evaluate` call.

    rows (image bytes, texts) → decode, corrupt images counted → image embeddings
    texts or class prompts → text embeddings
    → metrics → records

Retrieval makes one record a dataset, zero-shot classification one a dataset and language.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import nn

from pairmill.errors import InputError
from training.evaluate.class_prompts import class_prompts
from training.evaluate.config import EvaluateConfig, EvaluateDatasetConfig
from training.evaluate.embed import evaluating
from training.evaluate.encoder import Encoder, Rows, Tokenizer, Transform
from training.evaluate.geometry import geometry_metrics
from training.evaluate.results import TASKS, Record
from training.evaluate.retrieval import retrieval_metrics
from training.evaluate.rows import chosen_texts, read_rows
from training.evaluate.zero_shot import Labels, classifier_weights, zero_shot_metrics


def evaluate(
    model: nn.Module,
    tokenize: Tokenizer,
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
    records: list[Record] = []
    with evaluating(model):
        for dataset_name, dataset in config.datasets.items():
            measure = _retrieval if dataset.kind == "retrieval" else _zero_shot
            for language, images, texts, metrics, skipped in measure(encoder, dataset_name, dataset, config):
                records.append(
                    Record(
                        dataset=dataset_name,
                        model=name,
                        pretrained=pretrained,
                        task=TASKS[dataset.kind],
                        metrics=metrics,
                        language=language,
                        images=images,
                        texts=texts,
                        skipped=skipped,
                    )
                )
    return records


class Measured(NamedTuple):
    """A record but for the names."""

    language: str
    images: int
    texts: int
    metrics: dict[str, float]
    skipped: dict[str, int]


def _retrieval(
    encoder: Encoder, name: str, dataset: EvaluateDatasetConfig, config: EvaluateConfig
) -> Iterator[Measured]:
    languages = dataset.languages or config.languages
    rows = encoder.rows(
        read_rows(dataset),
        lambda texts: chosen_texts(texts, languages, dataset.kinds) or None,
        reason="no_text",
        max_images=config.max_images,
    )
    _refuse_empty(name, rows, "give it texts of these languages and kinds, or change `languages` or `kinds`")
    occurrences = [(image, text) for image, texts in enumerate(rows.chosen) for text in texts]
    key_of: dict[tuple[str, str], int] = {}
    key_M = torch.tensor([key_of.setdefault((t.text, t.language), len(key_of)) for _, t in occurrences])
    text_UD = encoder.texts([text for text, _ in key_of])
    image_M = torch.tensor([image for image, _ in occurrences])
    language_M = [text.language for _, text in occurrences]
    key_M, image_M = key_M.to(encoder.device), image_M.to(encoder.device)
    metrics = retrieval_metrics(
        rows.image_ND,
        text_UD[key_M],
        image_M,
        language_M,
        [text.kind for _, text in occurrences],
        config.recall_at,
        key_M=key_M,
    )
    geometry = geometry_metrics(rows.image_ND, text_UD, image_M, key_M)
    metrics |= {f"geometry/{key}": number for key, number in geometry.items()}
    yield Measured(",".join(sorted(set(language_M))), len(rows.chosen), len(key_of), metrics, rows.skipped)


def _zero_shot(
    encoder: Encoder, name: str, dataset: EvaluateDatasetConfig, config: EvaluateConfig
) -> Iterator[Measured]:
    class_names, templates = class_prompts(name, dataset, config)
    labels = Labels(class_names, dataset.label)
    rows = encoder.rows(
        read_rows(dataset),
        lambda texts: labels([text.text for text in texts]),
        reason="no_label",
        max_images=config.max_images,
    )
    _refuse_empty(name, rows, "check `class_names` and `label` against the texts of its rows")
    label_N = torch.tensor(rows.chosen, device=encoder.device)
    for language, names in class_names.items():
        weights_CD = classifier_weights(encoder.texts, names, templates[language], encoder.batch_size)
        metrics = zero_shot_metrics(rows.image_ND, weights_CD, label_N)
        prompts = len(names) * len(templates[language])
        yield Measured(language, len(rows.chosen), prompts, metrics, rows.skipped)


def _refuse_empty(name: str, rows: Rows, fix: str) -> None:
    if not rows.chosen:
        counts = ", ".join(f"{reason}: {count}" for reason, count in rows.skipped.items())
        raise InputError(f"evaluate.datasets.{name} has a row to evaluate on", value=counts, fix=fix)
