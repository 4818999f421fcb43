"""What the commands `evaluate` and `export` do with a model: find it, load it, measure or convert it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from curation.errors import InputError, RecipeError
from curation.store import Store
from pipelines.recipe import parse_section
from training.checkpoint import EMA_FILE
from training.evaluate.config import EvaluateConfig
from training.evaluate.results import Record, write_results
from training.evaluate.run import evaluate
from training.export import export_open_clip, load_exported
from training.export_transformers import export_transformers
from training.towers.architecture import CONFIG_FILE
from training.towers.build import eval_transform
from training.train import RECIPE_FILE, RESULT_FILE


def find_model(path: str) -> Path:
    """The model folder that a path means: itself, or the last checkpoint of a run.

    Raises InputError if it is neither.
    """
    store = Store(path)
    if store.read_text(CONFIG_FILE) is not None:
        return Path(store.path(""))
    result = store.read_json(RESULT_FILE)
    if result is not None:
        return Path(result["checkpoint"])
    raise InputError(
        f"a model is a checkpoint or an export (a folder with {CONFIG_FILE}), or the run_dir of training that ended",
        value=path,
        fix="of a run that was killed, give one of its folders RUN/NAME/step-…",
    )


def evaluate_model(checkpoint: str, overrides: Sequence[str], recipe: Path | None, to: Path | None) -> list[Record]:
    """Measure a model on the datasets of a recipe's section `evaluate`; records in CLIP_benchmark's form."""
    folder = find_model(checkpoint)
    text = recipe.read_text(encoding="utf-8") if recipe else Store(checkpoint).read_text(RECIPE_FILE)
    section = (yaml.safe_load(text) or {}).get("evaluate", {}) if text else {}
    config = parse_section(EvaluateConfig, "evaluate", section, overrides)
    if not config.datasets:
        raise RecipeError(
            "there is a dataset to evaluate on",
            value="evaluate.datasets: {}",
            fix="give evaluate.datasets.NAME.path=…, or --recipe with a section `evaluate`",
        )
    model, tokenizer, _, description = load_exported(folder)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    records = evaluate(
        model.to(device),
        tokenizer,
        eval_transform(model),
        config,
        device=device,
        name=description["name"],
        pretrained=folder.name,
    )
    if to is not None:
        write_results(str(to), records)
    return records


def export_model(checkpoint: str, to: Path, form: str, *, average: bool = False) -> list[str]:
    """Write a model in open_clip's hub form, or in transformers'; the names of the files."""
    folder = find_model(checkpoint)
    model, tokenizer, _, description = load_exported(folder)
    weights: dict[str, Any] = dict(model.state_dict())
    if average:
        if not (folder / EMA_FILE).exists():
            raise InputError("the checkpoint has averaged weights", value=folder, fix="train with model.ema_decay")
        weights |= torch.load(folder / EMA_FILE, map_location="cpu", weights_only=True)["shadow"]
    write = export_open_clip if form == "open_clip" else export_transformers
    write(weights, description, tokenizer, to)
    return sorted(str(file.relative_to(to)) for file in to.rglob("*") if file.is_file())
