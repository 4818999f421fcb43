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
from curation.web.host_gate import Grant, HostGate, Report

#: `HostGate.exchange`, wherever it runs.
Exchange = Callable[[str, Mapping[str, Report]], Awaitable[dict[str, Grant]]]

#: For this long after its last answered call, in seconds, a fetcher still starts requests on its grants.
START_LEASE_S = 10.0
#: Seconds between two calls while hosts are in use.  A new host is requested at once; this interval is only for sharing
#: out hosts that several fetchers use.
POLL_S = 0.5
#: Seconds for which an immediate call waits for others to join.
COALESCE_S = 0.01

_NOTHING = Report()


def gate_settings(config: DownloadConfig) -> dict[str, Any]:
    """The arguments of a `HostGate` for fetchers of this configuration."""
    return {
        "concurrency": config.per_host_concurrency,
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
        "failures",
        "in_use",
        "known",
        "next_start",
        "rate",
        "retry_after_s",
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
        self.waiters: deque[tuple[asyncio.Future[None], float]] = deque()
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

    def slot(self, name: str) -> _Slot:
        """`async with client.slot(target.site)`: one request in flight to that host.

        Raises `Refused` with HOST_BUSY when no slot comes free in time, with CIRCUIT_OPEN while the host is left alone.
        """
        return _Slot(self, name)

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
        if refusal is not None:
            raise refusal
        future = asyncio.get_running_loop().create_future()
        host.waiters.append((future, now + self._max_wait_s))
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
        if host.waiters:
            self._wake(host)

    def _start(self, host: _Host, now: float) -> bool:
        """Take a slot if one may be taken now."""
        if host.in_use >= host.slots or now >= self._lease_until or now < self._not_before(host):
            return False
        if not host.rate:
            return False
        host.in_use += 1
        host.next_start = max(host.next_start, now) + 1 / host.rate
        return True

    @staticmethod
    def _not_before(host: _Host) -> float:
        return max(host.next_start, host.blocked_until, host.circuit_until)

    def _refusal(self, host: _Host, now: float, until: float) -> Refused | None:
        """Why waiting for this host until then is pointless."""
        if host.circuit_until > now:
            return Refused(Status.CIRCUIT_OPEN, "the host could not be reached many times in a row just before")
        if until <= now:
            return Refused(Status.HOST_BUSY, f"no free slot within {self._max_wait_s:g} s")
        if host.blocked_until > until:
            left = host.blocked_until - now
            return Refused(Status.HOST_BUSY, f"the host asked to be left alone for {left:.0f} s more")
        return None

    def _wake(self, host: _Host) -> None:
        """Start the waiters that may start, and refuse those that are too late."""
        now = self._clock()
        while host.waiters:
            future, until = host.waiters[0]
            if not future.done():
                refusal = self._refusal(host, now, until)
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
            due = host.waiters[0][1]
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
            host.blocked_until = max(host.blocked_until, now + grant.blocked_s)
            host.circuit_until = now + grant.circuit_s if grant.circuit_s else 0.0
            self._wake(host)
        self._forget_idle(now)

    def _report(self, host: _Host, now: float) -> Report | None:
        """What is new about this host since the last call; None if nothing."""
        # A host with a rate is kept until its last start's interval is over, or the next holder would start too soon.
        if not host.in_use and not host.waiters and (math.isinf(host.rate) or host.next_start <= now):
            host.slots = 0
        report = Report(len(host.waiters), host.in_use, host.slots, host.answered, host.failures, host.retry_after_s)
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
    __slots__ = ("_client", "_name")

    def __init__(self, client: GateClient, name: str) -> None:
        self._client = client
        self._name = name

    async def __aenter__(self) -> None:
        await self._client.acquire(self._name)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.release(self._name)
