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
from pipelines.consent import ConsentError
from pipelines.curate import curate, select
from pipelines.demo import RECIPE
from pipelines.demo_rows import demo_rows
from pipelines.demo_server import demo_server
from pipelines.recipe import CurateRecipe, load_recipe

pytestmark = pytest.mark.ray

#: The table of the stage below.
TABLE = "columns/witness"


class WitnessConfig(StageConfig):
    log: str = Field(description="the file to which it writes the rows that it works on")
    least: int = Field(0, description="bytes below which it drops a picture")

    def identity(self) -> object:
        return self.least


class Witness(Stage):
    """A captioner that notes for which rows it was paid."""

    name, segment, pool = "witness", "rewrite", "model"
    reads = ("uid", "image", "caption")
    adds = (Column("seen", pa.int64(), "how many bytes it saw", carried=True),)
    drops = ("too_few_bytes",)
    Config = WitnessConfig

    def __call__(self, rows: pa.Table) -> pa.Table:
        alive = live(rows).to_pylist()
        values = zip(rows["uid"].to_pylist(), rows["image"].to_pylist(), alive, strict=True)
        seen = [(uid, len(image)) if lives else (uid, None) for uid, image, lives in values]
        with Path(self.config.log).open("a") as log:
            log.writelines(f"{uid}\n" for uid, size in seen if size is not None)
        rows = set_columns(rows, {"seen": pa.array([size for _, size in seen], pa.int64())})
        if not self.drops:
            return rows
        return self.drop(rows, too_few_bytes=pc.less(rows["seen"], self.config.least))


class Scorer(Witness):
    """The same before the selection."""

    name, segment = "scorer", "score"
    adds = (Column("score", pa.int64(), "how many bytes it saw"),)
    drops = ()

    def __call__(self, rows: pa.Table) -> pa.Table:
        made = super().__call__(rows)
        return made.rename_columns(["score" if name == "seen" else name for name in made.schema.names])


class Job(NamedTuple):
    folder: Path

    @property
    def store(self) -> Store:
        return Store(str(self.folder / "run"))

    def recipe(self, *more: str, least: int = 0, scored: bool = False) -> CurateRecipe:
        chosen = [{"name": f"{__name__}:Witness", "log": str(self.folder / "log"), "least": least}]
        if scored:
            chosen.append({"name": f"{__name__}:Scorer", "log": str(self.folder / "scores"), "least": 0})
        stages = json.dumps(chosen)
        paths = [f"run_dir={self.folder / 'run'}", f"input.path={self.folder / 'urls.parquet'}", f"stages={stages}"]
        quick = ["shards.rows_per_shard=40", "recaption.enabled=false", "translate.enabled=false"]
        return load_recipe(RECIPE, [*paths, *quick, *more])

    def worked(self, log: str = "log") -> Counter[str]:
        return Counter((self.folder / log).read_text().split())

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


@pytest.mark.parametrize("key", ["download.max_bytes=6000", "filter.min_words=3"])
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


def test_a_stage_that_rewrites_may_drop_rows_too(job: Job) -> None:
    before = job.product()
    least = int(pc.approximate_median(before["seen"]).as_py())
    report = curate(job.recipe(least=least), yes=True)
    small = pc.less(before["seen"], least)
    [stage] = [stage for stage in report["stages"] if stage["name"] == "witness"]
    assert stage["dropped"] == {"too_few_bytes": pc.sum(small).as_py()}
    assert (report["complete"], report["rows_kept"]) == (True, stage["rows_kept"])
    assert job.product().equals(before.filter(pc.invert(small)))
    assert f"{stage['rows_kept']} pairs" in (job.folder / "run" / "README.md").read_text()
    # Dropped here and, for a while, by another stage too: nothing is asked again, and its own verdict stands.
    worked = job.worked()
    curate(job.recipe("download.max_bytes=6000", least=least))
    report = curate(job.recipe(least=least))
    assert job.product().equals(before.filter(pc.invert(small)))
    assert job.worked() == worked


def test_results_that_cannot_be_taken_over_are_not_replaced_without_consent(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, worked = job.product(), job.worked()
    monkeypatch.setattr(Witness, "adds", (Column("seen", pa.float64(), "how many bytes it saw", carried=True),))
    with pytest.raises(ConsentError, match=f"{len(worked)} results would be made again.* and 0 are new"):
        curate(job.recipe(least=1))
    assert job.product().equals(before)
    assert job.worked() == worked


def test_another_selection_takes_over_the_scores_that_the_run_has(job: Job) -> None:
    curate(job.recipe("filter.min_words=3", scored=True), yes=True)
    scored = job.worked("scores")
    kept = select(job.recipe("filter.min_words=2", "deduplicate.name=more", scored=True))
    more = job.worked("scores")
    assert len(scored) < kept <= len(more)
    assert set(more.values()) == {1}
