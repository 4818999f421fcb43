"""The ledger of hosts: never over the limit, fair, never starving; and its client, without a call per request."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from curation.schema import Status
from curation.web.address import Refused
from curation.web.config import DownloadConfig
from curation.web.gate_client import GateClient, host_gate
from curation.web.host_gate import Grant, HostGate, Report

LEASE_S = 50.0
REQUEST_S = 20.0  # the longest request
START_S = 10.0  # how long a member starts requests without an answer


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Member:
    """A fetcher as the ledger's promises assume it: starts all it may, by its last answer, however late or lost."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.slots = 0
        self.want = 0
        self.running: list[float] = []  # when each request ends at the latest
        self.called: float = 0.0
        self.heard = -math.inf  # when the last call that was answered was made
        self.answer: Grant | None = None  # on its way

    def believed(self, now: float) -> int:
        return self.slots if now < self.heard + START_S else 0

    def call(self, gate: HostGate, now: float) -> None:
        waiting = max(0, self.want - len(self.running))
        if not self.want and not self.running:
            self.slots = 0
        report = Report(waiting, len(self.running), self.believed(now))
        self.called, self.answer = now, gate.exchange(self.name, {"h": report}).get("h")

    def hear(self) -> None:
        if self.answer is not None:
            self.slots, self.heard, self.answer = self.answer.slots, self.called, None

    def start(self, now: float) -> None:
        while len(self.running) < min(self.want, self.believed(now)):
            self.running.append(now + REQUEST_S)


class Ledger(RuleBasedStateMachine):
    """Members want more or less, lose answers, stall and die in any order: the limit holds all the time."""

    limit = 3
    members_at = st.integers(0, 3)

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.gate = HostGate(concurrency=self.limit, lease_s=LEASE_S, clock=self.clock)
        self.born = 4
        self.members = [Member(str(at)) for at in range(4)]

    @rule(at=members_at, count=st.sampled_from([0, 1, 9]))
    def want(self, at: int, count: int) -> None:
        self.members[at].want = count

    @rule(at=members_at)
    def call_and_hear(self, at: int) -> None:
        self.members[at].call(self.gate, self.clock.now)
        self.members[at].hear()

    @rule(at=members_at)
    def call(self, at: int) -> None:
        """The answer is on its way until `hear`; a newer call means that it was lost."""
        self.members[at].call(self.gate, self.clock.now)

    @rule(at=members_at)
    def hear(self, at: int) -> None:
        self.members[at].hear()

    @rule(at=members_at, count=st.integers(1, 3))
    def end(self, at: int, count: int) -> None:
        del self.members[at].running[:count]

    @rule(at=members_at)
    def die(self, at: int) -> None:
        """The process is gone, and its requests with it; a new one takes its place."""
        self.members[at] = Member(str(self.born))
        self.born += 1

    @rule(seconds=st.sampled_from([0.1, 2.0, 9.0, 19.0, 29.0, 60.0]))
    def pass_time(self, seconds: float) -> None:
        self.clock.now += seconds
        for member in self.members:
            member.running = [end for end in member.running if end > self.clock.now]

    @invariant()
    def never_over_the_limit(self) -> None:
        for member in self.members:
            member.start(self.clock.now)
        assert sum(len(member.running) for member in self.members) <= self.limit


TestLedger = Ledger.TestCase
TestLedger.settings = settings(max_examples=60, stateful_step_count=50, deadline=None)


def settle(gate: HostGate, wants: dict[str, int], rounds: int = 4, clock: Clock | None = None) -> dict[str, Grant]:
    """What each member ends up with when all ask in turn and use all they get."""
    grants: dict[str, Grant] = {}
    for _ in range(rounds):
        for name, want in wants.items():
            slots = grants[name].slots if name in grants else 0
            used = min(want, slots)
            grants[name] = gate.exchange(name, {"h": Report(want - used, used, slots)})["h"]
        if clock is not None:
            clock.now += 0.1
    return grants


def test_a_lone_fetcher_gets_everything_at_once() -> None:
    gate = HostGate(concurrency=16, lease_s=LEASE_S)
    assert gate.exchange("a", {"h": Report(waiting=1)})["h"] == Grant(16, math.inf, 0.0, 0.0)


@pytest.mark.parametrize(
    ("wants", "slots"),
    [
        ({"a": 100, "b": 100}, {"a": 8, "b": 8}),
        ({"a": 100, "b": 2}, {"a": 14, "b": 2}),
        ({"a": 100, "b": 100, "c": 100}, {"a": 5, "b": 5, "c": 6}),
        ({"a": 1, "b": 1}, {"a": 8, "b": 8}),  # what nobody wants is divided as well
        ({"a": 3, "b": 100, "c": 100}, {"a": 3, "b": 6, "c": 7}),
    ],
)
def test_slots_are_shared_fairly(wants: dict[str, int], slots: dict[str, int]) -> None:
    gate = HostGate(concurrency=16, lease_s=LEASE_S)
    assert {name: grant.slots for name, grant in settle(gate, wants).items()} == slots


