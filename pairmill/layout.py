"""The contract of a curated run directory: what curation writes into it and training reads from it.

pairs/part-*.parquet              the product
images/, columns/<stage>/         pixels and narrow columns, row-aligned, one file per shard
selections/<name>/                uid, keep, reason: which of those rows are in a dataset; group_id: rows of one
                                  number are no negatives of each other
"""

from __future__ import annotations

import re
from collections.abc import Container, Mapping, Sequence
from typing import TypeVar

import pyarrow as pa

from pairmill.errors import RunDirError

T = TypeVar("T")

#: The recipe that a run directory was made with, curated or trained.
RECIPE_FILE = "recipe.yaml"

#: That of a curation again: what says how a run was made must outlast a damaged sector.
RECIPE_COPY = "recipe-copy.yaml"

#: The commit of a curation's plan, and so the mark of its run directory.
PLAN_JSON = "plan/plan.json"

#: The same again: what says which shards a run has must outlast a damaged sector.
PLAN_COPY = "plan/plan-copy.json"

#: Where the damaged files of a run are kept.
ASIDE = "damaged"

#: The product's table.
PAIRS = "pairs"

#: The folder of the selections.
SELECTIONS = "selections"

#: The folder of what probes found about a run's embeddings; like reports, they are made from the rest.
PROBES = "probes"

#: The folder of the texts that models wrote for a run, unless its recipe names another one.
GENERATIONS = "generations"

#: The column of a selection in which duplicates stay, and of what is packed from it: the number of a row's family.
GROUP_ID = "group_id"

#: The folder of what is kept of evaluation sets.
REFERENCES = "references"

#: The verdicts of the filters of a run's own recipe on every row.
FILTER_TABLE = "columns/filter"


def filter_table(selection: str) -> str:
    """The table of the filters behind a selection, where they are not the run's own."""
    return f"{FILTER_TABLE}-{selection}"


def text_scores_column(encoder: str) -> str:
    """The column of how well a dual encoder of the recipe finds that each of a row's texts fits: as `row_texts`."""
    return f"{score_column(encoder)}_texts"


def scored_by(column: str) -> str | None:
    """The dual encoder whose `text_scores_column` this is; None for another column."""
    found = re.fullmatch(text_scores_column(r"(\w+)"), column)
    return found[1] if found else None


def score_column(encoder: str) -> str:
    """The column of how well a dual encoder of the recipe finds that a row's caption, its first text, fits."""
    return f"score_{encoder}"


def text_scores_table(encoder: str) -> str:
    """The table of the scores of texts that models wrote."""
    return f"columns/embed_texts-{encoder}"


def score_table(encoder: str) -> str:
    """The table of the scores of captions."""
    return f"columns/embed-{encoder}"


#: Where a text comes from.
TEXT_KINDS = ("alt", "short", "long", "rewritten", "translated")

#: Of a text that was written not to fit its picture: nothing takes it for one that does.
NEGATIVE = "negative"

#: One text of a pair, with its provenance.  `source_index` is the position, in the same list, of the text it was made
#: from (translations, rewrites); null for texts made from the image or given with the input.  `edited_by` is the gate
#: that changed it; null: it is as the model wrote it.
TEXT = pa.struct(
    [
        ("text", pa.string()),
        ("language", pa.string()),
        ("kind", pa.string()),
        ("source_index", pa.int32()),
        ("model", pa.string()),
        ("revision", pa.string()),
        ("prompt_id", pa.string()),
        ("sampling", pa.string()),
        ("score", pa.float32()),
        ("edited_by", pa.string()),
    ]
)

#: The names of the fields of `TEXT`.
TEXT_FIELDS = tuple(f.name for f in TEXT)


#: The columns that the texts of a row are made from; the alt text, as it is used, is `caption`.
TEXT_SOURCES = ("caption", "language", "recaptions", "translations", "gate")

