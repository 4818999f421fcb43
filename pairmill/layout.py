"""The contract of a curated run directory: what curation writes into it and training reads from it.

pairs/part-*.parquet              the product
images/, columns/<stage>/         pixels and narrow columns, row-aligned, one file per shard
selections/<name>/                uid, keep, reason: which of those rows are in a dataset; group_id: rows of one
                                  number are no negatives of each other
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence

import pyarrow as pa

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
#: from (translations, rewrites); null for texts made from the image or given with the input.
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
    ]
)

#: The names of the fields of `TEXT`.
TEXT_FIELDS = tuple(f.name for f in TEXT)


def row_texts(row: Mapping[str, object]) -> list[dict[str, object]]:
    """All texts of a row with their provenance: alt text, recaptions, translations."""
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


def kept_rows(manifest: Mapping[str, object]) -> int:
    """Rows that one shard of a selection keeps, according to its manifest."""
    stages: Mapping[str, Mapping[str, int]] = manifest["stages"]  # type: ignore[assignment]  # plain JSON
    return int(stages[select_stage(stages)]["rows_kept"])


def select_stage(stages: Container[str]) -> str:
    """The stage that made a selection, of those that its manifests count: one of the recipe, or the deduplication."""
    return "select" if "select" in stages else "deduplicate"
