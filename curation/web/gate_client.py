"""A fetcher's client of the host gate: slots of hosts, taken and returned without a call for each."""

from __future__ import annotations

import asyncio
import math
import time
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any

from curation.schema import Status
from curation.web.address import Refused
from curation.web.config import DownloadConfig
from curation.web.host_gate import ADDRESS, Grant, HostGate, Report

#: `HostGate.exchange`, wherever it runs.
Exchange = Callable[[str, Mapping[str, Report]], Awaitable[dict[str, Grant]]]

#: For this long after its last answered call, in seconds, a fetcher still starts requests on its grants.
START_LEASE_S = 10.0
#: Seconds between two calls while hosts are in use.  A new host is requested at once; this interval is only for sharing
#: out hosts that several fetchers use.
POLL_S = 0.5
#: A fetcher that has not called for this long is silent: it may be dead, and what it holds is nobody's fault.
SILENT_S = 2 * POLL_S
#: Seconds for which an immediate call waits for others to join.
COALESCE_S = 0.01

_NOTHING = Report()


def gate_settings(config: DownloadConfig) -> dict[str, Any]:
    """The arguments of a `HostGate` for fetchers of this configuration."""
    return {
        "concurrency": config.per_host_concurrency,
        "address_concurrency": config.per_address_concurrency,
        "rate": config.per_host_rate,
        "circuit_failures": config.circuit_failures,
        "circuit_open_s": config.circuit_open_s,
        "lease_s": 2 * START_LEASE_S + max(config.timeout_s, config.robots_timeout_s),
    }


def host_gate(config: DownloadConfig, clock: Callable[[], float] = time.monotonic) -> HostGate:
    """The ledger for fetchers of this configuration."""
    return HostGate(**gate_settings(config), clock=clock)


def local_gate(config: DownloadConfig) -> GateClient:
    """A client with a ledger of its own, for a single fetcher."""
    gate = host_gate(config)

    async def exchange(member: str, reports: Mapping[str, Report]) -> dict[str, Grant]:
        return gate.exchange(member, reports)

    return GateClient(exchange, config)


class _Host:
    __slots__ = (
        "answered",
        "blocked_until",
        "circuit_until",
        "delay_s",
        "excused",
        "failures",
        "granted",
        "in_use",
        "known",
        "next_start",
        "rate",
        "retry_after_s",
        "silent",
        "slots",
        "timer",
        "waiters",
    )

    def __init__(self) -> None:
        self.slots = 0
        self.rate = math.inf
        self.blocked_until = 0.0
        self.circuit_until = 0.0
        self.in_use = 0
        self.next_start = 0.0
        self.delay_s = 0.0
        self.granted = 0.0  # time of the last grant
        self.silent = False  # by that, one of the others that hold slots is
        self.excused = 0.0  # seconds in which one was
        self.waiters: deque[tuple[asyncio.Future[None], float]] = deque()  # until when, without what is excused
        self.timer: asyncio.TimerHandle | None = None
        self.known = False  # to the gate, which holds slots for us
        # To be reported.
        self.answered = False
        self.failures = 0
        self.retry_after_s = 0.0


