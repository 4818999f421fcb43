"""The engines that rewrite texts: real checkpoints of both families, and a real server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from aiohttp import web
from chat_server import FaultyServer, completion, serving

from curation.engines import Failure, Generated, RewriteRequest
from curation.engines.model_files import resolve
from curation.engines.openai_client import OpenAIConfig
from curation.engines.openai_rewrite import OpenAIRewriter
from curation.engines.transformers_rewrite import TransformersRewriter
from pairmill.errors import UserError

FAMILIES = ("llama", "llama-without-chat", "marian")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    tiny_models.save_llama(folder / "llama")
    tiny_models.save_llama(folder / "llama-without-chat", chat=False)
    tiny_models.save_marian(folder / "marian")
    tiny_models.save_blip(folder / "blip")
    return folder


def rewriter(folder: Path, **more: Any) -> TransformersRewriter:
    return TransformersRewriter(resolve(str(folder), None), **{"batch_size": 3, **more})


def requests(*prompts: str, limit: int = 6) -> list[RewriteRequest]:
    return [RewriteRequest(prompt, limit, seed) for seed, prompt in enumerate(prompts)]


PROMPTS = ("a dog", "a", "a red dog on a beach", "the cat", "no", "a flower of the sea")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_text_is_the_same_alone_and_among_others(models: Path, family: str) -> None:
    engine = rewriter(models / family)
    asked = requests(*PROMPTS)
    reported: dict[int, Generated | Failure] = {}
    together = engine.rewrite(asked, answered=lambda at, made: reported.update(zip(at, made, strict=True)))
    assert [reported[at] for at in range(len(asked))] == together
    for one, ours in zip(asked, together, strict=True):
        (alone,) = engine.rewrite([one])
        assert isinstance(ours, Generated) and isinstance(alone, Generated)
        assert ours.text == alone.text and len(ours.text) <= 6
        assert ours.score == pytest.approx(alone.score, abs=1e-3) and (ours.score or 0) < 0
    assert len({one.text for one in together if isinstance(one, Generated)}) > 1
    assert engine.rewrite([]) == []


@pytest.mark.parametrize("family", FAMILIES)
def test_a_sampled_text_depends_on_its_seed_alone(models: Path, family: str) -> None:
    engine = rewriter(models / family, temperature=1.0, top_p=0.95)
    asked = requests(*["a dog"] * 4)
    texts = [one.text for one in engine.rewrite(asked) if isinstance(one, Generated)]
    assert len(set(texts)) == 4
    assert [one.text for one in engine.rewrite(asked[::-1]) if isinstance(one, Generated)] == texts[::-1]


def test_batches_are_of_like_length_and_one_limit_and_keep_without_others(models: Path) -> None:
    engine = rewriter(models / "llama", batch_size=2)
    asked = [*requests("aaa", "a", "aaaaa"), *requests("aa", limit=3), *requests("aaaa")]
    batches = engine.batches(asked)
    assert batches == [[1, 0], [4, 2], [3]]
    rest = [at for at in range(len(asked)) if at not in batches[0]]
    left = engine.batches([asked[at] for at in rest])
    assert sorted([rest[at] for at in batch] for batch in left) == sorted(batches[1:])


def test_a_prompt_that_leaves_no_room_fails_alone(models: Path) -> None:
    short, long = rewriter(models / "llama").rewrite(requests("a", "a" * 60))
    assert isinstance(short, Generated)
    assert long == Failure("prompt of 61 tokens, the model takes 64 with the 6 that it may write")


def test_a_batch_that_fails_is_asked_for_in_halves(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = rewriter(models / "llama")
    calls: list[int] = []
    generate = engine._generate

    def out_of_memory(given: Any) -> list[Generated]:
        calls.append(len(given))
        if len(given) > 1:
            raise MemoryError("too many")
        return generate(given)

    monkeypatch.setattr(engine, "_generate", out_of_memory)
    assert all(isinstance(one, Generated) for one in engine.rewrite(requests("a", "b")))
    assert calls == [2, 2, 1, 1]


def test_a_model_that_writes_no_text_from_text_is_refused(models: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    with pytest.raises(UserError, match=r"(?s)text-to-text or causal language model.*'clip'"):
        rewriter(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "no such thing"}')
    with pytest.raises(UserError, match="must load"):
        rewriter(tmp_path)


class Upper:
    """Answers with the prompt in upper case, and remembers what it was asked."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []

    async def chat(self, asked: web.Request) -> web.StreamResponse:
        body = await asked.json()
        self.bodies.append(body)
        logprobs = {"content": [{"token": "x", "logprob": -0.5}]} if body.get("logprobs") else None
        return completion(body["messages"][0]["content"].upper(), logprobs=logprobs)


@pytest.fixture
def upper() -> Iterator[tuple[Upper, str]]:
    made = Upper()
    with serving(made.chat) as url:
        yield made, url


def served(url: str, *, temperature: float = 0.0, top_p: float = 1.0, **keys: object) -> OpenAIRewriter:
    config = OpenAIConfig.model_validate({"name": "openai", "base_url": url, **keys})
    return OpenAIRewriter("owner/name", config, temperature=temperature, top_p=top_p)


def test_a_server_gets_the_prompt_alone(upper: tuple[Upper, str]) -> None:
    server, url = upper
    assert served(url).rewrite(requests("a dog")) == [Generated("A DOG", score=-0.5, tokens=1)]
    assert served(url, temperature=0.5, top_p=0.9, extra_body={"min_p": 0.1}).rewrite(requests("b", "a dog"))
    common = {"model": "owner/name", "max_tokens": 6, "logprobs": True}
    message = {"messages": [{"role": "user", "content": "a dog"}]}
    assert server.bodies[0] == {**common, **message, "temperature": 0.0}
    last = next(body for body in server.bodies[1:] if body["messages"] == message["messages"])
    assert last == {**common, **message, "temperature": 0.5, "top_p": 0.9, "seed": 1, "min_p": 0.1}


def test_a_server_that_fails_often_still_answers_every_request() -> None:
    server = FaultyServer(0.3)
    with serving(server.chat) as url:
        engine = served(url, timeout_s=0.5, backoff_s=0.01, retries=12)
        asked = requests(*(f"text {at}" for at in range(24)))
        answers = engine.rewrite(asked)
    assert [one.text for one in answers if isinstance(one, Generated)] == [
        one.prompt.upper() for one, made in zip(asked, answers, strict=True) if isinstance(made, Generated)
    ]
    # Of eight ways to fail, only an endless answer is not worth another try.
    assert sum(isinstance(one, Failure) for one in answers) == server.wrong["huge"]
    assert server.wrong.total() > 3 and set(server.answered.values()) == {1}