def test_a_newcomer_waits_until_the_holder_gives_way() -> None:
    gate = HostGate(concurrency=4, lease_s=LEASE_S)
    gate.exchange("a", {"h": Report(waiting=9)})
    assert gate.exchange("b", {"h": Report(waiting=9)})["h"].slots == 0
    # a has to shrink, but may be using all four until its next word
    assert gate.exchange("a", {"h": Report(waiting=5, in_use=4, slots=4)})["h"].slots == 2
    assert gate.exchange("b", {"h": Report(waiting=9)})["h"].slots == 0
    assert gate.exchange("a", {"h": Report(waiting=5, in_use=3, slots=2)})["h"].slots == 2
    assert gate.exchange("b", {"h": Report(waiting=9)})["h"].slots == 1
    assert gate.exchange("a", {"h": Report(waiting=5, in_use=2, slots=2)})["h"].slots == 2
    assert gate.exchange("b", {"h": Report(waiting=9, slots=1)})["h"].slots == 2


def test_what_a_holder_may_still_start_is_not_given_away() -> None:
    gate = HostGate(concurrency=4, lease_s=LEASE_S)
    gate.exchange("a", {"h": Report(waiting=1)})
    gate.exchange("b", {"h": Report(waiting=9)})
    # a uses none of its four and gets one; until it knows, it may start four
    assert gate.exchange("a", {"h": Report(waiting=1, slots=4)})["h"].slots == 1
    assert gate.exchange("b", {"h": Report(waiting=9)})["h"].slots == 0
    assert gate.exchange("a", {"h": Report(waiting=0, in_use=1, slots=1)})["h"].slots == 1
    assert gate.exchange("b", {"h": Report(waiting=9)})["h"].slots == 3


def test_more_fetchers_than_slots_take_turns() -> None:
    clock = Clock()
    gate = HostGate(concurrency=2, lease_s=LEASE_S, clock=clock)
    slots = dict.fromkeys("abcdefg", 0)
    served = dict.fromkeys("abcdefg", 0)
    for _ in range(400):
        clock.now += 0.1
        for name in slots:
            # each uses its slot all the time, with requests shorter than the time between two calls
            slots[name] = gate.exchange(name, {"h": Report(5, 0, slots[name])})["h"].slots
            served[name] += slots[name]
        assert sum(slots.values()) <= 2
    assert min(served.values()) > 0.5 * max(served.values()) > 0


def test_a_silent_fetcher_loses_its_lease_but_not_before() -> None:
    clock = Clock()
    gate = HostGate(concurrency=4, lease_s=LEASE_S, clock=clock)
    gate.exchange("dead", {"h": Report(waiting=4)})
    clock.now += LEASE_S - 1
    assert gate.exchange("b", {"h": Report(waiting=4)})["h"].slots == 0
    clock.now += LEASE_S / 10 + 2
    gate.exchange("b", {"h": Report(waiting=4)})
    assert gate.exchange("b", {"h": Report(waiting=4)})["h"].slots == 4


def test_a_returned_host_is_free_at_once() -> None:
    gate = HostGate(concurrency=4, lease_s=LEASE_S)
    gate.exchange("a", {"h": Report(waiting=4)})
    assert gate.exchange("a", {"h": Report()}) == {}
    assert gate.exchange("b", {"h": Report(waiting=4)})["h"].slots == 4


def test_rate_is_divided_among_those_who_ask() -> None:
    gate = HostGate(concurrency=16, rate=10.0, lease_s=LEASE_S)
    assert gate.exchange("a", {"h": Report(waiting=9)})["h"].rate == 10.0
    assert gate.exchange("b", {"h": Report(waiting=9)})["h"].rate == 0.0  # a has it all until its next word
    assert {name: grant.rate for name, grant in settle(gate, {"a": 9, "b": 9}).items()} == {"a": 5.0, "b": 5.0}


def test_retry_after_holds_for_all_and_only_as_long_as_asked() -> None:
    clock = Clock()
    gate = HostGate(concurrency=4, lease_s=LEASE_S, clock=clock)
    gate.exchange("a", {"h": Report(in_use=1, slots=4, retry_after_s=7.0)})
    assert gate.exchange("b", {"h": Report(waiting=1)})["h"].blocked_s == 7.0
    assert gate.exchange("b", {"g": Report(waiting=1)})["g"].blocked_s == 0.0
    clock.now += 7
    assert gate.exchange("b", {"h": Report(waiting=1)})["h"].blocked_s == 0.0


def test_circuit_opens_on_failures_in_a_row_over_all_fetchers() -> None:
    clock = Clock()
    gate = HostGate(concurrency=4, lease_s=LEASE_S, circuit_failures=5, circuit_open_s=60, clock=clock)

    def circuit(member: str, **report: int | bool) -> float:
        return gate.exchange(member, {"h": Report(waiting=1, **report)})["h"].circuit_s  # type: ignore[arg-type]

    assert circuit("a", failures=3) == 0
    assert circuit("b", failures=1, answered=True) == 0  # reached, then failed once: the row begins anew
    assert circuit("a", failures=3) == 0
    assert circuit("b", failures=1) == 60
    assert circuit("a") == 60
    clock.now += 60
    assert circuit("a") == 0
    assert circuit("a", failures=1) == 60  # still dead: one try was enough
    assert circuit("a", answered=True) == 0
    assert circuit("a", failures=4) == 0


