"""HTTP that cannot leave the public web: names are resolved, checked and pinned, and checked again at connect.

Three gates, each for its own case: `Resolver.addresses` before any request (a clear status for the row), the same
resolver inside the connector (a name that resolves differently later), and the connector's socket factory (everything
else: it sees the very address to connect to).
"""

from __future__ import annotations

import asyncio
import functools
import socket
import ssl
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.client_proto import ResponseHandler
from aiohttp.http import HttpProcessingError
from yarl import URL

from curation.schema import Status
from curation.web.address import AddressPolicy, Refused, Target
from curation.web.answer_heads import MAX_HEAD_BYTES, BadHead, HeadReader
from curation.web.config import DownloadConfig
from curation.web.content_networks import content_networks, shared_load

#: Numeric addresses of a host name, blocking; raises `socket.gaierror`.
Lookup = Callable[[str], list[str]]

DNS_TTL_S = 60.0
DNS_NEGATIVE_TTL_S = 5.0
DNS_NAMES = 20_000
#: getaddrinfo blocks its thread for up to about ten seconds on a dead name server.
DNS_THREADS = 48
#: Bytes of a body that aiohttp holds before it is read; twice as many stop the socket.
READ_BUFFER = 2**17


class FetchError(Exception):
    """A fetch failed for a reason of the web; it becomes the row's status."""

    def __init__(
        self,
        status: Status,
        message: str,
        *,
        retry: bool = False,
        connecting: bool = False,
        http_status: int | None = None,
        retry_after_s: float = 0.0,
        evidence: str = "",
        hop: str = "",
        needs: int | None = None,
    ) -> None:
        super().__init__(status, message)
        self.status = status
        self.message = message
        self.retry = retry  #: another attempt may succeed
        self.connecting = connecting  #: no request was made
        self.http_status = http_status
        self.retry_after_s = retry_after_s
        self.evidence = evidence  #: of an opt-out
        self.hop = hop  #: that the address policy refused, as `AddressPolicy.hop` writes it
        self.needs = needs  #: the least limit that would allow it, if known


