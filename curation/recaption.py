"""Write new captions from the image: several prompts per row, each text with its provenance and score."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, model_validator

from curation.caption_checks import Fault, checked
from curation.engines import CAPTION_ENGINES, Captioner, CaptionRequest, Failure, Generated
from curation.engines.generations import Name, made_from
from curation.engines.guard import describe, stop_if_dead, stop_if_useless
from curation.engines.model_files import Checkpoint
from curation.engines.settings import EngineConfig
from curation.schema import live, set_columns
from curation.stage import Column, Runtime, Stage
from curation.telemetry import count_texts
from pairmill.config import Config
from pairmill.meters import Meter
from pairmill.registry import ChosenBy, NamedConfig

if TYPE_CHECKING:
    from PIL import Image

#: One text about an image: the fields of `layout.TEXT` that differ between such texts.
RECAPTION = pa.struct(
    [
        ("text", pa.string()),
        ("kind", pa.string()),
        ("language", pa.string()),
        ("model", pa.string()),
        ("revision", pa.string()),
        ("prompt_id", pa.string()),
        ("sampling", pa.string()),
        ("score", pa.float32()),
    ]
)

CAPTION_PLACEHOLDER = "{caption}"


class RecaptionStatus(str, Enum):
    """What became of a row's texts."""

    SUCCESS = "success"  # at least one text
    NOT_NEEDED = "not_needed"  # dropped before
    DECODE_ERROR = "decode_error"  # no image bytes, or they do not decode
    ENGINE_ERROR = "engine_error"  # no text, and the engine failed for at least one prompt
    EMPTY = "empty"  # the engine answered every prompt with nothing
    REPETITION = "repetition"  # no text: a loop
    TRUNCATED = "truncated"  # no text: not one sentence ended at the token limit
    REFUSAL = "refusal"  # no text: the model declined to write one
    REASONING = "reasoning"  # no text: the model's reasoning, and no caption behind it
    SPECIAL_TOKEN = "special_token"  # no text: special tokens of the model, and no caption before them


class Prompt(Config):
    """One prompt, given with every image."""

    text: str = Field(description="the prompt; {caption} stands for the row's alt text")
    kind: Literal["short", "long"] | None = Field(
        default=None, description="kind of its texts; null: short for the prompt named short, long for all others"
    )
    max_new_tokens: int | None = Field(
        default=None, ge=1, description="token limit of this prompt's texts; null: recaption.max_new_tokens"
    )
    language: str = Field(default="en", description="language of its texts (ISO 639-1)")


DEFAULT_PROMPTS: Mapping[str, str | Prompt] = {
    "short": Prompt(
        text="Describe this image in one short sentence, as an alt text would. Name only what can be seen.",
        max_new_tokens=64,
    ),
    "long": Prompt(
        text="Describe this image in detail in one paragraph: the main subjects, what they look like and do, the "
        "setting, and any readable text. State only what can be seen.",
    ),
}


_ENGINE = ChosenBy(CAPTION_ENGINES, default="transformers")


class RecaptionConfig(EngineConfig):
    """`recaption`: the captioner and its prompts."""

    engine: Annotated[NamedConfig, _ENGINE] = Field(
        default_factory=lambda: _ENGINE.parse({}),
        description="captioner; transformers: in the actor; vllm: the same on a GPU, faster (needs pairmill[gpu]); "
        "openai: any server with /v1/chat/completions; {name: …, key: …} sets its own keys",
    )
    prompts: Mapping[str, str | Prompt] = Field(
        default=DEFAULT_PROMPTS,
        min_length=1,
        description="prompt_id -> prompt; one text is written for each",
    )
    max_new_tokens: int = Field(
        default=256,
        ge=1,
        description="token limit of a text; long captions have about 136 tokens (LoTLIP, Wu et al. 2024)",
    )
    temperature: float = Field(
        default=0.0, ge=0, description="temperature of sampling; 0: always the most probable token"
    )
    top_p: float = Field(
        default=1.0, gt=0, le=1, description="total probability of the smallest set of tokens to sample from"
    )
    seed: int = Field(default=0, ge=0, description="seed of sampling; with picture and prompt it decides a text")

    @model_validator(mode="after")
    def _prompt_ids_are_words(self) -> RecaptionConfig:
        for prompt_id in self.prompts:
            if not prompt_id.replace("_", "").replace("-", "").isalnum():
                raise ValueError(f"prompts: a name must consist of letters, digits, _ and -, got {prompt_id!r}")
        return self

    def resolved_prompts(self) -> dict[str, Prompt]:
        """Every prompt with its kind and token limit filled in."""
        resolved = {}
        for prompt_id, given in self.prompts.items():
            prompt = Prompt(text=given) if isinstance(given, str) else given
            kind = prompt.kind or ("short" if prompt_id == "short" else "long")
            limit = prompt.max_new_tokens or self.max_new_tokens
            resolved[prompt_id] = prompt.model_copy(update={"kind": kind, "max_new_tokens": limit})
        return resolved

    def identity(self) -> dict[str, Any]:
        """What decides the texts; sampling is left out if the most probable token is taken."""
        unused = {"top_p", "seed"} if self.temperature == 0 else set()
        kept = {name: value for name, value in super().identity().items() if name not in unused}
        prompts = {name: prompt.identity() for name, prompt in self.resolved_prompts().items()}
        return {**kept, "prompts": prompts}


