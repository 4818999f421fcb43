"""A server that answers as the test says, down to the byte, and the fetcher's settings for tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from curation.web.config import DownloadConfig
from curation.web.fetch import Fetched, Fetcher

#: Deadlines for a server that never comes to an end by itself.
IMPATIENT = {"timeout_s": 0.7, "connect_timeout_s": 0.5, "min_rate_window_s": 0.25}
JPEG = b"\xff\xd8\xff\xe0" + bytes(2000)
PNG = b"\x89PNG\r\n\x1a\n" + bytes(2000)


def config(**overrides: Any) -> DownloadConfig:
    """Loopback allowed, no second try, robots.txt and opt-outs not obeyed, and deadlines that a busy machine keeps."""
    given: dict[str, Any] = {
        "allow_networks": ["127.0.0.0/8"],
        "timeout_s": 30.0,
        "connect_timeout_s": 30.0,
        "retries": 0,
        "backoff_s": 0.01,
        "min_rate_window_s": 5.0,
        "max_bytes": 100_000,
        "respect_robots": False,
        "respect_opt_out": False,
    }
    return DownloadConfig.model_validate(given | overrides)


class Connection:
    """The server's side of one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.head = b""

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    def reset(self) -> None:
        """Close with RST, and drop what was not yet sent."""
        self.writer.transport.abort()


Behaviour = Callable[[Connection], Awaitable[None]]

_SITE_FILES = (b"/robots.txt", b"/.well-known/tdmrep.json")


class Server:
    """A raw TCP server: reads a request's head, then lets the behaviour do what it likes, then closes.

    It has no robots.txt and no tdmrep.json; requests for them do not count.
    """

    def __init__(self, behaviour: Behaviour) -> None:
        self._behaviour = behaviour
        self.connections = 0
        self.heads: list[bytes] = []
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = Connection(reader, writer)
        try:
            connection.head = await reader.readuntil(b"\r\n\r\n")
            if connection.head.split()[1] in _SITE_FILES:
                await connection.send(head("Content-Length: 0", status="404 Not Found"))
                return
            self.connections += 1
            self.heads.append(connection.head)
            await self._behaviour(connection)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client left
        finally:
            writer.close()


@asynccontextmanager
async def serving(behaviour: Behaviour) -> AsyncIterator[Server]:
    server = Server(behaviour)
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()


def fetch_from(
    behaviour: Behaviour, settings: DownloadConfig | None = None, path: str = "/a.jpg"
) -> tuple[Fetched, Server]:
    async def main() -> tuple[Fetched, Server]:
        async with serving(behaviour) as server, Fetcher(settings or config()) as fetcher:
            url = f"http://127.0.0.1:{server.port}{path}"
            return await asyncio.wait_for(fetcher.fetch(url), 60), server

    return asyncio.run(main())


def head(*lines: str, status: str = "200 OK") -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", *lines, "", ""]).encode("latin-1")


def image(body: bytes = JPEG, *lines: str) -> bytes:
    return head("Content-Type: image/jpeg", f"Content-Length: {len(body)}", *lines) + body


def says(data: bytes) -> Behaviour:
    async def behaviour(connection: Connection) -> None:
        await connection.send(data)

    return behaviour


def says_and_waits(data: bytes) -> Behaviour:
    async def behaviour(connection: Connection) -> None:
        await connection.send(data)
        await connection.reader.read()

    return behaviour


def repeats(first: bytes, then: bytes, pause_s: float = 0.0) -> Behaviour:
    """Sends without end, until the client leaves."""

    async def behaviour(connection: Connection) -> None:
        await connection.send(first)
        while not connection.writer.is_closing():
            await connection.send(then)
            await asyncio.sleep(pause_s)

    return behaviour


async def resets_in_the_body(connection: Connection) -> None:
    await connection.send(head("Content-Length: 5000") + JPEG[:100])
    await asyncio.sleep(0.05)
    connection.reset()


async def garbles_a_chunk(connection: Connection) -> None:
    await connection.send(chunked(JPEG, end=b""))
    await asyncio.sleep(0.05)
    await connection.send(b"zz\r\n")


async def resets_at_once(connection: Connection) -> None:
    connection.reset()


def chunked(*chunks: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    body = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
    return head("Transfer-Encoding: chunked") + body + end


def redirect(location: str, status: str = "302 Found") -> Behaviour:
    return says(head(f"Location: {location}", "Content-Length: 0", status=status))
