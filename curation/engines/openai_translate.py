"""Translate through any server that speaks OpenAI's /v1/chat/completions, by a prompt that the recipe may set."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator

from curation.engines import Answered, Failure, Generated, unheard
from curation.engines.model_files import Checkpoint
from curation.engines.openai_client import ChatClient, OpenAIConfig, ServedEngine
from pairmill.config import digest
from pairmill.errors import IntegrityError
from pairmill.language_names import english_name
from pairmill.languages import UNKNOWN, canonical

if TYPE_CHECKING:
    from curation.translate import TranslateConfig

_PLACEHOLDERS = re.compile(r"\{(source|target|text)\}")

DEFAULT_PROMPT = """\
Translate the following text from {source} into {target}. Answer with the translation alone, without notes, \
explanations or quotation marks around it.

{text}"""


class OpenAITranslatorConfig(OpenAIConfig):
    """Where the servers are, and what they are asked."""

    prompt: str = Field(
        default=DEFAULT_PROMPT,
        description="the prompt; {text} stands for the text, {source} and {target} for the languages' English names",
    )

    @field_validator("prompt")
    @classmethod
    def _names_the_text(cls, value: str) -> str:
        if "{text}" not in value:
            raise ValueError("prompt must hold {text}, which stands for the text to translate; add it")
        return value


class OpenAITranslator(ServedEngine):
    """Any server with /v1/chat/completions: one chat of one prompt per text, `concurrency` at a time.

    The server has the model; `translate.model` is its name there, and `translate.revision` any text that identifies its
    version.  It is asked for any pair of languages.  Whether a text depends on what else the server is asked at the
    time is the server's matter.

    Raises UserError if a variable that should hold a key is not set.
    """

    Config = OpenAITranslatorConfig

    @classmethod
    def load(cls, config: OpenAITranslatorConfig, section: TranslateConfig, checkpoint: Checkpoint) -> OpenAITranslator:
        """A client of the server."""
        return cls(checkpoint.source, config, max_new_tokens=section.max_new_tokens)

    def __init__(self, model: str, config: OpenAITranslatorConfig, *, max_new_tokens: int) -> None:
        self._client = ChatClient(config, key="translate.engine", fault="engine.translate")
        self._prompt = config.prompt
        self._body = {"model": model, "max_tokens": max_new_tokens, "temperature": 0.0}
        temperature = self._client.filled(self._body)["temperature"]
        how = "greedy" if temperature == 0 else f"temperature={temperature}"
        self.sampling = f"{how},openai,prompt={digest(config.prompt, size=4)}"

    def supports(self, source: str, target: str) -> bool:
        """Any direction."""
        return source != target

    def translate(
        self, texts: Sequence[str], *, source: str, target: str, answered: Answered = unheard
    ) -> list[Generated | Failure]:
        """One answer per text, in order.  answered: gets each as it comes.

        Raises IntegrityError if source and target are the same.
        """
        if not self.supports(source, target):
            raise IntegrityError(f"a translator must get directions that it supports, not {source} to {target}")
        languages = {"source": _name(source), "target": _name(target)}
        return self._client.answers(texts, lambda text: self._request({**languages, "text": text}), answered)

    def _request(self, values: Mapping[str, str]) -> dict[str, Any]:
        # In one pass: what stands in braces in a text is no placeholder.
        prompt = _PLACEHOLDERS.sub(lambda found: values[found[1]], self._prompt)
        return {**self._body, "messages": [{"role": "user", "content": prompt}]}


def _name(language: str) -> str:
    if canonical(language) == UNKNOWN:
        return "its language"
    return english_name(language) or language
