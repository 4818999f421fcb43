"""Pictures of an evaluation set whose file a row has: equal bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation.decontamination.match_kinds import Matches, MatchKind, Pictures


class SameImage(MatchKind):
    """Pictures of equal SHA-256, those of the set that cannot be decoded too."""

    name = "same_image"
    reads = ("sha256",)

    def index(self, reference: pa.Table) -> Any:
        """Digest -> items."""
        found: dict[str, list[int]] = {}
        for at, sha256 in enumerate(reference["sha256"].to_pylist()):
            if sha256 is not None:
                found.setdefault(sha256, []).append(at)
        return found, pa.array(list(found), pa.string())

    def matches(self, rows: pa.Table, index: Any, pictures: Pictures) -> Matches:
        """Rows and items of equal bytes; the similarity is 1."""
        items, known = index
        here = np.flatnonzero(pc.is_in(rows["sha256"], value_set=known).to_numpy())
        digests = rows["sha256"].take(pa.array(here)).to_pylist()
        pairs = [(row, item) for row, digest in zip(here.tolist(), digests, strict=True) for item in items[digest]]
        if not pairs:
            return Matches.none()
        row, item = np.array(pairs, np.int64).T
        return Matches(row, item, np.ones(len(pairs), np.float32))
