"""A user's own stage, defined here and named by its import path, works as a built-in one: end to end."""

from __future__ import annotations

import io
import json
import os
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pydantic import Field
from ray import cloudpickle
from ray.util import list_named_actors

from curation.flow import Tables
from curation.results.rows import write_rows
from curation.schema import live, set_columns
from curation.stage import Column, Runtime, Stage, StageConfig
from curation.stage_docs import render_flow
from curation.stages import CHOSEN_STAGES
from pairmill.errors import IntegrityError, JobError, PairmillError, RecipeError
from pairmill.registry import ChosenBy
from pairmill.store import Store
from pipelines import actors, segments
from pipelines.consent import ConsentError
from pipelines.curate import curate
from pipelines.demo import RECIPE
from pipelines.demo_rows import demo_rows
from pipelines.demo_server import demo_server
from pipelines.pools import size_pools
from pipelines.recipe import CurateRecipe, load_recipe

OWN = f"{__name__}:Brightness"


class BrightnessConfig(StageConfig):
    least: float = Field(0.0, ge=0, le=1, description="mean of the grey values below which a pair is dropped, 0-1")


class Brightness(Stage):
    """Score how bright a picture is."""

    name, segment, pool = "brightness", "score", "model"
    reads = ("image",)
    adds = (Column("brightness", pa.float32(), "mean of the grey values, 0-1", carried=True),)
    drops = ("too_dark",)
    Config = BrightnessConfig

    def setup(self, runtime: Runtime) -> None:
        self.scale = 255.0

    def __call__(self, rows: pa.Table) -> pa.Table:
        alive = pc.is_null(rows["drop_reason"]).to_pylist()
        images = zip(rows["image"].to_pylist(), alive, strict=True)
        scores = [self._score(image) if live and image is not None else None for image, live in images]
        rows = set_columns(rows, {"brightness": pa.array(scores, pa.float32())})
        return self.drop(rows, too_dark=pc.less(rows["brightness"], self.config.least))

    def _score(self, image: bytes) -> float:
        return float(np.asarray(Image.open(io.BytesIO(image)).convert("L")).mean() / self.scale)


class Length(Stage):
    """Count the letters of every caption, of dropped rows too."""

    name, segment = "length", "rewrite"
    reads = ("alt",)
    adds = (Column("letters", pa.int32(), "letters of the alt text", carried=True),)

    def __call__(self, rows: pa.Table) -> pa.Table:
        return set_columns(rows, {"letters": pc.utf8_length(rows["alt"])})


class Origin(Stage):
    """Reads a column of the input list."""

    name, segment, pool = "origin", "score", "model"
    reads, reads_input = ("case", "caption"), True
    adds = (Column("origin", pa.string(), "the list's case and the caption", carried=True),)
    drops = ("is_missing",)

    def __call__(self, rows: pa.Table) -> pa.Table:
        rows = set_columns(rows, {"origin": pc.binary_join_element_wise(rows["case"], rows["caption"], ": ")})
        return self.drop(rows, is_missing=pc.equal(rows["case"], "missing"))


class FailingConfig(StageConfig):
    where: str = "setup"
    error: str = ""


class Failing(Stage):
    """Fails in its worker."""

    name, segment, pool = "failing", "score", "model"
    adds = (Column("nothing", pa.int32()),)
    Config = FailingConfig

    def setup(self, runtime: Runtime) -> None:
        self._fail("setup")

    def __call__(self, rows: pa.Table) -> pa.Table:
        self._fail("call")
        return rows

    def _fail(self, where: str) -> None:
        if self.config.where != where:
            return
        if self.config.error == "user":
            raise RecipeError("failing.model must be a model", value="none", fix="name one")
        if self.config.error == "exits":
            os._exit(3)
        if self.config.error == "ours":
            raise IntegrityError("failing must keep its rows")
        raise ValueError("something else")


