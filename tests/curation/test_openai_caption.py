from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import json
import os
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from curation.engines import CaptionRequest, Failure, Generated
from curation.engines.openai_caption import (
    OpenAICaptioner,
    OpenAIConfig,
    _Rejected,
    _TryLater,
    data_uri,
    read_completion,
)
from curation.recaption import Recaption, RecaptionConfig
from curation.stage import Runtime
from pairmill import faults
from pairmill.errors import UserError
from pairmill.store import Store

KEY = "sk-very-secret"


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
        image, text = body["messages"][0]["content"]
        prompt = text["text"]
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
        if prompt == "drop" and first:
            assert asked.transport is not None
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
            raise web.HTTPTemporaryRedirect("/elsewhere")
        if prompt == "endless":
            return web.Response(body=b" " * (5 << 20))
        choice: dict[str, Any] = {"index": 0, "finish_reason": "stop"}
        message: dict[str, Any] = {"role": "assistant", "content": None}
        if prompt == "refuse":
            message["refusal"] = "I can't help with that."
        elif prompt == "filter":
            choice["finish_reason"] = "content_filter"
        elif prompt != "nothing":
            head, _, content = image["image_url"]["url"].partition(",")
            size = Image.open(io.BytesIO(base64.b64decode(content))).size
            words = f"{prompt} {head} {size[0]}x{size[1]}".split()
            if len(words) > body["max_tokens"]:
                words, choice["finish_reason"] = words[: body["max_tokens"]], "length"
            message["content"] = f" {' '.join(words)}\n"
            if body.get("logprobs"):
                choice["logprobs"] = {"content": [{"token": w, "logprob": -0.5 * n} for n, w in enumerate(words)]}
        choice["message"] = message
        return web.json_response({"id": "1", "object": "chat.completion", "choices": [choice]})

    async def elsewhere(self, asked: web.Request) -> web.Response:
        self.times.setdefault("elsewhere", []).append(time.monotonic())
        return web.Response()


@pytest.fixture
def server() -> Iterator[tuple[ChatServer, str]]:
    """The server and its base URL, on a thread of its own: the captioner runs its own event loop."""
    chat = ChatServer()
    started = threading.Event()
    where: dict[str, Any] = {}

    async def serve() -> None:
        app = web.Application(client_max_size=1 << 24)
        app.router.add_post("/v1/chat/completions", chat.chat)
        app.router.add_route("*", "/elsewhere", chat.elsewhere)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        where["port"] = runner.addresses[0][1]
        where["stop"] = asyncio.Event()
        where["loop"] = asyncio.get_running_loop()
        started.set()
        await where["stop"].wait()
        await runner.cleanup()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    assert started.wait(10)
    yield chat, f"http://127.0.0.1:{where['port']}/v1"
    where["loop"].call_soon_threadsafe(where["stop"].set)
    thread.join(10)
    assert not thread.is_alive()


def request(prompt: str, *, max_new_tokens: int = 20, format_: str = "JPEG") -> CaptionRequest:
    image = Image.new("RGB", (12, 8), (200, 10, 10))
    file = io.BytesIO()
    image.save(file, format_)
    return CaptionRequest(encoded=file.getvalue(), image=image, prompt=prompt, max_new_tokens=max_new_tokens, seed=7)


def captioner(base_url: str, **settings_: Any) -> OpenAICaptioner:
    config = OpenAIConfig(
        name="openai", base_url=base_url, **{"backoff_s": 0.01, "retries": 3, "timeout_s": 10, **settings_}
    )
    return OpenAICaptioner("owner/name", config)


def test_the_image_goes_as_our_own_bytes_and_the_text_comes_back_with_its_score(
    server: tuple[ChatServer, str],
) -> None:
    chat, url = server
    (answer,) = captioner(url).caption([request("a cat")])
    assert answer == Generated("a cat data:image/jpeg;base64 12x8", score=-0.75)
    body = chat.requests[0]["body"]
    assert (body["model"], body["max_tokens"], body["temperature"]) == ("owner/name", 20, 0.0)
    assert "seed" not in body
    assert "Authorization" not in chat.requests[0]["headers"]


def test_sampling_and_extra_fields_are_sent(server: tuple[ChatServer, str]) -> None:
    chat, url = server
    config = OpenAIConfig(name="openai", base_url=url, logprobs=False, extra_body={"repetition_penalty": 1.1})
    (answer,) = OpenAICaptioner("m", config, temperature=0.7, top_p=0.9).caption([request("a")])
    assert isinstance(answer, Generated) and answer.score is None
    body = chat.requests[0]["body"]
    assert (body["temperature"], body["top_p"], body["seed"], body["repetition_penalty"]) == (0.7, 0.9, 7, 1.1)
    assert "logprobs" not in body


