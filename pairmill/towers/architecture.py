"""From recipe to architecture: a name, a JSON file, a hub id or a folder -> open_clip's `model_cfg`, and its weights.

`resolve_architecture` gives the architecture as plain data, the recipe's overrides applied; `resolve_weights` gives the
file its weights come from.  Neither builds a model.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import open_clip
from open_clip.factory import parse_model_name
from open_clip.pretrained import (
    download_pretrained,
    download_pretrained_from_hf,
    get_pretrained_cfg,
    list_pretrained_tags_by_model,
)
from open_clip.transform import PreprocessCfg, merge_preprocess_dict

from pairmill.errors import RecipeError, nearest
from pairmill.towers.config import ModelConfig
from pairmill.towers.vl_ffn import VL_FFN
from pairmill.towers.weights import quick_gelu_of, weights_in

#: open_clip's name for the configuration of a model folder.
CONFIG_FILE = "open_clip_config.json"

#: At least one of these is in a folder with a tokenizer that `AutoTokenizer` loads.
TOKENIZER_FILES = ("tokenizer_config.json", "tokenizer.json")

#: What open_clip keeps of preprocessing with a tag.
_PREPROCESS = ("mean", "std", "interpolation", "resize_mode", "fill_color")

#: Where an export keeps the configuration of a Hugging Face text tower.
TEXT_TOWER_FOLDER = "text_tower"


class Architecture(NamedTuple):
    """An open_clip architecture as plain data."""

    model_cfg: dict[str, Any]
    """open_clip's `model_cfg`: embed_dim, vision_cfg, text_cfg, …"""
    preprocess: dict[str, Any]
    """open_clip's `preprocess_cfg`: mean, std, interpolation, …; `size` is that of the tower built."""
    vl_ffn: dict[str, Any] | None = None
    """`VlFfnConfig` of the heads over both towers."""


def resolve_architecture(config: ModelConfig) -> Architecture:
    """The architecture that a recipe names, with its overrides.

    Raises RecipeError: an unknown name or tag, a file that is missing or not an architecture, a hub out of reach.
    """
    schema, name = _parse(config.architecture)
    if schema is not None and config.pretrained is not None:
        raise RecipeError(
            f"model.pretrained must be null with an architecture from {schema}, which brings its own weights",
            value=config.pretrained,
            fix="leave model.pretrained out, or name the architecture by its JSON file",
        )
    preprocess: dict[str, Any] = asdict(PreprocessCfg())
    if schema == "hf-hub":
        with _reachable(config.architecture):
            file = Path(download_pretrained_from_hf(name, filename=CONFIG_FILE))
        model_cfg, own = _read(file)
    elif schema == "local-dir":
        model_cfg, own = _read(Path(name) / CONFIG_FILE)
    elif name in open_clip.list_models():
        model_cfg, own = deepcopy(open_clip.get_model_config(name)), {}
    elif name.endswith(".json") or "/" in name:
        model_cfg, own = _read(Path(name))
    else:
        raise RecipeError(
            "model.architecture must be a name that open_clip knows, a JSON file, hf-hub:… or local-dir:…",
            value=name,
            fix=f"perhaps you mean: {nearest(name, open_clip.list_models())}",
        )
    if config.pretrained is not None:
        own = {**own, **_tuned_with(config, name, model_cfg)}
    if config.preprocess is not None:
        own = {**own, **_tag("model.preprocess", config.preprocess, name)}
    elif not own and schema is None and name in open_clip.list_models():
        own = _common(name, weights=config.pretrained)
    preprocess = merge_preprocess_dict(preprocess, own)
    _override(config, model_cfg, name if schema == "local-dir" else None)
    heads = None if schema != "local-dir" else json.loads((Path(name) / CONFIG_FILE).read_text()).get(VL_FFN)
    return Architecture(model_cfg, preprocess, heads if config.vl_ffn is None else config.vl_ffn.model_dump())


def resolve_weights(config: ModelConfig) -> Path | None:
    """The file that holds the weights a recipe starts from, fetched if need be; None: from scratch.

    Raises RecipeError as `resolve_architecture` does.
    """
    schema, name = _parse(config.architecture)
    if schema == "hf-hub":
        with _reachable(config.architecture):
            return Path(download_pretrained_from_hf(name))
    if schema == "local-dir":
        return weights_in(Path(name))
    if config.pretrained is None:
        return None
    path = Path(config.pretrained)
    if path.is_dir():
        return weights_in(path)
    if path.is_file():
        return path
    tag = _tag("model.pretrained", config.pretrained, name)
    with _reachable(f"{name} {config.pretrained}"):
        return Path(download_pretrained(tag))


def _parse(name: str) -> tuple[str | None, str]:
    # open_clip takes OpenAI's spelling of its names as well, ViT-B/32.
    if name.replace("/", "-") in open_clip.list_models():
        name = name.replace("/", "-")
    try:
        schema, identifier = parse_model_name(name)
        return schema, identifier
    except ValueError as error:
        raise RecipeError(
            "model.architecture must have a name after its prefix",
            value=name,
            fix="write, for example, local-dir:exports/first",
        ) from error


def _tuned_with(config: ModelConfig, name: str, model_cfg: dict[str, Any]) -> dict[str, Any]:
    """The preprocessing that the weights of `model.pretrained` were trained with, as far as it is known."""
    path = Path(str(config.pretrained))
    if path.exists():
        if path.is_file() and (quick := quick_gelu_of(path)) is not None:
            model_cfg["quick_gelu"] = quick  # as with a tag, below
        beside = (path if path.is_dir() else path.parent) / CONFIG_FILE
        return _read(beside)[1] if beside.is_file() else {}
    tag = _tag("model.pretrained", str(config.pretrained), name)
    # The activation belongs to the weights: open_clip only warns where the two disagree, and the features are wrong.
    if tag.get("quick_gelu", False) != model_cfg.get("quick_gelu", False):
        model_cfg["quick_gelu"] = tag.get("quick_gelu", False)
    return tag