class Choosy(Stage):
    """Cannot work on long texts."""

    name, segment = "choosy", "rewrite"
    reads = ("alt",)
    adds = (Column("twice", pa.int64(), carried=True),)

    def __call__(self, rows: pa.Table) -> pa.Table:
        lengths = [len(alt) if alive else None for alt, alive in zip(*_texts(rows), strict=True)]
        if any(length is not None and length >= 12 for length in lengths):
            raise ValueError("too long")
        return set_columns(rows, {"twice": pa.array([n and 2 * n for n in lengths], pa.int64())})


def _texts(rows: pa.Table) -> tuple[list[str], list[bool]]:
    return rows["alt"].to_pylist(), live(rows).to_pylist()


class FailingTask(Failing):
    """Fails in a task."""

    pool = "tasks"


class Job(NamedTuple):
    folder: Path
    base_url: str

    def recipe(self, least: float, *more: str) -> CurateRecipe:
        stage = json.dumps([{"name": OWN, "least": least}])
        return load_recipe(
            RECIPE,
            [
                *(f"run_dir={self.folder / 'run'}", f"input.path={self.folder / 'urls.parquet'}", f"stages={stage}"),
                *("shards.rows_per_shard=40", "recaption.enabled=false", "translate.enabled=false", *more),
            ],
        )

    def asked(self) -> dict[str, int]:
        with urllib.request.urlopen(f"{self.base_url}/_count") as answer:
            return dict(json.load(answer))

    @property
    def store(self) -> Store:
        return Store(str(self.folder / "run"))


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory, local_ray: None) -> Iterator[Job]:
    folder = tmp_path_factory.mktemp("own")
    module = sys.modules[__name__]
    cloudpickle.register_pickle_by_value(module)  # the cluster's workers cannot import the tests
    with demo_server() as base_url:
        rows = demo_rows(base_url)
        plain = rows.filter(pc.equal(rows["case"], "plain")).slice(0, 60)
        missing = rows.filter(pc.equal(rows["case"], "missing")).slice(0, 3)
        pq.write_table(pa.concat_tables([plain, missing]), folder / "urls.parquet")
        yield Job(folder, base_url)
    cloudpickle.unregister_pickle_by_value(module)


def committed(store: Store) -> dict[str, dict[int, Any]]:
    names = ("images", "columns/filter", "columns/brightness", "selections/default", "pairs")
    return {name: store.index(name) for name in names}


@pytest.mark.ray
def test_it_runs_drops_is_reported_and_packed_and_changing_it_makes_only_its_own_stale(job: Job) -> None:
    first = curate(job.recipe(0.0))
    assert first["complete"]
    [stage] = [stage for stage in first["stages"] if stage["name"] == "brightness"]
    assert (stage["rows_in"], stage["dropped"]) == (stage["rows_kept"], {})
    assert [s["name"] for s in first["stages"]][3:7] == ["policy", "filter", "brightness", "deduplicate"]

    pairs = pq.read_table(sorted((job.folder / "run" / "pairs").glob("part-*.parquet")))
    scores = pairs["brightness"].to_pylist()
    for score, image in zip(scores, pairs["image"].to_pylist(), strict=True):
        grey = np.asarray(Image.open(io.BytesIO(image["bytes"])).convert("L"))
        assert score == pytest.approx(grey.sum() / grey.size / 255, abs=1e-6)
    card = (job.folder / "run" / "README.md").read_text()
    assert "| `brightness` | mean of the grey values, 0-1 |" in card

    before, asked = committed(job.store), job.asked()
    curate(job.recipe(0.0))
    assert committed(job.store) == before, "a resume has nothing to do"

    median = float(np.median(scores))
    recipe = job.store.read_text("recipe.yaml")
    with pytest.raises(ConsentError, match="brightness must have your consent"):
        curate(job.recipe(median))
    assert committed(job.store) == before
    assert job.store.read_text("recipe.yaml") == recipe
    second = curate(job.recipe(median), yes=True)
    [stage] = [stage for stage in second["stages"] if stage["name"] == "brightness"]
    dark = sum(score < np.float32(median) for score in scores)
    assert 0 < dark <= stage["dropped"]["too_dark"]
    assert second["rows_kept"] + sum(n for s in second["stages"] for n in s["dropped"].values()) == 63
    after = committed(job.store)
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {"columns/brightness", "selections/default", "pairs"}
    assert job.asked() == asked, "nothing was fetched"
    write_rows(job.store, job.folder / "rows.parquet")
    fates = pq.read_table(job.folder / "rows.parquet")
    assert fates.filter(pc.equal(fates["drop_stage"], "brightness")).num_rows == stage["dropped"]["too_dark"]


