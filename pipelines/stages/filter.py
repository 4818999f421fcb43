"""Filter, in tasks."""

from __future__ import annotations

import time
from functools import lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from curation.filters import FILTER_COLUMNS, FilterConfig, filter_rows
from curation.plan import common_texts
from curation.schema import Stage, add_seconds, set_columns
from pairmill.store import Store
from pipelines.stages.told import Told


class FilterStage:
    """Filter; a task, its models cached by the process."""

    def __init__(self, config: FilterConfig, store: Store, board: Any) -> None:
        self._config, self._store, self._told = config, store, Told(board, Stage.FILTER)

    def __call__(self, rows: pa.Table) -> pa.Table:
        if "caption" in rows.schema.names:
            return rows
        began = self._told.begin()
        common = _common_texts(self._store.uri, self._config.max_images_per_text)
        own = input_columns(rows)
        rows = filter_rows(set_columns(rows, own), config=self._config, common_texts=common).drop_columns(list(own))
        return self._told.end(add_seconds(rows, Stage.FILTER, time.perf_counter() - began))


def input_columns(rows: pa.Table) -> dict[str, pa.ChunkedArray]:
    """The input list's own columns, for `filter.where` and `filter.callables`; ours win where names clash."""
    if "input" not in rows.schema.names:
        return {}
    taken = {*rows.schema.names, *FILTER_COLUMNS.names}
    fields = [f.name for f in rows.schema.field("input").type if f.name not in taken]
    return {name: pc.struct_field(rows["input"], name) for name in fields}


@lru_cache(maxsize=2)
def _common_texts(uri: str, more_than: int | None) -> frozenset[bytes]:
    return common_texts(Store(uri), more_than)
