"""What stages share that ask a model for texts by prompts: recaption and rewrite_texts.

What a row gives to the prompts, what is taken of each answer (`caption_checks`), and what becomes of the row.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc

from curation.caption_checks import Fault, checked
from curation.engines import Failure, Generated
from curation.engines.model_files import Checkpoint
from curation.input_column import list_column
from curation.schema import set_columns
from curation.stage import Column, Runtime, Stage
from curation.telemetry import count_texts
from curation.templates import INPUT
from curation.text_prompts import PromptsConfig, prompt_id, templates_of
from pairmill.meters import Meter
from pairmill.registry import Registry

#: One text about an image: the fields of `layout.TEXT` that differ between such texts.
PROMPTED = (
    ("text", pa.string()),
    ("kind", pa.string()),
    ("language", pa.string()),
    ("model", pa.string()),
    ("revision", pa.string()),
    ("prompt_id", pa.string()),
    ("sampling", pa.string()),
    ("score", pa.float32()),
)


class TextStatus(str, Enum):
    """What became of a row's texts."""

    SUCCESS = "success"  # at least one text
    NOT_NEEDED = "not_needed"  # dropped before, or there is nothing to make a text from
    DECODE_ERROR = "decode_error"  # no image bytes, or they do not decode
    ENGINE_ERROR = "engine_error"  # no text, and the engine failed for at least one prompt
    EMPTY = "empty"  # the engine answered every prompt with nothing
    REPETITION = "repetition"  # no text: a loop
    TRUNCATED = "truncated"  # no text: not one sentence ended at the token limit
    REFUSAL = "refusal"  # no text: the model declined to write one
    REASONING = "reasoning"  # no text: the model's reasoning, and no text behind it
    SPECIAL_TOKEN = "special_token"  # no text: special tokens of the model, and no text before them