@pytest.mark.parametrize("wrong", ["500", "html", "half", "drop"])
def test_what_may_pass_is_tried_again(server: tuple[ChatServer, str], wrong: str) -> None:
    chat, url = server
    (answer,) = captioner(url).caption([request(wrong)])
    assert isinstance(answer, Generated) and answer.text.startswith(wrong)
    assert len(chat.times[wrong]) == 2


def test_retry_after_is_waited_for(server: tuple[ChatServer, str]) -> None:
    chat, url = server
    (answer,) = captioner(url).caption([request("429")])
    assert isinstance(answer, Generated)
    first, second = chat.times["429"]
    assert second - first >= 1.0


def test_a_retry_after_past_the_limit_fails_the_row_at_once(server: tuple[ChatServer, str]) -> None:
    chat, url = server
    (answer,) = captioner(url).caption([request("wait-an-hour")])
    assert answer == Failure("HTTP 429: quota")
    assert len(chat.times["wait-an-hour"]) == 1


def test_retries_end(server: tuple[ChatServer, str]) -> None:
    chat, url = server
    (answer,) = captioner(url).caption([request("always-503")])
    assert answer == Failure("HTTP 503: no capacity")
    assert len(chat.times["always-503"]) == 4


@pytest.mark.parametrize(
    ("prompt", "error"),
    [
        ("400", "HTTP 400: bad image, key ***"),
        ("401", "HTTP 401: bad key"),
        ("redirect", "HTTP 307: 307: Temporary Redirect"),
        ("refuse", "refused: I can't help with that."),
        ("filter", "refused: content_filter"),
        ("endless", "the answer is longer than 4194304 bytes"),
    ],
)
def test_what_will_not_pass_is_tried_once(
    server: tuple[ChatServer, str], prompt: str, error: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat, url = server
    monkeypatch.setenv("CAPTION_KEY", KEY)
    (answer,) = captioner(url, api_key_env="CAPTION_KEY").caption([request(prompt)])
    assert answer == Failure(error)
    assert len(chat.times[prompt]) == 1
    assert "elsewhere" not in chat.times
    assert chat.requests[0]["headers"]["Authorization"] == f"Bearer {KEY}"


def test_a_text_at_its_limit_is_marked_as_cut_and_nothing_as_empty(server: tuple[ChatServer, str]) -> None:
    _, url = server
    cut, nothing = captioner(url).caption([request("one two three", max_new_tokens=2), request("nothing")])
    assert cut == Generated("one two", score=-0.25, cut=True)
    assert nothing == Generated("", score=None)


def test_answers_keep_their_order_and_bad_rows_their_place(server: tuple[ChatServer, str]) -> None:
    chat, url = server
    prompts = [f"n{n}" for n in range(20)]
    prompts[3] = "400"
    answers = captioner(url, concurrency=5).caption([request(prompt) for prompt in prompts])
    words = [answer.text.split()[0] if isinstance(answer, Generated) else "400" for answer in answers]
    assert words == prompts
    assert 2 <= chat.most_in_flight <= 5


def test_each_answer_is_reported_as_it_comes(server: tuple[ChatServer, str]) -> None:
    chat, url = server
    reported: dict[int, Generated | Failure] = {}
    in_flight: list[int] = []

    def answered(positions: Sequence[int], answers: Sequence[Generated | Failure]) -> None:
        reported.update(zip(positions, answers, strict=True))
        in_flight.append(len(chat.requests))

    prompts = [f"n{n}" for n in range(12)]
    prompts[4] = "400"
    answers = captioner(url, concurrency=2).caption([request(prompt) for prompt in prompts], answered)
    assert [reported[at] for at in range(12)] == answers
    assert in_flight[0] < 5  # when the first was reported, most had not been asked for


def test_a_server_is_paid_once_for_what_it_answered_before_the_job_died(
    server: tuple[ChatServer, str], tmp_path: Path
) -> None:
    chat, url = server
    engine = {"name": "openai", "base_url": url, "concurrency": 2, "backoff_s": 0.01}
    prompts = {f"n{n}": f"n{n}" for n in range(12)}
    config = RecaptionConfig.checked({"model": "owner/name", "engine": engine, "prompts": prompts})
    file = io.BytesIO()
    Image.new("RGB", (12, 8)).save(file, "PNG")
    nothing = pa.nulls(1, pa.string())
    rows = pa.table({"image": pa.array([file.getvalue()]), "drop_stage": nothing, "drop_reason": nothing})

    def work() -> pa.Table:
        stage = Recaption(config)
        stage.setup(Runtime(Store(str(tmp_path / "run"))))
        return stage(rows)

    child = os.fork()
    if not child:
        faults._armed = faults._parse("engine.answered:kill@6", str(tmp_path))
        work()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -9
    assert len(work()["recaptions"][0]) == 12
    # Two were being asked for when it died, and one was being kept.
    assert len(chat.requests) <= 12 + 3
    assert max(len(tries) for tries in chat.times.values()) <= 2


def test_an_injected_fault_is_tried_again(
    server: tuple[ChatServer, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    _, url = server
    monkeypatch.setattr(faults, "_armed", faults._parse("engine.recaption:raise@1", str(tmp_path)))
    (answer,) = captioner(url).caption([request("a")])
    assert isinstance(answer, Generated)


def test_a_server_that_is_not_there_fails_every_row() -> None:
    answers = captioner("http://127.0.0.1:9/v1", retries=1).caption([request("a"), request("b")])
    assert all(isinstance(answer, Failure) and "Connect" in answer.error for answer in answers)


def test_the_key_is_named_never_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CAPTION_KEY", raising=False)
    with pytest.raises(UserError, match="CAPTION_KEY is not set"):
        captioner("http://127.0.0.1:9/v1", api_key_env="CAPTION_KEY")
    with pytest.raises(ValidationError):
        OpenAIConfig(name="openai", api_key_env=KEY)
    with pytest.raises(ValidationError):
        OpenAIConfig(name="openai", base_url="file:///etc/passwd")


def test_keys_in_the_address_and_the_body_come_from_the_environment(
    server: tuple[ChatServer, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    chat, url = server
    monkeypatch.setenv("CAPTION_KEY", KEY)
    made = captioner(
        url.replace("://", "://me:${CAPTION_KEY}@") + "?key=${CAPTION_KEY}&v=1",
        extra_body={"api": {"k": "${CAPTION_KEY}"}},
    )
    answers = made.caption([request("a cat"), request("400")])
    assert isinstance(answers[0], Generated)
    assert isinstance(answers[1], Failure) and KEY not in answers[1].error and "bad image" in answers[1].error
    asked = chat.requests[0]
    assert asked["headers"]["Authorization"] == "Basic " + base64.b64encode(f"me:{KEY}".encode()).decode()
    assert asked["query"] == f"key={KEY}&v=1" and asked["body"]["api"] == {"k": KEY}
    monkeypatch.delenv("CAPTION_KEY")
    with pytest.raises(UserError, match="CAPTION_KEY is not set"):
        captioner("https://me:${CAPTION_KEY}@h/v1")


def test_identity_holds_what_decides_the_text_only() -> None:
    config = OpenAIConfig(name="openai", api_key_env="CAPTION_KEY", extra_body={"a": 1})
    assert config.identity() == {"name": "openai", "logprobs": True, "extra_body": {"a": 1}}


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "GIF"])
def test_data_uri_names_the_type_of_the_bytes(format_: str) -> None:
    encoded = request("", format_=format_).encoded
    head, _, content = data_uri(encoded).partition(",")
    assert head == f"data:image/{format_.lower()};base64"
    assert base64.b64decode(content) == encoded


json_values = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(["choices", "message", "content", "logprobs", "finish_reason"]), inner, max_size=3
        )
    ),
    max_leaves=8,
)


