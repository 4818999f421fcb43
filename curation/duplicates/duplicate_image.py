"""Duplicate images: equal bytes, whatever their captions."""

from __future__ import annotations

import pyarrow as pa

from curation.duplicates.equal_values import EqualValues


class DuplicateImage(EqualValues):
    """Images of equal SHA-256."""

    name, strength = "duplicate_image", 20
    reads = ("sha256",)
    columns = pa.schema([("sha256", pa.string())])  # hex, of the original bytes
