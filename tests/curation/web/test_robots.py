"""The rules of robots.txt: as protego reads them, and in bounded time whatever they say."""

from __future__ import annotations

import asyncio
from urllib.parse import quote

import pytest
from hostile_server import config
from hypothesis import given, settings
from hypothesis import strategies as st
from odd_servers import PICTURE
from protego import Protego

from curation.schema import Status
from curation.web.fetch import Fetched, Fetcher
from curation.web.opt_out import ROBOTS_BYTES, parse_robots
from curation.web.robots import MAX_WORK, Robots, TooMuchWork, path_of

LINES = st.sampled_from(
    [
        *("User-agent: *", "User-agent: pairmill", "user-agent pair", "User-agent: Pair*", "User-agent: x"),
        *("Disallow:", "Disalow: /b # c", "Sitemap: http://x/", "Host: h", "Request-rate: 1/5", "", "# c", "foo: bar"),
        *("foo:bar", "foo", "User-agent:", "Crawl-delay: 3", "Crawl delay 4", "Crawl-delay: -1", "crawl-delay: x"),
    ]
)  # fmt: skip
PATTERNS = st.text("/ab*$.%2Fé=?c ", max_size=8)
RULES = st.one_of(
    st.tuples(st.sampled_from(["Allow: ", "Disallow: ", "disallow "]), PATTERNS).map("".join),
    PATTERNS.map(lambda pattern: f"Allow: /{pattern}/index.html"),
)
PATHS = st.text("/ab$.%2Fé=?c*", max_size=10).map(lambda path: "/" + quote(path, safe="/%?=$*"))


@given(st.lists(LINES | RULES, max_size=14), st.lists(PATHS, max_size=6))
@settings(max_examples=500, deadline=None)
def test_rules_are_read_as_protego_reads_them(lines: list[str], paths: list[str]) -> None:
    text = "\n".join(lines)
    ours, theirs = Robots(text), Protego.parse(text)
    for path in paths:
        url = "http://h.example" + path
        assert ours.can_fetch(url, "pairmill") == theirs.can_fetch(url, "pairmill"), (text, path)
    assert ours.rules("pairmill").delay_s == (theirs.crawl_delay("pairmill") or 0), text


@pytest.mark.parametrize(
    "agent",
    [
        *("pairmill/1.0", "Pairmill/2", "pairmill 1.0", "pairmill;", "pairmill+images", "* (all)", "*,"),
        *("pairmill (+https://x.example/, bot)", "pairmill, otherbot", "otherbot, pairmill/1", "otherbot; pairmill"),
    ],
)
def test_an_agent_ends_where_its_product_token_does(agent: str) -> None:
    robots = Robots(f"User-agent: {agent}\nDisallow: /\n")
    assert not robots.can_fetch("http://h.example/a", "pairmill")


@pytest.mark.parametrize("agent", ["otherbot/1.0 (like pairmill)", "pairmillion/1", "otherbot/pairmill", "(pairmill)"])
def test_other_agents_are_not_us(agent: str) -> None:
    assert Robots(f"User-agent: {agent}\nDisallow: /\n").can_fetch("http://h.example/a", "pairmill")


@pytest.mark.parametrize("field", ["Crawldelay", "Crawl_delay", "CRAWL-DELAY ", "crawl delay", "Crawl - delay"])
@pytest.mark.parametrize("agent", ["User-agent", "User_Agent", "useragent"])
def test_words_of_a_field_are_joined_in_any_way(agent: str, field: str) -> None:
    rules = parse_robots(f"{agent}: *\n{field}: 5\n".encode())
    assert rules is not None and rules.rules("pairmill").delay_s == 5.0


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("10", 10.0), ("0.5", 0.5), (".5", 0.5), ("10 s", 10.0), ("10s", 10.0), ("0", 0.0)]
    + [(value, 0.0) for value in ("", "s", "-5", "nan", "inf", ".", "1" * 400)],
)
def test_a_crawl_delay_is_a_number_of_seconds(value: str, seconds: float) -> None:
    rules = parse_robots(f"User-agent: *\nCrawl-delay: {value}\n".encode())
    assert rules is not None and rules.rules("pairmill").delay_s == seconds


