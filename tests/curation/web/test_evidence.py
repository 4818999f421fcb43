"""What a fetch leaves behind for a later policy: where it led, what it would have needed, what the owner wants."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hostile_server import (
    JPEG,
    Connection,
    config,
    fetch_from,
    head,
    image,
    redirect,
    repeats,
    says,
    says_and_waits,
    serving,
)

from curation.schema import Status
from curation.web.address import AddressPolicy
from curation.web.fetch import Fetched, Fetcher


async def twice(connection: Connection) -> None:
    """Two redirects, then the picture."""
    path = connection.head.split()[1]
    to = {b"/a.jpg": "/b.jpg", b"/b.jpg": "/c.jpg"}.get(path)
    await connection.send(image() if to is None else head(f"Location: {to}", "Content-Length: 0", status="302 Found"))


def test_the_route_of_a_picture_is_kept_hop_by_hop() -> None:
    fetched, server = fetch_from(twice)
    assert fetched.status is Status.SUCCESS
    assert fetched.route == " ".join([f"{server.port}@127.0.0.1"] * 3)
    assert (fetched.robots, fetched.opt_out, fetched.needs) == ("allowed", "", None)


def test_a_later_attempt_has_a_route_of_its_own() -> None:
    answers = iter([head("Content-Length: 0", status="503 Later"), image()])

    async def second_time(connection: Connection) -> None:
        await connection.send(next(answers))

    fetched, server = fetch_from(second_time, config(retries=1))
    assert (fetched.status, fetched.attempts) == (Status.SUCCESS, 2)
    assert fetched.route == f"{server.port}@127.0.0.1"


@pytest.mark.parametrize(
    ("behaviour", "limits", "status", "needs"),
    [
        (says_and_waits(head("Content-Length: 100001")), {}, Status.TOO_LARGE, 100_001),
        (repeats(head() + JPEG, bytes(50_000)), {}, Status.TOO_LARGE, 100_001),
        (redirect("/a.jpg"), {"max_redirects": 2}, Status.REDIRECT_ERROR, 3),
        (says(head("Content-Length: 0", status="302 Found")), {}, Status.REDIRECT_ERROR, None),
        (says(head("Content-Length: 0", status="404 Not Found")), {}, Status.HTTP_CLIENT_ERROR, None),
    ],
)
def test_a_refusal_says_what_limit_it_needs(behaviour: Any, limits: dict[str, Any], status: Status, needs: int) -> None:
    fetched, _ = fetch_from(behaviour, config(**limits))
    assert (fetched.status, fetched.needs, fetched.route) == (status, needs, None)


@pytest.mark.parametrize(
    ("to", "status", "hop"),
    [
        ("http://169.254.169.254/latest/", Status.FORBIDDEN_ADDRESS, "80@169.254.169.254"),
        ("http://8.8.8.8:25/", Status.FORBIDDEN_PORT, "25@8.8.8.8"),
    ],
)
def test_a_hop_that_is_refused_ends_the_route(to: str, status: Status, hop: str) -> None:
    fetched, server = fetch_from(redirect(to))
    assert (fetched.status, fetched.route) == (status, f"{server.port}@127.0.0.1 {hop}")


def test_the_addresses_of_public_names_are_left_out() -> None:
    policy = AddressPolicy(["10.0.0.0/8", "9.9.9.0/24"], [443])
    assert policy.hop(443, ["1.2.3.4", "1.2.3.5"]) == "443"
    assert policy.hop(9000, ["10.0.0.1"]) == "9000@10.0.0.1"
    assert policy.hop(443, ["1.2.3.4", "9.9.9.9"]) == "443@1.2.3.4,9.9.9.9"


@pytest.mark.parametrize(
    ("hop", "networks", "ports", "verdict"),
    [
        ("443", [], [443], None),
        ("8080", [], [443], Status.FORBIDDEN_PORT),
        ("9000@10.0.0.1", ["10.0.0.0/8"], [443], None),
        ("443@10.0.0.1", [], [443], Status.FORBIDDEN_ADDRESS),
        ("443@10.0.0.1,10.9.0.1", ["10.0.0.0/16"], [443], Status.FORBIDDEN_ADDRESS),
        ("25@8.8.8.8", [], [25], None),
        ("80@::1", ["::1/128"], [443], None),
    ],
)
def test_a_hop_is_judged_as_it_would_be_asked(hop: str, networks: list[str], ports: list[int], verdict: Any) -> None:
    assert AddressPolicy(networks, ports).judge(hop) is verdict


def test_two_runs_leave_equal_evidence() -> None:
    async def once() -> Fetched:
        async with serving(says(image())) as server, Fetcher(config()) as fetcher:
            fetched = await fetcher.fetch(f"http://127.0.0.1:{server.port}/a.jpg")
            return fetched._replace(route=(fetched.route or "").replace(str(server.port), "PORT"))

    one, other = asyncio.run(once()), asyncio.run(once())
    assert one.route == "PORT@127.0.0.1"
    assert (one.route, one.robots, one.opt_out, one.needs) == (other.route, other.robots, other.opt_out, other.needs)