@pytest.mark.ray
def test_duplicates_may_be_ranked_by_its_score(job: Job) -> None:
    report = curate(job.recipe(0.0, "deduplicate.score=brightness"), yes=True)
    assert report["complete"]
    with pytest.raises(RecipeError, match=r"deduplicate\.score must name a numeric column"):
        curate(job.recipe(0.0, "deduplicate.score=brightnes"))


@pytest.mark.ray
def test_a_stage_without_drops_may_fill_every_row(job: Job) -> None:
    stages = json.dumps([f"{__name__}:Length"])
    report = curate(job.recipe(0.0, f"run_dir={job.folder / 'filled'}", f"stages={stages}"))
    assert report["complete"]
    [length] = [stage for stage in report["stages"] if stage["name"] == "length"]
    assert 0 < length["rows_in"] == length["rows_kept"] < 63
    pairs = pq.read_table(sorted((job.folder / "filled" / "pairs").glob("part-*.parquet")))
    assert pairs["letters"].to_pylist() == [len(alt) for alt in pairs["alt"].to_pylist()]


@pytest.mark.ray
def test_a_stage_may_read_the_columns_of_the_list(job: Job) -> None:
    stages = json.dumps([f"{__name__}:Origin"])
    report = curate(job.recipe(0.0, f"run_dir={job.folder / 'origin'}", f"stages={stages}"))
    assert report["complete"]
    pairs = pq.read_table(sorted((job.folder / "origin" / "pairs").glob("part-*.parquet")))
    assert len(pairs) > 0 and set(pairs["input"].combine_chunks().field("case").to_pylist()) == {"plain"}
    assert pairs["origin"].to_pylist() == [f"plain: {alt}" for alt in pairs["alt"].to_pylist()]
    stored = job.store.uri.replace("/run", "/origin")
    assert Store(stored).schema("columns/origin/shard-000000.parquet").names[:2] == ["uid", "origin"]


@pytest.mark.ray
@pytest.mark.parametrize("kind", ["Failing", "FailingTask"])
@pytest.mark.parametrize("where", ["setup", "call"])
@pytest.mark.parametrize(
    ("error", "raises", "says"),
    [
        ("user", RecipeError, "failing.model must be a model\n  got: none\n  fix: name one"),
        ("ours", IntegrityError, "failing must keep its rows"),
        ("other", JobError, None),
    ],
)
def test_an_error_in_a_worker_arrives_as_it_was_raised(
    job: Job, kind: str, where: str, error: str, raises: type[PairmillError], says: str | None
) -> None:
    if says is None and where == "setup":
        says = "the job failed: ValueError: something else\nWhat was committed stays"
    elif says is None:
        says = f"stage failing ({__name__}:{kind}) raised ValueError: something else ({__file__}:"
    stages = json.dumps([{"name": f"{__name__}:{kind}", "where": where, "error": error}])
    with pytest.raises(PairmillError) as raised:
        curate(job.recipe(0.0, f"run_dir={job.folder / 'failed'}", f"stages={stages}"))
    assert type(raised.value) is raises
    assert str(raised.value).startswith(says)
    assert "ray" not in str(raised.value).lower()
    # The error is still at hand, and its traceback refers to the whole job; its actors' cores are free all the same.
    assert list_named_actors() == []


