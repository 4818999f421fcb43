"""Small pictures of rows, for pages that people share: bounded in number, size and what they show."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
from PIL import (
    Image,
    WebPImagePlugin,  # noqa: F401  else the first picture loads every plugin there is
)

from curation.blurring import boxes_column
from curation.table import COLUMNS
from pairmill.recipe_file import run_recipe
from pairmill.store import Store

#: Pictures of rows dropped for these reasons must not be on a page that people share.
WITHHELD = frozenset({"nsfw"})

#: Characters of all pictures of a page together, as data URIs; what comes after them has none.
MOST_CHARACTERS = 16 << 20

#: Faces of a picture, as `curation.heads.boxes.BOXES`.
Boxes = list[dict[str, Any]] | None

_LONGER_SIDE = {"kept": 288, "dropped": 176}  # pixels of a thumbnail
_QUALITY = 78


def thumbnails(store: Store, entries: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Small pictures of the rows that have one, as data URIs, by `place` of the row.

    entries: in the order of the page: shard, row, width, drop_reason; `withheld`, if true, and `side`, pixels of the
    longer side, where there is room for so many.  A row that is there twice has the larger of its sides.
    Where the product's faces are blurred (`pack.blur_faces`), they are here too; a picture of which it is not known
    where its faces are is left out.
    """
    head = (run_recipe(store).get("pack") or {}).get("blur_faces")
    wanted: dict[str, Mapping[str, Any]] = {}
    uses: dict[str, int] = {}
    for entry in entries:
        if entry["width"] and entry["drop_reason"] not in WITHHELD and not entry.get("withheld"):
            name = place(entry)
            uses[name] = uses.get(name, 0) + 1
            if name not in wanted or _side(entry) > _side(wanted[name]):
                wanted[name] = entry
    shards: dict[int, list[Mapping[str, Any]]] = {}
    for entry in wanted.values():
        shards.setdefault(entry["shard"], []).append(entry)
    found = {}
    # Pillow's codecs let other threads run.
    with ThreadPoolExecutor() as pool:
        for shard, shown in sorted(shards.items()):
            images = store.load("images", shard, ["image"])["image"]
            places = pa.array([entry["row"] for entry in shown])
            encoded = images.take(places).to_pylist()
            boxes = [[]] * len(shown) if head is None else _boxes(store, str(head), shard, places)
            for entry, uri in zip(shown, pool.map(_thumbnail, encoded, map(_side, shown), boxes), strict=True):
                if uri is not None:
                    found[place(entry)] = uri
    left, kept = MOST_CHARACTERS, {}
    for name in wanted:
        if name in found and (left := left - uses[name] * len(found[name])) >= 0:
            kept[name] = found[name]
    return kept


def characters_left(entries: Iterable[Mapping[str, Any]], pictures: Mapping[str, str]) -> int:
    """How many of `MOST_CHARACTERS` are left beside what `thumbnails` returned for these entries."""
    return MOST_CHARACTERS - sum(len(pictures.get(place(entry), "")) for entry in entries)


def with_faces(store: Store, entries: Iterable[Mapping[str, Any]]) -> set[str] | None:
    """`place` of the rows whose picture has faces that are blurred, or was not looked at; None: none are blurred.

    entries: shard, row.
    """
    head = (run_recipe(store).get("pack") or {}).get("blur_faces")
    if head is None:
        return None
    shards: dict[int, list[Mapping[str, Any]]] = {}
    for entry in entries:
        shards.setdefault(entry["shard"], []).append(entry)
    found = set()
    for shard, some in shards.items():
        boxes = _boxes(store, str(head), shard, pa.array([entry["row"] for entry in some]))
        # Without faces a row has an empty list.
        found |= {place(entry) for entry, faces in zip(some, boxes, strict=True) if faces is None or faces}
    return found


def place(entry: Mapping[str, Any]) -> str:
    """The name of a row's place in the run."""
    return f"{entry['shard']}/{entry['row']}"


def _side(entry: Mapping[str, Any]) -> int:
    return int(entry.get("side") or _LONGER_SIDE["kept" if entry["drop_reason"] is None else "dropped"])


def _boxes(store: Store, head: str, shard: int, places: pa.Array) -> list[Boxes]:
    """The boxes of faces of some rows; None of a row that the head did not look at."""
    table = f"{COLUMNS}/score-{head}"
    if store.entry(table, shard) is None:
        return [None] * len(places)
    name = boxes_column(head)
    found: list[Boxes] = store.load(table, shard, [name])[name].take(places).to_pylist()
    return found


def _blurred(encoded: bytes, boxes: list[dict[str, Any]]) -> Image.Image | None:
    from curation.images.blur import blur_boxes
    from pairmill.towers.eval_transform import decode

    pixels = decode(encoded)
    return None if pixels is None else Image.fromarray(blur_boxes(pixels, boxes))


def _thumbnail(encoded: bytes | None, side: int, boxes: Boxes) -> str | None:
    """A WebP of at most `side` pixels; None if there is no picture, or it cannot be read or shown."""
    if encoded is None or boxes is None:
        return None
    file = io.BytesIO()
    try:
        if boxes:
            small = _blurred(encoded, boxes)
            if small is None:
                return None
        else:
            with Image.open(io.BytesIO(encoded)) as image:
                small = image.convert("RGBA" if "A" in image.getbands() else "RGB")
        small.thumbnail((side, side))
        small.save(file, "WEBP", quality=_QUALITY, method=2)
    except Exception:  # Pillow's codecs raise OSError, ValueError, SyntaxError, struct.error, …
        return None
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()
