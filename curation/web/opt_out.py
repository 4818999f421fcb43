"""What a site's owner wants: robots.txt (RFC 9309), X-Robots-Tag, and the TDM Reservation Protocol (W3C TDMRep).

All of it is read and kept with the row whether it is obeyed or not, so that a stricter recipe can obey it later without
new requests (`curation.policy`).
If a site file is missing because the host cannot be reached, that is the row's own connection error.  A robots.txt that
answers 5xx or too late forbids everything (RFC 9309, 2.3.1.4); 4xx allows everything (2.3.1.3).
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from aiohttp import StreamReader
from multidict import CIMultiDictProxy

from curation.schema import Status
from curation.web.address import Target, check_url, redirect_url
from curation.web.config import DownloadConfig
from curation.web.gate_client import GateClient
from curation.web.robots import Robots, Rules, TooMuchWork, path_of
from curation.web.safe_http import HTTP_ERRORS, FetchError, SafeHttp, fetch_error

#: Bytes of robots.txt that are read; RFC 9309, 2.5 requires at least 500 KiB.
ROBOTS_BYTES = 512 * 1024
#: Redirects followed to a robots.txt: RFC 9309, 2.3.1.2.
ROBOTS_REDIRECTS = 5
#: Seconds for which a site's rules are kept: RFC 9309, 2.4.
RULES_TTL_S = 24 * 3600.0
#: Seconds after which an unavailable robots.txt is requested again.
UNAVAILABLE_TTL_S = 600.0
#: Bounds of the cache: sites, and bytes of their files.
CACHE_SITES = 20_000
CACHE_BYTES = 32 * 2**20

#: X-Robots-Tag directives that keep an image out: img2dataset's four, `noml`, and `none`, which includes noindex.
DIRECTIVES = frozenset({"noai", "noimageai", "noindex", "noimageindex", "noml", "none"})
_VALUED = frozenset({"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"})
#: No file asks for anything without one of these (`robots` reads some misspellings too).
_ASKS = re.compile("allow|allaw|alow|crawl", re.IGNORECASE)
#: An agent, perhaps with its version; a comment after it, as `User-Agent` may have, is taken out before.
_AGENT = re.compile(r"([A-Za-z0-9_.*-]+)(?:/\S*)?\Z")
_COMMENT = re.compile(r"\([^()]*\)")
#: What the event loop does itself: beyond so many bytes of a file, or characters compared, a thread does it.
_PARSE_INLINE_BYTES = 16 * 1024
_INLINE_WORK = 2**15
#: Threads for that.  Each site has one at a time at most.
_THREADS = 2


def header_opt_out(headers: CIMultiDictProxy[str], product_token: str) -> str:
    """The header by which a response opts out, or "" if none does."""
    for value in headers.getall("X-Robots-Tag", ()):
        directive = _x_robots_directive(value, product_token.lower())
        if directive:
            return f"X-Robots-Tag: {directive}"
    if headers.get("tdm-reservation", "").strip() == "1":
        return "tdm-reservation: 1"
    return ""


def _x_robots_directive(value: str, token: str) -> str:
    """The first directive of one X-Robots-Tag that binds us and keeps the image out, with its agent if it names one.

    Directives are separated by commas, by some servers with semicolons or only spaces.  An agent named before a
    directive ("otherbot: noai, noindex") applies to the rest of that header.
    """
    agent = ""
    for part in re.split("[,;]", _COMMENT.sub("", value)):
        name, colon, rest = part.partition(":")
        named = _AGENT.match(name.strip()) if colon else None
        if named is not None and named[1].lower() not in _VALUED:
            agent, part = named[1].lower(), rest
        directive = next((word for word in _words(part) if word in DIRECTIVES), "")
        if directive and agent in ("", "*", token):
            return f"{agent}: {directive}" if agent else directive
    return ""


def _words(part: str) -> list[str]:
    """The words of some directives, without the value of one that has a value: `max-image-preview: none` is no none."""
    name, colon, rest = part.lower().partition(":")
    return rest.split()[1:] if colon and name.strip() in _VALUED else part.lower().split()


def parse_tdmrep(body: bytes) -> Robots | None:
    """The rules of a tdmrep.json, or None if it reserves nothing or is malformed.

    Locations are patterns like those of robots.txt, so they become such rules: reserved is disallowed, and the longest
    location that matches decides.
    """
    try:
        entries = json.loads(body)
    except (ValueError, RecursionError):
        return None
    lines = ["User-agent: *"]
    for entry in entries if isinstance(entries, list) else ():
        if not isinstance(entry, dict):
            continue
        location, reserved = entry.get("location"), entry.get("tdm-reservation")
        if isinstance(location, str) and location.startswith(("/", "*")) and location.isprintable():
            lines.append(f"{'Disallow' if reserved in (1, '1') else 'Allow'}: {location.replace('#', '%23')}")
    return Robots("\n".join(lines)) if any(line.startswith("Disallow") for line in lines) else None


def parse_robots(body: bytes) -> Robots | None:
    """The rules of a robots.txt, or None if it has none."""
    text = body.decode("utf-8", "replace").lstrip("\ufeff")
    return Robots(text) if _ASKS.search(text) else None


class Wishes(NamedTuple):
    """What the owner of a URL wants, as far as it was read.

    robots: `allowed`, `disallowed`, or `unavailable` where robots.txt could not be read.  opt_out: how the owner opted
    out, "" if not at all.
    """

    robots: str = "allowed"
    opt_out: str = ""

    def joined(self, other: Wishes) -> Wishes:
        """The wishes over two hops of a redirect: the stricter of each."""
        return Wishes(max(self.robots, other.robots, key=ROBOTS.index), self.opt_out or other.opt_out)


#: The verdicts of robots.txt on a URL, from the most to the least permissive.
ROBOTS = ("allowed", "unavailable", "disallowed")


class _Rules(NamedTuple):
    """What one origin allows."""

    robots: Rules | None = None  #: None: everything
    reserved: Rules | None = None  #: None: nothing
    failure: FetchError | None = None  #: robots.txt was unavailable
    size: int = 0  #: bytes of the files
    ttl_s: float = RULES_TTL_S
    turn: asyncio.Lock | None = None  #: held while a thread applies them


class SiteRules:
    """The rules of sites, fetched when first needed, once per origin, and cached."""

    def __init__(
        self,
        config: DownloadConfig,
        http: SafeHttp,
        gate: GateClient,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._token = config.product_token
        self._http = http
        self._gate = gate
        self._clock = clock
        self._cache: OrderedDict[str, tuple[float, _Rules]] = OrderedDict()
        self._cached_bytes = 0
        self._pending: dict[str, asyncio.Task[_Rules]] = {}
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="robots")

    async def check(self, target: Target) -> Wishes:
        """What the owner of `target` wants, if that allows the fetch or is not obeyed.

        Raises `FetchError` with ROBOTS_DISALLOWED, OPT_OUT, ROBOTS_UNAVAILABLE, or why the host cannot be reached.
        """
        rules = await self._rules(target)
        wishes = Wishes()
        if rules.failure is not None:
            failure = rules.failure
            if self._config.respect_robots or failure.status is not Status.ROBOTS_UNAVAILABLE:
                raise FetchError(failure.status, failure.message, retry=failure.retry, connecting=failure.connecting)
            wishes = Wishes("unavailable")
        elif rules.robots is not None:
            allowed = await self._allows(rules, rules.robots, target)
            if allowed is None and self._config.respect_robots:
                message = f"{target.origin}/robots.txt has more rules than are compared with so long a link"
                raise FetchError(Status.ROBOTS_UNAVAILABLE, message)
            if allowed is False and self._config.respect_robots:
                evidence = f"robots.txt: disallows {target.path[:200]} to {self._token}"
                raise FetchError(Status.ROBOTS_DISALLOWED, f"{target.origin}/robots.txt forbids it", evidence=evidence)
            if self._config.respect_robots:
                self._gate.pace(target.site, min(rules.robots.delay_s, self._config.max_crawl_delay_s))
            wishes = Wishes({True: "allowed", False: "disallowed", None: "unavailable"}[allowed])
        # A reservation that takes too long to read is one: the owner did state something.
        if rules.reserved is not None and not await self._allows(rules, rules.reserved, target):
            wishes = wishes._replace(opt_out=f"tdmrep.json: reserves {target.path[:200]}")
            if self._config.respect_opt_out:
                message = f"{target.origin}/.well-known/tdmrep.json reserves it"
                raise FetchError(Status.OPT_OUT, message, evidence=wishes.opt_out)
        return wishes

    async def _allows(self, site: _Rules, rules: Rules, target: Target) -> bool | None:
        """Whether rules of a site allow a request; None if that takes too long to say."""
        path = path_of(target.path)
        try:
            if rules.work(path) <= _INLINE_WORK or site.turn is None:
                return rules.allow(path)
            async with site.turn:
                return await asyncio.get_running_loop().run_in_executor(self._threads, rules.allow, path)
        except TooMuchWork:
            return None

    async def close(self) -> None:
        for task in self._pending.values():
            task.cancel()
        await asyncio.gather(*self._pending.values(), return_exceptions=True)
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _rules(self, target: Target) -> _Rules:
        origin = target.origin
        cached = self._cache.get(origin)
        if cached is not None and cached[0] > self._clock():
            self._cache.move_to_end(origin)
            return cached[1]
        task = self._pending.get(origin)
        if task is None:
            task = self._pending[origin] = asyncio.create_task(self._load(origin))
            task.add_done_callback(lambda _: self._pending.pop(origin, None))
        return await asyncio.shield(task)

    async def _load(self, origin: str) -> _Rules:
        rules = await self._fetch_rules(origin)
        if rules.ttl_s:
            self._forget(origin)
            self._cache[origin] = (self._clock() + rules.ttl_s, rules)
            self._cached_bytes += rules.size
            while len(self._cache) > CACHE_SITES or self._cached_bytes > CACHE_BYTES:
                self._forget(next(iter(self._cache)))
        return rules

    def _forget(self, origin: str) -> None:
        old = self._cache.pop(origin, None)
        if old is not None:
            self._cached_bytes -= old[1].size

    async def _fetch_rules(self, origin: str) -> _Rules:
        failure = None
        size = 0
        try:
            body = await self._get(f"{origin}/robots.txt")
        except FetchError as error:
            if error.connecting or error.status in (Status.CIRCUIT_OPEN, Status.HOST_BUSY):
                return _Rules(failure=error, ttl_s=0.0)
            failure = FetchError(Status.ROBOTS_UNAVAILABLE, f"{origin}/robots.txt: {error.message}")
            if self._config.respect_robots:
                return _Rules(failure=failure, ttl_s=UNAVAILABLE_TTL_S)
            body = b""
        size += len(body)
        robots = await self._parsed(parse_robots, body)
        try:
            body = await self._get(f"{origin}/.well-known/tdmrep.json")
        except FetchError:
            body = b""  # without a statement there is no reservation; only robots.txt fails closed
        size += len(body)
        ttl_s = RULES_TTL_S if failure is None else UNAVAILABLE_TTL_S
        reserved = await self._parsed(parse_tdmrep, body)
        return _Rules(robots, reserved, failure, size + 200, ttl_s, asyncio.Lock())

    async def _parsed(self, parse: Callable[[bytes], Robots | None], body: bytes) -> Rules | None:
        """What a site's file asks of us; None if nothing."""

        def rules() -> Rules | None:
            found = parse(body)
            return (found.rules(self._token) or None) if found is not None else None

        if len(body) <= _PARSE_INLINE_BYTES:
            return rules()
        return await asyncio.get_running_loop().run_in_executor(self._threads, rules)

    async def _get(self, url: str) -> bytes:
        """The body of a site file, at most ROBOTS_BYTES of it; b"" when the answer is 4xx."""
        deadline = self._clock() + self._config.robots_timeout_s
        try:
            for _ in range(ROBOTS_REDIRECTS + 1):
                target = check_url(url)
                left = max(0.01, deadline - self._clock())
                addresses = await self._http.resolver.addresses(target.host, target.port, left)
                queued = self._clock()
                async with self._gate.slot(target.site, self._http.shared_load(addresses)):
                    deadline += self._clock() - queued
                    answer = await self._get_once(target, max(0.01, deadline - self._clock()))
                if isinstance(answer, bytes):
                    return answer
                url = answer
        except HTTP_ERRORS as error:
            failure = fetch_error(error)
            raise failure from None
        # RFC 9309, 2.3.1.2: too many redirects may be taken for a file that does not exist.
        return b""

    async def _get_once(self, target: Target, timeout_s: float) -> bytes | str:
        """The body, or where a redirect leads."""
        try:
            response = await self._http.get(target, timeout_s, accept="text/plain, application/json", decompress=True)
        except HTTP_ERRORS as error:
            if fetch_error(error).connecting:
                self._gate.failed(target.site)
            raise
        self._gate.answered(target.site)
        async with response:
            if 300 <= response.status < 400:
                location = response.headers.get("Location")
                return redirect_url(target, location) if location else b""
            if 400 <= response.status < 500:
                return b""
            if not 200 <= response.status < 300:
                raise FetchError(Status.ROBOTS_UNAVAILABLE, f"HTTP {response.status}")
            return await _read_head(response.content)


async def _read_head(body: StreamReader) -> bytes:
    chunks: list[bytes] = []
    size = 0
    while size < ROBOTS_BYTES and (chunk := await body.readany()):
        chunks.append(chunk)
        size += len(chunk)
    head = b"".join(chunks)
    # A line cut in two would be a different rule.
    return head if len(head) <= ROBOTS_BYTES else head[:ROBOTS_BYTES].rpartition(b"\n")[0]
