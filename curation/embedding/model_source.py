"""What `embed.NAME.model` means, read from names and small JSON files: torch is not imported."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

from curation.embedding.config import EmbedConfig
from curation.engines.model_files import local_folder
from pairmill.errors import RecipeError, UserError, nearest
from pairmill.packages import package_file

#: Families of transformers whose models embed pictures and texts alike, by `model_type` of config.json.
FAMILIES = ("clip", "metaclip_2", "siglip", "chinese_clip", "altclip")

#: Numbers of a vector at most.
_LONGEST = 65_536

_OPEN_CLIP_FILE = "open_clip_config.json"


class ModelSource(NamedTuple):
    """A model that was found.

    library: which one loads it.  name: for it, an architecture of open_clip or what `from_pretrained` takes.
    dimensions: of its embeddings.
    """

    library: Literal["open_clip", "transformers"]
    name: str
    dimensions: int


def source_of(config: EmbedConfig) -> ModelSource:
    """The model that a configuration names.

    Raises UserError if there is none, if it is of no family that is supported, or if weights are missing.
    """
    source = _found(config.model, config.revision)
    brings_weights = source.library == "transformers" or source.name.startswith(("hf-hub:", "local-dir:"))
    if not brings_weights and config.pretrained is None:
        raise RecipeError(
            "embed.NAME.pretrained must name the weights of an open_clip architecture: without them, scores are random",
            value=f"model: {config.model}, pretrained: null",
            fix="set pretrained to a tag of the architecture (open_clip.list_pretrained()), a file or a folder",
        )
    if brings_weights and config.pretrained is not None:
        raise RecipeError(
            "embed.NAME.pretrained must be null for a model that brings its own weights",
            value=f"model: {config.model}, pretrained: {config.pretrained}",
            fix="leave pretrained out",
        )
    ignored = "revision" if source.library == "open_clip" else "preprocess"
    if getattr(config, ignored) is not None:
        raise RecipeError(
            f"embed.NAME.{ignored} must be null for a model of {source.library}, which has no such thing",
            value=f"model: {config.model}, {ignored}: {getattr(config, ignored)}",
            fix=f"leave {ignored} out" + (", and give a folder to pin a model" if ignored == "revision" else ""),
        )
    return source


def _found(model: str, revision: str | None) -> ModelSource:
    if model.startswith("hf-hub:"):
        config = _read(_hub_file(model.removeprefix("hf-hub:"), _OPEN_CLIP_FILE, None))
        return ModelSource("open_clip", model, _open_clip_size(config, model))
    if model.startswith("local-dir:"):
        model = model.removeprefix("local-dir:")
    architecture = package_file("open_clip", f"model_configs/{model.replace('/', '-')}.json")
    if architecture.is_file():
        return ModelSource("open_clip", architecture.stem, _open_clip_size(_read(architecture), model))
    if model.endswith(".json"):
        return ModelSource("open_clip", model, _open_clip_size(_read(Path(model)), model))
    folder = local_folder(model)
    if folder is None:
        return _of_transformers(model, _read(_hub_file(model, "config.json", revision)))
    if (folder / _OPEN_CLIP_FILE).is_file():
        return ModelSource("open_clip", f"local-dir:{folder}", _open_clip_size(_read(folder / _OPEN_CLIP_FILE), model))
    if (folder / "config.json").is_file():
        return _of_transformers(str(folder), _read(folder / "config.json"))
    inner = sorted(path.parent for path in folder.glob(f"**/{_OPEN_CLIP_FILE}"))
    raise RecipeError(
        "embed.NAME.model must be a folder with open_clip_config.json, or with config.json of a CLIP or SigLIP",
        value=str(folder),
        fix=f"give the checkpoint itself: {inner[-1]}" if inner else "give the folder of an export or a checkpoint",
    )


def _of_transformers(name: str, config: dict[str, Any]) -> ModelSource:
    family = config.get("model_type")
    if family not in FAMILIES:
        raise RecipeError(
            f"embed.NAME.model must be of a family that embeds pictures and texts: {', '.join(FAMILIES)}, or open_clip",
            value=f"{name} is {family!r}",
            fix=f"choose another model; of open_clip perhaps {nearest(name, _names())}",
        )
    if family == "siglip":
        vision = config.get("vision_config")
        size = vision.get("hidden_size", 768) if isinstance(vision, dict) else 768
        return ModelSource("transformers", name, _size(size, name))
    default = 768 if family == "altclip" else 512  # those of the families' configurations
    return ModelSource("transformers", name, _size(config.get("projection_dim", default), name))


def _names() -> list[str]:
    return [path.stem for path in package_file("open_clip", "model_configs").glob("*.json")]


def _open_clip_size(config: dict[str, Any], model: str) -> int:
    inner = config.get("model_cfg", config)
    return _size(inner.get("embed_dim") if isinstance(inner, dict) else None, model)


def _size(found: object, model: str) -> int:
    """The length of a model's vectors.  Raises RecipeError for what is none."""
    if isinstance(found, bool) or not isinstance(found, int) or not 0 < found <= _LONGEST:
        raise RecipeError(
            "embed.NAME.model must have vectors of a length that its configuration gives",
            value=f"{model}: {found!r}",
            fix=f"correct embed_dim, projection_dim or hidden_size: a whole number, {_LONGEST} at most",
        )
    return found


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RecipeError(
            "embed.NAME.model must have a configuration that can be read", value=f"{path}: {error}", fix="correct it"
        ) from error
    if not isinstance(found, dict):
        raise RecipeError("a model's configuration must be a mapping", value=path, fix="correct the file")
    return found


def _hub_file(model: str, name: str, revision: str | None) -> Path:
    """A small file of a hub model: the cached one, or else fetched.  Raises UserError if neither is possible."""
    found = _fetched(model, name, revision)
    if isinstance(found, UserError):
        raise found
    return found


@lru_cache(maxsize=64)  # a hub out of reach is asked once: its client tries for 20 seconds
def _fetched(model: str, name: str, revision: str | None) -> Path | UserError:
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    cached = try_to_load_from_cache(model, name, revision=revision)
    if isinstance(cached, str):
        return Path(cached)
    try:
        return Path(hf_hub_download(model, name, revision=revision))
    except Exception as error:  # the hub client raises its own, requests', httpx' and OS errors
        return UserError(
            "embed.NAME.model must be an open_clip architecture, a folder, or a model on the Hugging Face hub or in "
            "its cache",
            value=f"{model}: {type(error).__name__}",
            fix=f"check the name and the network; of open_clip perhaps {nearest(model, _names())}",
        )
