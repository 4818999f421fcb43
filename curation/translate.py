"""Translate every text of a row into the target languages, and keep only what looks like a translation."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from enum import Enum
from functools import partial
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, field_validator

from curation.engines import TRANSLATE_ENGINES, Failure, Generated, Translator
from curation.engines.generations import Name, made_from
from curation.engines.guard import stop_if_dead, stop_if_useless
from curation.engines.model_files import Checkpoint
from curation.engines.settings import EngineConfig
from curation.filters.evidence import DETECTORS
from curation.lost_sentences import has_lost_sentences
from curation.schema import live, set_columns
from curation.stage import Column, Runtime, Stage
from curation.telemetry import count_texts
from curation.translation_checks import (
    LengthBounds,
    TranslationStatus,
    has_bad_length,
    is_wrong_language,
    length_bounds,
    longest_loop,
)
from pairmill.languages import canonical, primary
from pairmill.meters import Meter
from pairmill.registry import ChosenBy, NamedConfig

#: One text in one target language.  `source_index` is the position in [caption, *recaptions] of what was translated.
TRANSLATION = pa.struct(
    [
        ("text", pa.string()),
        ("language", pa.string()),
        ("source_kind", pa.string()),
        ("source_index", pa.int32()),
        ("model", pa.string()),
        ("revision", pa.string()),
        ("sampling", pa.string()),
        ("score", pa.float32()),
        ("status", pa.string()),
    ]
)


class RowStatus(str, Enum):
    """What became of a row's translations."""

    SUCCESS = "success"  # all there
    NOT_NEEDED = "not_needed"  # dropped before, or every text is in the target languages already
    PARTIAL = "partial"  # some there
    FAILED = "failed"  # none there
    ENGINE_ERROR = "engine_error"  # none there, and the engine failed for all of them


_ENGINE = ChosenBy(TRANSLATE_ENGINES, default="transformers")


class TranslateConfig(EngineConfig):
    """`translate`: which translator, what is translated, and what counts as a translation."""

    engine: Annotated[NamedConfig, _ENGINE] = Field(
        default_factory=lambda: _ENGINE.parse({}),
        description="translator; transformers: in the actor; ctranslate2: the same checkpoints, faster (needs "
        "pairmill[ctranslate2]); openai: any server with /v1/chat/completions; {name: …, key: …} sets its own keys",
    )
    targets: tuple[str, ...] = Field(
        default=("zh",),
        min_length=1,
        description="languages to translate into (ISO 639-1; zh-hant for traditional Chinese)",
    )
    kinds: tuple[Literal["alt", "short", "long"], ...] = Field(
        default=("alt", "short", "long"), min_length=1, description="kinds of text to translate"
    )
    max_new_tokens: int = Field(default=256, ge=1, description="token limit of a translation; a longer one is refused")
    min_length_ratio: float | None = Field(
        default=None,
        ge=0,
        description="least characters per character of the source; null: by the two languages' scripts",
    )
    max_length_ratio: float | None = Field(
        default=None,
        gt=0,
        description="most characters per character of the source; null: by the two languages' scripts",
    )
    max_repeat: int = Field(
        default=3, ge=1, description="most consecutive repeats of a phrase, unless the source repeats itself as often"
    )
    check_language: bool = Field(
        default=True, description="whether to refuse texts that are surely not in the target language"
    )
    min_language_score: float = Field(
        default=0.5, ge=0, le=1, description="least confidence of the detector, 0-1, to be sure of another language"
    )

    @field_validator("targets")
    @classmethod
    def _canonical_targets(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(canonical(code) for code in value))

    def bounds(self, source: str, target: str) -> LengthBounds:
        """The length bounds between two languages: the usual ones, unless this configuration sets others."""
        usual = length_bounds(source, target)
        least = usual.least if self.min_length_ratio is None else self.min_length_ratio
        most = usual.most if self.max_length_ratio is None else self.max_length_ratio
        return usual._replace(least=least, most=most)


def model_revision(config: TranslateConfig) -> str:
    """The revision stored with each text: hub commit or folder digest.

    Raises UserError if there is no such model.
    """
    return _checkpoint(config).revision


def _checkpoint(config: TranslateConfig) -> Checkpoint:
    return TRANSLATE_ENGINES.get(config.engine.name).check(config.engine, config)


class _Source(NamedTuple):
    """A text that could be translated."""

    text: str
    language: str
    kind: str
    position: int


