"""Open the datasets that a recipe names: a run directory of ours, Parquet files, or webdataset tars."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import pyarrow.fs as pafs

from pairmill.errors import RecipeError
from pairmill.uris import filesystem_of, find
from training.data.config import DataConfig, DatasetConfig
from training.data.curated import SelectionSource, is_run_directory, open_pairs
from training.data.parquet import ParquetSource
from training.data.sample import Numbered, Source
from training.data.text_scores import no_scores
from training.data.webdataset import TarSource
from training.data.weighted import WeightedSource

logger = logging.getLogger("pairmill")


def open_source(
    path: str,
    selection: str | None = None,
    config: DataConfig | None = None,
    *,
    evaluated: bool = False,
    asked: Sequence[str] = (),
) -> Source:
    """The dataset at `path`; its kind follows from what is there.

    path:      local, s3://, gs://: see `DatasetConfig.path`.
    selection: of a run directory only.
    config:    gives image_column and text_column of foreign datasets, whose scores of texts are read, and what the
               columns are called that are asked for.
    evaluated: read as CLIP_benchmark reads: each line of a `.txt` is a text, and a class may be given by number.
    asked:     of the names of `asked_columns.COLUMNS`.
    Reads footers, manifests and tar headers, no data.  Raises RecipeError if there is no dataset, it is empty, or it
    lacks a column or the selection.
    """
    source = _open(path, selection, config, evaluated, config.called(asked) if config is not None else {})
    if not source.pieces:
        raise RecipeError(
            "data.path must lead to a dataset of at least one row",
            value=f"{source.name} (left out: {dict(source.left_out)})" if source.left_out else source.name,
            fix="give another data.path or data.selection",
        )
    if source.left_out:
        counts = ", ".join(f"{reason} {number:,}" for reason, number in sorted(source.left_out.items()))
        logger.warning("left out of %s, as docs/operations.md#tars says: %s", source.name, counts)
    return source


def open_sources(config: DataConfig, asked: Sequence[str] = ()) -> list[Source]:
    """The datasets of the recipe, in its order.  asked, raises: as `open_source`."""
    opened = [_weighted(open_source(one.path, one.selection, config, asked=asked), one) for one in config.mixture()]
    if (policy := config.batch_policy()) is not None:
        for source in opened:
            if not isinstance(source, Numbered):
                raise RecipeError(
                    f"data.{policy.key} must come with Parquet files or a run directory, whose columns are read alone",
                    value=source.name,
                    fix=f"write the dataset as Parquet, or leave {policy.key} out",
                )
            source.number_by(policy.columns)
    return opened


def _weighted(source: Source, config: DatasetConfig) -> Source:
    """The dataset with its rows drawn by their weights, if the recipe says so."""
    if config.row_weight is None:
        return source
    if not isinstance(source, SelectionSource):
        raise RecipeError(
            "data.weight must come with a selection of a run directory",
            value=f"{config.row_weight}, for {source.name}",
            fix="set data.selection, or data.weight: null",
        )
    return WeightedSource(source, config.row_weight)


def _open(
    path: str, selection: str | None, config: DataConfig | None, evaluated: bool, asked: Mapping[str, str]
) -> Source:
    image_column = config.image_column if config else None
    text_column = config.text_column if config else None
    scored_by = config.scored_by() if config else ()
    if is_run_directory(path):
        if selection is None:
            return open_pairs(path, scored_by, asked)
        return SelectionSource(path, selection, scored_by, asked)
    if selection is not None:
        raise RecipeError(
            "data.selection must come with a data.path that leads to a run directory of `pairmill curate`",
            value=f"{selection}, in {path}",
            fix="set data.selection: null, or data.path to the run directory",
        )
    found = find(path)
    if (parquet := found.ending_in(".parquet")).paths:
        return ParquetSource(
            parquet,
            name=path,
            image_column=image_column,
            text_column=text_column,
            evaluated=evaluated,
            scored_by=scored_by,
            asked=asked,
        )
    if (tars := found.ending_in(".tar")).paths:
        if scored_by:
            raise no_scores(scored_by[0], f"{path}, which is of tars")
        return TarSource(tars, name=path, text_column=text_column, evaluated=evaluated, asked=asked)
    filesystem, root = filesystem_of(path)
    exists = filesystem.get_file_info(root).type != pafs.FileType.NotFound
    raise RecipeError(
        "data.path must lead to a run directory of `pairmill curate`, to .parquet files or to .tar files",
        value=f"{path} ({'holds none of these' if exists else 'does not exist'})",
        fix="correct the path; a relative one starts at the current folder, in a submitted job the copy of the project",
    )
