"""Download and inspect: every URL of a shard is fetched, and its bytes decoded while the others are still coming.

One actor is one event loop with hundreds of requests in flight, and a few decoder processes.  Bytes go from the socket
to a decoder and are freed, so memory follows the requests in flight, not the rows of a shard.
"""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation.forget.tombstones import Tombstones
from curation.images.config import ImageConfig
from curation.images.stage import Inspect
from curation.schema import Status, add_seconds, drop, live, set_columns
from curation.stage import Column, Runtime, Stage
from curation.web.config import DownloadConfig, read_blocklist
from pairmill.meters import Meter
from pairmill.outside_text import storable

if TYPE_CHECKING:  # asyncio, aiohttp and codecs take a second, in every process that only reads a recipe
    from curation.images.inspect import Inspected
    from curation.web.fetch import Fetched, Fetcher
    from curation.web.img2dataset_engine import Img2datasetFetcher

#: Seconds between two readings of the queues; Ray exports metrics every ten.
_QUEUES_EVERY_S = 5.0


#: What decides the pixels of pictures that `download.engine: img2dataset` resizes.
_OF_IMG2DATASET = ("albucore", "albumentations", "img2dataset", "numpy", "opencv-python-headless")


class Download(Stage):
    """Fetch every URL: hundreds of requests in flight, politely, and only from public addresses."""

    name, segment, table, pool, shards_at_once = "download", "collect", "images", "fetch", 2
    reads = ("url",)
    adds = (
        Column("status", pa.string(), "success, or why there is no picture"),
        Column("http_status", pa.int16(), "status of the last response"),
        Column("final_url", pa.string(), "where the redirects led", carried=True),
        Column("content_type", pa.string(), "as the server gave it", carried=True),
        # How far a failed fetch got differs from run to run; the size of a whole image follows from its digest.
        Column("original_bytes", pa.int64(), "bytes of the body", volatile=True),
        Column("elapsed_s", pa.float32(), "seconds the URL took, without waits for its host", volatile=True),
        Column("attempts", pa.int8(), "requests made", volatile=True),
        Column("error", pa.string(), "what went wrong, in words", volatile=True),
        # The evidence for a later policy; of failures only what is the same in every run.
        Column("opt_out", pa.string(), "how the owner opted out; empty: not at all; null: unknown"),
        Column("robots", pa.string(), "robots.txt: allowed, unavailable, disallowed; null: unknown"),
        Column("route", pa.string(), "ports contacted, hop by hop, with addresses in download.allow_networks"),
        Column("needs", pa.int64(), "least limit (bytes, redirects, pixels, frames) that would allow it"),
        Column("agent", pa.string(), "product token of the request"),
        Column("engine", pa.string(), "download.engine that fetched the URL and made the picture"),
    )
    drops = tuple(s.value for s in Status if s is not Status.SUCCESS and s.value not in Inspect.drops)
    Config = DownloadConfig

    def __init__(self, config: DownloadConfig) -> None:
        super().__init__(config)
        # What the web answers is of its day; of the engines only that one makes pixels.
        self.libraries = _OF_IMG2DATASET if config.engine == "img2dataset" else ()

    #: URLs of the current shards that are not fetched yet, and bodies that are not decoded yet.
    queues: dict[str, int]

    def setup(self, runtime: Runtime) -> None:
        """Start the event loop and its decoder processes."""
        import asyncio

        self._config: DownloadConfig = self.config
        self._image: ImageConfig = next(stage.config for stage in self.inner if isinstance(stage, Inspect))
        self._runtime = runtime
        self._forgotten = Tombstones() if runtime.store is None else Tombstones.read(runtime.store)
        self._blocked = read_blocklist(self._config.hash_blocklist)
        self.queues = {"fetch": 0, "decode": 0}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._run(self._open())
        if runtime.meter is not None:
            threading.Thread(target=self._record_queues, args=(runtime.meter,), name="queues", daemon=True).start()
            # What the imports created stays: collecting garbage in it again and again costs an eighth of this process's
            # time, in pauses that leave the decoders without work.
            gc.collect()
            gc.freeze()

    def __call__(self, rows: pa.Table) -> pa.Table:
        """The shard with its images.  Shards from several threads are worked on concurrently."""
        began = time.perf_counter()
        mask = live(rows).to_pylist()
        urls = [url if alive else None for url, alive in zip(rows["url"].to_pylist(), mask, strict=True)]
        done = self._run(self._collect(urls))
        seconds = time.perf_counter() - began
        by = {
            "agent": self._config.product_token,
            "engine": self._config.engine,
            "image_settings": self._image.settings,
        }
        rows = set_columns(rows, _columns(done, (*self.adds, *Inspect.adds), by))
        for stage in (self, *self.inner):
            rows = add_seconds(drop(rows, stage.name, _masks(rows, stage.drops), stage.drops), stage.name, seconds)
        return rows

    def outdated(self, rows: pa.Table) -> pa.ChunkedArray:
        """URLs never requested, and pictures made with other image.*; failures are left to a retry."""
        other = pc.not_equal(pc.fill_null(rows["image_settings"], ""), self._settings)
        return pc.or_(pc.is_null(rows["status"]), pc.and_(has_picture(rows), other))

    def preferred(self, old: pa.Table, new: pa.Table) -> pa.Table:
        """A failure does not replace an existing picture; what the owner wants now is recorded with it."""
        stays = pc.and_(has_picture(old), pc.and_(pc.is_valid(new["status"]), pc.invert(has_picture(new))))
        refused = pc.is_in(new["status"], pa.array([Status.OPT_OUT.value, Status.ROBOTS_DISALLOWED.value]))
        noted = set_columns(old, {n: pc.if_else(refused, new[n], old[n]) for n in ("robots", "agent")})
        opted_out = pc.equal(new["status"], Status.OPT_OUT.value)
        noted = set_columns(noted, {"opt_out": pc.if_else(opted_out, new["opt_out"], old["opt_out"])})
        place = np.arange(len(new))
        chosen = pa.array(np.where(np.asarray(stays), place, place + len(new)))
        return pa.concat_tables([noted, new]).take(chosen)

    def facts(self, rows: pa.Table) -> dict[str, Any]:
        """Pictures by their image.* settings, the bytes they were made from, and unreachable robots.txt."""
        pictures = rows.filter(has_picture(rows))
        by = pc.value_counts(pc.fill_null(pictures["image_settings"], "")).to_pylist()
        return {
            "pictures": {one["values"]: one["counts"] for one in by},
            "bytes": pc.sum(pictures["original_bytes"]).as_py() or 0,
            "robots_unavailable": pc.sum(pc.equal(pictures["robots"], "unavailable")).as_py() or 0,
        }

    @property
    def _settings(self) -> str:
        image: ImageConfig = next(stage.config for stage in self.inner if isinstance(stage, Inspect))
        return image.settings

    def count(self, meter: Meter, rows: pa.Table) -> None:
        """Fetches by status, bytes and seconds."""
        from curation.telemetry import count_fetches

        count_fetches(meter, rows)

    def _record_queues(self, meter: Meter) -> None:
        while True:
            for queue, urls in self.queues.items():
                meter.set("pairmill_queue", urls, queue=queue)
            time.sleep(_QUEUES_EVERY_S)

    def close(self) -> None:
        """End the event loop and the decoder processes."""
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self, coroutine: Any) -> Any:
        import asyncio

        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    async def _open(self) -> None:
        from curation.images.decoder import DecoderPool
        from curation.web.fetch import ErrorRate, Fetcher
        from curation.web.gate_client import GateClient

        self._pool = DecoderPool(self._image, workers=self._runtime.decoders, blocked=self._blocked)
        await self._pool.__aenter__()
        exchange = self._runtime.exchange
        gate = GateClient(exchange, self._config) if exchange else None
        # Imported only if configured: it is an extra, and takes seconds to load.
        if self._config.engine == "img2dataset":
            from curation.web.img2dataset_engine import Img2datasetFetcher

            self._fetcher: Fetcher | Img2datasetFetcher = Img2datasetFetcher(self._config)
        else:
            self._fetcher = Fetcher(self._config, gate, room=self._pool.room, forgotten=self._forgotten.covers_url)
        self._errors = ErrorRate(self._config.alarm_error_rate)
        await self._fetcher.__aenter__()
        # Wait, so that no shard's time is spent on the imports of a decoder.
        await self._pool.ready()

    async def _close(self) -> None:
        await self._fetcher.__aexit__(None, None, None)
        await self._pool.__aexit__(None, None, None)

    async def _collect(self, urls: Sequence[str | None]) -> list[tuple[Fetched, Inspected | None] | None]:
        self.queues["fetch"] += sum(url is not None for url in urls)
        tasks = [self._loop.create_task(self._one(url)) if url is not None else None for url in urls]
        return [await task if task is not None else None for task in tasks]

    async def _one(self, url: str) -> tuple[Fetched, Inspected | None]:
        fetched = await self._fetcher.fetch(url)
        self.queues["fetch"] -= 1
        self._watch(fetched.status)
        if fetched.status is Status.FORGOTTEN or self._forgotten.covers_url(fetched.final_url):
            return _nothing_of(fetched), None
        if fetched.status is not Status.SUCCESS:
            return fetched, None
        self.queues["decode"] += 1
        inspected = await self._pool.inspect(fetched.body)
        self.queues["decode"] -= 1
        if self._forgotten.covers_picture(inspected.sha256):
            return _nothing_of(fetched), None
        if self._config.engine == "img2dataset" and inspected.status is Status.SUCCESS:
            inspected = await self._loop.run_in_executor(
                None, _resized_by_img2dataset, fetched.body, inspected, self._image
            )
        return fetched._replace(body=b""), inspected

    def _watch(self, status: Status) -> None:
        before = self._errors.alarm
        self._errors.add(status)
        if self._errors.alarm is before or self._runtime.warn is None:
            return
        share = f"{self._errors.recent:.0%} of the latest fetches failed, mostly with {status.value}"
        why = f"{share}: check the network, the resolver and the limits of this node"
        self._runtime.warn("" if before else why)


