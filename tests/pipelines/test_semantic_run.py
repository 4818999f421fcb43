"""Semantic duplicates through a whole run, over embeddings that a user's own stage adds."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from ray import cloudpickle

from curation.duplicates.deduplicate import find_losers
from curation.schema import set_columns
from curation.stage import Column, Stage
from curation.table import PLAN
from pairmill.store import Store
from pipelines.curate import curate
from pipelines.demo import RECIPE
from pipelines.demo_rows import demo_rows
from pipelines.demo_server import demo_server
from pipelines.recipe import CurateRecipe, load_recipe

pytestmark = [pytest.mark.ray, pytest.mark.slow]

COLUMN = "image_embedding_colours"


class Colours(Stage):
    """Embed a picture by the colours of its parts."""

    name, segment = "colours_embedding", "score"
    reads = ("colours",)
    adds = (Column(COLUMN, pa.list_(pa.float16(), 192), "the colours of the parts"),)

    def __call__(self, rows: pa.Table) -> pa.Table:
        vectors = [
            None if one is None else np.frombuffer(one, np.uint8).astype(np.float16) - np.float16(100)
            for one in rows["colours"].to_pylist()
        ]
        vectors = [
            None if one is None else (one / np.linalg.norm(one.astype(float))).astype(np.float16) for one in vectors
        ]
        return set_columns(rows, {COLUMN: pa.array(vectors, pa.list_(pa.float16(), 192))})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, local_ray: None) -> Iterator[tuple[CurateRecipe, dict[str, Any]]]:
    folder: Path = tmp_path_factory.mktemp("semantic")
    module = sys.modules[__name__]
    cloudpickle.register_pickle_by_value(module)  # the cluster's workers cannot import the tests
    with demo_server() as base_url:
        rows = demo_rows(base_url)
        plain = rows.filter(pc.equal(rows["case"], "plain")).slice(0, 60)
        missing = rows.filter(pc.equal(rows["case"], "missing")).slice(0, 3)
        pq.write_table(pa.concat_tables([plain, missing]), folder / "urls.parquet")
        kinds = json.dumps([{"name": "semantic_duplicate", "epsilon": 0.02, "clusters": 2}])
        recipe = load_recipe(
            RECIPE,
            [
                *(f"run_dir={folder / 'run'}", f"input.path={folder / 'urls.parquet'}"),
                *(f'stages=["{__name__}:Colours"]', f"deduplicate.kinds={kinds}", "shards.rows_per_shard=20"),
                *("recaption.enabled=false", "translate.enabled=false"),
            ],
        )
        yield recipe, curate(recipe, quiet=True)
    cloudpickle.unregister_pickle_by_value(module)


def test_the_only_embedding_there_is_is_compared(run: tuple[CurateRecipe, dict[str, Any]]) -> None:
    recipe, report = run
    store = Store(recipe.run_dir)
    shards = sorted(store.index(PLAN))
    tables = []
    for shard in shards:
        read = {name: store.load(name, shard) for name in ("images", "columns/filter", "columns/colours_embedding")}
        n = len(read["images"])
        place = {"shard": pa.array([shard] * n, pa.int32()), "row": pa.array(range(n), pa.int32())}
        columns = {name: read["images"][name] for name in ("uid", "original_width", "original_height")}
        columns |= {COLUMN: read["columns/colours_embedding"][COLUMN], **place}
        table = pa.table({**columns, "score": pc.multiply(columns["original_width"], columns["original_height"])})
        table = table.append_column("dropped", pc.is_valid(read["columns/filter"]["drop_reason"]))
        tables.append(table.filter(pc.invert(table["dropped"])))
    rows = pa.concat_tables(tables)
    rows = set_columns(rows, {"score": rows["score"].cast(pa.float64())})
    expected = find_losers(rows, config=recipe.deduplicate)
    assert len(expected) > 0
    chosen = pa.concat_tables([store.load("selections/default", shard) for shard in shards]).to_pylist()
    lost = {row["uid"]: row["duplicate_group"] for row in chosen if row["reason"] == "semantic_duplicate"}
    assert lost == dict(zip(expected["uid"].to_pylist(), expected["survivor"].to_pylist(), strict=True))
    assert {row["duplicate_group"] for row in chosen} == {None, *lost.values()}
    assert all(row["duplicate_group"] == row["uid"] for row in chosen if row["keep"] and row["duplicate_group"])
    [stage] = [one for one in report["stages"] if one["name"] == "deduplicate"]
    assert stage["dropped"] == {"semantic_duplicate": len(expected)}
