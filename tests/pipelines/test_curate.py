"""The curation job, end to end: real drawings, a real server that misbehaves, real models, a real (local) Ray."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation.results.report import build_report
from curation.results.rows import write_rows
from pairmill.store import Store
from pipelines.curate import curate
from pipelines.demo import RECIPE
from pipelines.demo_rows import demo_rows
from pipelines.demo_server import demo_server
from pipelines.doctor import project_root
from pipelines.recipe import CurateRecipe, load_recipe

pytestmark = pytest.mark.ray

#: What must become of each special row of the demo's list: the stage and reason it is dropped for, None if kept.
FATE = {
    "plain": None,
    "busy": None,
    "flaky": None,
    "redirect": None,
    "mistyped": None,
    "oriented": None,
    "animated": None,
    "missing": ("download", "http_client_error"),
    "slow": ("download", "too_slow"),
    "endless": ("download", "too_large"),
    "truncated": ("download", "truncated"),
    "empty": ("download", "empty_body"),
    "zstd": ("download", "encoded_body"),
    "redirect-private": ("download", "forbidden_address"),
    "redirect-metadata": ("download", "forbidden_address"),
    "redirect-loop": ("download", "redirect_error"),
    "opt-out": ("download", "opt_out"),
    "private": ("download", "robots_disallowed"),
    "forbidden-scheme": ("download", "forbidden_scheme"),
    "forbidden-address": ("download", "forbidden_address"),
    "forbidden-userinfo": ("download", "forbidden_userinfo"),
    "invalid-url": ("download", "invalid_url"),
    "html": ("inspect", "not_an_image"),
    "corrupt": ("inspect", "decode_error"),
    "bomb": ("inspect", "too_many_pixels"),
    "thumbnail": ("filter", "image_too_small"),
    "text-url": ("filter", "text_is_url"),
    "text-file-name": ("filter", "text_is_file_name"),
    "text-boilerplate": ("filter", "text_is_boilerplate"),
    "text-shared": ("filter", "text_too_common"),
}


class Run(NamedTuple):
    recipe: CurateRecipe
    store: Store
    report: dict[str, Any]
    rows: list[dict[str, Any]]
    base_url: str


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, local_ray: None) -> Iterator[Run]:
    folder = tmp_path_factory.mktemp("curate")
    with demo_server() as base_url:
        pq.write_table(demo_rows(base_url), folder / "urls.parquet")
        models = project_root() / "samples" / "models"
        recipe = load_recipe(
            RECIPE,
            [
                f"run_dir={folder / 'run'}",
                f"input.path={folder / 'urls.parquet'}",
                f"recaption.model={models / 'captioner'}",
                f"translate.model={models / 'translator'}",
            ],
        )
        report = curate(recipe)
        store = Store(recipe.run_dir)
        write_rows(store, folder / "rows.parquet", selection="default")
        yield Run(recipe, store, report, pq.read_table(folder / "rows.parquet").to_pylist(), base_url)


def counts(run: Run) -> dict[str, int]:
    with urllib.request.urlopen(f"{run.base_url}/_count") as answer:
        return dict(json.load(answer))


def funnel(stage: dict[str, Any]) -> tuple[Any, ...]:
    return stage["name"], stage["rows_in"], stage["rows_kept"], stage["dropped"]


def pairs(run: Run) -> pa.Table:
    return pq.read_table(sorted(Path(run.store.path("pairs")).glob("part-*.parquet")))


@pytest.mark.parametrize("case", sorted(FATE))
def test_every_kind_of_row_meets_its_fate(run: Run, case: str) -> None:
    met = [(r["drop_stage"], r["drop_reason"]) for r in run.rows if r["case"] == case]
    assert met
    if FATE[case] is not None:
        assert set(met) == {FATE[case]}
        return
    # Plain rows of look-alike emoji, and those whose alt text is in a third language, may go for that alone.
    allowed = {(None, None), ("deduplicate", "near_duplicate_image"), ("deduplicate", "duplicate_image")}
    allowed |= {("deduplicate", "duplicate_pair"), ("filter", "language_not_allowed"), ("plan", "duplicate_input")}
    assert set(met) <= allowed
    assert met.count((None, None)) > 0.6 * len(met)


def test_no_row_vanishes(run: Run) -> None:
    assert len(run.rows) == run.report["rows_in"] == 782
    dropped = sum(n for stage in run.report["stages"] for n in stage["dropped"].values())
    assert run.report["rows_kept"] + dropped == 782
    assert sum(r["drop_stage"] is None for r in run.rows) == run.report["rows_kept"] == len(pairs(run))
    assert build_report(run.store)["complete"]


def test_near_duplicates_and_copies_are_found(run: Run) -> None:
    met = [r["drop_stage"] for r in run.rows if r["case"] in ("copy", "reencoded")]
    assert len(met) == 14
    # Which of two equal pictures stays is a matter of score and uid; that one of each goes is not.
    reasons = [r["drop_reason"] for r in run.rows if r["drop_stage"] == "deduplicate"]
    assert sum(r in ("duplicate_image", "duplicate_pair") for r in reasons) >= 6
    assert reasons.count("near_duplicate_image") >= 8


def test_kept_rows_have_texts_in_both_languages_and_say_where_from(run: Run) -> None:
    rows = pairs(run).drop_columns(["image"]).to_pylist()
    for row in rows:
        kinds = [text["kind"] for text in row["texts"]]
        assert kinds[0] == "alt"
        # The recipe's gate leaves out what the captioner is less sure of.
        assert all(text["score"] >= -0.3 for text in row["texts"] if text["kind"] in ("short", "long"))
        for at, text in enumerate(row["texts"]):
            if text["kind"] == "translated":
                assert text["language"] == "zh"
                assert row["texts"][text["source_index"]]["language"] == "en"
            if at:
                assert text["model"]
                assert text["revision"]
        assert row["caption"]
    assert {"short", "long"} <= {text["kind"] for row in rows for text in row["texts"]}
    translated = sum(any(t["language"] == "zh" for t in row["texts"]) for row in rows)
    assert translated > 0.9 * len(rows)


def test_nothing_private_was_asked_and_robots_was_read_first(run: Run) -> None:
    asked = counts(run)
    assert not [path for path in asked if path.startswith("/private/")]
    assert asked["/robots.txt"] >= 1


def test_running_again_changes_nothing_but_sweeps_what_a_killed_writer_left(run: Run) -> None:
    pairs = Path(run.store.path("pairs"))
    before, asked = {p: p.read_bytes() for p in pairs.rglob("*") if p.is_file()}, counts(run)
    Path(run.store.path("_manifest/pairs/0000/.killed.partial")).write_bytes(b"{")
    again = curate(run.recipe)
    assert [funnel(stage) for stage in again["stages"]] == [funnel(stage) for stage in run.report["stages"]]
    assert {p: p.read_bytes() for p in pairs.rglob("*") if p.is_file()} == before
    assert not run.store.exists("_manifest/pairs/0000/.killed.partial")
    assert counts(run) == asked


def test_a_changed_threshold_fetches_nothing_and_captions_only_what_is_new(run: Run, tmp_path: Path) -> None:
    asked = counts(run)
    images = run.store.index("images")
    changed = run.recipe.model_copy(
        update={"deduplicate": run.recipe.deduplicate.model_copy(update={"enabled": False, "name": "every"})}
    )
    report = curate(changed)
    assert report["rows_kept"] > run.report["rows_kept"]
    assert run.store.index("images") == images
    assert counts(run) == asked
    latest = max(m["run"] for m in run.store.manifests("columns/recaption"))
    made = [m["worked"]["recaption"] for m in run.store.manifests("columns/recaption") if m["run"] == latest]
    assert sum(worked["rows"] for worked in made) == report["rows_kept"] - run.report["rows_kept"]


def test_the_product_loads_as_a_dataset_of_images(run: Run, tmp_path: Path) -> None:
    import datasets

    loaded = datasets.load_dataset(run.store.uri, split="train", cache_dir=str(tmp_path))  # as its card says
    assert len(loaded) == len(pairs(run))
    image = loaded[0]["image"]
    assert max(image.size) <= 256
    assert not image.getexif()
