"""Translate every text of a row into the target languages, and keep only what looks like a translation.

translated_sentences cuts a text into its requests, translation_verdicts says what becomes of the answers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, field_validator, model_validator

from curation.chrf import chrf
from curation.engines import TRANSLATE_ENGINES, Failure, Generated, Translator
from curation.engines.asking import Asking
from curation.engines.generations import Name, made_from
from curation.engines.guard import stop_if_dead, stop_if_useless
from curation.engines.model_files import Checkpoint
from curation.engines.settings import EngineConfig
from curation.filters.evidence import DETECTORS
from curation.glossary import read_glossary
from curation.schema import live, set_columns
from curation.stage import Column, Runtime, Stage
from curation.telemetry import count_texts
from curation.translated_sentences import count_sentences
from curation.translation_checks import LengthBounds, TranslationStatus, length_bounds
from curation.translation_verdicts import Cut, Job, Outcome, Verdicts, cut, put_together, translated
from pairmill.languages import canonical, primary
from pairmill.layout import written_texts
from pairmill.meters import Meter
from pairmill.registry import ChosenBy, NamedConfig

#: One text in one target language.  `source_index` is the position of what was translated in [caption, *recaptions,
#: *rewrites].  `failed_sentence`, from 0, is the sentence of the source that `status` is about; null: it is about the
#: whole text.
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
        ("source_sentences", pa.int32()),
        ("sentences", pa.int32()),
        ("failed_sentence", pa.int32()),
        ("back_chrf", pa.float32()),
    ]
)


_ERROR = TranslationStatus.ENGINE_ERROR


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
    kinds: tuple[Literal["alt", "short", "long", "rewritten"], ...] = Field(
        default=("alt", "short", "long", "rewritten"), min_length=1, description="kinds of text to translate"
    )
    max_new_tokens: int = Field(
        default=256, ge=1, description="token limit of a translation, or of a sentence's; a longer one is refused"
    )
    split: Literal["auto", "never", "always"] = Field(
        default="auto",
        description="whether each sentence of a text is a request of its own; auto: if the engine's model was trained "
        "on single sentences, as all of transformers and ctranslate2 are, and none of openai",
    )
    glossary: Path | None = Field(
        default=None,
        description="file of terms, one a line: a term that must stay as it is, or term, target language and its "
        "translation with tabs between them; a text without them is refused",
    )
    check_numbers: bool = Field(
        default=True, description="whether to refuse texts that lost a number, or have one that the source has not"
    )
    min_back_chrf: float | None = Field(
        default=None,
        ge=0,
        le=100,
        description="least chrF2 (0-100) of the source and the text translated back into its language; null: nothing "
        "is translated back",
    )
    back_model: str | None = Field(
        default=None,
        min_length=1,
        description="model that translates back, by the same engine; null: `model`, which must have both directions",
    )
    back_revision: str | None = Field(default=None, description="as `revision`, of `back_model`")
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

    @model_validator(mode="after")
    def _back_model_is_used(self) -> TranslateConfig:
        if self.back_model is not None and self.min_back_chrf is None:
            raise ValueError("back_model must come with min_back_chrf; set it, for example to 30")
        if self.back_revision is not None and self.back_model is None:
            raise ValueError("back_revision must come with back_model; name the model, or remove it")
        return self

    @property
    def back(self) -> TranslateConfig | None:
        """The configuration of another model that translates back; None: there is none."""
        if self.back_model is None:
            return None
        engine = self.engine
        if (pair := getattr(engine, "pair", None)) is not None:
            engine = engine.model_copy(update={"pair": pair[::-1]})
        update = {"model": self.back_model, "revision": self.back_revision, "engine": engine}
        return self.model_copy(update={**update, "back_model": None, "back_revision": None})

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


class Translate(Stage):
    """Translate every text into every target; each translation is checked, and is a text or a status.

    The checks: language, length, loops, lost sentences, numbers, terms of a glossary, and translating back.

    The same rows are returned in the same order, and none is ever dropped.  All texts of the table are translated
    together, those of several sentences by sentences: equal ones once, and the engine sorts them by length.

    Raises JobError if the engine is dead, or if all of at least `guard.MANY` texts of a table fail alike: the shard
    stays uncommitted, and running again resumes with it.
    """

    name, segment, pool, isolates = "translate", "rewrite", "model", True
    reads = ("caption", "language")
    adds = (
        Column("translations", pa.list_(TRANSLATION), "a text or a failed check for each text and target"),
        Column("translate_status", pa.string(), "what became of the row's translations"),
        Column("translate_error", pa.string(), "the engine's errors"),
    )
    optional = ("recaptions", "rewrites")
    Config = TranslateConfig

    def __init__(
        self, config: TranslateConfig, *, engine: Translator | None = None, back: Translator | None = None
    ) -> None:
        """engine, back: to be used instead of the configured one, and of that of `back_model`."""
        super().__init__(config)
        self._config = config
        self._given, self._given_back = engine, back
        self.libraries = DETECTORS if config.check_language else ()
        if engine is not None:
            self.setup(Runtime())

    @property
    def active(self) -> bool:
        """Whether the recipe names a translator."""
        return self._config.active

    def revision(self) -> object:
        """Hub commit or folder digest, with those of the glossary and of the model that translates back, if any."""
        config = self._config
        more = [] if config.glossary is None else [read_glossary(config.glossary).digest]
        more += [] if config.back is None else [model_revision(config.back)]
        return [model_revision(config), *more] if more else model_revision(config)

    def setup(self, runtime: Runtime) -> None:
        """Load the engine.  Raises UserError if it cannot be loaded here."""
        config = self._config
        self._checkpoint = _checkpoint(config)
        engine = self._given
        if engine is None:
            engine = config.loaded(TRANSLATE_ENGINES, self._checkpoint)
        self._engine: Translator = engine
        self._asking = config.asking(engine, self._checkpoint, runtime, self.name)
        self._back, self._asking_back = engine, self._asking
        if (other := config.back) is not None:
            checkpoint = _checkpoint(other)
            back = self._given_back
            self._back = other.loaded(TRANSLATE_ENGINES, checkpoint) if back is None else back
            self._asking_back = other.asking(self._back, checkpoint, runtime, self.name)
        by = config.split == "always" or (config.split == "auto" and getattr(engine, "sentence_model", False))
        self._by_sentences = by
        self._verdicts = Verdicts(config, None if config.glossary is None else read_glossary(config.glossary))

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
        self._asking_back.for_rows(rows)
        wanted = [
            [(source, target) for target in self._config.targets for source in sources if _needs(source, target)]
            for sources in self._sources(rows)
        ]
        jobs = {Job(source.text, source.language, target) for row in wanted for source, target in row}
        outcomes = self._translate(jobs)
        translations: list[list[dict[str, object]]] = []
        statuses: list[str] = []
        errors: list[str | None] = []
        for row in wanted:
            made = [outcomes[Job(source.text, source.language, target)] for source, target in row]
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
        names = [name for name in ("caption", "language", *self.optional) if name in rows.schema.names]
        for is_live, row in zip(live(rows).to_pylist(), rows.select(names).to_pylist(), strict=True):
            texts: list[dict[str, Any]] = written_texts(row)
            yield [
                _Source(text["text"], canonical(text["language"]), text["kind"], at)
                for at, text in enumerate(texts)
                if is_live and text["kind"] in self._config.kinds and (text["text"] or "").strip()
            ]

    def _translate(self, jobs: Iterable[Job]) -> dict[Job, Outcome]:
        outcomes: dict[Job, Outcome] = {}
        directions: dict[tuple[str, str], list[Job]] = defaultdict(list)
        # Sorted, because a set's order differs between processes, and batches must not.
        for job in sorted(jobs):
            directions[job.source, job.target].append(job)
        answers: list[Generated | Failure] = []
        for (source, target), alike in directions.items():
            if not self._engine.supports(source, target):
                outcomes |= {job: Outcome(None, None, TranslationStatus.UNSUPPORTED_LANGUAGE) for job in alike}
                continue
            cuts = [cut(job, by_sentences=self._by_sentences) for job in alike]
            made = self._answers(self._asking, cuts, source, target)
            answers += made.values()
            outcomes |= zip(alike, self._checked_back(cuts, self._verdicts(cuts, made), made), strict=True)
        stop_if_useless(answers, stage="translate")
        return outcomes

    def _answers(self, asking: Asking, cuts: Sequence[Cut], source: str, target: str) -> dict[str, Generated | Failure]:
        """The answer to each request of some jobs, equal ones once and in a fixed order."""
        texts = sorted({request for one in cuts for request in one.requests})
        names = [self._name(asking, text, source, target) for text in texts]
        made = asking.answers("translate", texts, names, source=source, target=target)
        stop_if_dead(made.new, stage="translate", probe=partial(_probe, asking.engine, source, target))
        return dict(zip(texts, made.all, strict=True))

    def _name(self, asking: Asking, text: str, source: str, target: str) -> Name:
        limit = self._config.max_new_tokens
        return asking.name_of(made_from(text), source=source, target=target, max_new_tokens=limit)

    def _checked_back(
        self, cuts: Sequence[Cut], outcomes: Sequence[Outcome], made: Mapping[str, Generated | Failure]
    ) -> list[Outcome]:
        """The outcomes, of which a text stays only if it says the same when translated back."""
        least = self._config.min_back_chrf
        there = [at for at, outcome in enumerate(outcomes) if outcome.text is not None]
        if least is None or not there:
            return list(outcomes)
        source, target = cuts[0].job.target, cuts[0].job.source
        back = [translated(cuts[at], made) for at in there]
        answers: dict[str, Generated | Failure] = {}
        if supported := self._back.supports(source, target):
            answers = self._answers(self._asking_back, back, source, target)
        checked = list(outcomes)
        for at, one in zip(there, back, strict=True):
            failed = [answers[text] for text in one.requests if isinstance(answers.get(text), Failure)]
            if failed and isinstance(failed[0], Failure):
                checked[at] = outcomes[at]._replace(text=None, status=_ERROR, error=failed[0].error)
                continue
            # A text that cannot be checked has not passed.
            alike = chrf(put_together(one, answers) or "", cuts[at].job.text) if supported else None
            checked[at] = outcomes[at]._replace(back_chrf=alike)
            if alike is None or alike < least:
                checked[at] = checked[at]._replace(text=None, status=TranslationStatus.BACK_TRANSLATION)
        return checked

    def _entry(self, source: _Source, target: str, outcome: Outcome) -> dict[str, object]:
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
            "source_sentences": count_sentences(source.text, source.language),
            "sentences": outcome.sentences,
            "failed_sentence": outcome.failed_sentence,
            "back_chrf": outcome.back_chrf,
        }


def _probe(engine: Translator, source: str, target: str) -> list[Generated | Failure]:
    """The answer to a text that any working translator can answer."""
    return engine.translate(["1"], source=source, target=target)


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
