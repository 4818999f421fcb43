"""Image heads: small models that score an image, from its pixels or its embedding.

A head is one class in one file and one line in the registry below.  The rule that uses a head (`filters/safety.py`, by
the key `filter.nsfw_head`) loads it once per process, with `loaded`.

Read in this order: this file (the contract), open_nsfw.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Literal, Protocol

import pyarrow as pa

from pairmill.errors import RecipeError
from pairmill.registry import NamedConfig, Registry, with_methods


class ImageHead(Protocol):
    """A head, loaded."""

    def __call__(self, images: pa.Array | pa.ChunkedArray) -> pa.Table:
        """The head's `columns` of N images, row-aligned; null where an image is null or cannot be scored.

        images: [N], of the kind that `input` names.
        """
        ...


class HeadDeclaration(Protocol):
    """An entry of `HEADS`.  Its module must import model libraries only in `load`; its class may be the head itself."""

    Config: type[NamedConfig]
    """Its own keys."""

    input: Literal["pixels", "embedding"]
    """pixels: encoded image files (binary); embedding: unit vectors (list of float32)."""

    columns: pa.Schema
    """What it adds: names and types."""

    def revision(self, config: Any) -> str:
        """What scores depend on in addition to `config`, without loading it: a new revision makes them stale."""
        ...

    def load(self, config: Any) -> ImageHead:
        """The head.  Raises UserError if it cannot be loaded here."""
        ...


def _check_head(name: str, found: Any) -> None:
    with_methods("revision", "load", key="filter.nsfw_head")(name, found)
    if getattr(found, "input", None) not in ("pixels", "embedding") or not isinstance(found.columns, pa.Schema):
        raise RecipeError(
            "an image head must declare `input` (pixels or embedding) and `columns` (a pyarrow.Schema)",
            value=f"{name}: input = {getattr(found, 'input', None)!r}",
            fix='write input = "pixels" and columns = pa.schema([("nsfw", pa.float32())])',
        )


HEADS: Registry[HeadDeclaration] = Registry(
    "filter.nsfw_head", {"open_nsfw": "curation.heads.open_nsfw:OpenNsfw"}, check=_check_head
)


@cache
def loaded(config: NamedConfig) -> ImageHead:
    """The head of a configuration, loaded once per process.  Raises RecipeError if there is none, or as `load`."""
    return HEADS.get(config.name).load(config)
