"""The rules of the filter stage over one shard: repair and measure the text, name its language, apply each rule."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from curation.common_texts import COMMON_TEXT
from curation.filters.custom import keep_mask
from curation.filters.image_shape import geometry_masks
from curation.filters.language import detect, detect_by_lid, language_masks
from curation.filters.quality import quality_masks, score_quality
from curation.filters.safety import safety_masks, score_nsfw
from curation.filters.stage import FILTER_COLUMNS, FILTER_REASONS, FilterConfig
from curation.filters.text import measure, repair, text_masks
from curation.filters.where import compile_where
from curation.schema import drop, live, set_columns
from curation.stage import spread


def filter_rows(rows: pa.Table, *, config: FilterConfig) -> pa.Table:
    """`rows`, same number and order, with the columns of `FILTER_COLUMNS`, dropped by the rules that are on.

    Raises RecipeError for an expression that does not fit the table, JobError for a user's function that fails.
    """
    alive = live(rows).combine_chunks()
    alts = [alt or "" for alt in rows["alt"].filter(alive).to_pylist()]
    captions = [repair(alt) for alt in alts]
    languages, scores = detect(captions) if config.language_detector == "combined" else detect_by_lid(alts)
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
    rows = set_columns(rows, {column.name: spread(added[column.name], column.type, alive) for column in FILTER_COLUMNS})

    would_drop: dict[str, pa.Array] = {}

    def apply(masks: Mapping[str, pa.Array | pa.ChunkedArray]) -> None:
        nonlocal rows
        would_drop.update({name: mask for name, mask in masks.items() if name in config.score_only})
        applied = {name: mask for name, mask in masks.items() if name not in config.score_only}
        rows = drop(rows, "filter", applied, FILTER_REASONS)

    def apply_to_survivors(masks_of: Callable[[pa.Table], Mapping[str, pa.Array]]) -> None:
        left = live(rows).combine_chunks()
        masks = masks_of(rows.filter(left))
        apply({name: spread(mask, pa.bool_(), left) for name, mask in masks.items()})

    if config.enabled:
        apply(geometry_masks(rows, config))
        common = None if config.max_images_per_text is None else rows[COMMON_TEXT].filter(alive).combine_chunks()
        texts = text_masks(captions, measures, config, common)
        apply({name: spread(mask, pa.bool_(), alive) for name, mask in texts.items()})
        apply(quality_masks(rows, config))
        apply(language_masks(rows, config))
        if config.nsfw_max is not None:
            left = live(rows).combine_chunks()
            nsfw = score_nsfw(rows.filter(left), config.nsfw_head, config.callables_timeout_s)
            rows = set_columns(rows, {"nsfw": spread(nsfw, pa.float32(), left)})
            apply_to_survivors(lambda table: safety_masks(table, config))
        if (where := config.where) is not None:
            apply_to_survivors(lambda table: {"where": _where_drops(where, table)})
        if config.callables:
            apply_to_survivors(lambda table: {"callable": _callables_drop(config, table)})
    return set_columns(
        rows,
        {
            f"would_drop_{reason}": pc.if_else(
                alive, pc.fill_null(would_drop.get(reason, pa.nulls(len(rows), pa.bool_())), False), None
            )
            for reason in config.score_only
        },
    )


def _where_drops(where: str, rows: pa.Table) -> pa.Array:
    keep = _compiled(where, rows.schema.remove_metadata())(rows).combine_chunks()
    return pc.invert(pc.fill_null(keep, False))


@lru_cache(maxsize=16)
def _compiled(where: str, schema: pa.Schema) -> Callable[[pa.Table], pa.ChunkedArray]:
    return compile_where(where, schema)


def _callables_drop(config: FilterConfig, rows: pa.Table) -> pa.Array:
    keep = pa.repeat(True, len(rows))
    for path in config.callables:
        keep = pc.and_(keep, keep_mask(path, rows, config))
    return pc.invert(keep)