def _common(name: str, *, weights: str | None) -> dict[str, Any]:
    """The preprocessing that all tags of an architecture share, which open_clip keeps with the tags.

    weights: a file that says nothing of its own.  Raises RecipeError if the tags differ and there are such weights;
    a model from scratch then begins with open_clip's defaults.
    """
    found: dict[str, list[str]] = {}
    for tag in list_pretrained_tags_by_model(name):
        known = {key: value for key, value in get_pretrained_cfg(name, tag).items() if key in _PREPROCESS}
        found.setdefault(json.dumps(known, sort_keys=True), []).append(tag)
    if len(found) > 1 and weights is not None:
        raise RecipeError(
            f"model.preprocess must be given for these weights: the tags of {name} differ in how images are prepared",
            value=f"{weights}; {'; '.join(', '.join(tags) + ': ' + known for known, tags in found.items())}",
            fix="set model.preprocess to a tag that was trained as these weights were",
        )
    return dict(json.loads(next(iter(found)))) if len(found) == 1 else {}


def _tag(key: str, tag: str, name: str) -> dict[str, Any]:
    """open_clip's configuration of the weights that a tag of an architecture names.  Raises RecipeError without any."""
    found: dict[str, Any] = get_pretrained_cfg(name, tag)
    if not found:
        tags = list_pretrained_tags_by_model(name)
        raise RecipeError(
            f"{key} must be a tag of {name}{', or a file or folder that exists' if key == 'model.pretrained' else ''}",
            value=tag,
            fix=f"choose one of its tags: {nearest(tag, tags)}"
            if tags
            else f"{name} has no tags: give a path, or a JSON file with model_cfg and preprocess_cfg as architecture",
        )
    return found


def _override(config: ModelConfig, model_cfg: dict[str, Any], folder: str | None) -> None:
    """Apply the recipe's overrides in place; `folder` is that of a `local-dir:` architecture."""
    vision, text = model_cfg["vision_cfg"], model_cfg["text_cfg"]
    if config.image_size is not None:
        vision["image_size"] = config.image_size
    if config.patch_dropout is not None:
        if isinstance(vision.get("layers"), list):
            raise RecipeError(
                "model.patch_dropout must be null for an image tower that is not made of patches",
                value=f"{config.patch_dropout}, with {config.architecture}, a ResNet",
                fix="remove model.patch_dropout",
            )
        vision["patch_dropout"] = config.patch_dropout
    if folder is not None:
        localise(text, Path(folder))
    if config.text_model is not None:
        kept = {k: v for k, v in text.items() if k in ("context_length", "hf_pooler_type", "hf_proj_type")}
        text = model_cfg["text_cfg"] = {
            **kept,
            "hf_model_name": config.text_model,
            "hf_tokenizer_name": config.text_model,
        }
    if "hf_model_name" in text:
        text["hf_model_pretrained"] = config.text_model_weights
        # An export tells a folder from a hub id by this.
        if Path(text["hf_model_name"]).is_dir():
            text["hf_model_name"] = str(Path(text["hf_model_name"]).absolute())
    if config.context_length is not None:
        text["context_length"] = config.context_length
    if config.tokenizer is not None:
        text["hf_tokenizer_name"] = config.tokenizer
        # What open_clip cleans texts with: SigLipTokenizer's way for SentencePiece, HFTokenizer's own otherwise.
        text["tokenizer_kwargs"] = {"clean": "canonicalize" if config.tokenizer.endswith(".model") else "whitespace"}
        text.pop("tokenizer_mode", None)


def localise(text_cfg: dict[str, Any], folder: Path) -> None:
    """Point a folder's `text_cfg` at the tokenizer and the tower configuration in it, as far as it has them."""
    if text_cfg.get("hf_tokenizer_name") and any((folder / name).is_file() for name in TOKENIZER_FILES):
        text_cfg["hf_tokenizer_name"] = str(folder)
    if "hf_model_name" in text_cfg and (folder / TEXT_TOWER_FOLDER / "config.json").is_file():
        text_cfg["hf_model_name"] = str(folder / TEXT_TOWER_FOLDER)


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """`model_cfg` and `preprocess_cfg` of a JSON file: an architecture, or a hub configuration around one."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(
            "model.architecture must name a file that can be read",
            value=f"{path} ({error.strerror})",
            fix="correct the path",
        ) from error
    except ValueError as error:
        raise RecipeError(
            "an architecture must be a JSON file", value=f"{path}: {error}", fix="correct the file"
        ) from error
    model_cfg = data.get("model_cfg", data) if isinstance(data, dict) else {}
    missing = [key for key in ("embed_dim", "vision_cfg", "text_cfg") if key not in model_cfg]
    if missing:
        raise RecipeError(
            "an architecture must have embed_dim, vision_cfg and text_cfg",
            value=f"{path} lacks {', '.join(missing)}",
            fix="write it like open_clip's model_configs/*.json",
        )
    return model_cfg, data.get("preprocess_cfg", {})


@contextmanager
def _reachable(what: str) -> Iterator[None]:
    """Hub clients raise errors of many libraries; for the user, each means that this name could not be fetched."""
    try:
        yield
    except Exception as error:
        raise RecipeError(
            "weights and configurations of a hub must be within reach",
            value=f"{what}: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
            fix="check the name and the network, or fetch them elsewhere and give a path",
        ) from error
