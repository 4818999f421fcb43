"""The command `fit-noise`: from a sample of a run's embedded pairs to a head that says how likely one is noise."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np

from curation.embedding.sampled import sampled
from curation.embedding.vectors import vectors_of
from curation.heads.concept_prototypes import fit_prototypes
from curation.heads.fitted_tensors import save_tensors
from curation.heads.learnt_filter import Pairs
from curation.heads.loss_mixture import fit_losses
from pairmill.errors import RecipeError, nearest
from pairmill.layout import SELECTIONS
from pairmill.store import Store
from pipelines.fit_filter import embedder, up_to_date

Score = Literal["nevlp", "capro"]

#: Pairs of the sample, if the command does not say: a graph over all of them takes their number squared.
_ROWS = {"nevlp": 100_000, "capro": 16_384}


def fit_noise(
    store: Store,
    recipe: Any,
    embedding: str,
    score: Score,
    file: Path,
    *,
    rows: int | None = None,
    seed: int = 0,
    selection: str | None = None,
    **keys: Any,
) -> dict[str, Any]:
    """Fit a noise score to a run, write the head's file, and return its figures.

    embedding: a name in the recipe's section `embed`.  rows: of the sample at most.  selection: of the run, whose rows
    alone are drawn.  keys: of `fit_losses` or `fit_prototypes`; None: its default.
    The file is the same however the run is divided into shards, and written whole or not at all.
    Raises RecipeError for an unknown embedding and for a key of the other score, InputError for a run that is not
    embedded, or too small.
    """
    known = {"nevlp": ("references", "temperature"), "capro": ("concepts", "neighbours", "top")}
    given = {name: value for name, value in keys.items() if value is not None}
    if others := [name for name in given if name not in known[score]]:
        raise RecipeError(
            f"the score {score} must be given its own keys",
            value=f"--{others[0]}",
            fix=f"choose among {', '.join(f'--{name}' for name in known[score])}",
        )
    check_selection(store, selection)
    stage = embedder(recipe, embedding)
    table = up_to_date(store, recipe, stage)
    columns = stage.column_names()[:2]
    most = rows or _ROWS[score]
    sample = sampled(store, table, columns, rows=most, seed=seed, selection=selection)
    pairs = pairs_of(sample, *columns)
    found = fit_losses(pairs, **given) if score == "nevlp" else fit_prototypes(pairs, **given)
    about = {**found.pop("about"), "rows": most, "seed": seed, "embedding": f"{stage.config.model} {stage.revision()}"}
    save_tensors(file, score, found, about)
    return {"path": str(file), "score": score, **about}


def check_selection(store: Store, selection: str | None) -> None:
    """Raise RecipeError for a selection that the run does not have; None is every row."""
    if selection is not None and selection not in (known := store.folders(SELECTIONS)):
        raise RecipeError(
            "--selection must name a selection of the run",
            value=selection,
            fix=f"perhaps you mean: {nearest(selection, known)}" if known else "let the run finish: it has none yet",
        )


def pairs_of(sample: Any, image: str, text: str) -> Pairs:
    """The vectors of a sample that has them all."""
    if not len(sample):
        return Pairs(np.zeros((0, 1), np.float16), np.zeros((0, 1), np.float16), [])
    return Pairs(vectors_of(sample[image])[0], vectors_of(sample[text])[0], sample["uid"].to_pylist())
