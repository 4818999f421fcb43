"""Caption through any server that speaks OpenAI's /v1/chat/completions: vLLM, SGLang, llama.cpp, a hosted service.

Only our own re-encoded image bytes are sent, as a data URI in the request: no server is ever asked to fetch a URL of
the input.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from curation.engines import Answered, CaptionRequest, Failure, Generated, unheard
from curation.engines.model_files import Checkpoint
from curation.engines.openai_client import ChatClient, OpenAIConfig, ServedEngine

if TYPE_CHECKING:
    from curation.recaption import RecaptionConfig

_MAGIC = ((b"\xff\xd8\xff", "image/jpeg"), (b"\x89PNG\r\n\x1a\n", "image/png"), (b"GIF8", "image/gif"))


class OpenAICaptioner(ServedEngine):
    """Any server with /v1/chat/completions: one chat of one image and one prompt per text, `concurrency` at a time.

    The server has the model; `recaption.model` is its name there, and `recaption.revision` any text that identifies its
    version.  Whether a text depends on what else the server is asked at the time is the server's matter.

    Raises UserError if a variable that should hold a key is not set.
    """

    Config = OpenAIConfig

    @classmethod
    def load(cls, config: OpenAIConfig, section: RecaptionConfig, checkpoint: Checkpoint) -> OpenAICaptioner:
        """A client of the server."""
        return cls(checkpoint.source, config, temperature=section.temperature, top_p=section.top_p)

    def __init__(
        self,
        model: str,
        config: OpenAIConfig,
        *,
        temperature: float = 0.0,
        top_p: float = 1.0,
    ) -> None:
        self.rows_per_call = max(256, 8 * config.concurrency)
        self._model = model
        self._temperature = temperature
        self._top_p = top_p
        self._client = ChatClient(config, key="recaption.engine", fault="engine.recaption")

    def caption(self, requests: Sequence[CaptionRequest], answered: Answered = unheard) -> list[Generated | Failure]:
        """One answer per request, in order.  answered: gets each as it comes."""
        return self._client.answers(requests, self._body, answered)

    def _body(self, request: CaptionRequest) -> dict[str, Any]:
        content = [
            {"type": "image_url", "image_url": {"url": data_uri(request.encoded)}},
            {"type": "text", "text": request.prompt},
        ]
        body: dict[str, Any] = {
            "model": self._model,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": request.max_new_tokens,
            "temperature": self._temperature,
        }
        if self._temperature > 0:
            body |= {"top_p": self._top_p, "seed": request.seed}
        return body


def data_uri(encoded: bytes) -> str:
    """An image file as a data URI; its first bytes give the type."""
    media_type = "image/webp"
    for magic, name in _MAGIC:
        if encoded.startswith(magic):
            media_type = name
    return f"data:{media_type};base64,{base64.b64encode(encoded).decode('ascii')}"