def _nothing_of(fetched: Fetched) -> Fetched:
    """What is recorded of a URL that led to something forgotten (`pairmill forget`)."""
    blank = fetched._replace(http_status=None, final_url="", content_type="", body=b"", size=0, error="", opt_out=None)
    return blank._replace(status=Status.FORGOTTEN, robots=None, route=None, needs=None)


def _resized_by_img2dataset(body: bytes, inspected: Inspected, config: ImageConfig) -> Inspected:
    """The same measurements, with the pixels that img2dataset makes of the body."""
    from curation.images.inspect import Inspected
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


def has_picture(rows: pa.Table) -> pa.ChunkedArray:
    """Mask of the rows that have a picture."""
    return pc.fill_null(pc.equal(rows["status"], Status.SUCCESS.value), False)


def without_pictures(rows: pa.Table, mask: pa.Array | pa.ChunkedArray) -> pa.Table:
    """The rows, those of `mask` as if their bytes had been on the block list when they were fetched.

    rows: with some or all columns of images/.  Only the digest of such a picture is kept.
    """
    gone = pc.and_(mask, has_picture(rows))
    lost = [c for c in Inspect.adds if c.name != "sha256" and c.name in rows.schema.names]
    blocked = pa.scalar(Status.HASH_BLOCKED.value)
    values: dict[str, pa.Scalar] = {c.name: pa.scalar(None, c.type) for c in lost}
    values |= {"status": blocked, "drop_stage": pa.scalar(Download.name), "drop_reason": blocked}
    return set_columns(rows, {name: pc.if_else(gone, value, rows[name]) for name, value in values.items()})


