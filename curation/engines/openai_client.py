"""Ask servers that speak OpenAI's /v1/chat/completions: vLLM, SGLang, llama.cpp, a hosted service.

What every engine behind such a server shares: the keys of the recipe, requests in flight, further tries, and reading
answers.  Redirects are not followed, so the key and what is sent go to the configured servers and nowhere else.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from pydantic import Field

from curation.engines import Answered, Failure, Generated, unheard
from curation.engines.chat_servers import ChatServer, ChatServers
from curation.engines.guard import describe
from curation.engines.model_files import Checkpoint
from pairmill.config import EXECUTION
from pairmill.environment import resolved
from pairmill.errors import PairmillError, UserError
from pairmill.faults import fault_point
from pairmill.redaction import MASK, redact
from pairmill.registry import NamedConfig
from pairmill.retry_after import retry_after_s

if TYPE_CHECKING:
    import aiohttp

    from curation.engines.settings import EngineConfig

Request = TypeVar("Request")

_MAX_ANSWER_BYTES = 4 << 20
_MAX_BACKOFF_S = 30.0
_TOO_MANY = 429
_RETRIED_STATUSES = frozenset({408, 409, 425, _TOO_MANY, 500, 502, 503, 504, 529})

_Url = Annotated[str, Field(pattern=r"^https?://")]


class OpenAIConfig(NamedConfig):
    """Where the servers are, and how long to wait for them."""

    base_url: _Url | Annotated[tuple[_Url, ...], Field(min_length=1)] = Field(
        default="http://127.0.0.1:8000/v1",
        description="URL before /chat/completions, such as that of a local `vllm serve`, or a list of servers of the "
        "same model, which share the requests; ${NAME} stands for the value of an environment variable, such as a "
        "password or a key",
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
        default=32,
        ge=1,
        description="requests in flight for each actor, over all servers; a server that answers 429 gets fewer at once "
        "for a time",
        json_schema_extra=EXECUTION,
    )
    retries: int = Field(
        default=5,
        ge=0,
        description="further tries of a request after 408, 429, 5xx or a lost connection, at any server",
        json_schema_extra=EXECUTION,
    )
    backoff_s: float = Field(
        default=0.5,
        gt=0,
        description="wait before a server is tried again in seconds, doubling up to 30; a Retry-After header takes "
        "precedence",
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


class ServedEngine:
    """Base of the engines whose model is behind such servers."""

    #: Whatever a server computes together, nothing here could compute the same way again.
    independent = True

    @classmethod
    def check(cls, config: OpenAIConfig, section: EngineConfig) -> Checkpoint:
        """The name and the recipe's revision; the server is not contacted."""
        return Checkpoint(source=section.named_model, commit=None, revision=section.revision or "served")


class Rejected(Exception):
    """The server's answer to one request cannot be used; trying again would not help."""


class TryLater(Exception):
    """A server may answer this request later.

    status: of its answer; None if there was none, or none that could be read.  after_s: its Retry-After in seconds.
    """

    def __init__(self, message: str, *, status: int | None = None, after_s: float | None = None) -> None:
        super().__init__(message)
        self.status, self.after_s = status, after_s


