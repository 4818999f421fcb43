"""A model folder in open_clip's hub form, or a checkpoint of ours, as a model with its tokenizer and preprocessing."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from open_clip.transform import PreprocessCfg, merge_preprocess_dict
from torch import nn

from pairmill.errors import InputError, RecipeError
from pairmill.towers.architecture import CONFIG_FILE, TEXT_TOWER_FOLDER, localise
from pairmill.towers.build import build_from_description, without_open_clips_log
from pairmill.towers.tokenizer import Tokenizer, tokenizer_description, tokenizer_from_description
from pairmill.towers.vl_ffn import VL_FFN
from pairmill.towers.weights import load_weights, weights_in


class Exported(NamedTuple):
    """What `load_exported` returns."""

    model: nn.Module
    tokenizer: Tokenizer
    preprocess: dict[str, Any]
    """open_clip's preprocess_cfg: size, mean, std, interpolation, resize_mode"""
    description: dict[str, Any]
    """as `model_description` makes it"""


def load_exported(folder: Path) -> Exported:
    """The model (evaluation mode, float32, CPU), tokenizer and preprocessing of an exported folder, moved or not.

    Raises InputError: no such folder, or not an export; its weights do not fit its configuration.
    """
    try:
        config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        model_cfg = config["model_cfg"]
        preprocess = merge_preprocess_dict(asdict(PreprocessCfg()), config.get("preprocess_cfg") or {})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"an exported model must be a folder with {CONFIG_FILE}", value=folder, fix="give the folder itself"
        ) from error
    localise(model_cfg["text_cfg"], folder)
    tower = folder / TEXT_TOWER_FOLDER / "config.json"
    description = {
        "name": config.get("name", folder.name),
        "architecture": model_cfg,
        "preprocess": preprocess,
        "text_tower": json.loads(tower.read_text(encoding="utf-8")) if tower.is_file() else None,
        **({VL_FFN: config[VL_FFN]} if config.get(VL_FFN) else {}),
    }
    model: Any = build_from_description(description)
    try:
        with without_open_clips_log():
            load_weights(model, weights_in(folder))
    except RecipeError as error:
        raise InputError(error.rule, value=error.value, fix=error.fix) from error
    tokenizer = tokenizer_from_description(tokenizer_description(model_cfg["text_cfg"]))
    preprocess = dict(model.visual.preprocess_cfg)
    return Exported(model.eval(), tokenizer, preprocess, {**description, "preprocess": preprocess})