def system_lookup(host: str) -> list[str]:
    """Every address `getaddrinfo` has for a name, or for a numeric address itself."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
    return list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))


class _Answer(NamedTuple):
    expires: float
    addresses: tuple[str, ...]
    error: FetchError | None


class Resolver(AbstractResolver):
    """Names to checked addresses, cached; lookups run in threads, and all who wait for a name share one."""

    def __init__(
        self,
        policy: AddressPolicy,
        lookup: Lookup = system_lookup,
        *,
        ttl_s: float = DNS_TTL_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._policy = policy
        self._lookup = lookup
        self._ttl_s = ttl_s
        self._clock = clock
        self._answers: OrderedDict[str, _Answer] = OrderedDict()
        self._pending: dict[str, asyncio.Task[_Answer]] = {}
        self._threads = ThreadPoolExecutor(DNS_THREADS, thread_name_prefix="dns")

    async def addresses(self, host: str, port: int, timeout_s: float | None = None) -> tuple[str, ...]:
        """All addresses of `host`, each checked for `port`.

        Raises `Refused` if any is forbidden, `FetchError` if none is found in time.
        """
        if ":" in host or host.replace(".", "").isdigit():  # `check_url` leaves numeric hosts in canonical form
            self._policy.check(host, port, [host])
            return (host,)
        answer = self._answers.get(host)
        if answer is None or answer.expires <= self._clock():
            answer = await self._ask(host, timeout_s)
        if answer.error is not None:
            raise FetchError(Status.DNS_ERROR, answer.error.message, retry=answer.error.retry, connecting=True)
        self._policy.check(host, port, answer.addresses)
        return answer.addresses

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        return [
            ResolveResult(hostname=host, host=address, port=port, family=family, proto=0, flags=0)
            for address in await self.addresses(host, port)
        ]

    async def close(self) -> None:
        for task in self._pending.values():
            task.cancel()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _ask(self, host: str, timeout_s: float | None) -> _Answer:
        task = self._pending.get(host)
        if task is None:
            task = self._pending[host] = asyncio.create_task(self._resolve(host))
            task.add_done_callback(lambda _: self._pending.pop(host, None))
        # One caller's deadline or cancellation must not end the lookup that others wait for.
        await asyncio.wait({task}, timeout=timeout_s)
        if not task.done():
            raise FetchError(Status.DNS_ERROR, f"no answer for {host} in time", connecting=True)
        return task.result()

    async def _resolve(self, host: str) -> _Answer:
        loop = asyncio.get_running_loop()
        for last in (False, True):
            try:
                found = await loop.run_in_executor(self._threads, self._lookup, host)
                answer = _Answer(self._clock() + self._ttl_s, tuple(found), None)
                if not found:
                    raise socket.gaierror(socket.EAI_NONAME, "no addresses")
                break
            except (socket.gaierror, UnicodeError) as error:
                passing = isinstance(error, socket.gaierror) and error.errno == socket.EAI_AGAIN
                if passing and not last:
                    continue
                failure = FetchError(Status.DNS_ERROR, f"{host}: {error}", retry=passing)
                # A temporary failure is not cached: the next attempt looks up again.
                answer = _Answer(self._clock() + (0.0 if passing else DNS_NEGATIVE_TTL_S), (), failure)
                break
        self._answers[host] = answer
        self._answers.move_to_end(host)
        if len(self._answers) > DNS_NAMES:
            self._answers.popitem(last=False)
        return answer


class _RefusedAtConnect(OSError):
    """An address was refused at the last gate; an OSError, so that aiohttp treats it as a failure to connect."""

    def __init__(self, refused: Refused) -> None:
        super().__init__(refused.reason)
        self.refused = refused


class _Connection(ResponseHandler):
    """A connection whose parser gets the heads of answers in their plain form (`heads`)."""

    _head: HeadReader | None = None

    def set_response_params(self, **params: Any) -> None:
        """A request is about to be sent: what comes next is the head of its answer."""
        self._head = HeadReader()
        super().set_response_params(**params)

    def data_received(self, data: bytes) -> None:
        """Pass on what the parser may see."""
        if self._head is None or not data:  # nothing: the reader has caught up with what came before
            super().data_received(data)
            return
        late = self._head.excess
        try:
            plain = self._head.feed(data)
        except BadHead as bad:
            self.set_exception(HttpProcessingError(message=str(bad)))
            if self.transport is not None:
                self.transport.close()
            return
        if plain:
            super().data_received(plain)
        if self._head.excess:
            self.force_close()
            if late and self.transport is not None:
                self.transport.close()


class SafeHttp:
    """One HTTP session under an address policy; an async context manager."""

    def __init__(
        self, config: DownloadConfig, lookup: Lookup = system_lookup, *, resolver: Resolver | None = None
    ) -> None:
        self._config = config
        self.policy = AddressPolicy(config.allow_networks, config.allow_ports)
        self.resolver = resolver or Resolver(self.policy, lookup)
        self._exempt = content_networks(config.content_networks)
        self._session: aiohttp.ClientSession | None = None

    def shared_load(self, addresses: tuple[str, ...]) -> str:
        """What a host of these addresses loads together with others; "" if nothing is counted."""
        return shared_load(addresses, self._exempt)

    async def __aenter__(self) -> SafeHttp:
        connector = aiohttp.TCPConnector(
            resolver=self.resolver,
            use_dns_cache=False,  # the resolver's own cache is checked, and shared with the check before
            socket_factory=self._checked_socket,
            limit=0,  # the fetcher and the host gate limit
            limit_per_host=0,
            keepalive_timeout=15.0,
        )
        # There is no public way to choose the protocol; test_odd_answers fails if this one ends.
        made: Any = functools.partial(_Connection, loop=asyncio.get_running_loop())
        connector._factory = made
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": self._config.user_agent, "Accept-Encoding": "identity"},
            trust_env=False,
            auto_decompress=False,
            read_bufsize=READ_BUFFER,
            max_line_size=MAX_HEAD_BYTES,
            max_field_size=MAX_HEAD_BYTES,
            max_headers=MAX_HEAD_BYTES,
        )
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        assert self._session is not None
        await self._session.close()
        await self.resolver.close()

    async def get(
        self, target: Target, timeout_s: float, *, accept: str = "image/*", decompress: bool = False
    ) -> aiohttp.ClientResponse:
        """The answer to one GET, headers read and body not; no redirect is followed.

        timeout_s covers the body too.  Raises `HTTP_ERRORS`.  The caller closes or releases the response.
        """
        assert self._session is not None, "not entered"
        # A little less than the whole, to distinguish a connection that is never made from a late answer.
        connect_s = min(self._config.connect_timeout_s, 0.95 * timeout_s)
        return await self._session.get(
            URL(target.url, encoded=True),
            headers={"Accept": accept},
            allow_redirects=False,
            auto_decompress=decompress,
            timeout=aiohttp.ClientTimeout(total=timeout_s, sock_connect=connect_s, ceil_threshold=1e9),
        )

    def _checked_socket(self, addr_info: aiohttp.AddrInfoType) -> socket.socket:
        family, kind, proto, _, sockaddr = addr_info
        try:
            self.policy.check(str(sockaddr[0]), int(sockaddr[1]), [_with_scope(sockaddr)])
        except Refused as refused:
            raise _RefusedAtConnect(refused) from None
        return socket.socket(family, kind, proto)


def _with_scope(sockaddr: tuple[object, ...]) -> str:
    host = str(sockaddr[0])
    return f"{host}%{sockaddr[3]}" if len(sockaddr) == 4 and sockaddr[3] and "%" not in host else host


#: What a request may raise because of the other side.
HTTP_ERRORS = (aiohttp.ClientError, asyncio.TimeoutError, OSError, FetchError, Refused)


def fetch_error(error: Exception) -> FetchError:
    """What an exception of `HTTP_ERRORS` means for the row; anything else is raised again."""
    if isinstance(error, FetchError):
        return error
    if isinstance(error, Refused):
        return FetchError(error.status, error.reason, hop=error.hop)
    if isinstance(error, aiohttp.ClientConnectorError) and isinstance(error.os_error, _RefusedAtConnect):
        refused = error.os_error.refused
        return FetchError(refused.status, refused.reason, hop=refused.hop)
    if isinstance(error, (aiohttp.ClientSSLError, ssl.SSLError)):
        # A bad certificate stays bad; a broken handshake may not.
        lasting = isinstance(error, aiohttp.ClientConnectorCertificateError)
        return FetchError(Status.TLS_ERROR, str(error), retry=not lasting, connecting=True)
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return FetchError(Status.TIMEOUT, "no connection in time", retry=True, connecting=True)
    if isinstance(error, asyncio.TimeoutError):
        return FetchError(Status.TIMEOUT, "no complete answer in time", retry=True)
    if isinstance(error, aiohttp.ClientConnectorError):
        return FetchError(Status.CONNECTION_ERROR, str(error.os_error), retry=True, connecting=True)
    if isinstance(error, aiohttp.ClientPayloadError):
        return FetchError(Status.TRUNCATED, f"the body broke off: {error}"[:300], retry=True)
    if isinstance(error, aiohttp.ClientResponseError):
        return FetchError(Status.CONNECTION_ERROR, f"not HTTP: {error.message}"[:300])
    if isinstance(error, aiohttp.InvalidURL):
        return FetchError(Status.INVALID_URL, str(error)[:300])
    if isinstance(error, (aiohttp.ClientError, OSError)):
        return FetchError(Status.CONNECTION_ERROR, (str(error) or type(error).__name__)[:300], retry=True)
    raise error
