"""The stages as Ray Data calls them: each takes a whole shard, does its work, and tells the progress board.

Here is only what joins a stage of `curation` to Ray (actor handles, constructor arguments); what a stage does is in
its own module.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray

from curation.download import COLUMNS, Download
from curation.duplicates.deduplicate import DeduplicateConfig, survivors
from curation.duplicates.edges import ROWS
from curation.duplicates.near import bands
from curation.filters import FILTER_COLUMNS, filter_rows
from curation.filters.text import text_digest
from curation.pack import pack_rows
from curation.plan import common_texts
from curation.recaption import Recaption
from curation.schema import RETRYABLE, Stage, count_drops, live, set_columns
from curation.selection import apply_selection, selection_rows
from curation.shards import Work, add_seconds, read_shard
from curation.store import Store
from curation.translate import Translate
from pipelines.recipe import CurateRecipe
from pipelines.tables import PIXELS


class Told:
    """A stage that tells the board what it did."""

    def __init__(self, board: Any, *stages: Stage) -> None:
        self._board, self._stages = board, stages

    def begin(self) -> float:
        """The moment a shard is taken up."""
        for stage in self._stages:
            self._board.begin.remote(stage.value, time.time())
        return time.perf_counter()

    def end(self, rows: pa.Table) -> pa.Table:
        """The shard is done."""
        for name, counts in count_drops(rows, self._stages).items():
            self._board.add.remote(name, counts["rows_in"], counts["rows_kept"], time.time())
        return rows


class DownloadStage:
    """Fetch and inspect; passes on shards whose images are there already."""

    def __init__(self, recipe: CurateRecipe, decoders: int, gate: Any, board: Any) -> None:
        async def exchange(*args: Any) -> Any:
            return await gate.exchange.remote(*args)

        def warn(text: str) -> None:
            board.warn.remote("download", text)

        self._told = Told(board, Stage.DOWNLOAD, Stage.INSPECT)
        self._stage = Download(recipe.download, recipe.image, decoders=decoders, exchange=exchange, warn=warn)

    def __call__(self, rows: pa.Table) -> pa.Table:
        if "status" in rows.schema.names:
            return rows
        self._told.begin()
        return self._told.end(self._stage(rows))


class RetryStage(DownloadStage):
    """Fetch again the rows of committed shards whose failure may have passed, and put the shard together again."""

    def __call__(self, rows: pa.Table) -> pa.Table:
        self._told.begin()
        failed = pc.is_in(rows["status"], pa.array([s.value for s in RETRYABLE]))
        nothing = pa.nulls(len(rows), pa.string())
        asked = set_columns(rows, {"drop_stage": nothing, "drop_reason": nothing}).filter(failed)
        done = self._stage(asked.drop_columns([n for n in COLUMNS.names if n in asked.schema.names]))
        done = done.select([n for n in done.schema.names if n in rows.schema.names]).select(rows.schema.names)
        # Rows and their replacements, each back in its place.
        place = np.arange(len(rows))
        again = place[np.asarray(failed)]
        order = np.argsort(np.r_[np.setdiff1d(place, again), again])
        rows = pa.concat_tables([rows.filter(pc.invert(failed)), done.cast(rows.schema)]).take(pa.array(order))
        return self._told.end(rows.drop_columns(["_content_images"]))


class FilterStage:
    """Filter; a task, its models cached by the process."""

    def __init__(self, recipe: CurateRecipe, store: Store, board: Any) -> None:
        self._config, self._store, self._told = recipe.filter, store, Told(board, Stage.FILTER)

    def __call__(self, rows: pa.Table) -> pa.Table:
        if "caption" in rows.schema.names:
            return rows
        began = self._told.begin()
        common = _common_texts(self._store.uri, self._config.max_images_per_text)
        own = input_columns(rows)
        rows = filter_rows(set_columns(rows, own), config=self._config, common_texts=common).drop_columns(list(own))
        return self._told.end(add_seconds(rows, Stage.FILTER, time.perf_counter() - began))


def input_columns(rows: pa.Table) -> dict[str, pa.ChunkedArray]:
    """The input list's own columns, for `filter.where` and `filter.callables`; ours win where names clash."""
    if "input" not in rows.schema.names:
        return {}
    taken = {*rows.schema.names, *FILTER_COLUMNS.names}
    fields = [f.name for f in rows.schema.field("input").type if f.name not in taken]
    return {name: pc.struct_field(rows["input"], name) for name in fields}


@lru_cache(maxsize=2)
def _common_texts(uri: str, more_than: int | None) -> frozenset[bytes]:
    return common_texts(Store(uri), more_than)