def client(gate: HostGate, config: DownloadConfig, calls: list[Mapping[str, Report]] | None = None) -> GateClient:
    async def exchange(member: str, reports: Mapping[str, Report]) -> dict[str, Grant]:
        if calls is not None:
            calls.append(reports)
        return gate.exchange(member, reports)

    return GateClient(exchange, config)


def test_client_reaches_full_concurrency_and_no_more_with_few_calls() -> None:
    config = DownloadConfig(per_host_concurrency=16)
    calls: list[Mapping[str, Report]] = []
    peak = running = 0

    async def request(gate: GateClient) -> None:
        nonlocal peak, running
        async with gate.slot("h"):
            running += 1
            peak = max(peak, running)
            await asyncio.sleep(0.001)
            running -= 1

    async def main() -> None:
        async with client(host_gate(config), config, calls) as gate:
            await asyncio.gather(*(request(gate) for _ in range(1000)))

    asyncio.run(main())
    assert peak == 16
    assert len(calls) < 50


def test_two_clients_share_one_ledger() -> None:
    config = DownloadConfig(per_host_concurrency=4)
    ledger = host_gate(config)
    peak = 0
    running = {"a": 0, "b": 0}
    done = {"a": 0, "b": 0}

    async def requests(gate: GateClient, name: str) -> None:
        nonlocal peak
        async with gate.slot("h"):
            running[name] += 1
            peak = max(peak, sum(running.values()))
            await asyncio.sleep(0.01)
            running[name] -= 1
            done[name] += 1

    async def main() -> None:
        async with client(ledger, config) as first, client(ledger, config) as second:
            work = [requests(first, "a") for _ in range(100)] + [requests(second, "b") for _ in range(100)]
            await asyncio.gather(*work)

    asyncio.run(main())
    assert peak == 4
    assert done == {"a": 100, "b": 100}


def test_client_keeps_to_the_rate() -> None:
    config = DownloadConfig(per_host_rate=100.0)
    starts: list[float] = []

    async def request(gate: GateClient) -> None:
        async with gate.slot("h"):
            starts.append(asyncio.get_running_loop().time())

    async def main() -> None:
        async with client(host_gate(config), config) as gate:
            await asyncio.gather(*(request(gate) for _ in range(31)))

    asyncio.run(main())
    assert 0.29 < starts[-1] - starts[0] < 0.9


@pytest.mark.parametrize(
    ("trouble", "expected"),
    [("busy", Status.HOST_BUSY), ("blocked", Status.HOST_BUSY), ("dead", Status.CIRCUIT_OPEN)],
)
def test_client_does_not_wait_in_vain(trouble: str, expected: Status) -> None:
    config = DownloadConfig(per_host_concurrency=1, max_host_wait_s=0.3, circuit_failures=3)

    async def main() -> Status:
        async with client(host_gate(config), config) as gate, gate.slot("h"):
            waiting = asyncio.create_task(gate.acquire("h"))
            await asyncio.sleep(0)
            if trouble == "blocked":
                gate.block("h", 3600)
            elif trouble == "dead":
                for _ in range(3):
                    gate.failed("h")
            with pytest.raises(Refused) as refused:
                await asyncio.wait_for(waiting, 5)
            return refused.value.status

    assert asyncio.run(main()) is expected


def test_a_cancelled_wait_leaks_no_slot() -> None:
    config = DownloadConfig(per_host_concurrency=1)

    async def main() -> None:
        async with client(host_gate(config), config) as gate:
            async with gate.slot("h"):
                waiting = asyncio.create_task(gate.acquire("h"))
                await asyncio.sleep(0)
            waiting.cancel()  # just when the slot was handed over
            await asyncio.gather(waiting, return_exceptions=True)
            await asyncio.wait_for(gate.acquire("h"), 5)

    asyncio.run(main())


def test_a_failing_exchange_is_an_error_not_a_hang() -> None:
    config = DownloadConfig()

    async def broken(member: str, reports: Mapping[str, Report]) -> dict[str, Grant]:
        raise RuntimeError("the ledger is gone")

    async def main() -> None:
        async with GateClient(broken, config) as gate:
            for _ in range(2):
                with pytest.raises(RuntimeError, match="the ledger is gone"):
                    await gate.acquire("h")

    asyncio.run(main())


def test_an_exchange_that_hangs_ends_as_host_busy() -> None:
    config = DownloadConfig(max_host_wait_s=0.2)

    async def hanging(member: str, reports: Mapping[str, Report]) -> dict[str, Grant]:
        await asyncio.Event().wait()
        return {}

    async def main() -> None:
        async with GateClient(hanging, config) as gate:
            with pytest.raises(Refused) as refused:
                await asyncio.wait_for(gate.acquire("h"), 5)
            assert refused.value.status is Status.HOST_BUSY

    asyncio.run(main())
