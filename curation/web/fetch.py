"""Fetch one image from the web: safe for the operator, polite to the host, never longer than the deadline.

    URL rules -> addresses -> robots.txt -> slot of the host -> request -> redirect? from the top : body

`Fetcher.fetch` turns every outcome of a URL into a `Fetched`; only bugs raise.  Callers may gather any number: the
fetcher limits itself.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import aiohttp

from curation.images.header import sniff, why_unread
from curation.schema import RETRYABLE, Status
from curation.web.address import Refused, Target, check_url, redirect_url
from curation.web.coding import coding_of, inflated, is_decoded
from curation.web.config import DownloadConfig
from curation.web.gate_client import GateClient, local_gate
from curation.web.opt_out import SiteRules, Wishes, header_opt_out
from curation.web.partial import announced, lacks
from curation.web.safe_http import HTTP_ERRORS, FetchError, Lookup, Resolver, SafeHttp, fetch_error, system_lookup
from pairmill.faults import fault_point
from pairmill.outside_text import storable
from pairmill.retry_after import retry_after_s

#: A body up to this many bytes is read without a reservation; larger ones share LARGE_BODIES times max_bytes.
FREE_BODY_BYTES = 2**20
LARGE_BODIES = 8
#: Bytes that `sniff` needs to recognise an image.
SNIFF_BYTES = 64
#: Longest pause between two attempts, in seconds, unless the host asks for a longer one.
MAX_BACKOFF_S = 10.0

_REDIRECTS = frozenset({301, 302, 303, 307, 308})


class Fetched(NamedTuple):
    """What became of one URL."""

    status: Status
    http_status: int | None  #: of the last answer
    final_url: str  #: after redirects
    content_type: str  #: as the server says
    body: bytes  #: empty unless `success`
    size: int  #: bytes of body received
    elapsed_s: float  #: seconds, without waits for the host and its robots.txt
    attempts: int  #: 0: the URL itself was refused
    error: str  #: why there is no image; "" on success
    opt_out: str | None  #: how the owner opted out, "" if not at all; None: not checked
    robots: str | None = None  #: what robots.txt says (`opt_out.ROBOTS`); None: not checked
    route: str | None = None  #: the hops, as `AddressPolicy.hop` writes them, separated by spaces; None: unknown
    needs: int | None = None  #: the least limit that would allow it, where one of ours did not


class Fetcher:
    """Fetches images; an async context manager.

    gate: this fetcher's client of a gate shared with others (entered by the fetcher); by default its own gate.
    room: awaited before each request, so that the consumer of bodies can pause fetching; not part of the deadline.
    forgotten: whether a URL must not be requested (`pairmill forget`), asked of each redirect too.
    lookup: resolves names, blocking, in threads.
    """

    def __init__(
        self,
        config: DownloadConfig,
        gate: GateClient | None = None,
        *,
        room: Callable[[], Awaitable[None]] | None = None,
        forgotten: Callable[[str], bool] = lambda url: False,
        lookup: Lookup = system_lookup,
        resolver: Resolver | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._room = room
        self._forgotten = forgotten
        self._gate = gate or local_gate(config)
        self._http = SafeHttp(config, lookup, resolver=resolver)
        self._sites = SiteRules(config, self._http, self._gate)
        self._clock = clock
        self._in_flight = asyncio.Semaphore(config.max_in_flight)
        self._large = ByteBudget(LARGE_BODIES * config.max_bytes)
        self._transfers: set[_Transfer] = set()
        self._watchdog: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Fetcher:
        await self._http.__aenter__()
        await self._gate.__aenter__()
        self._watchdog = asyncio.create_task(self._watch(), name="minimum-rate")
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        assert self._watchdog is not None
        self._watchdog.cancel()
        await asyncio.gather(self._watchdog, return_exceptions=True)
        await self._sites.close()
        await self._gate.__aexit__()
        await self._http.__aexit__()

    async def fetch(self, url: str) -> Fetched:
        """The image at `url`, or why there is none."""
        progress = _Progress(url, self._clock, self._config.timeout_s)
        failure: FetchError | None = None
        try:
            target = check_url(url)
        except Refused as refused:
            return progress.failed(FetchError(refused.status, refused.reason))
        for attempt in range(self._config.retries + 1):
            if failure is not None and not await self._back_off(attempt, failure, progress):
                break
            progress.begin_attempt()
            fault_point("fetch.request")
            try:
                return await self._attempt(target, progress)
            except HTTP_ERRORS as error:
                # A traceback would keep the body read so far until the next full garbage collection.
                latest = fetch_error(error).with_traceback(None)
                latest.http_status = progress.http_status
                # A host that is now left alone explains less than the attempt before.
                if failure is None or latest.status not in (Status.CIRCUIT_OPEN, Status.HOST_BUSY):
                    failure = latest
                if not latest.retry:
                    break
        assert failure is not None
        return progress.failed(failure)

    async def _back_off(self, attempt: int, failure: FetchError, progress: _Progress) -> bool:
        """Wait before a further attempt; False if there is no time left for one."""
        pause = min(self._config.backoff_s * 2.0 ** (attempt - 1), MAX_BACKOFF_S) * random.uniform(0.5, 1.5)
        pause = max(pause, failure.retry_after_s)
        if pause >= progress.remaining():
            return False
        await asyncio.sleep(pause)
        return True

    async def _attempt(self, target: Target, progress: _Progress) -> Fetched:
        """Follow `target` to an answer; raises `HTTP_ERRORS`."""
        for _ in range(self._config.max_redirects + 1):
            progress.url = target.url
            if self._forgotten(target.url):
                raise FetchError(Status.FORGOTTEN, "a rule of `pairmill forget` covers it")
            left = progress.left()
            try:
                addresses = await self._http.resolver.addresses(target.host, target.port, left)
            except FetchError:
                self._gate.failed(target.site)
                raise
            progress.route.append(self._http.policy.hop(target.port, addresses))
            paused = self._clock()
            progress.wishes = progress.wishes.joined(await self._sites.check(target))
            async with self._gate.slot(target.site, self._http.shared_load(addresses)), self._in_flight:
                if self._room is not None:
                    await self._room()
                progress.pause(self._clock() - paused)
                answer = await self._request(target, progress)
            if isinstance(answer, Fetched):
                return answer
            try:
                target = check_url(answer)
            except Refused as refused:
                if refused.status is not Status.INVALID_URL:
                    raise
                raise FetchError(Status.REDIRECT_ERROR, f"redirected to no URL: {refused.reason}") from None
        most = self._config.max_redirects
        raise FetchError(Status.REDIRECT_ERROR, f"more than {most} redirects", needs=most + 1)

    async def _request(self, target: Target, progress: _Progress) -> Fetched | str:
        """One GET: the image, or the URL a redirect leads to."""
        try:
            response = await self._http.get(target, progress.left())
        except HTTP_ERRORS as error:
            if fetch_error(error).connecting:
                self._gate.failed(target.site)
            raise
        self._gate.answered(target.site)
        try:
            progress.http_status = response.status
            progress.content_type = response.headers.get("Content-Type", "")[:200]
            if response.status in _REDIRECTS and "Location" in response.headers:
                return redirect_url(target, response.headers["Location"])
            self._check_status(target, response)
            coding = self._check_headers(response, progress)
            return progress.succeeded(await self._read(response, progress, coding))
        finally:
            # The connection returns to the pool if the body was read to its end; otherwise it is closed.
            response.release()

    def _check_status(self, target: Target, response: aiohttp.ClientResponse) -> None:
        code = response.status
        if code in (204, 205):
            raise FetchError(Status.EMPTY_BODY, f"HTTP {code}")
        if code == 206 and (part := lacks(_ranges(response), response.headers.get("Content-Type", ""))):
            raise FetchError(Status.TRUNCATED, f"HTTP 206 with {part}, although no range was asked for", retry=True)
        if 200 <= code < 300:
            return
        wait_s = retry_after_s(response.headers.get("Retry-After"), response.headers.get("Date")) or 0.0
        if wait_s and code in (429, 503):
            self._gate.block(target.site, wait_s)
        if 300 <= code < 400:
            raise FetchError(Status.REDIRECT_ERROR, f"HTTP {code} without a Location to follow")
        if code == 429:
            raise FetchError(Status.RATE_LIMITED, "HTTP 429", retry=True, retry_after_s=wait_s)
        if 400 <= code < 500:
            raise FetchError(Status.HTTP_CLIENT_ERROR, f"HTTP {code}")
        passing = 500 <= code < 600
        raise FetchError(Status.HTTP_SERVER_ERROR, f"HTTP {code}", retry=passing, retry_after_s=wait_s)

    def _check_headers(self, response: aiohttp.ClientResponse, progress: _Progress) -> str:
        """The coding of the body, "" if it has none."""
        evidence = header_opt_out(response.headers, self._config.product_token)
        if evidence and self._config.respect_opt_out:
            raise FetchError(Status.OPT_OUT, "the answer's headers keep it out", evidence=evidence)
        progress.wishes = progress.wishes.joined(Wishes(opt_out=evidence))
        coding = coding_of(response.headers.getall("Content-Encoding", []))
        if coding and not is_decoded(coding):
            raise FetchError(Status.ENCODED_BODY, f"Content-Encoding {coding[:40]} although none was accepted")
        length = response.content_length or 0
        if length > self._config.max_bytes:
            raise FetchError(Status.TOO_LARGE, f"{length} bytes announced", needs=length)
        return coding

    async def _read(self, response: aiohttp.ClientResponse, progress: _Progress, coding: str) -> bytes:
        """The whole body, decoded; raises `FetchError` as soon as it is known to be unacceptable."""
        content = response.content
        chunks: list[bytes] = []
        known = bool(coding)  # what it begins like shows when it is whole
        reserved = 0
        transfer = _Transfer(response, self._clock())
        self._transfers.add(transfer)
        try:
            while chunk := await content.readany():
                chunks.append(chunk)
                progress.size += len(chunk)
                most = self._config.max_bytes
                if progress.size > most:
                    raise FetchError(Status.TOO_LARGE, f"more than {most} bytes", needs=most + 1)
                if not known and progress.size >= SNIFF_BYTES:
                    known = _check_image(chunks)
                if progress.size > FREE_BODY_BYTES and not reserved:
                    size = response.content_length or self._config.max_bytes
                    self._transfers.discard(transfer)  # the wait is ours, not the host's
                    await self._large.acquire(size)
                    reserved = size
                    transfer.restart(self._clock())
                    self._transfers.add(transfer)
            if not progress.size:
                raise FetchError(Status.EMPTY_BODY, "no bytes")
            if response.status == 206 and progress.size != (announced(_ranges(response)) or progress.size):
                raise FetchError(Status.TRUNCATED, f"HTTP 206 with {progress.size} bytes of another range", retry=True)
            if not known:
                _check_image(chunks)
            body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
            return await self._decoded(body, coding) if coding else body
        finally:
            self._transfers.discard(transfer)
            self._large.release(reserved)

    async def _decoded(self, body: bytes, coding: str) -> bytes:
        """The image in a body that the server says is coded; what begins like an image is one."""
        plain: bytes | None = body
        for _ in coding.split(","):
            if plain is not None and sniff(plain[:64]) is None:
                plain = await asyncio.to_thread(inflated, plain, self._config.max_bytes)
        if plain is None or sniff(plain[:64]) is None:
            raise FetchError(Status.ENCODED_BODY, f"Content-Encoding {coding}, and no image within max_bytes in it")
        return plain

    async def _watch(self) -> None:
        """End the transfers that stay under the minimum rate, and those that lost their connection unnoticed."""
        window_s = self._config.min_rate_window_s
        while True:
            await asyncio.sleep(window_s / 5)
            now = self._clock()
            for transfer in self._transfers:
                rate = transfer.rate(now, window_s)
                if transfer.is_cut_off():
                    transfer.end(FetchError(Status.TRUNCATED, "the body broke off", retry=True))
                elif rate is not None and rate < self._config.min_bytes_per_s:
                    message = f"{rate:.0f} bytes a second over {window_s:g} s"
                    transfer.end(FetchError(Status.TOO_SLOW, message))


def _ranges(response: aiohttp.ClientResponse) -> list[str]:
    return response.headers.getall("Content-Range", [])


def _check_image(chunks: list[bytes]) -> bool:
    """True; raises if the body does not begin like an image."""
    head = chunks[0] if len(chunks[0]) >= SNIFF_BYTES else b"".join(chunks)
    if sniff(head[:64]) is None:
        raise FetchError(*why_unread(head))
    return True


class _Progress:
    """One URL in progress: its deadline, and what is known so far."""

    __slots__ = (
        *("_clock", "_deadline", "_start"),
        *("attempts", "content_type", "http_status", "route", "size", "url", "wishes"),
    )

    def __init__(self, url: str, clock: Callable[[], float], timeout_s: float) -> None:
        self._clock = clock
        self._start = clock()
        self._deadline = self._start + timeout_s
        self.url = url
        self.attempts = 0
        self.http_status: int | None = None
        self.content_type = ""
        self.size = 0
        self.route: list[str] = []
        self.wishes = Wishes()

    def begin_attempt(self) -> None:
        self.attempts += 1
        self.http_status = None
        self.content_type = ""
        self.size = 0
        self.route = []
        self.wishes = Wishes()

    def remaining(self) -> float:
        """Seconds to the deadline, negative when it is over."""
        return self._deadline - self._clock()

    def left(self) -> float:
        """Seconds to the deadline; raises when it is over."""
        remaining = self.remaining()
        if remaining <= 0:
            raise FetchError(Status.TIMEOUT, "no time left")
        return remaining

    def pause(self, seconds: float) -> None:
        """Exclude time that was not spent on the URL."""
        self._start += seconds
        self._deadline += seconds

    def succeeded(self, body: bytes) -> Fetched:
        found = self._result(Status.SUCCESS, self.http_status, body, "", self.wishes.opt_out)
        return found._replace(robots=self.wishes.robots, route=" ".join(self.route))

    def failed(self, failure: FetchError) -> Fetched:
        found = self._result(failure.status, failure.http_status, b"", failure.message, failure.evidence)
        if failure.status in (Status.ROBOTS_DISALLOWED, Status.ROBOTS_UNAVAILABLE):
            found = found._replace(robots=failure.status.value.removeprefix("robots_"))
        elif failure.status is Status.OPT_OUT:
            found = found._replace(robots=self.wishes.robots)
        # Other failures keep nothing that differs between runs.
        return found._replace(route=" ".join([*self.route, failure.hop]) if failure.hop else None, needs=failure.needs)

    def _result(self, status: Status, http_status: int | None, body: bytes, error: str, opt_out: str) -> Fetched:
        elapsed_s = self._clock() - self._start
        return Fetched(
            status,
            http_status,
            storable(self.url),
            storable(self.content_type),
            body,
            self.size,
            elapsed_s,
            self.attempts,
            storable(error),
            storable(opt_out),
        )


class _Transfer:
    """A body in transfer, for the rate watch."""

    __slots__ = ("_bytes", "_response", "_since")

    def __init__(self, response: aiohttp.ClientResponse, now: float) -> None:
        self._response = response
        self.restart(now)

    def restart(self, now: float) -> None:
        """Measure from now on: what came before, or a wait of ours, does not count."""
        self._since = now
        self._bytes = self._response.content.total_bytes

    def rate(self, now: float, window_s: float) -> float | None:
        """Bytes a second since the last measure; None while it is younger than the window."""
        seconds = now - self._since
        if seconds < window_s:
            return None
        rate = (self._response.content.total_bytes - self._bytes) / seconds
        self.restart(now)
        return rate

    def is_cut_off(self) -> bool:
        """aiohttp 3.14 closes the connection when a later chunk is malformed, and leaves the reader waiting forever."""
        connection = self._response.connection
        return connection is not None and connection.closed and not self._response.content.is_eof()

    def end(self, error: FetchError) -> None:
        """Raise `error` in the reader of the body."""
        self._response.content.set_exception(error)


class ByteBudget:
    """Bytes that may be held at a time, granted in the order of requests."""

    def __init__(self, size: int) -> None:
        self._free = size
        self._waiters: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def acquire(self, size: int) -> None:
        """Wait for `size` bytes; must be at most the whole budget."""
        if not self._waiters and size <= self._free:
            self._free -= size
            return
        future = asyncio.get_running_loop().create_future()
        self._waiters.append((size, future))
        try:
            await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                self.release(size)
            else:
                self.release(0)
            raise

    def release(self, size: int) -> None:
        """Give bytes back."""
        self._free += size
        while self._waiters and (self._waiters[0][1].done() or self._waiters[0][0] <= self._free):
            wanted, future = self._waiters.popleft()
            if not future.done():
                self._free -= wanted
                future.set_result(None)


class ErrorRate:
    """Whether the network fails more than this list of URLs can explain (img2dataset's issue 223).

    Two exponentially weighted shares of failed fetches, over about `span` and ten times `span` fetches.  The alarm is
    on while the short one is above `alarm_rate` and well above the long one: three times, or 80 % where three times
    is impossible.  Both start at the 20 % that lists of web images usually lose, so that an outage from the start is
    noticed.
    """

    def __init__(self, alarm_rate: float = 0.5, span: int = 1000) -> None:
        self._alarm_rate = alarm_rate
        self._span = span
        self.recent = 0.2
        self.long_term = 0.2

    def add(self, status: Status) -> None:
        """Count one fetch: a failure that may pass points to the network, a 404 to the list."""
        failed = float(status in RETRYABLE)
        self.recent += (failed - self.recent) / self._span
        self.long_term += (failed - self.long_term) / (10 * self._span)

    @property
    def alarm(self) -> bool:
        usual = self.long_term
        return self.recent > max(self._alarm_rate, 1.1 * usual, min(0.8, 3 * usual))
