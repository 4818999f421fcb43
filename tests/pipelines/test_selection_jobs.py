"""Selections in a job: nothing is fetched for one, no picture is touched, and a killed job resumes to the same rows."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import ray

from curation.selections.cuts import SIZES, Limits, find_cuts, find_sizes
from curation.selections.ranking import ranked
from pairmill.errors import RecipeError, RunDirError
from pairmill.run_records import read_records
from pairmill.store import Store
from pipelines.curate import curate
from pipelines.demo import RECIPE
from pipelines.demo_rows import demo_rows
from pipelines.demo_server import demo_server
from pipelines.pools import connected
from pipelines.recipe import CurateRecipe, load_recipe, parse_recipe
from pipelines.selecting import select_in
from pipelines.stages.select import RayPasses
from pipelines.sweep import make_selections
from training.data.source import open_source
from tune.recipe import SweepRecipe

pytestmark = pytest.mark.ray

SELECTIONS: dict[str, Any] = {
    "base": {"dedup": ["exact", {"name": "near_image", "max_distance": 3}]},
    "sharp": {"from": "base", "where": "sharpness > quantile(sharpness, 0.3, by=language)"},
    "few": {
        "from": "sharp",
        "quota": {"per": "input.group", "rows": 5, "by": "entropy"},
        "top": {"by": "entropy", "rows": 20},
        "weight": "1 / count(by=language)",
    },
    "rest": "default & ~few",
    "together": {"dedup": ["exact", {"name": "near_image", "max_distance": 3}], "keep": "all"},
    "within": {
        "from": "together",
        "where": "sharpness > quantile(sharpness, 0.2)",
        "weight": {"of": "input.group", "per": "language", "by": "entropy", "rows": 60, "most": 3.0},
    },
}


class Selected(NamedTuple):
    """A run that was curated without selections, and then with them.

    plain: the run's folder before.  asked: requests of the second job.  before: pictures (mtime, bytes) before it.
    """

    recipe: CurateRecipe
    store: Store
    plain: Path
    asked: Counter[str]
    before: dict[str, tuple[int, int]]
    reports: tuple[dict[str, Any], dict[str, Any]]


def counts(base_url: str) -> Counter[str]:
    with urllib.request.urlopen(f"{base_url}/_count") as answer:
        return Counter(json.load(answer))


def pictures(store: Store) -> dict[str, tuple[int, int]]:
    files = [*Path(store.path("images")).rglob("*"), *Path(store.path("pairs")).rglob("*")]
    return {str(file): (file.stat().st_mtime_ns, file.stat().st_ino) for file in files if file.is_file()}


def recipe_of(folder: Path, *more: str) -> CurateRecipe:
    given = [f"run_dir={folder / 'run'}", f"input.path={folder / 'urls.parquet'}", "shards.rows_per_shard=40"]
    return load_recipe(RECIPE, [*given, "recaption.enabled=false", "translate.enabled=false", *more])


def with_selections(recipe: CurateRecipe, selections: Mapping[str, Any], packed: str | None = None) -> CurateRecipe:
    data = recipe.model_dump(mode="json")
    data["selections"], data["pack"]["selection"] = dict(selections), packed
    return CurateRecipe.checked(data)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, local_ray: None) -> Iterator[Selected]:
    folder = tmp_path_factory.mktemp("selections")
    with demo_server() as base_url:
        rows = demo_rows(base_url)
        plain = rows.filter(pc.is_in(rows["case"], pa.array(["plain", "copy", "reencoded", "missing", "thumbnail"])))
        pq.write_table(plain.slice(0, 240), folder / "urls.parquet")
        recipe = recipe_of(folder)
        first = curate(recipe)
        store = Store(recipe.run_dir)
        shutil.copytree(folder / "run", folder / "plain")
        asked, before = counts(base_url), pictures(store)
        selecting = with_selections(recipe, SELECTIONS)
        second = curate(selecting)
        yield Selected(selecting, store, folder / "plain", counts(base_url) - asked, before, (first, second))


def loaded(store: Store, name: str) -> pa.Table:
    return pa.concat_tables([store.load(f"selections/{name}", shard) for shard in sorted(store.index("plan"))])


def columns(store: Store) -> list[dict[str, Any]]:
    """The rows with what the selections read of them."""
    rows = []
    for shard in sorted(store.index("plan")):
        plan = store.load("plan", shard, ["uid", "input"]).to_pylist()
        images = store.load("images", shard, ["sharpness", "entropy"]).to_pylist()
        filtered = store.load("columns/filter", shard, ["language"]).to_pylist()
        parts = zip(plan, images, filtered, strict=True)
        rows += [{**p["input"], "uid": p["uid"], **image, **text} for p, image, text in parts]
    return rows


def test_a_selection_costs_no_request_and_touches_no_picture(run: Selected) -> None:
    assert not run.asked
    assert pictures(run.store) == run.before
    first, second = run.reports
    assert first["rows_kept"] == second["rows_kept"] and second["complete"]
    assert [stage["name"] for stage in first["stages"]] == [stage["name"] for stage in second["stages"]]


def test_the_rows_are_those_of_the_rules(run: Selected) -> None:
    store, rows = run.store, columns(run.store)
    kept = {name: loaded(store, name)["keep"].to_pylist() for name in (*SELECTIONS, "default")}
    assert kept["base"] == kept["default"]  # the demo's own deduplication
    base = [row for row, keep in zip(rows, kept["base"], strict=True) if keep]
    sharp = []
    for language in {row["language"] for row in base}:
        here = [row for row in base if row["language"] == language]
        least = np.quantile([row["sharpness"] for row in here], 0.3, method="inverted_cdf")
        sharp += [row for row in here if row["sharpness"] > least]
    assert {r["uid"] for r, keep in zip(rows, kept["sharp"], strict=True) if keep} == {row["uid"] for row in sharp}
    chosen = []
    for group in {row["group"] for row in sharp}:
        here = sorted((row for row in sharp if row["group"] == group), key=lambda r: (-r["entropy"], r["uid"]))
        chosen += here[:5]
    chosen = sorted(chosen, key=lambda row: (-row["entropy"], row["uid"]))[:20]
    few = loaded(store, "few")
    assert set(few["uid"].filter(few["keep"]).to_pylist()) == {row["uid"] for row in chosen}
    sizes = Counter(row["language"] for row in sharp)
    weights = dict(zip(few["uid"].to_pylist(), few["weight"].to_pylist(), strict=True))
    assert all(weights[row["uid"]] == np.float32(1 / sizes[row["language"]]) for row in chosen)
    assert kept["rest"] == [d and not f for d, f in zip(kept["default"], kept["few"], strict=True)]


def test_duplicates_that_stay_are_in_groups_that_training_reads(run: Selected) -> None:
    store = run.store
    base, together, within = (loaded(store, name) for name in ("base", "together", "within"))
    planned = pa.concat_tables([store.load("columns/filter", n, ["drop_reason"]) for n in sorted(store.index("plan"))])
    assert together["keep"].to_pylist() == planned["drop_reason"].is_null().to_pylist()
    assert together["duplicate_group"].equals(base["duplicate_group"]) and base["duplicate_group"].null_count < 240
    families: dict[int, list[bool]] = defaultdict(list)
    for row, stays in zip(together.to_pylist(), base["keep"].to_pylist(), strict=True):
        if row["keep"]:
            families[row["group_id"]].append(stays)
    # One row of each is what the selection without duplicates keeps.
    assert {sum(kept) for kept in families.values()} == {1} and max(map(len, families.values())) > 1
    known = {row["uid"]: row["group_id"] for row in together.to_pylist() if row["keep"]}
    source = open_source(store.uri, "within")
    rows = pa.concat_tables([source.read(piece) for piece in range(source.pieces)])
    kept = within.filter(within["keep"])
    assert rows["uid"].to_pylist() == kept["uid"].to_pylist()
    expected = [known[uid] for uid in kept["uid"].to_pylist()]
    assert rows["group_id"].to_pylist() == kept["group_id"].to_pylist() == expected


def test_weights_against_skew_are_those_of_the_definition(run: Selected) -> None:
    store = run.store
    within = loaded(store, "within")
    rows = [row for row, keep in zip(columns(store), within["keep"].to_pylist(), strict=True) if keep]
    weights = within["weight"].drop_null().to_pylist()
    values = {row["group"] for row in rows}
    by_language: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        by_language[row["language"]].append(row)
    share = {}
    for language, some in by_language.items():
        first = sorted(some, key=lambda row: (-row["entropy"], row["uid"]))[:60]
        share |= {(language, value): sum(r["group"] == value for r in first) / len(first) for value in values}
    expected = []
    for row in rows:
        odds = 1 / len(values) / max(share[row["language"], row["group"]], 1e-9)
        expected.append(min(3.0, max(1 / 3, odds)))
    assert weights == pytest.approx(expected, rel=1e-6) and len(set(weights)) > 2


def selection_files(store: Store) -> dict[str, tuple[int, bytes]]:
    files = sorted(Path(store.path("selections")).rglob("*.parquet"))
    return {str(f.relative_to(store.path("selections"))): (f.stat().st_mtime_ns, f.read_bytes()) for f in files}


def test_a_job_makes_only_what_changed_and_packs_what_it_is_told(run: Selected) -> None:
    before = selection_files(run.store)
    curate(run.recipe)
    assert selection_files(run.store) == before
    changed = {**SELECTIONS, "sharp": {"from": "base", "where": "sharpness > quantile(sharpness, 0.4, by=language)"}}
    images = {k: v for k, v in pictures(run.store).items() if "/images/" in k}
    report = curate(with_selections(run.recipe, changed, packed="few"))
    after = selection_files(run.store)
    made = {name.split("/")[0] for name in after if after[name] != before.get(name)}
    assert made == {"sharp", "few", "rest"}
    assert {k: v for k, v in pictures(run.store).items() if "/images/" in k} == images
    stages = {stage["name"]: stage for stage in report["stages"]}
    assert report["complete"] and report["selection"] == "few" and "deduplicate" not in stages
    assert report["rows_in"] == report["rows_kept"] + report["rows_dropped"]
    assert stages["select"]["rows_kept"] == stages["pack"]["rows_kept"] == report["rows_kept"] == 20
    packed = pq.read_table(sorted(Path(run.store.path("pairs")).glob("*.parquet")), columns=["uid"])
    few = loaded(run.store, "few")
    assert packed["uid"].to_pylist() == few["uid"].filter(few["keep"]).to_pylist()
    curate(run.recipe)
    assert {k: v[1] for k, v in selection_files(run.store).items()} == {k: v[1] for k, v in before.items()}


@pytest.mark.parametrize(
    "faults",
    ["barrier.selections:kill-driver@3", "select.shard:kill@4;commit.selections/few.data.before_write:kill-driver@2"],
)
def test_a_killed_job_resumes_to_the_same_rows(run: Selected, faults: str, tmp_path: Path) -> None:
    shutil.copytree(run.plain, tmp_path / "run")
    recipe = with_selections(run.recipe, SELECTIONS)
    (tmp_path / "recipe.yaml").write_text(recipe.model_copy(update={"run_dir": str(tmp_path / "run")}).to_yaml())
    command = [sys.executable, "-m", "pipelines", "curate", str(tmp_path / "recipe.yaml"), "--json"]
    (tmp_path / "faults").mkdir()
    environment = {**os.environ, "PAIRMILL_FAULTS": faults, "PAIRMILL_FAULTS_DIR": str(tmp_path / "faults")}
    killed = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert killed.returncode < 0, killed.stderr[-2000:]
    store = Store(str(tmp_path / "run"))
    done = {name for name in SELECTIONS if len(store.index(f"selections/{name}")) == len(store.index("plan"))}
    assert "base" in done and "few" not in done
    resumed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert resumed.returncode == 0, resumed.stderr[-2000:]
    assert json.loads(resumed.stdout)["complete"]
    for name in SELECTIONS:
        assert loaded(store, name).equals(loaded(run.store, name))


def test_further_selections_leave_the_product_alone(run: Selected) -> None:
    before, files = pictures(run.store), selection_files(run.store)
    section = {"short": {"from": "few", "where": "len(caption) < 12"}, "both": "short | rest"}
    kept = select_in(run.recipe, section, quiet=True)
    assert kept["short"] == sum(loaded(run.store, "short")["keep"].to_pylist())
    both = [a or b for a, b in zip(*(loaded(run.store, n)["keep"].to_pylist() for n in ("short", "rest")), strict=True)]
    assert loaded(run.store, "both")["keep"].to_pylist() == both
    assert pictures(run.store) == before
    assert {name: selection_files(run.store)[name] for name in files} == files
    report = json.loads((Path(run.store.path("")) / "report.json").read_text())
    assert report["complete"]
    assert any(record.get("beside") for record in read_records(run.store))
    with pytest.raises(RecipeError, match=r"selections\.few must be as in the run's own recipe"):
        select_in(run.recipe, {"few": {"where": "True"}}, quiet=True)
    with pytest.raises(RecipeError, match=r"selections\.odd\.where, column 1: every name must be a column"):
        select_in(run.recipe, {"odd": {"where": "heigth > 2"}}, quiet=True)


def test_no_row_stays_that_another_run_has(run: Selected, tmp_path: Path) -> None:
    shutil.copytree(run.plain, tmp_path / "run")
    shutil.copytree(run.store.path(""), tmp_path / "other")
    store, other = Store(str(tmp_path / "run")), Store(str(tmp_path / "other"))
    recipe = run.recipe.model_copy(update={"run_dir": store.uri, "selections": {}})
    rules = {"dedup": ["exact"], "against": {"there": {"run": other.uri, "selection": "few"}}}
    before = selection_files(other)

    def hashes(of: Store, name: str) -> dict[str, str]:
        """uid -> digest of the picture, of the rows of a selection."""
        images = pa.concat_tables([of.load("images", shard, ["uid", "sha256"]) for shard in sorted(of.index("plan"))])
        kept = images.filter(loaded(of, name)["keep"])
        return dict(zip(kept["uid"].to_pylist(), kept["sha256"].to_pylist(), strict=True))

    select_in(recipe, {"alone": {"dedup": ["exact"]}, "new": rules}, quiet=True)
    there = set(hashes(other, "few").values())
    alone = hashes(store, "alone")
    assert hashes(store, "new") == {uid: digest for uid, digest in alone.items() if digest not in there}
    assert 0 < len(there) < len(alone)
    new = [row for row in loaded(store, "new").to_pylist() if str(row["duplicate_group"]).startswith("there:")]
    assert len(new) >= len(there)
    assert {row["reason"] for row in new} <= {"duplicate_pair_elsewhere", "duplicate_image_elsewhere"}
    assert {row["duplicate_group"].partition(":")[2] for row in new} == set(hashes(other, "few"))
    assert selection_files(other) == before
    # As long as that run is as it was, so is the selection; and if less is there, more is new.
    made = selection_files(store)
    select_in(recipe, {"new": rules}, quiet=True)
    assert selection_files(store) == made
    shard = next(n for n in sorted(other.index("plan")) if pc.any(other.load("selections/few", n)["keep"]).as_py())
    rows = other.load("selections/few", shard)
    nothing = rows.set_column(rows.schema.get_field_index("keep"), "keep", pa.array([False] * len(rows)))
    other.commit("selections/few", shard, "0" * 16, nothing, {})
    select_in(recipe, {"new": rules}, quiet=True)
    there = set(hashes(other, "few").values())
    assert hashes(store, "new") == {uid: digest for uid, digest in alone.items() if digest not in there}
    for keys, message in (
        ({"run": str(tmp_path / "nowhere")}, "there is no run"),
        ({"run": other.uri, "selection": "fewer"}, "perhaps you mean: few"),
        ({"run": store.uri}, "must be others"),
    ):
        with pytest.raises(RunDirError, match=message):
            select_in(recipe, {"bad": {"dedup": ["exact"], "against": {"there": keys}}}, quiet=True)
    other.remove_shard("selections/few", shard)
    with pytest.raises(RunDirError, match="selections/few lacks 1 of"):
        select_in(recipe, {"new": rules}, quiet=True)


def test_the_command_takes_back_what_it_exports(run: Selected, tmp_path: Path) -> None:
    (tmp_path / "more.yaml").write_text("selections: {again: {uids: few.npy}}\n")

    def command(*arguments: str) -> dict[str, Any]:
        called = [sys.executable, "-m", "pipelines", "select", run.store.uri, *arguments, "--json"]
        done = subprocess.run(called, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    assert command("--export", "few", "--to", "few.npy")["rows"] == 20
    assert command("more.yaml")["rows_kept"] == {"again": 20}
    found = command("--diff", "few", "again")
    assert found["both"] == 20 and not any(found["only"][name]["rows"] for name in ("few", "again"))


def test_a_sweep_makes_selections_of_both_forms(run: Selected, tmp_path: Path) -> None:
    sweep = SweepRecipe.model_construct(
        run_dir=str(tmp_path),
        train={"data": {"path": run.store.uri}, "model": {"architecture": "ViT-B-32"}, "train": {"steps": 3}},
        selections={"english": {"filter.languages": ["en"]}, "some": {"from": "english", "top": {"rows": 9}}},
    )
    assert make_selections(sweep, quiet=True)["some"] == 9


def test_a_run_that_is_not_curated_so_far_is_refused(run: Selected, tmp_path: Path) -> None:
    shutil.copytree(run.plain, tmp_path / "run")
    Store(str(tmp_path / "run")).remove_shard("columns/filter", 0)
    recipe = run.recipe.model_copy(update={"run_dir": str(tmp_path / "run"), "selections": {}})
    with pytest.raises(RunDirError, match="a run must be curated as far as its selections read it"):
        select_in(recipe, {"one": {"where": "language == 'en'"}}, quiet=True)


def test_passes_of_ray_find_the_same_cuts_by_every_way(local_ray: None) -> None:
    groups = ["en"] * 300 + ["zh"] * 90 + [f"host{n % 30}" for n in range(110)] + [None] * 5
    rng = np.random.default_rng(0)
    rows = pa.table(
        {
            "uid": [f"{n:032x}" for n in range(len(groups))],
            "score": rng.integers(0, 20, len(groups)).astype(float),
            "group": pa.array(groups, pa.string()),
        }
    ).take(pa.array(rng.permutation(len(groups))))

    def read(shard: int) -> pa.Table:
        here = rows.slice(50 * shard, 50)
        return ranked(here["group"], here["score"], here["uid"])

    with connected(parse_recipe("run_dir: r\ninput: {path: p}\n")):
        passes = RayPasses(range(13), len(rows))  # the last shards have no rows
        found = [
            find_cuts(passes, read, lambda size, _: np.minimum(size, 2), rows=len(rows), limits=limits)
            for limits in (Limits(), Limits(rows=60), Limits(rows=10, buckets=512))
        ]
        sizes = find_sizes(passes, read)
        none = find_cuts(passes, lambda shard: read(99), lambda size, _: size, rows=10_000_000)
    assert found[0].equals(found[1]) and found[0].equals(found[2]) and len(found[0]) > 4
    assert dict(zip(sizes["group"].to_pylist(), sizes["rows"].to_pylist(), strict=True)) == Counter(groups)
    assert len(none) == 0 and SIZES.names[0] == "group"
    assert ray.is_initialized()
