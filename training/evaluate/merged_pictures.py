"""Which rows of a dataset show the same image: those of equal bytes, and those of one `group_id`."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

from training.evaluate.evaluated_rows import EvaluatedRow


@dataclass
class Picture:
    """An image.

    image: its encoded bytes, until it is embedded.  uses: what becomes of each of its rows, in order.  same: a number
    that images of equal pixels share, once it is embedded.
    """

    image: bytes
    uses: list[Any] = field(default_factory=list)
    corrupt: bool = False
    same: int = -1


class Pictures:
    """The images of the rows seen so far."""

    def __init__(self, merged: bool) -> None:
        """merged: whether rows may share an image; otherwise each has one of its own."""
        self._merged = merged
        self.made: list[Picture] = []
        self._known: dict[bytes | int, Picture] = {}

    def of(self, row: EvaluatedRow, *, new: bool) -> Picture | None:
        """The image of a row; None if it was not seen before and none may be added (`new`)."""
        keys: list[bytes | int] = []
        if self._merged:
            keys = [hashlib.sha256(row.image).digest()] if row.image else []
            keys += [row.group_id] if row.group_id >= 0 else []
        picture = next((self._known[key] for key in keys if key in self._known), None)
        # A group whose first picture is broken may have a sound one.
        if picture is not None and picture.corrupt:
            picture = self._known.get(keys[0]) if isinstance(keys[0], bytes) else None
        if picture is None:
            if not new:
                return None
            picture = Picture(row.image)
            self.made.append(picture)
            self._known |= dict.fromkeys(keys, picture)
        for key in keys:
            self._known.setdefault(key, picture)
        return picture
