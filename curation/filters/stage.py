"""Filter, as a stage: repair and measure the text, name its language, apply the rules; each rule has a drop reason.

Added columns are null in rows that an earlier stage dropped.  The rules run in the order of FILTER_REASONS, and a row
keeps the first reason that applies.  Text and language are measured for every row that arrives live; the image is
scored only for rows that survive the earlier rules, and the user's expression and functions see only survivors.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, field_validator

from curation.common_texts import COMMON_TEXT, common_texts_table
from curation.filters.custom import CustomConfig, callable_reads
from curation.filters.evidence import DETECTORS
from curation.filters.image_shape import COLUMNS as GEOMETRY_COLUMNS
from curation.filters.image_shape import GeometryConfig
from curation.filters.language import LanguageConfig
from curation.filters.patterns import BOILERPLATE
from curation.filters.quality import QualityConfig
from curation.filters.safety import SafetyConfig
from curation.filters.text import MEASURES, TextConfig
from curation.filters.where import WhereConfig, columns_of, compile_where
from curation.schema import set_columns
from curation.stage import Column, Stage
from pairmill.config import bytes_digest
from pairmill.errors import RecipeError, nearest
from pairmill.packages import package_version
from pairmill.registry import source_digest

FILTER_REASONS = (
    # geometry
    "image_too_small",
    "image_too_elongated",
    "file_too_small",
    "image_too_blurry",
    "image_too_plain",
    # text
    "text_too_short",
    "text_too_few_words",
    "text_too_long",
    "text_is_url",
    "text_is_file_name",
    "text_is_boilerplate",
    "text_repeats_itself",
    "text_too_many_digits",
    "text_too_common",
    "text_has_listed_word",
    "text_low_quality",
    # language
    "language_not_allowed",
    "language_uncertain",
    # safety
    "nsfw",
    # the user's own
    "where",
    "callable",
)

#: What the stage adds to every table, whatever its configuration.
FILTER_COLUMNS = (
    Column("caption", pa.string(), "the repaired alt text"),
    Column("language", pa.string(), "language of the caption, ISO 639-1; und where there is no letter", carried=True),
    Column("language_score", pa.float32(), "0-1, how sure the language is", carried=True),
    *MEASURES,
    Column("nsfw", pa.float32(), "0-1, probability that the picture is not safe for work", carried=True),
    Column("text_quality", pa.float32(), "0-1, by filter.quality_model", carried=True),
)


class FilterConfig(CustomConfig, WhereConfig, SafetyConfig, QualityConfig, LanguageConfig, TextConfig, GeometryConfig):
    """All rules of the stage under one key; the defaults are DataComp's basic filter, for all languages."""

    enabled: bool = Field(
        True, description="whether rules drop rows; caption, language and measurements are filled in either way"
    )
    score_only: tuple[str, ...] = Field(
        (), description="drop reasons that only fill a column would_drop_<reason> instead of dropping the row"
    )

    @field_validator("score_only")
    @classmethod
    def _reasons(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for reason in value:
            if reason not in FILTER_REASONS:
                raise RecipeError(
                    "filter.score_only must name drop reasons of the filter stage",
                    value=reason,
                    fix=f"perhaps you mean: {nearest(reason, FILTER_REASONS)}",
                )
        return value

    @property
    def common_above(self) -> int | None:
        """How many rows of the whole list may share a text; None if no such rule is on."""
        return self.max_images_per_text if self.enabled else None

    def identity(self) -> dict[str, Any]:
        """The configuration with each file replaced by the hash of its content, and with the versions of the models."""
        found = super().identity()
        for key in ("listed_words", "boilerplate_file", "quality_model"):
            if isinstance(path := getattr(self, key), Path):
                found[key] = _content_of(path, f"filter.{key}")
        found["boilerplate"] = _content_of(BOILERPLATE, "boilerplate") if self.drop_boilerplate else None
        found["callables"] = [[path, source_digest(path)] for path in self.callables]
        found["models"] = {name: package_version(name) for name in Filter.libraries}
        found["nsfw_head"] = self.head_identity()
        return found


class Filter(Stage):
    """Geometry, text, language, shared alt texts, NSFW, word lists, `filter.where` expressions, your own functions."""

    name, segment = "filter", "collect"
    version = 4  # 2: languages of capitals; 3: two detectors of languages; 4: of letters as NFKC has them
    libraries = (*DETECTORS, "ftfy")
    drops = FILTER_REASONS
    reads_input = True
    Config = FilterConfig

    def __init__(self, config: FilterConfig) -> None:
        super().__init__(config)
        self.reads = tuple(columns_read(config))
        scored = (Column(f"would_drop_{r}", pa.bool_(), f"whether {r} applies") for r in config.score_only)
        self.adds = (*FILTER_COLUMNS, *scored)
        if config.common_above is not None:
            self.counted = {common_texts_table(config.common_above): (COMMON_TEXT,)}

    def own_code(self) -> tuple[str, ...]:
        """The functions of `filter.callables`."""
        return tuple(self.config.callables)

    def check(self, columns: Mapping[str, pa.DataType]) -> None:
        """Raise RecipeError for an expression that names an unknown column."""
        if self.config.where is not None:
            there = {**columns, **{column.name: column.type for column in self.adds}}
            compile_where(self.config.where, pa.schema(list(there.items())))

    def __call__(self, rows: pa.Table) -> pa.Table:
        from curation.filters.rules import filter_rows

        own = input_columns(rows)
        return filter_rows(set_columns(rows, own), config=self.config).drop_columns(list(own))


def input_columns(rows: pa.Table) -> dict[str, pa.ChunkedArray]:
    """The input list's own columns, for `filter.where` and `filter.callables`; ours win where names clash.

    Each is there under `input.NAME` too, which is how `filter.where` names one that clashes, or has an odd name.
    """
    if "input" not in rows.schema.names:
        return {}
    taken = {*rows.schema.names, *(column.name for column in FILTER_COLUMNS)}
    own = [f.name for f in rows.schema.field("input").type]
    columns = {name: pc.struct_field(rows["input"], [at]) for at, name in enumerate(own)}
    listed = {f"input.{name}": column for name, column in columns.items()}
    return {name: column for name, column in columns.items() if name not in taken} | listed


def columns_read(config: FilterConfig) -> list[str]:
    """Names of the columns that `filter_rows` needs under `config`.

    The user's callables get the columns listed here and FILTER_COLUMNS; a function's attribute `reads` adds others.
    """
    ours = {column.name for column in FILTER_COLUMNS}
    names = ["alt", "width", "height", "drop_stage", "drop_reason"]
    if config.enabled:
        for key, columns in GEOMETRY_COLUMNS.items():
            names += columns if getattr(config, key) is not None else ()
        names += ["image"] if config.nsfw_max is not None else []
        names += columns_of(config.where) if config.where is not None else []
        for path in config.callables:
            names += callable_reads(path)
    return [name for name in dict.fromkeys(names) if name not in ours]


def _content_of(path: Path, key: str) -> str:
    """Hash of a file that a key names.  Raises RecipeError if it cannot be read."""
    try:
        return bytes_digest(path.read_bytes())
    except (OSError, ValueError) as error:  # ValueError: a character that no path has
        why = error.strerror if isinstance(error, OSError) else error
        raise RecipeError(
            f"{key} must name a readable file", value=f"{str(path)!r}: {why}", fix="correct the path"
        ) from error
