"""Duplicate pairs: equal bytes with captions that are equal except in case, width and whitespace."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from curation.duplicates.equal_values import EqualValues


class DuplicatePair(EqualValues):
    """Images of equal SHA-256 whose normalised captions are equal.

    `duplicate_image` finds these rows too; this kind only gives them a reason of their own in the report.
    """

    name, strength = "duplicate_pair", 30
    reads = ("sha256", "caption")
    columns = pa.schema([("sha256", pa.string()), ("caption_digest", pa.int64())])

    def narrow(self, rows: pa.Table) -> Mapping[str, pa.Array | pa.ChunkedArray]:
        """8 bytes stand for the caption, compared only among images of equal bytes, where they do not collide."""
        from pairmill.folding import text_digest  # not needed to read a recipe, and slow to import

        digests = [int.from_bytes(text_digest(text), "little", signed=True) for text in rows["caption"].to_pylist()]
        return {"sha256": rows["sha256"], "caption_digest": pa.array(digests, pa.int64())}
