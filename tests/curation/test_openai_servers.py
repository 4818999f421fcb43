"""Every text is answered or fails with a reason, in its place, however servers misbehave; the servers count."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import ExitStack

import pytest
from chat_server import FaultyServer, serving
from hypothesis import given
from hypothesis import strategies as st

from curation.engines import Failure, Generated, chat_servers
from curation.engines.chat_servers import ChatServer, ChatServers
from curation.engines.openai_translate import OpenAITranslator, OpenAITranslatorConfig

TEXTS = [f"text {n}" for n in range(120)]


def translated(
    servers: Sequence[FaultyServer | str], texts: Sequence[str] = TEXTS, **settings: object
) -> list[Generated | Failure]:
    """What a translator that asks these servers, or servers at these URLs, says about texts."""
    with ExitStack() as stack:
        urls = [one if isinstance(one, str) else stack.enter_context(serving(one.chat)) for one in servers]
        return translator(urls, **settings).translate(texts, source="en", target="de")


def translator(urls: Sequence[str], **settings: object) -> OpenAITranslator:
    keys = {"name": "openai", "base_url": urls, "prompt": "{text}", "backoff_s": 0.01, **settings}
    return OpenAITranslator("m", OpenAITranslatorConfig.model_validate(keys), max_new_tokens=8)


def answered(texts: Sequence[str] = TEXTS) -> list[Generated | Failure]:
    return [Generated(text.upper(), score=None) for text in texts]


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2])
def test_three_of_ten_requests_that_go_wrong_double_and_lose_nothing(count: int) -> None:
    servers = [FaultyServer(0.3) for _ in range(count)]
    answers = translated(servers, retries=4, timeout_s=3.0)
    assert set().union(*(server.wrong for server in servers)) == set(FaultyServer.KINDS)
    for text, answer in zip(TEXTS, answers, strict=True):
        asked = sum(server.asked[text] for server in servers)
        paid = sum(server.answered[text] for server in servers)
        assert 1 <= asked <= 5
        if isinstance(answer, Failure):
            assert paid == 0 and (asked == 5 or answer.error == "the answer is longer than 4194304 bytes")
        else:
            assert (paid, answer.text) == (1, text.upper())
    assert sum(isinstance(answer, Generated) for answer in answers) > 100


def test_two_servers_share_the_requests() -> None:
    servers = [FaultyServer(), FaultyServer()]
    assert translated(servers, concurrency=8) == answered()
    assert all(sum(server.asked.values()) > 40 for server in servers)
    assert all(server.most_in_flight <= 8 for server in servers)


def test_a_server_that_is_not_there_costs_no_text() -> None:
    # Port 9 is closed: nothing listens there, and its requests go to the other server.
    there = FaultyServer()
    assert translated(["http://127.0.0.1:9/v1", there], concurrency=8, retries=1) == answered()


def test_a_server_that_went_down_is_left_out_and_asked_again_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_servers, "_FIRST_OUT_S", 0.2)
    sick, well = FaultyServer(always="closed"), FaultyServer()
    with serving(sick.chat) as first, serving(well.chat) as second:
        made = translator([first, second], concurrency=4)
        assert made.translate(TEXTS, source="en", target="de") == answered()
        asked = sum(sick.asked.values())
        assert asked <= 3 * 4 + 4  # three rounds of four in flight, and one at a time afterwards
        sick.always = ""
        time.sleep(0.5)
        assert made.translate(TEXTS, source="en", target="de") == answered()
        assert sum(sick.answered.values()) > 20


@pytest.mark.parametrize("always", ["closed", "500", "json"])
def test_texts_fail_at_once_where_no_server_answers(monkeypatch: pytest.MonkeyPatch, always: str) -> None:
    # None waits for a server that is left out: the test would take hours.
    monkeypatch.setattr(chat_servers, "_FIRST_OUT_S", 3600.0)
    monkeypatch.setattr(chat_servers, "_LONGEST_OUT_S", 3600.0)
    servers = [FaultyServer(always=always), FaultyServer(always=always)]
    answers = translated(servers, TEXTS[:40], retries=2, concurrency=8)
    assert all(isinstance(answer, Failure) for answer in answers)
    assert {sum(server.asked[text] for server in servers) for text in TEXTS[:40]} == {3}


def test_what_one_server_puts_off_another_answers_now() -> None:
    busy, free = FaultyServer(always="429-after", after="100"), FaultyServer()
    assert translated([busy, free], TEXTS[:20]) == answered(TEXTS[:20])
    assert max(busy.asked.values()) == 1


def test_a_text_that_all_servers_put_off_for_too_long_fails_at_once() -> None:
    servers = [FaultyServer(always="429-after", after="3600") for _ in range(2)]
    assert translated(servers, TEXTS[:5]) == [Failure("HTTP 429: busy")] * 5
    assert all(server.asked == dict.fromkeys(TEXTS[:5], 1) for server in servers)


def test_a_server_that_has_room_for_few_gets_few() -> None:
    small = FaultyServer(room=4)
    assert translated([small], concurrency=32, retries=20) == answered()
    assert small.wrong["429"] < len(TEXTS)  # twice as many where 32 are asked for at once all the time


def test_a_burst_of_429_halves_the_limit_once() -> None:
    server = ChatServer("u", most=32, limit=32.0)
    burst = time.monotonic()
    for _ in range(32):
        server.refused(burst)
    assert server.limit == 16
    server.refused(time.monotonic())
    assert server.limit == 8
    for _ in range(8):
        server.answered()
    assert 8.9 < server.limit < 9  # one more for each round of answers


@given(st.lists(st.sampled_from(["answered", "refused", "failed"]), max_size=200), st.integers(1, 64))
def test_the_limit_stays_between_one_and_the_concurrency(events: list[str], most: int) -> None:
    server = ChatServer("u", most=most, limit=float(most))
    for event in events:
        if event == "answered":
            server.answered()
        elif event == "refused":
            server.refused(time.monotonic())
        else:
            server.failed(time.monotonic(), unreachable=False)
        assert 1 <= server.limit <= most
        assert server.out_until <= time.monotonic() + 30


def test_a_server_is_down_after_three_failures_in_a_row_or_without_a_connection() -> None:
    server = ChatServer("u", most=4, limit=4.0)
    for _ in range(2):
        server.failed(math.inf, unreachable=False)
    assert not server.is_down
    server.answered()
    for _ in range(3):
        assert not server.is_down
        server.failed(math.inf, unreachable=False)
    assert server.is_down
    gone = ChatServer("u", most=4, limit=4.0)
    gone.failed(math.inf, unreachable=True)
    assert gone.is_down


def test_a_url_that_is_named_twice_is_one_server() -> None:
    assert [server.url for server in ChatServers(["a", "b", "a"], most=1)] == ["a", "b"]
