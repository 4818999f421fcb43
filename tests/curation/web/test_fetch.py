"""The fetcher against servers that misbehave in every way we know of, and against ones that behave."""

from __future__ import annotations

import asyncio
import gzip
import time
from importlib.metadata import version

import pytest
from hostile_server import (
    IMPATIENT,
    JPEG,
    PNG,
    Behaviour,
    Connection,
    chunked,
    config,
    fetch_from,
    garbles_a_chunk,
    head,
    image,
    redirect,
    repeats,
    resets_at_once,
    resets_in_the_body,
    says,
    says_and_waits,
    serving,
)

from curation.schema import Status
from curation.web.fetch import Fetched, Fetcher

CHUNKED = head("Transfer-Encoding: chunked")
KIB_CHUNK = b"400\r\n" + JPEG[:1024] + b"\r\n"
PARTIAL = head("Content-Length: 2004", "Content-Range: bytes 0-2003/9999", status="206 Partial Content")
GZIP = "Content-Encoding: gzip"
BOMB = gzip.compress(bytes(10**6))
UPGRADE = head("Upgrade: x", "Connection: upgrade", status="101 Switching")

HOSTILE: dict[str, tuple[Behaviour, Status]] = {
    # bodies
    "endless body": (repeats(head() + JPEG, bytes(50_000)), Status.TOO_LARGE),
    "endless chunks": (repeats(CHUNKED, KIB_CHUNK), Status.TOO_LARGE),
    "one byte chunks": (repeats(CHUNKED + KIB_CHUNK, b"1\r\n\0\r\n" * 2000), Status.TOO_LARGE),
    "too large by its own word": (says_and_waits(head("Content-Length: 100001")), Status.TOO_LARGE),
    "huge by its own word": (says_and_waits(head("Content-Length: 99999999999999")), Status.TOO_LARGE),
    "slow drip": (repeats(head("Content-Length: 5000") + JPEG, b"x", 0.02), Status.TOO_SLOW),
    "stalls in the body": (says_and_waits(head("Content-Length: 5000") + JPEG), Status.TOO_SLOW),
    "stalls after the head": (says_and_waits(head("Content-Length: 5000")), Status.TOO_SLOW),
    "truncated": (says(head("Content-Length: 5000") + JPEG), Status.TRUNCATED),
    "reset in the body": (resets_in_the_body, Status.TRUNCATED),
    "chunks cut off": (says(chunked(JPEG, end=b"")), Status.TRUNCATED),
    "chunk cut through": (says(chunked(JPEG, end=b"ff\r\nabc")), Status.TRUNCATED),
    "garbage for a chunk": (says(chunked(JPEG, end=b"zz\r\n")), Status.CONNECTION_ERROR),
    "garbage for a chunk, later": (garbles_a_chunk, Status.TRUNCATED),
    "partial content": (says(PARTIAL + JPEG), Status.TRUNCATED),
    "gzip bomb": (says(image(BOMB, "Content-Encoding: gzip")), Status.ENCODED_BODY),
    "gzip bomb that begins like an image": (says(image(gzip.compress(JPEG + bytes(10**6)), GZIP)), Status.ENCODED_BODY),
    "gzip cut off": (says(image(gzip.compress(JPEG)[:-9], GZIP)), Status.ENCODED_BODY),
    "gzip of gzip": (says(image(gzip.compress(gzip.compress(JPEG)), GZIP)), Status.ENCODED_BODY),
    "gzip in name only": (says(image(b"<html>" * 99, GZIP)), Status.ENCODED_BODY),
    "no coding we know, and no image": (says(image(b"<html>" * 99, "Content-Encoding: none")), Status.NOT_AN_IMAGE),
    "endless gzip": (repeats(head(GZIP), gzip.compress(bytes(50_000)) * 50), Status.TOO_LARGE),
    "zstd": (says(image(b"\x28\xb5\x2f\xfd" + bytes(99), "Content-Encoding: zstd")), Status.ENCODED_BODY),
    "endless chunk size": (repeats(CHUNKED, b"0" * 5000), Status.TRUNCATED),
    "endless trailers": (repeats(CHUNKED + KIB_CHUNK + b"0\r\n", b"X: y\r\n" * 5000), Status.TRUNCATED),
    "unknown encoding": (says(image(JPEG, "Content-Encoding: br")), Status.ENCODED_BODY),
    "empty": (says(image(b"")), Status.EMPTY_BODY),
    "empty until closed": (says(head("Connection: close")), Status.EMPTY_BODY),
    "no content": (says(head(status="204 No Content")), Status.EMPTY_BODY),
    "HTML as image/jpeg": (says(image(b"<!DOCTYPE html><html>" + bytes(500))), Status.NOT_AN_IMAGE),
    "endless HTML": (repeats(head(), b"<html>" * 1000), Status.NOT_AN_IMAGE),
    "SVG": (says(image(b"<svg xmlns='http://www.w3.org/2000/svg'/>")), Status.UNSUPPORTED_FORMAT),
    "two bytes": (says(image(b"\xff\xd8")), Status.NOT_AN_IMAGE),
    # heads
    "not HTTP": (says(b"SSH-2.0-OpenSSH_9.6\r\n"), Status.CONNECTION_ERROR),
    "binary garbage": (says(bytes(range(256)) * 4), Status.CONNECTION_ERROR),
    "closes without a word": (says(b""), Status.CONNECTION_ERROR),
    "resets without a word": (resets_at_once, Status.CONNECTION_ERROR),
    "closes in the head": (says(b"HTTP/1.1 200 OK\r\nContent-Le"), Status.CONNECTION_ERROR),
    "never answers": (says_and_waits(b""), Status.TIMEOUT),
    "slow head": (repeats(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n", 0.05), Status.TIMEOUT),
    "endless 100 Continue": (repeats(b"", head(status="100 Continue"), 0.02), Status.TIMEOUT),
    "giant header": (says(image(JPEG, "X: " + "y" * 262_144)), Status.CONNECTION_ERROR),
    "giant name": (says(image(JPEG, "y" * 262_144 + ": X")), Status.CONNECTION_ERROR),
    "giant status line": (says(head(status="200 " + "y" * 262_144)), Status.CONNECTION_ERROR),
    "endless head": (repeats(b"HTTP/1.1 200 OK\r\n", b"X: " + b"y" * 1000 + b"\r\n"), Status.CONNECTION_ERROR),
    "20,000 headers": (says(image(JPEG, *(f"X-{n}: yyyyy" for n in range(20_000)))), Status.CONNECTION_ERROR),
    "endless interim answers": (repeats(b"", head("X: " + "y" * 900, status="103 X") * 30), Status.CONNECTION_ERROR),
    "endless blank lines": (repeats(b"", b"\r\n" * 5000), Status.CONNECTION_ERROR),
    "negative Content-Length": (repeats(head("Content-Length: -5") + JPEG, bytes(50_000)), Status.TOO_LARGE),
    "lengths of one body below zero": (says(head("Content-Length: -5, -6") + JPEG), Status.CONNECTION_ERROR),
    "two Content-Lengths": (says(head("Content-Length: 5", "Content-Length: 2004") + JPEG), Status.CONNECTION_ERROR),
    "Content-Length is a word": (repeats(head("Content-Length: many") + JPEG, bytes(50_000)), Status.TOO_LARGE),
    "length and no chunks": (says(head("Content-Length: 5", "Transfer-Encoding: chunked") + JPEG), Status.TRUNCATED),
    "Content-Length is huge": (says(head("Content-Length: 9" + "0" * 18) + JPEG), Status.TOO_LARGE),
    "status of four digits": (says(head(status="2000 OK") + JPEG), Status.CONNECTION_ERROR),
    "no status": (says(head(status="OK") + JPEG), Status.CONNECTION_ERROR),
    "header with a NUL": (says(head("X: a\0b", "Content-Length: 5") + JPEG), Status.CONNECTION_ERROR),
    # statuses
    "not found": (says(head("Content-Length: 0", status="404 Not Found")), Status.HTTP_CLIENT_ERROR),
    "not found, endless": (repeats(head(status="404 Not Found"), bytes(1000)), Status.HTTP_CLIENT_ERROR),
    "wants a password": (says(head("WWW-Authenticate: Basic", status="401 Unauthorized")), Status.HTTP_CLIENT_ERROR),
    "server error": (says(head("Content-Length: 0", status="500 Oops")), Status.HTTP_SERVER_ERROR),
    "unavailable": (says(head("Retry-After: 3600", status="503 Later")), Status.HTTP_SERVER_ERROR),
    "too many requests": (says(head("Retry-After: 3600", status="429 Slow down")), Status.RATE_LIMITED),
    "switches protocols": (says(UPGRADE), Status.HTTP_SERVER_ERROR),
    "status 999": (says(head("Content-Length: 0", status="999 Denied")), Status.HTTP_SERVER_ERROR),
    "not modified": (says(head(status="304 Not Modified")), Status.REDIRECT_ERROR),
    # redirects
    "redirect loop": (redirect("/a.jpg"), Status.REDIRECT_ERROR),
    "redirect to nowhere": (says(head("Content-Length: 0", status="302 Found")), Status.REDIRECT_ERROR),
    "redirect to no URL": (redirect("http://[broken"), Status.REDIRECT_ERROR),
    "redirect to a file": (redirect("file:///etc/passwd"), Status.FORBIDDEN_SCHEME),
    "redirect to metadata": (redirect("http://169.254.169.254/latest/"), Status.FORBIDDEN_ADDRESS),
    "redirect to [::1]": (redirect("http://[::1]/a.jpg"), Status.FORBIDDEN_ADDRESS),
    "redirect to a number": (redirect("http://0xa000001/a.jpg"), Status.FORBIDDEN_ADDRESS),
    "redirect to a mapped address": (redirect("http://[::ffff:127.0.0.1]/"), Status.FORBIDDEN_ADDRESS),
    "redirect to a port": (redirect("http://8.8.8.8:25/"), Status.FORBIDDEN_PORT),
    "redirect with a password": (redirect("http://a:b@8.8.8.8/"), Status.FORBIDDEN_USERINFO),
}  # fmt: skip


@pytest.mark.parametrize(("behaviour", "status"), HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_servers_get_their_status(behaviour: Behaviour, status: Status) -> None:
    endless = status in (Status.TIMEOUT, Status.TOO_SLOW)
    fetched, _ = fetch_from(behaviour, config(**IMPATIENT) if endless else None)
    assert (fetched.status, fetched.body, fetched.attempts) == (status, b"", 1), fetched.error
    assert fetched.error
    assert fetched.elapsed_s < 15  # well before the deadline that the others have


@pytest.mark.parametrize(
    "answer",
    [
        image(),
        image(PNG),
        head() + JPEG,
        chunked(JPEG[:5], JPEG[5:]),
        image(JPEG, "Content-Encoding: identity"),
        head("Content-Type: text/html", "Content-Length: 2004") + JPEG,
        b"HTTP/1.0 200 OK\r\n\r\n" + JPEG,
        head("Content-Length: 2004", status="203 Transformed") + JPEG,
    ],
)
def test_good_answers_bring_the_image(answer: bytes) -> None:
    fetched, server = fetch_from(says(answer))
    assert fetched.status is Status.SUCCESS, fetched.error
    assert fetched.body in (JPEG, PNG)
    assert (fetched.size, fetched.http_status in (200, 203), fetched.error) == (len(fetched.body), True, "")
    assert fetched.final_url == f"http://127.0.0.1:{server.port}/a.jpg"


def test_what_is_sent() -> None:
    _, server = fetch_from(says(image(JPEG, "Set-Cookie: a=b")))
    lines = server.heads[0].decode().split("\r\n")
    assert lines[0] == "GET /a.jpg HTTP/1.1"
    assert {line.partition(":")[0] for line in lines[1:] if line} == {
        "Host",
        "User-Agent",
        "Accept",
        "Accept-Encoding",
    }
    assert f"User-Agent: pairmill/{version('pairmill')} (+https://github.com/pairmill/pairmill)" in lines
    assert "Accept-Encoding: identity" in lines


def test_redirects_are_followed_to_the_image() -> None:
    async def behaviour(connection: Connection) -> None:
        step = int(connection.head.split(b" ")[1].strip(b"/"))
        answer = image() if step == 5 else head(f"Location: {step + 1}", "Content-Length: 0", status="301 Moved")
        await connection.send(answer)

    fetched, server = fetch_from(behaviour, path="/0")
    assert (fetched.status, fetched.final_url) == (Status.SUCCESS, f"http://127.0.0.1:{server.port}/5")
    assert server.connections == 6
    fetched, _ = fetch_from(behaviour, config(max_redirects=4), path="/0")
    assert fetched.status is Status.REDIRECT_ERROR


@pytest.mark.parametrize("at", ["/0", "/2", "/5"])
def test_a_redirect_to_what_is_forgotten_is_not_followed(at: str) -> None:
    async def behaviour(connection: Connection) -> None:
        step = int(connection.head.split(b" ")[1].strip(b"/"))
        answer = image() if step == 5 else head(f"Location: {step + 1}", "Content-Length: 0", status="301 Moved")
        await connection.send(answer)

    async def main() -> tuple[Fetched, list[bytes]]:
        async with serving(behaviour) as server, Fetcher(config(), forgotten=lambda url: url.endswith(at)) as fetcher:
            return await fetcher.fetch(f"http://127.0.0.1:{server.port}/0"), server.heads

    fetched, heads = asyncio.run(main())
    assert (fetched.status, fetched.body) == (Status.FORGOTTEN, b"")
    assert [head.split()[1].decode() for head in heads] == [f"/{step}" for step in range(int(at[1:]))]


def flaky(*bad: bytes) -> Behaviour:
    """Answers badly in turn, then well."""
    answers = list(bad)

    async def behaviour(connection: Connection) -> None:
        await connection.send(answers.pop(0) if answers else image())

    return behaviour


@pytest.mark.parametrize(
    ("bad", "attempts", "status"),
    [
        ([head(status="500 Oops")], 2, Status.SUCCESS),
        ([head(status="503 Later"), head("Content-Length: 5000") + JPEG], 3, Status.SUCCESS),
        ([head("Retry-After: 0", status="429 Slow down")], 2, Status.SUCCESS),
        ([b"", b""], 2, Status.SUCCESS),  # aiohttp asks once more by itself when a connection closes unused
        ([head(status="500 Oops")] * 3, 3, Status.HTTP_SERVER_ERROR),
        ([head("Retry-After: 60", status="429 Slow down")], 1, Status.RATE_LIMITED),
        ([head("Retry-After: 60", status="503 Later")], 1, Status.HTTP_SERVER_ERROR),
        ([head(status="404 Not Found")], 1, Status.HTTP_CLIENT_ERROR),
        ([head(status="410 Gone")], 1, Status.HTTP_CLIENT_ERROR),
        ([image(b"<html>" * 9)], 1, Status.NOT_AN_IMAGE),
        ([b"garbage\r\n\r\n"], 1, Status.CONNECTION_ERROR),
    ],
)
def test_what_may_pass_is_tried_again(bad: list[bytes], attempts: int, status: Status) -> None:
    fetched, _ = fetch_from(flaky(*bad), config(retries=2))
    assert (fetched.status, fetched.attempts) == (status, attempts), fetched.error


def test_retry_after_is_waited_out_by_all_who_want_the_host() -> None:
    async def main() -> tuple[list[Fetched], list[float]]:
        times: list[float] = []
        answers = [head("Retry-After: 1", "Content-Length: 0", status="429 Slow down")]

        async def behaviour(connection: Connection) -> None:
            times.append(time.monotonic())
            await connection.send(answers.pop() if answers else image())

        settings = config(retries=1, per_host_concurrency=1)
        async with serving(behaviour) as server, Fetcher(settings) as fetcher:
            urls = [f"http://127.0.0.1:{server.port}/{n}" for n in range(3)]
            return await asyncio.gather(*map(fetcher.fetch, urls)), times

    fetched, times = asyncio.run(main())
    assert [one.status for one in fetched] == [Status.SUCCESS] * 3
    assert min(times[1:]) - times[0] >= 0.99


def test_the_deadline_is_for_all_attempts_together() -> None:
    fetched, server = fetch_from(says_and_waits(b""), config(retries=9, timeout_s=0.4))
    assert (fetched.status, server.connections) == (Status.TIMEOUT, 1)
    assert 0.3 < fetched.elapsed_s < 10
    fetched, server = fetch_from(says(head(status="500 Oops")), config(retries=20, timeout_s=0.4, backoff_s=0.1))
    assert fetched.status is Status.HTTP_SERVER_ERROR
    assert 1 <= fetched.attempts < 8 and fetched.elapsed_s < 10


def test_waiting_for_a_busy_host_is_not_counted_against_the_deadline() -> None:
    async def slow(connection: Connection) -> None:
        await asyncio.sleep(0.15)
        await connection.send(image())

    async def main() -> list[Fetched]:
        async with serving(slow) as server, Fetcher(config(per_host_concurrency=1, timeout_s=0.4)) as fetcher:
            urls = [f"http://127.0.0.1:{server.port}/{n}" for n in range(5)]
            return await asyncio.gather(*map(fetcher.fetch, urls))

    assert [fetched.status for fetched in asyncio.run(main())] == [Status.SUCCESS] * 5


def test_a_dead_host_opens_the_circuit() -> None:
    async def main() -> list[Fetched]:
        async with serving(says(b"")) as server:
            port = server.port
        async with Fetcher(config(circuit_failures=5, per_host_concurrency=2)) as fetcher:
            # The gate hears of failures a few times a second, so how many get through before is a matter of speed.
            found = [await fetcher.fetch(f"http://127.0.0.1:{port}/")]
            while found[-1].status is not Status.CIRCUIT_OPEN and len(found) < 10_000:
                found.append(await fetcher.fetch(f"http://127.0.0.1:{port}/{len(found)}"))
            return [*found, *[await fetcher.fetch(f"http://127.0.0.1:{port}/again/{n}") for n in range(10)]]

    statuses = [fetched.status for fetched in asyncio.run(main())]
    assert set(statuses[:5]) == {Status.CONNECTION_ERROR}
    assert set(statuses[-10:]) == {Status.CIRCUIT_OPEN}


def test_plain_http_on_a_tls_port_is_a_tls_error() -> None:
    async def main() -> Fetched:
        async with await asyncio.start_server(greet, "127.0.0.1", 0) as listener, Fetcher(config()) as fetcher:
            return await fetcher.fetch(f"https://127.0.0.1:{listener.sockets[0].getsockname()[1]}/")

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await reader.read(1)
        writer.close()

    assert asyncio.run(main()).status is Status.TLS_ERROR


def test_keep_alive_connections_are_reused() -> None:
    async def keep_alive(connection: Connection) -> None:
        while True:
            await connection.send(image())
            await connection.reader.readuntil(b"\r\n\r\n")

    async def main() -> int:
        async with serving(keep_alive) as server, Fetcher(config(per_host_concurrency=4)) as fetcher:
            urls = [f"http://127.0.0.1:{server.port}/{n}" for n in range(40)]
            results = await asyncio.gather(*map(fetcher.fetch, urls))
            assert {result.status for result in results} == {Status.SUCCESS}
            return server.connections

    assert asyncio.run(main()) == 4


def test_in_flight_is_limited_over_all_hosts() -> None:
    running = peak = 0

    async def behaviour(connection: Connection) -> None:
        nonlocal running, peak
        running += 1
        peak = max(peak, running)
        await asyncio.sleep(0.02)
        running -= 1
        await connection.send(image())

    async def main() -> None:
        async with serving(behaviour) as server, Fetcher(config(max_in_flight=3)) as fetcher:
            urls = [f"http://127.0.0.1:{server.port}/{n}" for n in range(12)]
            await asyncio.gather(*map(fetcher.fetch, urls))

    asyncio.run(main())
    assert peak == 3
