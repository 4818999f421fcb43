"""What would be made again is counted and asked about, before a cluster is started or anything is written."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from curation.download import Download
from curation.flow import Tables, flow_of
from curation.images.stage import Inspect
from curation.plan import plan
from curation.schema import add_seconds, add_worked, set_columns
from curation.shards import commit_shard
from curation.translate import TRANSLATION
from pairmill.errors import RecipeError, RunDirError, UserError
from pairmill.recipe_file import recipe_text, sealed, write_recipe
from pairmill.store import Store
from pipelines.consent import Acceptance, Again, ConsentError, CountAgain, ask, fetch_again
from pipelines.curate import curate, tables_of
from pipelines.recipe import CurateRecipe

#: Pictures of a shard, its rows, and the bytes and seconds that each picture took.
PICTURES, ROWS, BYTES, SECONDS = 3, 4, 1000, 2.0


def recipe(folder: Path, **image: Any) -> CurateRecipe:
    data = {"run_dir": str(folder / "run"), "input": {"path": str(folder / "urls.txt"), "text_column": None}}
    return CurateRecipe.checked({**data, "shards": {"rows_per_shard": ROWS}, "image": image})


def committed(folder: Path, shards: int, of: int) -> tuple[Store, CurateRecipe]:
    """A run of some shards, the first of which were fetched by image.size 64."""
    (folder / "urls.txt").write_text("".join(f"http://a.example/{n}.jpg\n" for n in range(ROWS * of)))
    made_by = recipe(folder, size=64)
    store = Store(made_by.run_dir)
    planned = plan(store, made_by.input, made_by.shards)
    tables = tables_of(made_by, planned, store)
    for shard in range(shards):
        rows = store.load("plan", shard)
        nothing = {c.name: pa.nulls(len(rows), c.type) for c in (*Download.adds, *Inspect.adds)}
        good = [n < PICTURES for n in range(len(rows))]
        found = {
            "status": pa.array(["success" if ok else "timeout" for ok in good]),
            "image_settings": pa.array([made_by.image.settings if ok else None for ok in good]),
            "original_bytes": pa.array([BYTES] * len(rows)),
            "_shard": pa.array([shard] * len(rows), pa.int32()),
        }
        rows = set_columns(rows, nothing | found)
        for stage in ("download", "inspect"):
            rows = add_seconds(rows, stage, SECONDS * len(rows))
        rows = add_worked(rows, {stage: {"rows_in": ROWS, "rows_kept": PICTURES} for stage in ("download", "inspect")})
        rows = set_columns(rows, {"_content_plan": pa.array([store.index("plan")[shard].content] * len(rows))})
        commit_shard(store, [tables.named("images")], rows, run=1)
    return store, made_by


def found(folder: Path, store: Store, now: CurateRecipe) -> Again | None:
    planned = plan(store, now.input, now.shards)
    committed = {name: store.index(name) for name in ("plan", "images")}
    return fetch_again(store, tables_of(now, planned, store), planned, committed)


def test_pictures_of_other_settings_are_counted_with_bytes_and_time(tmp_path: Path) -> None:
    store, made_by = committed(tmp_path, shards=2, of=3)
    assert found(tmp_path, store, made_by) is None
    again = found(tmp_path, store, recipe(tmp_path, size=128))
    pictures = 2 * PICTURES
    assert again == Again("download", pictures, ROWS, pictures * BYTES, pictures * SECONDS)
    # Policy and the way of fetching count for nothing.
    assert found(tmp_path, store, recipe(tmp_path, size=64, max_pixels=5, decode_timeout_s=1)) is None


def test_models_that_would_follow_are_named(tmp_path: Path) -> None:
    store, _ = committed(tmp_path, shards=1, of=1)
    now = recipe(tmp_path, size=128)
    now = now.model_copy(update={"recaption": type(now.recaption).checked({"model": "m", "engine": "openai"})})
    planned = plan(store, now.input, now.shards)
    tables = Tables(now.flow(), selection="default")
    again = fetch_again(store, tables, planned, {name: store.index(name) for name in ("plan", "images")})
    assert again is not None and again.then == ("recaption",)


def test_unfinished_rows_count_as_new() -> None:
    tables = Tables(flow_of({"translate": {"model": "samples/models/translator"}}), selection="default")
    stage = tables.flow.named("translate")
    rows = {
        # Made of something else, failed in part, and failed in the table of an earlier build.
        "translate_made_from": pa.array([0, 0, None], pa.uint64()),
        "translate_error": pa.array([None, "out of memory", "out of memory"]),
        "translations": pa.nulls(3, pa.list_(TRANSLATION)),
        "translate_status": ["success", "partial", "engine_error"],
        "drop_stage": pa.nulls(3, pa.string()),
        "drop_reason": pa.nulls(3, pa.string()),
        "_earlier_columns/translate": [True] * 3,
    }
    rows |= {"uid": ["a", "b", "c"], "caption": ["x", "y", "z"], "language": ["en"] * 3}
    counted = CountAgain([stage], tables, {"columns/translate": [0]})(pa.table(rows))
    assert counted.to_pylist() == [{"stage": "translate", "again": 1, "new": 2}]


@pytest.mark.parametrize(
    ("work", "yes", "asks"),
    [
        (None, False, False),
        (Again("download", 0, 0), False, False),
        (Again("download", 10, 10), False, False),
        (Again("download", 11, 10), False, True),
        (Again("download", 11, 10), True, False),
    ],
)
def test_it_asks_where_more_is_made_again_than_is_added(work: Again | None, yes: bool, asks: bool) -> None:
    if not asks:
        ask(work, yes=yes)
        return
    with pytest.raises(ConsentError, match="11 results would be made again, and 10 are new"):
        ask(work, yes=yes)


def test_bytes_time_and_what_follows_are_said() -> None:
    with pytest.raises(ConsentError) as error:
        ask(Again("download", 2_000_000, 5, 3_100_000_000, 7300.0, ("recaption", "translate")), yes=False)
    assert error.value.value == (
        "2,000,000 results would be made again, 3.1 GB, about 2 hours of one worker, and 5 are new; "
        "recaption and translate would follow"
    )
    assert "stays as it is" in error.value.fix
    with pytest.raises(ConsentError) as error:
        ask(Again("recaption", 5, 0), yes=False)
    assert "are replaced" in error.value.fix


@pytest.mark.slow
def test_the_command_refuses_with_exit_2_and_leaves_the_run_as_it_is(tmp_path: Path) -> None:
    store, made_by = committed(tmp_path, shards=1, of=1)
    write_recipe(store, made_by.to_yaml())
    before = {file: file.read_bytes() for file in Path(store.uri).rglob("*") if file.is_file()}
    (tmp_path / "recipe.yaml").write_text(recipe(tmp_path, size=128).to_yaml())
    command = [sys.executable, "-m", "pipelines", "curate", str(tmp_path / "recipe.yaml"), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    said = json.loads(done.stdout)
    assert said["rule"] == "download must have your consent (--yes) to repeat more work than it adds"
    assert said["value"].startswith("3 results would be made again, 3.0 kB, about 6 s of one worker, and 0 are new")
    assert "--yes" in said["fix"]
    assert {file: file.read_bytes() for file in Path(store.uri).rglob("*") if file.is_file()} == before


def test_a_refused_recipe_does_not_become_the_runs(tmp_path: Path) -> None:
    store, made_by = committed(tmp_path, shards=1, of=2)
    now = recipe(tmp_path, size=64)
    now = now.model_copy(update={"download": now.download.model_copy(update={"enabled": False})})
    for before in (None, made_by.to_yaml()):
        if before is not None:
            write_recipe(store, before)
        with pytest.raises(RecipeError, match=r"(?s)download\.enabled must be true .* 1 shards"):
            curate(now)
        assert recipe_text(store) == (None if before is None else sealed(before))


@pytest.mark.parametrize("before", [None, b"a: 1\n", b"\xff\xfe", b""])
def test_a_withdrawn_recipe_leaves_what_was_there(tmp_path: Path, before: bytes | None) -> None:
    store = Store(str(tmp_path))
    if before is not None:
        store.write_bytes("recipe.yaml", before)
    acceptance = Acceptance(store, "b: 2\n")
    acceptance.accept()
    assert recipe_text(store) == sealed("b: 2\n")
    acceptance.withdraw()
    assert (store.read_bytes("recipe.yaml") if store.exists("recipe.yaml") else None) == before
    assert not store.exists("recipe-copy.yaml")


def test_a_plan_that_lost_a_commit_is_reported_before_any_work(tmp_path: Path) -> None:
    store, made_by = committed(tmp_path, shards=2, of=3)
    store.retract("plan", 1)
    made_by = made_by.model_copy(update={"input": made_by.input.model_copy(update={"path": str(tmp_path / "gone")})})
    with pytest.raises(UserError):  # without the list it cannot be planned again
        curate(made_by)
    assert store.read_text("recipe.yaml") is None


def test_shards_behind_the_plan_are_no_reason_to_fetch(tmp_path: Path) -> None:
    store, made_by = committed(tmp_path, shards=1, of=1)
    store.commit("images", 7, "k", store.load("images", 0), {})  # of a plan that somebody put back
    assert found(tmp_path, store, made_by) is None


@pytest.mark.parametrize("before", [None, "before: 1\n"])
def test_a_refusal_after_the_first_work_brings_the_old_recipe_back(tmp_path: Path, before: str | None) -> None:
    store = Store(str(tmp_path / "run"))
    if before is not None:
        write_recipe(store, before)
    acceptance = Acceptance(store, "now: 2\n")
    acceptance.withdraw()
    assert recipe_text(store) == (None if before is None else sealed(before))
    for _ in range(2):
        acceptance.accept()
        assert recipe_text(store) == sealed("now: 2\n")
    acceptance.withdraw()
    assert recipe_text(store) == (None if before is None else sealed(before))


@pytest.mark.ray
def test_a_run_in_which_another_job_works_keeps_its_recipe(tmp_path: Path, local_ray: None) -> None:
    store, made_by = committed(tmp_path, shards=1, of=1)
    write_recipe(store, made_by.to_yaml())
    with store.locked(), pytest.raises(RunDirError, match="one job at a time"):
        curate(recipe(tmp_path, size=64, max_frames=2))
    assert recipe_text(store) == sealed(made_by.to_yaml())
