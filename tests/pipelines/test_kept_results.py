"""What a model made of a row is kept while another stage drops the row, and goes only with the picture."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from pydantic import Field
from ray import cloudpickle

from curation.schema import live, set_columns
from curation.stage import Column, Stage, StageConfig
from pairmill.store import Store
from pipelines.curate import curate
from pipelines.demo import RECIPE
from pipelines.demo_rows import demo_rows
from pipelines.demo_server import demo_server
from pipelines.recipe import CurateRecipe, load_recipe

pytestmark = pytest.mark.ray

#: The table of the stage below.
TABLE = "columns/witness"


class WitnessConfig(StageConfig):
    log: str = Field(description="the file to which it writes the rows that it works on")

    def identity(self) -> object:
        return []


class Witness(Stage):
    """A captioner that notes for which rows it was paid."""

    name, segment, pool = "witness", "rewrite", "model"
    reads = ("uid", "image", "caption")
    adds = (Column("seen", pa.string(), "what it saw", carried=True),)
    Config = WitnessConfig

    def __call__(self, rows: pa.Table) -> pa.Table:
        alive = live(rows).to_pylist()
        values = zip(rows["uid"].to_pylist(), rows["image"].to_pylist(), alive, strict=True)
        seen = [(uid, f"{len(image)} bytes") if lives else (uid, None) for uid, image, lives in values]
        with Path(self.config.log).open("a") as log:
            log.writelines(f"{uid}\n" for uid, text in seen if text is not None)
        return set_columns(rows, {"seen": pa.array([text for _, text in seen], pa.string())})


class Job(NamedTuple):
    folder: Path

    @property
    def store(self) -> Store:
        return Store(str(self.folder / "run"))

    def recipe(self, *more: str) -> CurateRecipe:
        stages = json.dumps([{"name": f"{__name__}:Witness", "log": str(self.folder / "log")}])
        paths = [f"run_dir={self.folder / 'run'}", f"input.path={self.folder / 'urls.parquet'}", f"stages={stages}"]
        quick = ["shards.rows_per_shard=40", "recaption.enabled=false", "translate.enabled=false"]
        return load_recipe(RECIPE, [*paths, *quick, *more])

    def worked(self) -> Counter[str]:
        return Counter((self.folder / "log").read_text().split())

    def product(self) -> pa.Table:
        parts = sorted((self.folder / "run" / "pairs").glob("part-*.parquet"))
        return pa.concat_tables([pq.read_table(part) for part in parts])

    def rows(self, table: str) -> pa.Table:
        return pa.concat_tables([self.store.load(table, shard) for shard in sorted(self.store.index(table))])


@pytest.fixture
def job(tmp_path: Path, local_ray: None) -> Iterator[Job]:
    """A finished run whose server is gone."""
    module = sys.modules[__name__]
    cloudpickle.register_pickle_by_value(module)  # the cluster's workers cannot import the tests
    with demo_server() as base_url:
        rows = demo_rows(base_url)
        pq.write_table(rows.filter(pc.equal(rows["case"], "plain")).slice(0, 80), tmp_path / "urls.parquet")
        assert curate(Job(tmp_path).recipe())["complete"]
    yield Job(tmp_path)
    cloudpickle.unregister_pickle_by_value(module)


@pytest.mark.parametrize("key", ["download.max_bytes=6000", "filter.min_side=220"])
def test_a_row_that_is_dropped_and_comes_back_is_not_paid_for_twice(job: Job, key: str) -> None:
    before, worked = job.product(), job.worked()
    assert set(worked.values()) == {1}
    assert worked.keys() == set(before["uid"].to_pylist())

    assert curate(job.recipe(key))["complete"]
    fewer = set(job.product()["uid"].to_pylist())
    back = worked.keys() - fewer
    assert len(back) >= 5
    assert job.product().equals(before.filter(pc.is_in(before["uid"], pa.array(fewer))))

    assert curate(job.recipe())["complete"]
    assert job.product().equals(before)
    assert job.worked() == worked


def test_what_was_made_of_an_erased_picture_goes_with_it(job: Job) -> None:
    row = job.product().slice(3, 1).to_pylist()[0]
    blocked = job.folder / "blocked.txt"
    blocked.write_text(row["sha256"] + "\n")
    assert curate(job.recipe(f"download.hash_blocklist={blocked}"))["complete"]
    made = {one["uid"]: one for one in job.rows(TABLE).to_pylist()}
    assert (made[row["uid"]]["seen"], made[row["uid"]]["witness_made_from"]) == (None, None)
    assert sum(one["seen"] is not None for one in made.values()) == len(job.worked()) - 1
