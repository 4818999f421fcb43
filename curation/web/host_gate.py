"""How several fetchers share the request limit of a host: a ledger of leases, without any input or output.

Each fetcher calls `HostGate.exchange` about twice a second, with one `Report` for every host it uses, and receives one
`Grant` for each.  Between two calls it starts requests on its own within its grants, so a request costs no call.
Promises, whatever calls are late, lost or missing:

- the fetchers' requests in flight to a host never add up to more than `concurrency`;
- every waiting fetcher gets a slot in the end, also with more fetchers than slots: slots then rotate;
- a fetcher that becomes silent loses its leases after `lease_s`, which must exceed the time for which it still starts
  requests without an answer plus the longest request; one whose worker was started again loses them at once, and until
  either happens the others are told that it is silent.

A host is a `Target.site`, or an address of which many hosts may have a part, with a larger limit: see `ADDRESS`.
Durations, not times, are exchanged: the parties' clocks need not agree.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

#: What the name of an address begins with, which the name of a host cannot.
ADDRESS = "@"
#: A fetcher keeps its only slot of a contended host for this long, in seconds, before the next in line gets it.
TURN_S = 1.0


class Report(NamedTuple):
    """What one fetcher reports about one host."""

    waiting: int = 0  #: requests that would start now if they could
    in_use: int = 0  #: requests in flight
    slots: int = 0  #: requests the fetcher believes it may have in flight
    answered: bool = False  #: the host was reached since the last report
    failures: int = 0  #: failures to connect since the last report, or since it was reached
    retry_after_s: float = 0.0  #: the host asked to be left alone for this long
    delay_s: float = 0.0  #: the host asks for so many seconds between two requests; 0: it does not, or we do not know


class Grant(NamedTuple):
    """What one fetcher may do with one host until its next grant."""

    slots: int  #: requests in flight
    rate: float  #: starts a second; infinite if unlimited
    blocked_s: float  #: start none for this long: the host asked for it
    circuit_s: float  #: start none for this long, and let none wait: the host cannot be reached
    quiet_s: float = 0.0  #: for so long has one of the others that hold slots not called


@dataclass(slots=True, eq=False)
class _Share:
    """One fetcher's part of one host."""

    since: float  #: when it started to hold slots, or to wait without any
    want: int = 0
    held: int = 0  #: upper bound of its requests in flight until its next report
    rate: float = 0.0


@dataclass(slots=True, eq=False)
class _Host:
    reported: float  #: time of the last report
    limit: int  #: requests in flight
    rate: float  #: starts a second
    shares: dict[str, _Share] = field(default_factory=dict)
    failures: int = 0
    blocked_until: float = 0.0
    circuit_until: float = 0.0


