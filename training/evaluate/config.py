"""The recipe section `evaluate.*`: which datasets, how often during training, and what is measured on each."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt

from pairmill.config import EXECUTION, Config


class EvaluateDatasetConfig(Config):
    """One dataset to evaluate on: any source that training reads, with what its texts mean."""

    path: str = Field(description="a curated run, a Parquet file or folder, or webdataset tars, as `data.path`")
    selection: str | None = Field(None, description="a selection of a curated run, as `data.selection`")
    kind: Literal["retrieval", "zero_shot"] = Field(
        "retrieval", description="retrieval: texts describe their image; zero_shot: a text of the row names its class"
    )
    image_column: str | None = Field(None, description="image column of a foreign Parquet file, as `data.image_column`")
    text_column: str | None = Field(None, description="text column of a foreign Parquet file, as `data.text_column`")
    languages: tuple[str, ...] | None = Field(
        None, description="ISO codes of the texts (or class names) used; null: `evaluate.languages`"
    )
    kinds: tuple[str, ...] | None = Field(
        None, description="kinds of text used for retrieval (alt, short, long, …); null: all"
    )
    class_names: str | None = Field(
        None,
        description="zero_shot: file of class names (JSON list, JSON {language: list}, or one a line), or `imagenet`",
    )
    templates: str | None = Field(
        None,
        description="zero_shot: file of prompt templates, same forms, `{c}` or `{}` is the class name; "
        "null: OpenAI's 80 for en, ours for zh, the bare name otherwise",
    )
    label: Literal["name", "index"] = Field(
        "name", description="zero_shot: a row's class is the text that is a class name, or a 0-based number"
    )


class EvaluateConfig(Config):
    """What is evaluated."""

    datasets: dict[str, EvaluateDatasetConfig] = Field({}, description="datasets by the name they have in the results")
    every_steps: int | None = Field(
        None, ge=1, description="optimiser steps between evaluations during training; null: only at the end"
    )
    recall_at: tuple[PositiveInt, ...] = Field((1, 5, 10), min_length=1, description="k of retrieval recall@k")
    languages: tuple[str, ...] | None = Field(None, description="ISO codes of the texts used; null: all there are")
    max_images: int | None = Field(None, ge=1, description="images of a dataset, its first ones; null: all")
    batch_size: int = Field(256, ge=1, description="images, or texts, encoded at a time", json_schema_extra=EXECUTION)
    decode_threads: int = Field(2, ge=1, description="threads that decode images", json_schema_extra=EXECUTION)
