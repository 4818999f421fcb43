"""Limits by address, Crawl-delay, and leases that end with their holder."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter, defaultdict
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import pytest
from hostile_server import Connection, config, head, image, serving
from pydantic import ValidationError

from curation.schema import Status
from curation.web.address import Refused
from curation.web.config import DownloadConfig
from curation.web.content_networks import content_networks, shared_load
from curation.web.fetch import Fetched, Fetcher
from curation.web.gate_client import GateClient
from curation.web.host_gate import Grant, HostGate, Report


def peaks(names: int, each: int, **limits: Any) -> tuple[int, int]:
    """The most requests at once that one address saw, and that one of its names saw."""
    running: Counter[bytes] = Counter()
    most: Counter[bytes] = Counter()

    async def behaviour(connection: Connection) -> None:
        name = connection.head.partition(b"Host: ")[2].partition(b":")[0]
        for key in (name, b"all"):
            running[key] += 1
            most[key] = max(most[key], running[key])
        await asyncio.sleep(0.02)
        for key in (name, b"all"):
            running[key] -= 1
        await connection.send(image())

    async def main() -> list[Fetched]:
        settings = config(per_host_concurrency=3, **limits)
        async with serving(behaviour) as server, Fetcher(settings, lookup=lambda host: ["127.0.0.1"]) as fetcher:
            urls = [f"http://h{n % names}.example:{server.port}/{n}" for n in range(names * each)]
            return await asyncio.gather(*map(fetcher.fetch, urls))

    assert {fetched.status for fetched in asyncio.run(main())} == {Status.SUCCESS}
    return most.pop(b"all"), max(most.values())


@pytest.mark.parametrize(
    ("limits", "address", "host"),
    [
        ({}, 12, 3),
        ({"per_address_concurrency": 5}, 5, 3),
        ({"per_address_concurrency": 2}, 2, 2),
        ({"content_networks": ["127.0.0.0/8"]}, 60, 3),
    ],
)
def test_all_names_of_one_address_share_its_limit(limits: dict[str, Any], address: int, host: int) -> None:
    most, of_one = peaks(20, 5, **limits)
    assert most <= address and of_one <= host
    assert most > min(address - 1, 30)  # the limit is used


@pytest.mark.parametrize(
    ("addresses", "load"),
    [
        (["93.184.216.34", "8.8.8.8"], "93.184.216.34"),
        (["2a00:1450:4001:829::2004"], "2a00:1450:4001:829::/64"),
        (["2a00:1450:4001:829:1:2:3:4"], "2a00:1450:4001:829::/64"),
        (["::ffff:93.184.216.34"], "93.184.216.34"),
        (["104.16.1.1"], ""),
        (["2606:4700::6810:1"], ""),
        (["151.101.1.140"], ""),
        (["10.1.2.3"], ""),
        ([], ""),
    ],
)
def test_what_sites_load_together(addresses: list[str], load: str) -> None:
    assert shared_load(addresses, content_networks(["cloudflare", "fastly", "10.0.0.0/8"])) == load


@pytest.mark.parametrize("value", [["cloudfare"], ["10.0.0.1/8"], [""]])
def test_a_content_network_is_known_or_a_cidr(value: list[str]) -> None:
    with pytest.raises(ValidationError):
        DownloadConfig(content_networks=tuple(value))


def delayed(robots: str, count: int, **limits: Any) -> tuple[list[Fetched], dict[str, list[float]]]:
    """Fetch from two hosts, of which the first has this robots.txt; and when each was asked for a picture."""
    asked: dict[str, list[float]] = defaultdict(list)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        host = "slow" if b"slow" in request else "free"
        if b" /robots.txt " in request:
            text = robots if host == "slow" else ""
            writer.write(head(f"Content-Length: {len(text)}") + text.encode())
        elif b".json" in request:
            writer.write(head("Content-Length: 0", status="404 Not Found"))
        else:
            asked[host].append(time.monotonic())
            writer.write(image())
        writer.close()

    async def main() -> list[Fetched]:
        listener = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = listener.sockets[0].getsockname()[1]
        settings = config(respect_robots=True).model_copy(update=limits)
        async with listener, Fetcher(settings, lookup=lambda host: ["127.0.0.1"]) as fetcher:
            urls = [f"http://{host}.example:{port}/{n}" for host in ("slow", "free") for n in range(count)]
            return await asyncio.gather(*map(fetcher.fetch, urls))

    return asyncio.run(main()), asked


@pytest.mark.parametrize(
    ("robots", "limits", "least"),
    [
        ("User-agent: *\nCrawl-delay: 0.3\n", {}, 0.3),
        ("User-agent: pairmill\nCrawl-delay: 0.3\nDisallow: /x\n\nUser-agent: *\nCrawl-delay: 9", {}, 0.3),
        ("User-agent: *\nCrawl-delay: 86400\n", {"max_crawl_delay_s": 0.2}, 0.2),
        ("User-agent: *\nCrawl-delay: 86400\n", {"max_crawl_delay_s": 0.0}, 0.0),
        ("User-agent: *\nCrawl-delay: 86400\n", {"respect_robots": False}, 0.0),
        ("User-agent: other\nCrawl-delay: 86400\n", {}, 0.0),
    ],
)
def test_a_crawl_delay_is_kept_up_to_a_maximum(robots: str, limits: dict[str, Any], least: float) -> None:
    fetched, asked = delayed(robots, 4, **limits)
    assert {one.status for one in fetched} == {Status.SUCCESS}
    slow, free = asked["slow"], asked["free"]
    gaps = [after - before for before, after in pairwise(slow)]
    assert len(gaps) == 3 and min(gaps) >= least and sum(gaps) < 20
    assert not least or max(free) < max(slow)


def test_what_a_crawl_delay_leaves_no_time_for_is_refused_at_once() -> None:
    began = time.monotonic()
    fetched, asked = delayed("User-agent: *\nCrawl-delay: 20\n", 5, max_host_wait_s=15.0)
    statuses = Counter(one.status for one in fetched[:5])
    assert statuses == {Status.SUCCESS: 1, Status.HOST_BUSY: 4} and len(asked["slow"]) == 1
    assert {one.status for one in fetched[5:]} == {Status.SUCCESS}
    assert time.monotonic() - began < 15


def test_a_crawl_delay_is_divided_among_fetchers() -> None:
    gate = HostGate(concurrency=16, lease_s=50.0)
    assert gate.exchange("a", {"h": Report(waiting=9, delay_s=10.0)})["h"].rate == 0.1
    assert gate.exchange("b", {"h": Report(waiting=9, delay_s=10.0)})["h"].rate == 0.0
    grants = [gate.exchange(m, {"h": Report(9, 0, 8, delay_s=10.0)})["h"] for _ in range(3) for m in "ab"]
    assert [grant.rate for grant in grants[-2:]] == [0.05, 0.05]
    assert gate.exchange("a", {"g": Report(waiting=9)})["g"].rate == math.inf


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_the_leases_of_a_fetcher_end_when_its_worker_starts_again() -> None:
    gate = HostGate(concurrency=4, lease_s=50.0)
    gate.exchange("dead", {"h": Report(waiting=9), "g": Report(waiting=9)}, "worker 1")
    assert gate.exchange("b", {"h": Report(waiting=9)}, "worker 2")["h"].slots == 0
    assert gate.exchange("new", {"h": Report(waiting=9)}, "worker 1")["h"].slots == 2
    assert gate.exchange("b", {"h": Report(waiting=9)}, "worker 2")["h"].slots == 2
    assert gate.exchange("b", {"g": Report(waiting=9)}, "worker 2")["g"].slots == 4
    # what the dead one sent before it died may arrive late
    assert gate.exchange("dead", {"h": Report(waiting=9)}, "worker 1") == {}
    assert gate.exchange("new", {"h": Report(waiting=9, slots=2)}, "worker 1")["h"].slots == 2


def test_those_who_wait_hear_that_a_holder_is_silent() -> None:
    clock = Clock()
    gate = HostGate(concurrency=1, lease_s=50.0, clock=clock)
    gate.exchange("a", {"h": Report(waiting=1)})
    gate.exchange("idle", {"g": Report(waiting=1)})
    clock.now += 7
    assert gate.exchange("b", {"h": Report(waiting=1)})["h"].quiet_s == 7.0
    gate.exchange("a", {"h": Report(in_use=1, slots=1)})
    assert gate.exchange("b", {"h": Report(waiting=1)})["h"].quiet_s == 0.0


@pytest.mark.parametrize(
    ("holder", "got", "least", "most"),
    [("lives", False, 1.9, 3.5), ("is killed", True, 3.0, 7.0), ("starts again", True, 0.3, 1.8)],
)
def test_a_wait_for_a_dead_fetchers_slot_loses_no_row(holder: str, got: bool, least: float, most: float) -> None:
    ledger = HostGate(concurrency=1, lease_s=4.0)

    async def exchange(member: str, reports: Mapping[str, Report]) -> dict[str, Grant]:
        return ledger.exchange(member, reports, "worker 2")

    async def hold() -> None:
        ledger.exchange("holder", {"h": Report(waiting=1)}, "worker 1")
        while holder == "lives":
            await asyncio.sleep(0.3)
            ledger.exchange("holder", {"h": Report(in_use=1, slots=1)}, "worker 1")
        if holder == "starts again":
            await asyncio.sleep(0.3)
            ledger.exchange("its next", {"elsewhere": Report(waiting=1)}, "worker 1")

    async def main() -> tuple[bool, float]:
        holding = asyncio.create_task(hold())
        await asyncio.sleep(0)
        began = time.monotonic()
        async with GateClient(exchange, DownloadConfig(per_host_concurrency=1, max_host_wait_s=2.0)) as gate:
            try:
                async with gate.slot("h"):
                    return True, time.monotonic() - began
            except Refused as refused:
                assert refused.status is Status.HOST_BUSY
                return False, time.monotonic() - began
            finally:
                holding.cancel()

    found, seconds = asyncio.run(main())
    assert found is got and least < seconds < most


def test_a_slot_of_two_is_given_back_where_the_second_is_refused() -> None:
    settings = DownloadConfig(per_host_concurrency=2, per_address_concurrency=1, max_host_wait_s=0.2)
    ledger = HostGate(concurrency=2, address_concurrency=1, lease_s=50.0)

    async def exchange(member: str, reports: Mapping[str, Report]) -> dict[str, Grant]:
        return ledger.exchange(member, reports)

    async def main() -> None:
        async with GateClient(exchange, settings) as gate:
            async with gate.slot("h", "1.2.3.4"):
                with pytest.raises(Refused):
                    async with gate.slot("h", "1.2.3.4"):
                        pass
            for _ in range(2):
                await asyncio.wait_for(gate.acquire("h"), 1)

    asyncio.run(main())
