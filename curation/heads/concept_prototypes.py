"""How clean a pair is, by prototypes of its concept: CAPro's cleaning (Qin et al. 2023, arXiv 2310.09761, section 3).

    t_c    textual prototype of concept c: the centre of a cluster of captions (there: a definition of the class)
    y_i    the concept whose t_c is nearest to caption i
    s'_i   caption i smoothed over pictures that look like its own (`visual_graph`)
    D_c    the K pairs of concept c with the largest s'_i . t_c
    z_c    visual prototype: the mean of the pictures of D_c, of unit length
    r_i    softmax_c(x_i . z_c / t)
    clean_i = r_i[y_i]

    label_i = the concept of the largest r_i if that is at least g, else y_i if r_i[y_i] >= 1 / C, else none

What is of the training is left out: the classifier that r_i is averaged with there, the moving average of prototypes,
and the collective bootstrapping of labels.

Shapes: N pairs, C concepts, D dimensions.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field

from curation.duplicates.exact_products import exact, nearest
from curation.duplicates.vector_clusters import k_means
from curation.heads.fitted_tensors import FittedHead, load_tensors
from curation.heads.learnt_filter import Pairs
from curation.heads.loss_mixture import Doubles, both_vectors, check_enough
from curation.heads.visual_graph import smoothed
from pairmill.registry import NamedConfig

#: Pairs of the sample for each concept, if the number of concepts is not given.
_PAIRS_PER_CONCEPT = 256

_ITERATIONS = 20


class ConceptPrototypesConfig(NamedConfig):
    """Which prototypes, and how their similarities become probabilities."""

    embedding: str = Field(description="name in the section `embed`")
    weights: Path = Field(description="file of `pairmill fit-noise --score capro`, fitted to that embedding")
    temperature: float = Field(0.1, gt=0, description="of the softmax over concepts (CAPro: 0.1)")
    relabel: float = Field(
        0.6, gt=0, le=1, description="probability from which the nearest concept is the label (CAPro: 0.6)"
    )


class CleanByPrototype(FittedHead):
    """The probability that a picture shows the concept of its caption (CAPro), of a file of `pairmill fit-noise`.

    Columns: NAME, the probability; NAME_concept, that of the caption; NAME_label, the corrected one, null for a pair
    that fits no concept.
    """

    Config = ConceptPrototypesConfig
    columns = pa.schema([("clean", pa.float32()), ("concept", pa.int32()), ("label", pa.int32())])

    @classmethod
    def reads(cls, config: ConceptPrototypesConfig) -> tuple[str, ...]:
        """The vectors of captions."""
        return (f"text_embedding_{config.embedding}",)

    def __init__(self, config: ConceptPrototypesConfig) -> None:
        shapes = {"textual": ("concepts", "D"), "visual": ("concepts", "D")}
        found = load_tensors(config.weights, "capro", shapes).arrays
        self._config = config
        self._textual, self._visual = (found[name].astype(np.float16) for name in ("textual", "visual"))
        self.size = self._visual.shape[1]

    def __call__(self, images: pa.Array | pa.ChunkedArray, **more: pa.Array | pa.ChunkedArray) -> pa.Table:
        """Its columns; null without the vector of the picture or of the caption."""
        pairs, mask = both_vectors(images, more[f"text_embedding_{self._config.embedding}"])
        clean, concept, label = np.zeros(len(mask), np.float32), *np.full((2, len(mask)), -1, np.int32)
        if mask.any():
            concept[mask] = concepts_of(pairs.texts, self._textual)
            likely = probabilities(pairs.images, self._visual, self._config.temperature)
            clean[mask] = likely[np.arange(len(likely)), concept[mask]]
            label[mask] = corrected(likely, concept[mask], self._config.relabel)
        columns = [
            pa.array(clean, pa.float32(), mask=~mask),
            pa.array(concept, pa.int32(), mask=~mask),
            pa.array(label, pa.int32(), mask=label < 0),
        ]
        return pa.table(columns, schema=self.columns)


def fit_prototypes(sample: Pairs, *, concepts: int | None = None, neighbours: int = 5, top: int = 50) -> dict[str, Any]:
    """What `CleanByPrototype` loads, by name, and its figures under `about`.

    sample: in an order of chance.  concepts: None: one for each 256 pairs.  neighbours: k of the visual graph (CAPro:
    5, and 10 on NUS-WIDE).  top: K, pairs that make a visual prototype (CAPro: 50).
    Raises InputError for fewer than `FEWEST` pairs.
    """
    check_enough(sample)
    count = concepts or max(2, len(sample.images) // _PAIRS_PER_CONCEPT)
    textual = k_means(sample.texts, min(count, len(sample.texts)), _ITERATIONS)
    concept = concepts_of(sample.texts, textual)
    matches = (smoothed(sample.images, sample.texts, neighbours) * textual[concept].astype(np.float64)).sum(1)
    # By concept, the best match first; among equal ones the order of the sample.
    order = np.lexsort((-matches, concept))
    begins = np.searchsorted(concept[order], np.arange(len(textual) + 1))
    kept, visual = [], []
    for number, (begin, end) in enumerate(pairwise(begins.tolist())):
        mean = sample.images[order[begin : min(end, begin + top)]].astype(np.float64).sum(0)
        if np.linalg.norm(mean) > 0:
            kept.append(number)
            visual.append(mean / np.linalg.norm(mean))
    about = {
        "pairs": len(matches),
        "concepts": len(kept),
        "neighbours": neighbours,
        "top": top,
        "mean_match": float(matches.mean()),
    }
    return {"textual": textual[kept], "visual": np.array(visual).astype(np.float16), "about": about}


def concepts_of(texts: npt.NDArray[np.float16], textual: npt.NDArray[np.float16]) -> npt.NDArray[np.int32]:
    """The concept of the nearest textual prototype, [N]; of equally near ones, the first."""
    return nearest(texts, textual)[:, 0].astype(np.int32)


def probabilities(images: npt.NDArray[np.float16], visual: npt.NDArray[np.float16], temperature: float) -> Doubles:
    """The softmax over concepts of each picture's cosines with the visual prototypes, [N, C]."""
    logits = exact(images, visual) / temperature
    raised = np.exp(logits - logits.max(1, keepdims=True))
    found: Doubles = raised / raised.sum(1, keepdims=True)
    return found


def corrected(likely: Doubles, concept: npt.NDArray[np.int32], relabel: float) -> npt.NDArray[np.int32]:
    """The label of each pair, [N]; -1 for none."""
    best = likely.argmax(1).astype(np.int32)
    own = likely[np.arange(len(likely)), concept]
    found = np.where(own >= 1 / likely.shape[1], concept, np.int32(-1))
    return np.where(likely.max(1) >= relabel, best, found).astype(np.int32)
