"""`pairmill demo`: the whole job on real drawings, against a server that misbehaves; then a small model."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from curation.plan_file import read_plan
from pairmill.errors import PairmillError, RunDirError
from pairmill.layout import RECIPE_FILE
from pairmill.store import Store
from pipelines.curate import curate
from pipelines.demo_rows import SCHEMA, demo_rows
from pipelines.demo_server import demo_server
from pipelines.doctor import project_root
from pipelines.recipe import load_recipe, parse_recipe
from training.recipe import TrainRecipe
from training.train import train

_RECIPES = Path(__file__).parent / "recipes"
RECIPE = _RECIPES / "curate-demo.yaml"

#: A fixed port, so that the rows' uids are the same at every demo; any free one if it is taken.
_PORT = 18_437


def run_demo(run_dir: str, *, quiet: bool = False) -> dict[str, Any]:
    """Serve the samples, curate them into `run_dir` (an earlier demo there is removed), and return the report.

    Raises RunDirError for a `run_dir`, or a folder that the demo writes beside it, that holds anything else.
    """
    urls = Path(f"{run_dir.rstrip('/')}-input") / "urls.parquet"
    _require_local(run_dir)
    _require_demo_list(urls)
    _require_demo_training(_train_recipe(run_dir, f"{run_dir.rstrip('/')}-train"))
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


def _require_local(run_dir: str) -> None:
    if "://" in run_dir or not run_dir.strip("/"):
        raise RunDirError(
            "the demo's --run-dir must be a folder on this machine", value=run_dir or "''", fix="give another path"
        )


def _remove_earlier(run_dir: str, urls: Path) -> None:
    """Remove an earlier demo: a run of the list that the demo writes beside it, or nothing but hidden files."""
    folder = Path(run_dir)
    if not folder.exists():
        return
    planned = read_plan(Store(run_dir)) if folder.is_dir() else None
    # One that was extended holds more than a demo brings back.
    earlier = planned is not None and [one.given for one in planned.inputs] == [[str(urls)]]
    if not earlier and not (folder.is_dir() and all(file.name.startswith(".") for file in folder.iterdir())):
        raise RunDirError(
            "the demo's --run-dir must be new or hold an earlier demo, which it replaces",
            value=f"{run_dir} holds something else",
            fix="give another --run-dir",
        )
    with Store(run_dir).locked():
        shutil.rmtree(folder)


def _require_demo_list(urls: Path) -> None:
    """Raise RunDirError for another list than the demo's: it would be overwritten."""
    if not urls.exists():
        return
    try:
        theirs = pq.read_schema(urls).names
    except (pa.ArrowException, OSError):
        theirs = []
    if theirs != SCHEMA.names:
        raise RunDirError(
            "the list beside the demo's --run-dir must be new or that of an earlier demo, which it replaces",
            value=f"{urls} is another one",
            fix="give another --run-dir",
        )


def _require_demo_training(recipe: TrainRecipe) -> None:
    """Raise RunDirError for a folder that holds anything but a training by this recipe: it would be removed."""
    folder = Path(recipe.run_dir)
    if not folder.exists():
        return
    text = Store(recipe.run_dir).read_text(RECIPE_FILE) if folder.is_dir() else None
    try:
        earlier = text is not None and parse_recipe(text, kind=TrainRecipe).identity() == recipe.identity()
    except PairmillError:
        earlier = False
    if not earlier and not (folder.is_dir() and all(file.name.startswith(".") for file in folder.iterdir())):
        raise RunDirError(
            "the folder beside the demo's --run-dir must be new or hold an earlier demo's training, which it replaces",
            value=f"{folder} holds something else",
            fix="give another --run-dir, or move that folder",
        )


def train_demo(curated: str, run_dir: str) -> dict[str, Any]:
    """Train on the curated emoji (an earlier run there is removed); the result, with retrieval before and after.

    Raises RunDirError for a `run_dir` that holds anything else.
    """
    recipe = _train_recipe(curated, run_dir)
    _require_demo_training(recipe)
    shutil.rmtree(run_dir, ignore_errors=True)
    return train(recipe)


def _train_recipe(curated: str, run_dir: str) -> TrainRecipe:
    root = project_root()
    return load_recipe(
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
