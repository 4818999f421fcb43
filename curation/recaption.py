"""Write new captions from the image: several prompts per row, each text with its provenance and score."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, NamedTuple

import pyarrow as pa
from pydantic import Field

from curation.engines import CAPTION_ENGINES, CaptionRequest, Failure, Generated
from curation.engines.generations import Name, made_from
from curation.engines.guard import describe, stop_if_dead, stop_if_useless
from curation.prompted_stage import PROMPTED, PromptedRow, PromptedStage, prompted_columns
from curation.schema import live
from curation.text_prompts import Prompt, PromptsConfig, text_seed
from pairmill.registry import ChosenBy, NamedConfig

if TYPE_CHECKING:
    from PIL import Image

#: One text about an image: the fields of `layout.TEXT` that differ between such texts.
RECAPTION = pa.struct(PROMPTED)

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


class RecaptionConfig(PromptsConfig):
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


class _Pictured(NamedTuple):
    """A live row with an image.  encoded, digest: its file and that file's digest."""

    row: PromptedRow
    encoded: bytes
    digest: str
    image: Image.Image


class Recaption(PromptedStage):
    """Write new captions from the image: several prompts per row, by the engine that the recipe names.

    A prompt may name columns of the row (`curation/templates.py`).  A loop, a half sentence, a refusal, reasoning and
    another turn are no captions (`caption_checks`): the whole sentences without them stay, or the row has no text and a
    status that says why.  The same rows are returned in the same order, and none is ever dropped.  Rows go to the
    engine in row order, so a shard is always cut into the same batches.

    Raises JobError if the engine is dead (a call and a harmless probe both get no answer), or if all of at least
    `guard.MANY` texts of a table fail alike: the shard stays uncommitted, and running again resumes with it.
    """

    name, segment = "recaption", "rewrite"
    always_reads = ("image",)
    adds = prompted_columns("recaptions", RECAPTION, "recaption_status")
    libraries = ("pillow",)  # decodes the pictures for every engine
    engines = CAPTION_ENGINES
    Config = RecaptionConfig

    def __call__(self, rows: pa.Table) -> pa.Table:
        answers: list[Generated | Failure] = []
        done: list[PromptedRow] = []
        errors: dict[int, str] = {}
        self._asking.for_rows(rows)
        values = self._values(rows)
        positions = [at for at, is_live in enumerate(live(rows).to_pylist()) if is_live]
        step = self._engine.rows_per_call
        for start in range(0, len(positions), step):
            chunk = []
            for at in positions[start : start + step]:
                read = _read(rows["image"][at].as_py(), PromptedRow(at, values[at]))
                if isinstance(read, str):
                    errors[at] = read
                else:
                    chunk.append(read)
            answers += self._caption(chunk)
            done += [pictured.row for pictured in chunk]
        stop_if_useless(answers, stage="recaption")
        return self._filled(rows, done, errors)

    def _caption(self, chunk: Sequence[_Pictured]) -> list[Generated | Failure]:
        """Request every prompt for every row, prompt by prompt, and write the answers into the rows."""
        asked = [(pictured, name) for name in self._prompts for pictured in chunk]
        requests = [self._request(pictured, name) for pictured, name in asked]
        names = [self._name(pictured.digest, request) for (pictured, _), request in zip(asked, requests, strict=True)]
        answers = self._asking.answers("caption", requests, names)
        stop_if_dead(answers.new, stage="recaption", probe=lambda: self._engine.caption([self._probe()]))
        for (pictured, name), answer in zip(asked, answers.all, strict=True):
            self._take(pictured.row, name, answer)
        return answers.all

    def _request(self, pictured: _Pictured, name: str) -> CaptionRequest:
        filled = self._templates[name].filled(pictured.row.values)
        return CaptionRequest(
            encoded=pictured.encoded,
            image=pictured.image,
            prompt=filled,
            max_new_tokens=self._prompts[name].max_new_tokens or self._config.max_new_tokens,
            seed=text_seed(self._config.seed, pictured.digest, filled),
        )

    def _name(self, digest: str, request: CaptionRequest) -> Name:
        sampled = {"seed": request.seed} if self._config.temperature > 0 else {}
        limit = request.max_new_tokens
        return self._asking.name_of(digest, prompt=request.prompt, max_new_tokens=limit, **sampled)

    def _probe(self) -> CaptionRequest:
        """A grey square with the first prompt: any working captioner can answer it."""
        from PIL import Image

        image = Image.new("RGB", (64, 64), (128, 128, 128))
        file = io.BytesIO()
        image.save(file, "PNG")
        text = next(iter(self._templates.values())).filled({})
        return CaptionRequest(encoded=file.getvalue(), image=image, prompt=text, max_new_tokens=8, seed=0)


def _read(encoded: bytes | None, row: PromptedRow) -> _Pictured | str:
    """The row with its image decoded, or the error of the image."""
    from PIL import Image

    if not encoded:
        return "no image"
    try:
        image = Image.open(io.BytesIO(encoded)).convert("RGB")
    except Exception as error:  # Pillow's codecs raise OSError, ValueError, SyntaxError, struct.error, …
        return describe(error)
    return _Pictured(row, encoded, made_from(encoded), image)