@dataclass
class PromptedRow:
    """A row that is asked about, and what its prompts have got so far.

    at: its place.  values: of the columns of the prompts, and its language if a prompt has none of its own.
    """

    at: int
    values: Mapping[str, Any]
    texts: list[dict[str, object]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    failed: bool = False
    fault: Fault | None = None

    @property
    def status(self) -> TextStatus:
        """What became of its texts, when every prompt is answered."""
        if self.texts:
            return TextStatus.SUCCESS
        return TextStatus.ENGINE_ERROR if self.failed else TextStatus(self.fault or TextStatus.EMPTY)


def prompted_columns(texts: str, kind: pa.StructType, status: str) -> tuple[Column, Column, Column]:
    """What such a stage adds.  texts: its column of texts, of this type.  status: its column of statuses."""
    return (
        Column(texts, pa.list_(kind), "texts about the image"),
        Column(status, pa.string(), "what became of the row's texts"),
        Column(status.replace("_status", "_error"), pa.string(), "why texts are missing"),
    )


class PromptedStage(Stage):
    """Base of the stages.  A subclass names its engines, adds `prompted_columns`, and says what is asked."""

    pool, isolates = "model", True
    #: Its engines.
    engines: ClassVar[Registry[Any]]
    #: Columns that decide its texts whatever the prompts say.
    always_reads: ClassVar[tuple[str, ...]] = ()

    def __init__(self, config: Any, *, engine: Any = None) -> None:
        """config: a `PromptsConfig`.  engine: to be used instead of the configured one."""
        super().__init__(config)
        self._config: PromptsConfig = config
        self._prompts = config.resolved_prompts()
        self._templates = templates_of(config)
        named = [column for template in self._templates.values() for column in template.columns]
        if any(prompt.language is None for prompt in self._prompts.values()):
            named.append("language")
        #: The columns that the prompts are filled from.
        self._columns = tuple(dict.fromkeys(named))
        self.reads = tuple(dict.fromkeys([*self.always_reads, *(n for n in named if n not in self.optional)]))
        self.reads_input = any(name.startswith(INPUT) for name in self.reads)
        self._given = engine
        if engine is not None:
            self.setup(Runtime())

    @property
    def active(self) -> bool:
        """Whether the recipe names a model."""
        return self._config.active

    @property
    def checkpoint(self) -> Checkpoint:
        """The model.  Raises UserError if there is no such model."""
        config = self._config
        found: Checkpoint = self.engines.get(config.engine.name).check(config.engine, config)
        return found

    def revision(self) -> str:
        """Hub commit, folder digest, or for a server the recipe's."""
        return self.checkpoint.revision

    def see(self, columns: Collection[str]) -> None:
        """Raise RecipeError for a prompt that names a column which no stage before adds."""
        known = {*columns, *type(self).optional}
        # A column of the list of the same name is another one.
        self.optional = tuple(name for name in type(self).optional if name in columns)
        for name, template in self._templates.items():
            template.check_names(f"prompt {name} of {self.section_name()}", known)

    def check(self, columns: Mapping[str, pa.DataType]) -> None:
        """Raise RecipeError for a prompt that names a column which the list lacks, or one without words."""
        without = {name: pa.list_(pa.struct(PROMPTED)) for name in type(self).optional}
        for name, template in self._templates.items():
            template.check_types(f"prompt {name} of {self.section_name()}", {**without, **columns})

    def setup(self, runtime: Runtime) -> None:
        """Load the engine.  Raises UserError if it cannot be loaded here."""
        config = self._config
        self._checkpoint = self.checkpoint
        engine = self._given
        if engine is None:
            engine = config.loaded(self.engines, self._checkpoint)
        self._engine: Any = engine
        self._asking = config.asking(engine, self._checkpoint, runtime, self.name, **config.sampling())

    def unfinished(self, rows: pa.Table) -> pa.ChunkedArray:
        """Rows that the engine failed for."""
        return pc.equal(rows[self.adds[1].name], TextStatus.ENGINE_ERROR.value)

    def count(self, meter: Meter, rows: pa.Table) -> None:
        """Texts written."""
        count_texts(meter, self.name, rows[self.adds[0].name])

    def _values(self, rows: pa.Table) -> list[dict[str, Any]]:
        """What each row gives to the prompts."""
        listed = [name for name in self._columns if name.startswith(INPUT)]
        there = {name: column for name in listed if (column := list_column(rows, name)) is not None}
        there |= {name: rows[name] for name in self._columns if name in rows.schema.names}
        values: list[dict[str, Any]] = pa.table(there).to_pylist() if there else [{} for _ in range(len(rows))]
        return values

    def _take(self, row: PromptedRow, name: str, answer: Generated | Failure, **provenance: object) -> None:
        """Write what an answer to a prompt is worth into its row.  provenance: beside what every text has."""
        if isinstance(answer, Failure):
            row.failed = True
            row.notes.append(f"{name}: {answer.error}")
            return
        if not answer.text:
            row.notes.append(f"{name}: empty")
            return
        prompt = self._prompts[name]
        text, fault = checked(answer.text, cut=answer.cut)
        if fault is not None:
            row.fault = row.fault or fault
            limit = f" at {prompt.max_new_tokens} tokens" if answer.cut else ""
            row.notes.append(f"{name}: {fault}{limit}; {'its whole sentences stay' if text else 'no text'}")
        if text:
            own = {
                "text": text,
                "kind": prompt.kind,
                "language": row.values.get("language") if prompt.language is None else prompt.language,
                "model": self._config.model,
                "revision": self._checkpoint.revision,
                "prompt_id": prompt_id(name, prompt),
                "sampling": self._config.described_sampling(prompt),
                "score": answer.score,
            }
            row.texts.append(own | provenance)

    def _filled(self, rows: pa.Table, done: Collection[PromptedRow], errors: Mapping[int, str]) -> pa.Table:
        """The rows with the stage's columns.

        done: the rows that were asked about.  errors: place -> why another row could not be.
        """
        texts: list[list[dict[str, object]]] = [[] for _ in range(len(rows))]
        statuses = [TextStatus.NOT_NEEDED] * len(rows)
        notes: list[str | None] = [None] * len(rows)
        for at, error in errors.items():
            statuses[at], notes[at] = TextStatus.DECODE_ERROR, error
        for row in done:
            texts[row.at], statuses[row.at], notes[row.at] = row.texts, row.status, "; ".join(row.notes) or None
        made = (texts, [status.value for status in statuses], notes)
        values = zip(self.adds, made, strict=True)
        return set_columns(rows, {column.name: pa.array(value, column.type) for column, value in values})