#: What the gates say of each text that a model wrote: a column in the order of `written_texts`, without the alt text.
GATE, GATE_TABLE = "gate", "columns/gate"

#: refused_by: the gate that refused the text; null: it is accepted.  value: the number that decided, if there is one.
#: text: what takes its place, and edited_by: the gate that changed it; null: it stays as the model wrote it.
VERDICT = pa.struct(
    [("refused_by", pa.string()), ("value", pa.float32()), ("text", pa.string()), ("edited_by", pa.string())]
)


def written_texts(row: Mapping[str, object]) -> list[dict[str, object]]:
    """All texts of a row with their provenance, as models wrote them: alt text, recaptions, translations."""
    nothing = dict.fromkeys(TEXT_FIELDS)
    texts = [nothing | {"text": row["caption"], "language": row["language"], "kind": "alt"}]
    recaptions: Sequence[Mapping[str, object]] = row.get("recaptions") or ()  # type: ignore[assignment]
    texts += [nothing | {k: v for k, v in made.items() if k in TEXT_FIELDS} for made in recaptions]
    translations: Sequence[Mapping[str, object]] = row.get("translations") or ()  # type: ignore[assignment]
    texts += [
        nothing | {k: v for k, v in made.items() if k in TEXT_FIELDS} | {"kind": "translated"}
        for made in translations
        if made["text"] is not None
    ]
    return texts


def row_texts(row: Mapping[str, object]) -> list[dict[str, object]]:
    """The texts of a row with their provenance, as its column `gate` leaves them; without one, all of them.

    Raises RunDirError if the column is of other texts.
    """
    texts = written_texts(row)
    if (verdicts := _verdicts(row, len(texts))) is None:
        return texts
    places = {at: place for place, at in enumerate(_accepted(verdicts))}
    made = []
    for at in places:
        text, verdict = texts[at], verdicts[at - 1] if at else {}
        if verdict.get("text") is not None:
            text = text | {"text": verdict["text"], "edited_by": verdict["edited_by"]}
        made.append(text | {"source_index": places.get(text["source_index"])})  # type: ignore[call-overload]  # an integer or None
    return made


def of_row_texts(row: Mapping[str, object], values: Sequence[T] | None) -> list[T] | None:
    """Of values for each of `written_texts`, those for each of `row_texts`; None, and values of other texts, unchanged.

    Raises as `row_texts`.
    """
    if values is None or (verdicts := _verdicts(row, len(written_texts(row)))) is None:
        return None if values is None else list(values)
    return [values[at] for at in _accepted(verdicts)] if len(values) == len(verdicts) + 1 else list(values)


def _verdicts(row: Mapping[str, object], texts: int) -> Sequence[Mapping[str, object]] | None:
    verdicts: Sequence[Mapping[str, object]] | None = row.get(GATE)  # type: ignore[assignment]
    if verdicts is not None and len(verdicts) != texts - 1:
        raise RunDirError(
            f"{GATE_TABLE} must have a verdict for each text that a model wrote",
            value=f"a row with {len(verdicts)} verdicts for {texts - 1} texts",
            fix="run `pairmill curate` again, which makes it from today's texts",
        )
    return verdicts


def _accepted(verdicts: Sequence[Mapping[str, object]]) -> list[int]:
    """The places of the texts that are not refused; the alt text, at place 0, never is."""
    return [0, *(at for at, verdict in enumerate(verdicts, start=1) if verdict["refused_by"] is None)]


def kept_rows(manifest: Mapping[str, object]) -> int:
    """Rows that one shard of a selection keeps, according to its manifest."""
    stages: Mapping[str, Mapping[str, int]] = manifest["stages"]  # type: ignore[assignment]  # plain JSON
    return int(stages[select_stage(stages)]["rows_kept"])


def select_stage(stages: Container[str]) -> str:
    """The stage that made a selection, of those that its manifests count: one of the recipe, or the deduplication."""
    return "select" if "select" in stages else "deduplicate"
