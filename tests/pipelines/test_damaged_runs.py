"""A run heals: whatever is damaged is made again, and the product is what it was."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from curation import code
from curation.healing import examine
from pairmill.errors import RunDirError, UserError
from pairmill.store import Store, manifest_file, shard_file
from pipelines.curate import curate
from pipelines.demo import RECIPE
from pipelines.demo_rows import demo_rows
from pipelines.demo_server import demo_server
from pipelines.recipe import CurateRecipe, load_recipe

pytestmark = pytest.mark.ray


def _recipe(folder: Path, *more: str) -> CurateRecipe:
    paths = [f"run_dir={folder / 'run'}", f"input.path={folder / 'urls.parquet'}", "pack.rows_per_part=20"]
    return load_recipe(
        RECIPE, [*paths, "shards.rows_per_shard=20", "recaption.enabled=false", "translate.enabled=false", *more]
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, local_ray: None) -> Iterator[Path]:
    """The folder of a finished run of three shards, whose server still answers."""
    folder = tmp_path_factory.mktemp("damaged")
    with demo_server() as base_url:
        rows = demo_rows(base_url)
        pq.write_table(rows.filter(pc.equal(rows["case"], "plain")).slice(0, 60), folder / "urls.parquet")
        assert curate(_recipe(folder))["complete"]
        yield folder


def _product(store: Store) -> dict[str, bytes]:
    return {name: store.read_bytes(f"pairs/{name}") for name in store.names("pairs") if name.endswith(".parquet")}


def test_what_is_damaged_is_made_again(folder: Path) -> None:
    store = Store(str(folder / "run"))
    before, indexes = _product(store), {name: store.index(name) for name in ("images", "columns/policy")}
    manifest = manifest_file("images", 1, indexes["images"][1])
    flipped = bytearray(store.read_bytes(shard_file("columns/policy", 2)))
    flipped[len(flipped) // 3] ^= 16
    damages = {
        "plan/plan.json": b"",
        "recipe.yaml": store.read_bytes("recipe.yaml").replace(b"min_side", b"min_sidf"),
        "code.json": store.read_bytes("code.json").replace(b"pillow", b"pillov"),
        "runs/run-0001.json": store.read_bytes("runs/run-0001.json").replace(b'"collect"', b'"cOllect"'),
        manifest: b"",
        shard_file("columns/policy", 2): bytes(flipped),
        shard_file("columns/filter", 0): b"",
        shard_file("columns/filter", 2): store.read_bytes(shard_file("columns/filter", 1)),
        shard_file("selections/default", 1): store.read_bytes(shard_file("selections/default", 1))[:-9],
        shard_file("pairs", 0): b"PAR1",
    }
    for name, content in damages.items():
        store.write_bytes(name, content)
    store.remove(shard_file("columns/filter", 1))
    assert curate(_recipe(folder))["complete"]
    assert _product(store) == before
    assert {name: store.index(name) for name in indexes} == indexes
    assert examine(store).damaged == []
    kept = {name.replace("/", "."): content for name, content in damages.items()}
    assert {name: store.read_bytes(f"damaged/{name}") for name in store.names("damaged")} == kept


def test_damaged_pixels_are_fetched_again_if_asked(folder: Path) -> None:
    store = Store(str(folder / "run"))
    before, name = _product(store), shard_file("images", 1)
    flipped = bytearray(store.read_bytes(name))
    flipped[len(flipped) // 2] ^= 1
    store.write_bytes(name, bytes(flipped))
    store.remove(shard_file("pairs", 1))  # what is made of them
    with pytest.raises(UserError, match=r"--yes(.|\n)*images/shard-000001\.parquet"):
        curate(_recipe(folder))
    assert store.read_bytes(name) == bytes(flipped)
    assert curate(_recipe(folder), yes=True)["complete"]
    assert _product(store) == before
    assert examine(store).damaged == []


def test_pictures_that_are_stored_otherwise_give_another_product(folder: Path, tmp_path: Path) -> None:
    store = Store(str(folder / "run"))
    before, index = _product(store), store.index("pairs")
    assert curate(_recipe(folder, "image.quality=50"), yes=True)["complete"]
    fresh = _recipe(folder, "image.quality=50", f"run_dir={tmp_path / 'fresh'}")
    assert curate(fresh)["complete"]
    after = _product(store)
    assert after == _product(Store(fresh.run_dir))
    assert sum(map(len, after.values())) < sum(map(len, before.values()))
    assert all(entry.content != index[part].content for part, entry in store.index("pairs").items())


def test_rows_of_other_code_are_not_mixed_in_without_consent(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(str(folder / "run"))
    before, recipe = _product(store), _recipe(folder, "image.quality=50")
    store.remove_shard("columns/filter", 1)
    store.remove_shard("pairs", 0)
    made_by = code.code_of
    monkeypatch.setattr(code, "code_of", lambda stages: made_by(stages)._replace(libraries={"pillow": "0.1"}))
    with pytest.raises(RunDirError, match=r"columns/filter has rows made before (.|\n)*pillow became 0.1"):
        curate(recipe)
    assert curate(recipe, other_code=True)["complete"]
    assert _product(store) == before
    codes = code.read_code_log(store)
    assert {table: len(made) for table, made in codes.items() if len(made) > 1} == {"columns/filter": 2, "pairs": 2}
