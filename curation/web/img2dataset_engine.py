"""The engine `img2dataset`: that project's own downloader and resizer behind our row contract, for comparison.

It is weaker than `Fetcher`: an address is checked before the request but not while connecting, redirects are not
checked at all, a body has no size limit while it is read, robots.txt, hosts' limits and Retry-After are ignored, and
its user agent names a browser beside our product token.  `download.timeout_s` is the limit of one socket operation, as
in img2dataset; the URL as a whole is abandoned after `(retries + 1) * timeout_s`, though its thread ends only when the
server allows it.
"""

from __future__ import annotations

import asyncio
import importlib
import io
import os
import re
import time
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any, NamedTuple

from curation.images.header import sniff, why_unread
from curation.schema import Status
from curation.web.address import AddressPolicy, Refused, check_url
from curation.web.config import DownloadConfig
from curation.web.fetch import Fetched
from curation.web.safe_http import FetchError, Lookup, Resolver, system_lookup
from pairmill.errors import UserError
from pairmill.faults import fault_point

#: What img2dataset drops by default when it obeys X-Robots-Tag.
_DIRECTIVES = frozenset({"noai", "noimageai", "noindex", "noimageindex"})

#: img2dataset reports a failure as the text of the exception; the first matching pattern decides.
_ERRORS: tuple[tuple[re.Pattern[str], Status], ...] = tuple(
    (re.compile(pattern), status)
    for pattern, status in (
        (r"X-Robots-Tag", Status.OPT_OUT),
        (r"HTTP Error 30\d", Status.REDIRECT_ERROR),
        (r"HTTP Error 429", Status.RATE_LIMITED),
        (r"HTTP Error 4\d\d", Status.HTTP_CLIENT_ERROR),
        (r"HTTP Error \d\d\d", Status.HTTP_SERVER_ERROR),
        (r"timed out", Status.TIMEOUT),
        (r"Errno -\d|Name or service|nodename nor servname|name resolution", Status.DNS_ERROR),
        (r"SSL|CERTIFICATE", Status.TLS_ERROR),
        (r"IncompleteRead", Status.TRUNCATED),
        (r"unknown url type", Status.FORBIDDEN_SCHEME),
    )
)


class Resized(NamedTuple):
    """An image as img2dataset's resizer leaves it; `data` is empty and `error` gives the reason if it failed."""

    data: bytes
    width: int
    height: int
    original_width: int
    original_height: int
    error: str


def error_status(message: str) -> Status:
    """What an error message of img2dataset's downloader means."""
    return next((status for pattern, status in _ERRORS if pattern.search(message)), Status.CONNECTION_ERROR)


class Img2datasetFetcher:
    """Same interface as `Fetcher`; an async context manager.  Raises `UserError` if img2dataset is not installed."""

    def __init__(self, config: DownloadConfig, *, lookup: Lookup = system_lookup) -> None:
        self._download = _import("downloader").download_image_with_retry
        self._config = config
        self._resolver = Resolver(AddressPolicy(config.allow_networks, config.allow_ports), lookup)
        self._threads = ThreadPoolExecutor(config.max_in_flight, thread_name_prefix="img2dataset")

    async def __aenter__(self) -> Img2datasetFetcher:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        await self._resolver.close()

    async def fetch(self, url: str) -> Fetched:
        """The image at `url`, or why there is none."""
        try:
            target = check_url(url)
            await self._resolver.addresses(target.host, target.port, self._config.timeout_s)
        except Refused as refused:
            hop = refused.hop or None
            return _failed(url, refused.status, refused.reason, attempts=0)._replace(route=hop)
        except FetchError as error:
            return _failed(url, error.status, error.message, attempts=1)
        fault_point("fetch.request")
        work = asyncio.get_running_loop().run_in_executor(self._threads, self._fetch, target.url)
        limit_s = (self._config.retries + 1) * self._config.timeout_s
        try:
            return await asyncio.wait_for(work, limit_s)
        except asyncio.TimeoutError:
            return _failed(url, Status.TIMEOUT, f"no complete answer within {limit_s:g} s", elapsed_s=limit_s)

    def _fetch(self, url: str) -> Fetched:
        start = time.monotonic()
        directives = _DIRECTIVES if self._config.respect_opt_out else None
        token = self._config.product_token.lower()
        _, stream, error = self._download((0, url), self._config.timeout_s, self._config.retries, token, directives)
        elapsed_s = time.monotonic() - start
        if stream is None:
            message = str(error or "no answer")[:300]
            code = re.search(r"HTTP Error (\d\d\d)", message)
            return _failed(
                url, error_status(message), message, http_status=int(code[1]) if code else None, elapsed_s=elapsed_s
            )
        body = stream.getvalue()
        if not body:
            return _failed(url, Status.EMPTY_BODY, "no bytes", http_status=200, elapsed_s=elapsed_s)
        if len(body) > self._config.max_bytes:
            message = f"more than {self._config.max_bytes} bytes"
            failed = _failed(url, Status.TOO_LARGE, message, http_status=200, size=len(body), elapsed_s=elapsed_s)
            return failed._replace(needs=len(body))
        if sniff(body[:64]) is None:
            status, message = why_unread(body)
            return _failed(url, status, message, http_status=200, size=len(body), elapsed_s=elapsed_s)
        # It reports neither where redirects led nor what the owner wants, so there is no evidence for a later policy.
        return Fetched(Status.SUCCESS, 200, url, "", body, len(body), elapsed_s, 1, "", None)


def _failed(
    url: str,
    status: Status,
    message: str,
    *,
    attempts: int = 1,
    http_status: int | None = None,
    size: int = 0,
    elapsed_s: float = 0.0,
) -> Fetched:
    evidence = message if status is Status.OPT_OUT else ""
    return Fetched(status, http_status, url, "", b"", size, elapsed_s, attempts, message, evidence)


def resize_with_img2dataset(
    data: bytes, *, size: int, mode: str, image_format: str, quality: int, only_if_bigger: bool = False
) -> Resized:
    """Resize and re-encode `data` as img2dataset does.

    size: pixels of the side that `mode` (no, keep_ratio, keep_ratio_largest, center_crop, border) refers to.
    image_format: jpg, png or webp.  quality: 0-100; for png, 0-9 of compression.
    """
    resizer = _resizer(size, mode, image_format, quality, only_if_bigger)
    encoded, width, height, original_width, original_height, error = resizer(io.BytesIO(data))
    if error is not None or encoded is None:
        return Resized(b"", 0, 0, 0, 0, str(error or "not encoded"))
    return Resized(encoded, width, height, original_width, original_height, "")


@lru_cache(maxsize=4)
def _resizer(size: int, mode: str, image_format: str, quality: int, only_if_bigger: bool) -> Any:
    return _import("resizer").Resizer(
        image_size=size,
        resize_mode=mode,
        resize_only_if_bigger=only_if_bigger,
        encode_quality=quality,
        encode_format=image_format,
    )


def _import(module: str) -> Any:
    # Its dependency albumentations checks PyPI for a newer version whenever it is imported.
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    try:
        return importlib.import_module(f"img2dataset.{module}")
    except ImportError as error:
        raise UserError(
            "download.engine img2dataset must have that package installed, on Python before 3.13",
            value=error,
            fix="set download.engine: async; or, with an older Python, run pip install 'pairmill[img2dataset]'",
        ) from error
