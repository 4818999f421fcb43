"""Pack, in tasks: the one stage whose unit of work is a part, not a shard."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from curation.blurring import with_blurred
from curation.images.config import ImageConfig
from curation.pack import Pack, PackConfig, pack_rows
from curation.shards import Work, read_shard
from curation.telemetry import count_rows
from pairmill.layout import PAIRS
from pairmill.store import Store
from pipelines.stages.reporting import run_meter


class PackStage:
    """Write part files."""

    def __init__(
        self,
        pack: Packing,
        store: Store,
        reads: Mapping[str, Sequence[str]],
        prepare: Callable[[pa.Table], pa.Table],
        board: Any,
    ) -> None:
        """reads, prepare: what to load of the tables, and what drops the rows that the selection does not keep."""
        self._pack, self._store, self._reads, self._prepare = pack, store, reads, prepare
        self._board, self._meter = board, run_meter()

    def __call__(self, parts: pa.Table) -> pa.Table:
        for part in parts.to_pylist():
            self._board.begin.remote(Pack.name, time.time())
            rows = pa.concat_tables([self._packed(shard) for shard in part["shards"]])
            groups = self._pack.config.row_group_rows
            self._store.commit(PAIRS, part["number"], part["key"], rows, {}, row_group_rows=groups)
            self._board.add.remote(Pack.name, len(rows), len(rows), time.time())
            count_rows(self._meter, {Pack.name: {"rows_in": len(rows), "rows_kept": len(rows)}})
        return parts

    def _packed(self, shard: int) -> pa.Table:
        rows = read_shard(self._store, Work(shard, dict.fromkeys(self._reads, "")), self._reads, self._pack.input_type)
        rows, config, image = self._prepare(rows), self._pack.config, self._pack.image
        if config.blur_faces is not None:
            rows = with_blurred(rows, config.blur_faces, image)
        return pack_rows(rows, config, image.format, self._pack.columns)


class Packing(NamedTuple):
    """How the product is made.

    image: how its images are encoded.  columns: carried over, with their types.
    input_type: of the column `input` over all lists; None if they had no other columns.
    """

    config: PackConfig
    image: ImageConfig
    columns: Mapping[str, pa.DataType]
    input_type: pa.StructType | None
