"""What bounds any downloader on this machine: the cores, divided by the cheapest way to do each part of the work.

There are three prices, in milliseconds of one core per image: what nginx spends on an answer, what a client that does
nothing else spends on receiving it, and what a decoder process spends on it (hash, decode, resize, encode, measure).  A
downloader without costs of its own would do `cores / (sum of the three)` images a second.  All are CPU times, measured
with every core busy, because cores share caches and clock.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import socket
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from urllib.parse import urlsplit

import psutil
from contenders import IMAGE
from server import Server

from curation.images.decoder import DecoderPool


@dataclass(frozen=True)
class Limits:
    """ms_*: milliseconds of one core per image.  requests_per_s, mb_per_s: the trivial client alone on the machine.

    bound: images a second that all cores could do for these prices.  peer_bound: the same with img2dataset's resizer.
    """

    ms_server: float
    ms_client: float
    ms_inspect: float
    ms_peer_resize: float
    requests_per_s: float
    mb_per_s: float
    bound: float
    peer_bound: float

    def as_json(self) -> dict[str, float]:
        """For the result file."""
        return {name: round(value, 3) for name, value in asdict(self).items()}


def limits(server: Server, files: Sequence[Path], *, requests: int = 2000, images: int = 300) -> Limits:
    """Measure the prices; a few seconds."""
    ms_server, ms_client, seconds, size = _serving(server, server.urls(files, requests))
    bodies = [file.read_bytes() for file in files[:images]]
    ms_inspect = asyncio.run(_decoding(bodies))
    ms_peer = _peer_resizing(bodies)
    cores = os.cpu_count() or 1
    return Limits(
        ms_server=ms_server,
        ms_client=ms_client,
        ms_inspect=ms_inspect,
        ms_peer_resize=ms_peer,
        requests_per_s=requests / seconds,
        mb_per_s=size / seconds / 1e6,
        bound=1000 * cores / (ms_server + ms_client + ms_inspect),
        peer_bound=1000 * cores / (ms_server + ms_client + ms_peer),
    )


def _serving(server: Server, urls: Sequence[str]) -> tuple[float, float, float, int]:
    """ms of nginx and of the client for one answer, seconds for all, and bytes received."""
    host = urlsplit(server.base)
    buffer = memoryview(bytearray(2**20))
    size = 0
    nginx, client, began = _cpu_seconds(server.pid), time.process_time(), time.perf_counter()
    with socket.create_connection((host.hostname, host.port)) as connection:
        for url in urls:
            path = url.removeprefix(server.base)
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {host.netloc}\r\n\r\n".encode())
            size += _receive(connection, buffer)
    seconds = time.perf_counter() - began
    per_image = 1000 / len(urls)
    spent = time.process_time() - client
    return (_cpu_seconds(server.pid) - nginx) * per_image, spent * per_image, seconds, size


def _receive(connection: socket.socket, buffer: memoryview) -> int:
    """Read one answer; its body's bytes."""
    got = connection.recv_into(buffer)
    head, _, rest = bytes(buffer[:got]).partition(b"\r\n\r\n")
    headers = (line.lower() for line in head.split(b"\r\n"))
    length = next(int(line.partition(b":")[2]) for line in headers if line.startswith(b"content-length:"))
    left = length - len(rest)
    while left:
        left -= connection.recv_into(buffer, min(left, len(buffer)))
    return length


def _cpu_seconds(pid: int) -> float:
    parent = psutil.Process(pid)
    times = [process.cpu_times() for process in (parent, *parent.children(recursive=True))]
    return float(sum(t.user + t.system for t in times))


async def _decoding(bodies: list[bytes]) -> float:
    """CPU milliseconds of a decoder process for one image, with a process on every core at once."""
    cores = os.cpu_count() or 1
    async with DecoderPool(IMAGE, workers=cores) as pool:
        await asyncio.gather(*map(pool.inspect, bodies))
        before = sum(map(_cpu_seconds, pool.pids))
        await asyncio.gather(*map(pool.inspect, bodies * cores))
        return 1000 * (sum(map(_cpu_seconds, pool.pids)) - before) / len(bodies) / cores


def _peer_resizing(bodies: list[bytes]) -> float:
    """CPU milliseconds of img2dataset's resizer for one image, with a process on every core at once."""
    cores = os.cpu_count() or 1
    with multiprocessing.get_context("spawn").Pool(cores) as pool:
        return 1000 * sum(pool.map(_peer_resize, [bodies] * cores, chunksize=1)) / cores / len(bodies)


def _peer_resize(bodies: list[bytes]) -> float:
    """CPU seconds of img2dataset's resizer, as its command line sets it up, for all `bodies`."""
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    from img2dataset.resizer import Resizer

    resizer = Resizer(
        image_size=IMAGE.size,
        resize_mode=IMAGE.resize,
        resize_only_if_bigger=False,
        upscale_interpolation="lanczos",
        downscale_interpolation="area",
        encode_quality=IMAGE.quality,
        encode_format=IMAGE.format,
    )
    for body in bodies[:20]:
        resizer(BytesIO(body))
    began = time.process_time()
    for body in bodies:
        resizer(BytesIO(body))
    return time.process_time() - began