class HostGate:
    """The ledger.  One instance serves all fetchers of a run."""

    def __init__(
        self,
        *,
        concurrency: int,
        lease_s: float,
        address_concurrency: int | None = None,
        rate: float | None = None,
        circuit_failures: int = 20,
        circuit_open_s: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._concurrency = concurrency
        self._address_concurrency = 4 * concurrency if address_concurrency is None else address_concurrency
        self._rate = math.inf if rate is None else rate
        self._circuit_failures = circuit_failures
        self._circuit_open_s = circuit_open_s
        self._lease_s = lease_s
        self._clock = clock
        self._hosts: dict[str, _Host] = {}
        self._members: dict[str, tuple[float, set[str]]] = {}  # last call, hosts it has a share of
        self._of_owner: dict[str, str] = {}  # the member that lives
        self._dead: set[str] = set()
        self._next_sweep = 0.0

    def exchange(self, member: str, reports: Mapping[str, Report], owner: str = "") -> dict[str, Grant]:
        """Record `member`'s reports and return what it may do.

        owner: the worker it lives in, which has one member at a time: the one before it died with its process, and
        its requests with it, so its leases end.

        A report that neither waits, uses nor holds anything gives the host back.  Hosts that are not reported keep
        their lease.  Calls of one member must not overlap.
        """
        now = self._clock()
        if member in self._dead:
            return {}
        if owner and (before := self._of_owner.get(owner, member)) != member:
            self._dead.add(before)
            self._drop(before)
        if owner:
            self._of_owner[owner] = member
        _, own = self._members.get(member, (now, set[str]()))
        self._members[member] = (now, own)
        self._sweep(now)
        grants = {}
        for name, report in reports.items():
            host = self._hosts.get(name)
            if host is None:
                host = self._hosts[name] = self._new(name, now)
            self._note(host, report, now)
            if report.waiting or report.in_use or report.slots:
                own.add(name)
                grants[name] = self._grant(host, member, report, now)
            else:
                own.discard(name)
                host.shares.pop(member, None)
        return grants

    def _new(self, name: str, now: float) -> _Host:
        if name.startswith(ADDRESS):
            return _Host(now, self._address_concurrency, math.inf)
        return _Host(now, self._concurrency, self._rate)

    def _note(self, host: _Host, report: Report, now: float) -> None:
        host.reported = now
        host.failures = report.failures + (0 if report.answered else host.failures)
        if report.failures and host.failures >= self._circuit_failures:
            # The count stays: after the pause a single further failure opens the circuit again.
            host.circuit_until = now + self._circuit_open_s
        elif report.answered:
            host.circuit_until = 0.0
        host.blocked_until = max(host.blocked_until, now + report.retry_after_s)
        if report.delay_s:
            host.rate = min(self._rate, 1 / report.delay_s)

    def _grant(self, host: _Host, member: str, report: Report, now: float) -> Grant:
        share = host.shares.setdefault(member, _Share(since=now))
        share.want = report.waiting + report.in_use
        others = [other for name, other in host.shares.items() if name != member]
        free = max(0, host.limit - sum(other.held for other in others))
        slots = min(self._fair_slots(host, share, now), free)
        # Until this answer arrives, and if it is lost, the member acts on its previous grant.
        held = max(slots, report.in_use, report.slots)
        if (held > 0) != (share.held > 0):
            share.since = now
        share.held = held
        share.rate = self._fair_rate(host, others) if slots else 0.0
        called = (self._members[name][0] for name, other in host.shares.items() if other.held and name != member)
        quiet_s = now - min(called, default=now)
        blocked_s, circuit_s = max(0.0, host.blocked_until - now), max(0.0, host.circuit_until - now)
        return Grant(slots, share.rate, blocked_s, circuit_s, quiet_s)

    def _fair_slots(self, host: _Host, share: _Share, now: float) -> int:
        """Slots of `share` when all that want some get an equal part, but no more than they want."""
        wanting = [other for other in host.shares.values() if other.want]
        if wanting == [share] or (not wanting and len(host.shares) == 1):
            return host.limit
        if share.want == 0:
            return 0
        if len(wanting) > host.limit:
            turn = sorted(
                wanting, key=lambda other: (other.held > 0 and now - other.since >= TURN_S, not other.held, other.since)
            )
            return int(any(other is share for other in turn[: host.limit]))
        left, given = host.limit, 0
        for rank, other in enumerate(sorted(wanting, key=lambda other: other.want)):
            part = min(other.want, left // (len(wanting) - rank))
            left -= part
            if other is share:
                given = part
        return given + left // len(wanting)

    def _fair_rate(self, host: _Host, others: list[_Share]) -> float:
        if math.isinf(host.rate):
            return math.inf
        sharing = min(host.limit, max(1, sum(1 for other in host.shares.values() if other.want)))
        return max(0.0, min(host.rate / sharing, host.rate - sum(other.rate for other in others)))

    def _sweep(self, now: float) -> None:
        """Take back what silent members hold, and forget hosts that no member has used since."""
        if now < self._next_sweep:
            return
        self._next_sweep = now + self._lease_s / 10
        silent = [name for name, (called, _) in self._members.items() if now - called > self._lease_s]
        for member in silent:
            self._drop(member)
        forgotten = [
            name
            for name, host in self._hosts.items()
            if not host.shares and now > max(host.blocked_until, host.reported + self._circuit_open_s)
        ]
        for name in forgotten:
            del self._hosts[name]

    def _drop(self, member: str) -> None:
        """Take back what a member holds."""
        for name in self._members.pop(member, (0.0, set[str]()))[1]:
            self._hosts[name].shares.pop(member, None)
