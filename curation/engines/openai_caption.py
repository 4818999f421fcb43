"""Caption through any server that speaks OpenAI's /v1/chat/completions: vLLM, SGLang, llama.cpp, a hosted service.

Only our own re-encoded image bytes are sent, as a data URI in the request: no server is ever asked to fetch a URL of
the input.  Redirects are not followed, so the key and the images go to the configured server and nowhere else.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field

from curation.engines import Answered, CaptionRequest, Failure, Generated, unheard
from curation.engines.guard import describe
from curation.engines.model_files import Checkpoint
from curation.engines.settings import EngineConfig
from pairmill.config import EXECUTION
from pairmill.environment import resolved
from pairmill.errors import PairmillError, UserError
from pairmill.faults import fault_point
from pairmill.redaction import MASK, redact
from pairmill.registry import NamedConfig
from pairmill.retry_after import retry_after_s

if TYPE_CHECKING:
    import aiohttp

    from curation.recaption import RecaptionConfig

_MAX_ANSWER_BYTES = 4 << 20
_MAX_BACKOFF_S = 30.0
_RETRIED_STATUSES = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
_MAGIC = ((b"\xff\xd8\xff", "image/jpeg"), (b"\x89PNG\r\n\x1a\n", "image/png"), (b"GIF8", "image/gif"))


class OpenAIConfig(NamedConfig):
    """Where the server is, and how long to wait for it."""

    base_url: str = Field(
        default="http://127.0.0.1:8000/v1",
        pattern=r"^https?://",
        description="URL before /chat/completions, such as that of a local `vllm serve`; ${NAME} stands for the value "
        "of an environment variable, such as a password or a key",
        json_schema_extra=EXECUTION,
    )
    api_key_env: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
        description="name of the environment variable that holds the key; the key itself is never stored",
        json_schema_extra=EXECUTION,
    )
    timeout_s: float = Field(
        default=120.0, gt=0, description="deadline of one request, in seconds", json_schema_extra=EXECUTION
    )
    concurrency: int = Field(
        default=32, ge=1, description="requests in flight for each actor", json_schema_extra=EXECUTION
    )
    retries: int = Field(
        default=5,
        ge=0,
        description="further tries of a request after 408, 429, 5xx or a lost connection",
        json_schema_extra=EXECUTION,
    )
    backoff_s: float = Field(
        default=0.5,
        gt=0,
        description="wait before the first retry in seconds, doubling up to 30; a Retry-After header takes precedence",
        json_schema_extra=EXECUTION,
    )
    max_retry_after_s: float = Field(
        default=120.0,
        gt=0,
        description="longest Retry-After in seconds that is waited for; a longer one fails the row",
        json_schema_extra=EXECUTION,
    )
    logprobs: bool = Field(
        default=True, description="whether to request token log-probabilities; without them texts have no score"
    )
    extra_body: Mapping[str, Any] = Field(
        default_factory=dict,
        description="further fields of the request body, such as a server's own options; ${NAME} as in base_url",
    )


class _Rejected(Exception):
    """The server's answer to one request cannot be used; trying again would not help."""


class _TryLater(Exception):
    """The server may answer this request later; after_s: its Retry-After in seconds."""

    def __init__(self, message: str, after_s: float | None = None) -> None:
        super().__init__(message)
        self.after_s = after_s