@given(st.binary(max_size=40) | json_values.map(lambda value: json.dumps(value).encode()))
@settings(deadline=None, max_examples=200)
def test_no_answer_breaks_the_reader(content: bytes) -> None:
    with contextlib.suppress(_TryLater, _Rejected):
        assert isinstance(read_completion(content), Generated)


@pytest.mark.parametrize(
    ("answer", "stored"),
    [
        ({"content": "a dog \ud83d"}, "a dog \ufffd"),
        ({"content": "\udc15\udc15"}, "\ufffd\ufffd"),
        ({"content": "a dog \U0001f415"}, "a dog \U0001f415"),
    ],
)
def test_half_an_emoji_can_be_stored(answer: dict[str, str], stored: str) -> None:
    made = read_completion(json.dumps({"choices": [{"message": answer}]}).encode())
    assert (made.text, made.text.encode().decode()) == (stored, stored)


def test_half_an_emoji_in_an_error_can_be_stored() -> None:
    assert Failure("refused: \ud83d").error == "refused: \ufffd"


@pytest.mark.parametrize(("logprobs", "score"), [("[-1.0, -2.0]", -1.5), ("[NaN]", None), ("[-Infinity, -1]", None)])
def test_a_score_is_a_number(logprobs: str, score: float | None) -> None:
    tokens = ", ".join(f'{{"logprob": {each}}}' for each in logprobs.strip("[]").split(","))
    answer = f'{{"choices": [{{"message": {{"content": "a dog"}}, "logprobs": {{"content": [{tokens}]}}}}]}}'
    assert read_completion(answer.encode()) == Generated("a dog", score)


@pytest.mark.parametrize("logprob", ["1" + "0" * 400, 'Infinity}, {"logprob": -Infinity'])
def test_a_score_that_is_none_is_no_completion(logprob: str) -> None:
    answer = (
        f'{{"choices": [{{"message": {{"content": "x"}}, "logprobs": {{"content": [{{"logprob": {logprob}}}]}}}}]}}'
    )
    with pytest.raises(_TryLater):
        read_completion(answer.encode())
