"""Pack the kept rows into the product: `pairs/part-*.parquet`, one row an image with all its texts.

reads: uid, url, alt, input, image, width, height, original_width, original_height, format, sha256, phash, sharpness,
       entropy, final_url, content_type, caption, language, language_score, nsfw, text_quality, recaptions, translations
adds:  —  (it writes PAIR columns, kept rows only)
drops: —

A part is a run of consecutive shards with about `rows_per_part` kept rows.  Which shards, and every byte of the part,
follows from the committed tables alone, so two runs over equal tables write equal files.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import pyarrow as pa
from pydantic import Field

from curation.schema import live
from pairmill.config import Config
from pairmill.layout import TEXT, row_texts

#: The struct that `datasets` decodes as an image.
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])

_CARRIED = {
    "uid": pa.string(),
    "url": pa.string(),
    "width": pa.int32(),
    "height": pa.int32(),
    "sha256": pa.string(),
    "phash": pa.uint64(),
    "alt": pa.string(),
    "language": pa.string(),
    "language_score": pa.float32(),
    "sharpness": pa.float32(),
    "entropy": pa.float32(),
    "nsfw": pa.float32(),
    "text_quality": pa.float32(),
    "original_width": pa.int32(),
    "original_height": pa.int32(),
    "format": pa.string(),
    "content_type": pa.string(),
    "final_url": pa.string(),
}

#: The columns of `pairs/`, before the input's own columns (a struct, `input`).
PAIR = pa.schema([("image", IMAGE), ("caption", pa.string()), ("texts", pa.list_(TEXT)), *_CARRIED.items()])

#: What packing loads of each table.
READS: Mapping[str, tuple[str, ...]] = {
    "images": (
        *("image", "width", "height", "original_width", "original_height", "format", "sha256", "phash"),
        *("sharpness", "entropy", "final_url", "content_type"),
    ),
    "columns/filter": ("caption", "language", "language_score", "nsfw", "text_quality", "drop_stage", "drop_reason"),
    "columns/recaption": ("recaptions",),
    "columns/translate": ("translations",),
}


class PackConfig(Config):
    """How the product is laid out, and which text of a row is its `caption`."""

    rows_per_part: int = Field(10_000, ge=1, description="kept rows of a part file, about")
    row_group_rows: int = Field(500, ge=1, description="rows of a row group; 500 images of 256 px are about 10 MB")
    prefer: tuple[str, ...] = Field(
        ("short", "long", "alt"), description="kinds of text, best first: the first that a row has is its caption"
    )
    min_score: float | None = Field(
        None, description="a generated text with a lower mean token log-probability is not taken as caption"
    )


class Part(NamedTuple):
    """A part file and the shards it is made from."""

    number: int
    shards: tuple[int, ...]


def cut_parts(kept: Mapping[int, int], rows_per_part: int) -> list[Part]:
    """Parts over shards (shard -> kept rows), in shard order; each closed by the shard that fills it."""
    parts: list[Part] = []
    shards: list[int] = []
    rows = 0
    for shard in sorted(kept):
        shards.append(shard)
        rows += kept[shard]
        if rows >= rows_per_part:
            parts.append(Part(len(parts), tuple(shards)))
            shards, rows = [], 0
    if rows or not parts:
        parts.append(Part(len(parts), tuple(shards)))
    elif shards:  # with nothing to keep: no file of their own
        parts[-1] = Part(parts[-1].number, parts[-1].shards + tuple(shards))
    return parts


def pack_rows(rows: pa.Table, config: PackConfig, extension: str) -> pa.Table:
    """The kept rows of a shard as PAIR rows (and `input`, where the list had other columns)."""
    kept = rows.filter(live(rows))
    texts = [row_texts(row) for row in kept.select(_present(kept, _TEXT_SOURCES)).to_pylist()]
    image = pa.StructArray.from_arrays(
        [
            pa.array(kept["image"].to_pylist(), pa.binary()),
            pa.array([f"{uid}.{extension}" for uid in kept["uid"].to_pylist()], pa.string()),
        ],
        fields=list(IMAGE),
    )
    columns: dict[str, pa.Array | pa.ChunkedArray] = {
        "image": image,
        "caption": pa.array([best_text(t, config) for t in texts], pa.string()),
        "texts": pa.array(texts, pa.list_(TEXT)),
    }
    for name, kind in _CARRIED.items():
        columns[name] = kept[name].cast(kind) if name in kept.schema.names else pa.nulls(len(kept), kind)
    if "input" in kept.schema.names:
        columns["input"] = kept["input"]
    return pa.table(columns)


_TEXT_SOURCES = ("caption", "language", "recaptions", "translations")


def _present(rows: pa.Table, names: Iterable[str]) -> list[str]:
    return [name for name in names if name in rows.schema.names]


def best_text(texts: Sequence[Mapping[str, object]], config: PackConfig) -> str | None:
    """The first text of the most preferred kind that passes the score gate; the alt text if none does."""
    for kind in config.prefer:
        for text in texts:
            if text["kind"] == kind and text["text"] and (kind == "alt" or _passes(text["score"], config.min_score)):
                return str(text["text"])
    return str(texts[0]["text"]) if texts[0]["text"] else None


def _passes(score: object, least: float | None) -> bool:
    return least is None or (isinstance(score, float) and score >= least)
