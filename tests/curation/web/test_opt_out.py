"""robots.txt, X-Robots-Tag and TDMRep, as text and over the wire."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from hypothesis import given, settings
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy

from curation.schema import Status
from curation.web.config import DownloadConfig
from curation.web.fetch import Fetched, Fetcher
from curation.web.opt_out import ROBOTS_BYTES, header_opt_out, parse_robots, parse_tdmrep

JPEG = b"\xff\xd8\xff\xe0" + bytes(1000)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def config(**overrides: object) -> DownloadConfig:
    return DownloadConfig.model_validate(
        {"allow_networks": ["127.0.0.0/8"], "timeout_s": 30.0, "backoff_s": 0.01, "robots_timeout_s": 30.0, **overrides}
    )


@pytest.mark.parametrize(
    ("values", "evidence"),
    [
        (["noai"], "X-Robots-Tag: noai"),
        (["NoImageAI"], "X-Robots-Tag: noimageai"),
        (["nofollow, noindex"], "X-Robots-Tag: noindex"),
        (["nofollow", "noimageindex"], "X-Robots-Tag: noimageindex"),
        (["none"], "X-Robots-Tag: none"),
        (["pairmill: noai"], "X-Robots-Tag: pairmill: noai"),
        (["PairMill:noai"], "X-Robots-Tag: pairmill: noai"),
        (["*: noai"], "X-Robots-Tag: *: noai"),
        (["otherbot: noai"], ""),
        (["otherbot: noai, noindex"], ""),
        (["otherbot: nofollow, pairmill: noai"], "X-Robots-Tag: pairmill: noai"),
        (["otherbot: noai", "noai"], "X-Robots-Tag: noai"),
        (["pairmillion: noai"], ""),
        (["max-image-preview: large, noai"], "X-Robots-Tag: noai"),
        (["unavailable_after: Tue, 25 Jun 2030 15:00:00 PST"], ""),
        (["unavailable_after: Tue, 25 Jun 2030 15:00:00 PST, noai"], "X-Robots-Tag: noai"),
        (["all"], ""),
        (["noarchive, nosnippet"], ""),
        (["", ",,:,"], ""),
        (["noml"], "X-Robots-Tag: noml"),
        (["nofollow; noai"], "X-Robots-Tag: noai"),
        (["noindex;nofollow"], "X-Robots-Tag: noindex"),
        (["otherbot: nofollow; noai"], ""),
        (["nofollow noimageai"], "X-Robots-Tag: noimageai"),
        (["pairmill/0.2: noai"], "X-Robots-Tag: pairmill: noai"),
        (["PairMill/0.2 (+https://pairmill.example): noai"], "X-Robots-Tag: pairmill: noai"),
        (["OtherBot/2 (a; b, +https://x.example): noai"], ""),
        (["img2dataset/1.0: noai"], ""),
        (["img2dataset/1.0: nofollow, noai"], ""),
        (["otherbot/2: noai; pairmill/1: none"], "X-Robots-Tag: pairmill: none"),
        (["*: none"], "X-Robots-Tag: *: none"),
        (["NONE"], "X-Robots-Tag: none"),
        (["max-image-preview: none"], ""),
        (["max-image-preview:none; noml"], "X-Robots-Tag: noml"),
        (["pairmill: max-image-preview: none"], ""),
        (["max-snippet: -1 noai"], "X-Robots-Tag: noai"),
        (["unavailable_after: 25-Aug-2030 15:00:00 EST; noai"], "X-Robots-Tag: noai"),
        (["nonesuch, noindexes, snoai"], ""),
    ],
)
def test_x_robots_tag(values: list[str], evidence: str) -> None:
    headers = CIMultiDictProxy(CIMultiDict([("X-Robots-Tag", value) for value in values]))
    assert header_opt_out(headers, "pairmill") == evidence


def test_a_tag_for_our_own_agent_is_for_us_whatever_its_version() -> None:
    headers = CIMultiDictProxy(CIMultiDict({"X-Robots-Tag": "img2dataset/1.0: noai"}))
    assert header_opt_out(headers, "img2dataset") == "X-Robots-Tag: img2dataset: noai"


@pytest.mark.parametrize(("value", "evidence"), [("1", "tdm-reservation: 1"), ("0", ""), ("", "")])
def test_tdm_reservation_header(value: str, evidence: str) -> None:
    assert header_opt_out(CIMultiDictProxy(CIMultiDict({"TDM-Reservation": value})), "pairmill") == evidence


@given(st.text(alphabet=st.characters(max_codepoint=255), max_size=80))
@settings(max_examples=200, deadline=None)
def test_evidence_is_only_ever_a_directive_that_is_there(value: str) -> None:
    evidence = header_opt_out(CIMultiDictProxy(CIMultiDict({"X-Robots-Tag": value})), "pairmill")
    assert not evidence or evidence.rpartition(" ")[2] in value.lower()


@pytest.mark.parametrize(
    ("entries", "path", "reserved"),
    [
        ([{"location": "/", "tdm-reservation": 1}], "/a.jpg", True),
        ([{"location": "/art/*", "tdm-reservation": 1}], "/art/a.jpg", True),
        ([{"location": "/art/*", "tdm-reservation": 1}], "/free/a.jpg", False),
        ([{"location": "/*.jpg$", "tdm-reservation": 1}], "/x/a.jpg", True),
        ([{"location": "/*.jpg$", "tdm-reservation": 1}], "/x/a.jpg.png", False),
        ([{"location": "/", "tdm-reservation": 1}, {"location": "/free/", "tdm-reservation": 0}], "/free/a", False),
        ([{"location": "/", "tdm-reservation": 0}], "/a.jpg", False),
        ([{"location": "/\nAllow: /", "tdm-reservation": 1}], "/a.jpg", False),
        ([{"location": 5, "tdm-reservation": 1}, "x", None], "/a.jpg", False),
        ({"location": "/", "tdm-reservation": 1}, "/a.jpg", False),
    ],
)
def test_tdmrep_file(entries: object, path: str, reserved: bool) -> None:
    rules = parse_tdmrep(json.dumps(entries).encode())
    assert (rules is not None and not rules.can_fetch(f"http://h.example{path}", "pairmill")) == reserved


@pytest.mark.parametrize("body", [b"", b"<html>", b"[" * 100_000, b"\xff\xfe", b"null"])
def test_a_broken_tdmrep_file_reserves_nothing(body: bytes) -> None:
    assert parse_tdmrep(body) is None


@given(st.binary(max_size=300))
@settings(max_examples=100, deadline=None)
def test_any_bytes_parse_as_robots(body: bytes) -> None:
    rules = parse_robots(b"User-agent: *\nDisallow: /x\n" + body)
    assert rules is not None
    assert isinstance(rules.can_fetch("http://h.example/y", "pairmill"), bool)


async def fetch_with(
    routes: dict[str, Handler], paths: list[str], settings: DownloadConfig
) -> tuple[list[Fetched], Counter[str]]:
    """Fetch `paths` at the same time from a server; also what the server was asked for."""
    asked: Counter[str] = Counter()

    async def handle(request: web.Request) -> web.StreamResponse:
        asked[request.path] += 1
        handler = routes.get(request.path)
        if handler is not None:
            return await handler(request)
        if request.path.endswith((".txt", ".json")):
            return web.Response(status=404)
        return web.Response(body=JPEG, content_type="image/jpeg")

    app = web.Application()
    app.router.add_get("/{path:.*}", handle)
    async with TestServer(app, host="127.0.0.1") as server, Fetcher(settings) as fetcher:
        urls = [f"http://127.0.0.1:{server.port}{path}" for path in paths]
        return await asyncio.gather(*map(fetcher.fetch, urls)), asked


def reply(text: str = "", status: int = 200, **headers: str) -> Handler:
    async def handler(request: web.Request) -> web.StreamResponse:
        return web.Response(text=text, status=status, headers={k.replace("_", "-"): v for k, v in headers.items()})

    return handler


async def never(request: web.Request) -> web.StreamResponse:
    await asyncio.sleep(60)
    return web.Response()


ROBOTS = "User-agent: otherbot\nDisallow: /\n\nUser-agent: pairmill\nDisallow: /private\nAllow: /private/free\n"


@pytest.mark.parametrize(
    ("robots", "path", "status"),
    [
        (reply(ROBOTS), "/a.jpg", Status.SUCCESS),
        (reply(ROBOTS), "/private/a.jpg", Status.ROBOTS_DISALLOWED),
        (reply(ROBOTS), "/private/free/a.jpg", Status.SUCCESS),
        (reply(ROBOTS), "/x/../private/a.jpg", Status.ROBOTS_DISALLOWED),
        (reply("User-agent: *\nDisallow: /\n"), "/a.jpg", Status.ROBOTS_DISALLOWED),
        (reply("User-agent: *\nDisallow: /\n\nUser-agent: pairmill\nDisallow:\n"), "/a.jpg", Status.SUCCESS),
        (reply("User-agent: *\nDisallow: /*.jpg$\n"), "/a.jpg", Status.ROBOTS_DISALLOWED),
        (reply("<html>not found</html>"), "/a.jpg", Status.SUCCESS),
        (reply(status=404), "/a.jpg", Status.SUCCESS),
        (reply(status=403), "/a.jpg", Status.SUCCESS),
        (reply(status=503), "/a.jpg", Status.ROBOTS_UNAVAILABLE),
        (never, "/a.jpg", Status.ROBOTS_UNAVAILABLE),
        (reply(status=301, Location="/rules.txt"), "/a.jpg", Status.ROBOTS_DISALLOWED),
        (reply(status=301, Location="/robots.txt"), "/a.jpg", Status.SUCCESS),
        (reply(status=301, Location="http://10.0.0.1/robots.txt"), "/a.jpg", Status.ROBOTS_UNAVAILABLE),
        (reply("#" * ROBOTS_BYTES + "\nUser-agent: *\nDisallow: /\n"), "/a.jpg", Status.SUCCESS),
        (reply("#" * 500_000 + "\nUser-agent: *\nDisallow: /\n"), "/a.jpg", Status.ROBOTS_DISALLOWED),
    ],
)
def test_robots_txt(robots: Handler, path: str, status: Status) -> None:
    routes = {"/robots.txt": robots, "/rules.txt": reply("User-agent: *\nDisallow: /\n")}
    [fetched], asked = asyncio.run(
        fetch_with(routes, [path], config(robots_timeout_s=0.3 if robots is never else 30.0))
    )
    assert fetched.status is status, fetched.error
    image = sum(count for asked_path, count in asked.items() if asked_path.endswith(".jpg"))
    assert image == (status is Status.SUCCESS)
    if status is Status.ROBOTS_DISALLOWED:
        assert fetched.opt_out.startswith("robots.txt: ") and "pairmill" in fetched.opt_out


@pytest.mark.parametrize("coding", ["gzip", "x-gzip", "aws-chunked,gzip"])
def test_robots_txt_in_gzip_although_identity_was_asked_for(coding: str) -> None:
    async def encoded(request: web.Request) -> web.StreamResponse:
        body = gzip.compress(b"User-agent: *\nDisallow: /\n")
        return web.Response(body=body, headers={"Content-Encoding": coding})

    [fetched], _ = asyncio.run(fetch_with({"/robots.txt": encoded}, ["/a.jpg"], config()))
    assert fetched.status is Status.ROBOTS_DISALLOWED


def test_site_files_are_asked_for_once_by_concurrent_requests() -> None:
    results, asked = asyncio.run(fetch_with({}, [f"/{n}.jpg" for n in range(40)], config()))
    assert {result.status for result in results} == {Status.SUCCESS}
    assert asked["/robots.txt"] == asked["/.well-known/tdmrep.json"] == 1


def test_what_is_not_respected_is_noted_all_the_same() -> None:
    routes = {
        "/robots.txt": reply("User-agent: *\nDisallow: /private/\n"),
        "/.well-known/tdmrep.json": reply(json.dumps([{"location": "/art/", "tdm-reservation": 1}])),
        "/moved.jpg": reply(status=302, Location="/private/b.jpg"),
    }

    async def marked(request: web.Request) -> web.StreamResponse:
        return web.Response(body=JPEG, headers={"X-Robots-Tag": "noai"})

    settings = config(respect_robots=False, respect_opt_out=False)
    paths = ["/header.jpg", "/private/a.jpg", "/art/a.jpg", "/moved.jpg", "/free.jpg"]
    results, asked = asyncio.run(fetch_with({**routes, "/header.jpg": marked}, paths, settings))
    assert {result.status for result in results} == {Status.SUCCESS}
    assert [(result.robots, result.opt_out) for result in results] == [
        ("allowed", "X-Robots-Tag: noai"),
        ("disallowed", ""),
        ("allowed", "tdmrep.json: reserves /art/a.jpg"),
        ("disallowed", ""),
        ("allowed", ""),
    ]
    assert asked["/robots.txt"] == asked["/.well-known/tdmrep.json"] == 1


def test_a_robots_txt_that_is_not_respected_may_be_out_of_reach() -> None:
    [fetched], _ = asyncio.run(fetch_with({"/robots.txt": reply(status=503)}, ["/a.jpg"], config(respect_robots=False)))
    assert (fetched.status, fetched.robots, fetched.opt_out) == (Status.SUCCESS, "unavailable", "")


@pytest.mark.parametrize(
    ("path", "evidence"),
    [
        ("/header.jpg", "X-Robots-Tag: noai"),
        ("/tdm.jpg", "tdm-reservation: 1"),
        ("/art/a.jpg", "tdmrep.json: reserves /art/a.jpg"),
        ("/moved.jpg", "tdmrep.json: reserves /art/b.jpg"),
    ],
)
def test_opt_outs_leave_their_evidence_and_no_image(path: str, evidence: str) -> None:
    routes = {
        "/.well-known/tdmrep.json": reply(json.dumps([{"location": "/art/", "tdm-reservation": 1}])),
        "/header.jpg": reply("x", X_Robots_Tag="noai"),
        "/tdm.jpg": reply("x", tdm_reservation="1"),
        "/moved.jpg": reply(status=302, Location="/art/b.jpg"),
    }
    [fetched], _ = asyncio.run(fetch_with(routes, [path], config()))
    assert (fetched.status, fetched.opt_out, fetched.body) == (Status.OPT_OUT, evidence, b"")


def test_a_dead_host_is_a_connection_error_not_a_robots_matter() -> None:
    async def main() -> Fetched:
        server = await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        server.close()
        await server.wait_closed()
        async with Fetcher(config(retries=1)) as fetcher:
            return await fetcher.fetch(f"http://127.0.0.1:{port}/a.jpg")

    fetched = asyncio.run(main())
    assert (fetched.status, fetched.attempts) == (Status.CONNECTION_ERROR, 2)
