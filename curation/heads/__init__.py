"""Heads: small models that score a picture, from its pixels or from its embedding.

    score:
      aesthetic: {name: mlp, embedding: clip, weights: sac+logos+ava1-l14-linearMSE.pth}   # the column `aesthetic`
      nsfw_photo: open_nsfw                                                                # the column `nsfw_photo`

A head is one class in one file and one line in the registry `HEADS`.  It scores and decides nothing: rules of a
selection read its columns.  `filter.nsfw_head` chooses among `NSFW_HEADS`, whose scores the filter reads.  Each loads
its head once per process, with `loaded`.

Read in this order: this file (the contract), stage (one entry of `score`), linear_layers, outputs and mlp,
onnx_files and onnx, open_nsfw, boxes and faces, overlap and ocr, learnt_filter; fitted_tensors, loss_mixture,
visual_graph and concept_prototypes (noise scores); nearest_clusters; hard_groups.
"""

from __future__ import annotations

from functools import cache, partial
from typing import Any, Literal, Protocol

import pyarrow as pa

from pairmill.errors import RecipeError
from pairmill.registry import NamedConfig, Registry, with_methods


class ImageHead(Protocol):
    """A head, loaded."""

    def __call__(self, images: pa.Array | pa.ChunkedArray, **more: pa.Array | pa.ChunkedArray) -> pa.Table:
        """The head's `columns` of N images, row-aligned; null where an image is null or cannot be scored.

        images: [N], of the kind that `input` names.  more: the columns of `HeadDeclaration.reads`, by name.
        """
        ...


class HeadDeclaration(Protocol):
    """An entry of `HEADS`.  Its module must import model libraries only in `load`; its class may be the head itself.

    A head of embeddings has a key `embedding` that names an entry of the section `embed`.  One that reads further
    columns has a method `reads(config)`, which names them.  One that can tell early that it will not work has a method
    `probe(config, columns)`, which raises UserError; columns: those before it, with their types.
    """

    Config: type[NamedConfig]
    """Its own keys; with those of `pairmill.config.Placement`, also where it runs."""

    input: Literal["pixels", "embedding"]
    """pixels: encoded image files (binary); embedding: unit vectors of pictures (fixed-size list of float16)."""

    columns: pa.Schema
    """What it adds.  In `score.NAME`, the first is the column NAME, and every other one NAME_<its name>."""

    def revision(self, config: Any) -> str:
        """What scores depend on in addition to `config`, without loading it: a new revision makes them stale."""
        ...

    def load(self, config: Any) -> ImageHead:
        """The head.  Raises UserError if it cannot be loaded here."""
        ...


def _check_head(key: str, name: str, found: Any) -> None:
    with_methods("revision", "load", key=key)(name, found)
    if getattr(found, "input", None) not in ("pixels", "embedding") or not isinstance(found.columns, pa.Schema):
        raise RecipeError(
            "an image head must declare `input` (pixels or embedding) and `columns` (a pyarrow.Schema)",
            value=f"{name}: input = {getattr(found, 'input', None)!r}",
            fix='write input = "pixels" and columns = pa.schema([("nsfw", pa.float32())])',
        )


HEADS: Registry[HeadDeclaration] = Registry(
    "score.NAME",
    {
        "faces": "curation.heads.faces:Faces",
        "mlp": "curation.heads.mlp:Mlp",
        "ocr": "curation.heads.ocr:Ocr",
        "onnx": "curation.heads.onnx:Onnx",
        "open_nsfw": "curation.heads.open_nsfw:OpenNsfw",
        "capro": "curation.heads.concept_prototypes:CleanByPrototype",
        "clusters": "curation.heads.nearest_clusters:NearestClusters",
        "hard_groups": "curation.heads.hard_groups:HardGroups",
        "nevlp": "curation.heads.loss_mixture:NoiseByLoss",
    },
    check=partial(_check_head, "score.NAME"),
)

#: Those with a column `nsfw`, for the filter.
NSFW_HEADS: Registry[HeadDeclaration] = Registry(
    "filter.nsfw_head",
    {"open_nsfw": "curation.heads.open_nsfw:OpenNsfw"},
    check=partial(_check_head, "filter.nsfw_head"),
)


@cache
def loaded(config: NamedConfig) -> ImageHead:
    """The head of a configuration, loaded once per process.  Raises RecipeError if there is none, or as `load`."""
    try:
        head = HEADS.get(config.name)
    except RecipeError:  # what a script adds to a registry is among the names of that process alone
        head = NSFW_HEADS.get(config.name)
    return head.load(config)
