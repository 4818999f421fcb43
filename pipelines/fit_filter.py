"""The command `fit-filter`: examples of good pairs and a run's own rows to a head of `score`."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation.embedding.stage import Embed
from curation.embedding.vectors import vectors_of
from curation.flow import Tables
from curation.heads.learnt_filter import Pairs, fit, save_head
from curation.schema import DROPS
from curation.shards import outstanding
from curation.stage import Runtime
from pairmill.errors import InputError, RecipeError, nearest
from pairmill.layout import SELECTIONS
from pairmill.store import Store
from training.evaluate.config import EvaluateDatasetConfig
from training.evaluate.evaluated_rows import read_rows

#: Rows of outside examples that are embedded at a time.
_AT_A_TIME = 512

_PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".avif")


def fit_filter(
    store: Store, recipe: Any, embedding: str, good: str, file: Path, *, rows: int, hidden: int, seed: int
) -> dict[str, Any]:
    """Fit a head to tell good pairs from the run's ordinary ones, write it with its card, and return its figures.

    embedding: a name in the recipe's section `embed`.  good: a selection of the run, or pairs elsewhere: Parquet, tars,
    another run, or a folder of pictures with a NAME.txt beside each.  file: ends in .safetensors.  rows: most pairs of
    each kind; of the run, the first ones: their order is random (`curation.plan`).
    Raises RecipeError for an unknown embedding, InputError for too few examples.
    """
    stage = embedder(recipe, embedding)
    table = up_to_date(store, recipe, stage)
    chosen = good if good in store.folders(SELECTIONS) else None
    if chosen is None:
        examples = _embedded(stage, itertools.islice(_outside(good), rows))
        ordinary = _of_run(store, table, stage, None, rows)[1]
    else:
        examples, ordinary = _of_run(store, table, stage, chosen, rows)
    fitted = fit(examples, ordinary, hidden=hidden, seed=seed)
    run = store.uri.rstrip("/").rpartition("/")[2]
    model = " ".join(filter(None, [stage.config.model, stage.config.pretrained]))
    about = {
        "good pairs": f"the selection {chosen}" if chosen is not None else Path(good).name,
        "ordinary pairs": f"rows of the run {run}" + (" that it leaves out" if chosen is not None else ""),
        "embedding": f"{model} ({stage.revision()})",
    }
    save_head(fitted, file, about)
    return {"path": str(file), **about, **fitted.figures}


def embedder(recipe: Any, name: str) -> Embed:
    stages = {s.given: s for s in recipe.flow().segment("score") if isinstance(s, Embed)}
    if name not in stages:
        raise RecipeError(
            "--embedding must be a name in the section embed of the run's recipe",
            value=name,
            fix=f"perhaps you mean: {nearest(name, stages)}" if stages else "add a section embed, and curate",
        )
    return stages[name]


def up_to_date(store: Store, recipe: Any, stage: Embed) -> str:
    """The table of the run's vectors.  Raises InputError unless all are of the recipe's model as it is today."""
    tables = Tables(recipe.flow(), selection=recipe.deduplicate.name)
    table = tables.named(tables.name_of(stage))
    index = store.index(table.name)
    stale = outstanding(store, [table], index, table.upstream)
    if stale or not index:
        raise InputError(
            "a run must have embedded its rows by the model of its recipe for a filter to be fitted",
            value=f"{store.uri}: {len(stale)} of {len(index)} shards of {table.name} are of another model or stale"
            if index
            else f"{store.uri} has no {table.name}",
            fix="run `pairmill curate` with its recipe first",
        )
    return table.name


def _of_run(store: Store, table: str, stage: Embed, selection: str | None, most: int) -> tuple[Pairs, Pairs]:
    """Pairs of a run that a selection keeps, and others; without a selection, all are others."""
    kinds: tuple[list[pa.Table], list[pa.Table]] = ([], [])
    left = [most if selection is not None else 0, most]
    for shard in sorted(store.index(table)):
        rows = store.load(table, shard, ["uid", *stage.column_names()[:2]])
        rows = rows.filter(pc.and_(rows.column(1).is_valid(), rows.column(2).is_valid()))
        keep = pa.array([False] * len(rows))
        if selection is not None:
            chosen = store.load(f"{SELECTIONS}/{selection}", shard, ["uid", "keep"])
            keep = pc.is_in(rows["uid"], chosen.filter(chosen["keep"])["uid"].combine_chunks())
        for number, mask in enumerate((keep, pc.invert(keep))):
            kinds[number].append(rows.filter(mask).slice(0, left[number]))
            left[number] -= len(kinds[number][-1])
        if not any(left):
            break
    return _pairs(kinds[0]), _pairs(kinds[1])


def _pairs(tables: list[pa.Table]) -> Pairs:
    if not tables or not any(len(table) for table in tables):
        return Pairs(np.zeros((0, 1), np.float16), np.zeros((0, 1), np.float16), [])
    rows = pa.concat_tables(tables)
    both = np.asarray(rows.column(1).is_valid()) & np.asarray(rows.column(2).is_valid())
    rows = rows.filter(pa.array(both))
    return Pairs(vectors_of(rows.column(1))[0], vectors_of(rows.column(2))[0], rows["uid"].to_pylist())


def _embedded(stage: Embed, examples: Iterator[tuple[bytes, str]]) -> Pairs:
    """Pairs from elsewhere, embedded in this process.  Raises InputError if there are none."""
    stage.setup(Runtime())
    tables = []
    while some := list(itertools.islice(examples, _AT_A_TIME)):
        rows = pa.table(
            {
                "uid": [_name(*one) for one in some],
                "image": pa.array([image for image, _ in some], pa.binary()),
                "caption": pa.array([text for _, text in some], pa.string()),
                **{name: pa.nulls(len(some), pa.string()) for name in DROPS},
            }
        )
        tables.append(stage(rows).select(["uid", *stage.column_names()[:2]]))
    return _pairs(tables)


def _name(image: bytes, text: str) -> str:
    return hashlib.blake2b(image + text.encode("utf-8", "replace"), digest_size=16).hexdigest()


def _outside(path: str) -> Iterator[tuple[bytes, str]]:
    """Pictures and captions of a folder of pictures, or of any dataset that training reads."""
    folder = Path(path)
    pictures = sorted(p for p in folder.rglob("*") if p.suffix.lower() in _PICTURES) if folder.is_dir() else []
    if pictures:
        for picture in pictures:
            text = picture.with_suffix(".txt")
            if text.is_file():
                yield picture.read_bytes(), text.read_text(encoding="utf-8", errors="replace").strip()
        return
    for row in read_rows(EvaluateDatasetConfig(path=path)):
        written = [text.text for text in row.texts if text.text.strip()]
        if row.image and written:
            yield row.image, written[0]
