"""Fetch and inspect, in a pool of actors."""

from __future__ import annotations

import gc
import threading
import time
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation.download import COLUMNS, Download
from curation.images.inspect import ImageConfig
from curation.schema import RETRYABLE, Stage, set_columns
from curation.web.config import DownloadConfig
from pipelines.stages.told import Told

#: Seconds between two readings of the queues; Ray exports metrics every ten.
_QUEUES_EVERY_S = 5.0


class DownloadStage:
    """Fetch and inspect; passes on shards whose images are there already.

    gate: the actor by which the actors of the pool share what a host may be asked.
    """

    def __init__(self, config: DownloadConfig, image: ImageConfig, decoders: int, gate: Any, board: Any) -> None:
        async def exchange(*args: Any) -> Any:
            return await gate.exchange.remote(*args)

        def warn(text: str) -> None:
            board.warn.remote("download", text)

        self._told = Told(board, Stage.DOWNLOAD, Stage.INSPECT)
        self._stage = Download(config, image, decoders=decoders, exchange=exchange, warn=warn)
        threading.Thread(target=self._tell_queues, name="queues", daemon=True).start()
        # What the imports made stays: to look through it for garbage again and again costs an eighth of this process,
        # in pauses that leave the decoders without work.
        gc.collect()
        gc.freeze()

    def __call__(self, rows: pa.Table) -> pa.Table:
        if "status" in rows.schema.names:
            return rows
        self._told.begin()
        return self._told.end(self._stage(rows))

    def _tell_queues(self) -> None:
        while True:
            for queue, urls in self._stage.queues.items():
                self._told.meter.set("pairmill_queue", urls, queue=queue)
            time.sleep(_QUEUES_EVERY_S)


class RetryStage(DownloadStage):
    """Fetch again the rows of committed shards whose failure may have passed, and put the shard together again."""

    def __call__(self, rows: pa.Table) -> pa.Table:
        self._told.begin()
        failed = pc.is_in(rows["status"], pa.array([s.value for s in RETRYABLE]))
        nothing = pa.nulls(len(rows), pa.string())
        asked = set_columns(rows, {"drop_stage": nothing, "drop_reason": nothing}).filter(failed)
        done = self._stage(asked.drop_columns([n for n in COLUMNS.names if n in asked.schema.names]))
        done = done.select([n for n in done.schema.names if n in rows.schema.names]).select(rows.schema.names)
        # Rows and their replacements, each back in its place.
        place = np.arange(len(rows))
        again = place[np.asarray(failed)]
        order = np.argsort(np.r_[np.setdiff1d(place, again), again])
        rows = pa.concat_tables([rows.filter(pc.invert(failed)), done.cast(rows.schema)]).take(pa.array(order))
        return self._told.end(rows.drop_columns(["_content_images"]), worked=done)
