"""Pictures of the product with the boxes of a head blurred: `pack.blur_faces`.  The store's pictures stay as they are.

reads: image, NAME_boxes (columns/score-NAME)
adds:  faces_blurred
drops: —
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from curation.images.config import ImageConfig
from curation.schema import live, set_columns
from curation.stage import Column
from pairmill.errors import RecipeError, nearest

#: What the product has beside its pictures where faces are blurred.
BLURRED = Column("faces_blurred", pa.int32(), "boxes of the picture that are blurred")


def boxes_column(head: str) -> str:
    """The column of the boxes of an entry of `score`."""
    return f"{head}_boxes"


def no_boxes(head: str, columns: Iterable[str]) -> RecipeError:
    """For a `pack.blur_faces` that finds no boxes.  columns: among which those of boxes are."""
    known = [name.removesuffix("_boxes") for name in columns if name.endswith("_boxes")]
    return RecipeError(
        "pack.blur_faces must name an entry of `score` that finds boxes, such as one of the head faces",
        value=head,
        fix=f"perhaps you mean: {nearest(head, known)}" if known else f"add score: {{{head}: faces}}",
    )


def with_blurred(rows: pa.Table, head: str, image: ImageConfig) -> pa.Table:
    """The rows with their pictures blurred where the head has boxes, and the column `faces_blurred`.

    A picture without boxes keeps its bytes; another is encoded as the recipe says.  Rows that were dropped are left
    alone.
    Raises RecipeError for a picture of which it is not known where its faces are: it must not be passed on.
    """
    mask = pc.and_(live(rows), rows["image"].is_valid())
    boxes, images = rows[boxes_column(head)], rows["image"].to_pylist()
    unknown = rows.filter(pc.and_(mask, boxes.is_null()))
    if len(unknown):
        raise _unknown(head, unknown)
    given = boxes.to_pylist()
    counts = [len(found) if wanted else None for found, wanted in zip(given, mask.to_pylist(), strict=True)]
    for at, count in enumerate(counts):
        if count:
            made = _blurred(images[at], given[at], image)
            if made is None:
                raise _unknown(head, rows.slice(at, 1))
            images[at] = made
    return set_columns(rows, {"image": pa.array(images, pa.binary()), BLURRED.name: pa.array(counts, pa.int32())})


def _blurred(data: bytes, boxes: list[dict[str, Any]], image: ImageConfig) -> bytes | None:
    """The file of a picture, blurred; None if it cannot be decoded."""
    from curation.images.blur import blur_boxes
    from curation.images.decode import encode
    from pairmill.towers.eval_transform import decode

    pixels = decode(data)
    if pixels is None:
        return None
    return encode(blur_boxes(pixels, boxes), format=image.format, quality=image.quality, chroma=image.chroma)


def _unknown(head: str, rows: pa.Table) -> RecipeError:
    return RecipeError(
        f"pack.blur_faces: the head of score.{head} must have looked at every picture of the product",
        value=f"{len(rows)} of a shard without {boxes_column(head)}, the first with uid {rows['uid'][0].as_py()}",
        fix=f'leave them out with a selection: where: "not is_null({head})"',
    )
