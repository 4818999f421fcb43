from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest
from aiohttp import web
from chat_server import completion, serving

from curation.engines import Failure, Generated
from curation.engines.openai_translate import OpenAITranslator, OpenAITranslatorConfig
from curation.stage import Runtime
from curation.translate import Translate, TranslateConfig
from pairmill.errors import IntegrityError, RecipeError
from pairmill.language_names import NAMES, english_name
from pairmill.languages import FLORES, ISO_639_1


class Echo:
    """Answers with the prompt, and remembers what it was asked."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []

    async def chat(self, asked: web.Request) -> web.StreamResponse:
        body = await asked.json()
        self.bodies.append(body)
        (message,) = body["messages"]
        words = message["content"].split(" ")
        cut = len(words) > body["max_tokens"]
        logprobs = {"content": [{"token": word, "logprob": -0.5} for word in words]}
        return completion(
            " ".join(words[: body["max_tokens"]]),
            finish_reason="length" if cut else "stop",
            logprobs=logprobs if body.get("logprobs") else None,
        )


@pytest.fixture
def echo() -> Iterator[tuple[Echo, str]]:
    made = Echo()
    with serving(made.chat) as url:
        yield made, url


def translator(url: str = "http://127.0.0.1:9/v1", *, limit: int = 64, **keys: object) -> OpenAITranslator:
    config = OpenAITranslatorConfig.model_validate({"name": "openai", "base_url": url, **keys})
    return OpenAITranslator("owner/name", config, max_new_tokens=limit)


def test_the_prompt_names_the_languages_and_holds_the_text_as_it_is(echo: tuple[Echo, str]) -> None:
    server, url = echo
    made = translator(url, prompt="{source} > {target}: {text}")
    text = "a {target} of {text} \\1"
    assert made.translate([text], source="en", target="zh-hant") == [
        Generated(f"English > Traditional Chinese: {text}", score=-0.5)
    ]
    (body,) = server.bodies
    assert (body["model"], body["max_tokens"], body["temperature"]) == ("owner/name", 64, 0.0)


def test_the_prompt_that_is_not_set_asks_for_the_translation_alone(echo: tuple[Echo, str]) -> None:
    _, url = echo
    (answer,) = translator(url).translate(["a dog"], source="und", target="nb")
    assert isinstance(answer, Generated)
    assert answer.text.startswith("Translate the following text from its language into Norwegian.")
    assert answer.text.endswith("\n\na dog")


def test_a_text_at_its_limit_is_marked_as_cut(echo: tuple[Echo, str]) -> None:
    _, url = echo
    answers = translator(url, limit=2, prompt="{text}").translate(["a b c", "a b"], source="en", target="de")
    assert answers == [Generated("a b", score=-0.5, cut=True), Generated("a b", score=-0.5)]


def test_any_two_languages_are_a_direction() -> None:
    made = translator()
    assert made.supports("en", "zh") and made.supports("und", "tlh") and not made.supports("zh", "zh")
    with pytest.raises(IntegrityError, match="not de to de"):
        made.translate(["a"], source="de", target="de")


def test_the_sampling_says_what_decided_the_text() -> None:
    plain, worded = translator(), translator(prompt="{text}")
    assert plain.sampling.startswith("greedy,openai,prompt=")
    assert plain.sampling != worded.sampling
    assert translator(extra_body={"temperature": 0.7}).sampling.startswith("temperature=0.7,openai,")


def test_a_prompt_without_the_text_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"translate\.engine\.prompt.*must hold \{text\}"):
        TranslateConfig.checked({"model": "m", "engine": {"name": "openai", "prompt": "say it"}}, at="translate")


def test_base_urls_are_one_or_several() -> None:
    def engine(url: object) -> object:
        return TranslateConfig.checked({"model": "m", "engine": {"name": "openai", "base_url": url}}).engine

    assert engine("http://a/v1").identity() == engine(["http://a/v1", "https://b/v1"]).identity()  # type: ignore[attr-defined]
    for wrong in ([], ["ftp://a"], "ftp://a", 3):
        with pytest.raises(RecipeError, match=r"translate\.engine\.base_url must"):
            engine(wrong)


def test_the_stage_translates_through_a_server(echo: tuple[Echo, str]) -> None:
    _, url = echo
    engine = {"name": "openai", "base_url": url, "prompt": "{text}"}
    stage = Translate(
        TranslateConfig.checked({"model": "m", "engine": engine, "targets": ["de"], "check_language": False})
    )
    stage.setup(Runtime())
    nothing = pa.nulls(2, pa.string())
    columns = {"caption": ["a dog", "ein Hund"], "language": ["en", "de"]}
    rows = stage(pa.table({**columns, "drop_stage": nothing, "drop_reason": nothing}))
    ((made,), none) = rows["translations"].to_pylist()
    assert none == []
    assert (made["text"], made["language"], made["revision"], made["score"]) == ("a dog", "de", "served", -0.5)
    assert made["sampling"].startswith("greedy,openai,prompt=")


def test_languages_have_names() -> None:
    assert NAMES.keys() >= FLORES.keys() | ISO_639_1
    assert all(name == name.strip() and name for name in NAMES.values())
    assert english_name("cmn_Hans") == "Simplified Chinese" and english_name("und") is None


def test_a_server_that_is_not_there_fails_every_text() -> None:
    answers = translator(retries=0).translate(["a", "b"], source="en", target="de")
    assert all(isinstance(answer, Failure) and "Connect" in answer.error for answer in answers)