class GateClient:
    """Slots of hosts for one fetcher; an async context manager.

    exchange: awaited with this client's member id and its reports, never twice at a time.  Every `slot` raises
    what it raised from then on.
    """

    def __init__(self, exchange: Exchange, config: DownloadConfig, *, member: str | None = None) -> None:
        self._exchange = exchange
        self._max_wait_s = config.max_host_wait_s
        self._member = member or uuid.uuid4().hex
        self._clock = time.monotonic
        self._hosts: dict[str, _Host] = {}
        self._lease_until = 0.0
        self._kick = asyncio.Event()
        self._pump: asyncio.Task[None] | None = None
        self._broken: Exception | None = None

    async def __aenter__(self) -> GateClient:
        self._pump = asyncio.create_task(self._run(), name="host-gate")
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        assert self._pump is not None
        self._pump.cancel()
        await asyncio.gather(self._pump, return_exceptions=True)
        for host in self._hosts.values():
            if host.timer is not None:
                host.timer.cancel()

    def slot(self, name: str, address: str = "") -> _Slot:
        """`async with client.slot(target.site, address)`: one request in flight to that host.

        address: what it loads together with other hosts, from `shared_load`; "" if nothing.
        Raises `Refused` with HOST_BUSY when no slot comes free in time, with CIRCUIT_OPEN while the host is left alone.
        """
        return _Slot(self, (name, ADDRESS + address) if address else (name,))

    def answered(self, name: str) -> None:
        """The host was reached."""
        host = self._host(name)
        host.answered = True
        host.failures = 0

    def failed(self, name: str) -> None:
        """A connection to the host could not be made."""
        self._host(name).failures += 1
        self._kick.set()

    def block(self, name: str, seconds: float) -> None:
        """The host asked for a pause of so many seconds; it applies to all fetchers."""
        host = self._host(name)
        host.retry_after_s = max(host.retry_after_s, seconds)
        host.blocked_until = max(host.blocked_until, self._clock() + seconds)
        self._kick.set()

    def pace(self, name: str, delay_s: float) -> None:
        """The host asks for so many seconds between two requests; it applies to all fetchers."""
        self._host(name).delay_s = delay_s

    def _host(self, name: str) -> _Host:
        host = self._hosts.get(name)
        if host is None:
            host = self._hosts[name] = _Host()
        return host

    async def acquire(self, name: str) -> None:
        """Wait for a slot; see `slot`.  Each must be given back by `release`."""
        if self._broken is not None:
            raise self._broken
        host = self._host(name)
        now = self._clock()
        if not host.waiters and self._start(host, now):
            return
        refusal = self._refusal(host, now, now + self._max_wait_s)
        if refusal is None and max(now, host.next_start) + len(host.waiters) * host.delay_s > now + self._max_wait_s:
            wait = f"{host.delay_s:g} s between two requests (Crawl-delay), and {len(host.waiters)} more wait for it"
            refusal = Refused(Status.HOST_BUSY, f"the host asks for {wait}")
        if refusal is not None:
            raise refusal
        future = asyncio.get_running_loop().create_future()
        host.waiters.append((future, now + self._max_wait_s - host.excused))
        if len(host.waiters) == 1:
            self._kick.set()
            self._set_timer(host, now)
        try:
            await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                self.release(name)
            raise

    def release(self, name: str) -> None:
        """Give a slot back."""
        host = self._hosts[name]
        host.in_use -= 1
        if host.delay_s:  # counts from the answer, so that a request that was slow on its way is not followed closely
            host.next_start = max(host.next_start, self._clock() + host.delay_s)
        if host.waiters:
            self._wake(host)

    def _start(self, host: _Host, now: float) -> bool:
        """Take a slot if one may be taken now."""
        if host.in_use >= host.slots or now >= self._lease_until or now < self._not_before(host):
            return False
        if not host.rate:
            return False
        host.in_use += 1
        host.next_start = max(host.next_start, now) + max(1 / host.rate, host.delay_s)
        return True

    @staticmethod
    def _not_before(host: _Host) -> float:
        return max(host.next_start, host.blocked_until, host.circuit_until)

    def _refusal(self, host: _Host, now: float, until: float) -> Refused | None:
        """Why waiting for this host until then is pointless."""
        if host.circuit_until > now:
            return Refused(Status.CIRCUIT_OPEN, "the host could not be reached many times in a row just before")
        if until <= now and not self._held_in_silence(host, now):
            return Refused(Status.HOST_BUSY, f"no free slot within {self._max_wait_s:g} s")
        if host.blocked_until > until:
            left = host.blocked_until - now
            return Refused(Status.HOST_BUSY, f"the host asked to be left alone for {left:.0f} s more")
        return None

    def _held_in_silence(self, host: _Host, now: float) -> bool:
        """Whether slots may be held by a fetcher that is dead: then they come free, and the wait does not count."""
        return host.silent and now < self._lease_until

    def _wake(self, host: _Host) -> None:
        """Start the waiters that may start, and refuse those that are too late."""
        now = self._clock()
        while host.waiters:
            future, until = host.waiters[0]
            if not future.done():
                refusal = self._refusal(host, now, until + host.excused)
                if refusal is not None:
                    future.set_exception(refusal)
                elif self._start(host, now):
                    future.set_result(None)
                else:
                    break
            host.waiters.popleft()
        self._set_timer(host, now)

    def _set_timer(self, host: _Host, now: float) -> None:
        """Wake the first waiter when time alone lets it start, or at the latest when it has waited too long."""
        if not host.waiters:
            return
        due = self._not_before(host)
        if due <= now or host.in_use >= host.slots:
            due = host.waiters[0][1] + host.excused
            if self._held_in_silence(host, now):
                due = max(due, now + POLL_S)
        loop = asyncio.get_running_loop()
        delay = max(0.0, due - now)
        if host.timer is not None:
            if host.timer.when() <= loop.time() + delay:
                return
            host.timer.cancel()
        host.timer = loop.call_later(delay, self._on_timer, host)

    def _on_timer(self, host: _Host) -> None:
        host.timer = None
        self._wake(host)

    async def _run(self) -> None:
        try:
            while True:
                if not self._hosts:
                    await self._kick.wait()
                else:
                    await self._kicked_within(POLL_S - COALESCE_S)
                await asyncio.sleep(COALESCE_S)
                self._kick.clear()
                await self._call()
        except asyncio.CancelledError:
            raise
        except Exception as error:
            self._broken = error
            for host in self._hosts.values():
                for future, _ in host.waiters:
                    if not future.done():
                        future.set_exception(error)

    async def _kicked_within(self, seconds: float) -> None:
        if self._kick.is_set():
            return
        timer = asyncio.get_running_loop().call_later(seconds, self._kick.set)
        await self._kick.wait()
        timer.cancel()

    async def _call(self) -> None:
        now = self._clock()
        if now >= self._lease_until:
            for host in self._hosts.values():
                host.slots = 0
        reports = {
            name: report for name, host in self._hosts.items() if (report := self._report(host, now)) is not None
        }
        grants = await self._exchange(self._member, reports)
        self._lease_until = now + START_LEASE_S
        now = self._clock()
        for name, grant in grants.items():
            host = self._hosts[name]
            host.slots, host.rate = grant.slots, grant.rate
            silent = grant.quiet_s >= SILENT_S
            if silent:
                host.excused += now - host.granted if host.silent else grant.quiet_s
            host.silent, host.granted = silent, now
            host.blocked_until = max(host.blocked_until, now + grant.blocked_s)
            host.circuit_until = now + grant.circuit_s if grant.circuit_s else 0.0
            self._wake(host)
        self._forget_idle(now)

    def _report(self, host: _Host, now: float) -> Report | None:
        """What is new about this host since the last call; None if nothing."""
        # A host with a rate is kept until its last start's interval is over, or the next holder would start too soon.
        if not host.in_use and not host.waiters and host.next_start <= now:
            host.slots = 0
        delay_s = host.delay_s if host.waiters or host.in_use or host.slots else 0.0
        news = host.answered, host.failures, host.retry_after_s
        report = Report(len(host.waiters), host.in_use, host.slots, *news, delay_s)
        if not host.known and report == _NOTHING:
            return None
        host.known = bool(report.waiting or report.in_use or report.slots)
        host.answered, host.failures, host.retry_after_s = False, 0, 0.0
        return report

    def _forget_idle(self, now: float) -> None:
        idle = [
            name
            for name, host in self._hosts.items()
            if not (host.known or host.in_use or host.waiters or host.failures or host.retry_after_s)
            and self._not_before(host) <= now
        ]
        for name in idle:
            del self._hosts[name]


class _Slot:
    __slots__ = ("_client", "_names")

    def __init__(self, client: GateClient, names: tuple[str, ...]) -> None:
        self._client = client
        self._names = names

    async def __aenter__(self) -> None:
        held: list[str] = []
        try:
            for name in self._names:
                await self._client.acquire(name)
                held.append(name)
        except BaseException:
            for name in held:
                self._client.release(name)
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name in self._names:
            self._client.release(name)
