"""Rewrite texts through any server that speaks OpenAI's /v1/chat/completions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from curation.engines import Answered, Failure, Generated, RewriteRequest, unheard
from curation.engines.model_files import Checkpoint
from curation.engines.openai_client import ChatClient, OpenAIConfig, ServedEngine

if TYPE_CHECKING:
    from curation.rewrite_texts import RewriteTextsConfig


class OpenAIRewriter(ServedEngine):
    """Any server with /v1/chat/completions: one chat of one prompt per text, `concurrency` at a time.

    The server has the model; `rewrite_texts.model` is its name there, and `rewrite_texts.revision` any text that
    identifies its version.  Whether a text depends on what else the server is asked at the time is the server's matter.

    Raises UserError if a variable that should hold a key is not set.
    """

    Config = OpenAIConfig

    @classmethod
    def load(cls, config: OpenAIConfig, section: RewriteTextsConfig, checkpoint: Checkpoint) -> OpenAIRewriter:
        """A client of the server."""
        return cls(checkpoint.source, config, temperature=section.temperature, top_p=section.top_p)

    def __init__(self, model: str, config: OpenAIConfig, *, temperature: float = 0.0, top_p: float = 1.0) -> None:
        self._model, self._temperature, self._top_p = model, temperature, top_p
        self._client = ChatClient(config, key="rewrite_texts.engine", fault="engine.rewrite_texts")

    def rewrite(self, requests: Sequence[RewriteRequest], answered: Answered = unheard) -> list[Generated | Failure]:
        """One answer per request, in order.  answered: gets each as it comes."""
        return self._client.answers(requests, self._body, answered)

    def _body(self, request: RewriteRequest) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self._model,
            "messages": [{"role": "user", "content": request.prompt}],
            "max_tokens": request.max_new_tokens,
            "temperature": self._temperature,
        }
        return body | ({"top_p": self._top_p, "seed": request.seed} if self._temperature > 0 else {})
