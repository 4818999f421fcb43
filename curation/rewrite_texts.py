"""Rewrite alt texts: alt text, new captions and tags become one refined text, by a model that reads text alone.

M2-RAAP (Dong et al. 2024) has a language model join the alt text and a caption; Altogether (Xu et al. 2024) realigns
alt texts, so that their names and places stay and what the picture does not show goes.  A captioner that sees both
picture and alt text can do so too: `recaption.prompts: {rewritten: …{caption}…}`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import pyarrow as pa
from pydantic import Field, model_validator

from curation.engines import REWRITE_ENGINES, RewriteRequest
from curation.engines.generations import Name, made_from
from curation.engines.guard import stop_if_dead, stop_if_useless
from curation.prompted_stage import PROMPTED, PromptedRow, PromptedStage, prompted_columns
from curation.schema import live
from curation.templates import column_of, texts_of
from curation.text_prompts import Kind, Prompt, PromptsConfig, templates_of, text_seed
from pairmill.registry import ChosenBy, NamedConfig

#: One rewritten text.  `source_index` is the position in [caption, *recaptions] of the first text it was made from.
REWRITE = pa.struct([*PROMPTED, ("source_index", pa.int32())])

#: The columns that texts are rewritten from.
_ALT, _CAPTIONS = "caption", "recaptions"

DEFAULT_PROMPTS: Mapping[str, str | Prompt] = {
    "rewritten": Prompt(
        version=1,
        language=None,
        text="""\
Below is what is known of one picture. Write one caption of it, of one to three sentences, in the language of the alt \
text. Keep the names, places and numbers of the alt text. Add what the descriptions say of the picture, and leave out \
what contradicts them, and whatever is not about the picture: file names, prices, advertising. Add nothing else. \
Answer with the caption alone.
Alt text: {caption}
Descriptions: {recaptions}
Tags: {recaptions.tags}""",
    )
}

_ENGINE = ChosenBy(REWRITE_ENGINES, default="transformers")


class RewriteTextsConfig(PromptsConfig):
    """`rewrite_texts`: which language model, and what it is asked."""

    kind_otherwise: ClassVar[Kind] = "rewritten"

    engine: Annotated[NamedConfig, _ENGINE] = Field(
        default_factory=lambda: _ENGINE.parse({}),
        description="language model; transformers: in the actor; openai: any server with /v1/chat/completions; "
        "{name: …, key: …} sets its own keys",
    )
    prompts: Mapping[str, str | Prompt] = Field(
        default=DEFAULT_PROMPTS,
        min_length=1,
        description="prompt_id -> prompt, which names {caption}, the alt text, or {recaptions}, the texts of "
        "`recaption`; one text is written for each",
    )

    @model_validator(mode="after")
    def _each_has_a_source(self) -> RewriteTextsConfig:
        for name, template in templates_of(self).items():
            if not {_ALT, _CAPTIONS} & {*template.columns}:
                raise ValueError(
                    f"prompts: {name} must name {{caption}} or {{recaptions}}, to make a text of; add one of them"
                )
        return self


@dataclass
class _Request:
    """A prompt of a row.  source: the place of the first text it names; made_from: that text's digest."""

    row: PromptedRow
    name: str
    source: int
    made_from: str
    asked: RewriteRequest = field(kw_only=True)


class RewriteTexts(PromptedStage):
    """Make one refined text of alt text, captions and tags, by a language model that sees no picture.

    A prompt may name other columns of the row too (`curation/templates.py`); a row is not asked about where alt text
    and captions that a prompt names are empty.  Answers are checked as captions are (`caption_checks`).  The same rows
    are returned in the same order, and none is ever dropped.  Whether a rewritten text is used, the gates decide.

    Raises JobError as `recaption` does.
    """

    name, segment = "rewrite_texts", "rewrite"
    optional = (_CAPTIONS,)
    adds = prompted_columns("rewrites", REWRITE, "rewrite_status")
    engines = REWRITE_ENGINES
    Config = RewriteTextsConfig

    def __call__(self, rows: pa.Table) -> pa.Table:
        self._asking.for_rows(rows)
        alive = live(rows).to_pylist()
        done = [PromptedRow(at, values) for at, values in enumerate(self._values(rows)) if alive[at]]
        wanted = [found for name in self._prompts for row in done if (found := self._request(row, name)) is not None]
        asked, names = [one.asked for one in wanted], [self._name(one) for one in wanted]
        answers = self._asking.answers("rewrite", asked, names)
        stop_if_dead(answers.new, stage=self.name, probe=lambda: self._engine.rewrite([self._probe()]))
        stop_if_useless(answers.all, stage=self.name)
        for one, answer in zip(wanted, answers.all, strict=True):
            self._take(one.row, one.name, answer, source_index=one.source)
        there = {one.row.at for one in wanted}
        return self._filled(rows, [row for row in done if row.at in there], {})

    def _request(self, row: PromptedRow, name: str) -> _Request | None:
        """What is asked of a row; None where there is nothing to make a text from."""
        source = _source(self._templates[name].names, row.values)
        if source is None:
            return None
        place, text = source
        filled, made = self._templates[name].filled(row.values), made_from(text)
        limit = self._prompts[name].max_new_tokens or self._config.max_new_tokens
        asked = RewriteRequest(filled, limit, text_seed(self._config.seed, made, filled))
        return _Request(row, name, place, made, asked=asked)

    def _name(self, one: _Request) -> Name:
        sampled = {"seed": one.asked.seed} if self._config.temperature > 0 else {}
        limit = one.asked.max_new_tokens
        return self._asking.name_of(one.made_from, prompt=one.asked.prompt, max_new_tokens=limit, **sampled)

    def _probe(self) -> RewriteRequest:
        """The first prompt, about nothing: any working language model can answer it."""
        return RewriteRequest(next(iter(self._templates.values())).filled({}), max_new_tokens=8, seed=0)


def _source(names: tuple[str, ...], values: Mapping[str, Any]) -> tuple[int, str] | None:
    """The first text that a prompt names, and its place in [caption, *recaptions]."""
    if _ALT in names and (values.get(_ALT) or "").strip():
        return 0, values[_ALT]
    places = [at for name in names if column_of(name) == _CAPTIONS for at in texts_of(name, values)]
    return (min(places) + 1, values[_CAPTIONS][min(places)]["text"]) if places else None