class OpenAICaptioner:
    """Any server with /v1/chat/completions: one chat of one image and one prompt per text, `concurrency` at a time.

    The server has the model; `recaption.model` is its name there, and `recaption.revision` any text that identifies its
    version.

    Raises UserError if a variable that should hold a key is not set.
    """

    Config = OpenAIConfig
    #: Whatever a server computes together, nothing here could compute the same way again.
    independent = True

    @classmethod
    def check(cls, config: OpenAIConfig, section: EngineConfig) -> Checkpoint:
        """The name and the recipe's revision; the server is not contacted."""
        return Checkpoint(source=section.named_model, commit=None, revision=section.revision or "served")

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
        self._config = config
        self._temperature = temperature
        self._top_p = top_p
        self._base, hidden = resolved(config.base_url, "recaption.engine.base_url")
        extra_body, more = resolved(dict(config.extra_body), "recaption.engine.extra_body")
        self._extra_body: dict[str, Any] = extra_body
        self._hidden = sorted({*hidden, *more}, key=len, reverse=True)
        self._key = None
        if config.api_key_env is not None:
            self._key = os.environ.get(config.api_key_env)
            if not self._key:
                raise UserError(
                    "recaption.engine.api_key_env must name an environment variable that holds the key",
                    value=f"{config.api_key_env} is not set where the stage runs",
                    fix=f"export {config.api_key_env}=… on the workers (Ray: runtime_env env_vars), or remove it",
                )
            self._hidden.append(self._key)

    def caption(self, requests: Sequence[CaptionRequest], answered: Answered = unheard) -> list[Generated | Failure]:
        """One answer per request, in order.  answered: gets each as it comes."""
        return asyncio.run(self._caption_all(requests, answered))

    async def _caption_all(self, requests: Sequence[CaptionRequest], answered: Answered) -> list[Generated | Failure]:
        import aiohttp

        headers = {} if self._key is None else {"Authorization": f"Bearer {self._key}"}
        in_flight = asyncio.Semaphore(self._config.concurrency)
        async with aiohttp.ClientSession(
            headers=headers,
            timeout=aiohttp.ClientTimeout(total=self._config.timeout_s),
            connector=aiohttp.TCPConnector(limit=self._config.concurrency),
        ) as session:

            async def answer(at: int, request: CaptionRequest) -> Generated | Failure:
                async with in_flight:
                    made = await self._caption_one(session, request)
                answered([at], [made])
                return made

            return await asyncio.gather(*(answer(at, request) for at, request in enumerate(requests)))

    async def _caption_one(self, session: aiohttp.ClientSession, request: CaptionRequest) -> Generated | Failure:
        body = self.request_body(request)
        for attempt in range(self._config.retries):
            made = await self._try(session, body)
            if not isinstance(made, _TryLater):
                return made
            wait = min(self._config.backoff_s * 2**attempt, _MAX_BACKOFF_S) if made.after_s is None else made.after_s
            if wait > self._config.max_retry_after_s:
                return Failure(self._hide_key(str(made)))
            await asyncio.sleep(wait)
        made = await self._try(session, body)
        return Failure(self._hide_key(str(made))) if isinstance(made, _TryLater) else made

    async def _try(self, session: aiohttp.ClientSession, body: Mapping[str, Any]) -> Generated | Failure | _TryLater:
        try:
            fault_point("engine.recaption")
            return read_completion(await self._post(session, body))
        except PairmillError:
            raise
        except _TryLater as error:
            return error
        except _Rejected as error:
            return Failure(self._hide_key(str(error)))
        except Exception as error:  # a lost connection, the deadline, anything aiohttp raises
            return _TryLater(redact(describe(error)))

    def request_body(self, request: CaptionRequest) -> dict[str, Any]:
        """The JSON body of one request."""
        body: dict[str, Any] = {
            "model": self._model,
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "image_url", "image_url": {"url": data_uri(request.encoded)}},
                        {"type": "text", "text": request.prompt},
                    ],
                }
            ],
            "max_tokens": request.max_new_tokens,
            "temperature": self._temperature,
        }
        if self._temperature > 0:
            body |= {"top_p": self._top_p, "seed": request.seed}
        if self._config.logprobs:
            body["logprobs"] = True
        return body | self._extra_body

    async def _post(self, session: aiohttp.ClientSession, body: Mapping[str, Any]) -> bytes:
        url = completions_url(self._base)
        async with session.post(url, json=body, allow_redirects=False) as response:
            content = await _read_at_most(response, _MAX_ANSWER_BYTES)
            if response.status == 200:
                return content
            message = f"HTTP {response.status}: {_error_message(content)}"
            if response.status in _RETRIED_STATUSES:
                wait_s = retry_after_s(response.headers.get("Retry-After"), response.headers.get("Date"))
                raise _TryLater(message, wait_s)
            raise _Rejected(message)

    def _hide_key(self, text: str) -> str:
        for value in self._hidden:
            text = text.replace(value, MASK)
        return redact(text)


def completions_url(base: str) -> str:
    """The URL to post to: below the base URL, with the parameters that it has."""
    path, mark, parameters = base.partition("?")
    return f"{path.rstrip('/')}/chat/completions{mark}{parameters}"


def data_uri(encoded: bytes) -> str:
    """An image file as a data URI; its first bytes give the type."""
    media_type = "image/webp"
    for magic, name in _MAGIC:
        if encoded.startswith(magic):
            media_type = name
    return f"data:{media_type};base64,{base64.b64encode(encoded).decode('ascii')}"


def read_completion(content: bytes) -> Generated:
    """The text of a chat completion.

    Raises _TryLater if it is not a chat completion (a proxy's page, half an answer), and _Rejected if the server
    refused to write.
    """
    try:
        choice = json.loads(content)["choices"][0]
        text = choice["message"]["content"]
        reason = choice.get("finish_reason")
        tokens = (choice.get("logprobs") or {}).get("content") or []
        logprobs = [float(token["logprob"]) for token in tokens]
        refusal = choice["message"].get("refusal")
        score = math.fsum(logprobs) / len(logprobs) if logprobs else None
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, OverflowError) as error:
        raise _TryLater(f"the answer is not a chat completion: {describe(error)}") from error
    if refusal or reason == "content_filter":
        raise _Rejected(f"refused: {refusal or reason}"[:300])
    if text is not None and not isinstance(text, str):
        raise _TryLater(f"the answer is not a chat completion: content is a {type(text).__name__}")
    if score is not None and not math.isfinite(score):  # JSON of some servers has NaN and -Infinity
        score = None
    return Generated(text=(text or "").strip(), score=score, cut=reason == "length")


async def _read_at_most(response: aiohttp.ClientResponse, limit: int) -> bytes:
    content = bytearray()
    async for chunk in response.content.iter_chunked(1 << 16):
        content += chunk
        if len(content) > limit:
            raise _Rejected(f"the answer is longer than {limit} bytes")
    return bytes(content)


def _error_message(content: bytes) -> str:
    """The message of an OpenAI-style error body, or the start of the body."""
    text = content[:4096].decode("utf-8", "replace")
    with contextlib.suppress(ValueError, KeyError, TypeError):
        text = str(json.loads(text)["error"]["message"])
    return " ".join(text.split())[:200]
