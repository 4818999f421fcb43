"""Pack, in tasks: the one stage whose unit of work is a part, not a shard."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from curation.pack import PackConfig, pack_rows
from curation.schema import Stage
from curation.selection import apply_selection
from curation.shards import Work, read_shard
from curation.telemetry import count_rows
from pairmill.store import Store
from pipelines.stages.told import run_meter


class PackStage:
    """Write part files."""

    def __init__(
        self, config: PackConfig, image_format: str, store: Store, reads: Mapping[str, Sequence[str]], board: Any
    ) -> None:
        self._config, self._image_format = config, image_format
        self._store, self._reads, self._board, self._meter = store, reads, board, run_meter()

    def __call__(self, parts: pa.Table) -> pa.Table:
        for part in parts.to_pylist():
            self._board.begin.remote(Stage.PACK.value, time.time())
            rows = pa.concat_tables([self._packed(shard) for shard in part["shards"]])
            groups = self._config.row_group_rows
            self._store.commit("pairs", part["number"], part["key"], rows, {}, row_group_rows=groups)
            self._board.add.remote(Stage.PACK.value, len(rows), len(rows), time.time())
            count_rows(self._meter, {Stage.PACK.value: {"rows_in": len(rows), "rows_kept": len(rows)}})
        return parts

    def _packed(self, shard: int) -> pa.Table:
        rows = read_shard(self._store, Work(shard, dict.fromkeys(self._reads, "")), self._reads)
        return pack_rows(apply_selection(rows), self._config, self._image_format)
