"""Which of several servers gets the next request: the one with the least in flight, of those that are there.

A server that answers 429 gets half as many requests at once, and one more for each round of answers (additive
increase, multiplicative decrease; Chiu and Jain 1989).  One that does not answer is left out for a time, and then gets
one request to show that it is back.  What a server answers depends on none of this.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

#: Failures in a row that mean that a server is down.  Of requests that were in flight together one counts.
_DOWN_AFTER = 3
#: Seconds that a server is left out for, doubling with each further failure.
_FIRST_OUT_S, _LONGEST_OUT_S = 1.0, 30.0


@dataclass(eq=False)
class ChatServer:
    """A server, and how it has been answering."""

    url: str
    most: int
    """Requests that it may ever have in flight."""
    limit: float
    """Requests that it may have in flight now."""
    in_flight: int = 0
    failures: int = 0
    """In a row."""
    out_until: float = 0.0
    """When it may be asked again, by `time.monotonic`."""
    _eased_at: float = -math.inf
    _failed_at: float = -math.inf

    @property
    def is_down(self) -> bool:
        """Whether it has not answered for so long that it is left out."""
        return self.failures >= _DOWN_AFTER

    def answered(self) -> None:
        """It answered a request."""
        self.failures = 0
        self.limit = min(self.most, self.limit + 1 / self.limit)

    def refused(self, asked_at: float) -> None:
        """It answered 429 to a request of that time; of requests that were in flight together one counts."""
        self.failures = 0
        if asked_at > self._eased_at:
            self.limit, self._eased_at = max(1.0, self.limit / 2), time.monotonic()

    def failed(self, asked_at: float, *, unreachable: bool) -> None:
        """It did not answer a request of that time as it should.  unreachable: there was no connection."""
        if asked_at <= self._failed_at:
            return
        self._failed_at = time.monotonic()
        self.failures = max(self.failures + 1, _DOWN_AFTER if unreachable else 0)
        if self.is_down:
            # No more doublings than lead to the longest time: a number of failures is no exponent.
            doublings = min(self.failures - _DOWN_AFTER, 10)
            self.out_until = self._failed_at + min(_FIRST_OUT_S * 2**doublings, _LONGEST_OUT_S)


class ChatServers:
    """Servers that answer alike, and the requests that wait for one of them."""

    def __init__(self, urls: Sequence[str], *, most: int) -> None:
        """most: requests in flight at each."""
        self._all = [ChatServer(url, most, limit=float(most)) for url in dict.fromkeys(urls)]
        self._waiting: list[asyncio.Future[None]] = []

    def __iter__(self) -> Iterator[ChatServer]:
        return iter(self._all)

    async def take(self, later: Mapping[ChatServer, float]) -> ChatServer:
        """Wait for a server with room, and count one more request in flight there; `give_back` ends that.

        later: server -> when this request may go to it, by `time.monotonic`; infinity: never.  One must be finite.
        Where every server that the request may go to is down, none is left out: a request that cannot be answered must
        come to its end, and not wait behind others for its turn to find out.
        """
        while True:
            now = time.monotonic()
            possible = {server: at for server in self._all if (at := later.get(server, 0.0)) < math.inf}
            if not all(server.is_down for server in possible):
                possible = {server: max(at, server.out_until) for server, at in possible.items()}
                room = {server: 1 if server.is_down else int(server.limit) for server in possible}
            else:
                room = {server: int(server.limit) for server in possible}
            free = [server for server, at in possible.items() if at <= now and server.in_flight < room[server]]
            if free:
                chosen = min(free, key=lambda server: server.in_flight)
                chosen.in_flight += 1
                return chosen
            await self._change(min((at - now for at in possible.values() if at > now), default=None))

    def give_back(self, server: ChatServer) -> None:
        """A request is no longer in flight there."""
        server.in_flight -= 1
        for woken in self._waiting:
            if not woken.done():
                woken.set_result(None)

    async def _change(self, timeout_s: float | None) -> None:
        """Wait until a request ends somewhere, or this many seconds."""
        woken = asyncio.get_running_loop().create_future()
        self._waiting.append(woken)
        try:
            await asyncio.wait([woken], timeout=timeout_s)
        finally:
            self._waiting.remove(woken)
