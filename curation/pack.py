"""Pack the kept rows into the product: `pairs/part-*.parquet`, one row per image with all its texts.

A part covers consecutive shards with about `rows_per_part` kept rows.  Its shards and every byte of it follow only from
the committed tables, so two runs over equal tables write equal files.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple

import pyarrow as pa
from pydantic import Field

from curation.best_text import CaptionConfig, best_text
from curation.blurring import BLURRED, boxes_column, no_boxes
from curation.heads.boxes import BOXES
from curation.images.header import sniff
from curation.schema import live
from curation.stage import Column, Stage
from pairmill.layout import GATE, PAIRS, TEXT, TEXT_SOURCES, of_row_texts, row_texts, scored_by

#: The struct that `datasets` decodes as an image.
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])

#: What makes `datasets` decode it without being told; columns that are not named have the features of their types.
FEATURES = {"huggingface": json.dumps({"info": {"features": {"image": {"_type": "Image"}}}})}

#: The first columns of the product, in this order; those that other stages carry follow in flow order.
_FIRST = (
    *("uid", "url", "width", "height", "sha256", "phash", "alt", "language", "language_score", "sharpness", "entropy"),
    *("nsfw", "text_quality", "original_width", "original_height", "format", "content_type", "final_url"),
)


class PackConfig(CaptionConfig):
    """Which rows the product holds, how it is laid out, and which text of a row is its `caption`."""

    selection: str | None = Field(
        None,
        description="selection of the recipe that is captioned, translated and packed; null: deduplicate.name, which "
        "the deduplicate section makes",
    )

    rows_per_part: int = Field(10_000, ge=1, description="approximate kept rows of a part file")
    row_group_rows: int = Field(500, ge=1, description="rows of a row group; 500 images of 256 px are about 10 MB")
    blur_faces: str | None = Field(
        None,
        description="entry of `score` whose boxes are blurred in the pictures of the product, for example one of the "
        "head faces; the run's own pictures stay as they are, so `data.selection` of it is refused; null: none",
    )

    def identity(self) -> dict[str, Any]:
        """Without the selection's name: what it keeps is known by its content."""
        # A run whose faces are not blurred needs no new product because they could be.
        left_out = {"selection"} if self.blur_faces else {"selection", "blur_faces"}
        return {name: value for name, value in super().identity().items() if name not in left_out}


class Pack(Stage):
    """Write the product: one row per image, with its best caption and every text with its provenance."""

    name, segment, table, pool = "pack", "pack", PAIRS, None
    reads: tuple[str, ...] = ("image", "caption", "language")
    optional = ("recaptions", "rewrites", "translations", GATE)
    adds: tuple[Column, ...] = (
        Column("texts", pa.list_(TEXT), "every text with its provenance, `source_index` is that of its source"),
    )
    Config = PackConfig

    def __init__(self, config: PackConfig) -> None:
        super().__init__(config)
        if config.blur_faces is not None:
            self.reads = (*self.reads, boxes_column(config.blur_faces))
            self.adds = (*self.adds, BLURRED)
            self.libraries = ("numpy", "opencv-python-headless", "pillow", "simplejpeg")

    def see(self, columns: Collection[str]) -> None:
        """Raise RecipeError for faces to be blurred that no stage finds, and for texts to compare without scores."""
        self.config.check_judges(list(columns))
        head = self.config.blur_faces
        if head is not None and boxes_column(head) not in columns:
            raise no_boxes(head, columns)

    def check(self, columns: Mapping[str, pa.DataType]) -> None:
        """Raise RecipeError for faces to be blurred whose column is none of boxes."""
        head = self.config.blur_faces
        if head is not None and columns.get(boxes_column(head)) != BOXES:
            raise no_boxes(head, [name for name, kind in columns.items() if kind == BOXES])

    def columns_read(self, carried: Iterable[str]) -> tuple[str, ...]:
        """The columns that the product is made from.  carried: those that stages carry into it."""
        return (*self.reads, *self.optional, *carried)


def product_columns(carried: Mapping[str, Column]) -> dict[str, pa.DataType]:
    """The columns that the product takes over unchanged, in its order, with their types.

    carried: the columns that stages carry into the product, in flow order.
    """
    order = [name for name in _FIRST if name in carried] + [name for name in carried if name not in _FIRST]
    return {name: carried[name].type for name in order}


class Part(NamedTuple):
    """A part file and the shards it is made from."""

    number: int
    shards: tuple[int, ...]


def cut_parts(kept: Mapping[int, int], rows_per_part: int) -> list[Part]:
    """Parts over shards (shard -> kept rows), in shard order; the shard that fills a part closes it."""
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
    elif shards:  # without kept rows, they get no file
        parts[-1] = Part(parts[-1].number, parts[-1].shards + tuple(shards))
    return parts


def pack_rows(rows: pa.Table, config: PackConfig, extension: str, columns: Mapping[str, pa.DataType]) -> pa.Table:
    """The kept rows of a shard: image, caption, texts, `columns`, and what else there is of faces_blurred and `input`.

    extension: of the recipe's image format; a picture that is still in an earlier one has that of its own.
    columns: as `product_columns` gives them; null where a stage was off.
    """
    kept = rows.filter(live(rows))
    scored = [name for name in columns if scored_by(name) is not None]
    rows_of_texts = kept.select(_present(kept, ("uid", *TEXT_SOURCES, *scored))).to_pylist()
    texts = [row_texts(row) for row in rows_of_texts]
    images = kept["image"].to_pylist()
    image = pa.StructArray.from_arrays(
        [
            pa.array(images, pa.binary()),
            pa.array(map(partial(_path, extension), kept["uid"].to_pylist(), images), pa.string()),
        ],
        fields=list(IMAGE),
    )
    packed: dict[str, pa.Array | pa.ChunkedArray] = {
        "image": image,
        "caption": pa.array([best_text(*one, config) for one in zip(rows_of_texts, texts, strict=True)], pa.string()),
        "texts": pa.array(texts, pa.list_(TEXT)),
    }
    if BLURRED.name in kept.schema.names:
        packed[BLURRED.name] = kept[BLURRED.name]
    for name, kind in columns.items():
        packed[name] = kept[name].cast(kind) if name in kept.schema.names else pa.nulls(len(kept), kind)
    for name in scored:
        if name in kept.schema.names:
            packed[name] = pa.array([of_row_texts(row, row[name]) for row in rows_of_texts], columns[name])
    if "input" in kept.schema.names:
        packed["input"] = kept["input"]
    return pa.table(packed).replace_schema_metadata(FEATURES)


#: Extensions of the names of encoded images, by what `sniff` calls them.
_EXTENSIONS = {"jpeg": "jpg", "png": "png", "webp": "webp"}


def _path(extension: str, uid: str, image: bytes | None) -> str:
    return f"{uid}.{_EXTENSIONS.get(sniff(image or b'') or '', extension)}"


def _present(rows: pa.Table, names: Iterable[str]) -> list[str]:
    return [name for name in names if name in rows.schema.names]
