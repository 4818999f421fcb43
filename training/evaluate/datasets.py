"""The datasets and the metrics of a recipe, made and checked without a model."""

from __future__ import annotations

from pairmill.errors import RecipeError
from training.evaluate.config import EvaluateConfig
from training.evaluate.dataset_kinds import KINDS, DatasetKind
from training.evaluate.evaluated_rows import open_dataset
from training.evaluate.metrics import METRICS, Metric


def datasets_of(config: EvaluateConfig) -> dict[str, DatasetKind]:
    """Every dataset of the recipe, in its order, as its kind."""
    return {name: KINDS.get(dataset.kind.name)(name, dataset, config) for name, dataset in config.datasets.items()}


def metrics_of(config: EvaluateConfig) -> dict[str, Metric]:
    """The metrics of the recipe by name, in its order.

    Raises RecipeError for one that is named twice, and one that is asked for and measured on no dataset.
    """
    if config.metrics is None:
        return {name: METRICS.get(name)(METRICS.get(name).Config(name=name)) for name in METRICS.names}
    given = [set(KINDS.get(dataset.kind.name).gives) for dataset in config.datasets.values()]
    metrics: dict[str, Metric] = {}
    for chosen in config.metrics:
        metric = METRICS.get(chosen.name)(chosen)
        if chosen.name in metrics:
            raise RecipeError(
                "evaluate.metrics must name each metric once", value=chosen.name, fix="leave the second one out"
            )
        if given and not any(gives.issuperset(metric.needs) for gives in given):
            raise RecipeError(
                f"a dataset of evaluate.datasets must give what a metric needs: {', '.join(metric.needs)}",
                value=chosen.name,
                fix="leave it out of evaluate.metrics, or add a dataset of another kind",
            )
        metrics[chosen.name] = metric
    return metrics


def check_datasets(config: EvaluateConfig) -> None:
    """Open every dataset of the recipe, and check what its kind and the metrics ask for, without a model.

    Raises RecipeError as `evaluate` would.
    """
    metrics_of(config)
    for kind in datasets_of(config).values():
        open_dataset(kind.dataset)
        kind.check()