def _masks(rows: pa.Table, reasons: Sequence[str]) -> Mapping[str, pa.ChunkedArray]:
    present = set(pc.unique(rows["status"]).to_pylist())
    return {reason: pc.equal(rows["status"], reason) for reason in reasons if reason in present}


def _columns(
    done: Sequence[tuple[Fetched, Inspected | None] | None], columns: Sequence[Column], by: Mapping[str, str]
) -> dict[str, pa.Array]:
    records = [_record(*one, by) if one is not None else {} for one in done]
    return {c.name: pa.array([record.get(c.name) for record in records], c.type) for c in columns}


def _record(fetched: Fetched, inspected: Inspected | None, by: Mapping[str, str]) -> dict[str, object]:
    """by: `agent`, `engine` and `image_settings` of this worker."""
    found = _found(fetched, inspected, by)
    # Servers, users' engines and codecs wrote some of it: whatever they sent costs at most this row.
    return {name: storable(value) if isinstance(value, str) else value for name, value in found.items()}


def _found(fetched: Fetched, inspected: Inspected | None, by: Mapping[str, str]) -> dict[str, object]:
    record: dict[str, object] = {
        "status": fetched.status.value,
        "http_status": fetched.http_status,
        "final_url": fetched.final_url,
        "content_type": fetched.content_type,
        "original_bytes": fetched.size,
        "elapsed_s": fetched.elapsed_s,
        "attempts": fetched.attempts,
        "error": fetched.error or None,
        "opt_out": fetched.opt_out if fetched.opt_out or fetched.status is Status.SUCCESS else None,
        "robots": fetched.robots,
        "route": fetched.route,
        "needs": fetched.needs,
        "agent": by["agent"],
        "engine": by["engine"],
    }
    if inspected is None:
        return record
    record |= {"status": inspected.status.value, "error": inspected.error or None, "sha256": inspected.sha256}
    record |= {"needs": inspected.needs or None}
    if inspected.status is Status.SUCCESS:
        names = ("image", "width", "height", "original_width", "original_height", "format", "frames")
        record |= {name: getattr(inspected, name) for name in (*names, "phash", "colours", "sharpness", "entropy")}
        record |= {"image_settings": by["image_settings"]}
    return record
