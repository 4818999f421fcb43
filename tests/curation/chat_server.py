"""A real server on loopback that speaks /v1/chat/completions as OpenAI documents it, and misbehaves on request."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from aiohttp import web
from PIL import Image

KEY = "sk-very-secret"


@contextmanager
def serving(chat: Callable[[web.Request], Awaitable[web.StreamResponse]], *, port: int = 0) -> Iterator[str]:
    """The base URL of a server, on a thread of its own: a client runs its own event loop."""
    started = threading.Event()
    where: dict[str, Any] = {}

    async def serve() -> None:
        app = web.Application(client_max_size=1 << 24)
        app.router.add_post("/v1/chat/completions", chat)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", port)
        await site.start()
        where["port"] = runner.addresses[0][1]
        where["stop"] = asyncio.Event()
        where["loop"] = asyncio.get_running_loop()
        started.set()
        await where["stop"].wait()
        await runner.cleanup()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    try:
        if not started.wait(10):
            raise RuntimeError("the server must start")
        yield f"http://127.0.0.1:{where['port']}/v1"
    finally:
        where["loop"].call_soon_threadsafe(where["stop"].set)
        thread.join(10)
    if thread.is_alive():
        raise RuntimeError("the server must stop")


def completion(text: str | None, **choice: Any) -> web.Response:
    """A chat completion with one text."""
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "finish_reason": "stop", "message": message, **choice}
    return web.json_response({"id": "1", "object": "chat.completion", "choices": [choice]})


def prompt_of(body: dict[str, Any]) -> str:
    """The text of a request, with or without an image."""
    content = body["messages"][0]["content"]
    return str(content if isinstance(content, str) else content[-1]["text"])


class ChatServer:
    """A server that speaks /v1/chat/completions as OpenAI documents it; the prompt says how it misbehaves.

    `429`, `500`, `html`, `half`, `drop`: the first try goes wrong so, the second is answered.  `always-503`, `400`,
    `401`, `redirect`, `refuse`, `filter`, `endless`, `nothing`: every try does.  Everything else is answered with the
    prompt and the image's size.
    """

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.times: dict[str, list[float]] = {}
        self.in_flight = self.most_in_flight = 0

    async def chat(self, asked: web.Request) -> web.StreamResponse:
        body = await asked.json()
        self.requests.append({"body": body, "headers": dict(asked.headers), "query": asked.query_string})
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await asyncio.sleep(0.01)
            return await self._answer(asked, body)
        finally:
            self.in_flight -= 1

    async def _answer(self, asked: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        prompt = prompt_of(body)
        tries = self.times.setdefault(prompt, [])
        tries.append(time.monotonic())
        first = len(tries) == 1
        if prompt == "429" and first:
            return web.json_response({"error": {"message": "slow down"}}, status=429, headers={"Retry-After": "1"})
        if prompt == "500" and first:
            return web.Response(status=500, text="oops")
        if prompt == "html" and first:
            return web.Response(text="<html>proxy</html>")
        if prompt == "half" and first:
            return web.Response(text='{"choices": [{"mess')
        if prompt == "drop" and first and asked.transport is not None:
            asked.transport.close()
        if prompt == "always-503":
            return web.json_response({"error": {"message": "no capacity"}}, status=503)
        if prompt == "wait-an-hour":
            return web.json_response({"error": {"message": "quota"}}, status=429, headers={"Retry-After": "3600"})
        if prompt == "400":
            return web.json_response({"error": {"message": f"bad image, key {KEY}"}}, status=400)
        if prompt == "401":
            return web.json_response({"error": {"message": "bad key"}}, status=401)
        if prompt == "redirect":
            raise web.HTTPTemporaryRedirect("/v1/chat/completions")
        if prompt == "endless":
            return web.Response(body=b" " * (5 << 20))
        choice: dict[str, Any] = {"index": 0, "finish_reason": "stop"}
        message: dict[str, Any] = {"role": "assistant", "content": None}
        if prompt == "refuse":
            message["refusal"] = "I can't help with that."
        elif prompt == "filter":
            choice["finish_reason"] = "content_filter"
        elif prompt != "nothing":
            image = body["messages"][0]["content"][0]
            head, _, content = image["image_url"]["url"].partition(",")
            size = Image.open(io.BytesIO(base64.b64decode(content))).size
            words = f"{prompt} {head} {size[0]}x{size[1]}".split()
            if len(words) > body["max_tokens"]:
                words, choice["finish_reason"] = words[: body["max_tokens"]], "length"
            message["content"] = f" {' '.join(words)}\n"
            if body.get("logprobs"):
                choice["logprobs"] = {"content": [{"token": w, "logprob": -0.5 * n} for n, w in enumerate(words)]}
        choice["message"] = message
        return completion(None, **choice)


class FaultyServer:
    """Answers each request with its text in upper case, or goes wrong in one of eight ways; it counts.

    share:  of requests that go wrong, decided by the text and by how often it was asked for.
    always: how every request goes wrong, one of `KINDS` or `closed`: the connection ends without an answer.
    room:   requests that it takes at once; it answers 429 to more.
    """

    KINDS = ("500", "503", "429", "429-after", "stall", "cut", "json", "huge")

    def __init__(self, share: float = 0.0, *, always: str = "", room: int = 1000, after: str = "0") -> None:
        """after: Retry-After of the answers of kind 429-after."""
        self.share, self.always, self.room, self.after = share, always, room, after
        self.asked: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()
        self.wrong: Counter[str] = Counter()
        self.in_flight = self.most_in_flight = 0

    async def chat(self, asked: web.Request) -> web.StreamResponse:
        body = await asked.json()
        prompt = prompt_of(body)
        self.asked[prompt] += 1
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            kind = self.always or ("429" if self.in_flight > self.room else self._drawn(prompt))
            await asyncio.sleep(0.005)
            return await self._answer(asked, prompt, kind)
        finally:
            self.in_flight -= 1

    def _drawn(self, prompt: str) -> str:
        drawn = hashlib.blake2b(f"{prompt} {self.asked[prompt]}".encode(), digest_size=8).digest()
        share, at = int.from_bytes(drawn[:4], "big") / 2**32, int.from_bytes(drawn[4:], "big")
        return self.KINDS[at % len(self.KINDS)] if share < self.share else ""

    async def _answer(self, asked: web.Request, prompt: str, kind: str) -> web.StreamResponse:
        if not kind:
            self.answered[prompt] += 1
            return completion(prompt.upper())
        self.wrong[kind] += 1
        if kind in ("closed", "cut"):
            response = web.StreamResponse(headers={"Content-Length": "1000"})
            if kind == "cut":
                await response.prepare(asked)
                await response.write(b'{"choices": [{"message": {"con')
            if asked.transport is not None:
                asked.transport.abort()
            return response
        if kind == "stall":
            await asyncio.sleep(3600)
        if kind == "json":
            return web.Response(text='{"choices": [{"mess', content_type="application/json")
        if kind == "huge":
            return web.Response(body=b" " * (5 << 20))
        after = {"Retry-After": self.after} if kind == "429-after" else {}
        return web.json_response({"error": {"message": "busy"}}, status=int(kind[:3]), headers=after)
