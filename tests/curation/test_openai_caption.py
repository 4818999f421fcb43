from __future__ import annotations

import base64
import contextlib
import io
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from chat_server import KEY, ChatServer, serving
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from curation.engines import CaptionRequest, Failure, Generated
from curation.engines.openai_caption import OpenAICaptioner, data_uri
from curation.engines.openai_client import OpenAIConfig, Rejected, TryLater, read_completion
from curation.recaption import Recaption, RecaptionConfig
from curation.stage import Runtime
from pairmill import faults
from pairmill.errors import UserError
from pairmill.store import Store


@pytest.fixture
def server() -> Iterator[tuple[ChatServer, str]]:
    chat = ChatServer()
    with serving(chat.chat) as url:
        yield chat, url


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
    with contextlib.suppress(TryLater, Rejected):
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
    with pytest.raises(TryLater):
        read_completion(answer.encode())
