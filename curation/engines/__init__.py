"""Engines that generate text: the requests of the stages recaption, rewrite_texts and translate, and the answers.

Read in this order: this file (the contract and the registries), settings (keys that engines share), generations
(the cache of what engines wrote), asking (what is asked for, and when it is kept), begun_calls (what a kill leaves, and
what kills), guard (no request can hurt another), model_files (which are loaded), decoding (batched generation with
scores), writing_model (models in this process), chat_servers and openai_client (models behind servers),
checkpoint_translator (translators in this process), then one file per engine.  An engine answers every request, in
order; for one it cannot answer it returns a `Failure`, and raises no exception.

A text is decided by its request, its model and the engine's own keys, and by nothing else: then the cache gives it
again.  Of an engine that does no more than answer, the texts of a call are kept when the call returns.  An engine that
works for long may say more, all of it optional:

- A parameter `answered` of its method (`Answered`): it calls that as soon as some answers are there, so that a kill
  does not lose them.
- A method `batches`, with the method's other parameters: which requests it computes together, as lists of positions.
  `answered` gets a batch as a whole.  Leaving out whole batches must not change the others.  Without it, all of a call
  are one batch.
- `independent = True`: no answer depends on its neighbours, not even in the last bits of its score.

A new engine is one class in one file and one line in a registry below, or its import path in the recipe:

    class ShoutConfig(NamedConfig):
        loudness: int = Field(1, ge=1, description="exclamation marks")

    class Shout:
        "Calls everything great."

        Config, rows_per_call = ShoutConfig, 64

        def __init__(self, loudness):
            self._text = "great" + "!" * loudness

        @classmethod
        def check(cls, config, section):
            return Checkpoint(source=section.model, commit=None, revision="1")

        @classmethod
        def load(cls, config, section, checkpoint):
            return cls(config.loudness)

        def caption(self, requests):
            return [Generated(self._text, score=None) for _ in requests]
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from pairmill.outside_text import storable
from pairmill.registry import NamedConfig, Registry, with_methods

if TYPE_CHECKING:
    from PIL import Image

    from curation.engines.model_files import Checkpoint
    from curation.engines.settings import EngineConfig


@dataclass(frozen=True)
class CaptionRequest:
    """A request for one text about one image."""

    encoded: bytes
    """The image file as this pipeline re-encoded it: the only bytes that may leave the process."""
    image: Image.Image
    """The same image, decoded, RGB."""
    prompt: str
    max_new_tokens: int
    seed: int
    """For this request only, so that sampling does not depend on its neighbours; unused when greedy."""


@dataclass(frozen=True)
class RewriteRequest:
    """A request for one text that is made from others, which the prompt holds."""

    prompt: str
    max_new_tokens: int
    seed: int
    """As for `CaptionRequest`."""


@dataclass(frozen=True)
class Generated:
    """A text an engine wrote."""

    text: str
    score: float | None
    """Mean log-probability (nats) of its tokens, end-of-text included; None if the engine does not report it."""
    cut: bool = False
    """The text reached its token limit before it ended."""
    tokens: int | None = None
    """How many tokens the score is the mean of; None if the engine does not report it."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", storable(self.text))


@dataclass(frozen=True)
class Failure:
    """Why there is no text: the exception's name and message on one line, without the request's content."""

    error: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "error", storable(self.error))


#: Gets the positions of requests, and their answers, as soon as these are there.
Answered = Callable[[Sequence[int], Sequence[Generated | Failure]], None]


def unheard(positions: Sequence[int], answers: Sequence[Generated | Failure]) -> None:
    """The `Answered` of a caller that waits for all answers."""


def batches_of(keys: Sequence[Hashable], size: int) -> list[list[int]]:
    """Positions cut into batches: of equal keys, in the order given, at most `size` together.

    Without some whole batches, the others are cut as before.
    """
    alike: dict[Hashable, list[int]] = {}
    for at, key in enumerate(keys):
        alike.setdefault(key, []).append(at)
    return [places[start : start + size] for places in alike.values() for start in range(0, len(places), size)]


class Captioner(Protocol):
    """Writes texts about images."""

    rows_per_call: int
    """How many images to pass at a time: enough to keep the engine busy."""

    def caption(self, requests: Sequence[CaptionRequest]) -> list[Generated | Failure]:
        """One answer per request, in order."""
        ...


class Rewriter(Protocol):
    """Writes texts that are made from others."""

    def rewrite(self, requests: Sequence[RewriteRequest]) -> list[Generated | Failure]:
        """One answer per request, in order."""
        ...


class Translator(Protocol):
    """Turns texts of one language into another.  Languages are ISO 639-1 codes, and `zh-hant`.

    One whose model was trained on single sentences, and drops some of several, says so with `sentence_model = True`.
    """

    sampling: str
    """How tokens are chosen, as stored with each text: `greedy`, `beams=4`."""

    def supports(self, source: str, target: str) -> bool:
        """Whether the model translates in this direction."""
        ...

    def translate(self, texts: Sequence[str], *, source: str, target: str) -> list[Generated | Failure]:
        """One answer per text, in order."""
        ...


class Engine(Protocol):
    """An entry of a registry below: how a captioner, a rewriter or a translator is found and loaded.

    Its module is imported wherever a recipe is read, so it must import model libraries only in `load`.
    """

    Config: type[NamedConfig]
    """Its own keys of the recipe.  Keys that do not decide a text are marked `EXECUTION`."""

    def check(self, config: Any, section: EngineConfig) -> Checkpoint:
        """The model that the section names, and the revision stored with each text, without loading it.

        config: of type `Config`.  A changed revision makes texts stale.  Raises UserError if there is no such model.
        """
        ...

    def load(self, config: Any, section: Any, checkpoint: Checkpoint) -> Any:
        """The `Captioner`, `Rewriter` or `Translator`.

        section: `RecaptionConfig`, `RewriteTextsConfig` or `TranslateConfig`.  Raises UserError if it cannot be loaded
        here, or cannot do what the section asks for.
        """
        ...


CAPTION_ENGINES: Registry[Engine] = Registry(
    "recaption.engine",
    {
        "transformers": "curation.engines.transformers_caption:TransformersCaptioner",
        "vllm": "curation.engines.vllm_caption:VllmCaptioner",
        "openai": "curation.engines.openai_caption:OpenAICaptioner",
    },
    check=with_methods("check", "load", key="recaption.engine"),
)

REWRITE_ENGINES: Registry[Engine] = Registry(
    "rewrite_texts.engine",
    {
        "transformers": "curation.engines.transformers_rewrite:TransformersRewriter",
        "openai": "curation.engines.openai_rewrite:OpenAIRewriter",
    },
    check=with_methods("check", "load", key="rewrite_texts.engine"),
)

TRANSLATE_ENGINES: Registry[Engine] = Registry(
    "translate.engine",
    {
        "transformers": "curation.engines.transformers_translate:TransformersTranslator",
        "ctranslate2": "curation.engines.ctranslate2_translate:CTranslate2Translator",
        "openai": "curation.engines.openai_translate:OpenAITranslator",
    },
    check=with_methods("check", "load", key="translate.engine"),
)
