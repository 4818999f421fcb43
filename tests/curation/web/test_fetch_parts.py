"""The parts of the fetcher, one by one."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc

import pytest
from hostile_server import JPEG, config, head, image, repeats, says, serving
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from curation.schema import Status
from curation.web.config import DownloadConfig
from curation.web.fetch import ByteBudget, ErrorRate, Fetcher


@given(st.lists(st.integers(1, 10), min_size=1, max_size=30))
@settings(max_examples=50, deadline=None)
def test_the_byte_budget_is_kept_and_nobody_is_forgotten(sizes: list[int]) -> None:
    async def main() -> None:
        budget, held, order = ByteBudget(10), 0, []

        async def use(at: int, size: int) -> None:
            nonlocal held
            await budget.acquire(size)
            order.append(at)
            held += size
            assert held <= 10
            await asyncio.sleep(0)
            held -= size
            budget.release(size)

        tasks = [asyncio.create_task(use(at, size)) for at, size in enumerate(sizes)]
        tasks[-1].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert order == list(range(len(sizes) - 1))

    asyncio.run(main())


def test_large_bodies_wait_for_each_other_and_all_arrive() -> None:
    big = JPEG + bytes(3 * 2**20)

    async def main() -> set[tuple[Status, int]]:
        async with serving(says(image(big))) as server, Fetcher(config(max_bytes=4 * 2**20)) as fetcher:
            urls = [f"http://127.0.0.1:{server.port}/{n}" for n in range(24)]
            return {(fetched.status, fetched.size) for fetched in await asyncio.gather(*map(fetcher.fetch, urls))}

    assert asyncio.run(main()) == {(Status.SUCCESS, len(big))}


def test_a_refused_body_is_freed_at_once() -> None:
    async def main() -> int:
        behaviour = repeats(head() + JPEG, bytes(50_000))
        async with serving(behaviour) as server, Fetcher(config(max_bytes=8 * 2**20)) as fetcher:
            tracemalloc.start()
            fetched = await fetcher.fetch(f"http://127.0.0.1:{server.port}/")
            assert (fetched.status, fetched.size > 8 * 2**20) == (Status.TOO_LARGE, True)
            return tracemalloc.get_traced_memory()[0]

    gc.disable()  # a cycle through the failure's traceback would outlive the fetch
    try:
        assert asyncio.run(main()) < 4 * 2**20
    finally:
        tracemalloc.stop()
        gc.enable()


@pytest.mark.parametrize(
    ("before", "after", "alarm"),
    [
        (0.1, 0.1, False),
        (0.1, 0.9, True),
        (0.2, 1.0, True),
        (0.4, 0.45, False),
        (0.65, 0.65, False),  # a bad list from the start is not an outage
        (0.9, 0.9, False),
    ],
)
def test_error_rate_alarm_is_for_change(before: float, after: float, alarm: bool) -> None:
    rate = ErrorRate(0.5)
    for share, count in ((before, 20_000), (after, 2_000)):
        for n in range(count):
            failed = int((n + 1) * share) > int(n * share)
            rate.add(Status.TIMEOUT if failed else Status.HTTP_CLIENT_ERROR)
    assert rate.alarm == alarm


def test_error_rate_sees_an_outage_from_the_start() -> None:
    rate = ErrorRate(0.5)
    for _ in range(1500):
        rate.add(Status.DNS_ERROR)
    assert rate.alarm


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("user_agent", "pairmill/9 (+https://x)\r\nX: y"),
        ("user_agent", "Mozilla/5.0 (compatible; x; +https://x.example)"),
        ("user_agent", ""),
        ("allow_networks", ["127.0.0.1/8"]),
        ("allow_networks", ["localhost"]),
        ("allow_ports", [0]),
        ("timeout_s", 0),
        ("engine", "curl"),
        ("time_out", 5),
    ],
)
def test_configuration_is_checked(field: str, value: object) -> None:
    with pytest.raises(ValidationError):
        DownloadConfig.model_validate({field: value})


def test_no_key_of_download_decides_a_picture_and_policy_is_its_own() -> None:
    assert DownloadConfig().identity() == {}
    assert set(DownloadConfig().policy()) == {
        "max_bytes",
        "max_redirects",
        "respect_robots",
        "respect_opt_out",
        "allow_networks",
        "allow_ports",
        "hash_blocklist",
    }
    ports = DownloadConfig(allow_ports=(8443, 443, 80, 8080))
    assert ports.policy() == DownloadConfig().policy()


def test_a_user_agent_has_a_token_and_perhaps_a_contact() -> None:
    assert DownloadConfig(user_agent="mybot/2 (mailto:a@b.example)").product_token == "mybot"
    assert DownloadConfig(user_agent="mybot/2 (mailto:a@b.example)").names_contact
    assert not DownloadConfig(user_agent="mybot/2").names_contact
