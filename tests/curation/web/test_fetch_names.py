"""Names, and names that change their mind."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest
from aiohttp.abc import ResolveResult
from hostile_server import (
    config,
    image,
    says,
    serving,
)

from curation.schema import Status
from curation.web.address import AddressPolicy
from curation.web.fetch import Fetched, Fetcher
from curation.web.safe_http import Resolver


def fetch_by_name(url: str, answers: list[list[str]], **resolver: Any) -> tuple[Fetched, int]:
    """Fetch from a name whose lookups give `answers` in turn; also how many connections a local server saw."""

    def lookup(host: str) -> list[str]:
        return answers.pop(0) if len(answers) > 1 else answers[0]

    async def main() -> tuple[Fetched, int]:
        settings = config(allow_networks=[], allow_ports=range(1, 65536))
        policy = AddressPolicy(settings.allow_networks, settings.allow_ports)
        async with serving(says(image())) as server:
            made = Resolver(policy, lookup, **resolver)
            async with Fetcher(settings, resolver=made) as fetcher:
                return await fetcher.fetch(url.format(port=server.port)), server.connections

    return asyncio.run(main())


def test_rebinding_between_check_and_connect_sees_no_connection() -> None:
    # Without a cache the connector asks again, and gets another answer than the check did.
    answers = [["93.184.216.34"], ["127.0.0.1"]]
    fetched, connections = fetch_by_name("http://rebind.example:{port}/a.jpg", answers, ttl_s=0.0)
    assert (fetched.status, connections) == (Status.FORBIDDEN_ADDRESS, 0)
    assert answers == [["127.0.0.1"]]


@pytest.mark.parametrize(
    "addresses", [["127.0.0.1"], ["93.184.216.34", "127.0.0.1"], ["::ffff:127.0.0.1"], ["::1"], ["0.0.0.0"]]
)
def test_names_of_private_addresses_see_no_connection(addresses: list[str]) -> None:
    fetched, connections = fetch_by_name("http://inside.example:{port}/a.jpg", [addresses])
    assert (fetched.status, connections) == (Status.FORBIDDEN_ADDRESS, 0)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1", "2130706433", "0x7f000001", "0.0.0.0", "[::ffff:127.0.0.1]"])
def test_literal_addresses_see_no_connection(host: str) -> None:
    fetched, connections = fetch_by_name(f"http://{host}:{{port}}/a.jpg", [["93.184.216.34"]])
    assert (fetched.status, connections) == (Status.FORBIDDEN_ADDRESS, 0)


@pytest.mark.parametrize("addresses", [["127.0.0.1"], ["127.0.0.1", "0.0.0.0"]])
def test_the_socket_itself_is_the_last_gate(addresses: list[str]) -> None:
    class Blind(Resolver):
        """Passes everything: as if the gates before had a hole."""

        async def addresses(self, host: str, port: int, timeout_s: float | None = None) -> tuple[str, ...]:
            return tuple(addresses)

    async def main() -> tuple[Fetched, int]:
        settings = config(allow_networks=[], allow_ports=range(1, 65536))
        async with serving(says(image())) as server:
            blind = Blind(AddressPolicy())
            async with Fetcher(settings, resolver=blind) as fetcher:
                return await fetcher.fetch(f"http://any.example:{server.port}/"), server.connections

    fetched, connections = asyncio.run(main())
    assert connections == 0
    assert fetched.status is Status.FORBIDDEN_ADDRESS


def test_lookups_are_cached_shared_and_bounded_in_time() -> None:
    calls: list[str] = []
    now = [0.0]

    def lookup(host: str) -> list[str]:
        calls.append(host)
        return ["93.184.216.34"]

    async def main() -> None:
        resolver = Resolver(AddressPolicy(), lookup, clock=lambda: now[0])
        found = await asyncio.gather(*(resolver.addresses("a.example", 80) for _ in range(9)))
        assert set(found) == {("93.184.216.34",)} and calls == ["a.example"]
        now[0] = 59.0
        results: list[ResolveResult] = await resolver.resolve("a.example", 80)
        assert [result["host"] for result in results] == ["93.184.216.34"] and len(calls) == 1
        now[0] = 61.0
        await resolver.addresses("a.example", 80)
        assert len(calls) == 2
        await resolver.close()

    asyncio.run(main())


@pytest.mark.parametrize(("code", "lookups", "attempts"), [("EAI_NONAME", 1, 1), ("EAI_AGAIN", 6, 3)])
def test_a_name_that_may_resolve_later_is_tried_again(code: str, lookups: int, attempts: int) -> None:
    calls: list[str] = []

    def lookup(host: str) -> list[str]:
        calls.append(host)
        raise socket.gaierror(getattr(socket, code), "no")

    async def main() -> Fetched:
        async with Fetcher(config(retries=2), lookup=lookup) as fetcher:
            return await fetcher.fetch("http://gone.example/a.jpg")

    fetched = asyncio.run(main())
    assert (fetched.status, len(calls), fetched.attempts) == (Status.DNS_ERROR, lookups, attempts)


def test_a_refused_url_is_never_attempted() -> None:
    async def main() -> Fetched:
        async with Fetcher(config()) as fetcher:
            return await fetcher.fetch("ftp://example.com/a.jpg")

    fetched = asyncio.run(main())
    assert (fetched.status, fetched.attempts, fetched.final_url) == (
        Status.FORBIDDEN_SCHEME,
        0,
        "ftp://example.com/a.jpg",
    )


def test_a_bug_raises() -> None:
    def broken(host: str) -> list[str]:
        raise KeyError(host)

    async def main() -> None:
        async with Fetcher(config(), lookup=broken) as fetcher:
            await fetcher.fetch("http://any.example/")

    with pytest.raises(KeyError):
        asyncio.run(main())
