"""What an evaluation dataset's classes are called; and whether every dataset can be opened, before a model is."""

from __future__ import annotations

from pairmill.errors import RecipeError
from training.evaluate.config import EvaluateConfig, EvaluateDatasetConfig
from training.evaluate.prompts import class_names_of, templates_of
from training.evaluate.rows import open_dataset


def check_datasets(config: EvaluateConfig) -> None:
    """Open every dataset of the recipe, and read its class names and templates, without a model.

    Raises RecipeError as `evaluate` would.
    """
    for name, dataset in config.datasets.items():
        open_dataset(dataset)
        if dataset.kind != "retrieval":
            class_prompts(name, dataset, config)


def class_prompts(
    name: str, dataset: EvaluateDatasetConfig, config: EvaluateConfig
) -> tuple[dict[str, list[str]], dict[str, tuple[str, ...]]]:
    """Names of the classes, and templates, by language.

    Raises RecipeError if the dataset names no classes, or none in these languages.
    """
    if dataset.class_names is None:
        raise RecipeError(
            "zero-shot evaluation needs class names",
            value=f"evaluate.datasets.{name}.class_names = null",
            fix="name a file of class names, or `imagenet`",
        )
    class_names = class_names_of(dataset.class_names, dataset.languages or config.languages)
    return class_names, {language: templates_of(language, dataset.templates) for language in class_names}
