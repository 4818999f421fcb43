"""`pairmill demo`: the whole job on real drawings, against a server that misbehaves; then a small model."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from curation.plan import read_plan
from pairmill.errors import RunDirError
from pairmill.store import Store
from pipelines.curate import curate
from pipelines.demo_rows import demo_rows
from pipelines.demo_server import demo_server
from pipelines.doctor import project_root
from pipelines.recipe import load_recipe
from training.recipe import TrainRecipe
from training.train import train

_RECIPES = Path(__file__).parent / "recipes"
RECIPE = _RECIPES / "curate-demo.yaml"

#: A fixed port, so that the rows' uids are the same at every demo; any free one if it is taken.
_PORT = 18_437


def run_demo(run_dir: str, *, quiet: bool = False) -> dict[str, Any]:
    """Serve the samples, curate them into `run_dir` (an earlier demo there is removed), and return the report.

    Raises RunDirError for a `run_dir` that holds anything else.
    """
    urls = Path(f"{run_dir.rstrip('/')}-input") / "urls.parquet"
    _remove_earlier(run_dir, urls)
    urls.parent.mkdir(parents=True, exist_ok=True)
    with demo_server(_PORT) as base_url:
        pq.write_table(demo_rows(base_url), urls)
        models = project_root() / "samples" / "models"
        overrides = [
            f"run_dir={run_dir}",
            f"input.path={urls}",
            f"recaption.model={models / 'captioner'}",
            f"translate.model={models / 'translator'}",
        ]
        return curate(load_recipe(RECIPE, overrides), command="pairmill demo", quiet=quiet, advise=False)


def _remove_earlier(run_dir: str, urls: Path) -> None:
    """Remove an earlier demo: a run of the list that the demo writes beside it, or nothing but hidden files."""
    if "://" in run_dir or not run_dir.strip("/"):
        raise RunDirError(
            "the demo's --run-dir must be a folder on this machine", value=run_dir or "''", fix="give another path"
        )
    folder = Path(run_dir)
    if not folder.exists():
        return
    planned = read_plan(Store(run_dir)) if folder.is_dir() else None
    earlier = planned is not None and planned.inputs[0].given == [str(urls)]
    if not earlier and not (folder.is_dir() and all(file.name.startswith(".") for file in folder.iterdir())):
        raise RunDirError(
            "the demo's --run-dir must be new or hold an earlier demo, which it replaces",
            value=f"{run_dir} holds something else",
            fix="give another --run-dir",
        )
    shutil.rmtree(folder)


def train_demo(curated: str, run_dir: str) -> dict[str, Any]:
    """Train on the curated emoji (an earlier run there is removed); the result, with retrieval before and after."""
    shutil.rmtree(run_dir, ignore_errors=True)
    root = project_root()
    recipe = load_recipe(
        _RECIPES / "train-demo.yaml",
        [
            f"run_dir={run_dir}",
            f"data.path={curated}",
            f"model.architecture={_RECIPES / 'models' / 'emoji.json'}",
            f"model.tokenizer={root / 'samples' / 'models' / 'translator'}",
            f"evaluate.datasets.google.path={root / 'samples' / 'emoji-google' / 'pairs.parquet'}",
        ],
        TrainRecipe,
    )
    return train(recipe)
