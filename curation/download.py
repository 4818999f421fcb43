"""Download and inspect: every URL of a shard is fetched, and its bytes decoded while the others are still coming.

reads: url
adds:  status, http_status, final_url, content_type, original_bytes, elapsed_s, attempts, error, opt_out (download);
       image, width, height, original_width, original_height, format, frames, sha256, phash, sharpness, entropy
       (inspect)
drops: every `Status` but success

One actor is one event loop with hundreds of requests in flight, and a few decoder processes.  Bytes go from the socket
to a decoder and are let go, so memory follows the requests in flight, not the rows of a shard.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa

from curation.images.decoder import DecoderPool
from curation.images.inspect import ImageConfig, Inspected
from curation.schema import INSPECT_STATUSES, Stage, Status, add_seconds, drop, live, set_columns
from curation.web.config import DownloadConfig, read_blocklist
from curation.web.fetch import ErrorRate, Fetched, Fetcher
from curation.web.gate_client import Exchange, GateClient

COLUMNS = pa.schema(
    [
        ("status", pa.string()),
        ("http_status", pa.int16()),
        ("final_url", pa.string()),
        ("content_type", pa.string()),
        ("original_bytes", pa.int64()),
        ("elapsed_s", pa.float32()),
        ("attempts", pa.int8()),
        ("error", pa.string()),
        ("opt_out", pa.string()),
        ("image", pa.binary()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("original_width", pa.int32()),
        ("original_height", pa.int32()),
        ("format", pa.string()),
        ("frames", pa.int32()),
        ("sha256", pa.string()),
        ("phash", pa.uint64()),
        ("sharpness", pa.float32()),
        ("entropy", pa.float32()),
    ]
)


class Download:
    """The stage as a callable class: one a worker process."""

    def __init__(
        self,
        config: DownloadConfig,
        image: ImageConfig,
        *,
        decoders: int = 1,
        exchange: Exchange | None = None,
        warn: Callable[[str], None] | None = None,
    ) -> None:
        """exchange: how to reach the gate that all workers share (None: this worker is the only one).

        warn: told when the share of failed fetches becomes abnormal, and with '' when it is normal again.
        """
        self._config, self._image, self._decoders = config, image, decoders
        self._exchange, self._warn = exchange, warn
        self._blocked = read_blocklist(config.hash_blocklist)
        #: URLs of the shards in hand that are not fetched yet, and bodies that are not decoded yet.
        self.queues = {"fetch": 0, "decode": 0}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._run(self._open())

    def __call__(self, rows: pa.Table) -> pa.Table:
        """The shard with its images.  Shards given by several threads are worked on at once."""
        began = time.perf_counter()
        mask = live(rows).to_pylist()
        urls = [url if alive else None for url, alive in zip(rows["url"].to_pylist(), mask, strict=True)]
        done = self._run(self._collect(urls))
        seconds = time.perf_counter() - began
        rows = set_columns(rows, _columns(done))
        rows = drop(rows, Stage.DOWNLOAD, _masks(rows, frozenset(Status) - INSPECT_STATUSES - {Status.SUCCESS}))
        rows = drop(rows, Stage.INSPECT, _masks(rows, INSPECT_STATUSES))
        return add_seconds(add_seconds(rows, Stage.DOWNLOAD, seconds), Stage.INSPECT, seconds)

    def close(self) -> None:
        """End the event loop and the decoder processes."""
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    async def _open(self) -> None:
        self._pool = DecoderPool(self._image, workers=self._decoders, blocked=self._blocked)
        await self._pool.__aenter__()
        gate = GateClient(self._exchange, self._config) if self._exchange else None
        # Imported only where it is asked for: it is an extra, and takes seconds to load.
        if self._config.engine == "img2dataset":
            from curation.web.img2dataset_engine import Img2datasetFetcher

            self._fetcher: Fetcher | Img2datasetFetcher = Img2datasetFetcher(self._config)
        else:
            self._fetcher = Fetcher(self._config, gate, room=self._pool.room)
        self._errors = ErrorRate(self._config.alarm_error_rate)
        await self._fetcher.__aenter__()
        # An actor that says it is ready is: no shard's time is spent on the imports of a decoder.
        await self._pool.ready()

    async def _close(self) -> None:
        await self._fetcher.__aexit__(None, None, None)
        await self._pool.__aexit__(None, None, None)

    async def _collect(self, urls: Sequence[str | None]) -> list[tuple[Fetched, Inspected | None] | None]:
        self.queues["fetch"] += sum(url is not None for url in urls)
        tasks = [asyncio.ensure_future(self._one(url)) if url is not None else None for url in urls]
        return [await task if task is not None else None for task in tasks]

    async def _one(self, url: str) -> tuple[Fetched, Inspected | None]:
        fetched = await self._fetcher.fetch(url)
        self.queues["fetch"] -= 1
        self._watch(fetched.status)
        if fetched.status is not Status.SUCCESS:
            return fetched, None
        self.queues["decode"] += 1
        inspected = await self._pool.inspect(fetched.body)
        self.queues["decode"] -= 1
        if self._config.engine == "img2dataset" and inspected.status is Status.SUCCESS:
            inspected = await asyncio.to_thread(_resized_by_img2dataset, fetched.body, inspected, self._image)
        return fetched._replace(body=b""), inspected

    def _watch(self, status: Status) -> None:
        before = self._errors.alarm
        self._errors.add(status)
        if self._errors.alarm is before or self._warn is None:
            return
        share = f"{self._errors.recent:.0%} of the latest fetches failed, mostly with {status.value}"
        self._warn(f"{share}: is the network, the resolver or a limit of this node in the way?" if not before else "")


def _resized_by_img2dataset(body: bytes, inspected: Inspected, config: ImageConfig) -> Inspected:
    """The same measurements, with the pixels that img2dataset makes of the body."""
    from curation.web.img2dataset_engine import resize_with_img2dataset

    made = resize_with_img2dataset(
        body,
        size=config.size,
        mode=config.resize,
        image_format=config.format,
        quality=config.quality,
        only_if_bigger=config.resize_only_if_bigger,
    )
    if made.error:
        return Inspected(Status.DECODE_ERROR, error=made.error, sha256=inspected.sha256)
    return inspected._replace(image=made.data, width=made.width, height=made.height)


def _masks(rows: pa.Table, statuses: frozenset[Status]) -> dict[str, pa.Array]:
    found = rows["status"].to_pylist()
    present = {s for s in found if s is not None}
    return {s.value: pa.array([f == s.value for f in found]) for s in Status if s in statuses and s.value in present}


def _columns(done: Sequence[tuple[Fetched, Inspected | None] | None]) -> dict[str, pa.Array]:
    records = [_record(*one) if one is not None else {} for one in done]
    return {f.name: pa.array([r.get(f.name) for r in records], f.type) for f in COLUMNS}


def _record(fetched: Fetched, inspected: Inspected | None) -> dict[str, object]:
    record: dict[str, object] = {
        "status": fetched.status.value,
        "http_status": fetched.http_status,
        "final_url": fetched.final_url,
        "content_type": fetched.content_type,
        "original_bytes": fetched.size,
        "elapsed_s": fetched.elapsed_s,
        "attempts": fetched.attempts,
        "error": fetched.error or None,
        "opt_out": fetched.opt_out or None,
    }
    if inspected is None:
        return record
    record |= {"status": inspected.status.value, "error": inspected.error or None, "sha256": inspected.sha256}
    if inspected.status is Status.SUCCESS:
        names = ("image", "width", "height", "original_width", "original_height", "format", "frames")
        record |= {name: getattr(inspected, name) for name in (*names, "phash", "sharpness", "entropy")}
    return record
