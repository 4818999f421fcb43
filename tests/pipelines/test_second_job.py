"""A second job on one run is refused before it writes anything, whatever the jobs are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_datasets import write_parquet

from curation.forget.request import request
from curation.plan import plan
from pairmill.errors import RunDirError
from pairmill.origin import with_origin
from pairmill.recipe_file import write_recipe
from pairmill.store import Store
from pipelines.curate import curate
from pipelines.extend import extend_run
from pipelines.forget import forget
from pipelines.opening import opened_run
from pipelines.recipe import CurateRecipe
from pipelines.sweep import run_sweep
from pipelines.verify import verified
from training.recipe import TrainRecipe
from training.train import train
from tune.recipe import SweepRecipe

Write = Callable[[Path], object]


def curation(folder: Path, **sections: Any) -> CurateRecipe:
    given = {"path": str(folder / "urls.txt"), "text_column": None}
    return CurateRecipe.checked({"run_dir": str(folder / "run"), "input": given, **sections})


def curates(folder: Path) -> None:
    curate(curation(folder, filter={"min_side": 999}))


def retries(folder: Path) -> None:
    _, recipe = opened_run(str(folder / "run"), ["download.retries=9"])
    curate(recipe, retry_failed=True, planned=True)


def extends(folder: Path) -> None:
    (folder / "more.txt").write_text("http://a.example/more.jpg\n")
    store, recipe = opened_run(str(folder / "run"))
    extend_run(store, recipe, [str(folder / "more.txt")], {})


def forgets(folder: Path) -> None:
    forget(Store(str(folder / "run")), request(url=["http://a.example/3.jpg"]), sure=True)


def sets_aside(folder: Path) -> None:
    (folder / "run" / "plan" / "shard-000000.parquet").write_bytes(b"")
    verified(str(folder / "run"), set_aside=True)


def training(folder: Path) -> dict[str, Any]:
    write_parquet(folder / "a.parquet", 20)
    return {
        "run_dir": str(folder / "run"),
        "data": {"path": str(folder / "a.parquet"), "batch_size": 4, "lanes": 2, "texts": [[{"language": "en"}]]},
        "model": {"architecture": "tests/pairmill/towers/configs/vit.json"},
        "train": {"steps": 2, "precision": "fp32"},
        "compute": {"workers": 1, "cpus_per_worker": 0.5},
    }


def trains(folder: Path) -> None:
    train(TrainRecipe.checked(training(folder)), quiet=True)


def sweeps(folder: Path) -> None:
    base = {key: value for key, value in training(folder).items() if key != "run_dir"}
    given = {
        "run_dir": str(folder / "run"),
        "train": base | {"evaluate": {"datasets": {"a": {"path": str(folder / "a.parquet")}}, "every_steps": 1}},
        "space": {"optim.lr": {"grid": [0.1, 0.2]}},
        "search": {"scheduler": "none"},
        "objectives": [{"metric": "a/image_retrieval_recall@1"}],
    }
    run_sweep(SweepRecipe.checked(given), quiet=True)


def files(run: Path) -> dict[str, bytes]:
    return {str(file.relative_to(run)): file.read_bytes() for file in sorted(run.rglob("*")) if file.is_file()}


@pytest.fixture
def curated(tmp_path: Path) -> Path:
    (tmp_path / "urls.txt").write_text("".join(f"http://a.example/{n}.jpg\n" for n in range(9)))
    recipe = curation(tmp_path)
    store = Store(recipe.run_dir)
    plan(store, recipe.input, recipe.shards)
    write_recipe(store, with_origin(recipe.to_yaml()))
    return tmp_path


def refused_without_a_trace(folder: Path, second: Write) -> None:
    before = files(folder / "run")
    with Store(str(folder / "run")).locked(), pytest.raises(RunDirError, match="one job at a time"):
        second(folder)
    assert files(folder / "run") == before


@pytest.mark.parametrize("second", [extends, forgets])
def test_nothing_is_written_into_a_curation_that_is_at_work(curated: Path, second: Write) -> None:
    refused_without_a_trace(curated, second)


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize("second", [curates, retries])
def test_a_second_curation_leaves_the_recipe_of_the_first(curated: Path, second: Write) -> None:
    refused_without_a_trace(curated, second)


def test_no_damaged_file_is_moved_out_of_a_run_that_is_at_work(curated: Path) -> None:
    with Store(str(curated / "run")).locked(), pytest.raises(RunDirError, match="one job at a time"):
        sets_aside(curated)
    assert not (curated / "run" / "damaged").exists()


@pytest.mark.slow
@pytest.mark.parametrize("second", [trains, sweeps])
def test_nothing_is_written_into_a_run_dir_that_is_another_s(tmp_path: Path, second: Write) -> None:
    with Store(str(tmp_path / "run")).locked(), pytest.raises(RunDirError, match="one job at a time"):
        second(tmp_path)
    assert set(files(tmp_path / "run")) == {".lock"}