class _Job(NamedTuple):
    """A translation that is made once, however many rows need it."""

    text: str
    source: str
    target: str


class _Outcome(NamedTuple):
    """The result of a job: a text with its score, or a status that gives the reason for none."""

    text: str | None
    score: float | None
    status: TranslationStatus
    error: str | None = None


class Translate(Stage):
    """Translate every text into every target; each translation is checked: language, length, loops, lost sentences.

    The same rows are returned in the same order, and none is ever dropped.  All texts of the table are translated
    together: equal ones once, and the engine sorts them by length.

    Raises JobError if the engine is dead, or if all of at least `guard.MANY` texts of a table fail alike: the shard
    stays uncommitted, and running again resumes with it.
    """

    name, segment, pool = "translate", "rewrite", "model"
    reads = ("caption", "language")
    adds = (
        Column("translations", pa.list_(TRANSLATION), "a text or a failed check for each text and target"),
        Column("translate_status", pa.string(), "what became of the row's translations"),
        Column("translate_error", pa.string(), "the engine's errors"),
    )
    optional = ("recaptions",)
    Config = TranslateConfig

    def __init__(self, config: TranslateConfig, *, engine: Translator | None = None) -> None:
        """engine: to be used instead of the configured one."""
        super().__init__(config)
        self._config = config
        self._given = engine
        self.libraries = DETECTORS if config.check_language else ()
        if engine is not None:
            self.setup(Runtime())

    @property
    def active(self) -> bool:
        """Whether the recipe names a translator."""
        return self._config.active

    def revision(self) -> str:
        """Hub commit or folder digest."""
        return model_revision(self._config)

    def setup(self, runtime: Runtime) -> None:
        """Load the engine.  Raises UserError if it cannot be loaded here."""
        config = self._config
        self._checkpoint = _checkpoint(config)
        engine = self._given
        if engine is None:
            engine = config.loaded(TRANSLATE_ENGINES, self._checkpoint)
        self._engine: Translator = engine
        self._asking = config.asking(engine, self._checkpoint, runtime, self.name)

    def unfinished(self, rows: pa.Table) -> pa.ChunkedArray:
        """Rows that the engine failed for, in whole or in part."""
        return pc.is_valid(rows["translate_error"])

    def usable(self, rows: pa.Table) -> pa.Array:
        """Translations that passed the checks."""
        made = rows["translations"].combine_chunks()
        good = pc.is_valid(pc.struct_field(pc.list_flatten(made), "text"))
        return pa.array(np.bincount(pc.list_parent_indices(made).filter(good), minlength=len(rows)))

    def count(self, meter: Meter, rows: pa.Table) -> None:
        """Translations written."""
        count_texts(meter, self.name, rows["translations"])

    def __call__(self, rows: pa.Table) -> pa.Table:
        self._asking.for_rows(rows)
        wanted = [
            [(source, target) for target in self._config.targets for source in sources if _needs(source, target)]
            for sources in self._sources(rows)
        ]
        jobs = {_Job(source.text, source.language, target) for row in wanted for source, target in row}
        outcomes = self._translate(jobs)
        translations: list[list[dict[str, object]]] = []
        statuses: list[str] = []
        errors: list[str | None] = []
        for row in wanted:
            made = [outcomes[_Job(source.text, source.language, target)] for source, target in row]
            translations.append([self._entry(*pair, outcome) for pair, outcome in zip(row, made, strict=True)])
            statuses.append(row_status([outcome.status for outcome in made]).value)
            errors.append("; ".join(dict.fromkeys(o.error for o in made if o.error is not None)) or None)
        return set_columns(
            rows,
            {
                "translations": pa.array(translations, pa.list_(TRANSLATION)),
                "translate_status": pa.array(statuses, pa.string()),
                "translate_error": pa.array(errors, pa.string()),
            },
        )

    def _sources(self, rows: pa.Table) -> Iterable[list[_Source]]:
        """The texts of each row that are of a kind to translate; none for a dropped row."""
        recaptions: Sequence[Any] = [None] * rows.num_rows
        if "recaptions" in rows.schema.names:
            recaptions = rows["recaptions"].to_pylist()
        columns = (live(rows).to_pylist(), rows["caption"].to_pylist(), rows["language"].to_pylist(), recaptions)
        for is_live, caption, language, made in zip(*columns, strict=True):
            texts = [{"text": caption, "language": language, "kind": "alt"}, *(made or ())]
            yield [
                _Source(text["text"], canonical(text["language"]), text["kind"], at)
                for at, text in enumerate(texts)
                if is_live and text["kind"] in self._config.kinds and (text["text"] or "").strip()
            ]

    def _translate(self, jobs: Iterable[_Job]) -> dict[_Job, _Outcome]:
        outcomes: dict[_Job, _Outcome] = {}
        directions: dict[tuple[str, str], list[_Job]] = defaultdict(list)
        # Sorted, because a set's order differs between processes, and batches must not.
        for job in sorted(jobs):
            directions[job.source, job.target].append(job)
        answers: list[Generated | Failure] = []
        for (source, target), alike in directions.items():
            if not self._engine.supports(source, target):
                outcomes |= {job: _Outcome(None, None, TranslationStatus.UNSUPPORTED_LANGUAGE) for job in alike}
                continue
            texts = [job.text for job in alike]
            names = [self._name(job) for job in alike]
            made = self._asking.answers("translate", texts, names, source=source, target=target)
            stop_if_dead(made.new, stage="translate", probe=partial(self._probe, source, target))
            answers += made.all
            outcomes |= zip(alike, self._judge(alike, made.all), strict=True)
        stop_if_useless(answers, stage="translate")
        return outcomes

    def _name(self, job: _Job) -> Name:
        limit = self._config.max_new_tokens
        return self._asking.name_of(made_from(job.text), source=job.source, target=job.target, max_new_tokens=limit)

    def _probe(self, source: str, target: str) -> list[Generated | Failure]:
        """A text that any working translator can answer."""
        return self._engine.translate(["1"], source=source, target=target)

    def _judge(self, jobs: Sequence[_Job], answers: Sequence[Generated | Failure]) -> list[_Outcome]:
        texts = ["" if isinstance(answer, Failure) else answer.text for answer in answers]
        detected: Iterable[tuple[str, float]] = [("und", 0.0)] * len(texts)
        if self._config.check_language:
            # Imported here: it loads the language model.
            from curation.filters.language import detect

            detected = zip(*detect(texts), strict=True)
        return [self._check(*each) for each in zip(jobs, answers, detected, strict=True)]

    def _check(self, job: _Job, answer: Generated | Failure, detected: tuple[str, float]) -> _Outcome:
        """All checks, the most specific first: a text in another language also has another length."""
        if isinstance(answer, Failure):
            return _Outcome(None, None, TranslationStatus.ENGINE_ERROR, answer.error)
        language, confidence = detected
        status = TranslationStatus.SUCCESS
        if not answer.text:
            status = TranslationStatus.EMPTY
        elif longest_loop(answer.text) > max(self._config.max_repeat, longest_loop(job.text)):
            status = TranslationStatus.REPETITION
        elif answer.cut:
            status = TranslationStatus.TRUNCATED
        elif is_wrong_language(language, confidence, job.target, least_confidence=self._config.min_language_score):
            status = TranslationStatus.WRONG_LANGUAGE
        elif has_bad_length(job.text, answer.text, self._config.bounds(job.source, job.target)):
            status = TranslationStatus.BAD_LENGTH_RATIO
        elif has_lost_sentences(job.text, answer.text, job.source, job.target):
            status = TranslationStatus.LOST_SENTENCES
        text = answer.text if status is TranslationStatus.SUCCESS else None
        return _Outcome(text, answer.score, status)

    def _entry(self, source: _Source, target: str, outcome: _Outcome) -> dict[str, object]:
        return {
            "text": outcome.text,
            "language": target,
            "source_kind": source.kind,
            "source_index": source.position,
            "model": self._config.model,
            "revision": self._checkpoint.revision,
            "sampling": self._engine.sampling,
            "score": outcome.score,
            "status": outcome.status.value,
        }


def _needs(source: _Source, target: str) -> bool:
    """Whether the text must be translated: not if it is in the language already.

    The detector does not distinguish the scripts of Chinese, so a `zh` caption counts as `zh-hant` too.
    """
    return primary(source.language) != primary(target)


def row_status(made: Sequence[TranslationStatus]) -> RowStatus:
    """A row's status from those of its translations."""
    if not made:
        return RowStatus.NOT_NEEDED
    succeeded = sum(status is TranslationStatus.SUCCESS for status in made)
    if succeeded:
        return RowStatus.SUCCESS if succeeded == len(made) else RowStatus.PARTIAL
    only_engine = all(status is TranslationStatus.ENGINE_ERROR for status in made)
    return RowStatus.ENGINE_ERROR if only_engine else RowStatus.FAILED
