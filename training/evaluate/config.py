"""The recipe section `evaluate.*`: which datasets, how often during training, and what is measured on each."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from pairmill.config import EXECUTION, Config
from pairmill.registry import ChosenBy, NamedConfig
from training.evaluate.dataset_kinds import KINDS
from training.evaluate.metrics import METRICS

_KIND = ChosenBy(KINDS, default="retrieval")


class EvaluateDatasetConfig(Config):
    """One dataset to evaluate on: any source that training reads, with what its texts mean."""

    path: str = Field(description="curated run, Parquet file or folder, or webdataset tars, as `data.path`")
    selection: str | None = Field(
        None, description="selection of a curated run, as `data.selection`; null: the packed pairs"
    )
    kind: Annotated[NamedConfig, _KIND] = Field(
        default_factory=lambda: _KIND.parse({}),
        description="what texts mean; retrieval: they describe their image; zero_shot: one names the class of its row; "
        "with keys of its own as {name: …, key: …}",
    )
    image_column: str | None = Field(
        None, description="image column of a foreign Parquet file, as `data.image_column`; null: the usual names"
    )
    text_column: str | None = Field(
        None, description="text column of a foreign Parquet file, as `data.text_column`; null: the usual names"
    )
    languages: tuple[str, ...] | None = Field(
        None, description="ISO codes of the texts (or class names) used; null: `evaluate.languages`"
    )


class EvaluateConfig(Config):
    """What is evaluated, and how often."""

    datasets: dict[str, EvaluateDatasetConfig] = Field({}, description="datasets by their names in the results")
    every_steps: int | None = Field(
        None, ge=1, description="optimiser steps between evaluations during training; null: only at the end"
    )
    metrics: tuple[Annotated[NamedConfig, ChosenBy(METRICS)], ...] | None = Field(
        None,
        description="metrics, each measured where a dataset has what it needs: recall, rank_variance, geometry, "
        "accuracy; with keys of their own as {name: …, key: …}; null: all registered ones",
    )
    languages: tuple[str, ...] | None = Field(None, description="ISO codes of the texts used; null: all there are")
    max_images: int | None = Field(None, ge=1, description="images of a dataset, its first ones; null: all")
    batch_size: int = Field(256, ge=1, description="images, or texts, encoded at a time", json_schema_extra=EXECUTION)
    decode_threads: int = Field(2, ge=1, description="threads that decode images", json_schema_extra=EXECUTION)