def test_a_crawl_delay_is_for_its_group() -> None:
    text = "User-agent: *\nCrawl-delay: 9\n\nUser-agent: pairmill\nUser-agent: x\nCrawl-delay: 2\nCrawl-delay: 3"
    robots = Robots(text)
    assert [robots.rules(agent).delay_s for agent in ("pairmill", "x", "other")] == [3.0, 3.0, 9.0]


LONG = "/" + "a" * 8000


def filled(first: str, line: str) -> bytes:
    return (first + "\n" + "\n".join(line % n for n in range(40_000))).encode()[:ROBOTS_BYTES]


#: A file of hostile rules, and whether applying it to a long link ends with a verdict.
HOSTILE = {
    "wildcards": (filled("User-agent: *", "Disallow: /*b%d"), False),
    "wildcards of long parts": (filled("User-agent: *", "Disallow: /*" + "a" * 90 + "%db"), False),
    "one pattern of wildcards": (b"User-agent: *\nDisallow: /" + b"*a" * 200_000 + b"b", True),
    "anchored wildcards": (filled("User-agent: *", "Disallow: /*a*%d$"), False),
    "prefixes": (filled("User-agent: *", "Disallow: /%d"), True),
    "agents and rules": (filled("", "User-agent: x%d")[:200_000] + filled("\n", "Disallow: /%d"), True),
    "one agent many times": (b"User-agent: *\n" * 15_000 + filled("", "Disallow: /%d")[:300_000], True),
    "groups of one agent": (filled("User-agent: *", "Disallow: /%d\nUser-agent: *"), True),
    "dollar signs": (filled("User-agent: *", "Disallow: /$$$$%d$"), True),
    "escapes": (filled("User-agent: *", "Disallow: /%%c3%%a9%d"), True),
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize(("body", "ends"), HOSTILE.values(), ids=HOSTILE.keys())
def test_no_rules_take_long(body: bytes, ends: bool) -> None:
    """Each would take minutes, or gigabytes, if agents were multiplied by rules or every pattern were tried."""
    robots = parse_robots(body)
    assert robots is not None
    for link in (LONG, "/" + "%C3%A9" * 1300):
        if ends:
            robots.can_fetch("http://h.example" + link, "pairmill")
        elif link is LONG:
            with pytest.raises(TooMuchWork):
                robots.can_fetch("http://h.example" + link, "pairmill")


def test_a_large_honest_file_is_applied() -> None:
    lines = ["User-agent: *", *(f"Disallow: /*?sort={n}&" for n in range(5000)), "Disallow: /*/private/"]
    rules = Robots("\n".join(lines)).rules("pairmill")
    link = "/shop/" + "x" * 150
    assert rules.work(path_of(link)) < MAX_WORK
    assert rules.allow(path_of(link + ".jpg")) and not rules.allow(path_of(link + "/private/a.jpg"))


def test_one_sites_rules_cost_other_sites_nothing() -> None:
    """A site with hostile rules and long links, beside honest ones whose rows have a minute each."""

    async def main() -> tuple[list[Fetched], list[Fetched]]:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            head = await reader.readuntil(b"\r\n\r\n")
            body = PICTURE
            if b" /robots.txt " in head:
                body = HOSTILE["wildcards of long parts"][0] if b"hostile" in head else b"User-agent: *\nDisallow: /x"
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            await writer.drain()
            writer.close()

        listener = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = listener.sockets[0].getsockname()[1]
        limits = config(respect_robots=True, timeout_s=60.0, connect_timeout_s=60.0, robots_timeout_s=60.0)
        async with listener, Fetcher(limits, lookup=lambda host: ["127.0.0.1"]) as fetcher:
            hostile = [f"http://hostile.example:{port}{LONG}{n}" for n in range(60)]
            honest = [f"http://honest{n % 20}.example:{port}/{n}.png" for n in range(60)]
            both = await asyncio.gather(*map(fetcher.fetch, [*hostile, *honest]))
        return both[:60], both[60:]

    hostile, honest = asyncio.run(main())
    assert {fetched.status for fetched in honest} == {Status.SUCCESS}
    assert {fetched.status for fetched in hostile} == {Status.ROBOTS_UNAVAILABLE}
