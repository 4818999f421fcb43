"""Gate, as a stage: after captions and translations are written and scored, what of them is used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import pyarrow as pa
from pydantic import Field, field_validator

from curation.gates.gate import GATES, Gate, Verdict, Written
from curation.schema import set_columns
from curation.stage import Column, Stage, live_mask
from pairmill.config import Config
from pairmill.errors import IntegrityError, RecipeError
from pairmill.layout import GATE, VERDICT, written_texts
from pairmill.registry import ChosenBy, NamedConfig, is_import_path, source_digest

#: Who refuses a translation of a refused text.
SOURCE_REFUSED = "source_refused"

_DEFAULT = ("opener", "language", "length")
_TEXTS = ("caption", "language", "recaptions", "translations")


class GateConfig(Config):
    """`gate`: which of the texts that models wrote are used."""

    enabled: bool = Field(True, description="whether there are gates; false: every text is used")
    gates: tuple[Annotated[NamedConfig, ChosenBy(GATES)], ...] = Field(
        default_factory=lambda: tuple(GATES.get(name).Config(name=name) for name in _DEFAULT),
        description="gates in the order in which they are asked, each a name or a mapping of `name` and its keys; the "
        "first that refuses a text is its reason, and a change of one is what the next sees",
    )

    @field_validator("gates")
    @classmethod
    def _each_once(cls, value: tuple[NamedConfig, ...]) -> tuple[NamedConfig, ...]:
        names = [one.name for one in value]
        if twice := [name for name in names if names.count(name) > 1]:
            raise RecipeError(
                "gate.gates must name each gate once", value=f"{twice[0]} twice", fix="keep one of them, with its keys"
            )
        return value

    def identity(self) -> dict[str, Any]:
        """The configuration, with the source of each gate that is not ours."""
        own = {one.name: source_digest(one.name) for one in self.gates if is_import_path(one.name)}
        return super().identity() | ({"sources": own} if own else {})


class GateStage(Stage):
    """Ask the gates about every text that a model wrote; what they refuse is in neither product nor training.

    Nothing is dropped and no text is deleted: a refused one stays in the table of the stage that wrote it.  A
    translation of a refused text is refused as `source_refused`.
    """

    name, segment, last_of_segment = "gate", "rewrite", True
    reads: tuple[str, ...] = ("caption", "language")
    optional = ("recaptions", "translations")
    only_with = ("recaption", "translate")
    adds = (
        Column(
            GATE,
            pa.list_(VERDICT),
            "who refused or changed each text that a model wrote, in the order of `texts`, and the number that decided",
        ),
    )
    Config = GateConfig

    def __init__(self, config: GateConfig) -> None:
        super().__init__(config)
        self.gates: Mapping[str, Gate] = {one.name: GATES.get(one.name)(one) for one in config.gates}
        self.reads = tuple(dict.fromkeys([*type(self).reads, *(n for one in self.gates.values() for n in one.reads)]))
        self.libraries = tuple(dict.fromkeys(n for one in self.gates.values() for n in one.libraries))

    @property
    def active(self) -> bool:
        """Whether the recipe has gates."""
        return bool(self.config.enabled and self.gates)

    def check(self, columns: Mapping[str, pa.DataType]) -> None:
        """Raise RecipeError for a gate that cannot use the columns before it."""
        for gate in self.gates.values():
            gate.check(columns)

    def __call__(self, rows: pa.Table) -> pa.Table:
        live = live_mask(rows).to_pylist()
        names = [name for name in rows.schema.names if name in (*_TEXTS, *self.reads)]
        texts: list[Written] = []
        begins = []
        for row, is_live in zip(rows.select(names).to_pylist(), live, strict=True):
            begins.append(len(texts))
            texts += _written(row) if is_live else []
        verdicts = self.verdicts(texts)
        ends = [*begins[1:], len(texts)]
        made = [
            verdicts[begin:end] if is_live else None for begin, end, is_live in zip(begins, ends, live, strict=True)
        ]
        return set_columns(rows, {GATE: pa.array(made, pa.list_(VERDICT))})

    def verdicts(self, texts: Sequence[Written]) -> list[dict[str, Any]]:
        """What all gates together say of the texts of a shard, as `VERDICT`s; all texts of a row follow each other.

        Raises IntegrityError for a gate that does not answer as it must.
        """
        found: list[dict[str, Any]] = [dict.fromkeys(VERDICT.names) for _ in texts]
        now = list(texts)
        for name, gate in self.gates.items():
            kinds = getattr(gate.config, "kinds", None)
            asked = [
                at
                for at, (one, verdict) in enumerate(zip(now, found, strict=True))
                if verdict["refused_by"] is None and (kinds is None or one.kind in kinds)
            ]
            answers = gate([now[at] for at in asked]) if asked else []
            if len(answers) != len(asked) or not all(isinstance(one, Verdict) for one in answers):
                raise IntegrityError(f"the gate {name} must give a Verdict for each of {len(asked)} texts: {answers!r}")
            for at, answer in zip(asked, answers, strict=True):
                if answer.refused:
                    found[at] |= {"refused_by": name, "value": answer.value}
                elif answer.text is not None:
                    found[at] |= {"text": answer.text, "edited_by": name}
                    now[at] = now[at]._replace(text=answer.text)
        for at, one in enumerate(texts):
            # Texts of a row stand one behind the other, and the alt text, at place 0, is none of them.
            refused = one.source and found[at - one.at + one.source]["refused_by"]
            if refused and found[at]["refused_by"] is None:
                found[at]["refused_by"] = SOURCE_REFUSED
        return found


def _written(row: Mapping[str, Any]) -> list[Written]:
    """The texts of a row that models wrote."""
    made: list[dict[str, Any]] = written_texts(row)
    return [
        Written(
            text=one["text"] or "",
            kind=one["kind"],
            language=one["language"],
            prompt_id=one["prompt_id"],
            model=one["model"],
            score=one["score"],
            at=at,
            source=one["source_index"],
            row=row,
        )
        for at, one in enumerate(made)
        if at
    ]