def model_revision(config: RecaptionConfig) -> str:
    """The revision stored with each text: hub commit, folder digest, or for a server the recipe's.

    Raises UserError if there is no such model.
    """
    return _checkpoint(config).revision


def _checkpoint(config: RecaptionConfig) -> Checkpoint:
    return CAPTION_ENGINES.get(config.engine.name).check(config.engine, config)


@dataclass
class _Row:
    """A live row with an image, and the engine's answers so far."""

    at: int
    encoded: bytes
    digest: str
    image: Image.Image
    caption: str
    texts: list[dict[str, object]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    failed: bool = False
    fault: Fault | None = None


class Recaption(Stage):
    """Write new captions from the image: several prompts per row, by the engine that the recipe names.

    A loop, a half sentence, a refusal, reasoning and another turn are no captions (`caption_checks`): the whole
    sentences without them stay, or the row has no text and a status that says why.  The same rows are returned in the
    same order, and none is ever dropped.  Rows go to the engine in row order, so a shard is always cut into the same
    batches.

    Raises JobError if the engine is dead (a call and a harmless probe both get no answer), or if all of at least
    `guard.MANY` texts of a table fail alike: the shard stays uncommitted, and running again resumes with it.
    """

    name, segment, pool = "recaption", "rewrite", "model"
    adds = (
        Column("recaptions", pa.list_(RECAPTION), "texts about the image"),
        Column("recaption_status", pa.string(), "what became of the row's texts"),
        Column("recaption_error", pa.string(), "why texts are missing"),
    )
    libraries = ("pillow",)  # decodes the pictures for every engine
    Config = RecaptionConfig

    def __init__(self, config: RecaptionConfig, *, engine: Captioner | None = None) -> None:
        """engine: to be used instead of the configured one."""
        super().__init__(config)
        self._config = config
        self._prompts = config.resolved_prompts()
        self._wants_caption = any(CAPTION_PLACEHOLDER in prompt.text for prompt in self._prompts.values())
        self.reads = ("image", *(("caption",) if self._wants_caption else ()))
        self._given = engine
        if engine is not None:
            self.setup(Runtime())

    @property
    def active(self) -> bool:
        """Whether the recipe names a captioner."""
        return self._config.active

    def revision(self) -> str:
        """Hub commit, folder digest, or for a server the recipe's."""
        return model_revision(self._config)

    def setup(self, runtime: Runtime) -> None:
        """Load the engine.  Raises UserError if it cannot be loaded here."""
        config = self._config
        self._checkpoint = _checkpoint(config)
        engine = self._given
        if engine is None:
            engine = config.loaded(CAPTION_ENGINES, self._checkpoint)
        sampling: dict[str, Any] = {"temperature": config.temperature}
        if config.temperature > 0:
            sampling["top_p"] = config.top_p
        self._engine: Captioner = engine
        self._asking = config.asking(engine, self._checkpoint, runtime, self.name, **sampling)

    def unfinished(self, rows: pa.Table) -> pa.ChunkedArray:
        """Rows that the engine failed for."""
        return pc.equal(rows["recaption_status"], RecaptionStatus.ENGINE_ERROR.value)

    def count(self, meter: Meter, rows: pa.Table) -> None:
        """Texts written."""
        count_texts(meter, self.name, rows["recaptions"])

    def __call__(self, rows: pa.Table) -> pa.Table:
        texts: list[list[dict[str, object]]] = [[] for _ in range(rows.num_rows)]
        statuses = [RecaptionStatus.NOT_NEEDED] * rows.num_rows
        errors: list[str | None] = [None] * rows.num_rows
        answers: list[Generated | Failure] = []
        self._asking.for_rows(rows)
        positions = [at for at, is_live in enumerate(live(rows).to_pylist()) if is_live]
        step = self._engine.rows_per_call
        for start in range(0, len(positions), step):
            chunk = []
            for at in positions[start : start + step]:
                row = self._read(rows, at)
                if isinstance(row, str):
                    statuses[at], errors[at] = RecaptionStatus.DECODE_ERROR, row
                else:
                    chunk.append(row)
            answers += self._caption(chunk)
            for row in chunk:
                texts[row.at] = row.texts
                errors[row.at] = "; ".join(row.notes) or None
                if row.texts:
                    statuses[row.at] = RecaptionStatus.SUCCESS
                elif row.failed:
                    statuses[row.at] = RecaptionStatus.ENGINE_ERROR
                else:
                    statuses[row.at] = RecaptionStatus(row.fault or RecaptionStatus.EMPTY)
        stop_if_useless(answers, stage="recaption")
        return set_columns(
            rows,
            {
                "recaptions": pa.array(texts, pa.list_(RECAPTION)),
                "recaption_status": pa.array([status.value for status in statuses], pa.string()),
                "recaption_error": pa.array(errors, pa.string()),
            },
        )

    def _read(self, rows: pa.Table, at: int) -> _Row | str:
        """The row with its image decoded, or the error of the image."""
        from PIL import Image

        encoded = rows["image"][at].as_py()
        if not encoded:
            return "no image"
        try:
            image = Image.open(io.BytesIO(encoded)).convert("RGB")
        except Exception as error:  # Pillow's codecs raise OSError, ValueError, SyntaxError, struct.error, …
            return describe(error)
        caption = (rows["caption"][at].as_py() or "") if self._wants_caption else ""
        return _Row(at=at, encoded=encoded, digest=made_from(encoded), image=image, caption=caption)

    def _caption(self, chunk: Sequence[_Row]) -> list[Generated | Failure]:
        """Request every prompt for every row, prompt by prompt, and write the answers into the rows."""
        asked = [(row, prompt_id) for prompt_id in self._prompts for row in chunk]
        requests = [self._request(row, prompt_id) for row, prompt_id in asked]
        names = [self._name(row, request) for (row, _), request in zip(asked, requests, strict=True)]
        answers = self._asking.answers("caption", requests, names)
        stop_if_dead(answers.new, stage="recaption", probe=lambda: self._engine.caption([_probe(self._prompts)]))
        for (row, prompt_id), answer in zip(asked, answers.all, strict=True):
            if isinstance(answer, Failure):
                row.failed = True
                row.notes.append(f"{prompt_id}: {answer.error}")
            elif not answer.text:
                row.notes.append(f"{prompt_id}: empty")
            else:
                text, fault = checked(answer.text, cut=answer.cut)
                if fault is not None:
                    row.fault = row.fault or fault
                    limit = f" at {self._prompts[prompt_id].max_new_tokens} tokens" if answer.cut else ""
                    row.notes.append(
                        f"{prompt_id}: {fault}{limit}; {'its whole sentences stay' if text else 'no text'}"
                    )
                if text:
                    row.texts.append(self._provenance(prompt_id, answer, text))
        return answers.all

    def _request(self, row: _Row, prompt_id: str) -> CaptionRequest:
        prompt = self._prompts[prompt_id]
        rendered = prompt.text.replace(CAPTION_PLACEHOLDER, row.caption)
        return CaptionRequest(
            encoded=row.encoded,
            image=row.image,
            prompt=rendered,
            max_new_tokens=prompt.max_new_tokens or self._config.max_new_tokens,
            seed=text_seed(self._config.seed, row.digest, rendered),
        )

    def _name(self, row: _Row, request: CaptionRequest) -> Name:
        sampled = {"seed": request.seed} if self._config.temperature > 0 else {}
        limit = request.max_new_tokens
        return self._asking.name_of(row.digest, prompt=request.prompt, max_new_tokens=limit, **sampled)

    def _provenance(self, prompt_id: str, answer: Generated, text: str) -> dict[str, object]:
        prompt = self._prompts[prompt_id]
        return {
            "text": text,
            "kind": prompt.kind,
            "language": prompt.language,
            "model": self._config.model,
            "revision": self._checkpoint.revision,
            "prompt_id": prompt_id,
            "sampling": describe_sampling(self._config, prompt),
            "score": answer.score,
        }


def text_seed(seed: int, picture: str, prompt: str) -> int:
    """The 31-bit seed (servers take no more) of one text, the same in any batch, shard and run.

    picture: the digest of its bytes.  prompt: as the engine gets it.
    """
    content = f"{seed}\0{picture}\0{prompt}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(content, digest_size=4).digest(), "big") >> 1


def describe_sampling(config: RecaptionConfig, prompt: Prompt) -> str:
    """How the tokens of a text were chosen, as stored: `greedy,max_new_tokens=64`."""
    how = "greedy"
    if config.temperature > 0:
        how = f"temperature={config.temperature:g},top_p={config.top_p:g},seed={config.seed}"
    return f"{how},max_new_tokens={prompt.max_new_tokens}"


def _probe(prompts: Mapping[str, Prompt]) -> CaptionRequest:
    """A grey square with the first prompt: any working captioner can answer it."""
    from PIL import Image

    image = Image.new("RGB", (64, 64), (128, 128, 128))
    file = io.BytesIO()
    image.save(file, "PNG")
    text = next(iter(prompts.values())).text.replace(CAPTION_PLACEHOLDER, "")
    return CaptionRequest(encoded=file.getvalue(), image=image, prompt=text, max_new_tokens=8, seed=0)
