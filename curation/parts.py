"""The parts of the product as they should be: the shards of each, and the key of its commit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from curation.flow import Flow, Tables
from curation.forget.tombstones import Tombstones
from curation.images.config import ImageConfig
from curation.images.stage import Inspect
from curation.pack import Pack, PackConfig, cut_parts, product_columns
from curation.plan import input_type
from curation.plan_file import Plan
from pairmill.layout import kept_rows
from pairmill.store import Store, shard_key


class WantedPart(NamedTuple):
    """A part: its number, the shards it is made from, and the key of its commit when it is up to date."""

    number: int
    shards: tuple[int, ...]
    key: str


def product_identity(flow: Flow) -> object:
    """Plain data that, with the contents of the tables, decides what the product holds."""
    image: ImageConfig = flow.of(Inspect).config
    pack: PackConfig = flow.of(Pack).config
    # Pictures whose faces are blurred are encoded again.
    encoding = image.format if pack.blur_faces is None else [image.format, image.quality, image.chroma]
    return [pack.identity(), encoding, list(product_columns(flow.carried))]


def wanted_parts(store: Store, tables: Tables, planned: Plan) -> list[WantedPart]:
    """The parts that follow from the committed tables.  Costs a listing of each table that is packed.

    tables: those of the recipe.  planned: every shard of it has all tables.
    """
    flow = tables.flow
    pack: PackConfig = flow.of(Pack).config
    reads = tables.reads(flow.of(Pack).columns_read(flow.carried), "pack")
    indexes = {name: store.index(name) for name in reads}
    identity = product_identity(flow)
    whole = input_type(store, planned.inputs[-1])
    if input_type(store, planned.inputs[0]) != whole:
        # A later list added columns, and all parts of a dataset must have the same.
        identity = [identity, str(whole)]
    found = []
    rows = sizes(store.manifests(tables.selection), Tombstones.read(store))
    for part in cut_parts(rows, pack.rows_per_part):
        contents = [indexes[name][shard].content for shard in part.shards for name in sorted(reads)]
        found.append(WantedPart(part.number, part.shards, shard_key(identity, contents)))
    return found


def sizes(manifests: Iterable[Mapping[str, Any]], forgotten: Tombstones) -> dict[int, int]:
    """Shard -> rows by which parts are cut: those that are kept, and those that were kept until they were forgotten.

    So taking rows out of one part moves no other.  manifests: of the selection's shards.
    """
    gone = forgotten.kept_by_shard()
    found = ((int(manifest["shard"]), kept_rows(manifest)) for manifest in manifests)
    return {shard: rows + gone.get(shard, 0) for shard, rows in found}