class ChatClient:
    """Asks one model, on one server or several: `concurrency` requests at a time, each a bounded number of times.

    Raises UserError if a variable that should hold a key is not set.
    """

    def __init__(self, config: OpenAIConfig, *, key: str, fault: str) -> None:
        """key: of the recipe, whose value is the configuration.  fault: the fault point passed before each try."""
        self._config, self._fault = config, fault
        urls = (config.base_url,) if isinstance(config.base_url, str) else config.base_url
        bases, hidden = resolved(list(urls), f"{key}.base_url")
        self.extra_body: dict[str, Any]
        """`extra_body` with the values of its variables."""
        self.extra_body, more = resolved(dict(config.extra_body), f"{key}.extra_body")
        self._servers = ChatServers([completions_url(base) for base in bases], most=config.concurrency)
        self._hidden = sorted({*hidden, *more}, key=len, reverse=True)
        self._key = None
        if config.api_key_env is not None:
            self._key = os.environ.get(config.api_key_env)
            if not self._key:
                raise UserError(
                    f"{key}.api_key_env must name an environment variable that holds the key",
                    value=f"{config.api_key_env} is not set where the stage runs",
                    fix=f"export {config.api_key_env}=… on the workers (Ray: runtime_env env_vars), or remove it",
                )
            self._hidden.append(self._key)

    def answers(
        self, requests: Sequence[Request], body: Callable[[Request], dict[str, Any]], answered: Answered = unheard
    ) -> list[Generated | Failure]:
        """One answer per request, in order.

        body: the JSON body of a request, made when it is its turn; `logprobs` and `extra_body` are added.
        answered: gets each answer as it comes.
        """
        return asyncio.run(self._answer_all(requests, body, answered))

    def filled(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The body of a request with the fields that the recipe adds to every one."""
        return {**body, **({"logprobs": True} if self._config.logprobs else {}), **self.extra_body}

    async def _answer_all(
        self, requests: Sequence[Request], body: Callable[[Request], dict[str, Any]], answered: Answered
    ) -> list[Generated | Failure]:
        import aiohttp

        headers = {} if self._key is None else {"Authorization": f"Bearer {self._key}"}
        in_flight = asyncio.Semaphore(self._config.concurrency)
        async with aiohttp.ClientSession(
            headers=headers,
            timeout=aiohttp.ClientTimeout(total=self._config.timeout_s),
            connector=aiohttp.TCPConnector(limit=self._config.concurrency),
        ) as session:

            async def answer(at: int, request: Request) -> Generated | Failure:
                async with in_flight:
                    made = await self._answer(session, self.filled(body(request)))
                answered([at], [made])
                return made

            return await asyncio.gather(*(answer(at, request) for at, request in enumerate(requests)))

    async def _answer(self, session: aiohttp.ClientSession, body: Mapping[str, Any]) -> Generated | Failure:
        later: dict[ChatServer, float] = {}
        tries: Counter[ChatServer] = Counter()
        while True:
            server = await self._servers.take(later)
            made = await self._try(session, server, body)
            if not isinstance(made, TryLater):
                return made
            wait = min(self._config.backoff_s * 2 ** tries[server], _MAX_BACKOFF_S)
            wait = wait if made.after_s is None else made.after_s
            tries[server] += 1
            later[server] = math.inf if wait > self._config.max_retry_after_s else time.monotonic() + wait
            given_up = all(later.get(one) == math.inf for one in self._servers)
            if given_up or tries.total() > self._config.retries:
                return Failure(self._hide_key(str(made)))

    async def _try(
        self, session: aiohttp.ClientSession, server: ChatServer, body: Mapping[str, Any]
    ) -> Generated | Failure | TryLater:
        from aiohttp import ClientConnectorError

        asked_at = time.monotonic()
        try:
            fault_point(self._fault)
            made = read_completion(await self._post(session, server.url, body))
        except PairmillError:
            raise
        except Rejected as error:
            server.answered()
            return Failure(self._hide_key(str(error)))
        except Exception as error:  # a lost connection, the deadline, anything aiohttp raises
            known = error if isinstance(error, TryLater) else TryLater(redact(describe(error)))
            if known.status == _TOO_MANY:
                server.refused(asked_at)
            else:
                server.failed(asked_at, unreachable=isinstance(error, ClientConnectorError))
            return known
        finally:
            self._servers.give_back(server)
        server.answered()
        return made

    async def _post(self, session: aiohttp.ClientSession, url: str, body: Mapping[str, Any]) -> bytes:
        async with session.post(url, json=body, allow_redirects=False) as response:
            content = await _read_at_most(response, _MAX_ANSWER_BYTES)
            if response.status == 200:
                return content
            message = f"HTTP {response.status}: {_error_message(content)}"
            if response.status in _RETRIED_STATUSES:
                wait_s = retry_after_s(response.headers.get("Retry-After"), response.headers.get("Date"))
                raise TryLater(message, status=response.status, after_s=wait_s)
            raise Rejected(message)

    def _hide_key(self, text: str) -> str:
        for value in self._hidden:
            text = text.replace(value, MASK)
        return redact(text)


def completions_url(base: str) -> str:
    """The URL to post to: below the base URL, with the parameters that it has."""
    path, mark, parameters = base.partition("?")
    return f"{path.rstrip('/')}/chat/completions{mark}{parameters}"


def read_completion(content: bytes) -> Generated:
    """The text of a chat completion.

    Raises TryLater if it is not a chat completion (a proxy's page, half an answer), and Rejected if the server
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
        raise TryLater(f"the answer is not a chat completion: {describe(error)}") from error
    if refusal or reason == "content_filter":
        raise Rejected(f"refused: {refusal or reason}"[:300])
    if text is not None and not isinstance(text, str):
        raise TryLater(f"the answer is not a chat completion: content is a {type(text).__name__}")
    if score is not None and not math.isfinite(score):  # JSON of some servers has NaN and -Infinity
        score = None
    return Generated(
        text=(text or "").strip(), score=score, cut=reason == "length", tokens=None if score is None else len(logprobs)
    )


async def _read_at_most(response: aiohttp.ClientResponse, limit: int) -> bytes:
    content = bytearray()
    async for chunk in response.content.iter_chunked(1 << 16):
        content += chunk
        if len(content) > limit:
            raise Rejected(f"the answer is longer than {limit} bytes")
    return bytes(content)


def _error_message(content: bytes) -> str:
    """The message of an OpenAI-style error body, or the start of the body."""
    text = content[:4096].decode("utf-8", "replace")
    with contextlib.suppress(ValueError, KeyError, TypeError):
        text = str(json.loads(text)["error"]["message"])
    return " ".join(text.split())[:200]
