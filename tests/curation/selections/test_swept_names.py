"""A sweep names selections that a run has, without an entry of its own, and those that it makes first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from selected_run import selected_run

from pairmill.errors import RecipeError
from pairmill.store import Store
from training.data.config import DataConfig
from training.data.source import open_source, open_sources
from tune.check import check
from tune.recipe import SweepRecipe

DRAWINGS = "samples/emoji-google/pairs.parquet"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Store:
    selections = {"base": {"dedup": ["exact"]}, "heavy": {"from": "base", "weight": "input.id + 1"}}
    return selected_run(tmp_path_factory.mktemp("swept"), selections, packed="base")


def recipe(run: Store, folder: Path, names: list[str], data: dict[str, Any] | None = None, **more: Any) -> SweepRecipe:
    train = {
        "data": {"path": run.uri, "batch_size": 4, "lanes": 2, "bundle_rows": 8, **(data or {})},
        "model": {"architecture": "tests/training/towers/configs/vit.json"},
        "train": {"steps": 3, "precision": "fp32"},
        "compute": {"workers": 1, "cpus_per_worker": 0.5, "threads": 1},
        "evaluate": {"every_steps": 1, "max_images": 32, "datasets": {"google": {"path": DRAWINGS}}},
    }
    given = {"run_dir": str(folder), "train": train, "space": {"data.selection": {"grid": names}}}
    given |= {"search": {"scheduler": "none"}, "objectives": [{"metric": "google/image_retrieval_recall@10"}]}
    return SweepRecipe.checked({**given, **more})


def test_selections_of_the_run_need_no_entry(run: Store, tmp_path: Path) -> None:
    check(recipe(run, tmp_path, ["base", "heavy", "default"]))
    check(
        recipe(run, tmp_path, ["base", "new", "newer"], selections={"new": {"where": "x > 1"}, "newer": "base & new"})
    )
    check(recipe(run, tmp_path, ["heavy"], {"weight": "weight"}))


@pytest.mark.parametrize("search", [{}, {"method": "tpe", "trials": 4}])
def test_a_selection_that_there_is_none_of_is_refused(run: Store, tmp_path: Path, search: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match=r"data\.selection must name a selection of the run directory") as raised:
        check(recipe(run, tmp_path, ["base", "haevy"], search={"scheduler": "none", **search}))
    assert "heavy" in raised.value.fix
    with pytest.raises(RecipeError, match=r"data\.weight must name a column of weights"):
        check(recipe(run, tmp_path, ["base", "heavy"], {"weight": "weight"}))


def test_training_reads_the_rows_that_a_selection_keeps(run: Store) -> None:
    for name in ("base", "heavy", "default"):
        source = open_source(run.uri, name)
        shards = [run.load(f"selections/{name}", shard) for shard in sorted(run.index("plan"))]
        wanted = [uid for rows in shards for uid in rows["uid"].filter(rows["keep"]).to_pylist()]
        read = [uid for piece in range(source.pieces) for uid in source.read(piece)["uid"].to_pylist()]
        assert read == wanted
    weighted = open_sources(DataConfig(path=run.uri, selection="heavy", weight="weight"))[0]
    assert weighted.rows.sum() == open_source(run.uri, "heavy").rows.sum()
    packed = open_source(run.uri)
    assert packed.rows.sum() == open_source(run.uri, "base").rows.sum()