class NarrowRows:
    """Read what deduplication needs of some shards: schema `ROWS`, live rows only."""

    def __init__(self, store: Store, reads: Mapping[str, Sequence[str]], config: DeduplicateConfig) -> None:
        self._store, self._reads, self._config = store, reads, config

    def __call__(self, shards: pa.Table) -> pa.Table:
        narrow = [self._narrow(shard) for shard in shards["shard"].to_pylist()]
        return pa.concat_tables(narrow)

    def _narrow(self, shard: int) -> pa.Table:
        rows = read_shard(self._store, Work(shard, dict.fromkeys(self._reads, "")), self._reads)
        rows = set_columns(rows, {"row": pa.array(range(len(rows)), pa.int32())})
        rows = rows.filter(live(rows))
        digests = [int.from_bytes(text_digest(c), "little", signed=True) for c in rows["caption"].to_pylist()]
        columns = {
            "shard": rows["_shard"],
            "caption_digest": pa.array(digests, pa.int64()),
            "score": _score(rows, self._config.score),
        }
        return set_columns(rows, columns).select(ROWS.names).cast(ROWS)


def _score(rows: pa.Table, name: str) -> pa.ChunkedArray:
    if name == PIXELS:
        return pc.multiply(rows["original_width"].cast(pa.float64()), rows["original_height"].cast(pa.float64()))
    return rows[name].cast(pa.float64())


class ByImage:
    """Partition narrow rows so that equal images meet."""

    def __init__(self, partitions: int) -> None:
        self._partitions = partitions

    def __call__(self, rows: pa.Table) -> pa.Table:
        part = [int(sha[:8], 16) % self._partitions for sha in rows["sha256"].to_pylist()]
        return set_columns(rows, {"partition": pa.array(part, pa.int32())})


class ByBand:
    """Partition banded rows so that hashes which may be near meet."""

    def __init__(self, partitions: int, config: DeduplicateConfig) -> None:
        self._partitions, self._config = partitions, config

    def __call__(self, rows: pa.Table) -> pa.Table:
        banded = bands(rows, max_distance=self._config.max_distance, min_bits=self._config.min_bits)
        part = banded["band_key"].to_numpy() % self._partitions
        return set_columns(banded, {"partition": pa.array(part.astype(np.int32))})


@ray.remote(num_cpus=1)  # type: ignore[untyped-decorator]
def losers_of(*edges: pa.Table) -> pa.Table:
    """All rows that a better duplicate replaces, of the edges of every partition."""
    # Where a partition has no rows at all, Ray Data's block has no columns either.
    return survivors(pa.concat_tables([found for found in edges if found.num_columns]))


class SelectStage:
    """Write down, for each row of a shard, whether it stays."""

    def __init__(self, losers: Any, board: Any) -> None:
        self._losers, self._told = losers, Told(board, Stage.DEDUPLICATE)

    def __call__(self, rows: pa.Table) -> pa.Table:
        began = self._told.begin()
        losers = ray.get(self._losers)
        shards = losers["shard"].to_numpy()
        shard = rows["_shard"][0].as_py()
        first, last = np.searchsorted(shards, [shard, shard + 1])
        chosen = selection_rows(rows, losers.slice(first, last - first))
        rows = set_columns(rows, {"keep": chosen["keep"], "reason": chosen["reason"]})
        dropped = apply_selection(rows)
        rows = set_columns(rows, {name: dropped[name] for name in ("drop_stage", "drop_reason")})
        return self._told.end(add_seconds(rows, Stage.DEDUPLICATE, time.perf_counter() - began))


class RecaptionStage:
    """Write new captions; passes on shards that have them."""

    def __init__(self, recipe: CurateRecipe, board: Any) -> None:
        self._stage, self._told = Recaption(recipe.recaption), Told(board, Stage.RECAPTION)

    def __call__(self, rows: pa.Table) -> pa.Table:
        if "recaptions" in rows.schema.names:
            return rows
        began = self._told.begin()
        rows = self._stage(rows)
        return self._told.end(add_seconds(rows, Stage.RECAPTION, time.perf_counter() - began))


class TranslateStage:
    """Translate captions; passes on shards that have translations."""

    def __init__(self, recipe: CurateRecipe, board: Any) -> None:
        self._stage, self._told = Translate(recipe.translate), Told(board, Stage.TRANSLATE)

    def __call__(self, rows: pa.Table) -> pa.Table:
        if "translations" in rows.schema.names:
            return rows
        began = self._told.begin()
        rows = self._stage(rows)
        return self._told.end(add_seconds(rows, Stage.TRANSLATE, time.perf_counter() - began))


class PackStage:
    """Write part files: the one stage whose unit of work is a part, not a shard."""

    def __init__(self, recipe: CurateRecipe, store: Store, reads: Mapping[str, Sequence[str]], board: Any) -> None:
        self._recipe, self._store, self._reads, self._board = recipe, store, reads, board

    def __call__(self, parts: pa.Table) -> pa.Table:
        for part in parts.to_pylist():
            self._board.begin.remote(Stage.PACK.value, time.time())
            rows = pa.concat_tables([self._packed(shard) for shard in part["shards"]])
            groups = self._recipe.pack.row_group_rows
            self._store.commit("pairs", part["number"], part["key"], rows, {}, row_group_rows=groups)
            self._board.add.remote(Stage.PACK.value, len(rows), len(rows), time.time())
        return parts

    def _packed(self, shard: int) -> pa.Table:
        rows = read_shard(self._store, Work(shard, dict.fromkeys(self._reads, "")), self._reads)
        return pack_rows(apply_selection(rows), self._recipe.pack, self._recipe.image.format)