@pytest.mark.ray
@pytest.mark.parametrize("kind", ["Failing", "FailingTask"])
def test_code_that_ends_its_process_ends_the_job_after_some_tries(
    job: Job, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A process that starts again takes seconds.
    monkeypatch.setattr(segments, "_TASKS", {**segments._TASKS, "max_retries": 1})
    monkeypatch.setattr(actors, "RESTARTS", 1)
    stages = json.dumps([{"name": f"{__name__}:{kind}", "where": "call", "error": "exits"}])
    with pytest.raises(JobError, match=rf"died(.|\n)*calling your own code: stage failing \({__name__}:{kind}\)"):
        curate(job.recipe(0.0, f"run_dir={job.folder / 'exits'}", f"stages={stages}"))


@pytest.mark.ray
def test_rows_that_a_stage_fails_on_may_be_dropped(job: Job) -> None:
    stages = json.dumps([{"name": f"{__name__}:Choosy", "on_error": "drop"}])
    report = curate(job.recipe(0.0, f"run_dir={job.folder / 'choosy'}", f"stages={stages}"))
    assert report["complete"]
    [choosy] = [stage for stage in report["stages"] if stage["name"] == "choosy"]
    pairs = pq.read_table(sorted((job.folder / "choosy" / "pairs").glob("part-*.parquet")))
    short = [alt for alt in pairs["alt"].to_pylist() if len(alt) < 12]
    assert choosy["dropped"].keys() == {"failed"} and choosy["dropped"]["failed"] > 0
    assert len(pairs) == choosy["rows_in"] - choosy["dropped"]["failed"] == len(short) > 0
    assert pairs["twice"].to_pylist() == [2 * len(alt) for alt in pairs["alt"].to_pylist()]


def test_its_place_pool_tables_schema_and_page_follow_from_the_declaration() -> None:
    recipe = Job(Path("f"), "").recipe(0.5)
    flow = recipe.flow()
    assert flow.order == ("plan", "download", "inspect", "policy", "filter", "brightness", "deduplicate", "pack")
    on_gpus = size_pools(flow, {"CPU": 16.0, "GPU": 2.0}).of["brightness"]
    assert (on_gpus.actors, on_gpus.num_gpus) == (2, 0.5)
    assert size_pools(flow, {"CPU": 2.0}).of["brightness"].num_gpus == 0
    table = Tables(flow, selection="default").named("columns/brightness")
    assert table.columns == ("brightness", "brightness_made_from", "brightness_verdict", "drop_stage", "drop_reason")
    assert table.upstream == ("images", "columns/filter")
    page = render_flow(flow)
    assert "## brightness\n\nScore how bright a picture is.\n" in page
    assert "| `brightness` | float | mean of the grey values, 0-1 | yes |" in page
    with CHOSEN_STAGES.extended("brightness", Brightness):
        schema = json.dumps(CurateRecipe.model_json_schema()["properties"]["stages"])
        assert ChosenBy(CHOSEN_STAGES).parse({"name": "brightness", "least": 0.5}).least == 0.5  # type: ignore[attr-defined]
    assert '"brightness"' in schema


@pytest.mark.parametrize(
    ("stages", "says"),
    [
        ("[no.such:Stage]", r"stages\[0\] must be an import path"),
        ("[blur]", r"stages\[0\] must be an import path"),
        (f"[{{name: '{OWN}', most: 1}}]", r"stages\[0\]\.most is not a key"),
        (f"['{OWN}', '{OWN}']", "must have different names"),
        (f"['{__name__}:Misplaced']", r"reads must be added by stages before it\n.*caption_of_tomorrow"),
        (f"['{__name__}:Twice']", r"added by one stage only\n.*caption"),
    ],
)
def test_a_stage_that_does_not_fit_is_refused_with_the_recipe(stages: str, says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        load_recipe(RECIPE, [f"stages={stages}"])


class Idle(Stage):
    """Base of stages that are refused before they run."""

    name, segment = "idle", "score"
    adds = (Column("idleness", pa.string()),)

    def __call__(self, rows: pa.Table) -> pa.Table:
        return rows


class Misplaced(Idle):
    reads = ("caption_of_tomorrow",)


class Twice(Idle):
    adds = (Column("caption", pa.string()),)
