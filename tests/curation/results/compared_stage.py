"""A stage with the columns of a comparison with an evaluation set, and a head that names clusters."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from curation.stage import Column, Stage
from pairmill.registry import NamedConfig

MATCH = pa.struct([("kind", pa.string()), ("item", pa.string()), ("similarity", pa.float32())])


class Compared(Stage):
    """Compare with the set `flowers`."""

    name, segment = "compared", "score"
    adds = (Column("contaminated_flowers", pa.string()), Column("matches_flowers", pa.list_(MATCH)))

    def __call__(self, rows: pa.Table) -> pa.Table:
        raise NotImplementedError("tests write its columns")


class Concepts:
    """Name a concept of each picture, and how sure that is."""

    input = "pixels"
    columns = pa.schema([("concept", pa.int32()), ("faces", pa.int32()), ("sure", pa.float32())])
    Config = NamedConfig

    @classmethod
    def revision(cls, config: Any) -> str:
        return "1"

    @classmethod
    def load(cls, config: Any) -> Any:
        raise NotImplementedError("tests write its columns")
