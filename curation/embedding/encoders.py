"""Dual encoders, loaded: pixels and texts to unit vectors.  torch is imported here, so only workers import this."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from curation.embedding.config import EmbedConfig
from curation.embedding.model_source import ModelSource, source_of
from curation.embedding.preparation import Preparation
from curation.engines.guard import describe
from curation.engines.model_files import (
    Checkpoint,
    file_digest,
    folder_digest,
    load_arguments,
    pick_device,
    pick_dtype,
    resolve,
)
from pairmill.config import digest
from pairmill.errors import RecipeError, UserError, reworded
from pairmill.towers.architecture import resolve_architecture, resolve_weights
from pairmill.towers.build import build_model, image_size, image_statistics
from pairmill.towers.config import ModelConfig
from pairmill.towers.embed import embed_images, embed_texts
from pairmill.towers.tokenizer import open_tokenizer

#: The keys of a training recipe, which the towers' errors name -> those of `embed`.
_KEYS = {
    f"model.{theirs}": f"embed.NAME.{ours}"
    for theirs, ours in (("architecture", "model"), ("pretrained", "pretrained"), ("preprocess", "preprocess"))
}

#: The interpolation of a preparation in Pillow's numbers, which transformers keeps.
_RESAMPLING = {2: "bilinear", 3: "bicubic"}


class DualEncoder(Protocol):
    """A model with its tokenizer, on its device."""

    preparation: Preparation

    def images(self, pixels: npt.NDArray[np.uint8]) -> Tensor:
        """uint8 RGB [B, size, size, 3] to unit vectors, float32 [B, D] on the CPU."""
        ...

    def texts(self, texts: Sequence[str]) -> Tensor:
        """Texts, cut to the context, to unit vectors, float32 [N, D] on the CPU."""
        ...

    def too_long(self, texts: list[str]) -> list[bool]:
        """Whether each text fills the context, so that some of it is cut off."""
        ...


def load_encoder(config: EmbedConfig) -> DualEncoder:
    """The model of a recipe, in evaluation mode.  Raises UserError if it cannot be loaded here."""
    source = source_of(config)
    return OpenClipEncoder(config, source) if source.library == "open_clip" else TransformersEncoder(config, source)


def revision_of(config: EmbedConfig) -> str:
    """What names the exact weights.  Raises UserError if they cannot be found; weights of a hub are fetched."""
    source = source_of(config)
    if source.library == "transformers":
        return _checkpoint(config, source).revision
    model = _model_config(config, source)
    with reworded(_KEYS):
        weights, architecture = resolve_weights(model), resolve_architecture(model)
    if weights is None:
        raise RecipeError("embed.NAME.model must have weights", value=config.model, fix="set pretrained")
    # Its configuration may lie in other files than its weights, and change without them.
    model_cfg = _by_content(architecture.model_cfg)
    return digest([file_digest(weights), model_cfg, architecture.preprocess])


def _by_content(model_cfg: dict[str, Any]) -> dict[str, Any]:
    """An architecture, its files and folders replaced by digests of what they hold."""
    text = dict(model_cfg.get("text_cfg") or {})
    for key in ("hf_tokenizer_name", "hf_model_name"):
        if (path := Path(str(text.get(key)))).is_dir():
            text[key] = folder_digest(path)
        elif path.is_file():
            text[key] = file_digest(path)
    return {**model_cfg, "text_cfg": text}


def preparation_of(config: EmbedConfig) -> Preparation:
    """How the model's pictures are scaled, without loading it.  Raises UserError as `load_encoder`."""
    source = source_of(config)
    if source.library == "transformers":
        return _processor_of(_checkpoint(config, source))[0]
    with reworded(_KEYS):
        architecture = resolve_architecture(_model_config(config, source))
    size = (architecture.model_cfg.get("vision_cfg") or {}).get("image_size", 224)
    return _preparation(size if isinstance(size, int) else size[0], architecture.preprocess)


class OpenClipEncoder:
    """Any open_clip model: by architecture and weights, an export, or a checkpoint of `pairmill train`."""

    def __init__(self, config: EmbedConfig, source: ModelSource) -> None:
        model_config = _model_config(config, source)
        with reworded(_KEYS):
            model = build_model(model_config, temperature_init=None, bias_init=None)
            self._tokenize = open_tokenizer(model_config)
        self._device = pick_device(config.device)
        self._model = model.eval().requires_grad_(False).to(self._device)
        dtype = pick_dtype(config.dtype, self._device)
        self._autocast = None if dtype is torch.float32 else dtype
        self._batch_size = config.batch_size
        self._mean, self._std = image_statistics(model)
        visual: Any = model.visual
        self.preparation = _preparation(image_size(model), dict(visual.preprocess_cfg))

    def images(self, pixels: npt.NDArray[np.uint8]) -> Tensor:
        """As `DualEncoder.images`."""
        return embed_images(
            self._model, pixels, mean=self._mean, std=self._std, device=self._device, autocast=self._autocast
        ).cpu()

    def texts(self, texts: Sequence[str]) -> Tensor:
        """As `DualEncoder.texts`."""
        how: dict[str, Any] = {"device": self._device, "autocast": self._autocast}
        return _halved(
            self._batch_size, lambda size: embed_texts(self._model, self._tokenize, texts, batch_size=size, **how).cpu()
        )

    def too_long(self, texts: list[str]) -> list[bool]:
        """As `DualEncoder.too_long`."""
        return [len(ids) >= self._tokenize.context_length for ids in self._tokenize(texts)]


class TransformersEncoder:
    """A CLIP, MetaCLIP 2, SigLIP, Chinese-CLIP or AltCLIP of transformers."""

    def __init__(self, config: EmbedConfig, source: ModelSource) -> None:
        from transformers import AutoModel, AutoTokenizer

        checkpoint = _checkpoint(config, source)
        where = load_arguments(checkpoint)
        self._device = pick_device(config.device)
        self._dtype = pick_dtype(config.dtype, self._device)
        self._batch_size = config.batch_size
        try:
            model: nn.Module = AutoModel.from_pretrained(checkpoint.source, dtype=self._dtype, **where)
            self._tokenizer = AutoTokenizer.from_pretrained(checkpoint.source, **where)
        except (OSError, ValueError, ImportError) as error:
            raise UserError(
                "embed.NAME.model must load with transformers",
                value=f"{checkpoint.source}: {describe(error)}",
                fix="check the files of the checkpoint, or install the package that the message names",
            ) from error
        self._model: Any = model.eval().requires_grad_(False).to(self._device)
        self.preparation, self._mean, self._std = _processor_of(checkpoint)
        text: Any = getattr(self._model.config, "text_config", None)
        longest = getattr(text, "max_position_embeddings", 77)
        # RoBERTa's positions begin after the padding's, and tokenizers without a limit say 10^30.
        own = int(self._tokenizer.model_max_length)
        self._context = min(longest, own if own < 1 << 20 else longest)
        family = str(model.config.model_type)  # type: ignore[union-attr]  # not of torch, but of transformers
        self._whole = family == "siglip"  # it was trained on texts padded to the context

    def images(self, pixels: npt.NDArray[np.uint8]) -> Tensor:
        """As `DualEncoder.images`."""
        with torch.inference_mode():
            values = torch.from_numpy(pixels).to(self._device).permute(0, 3, 1, 2).float().div_(255)
            for channel, (mean, std) in enumerate(zip(self._mean, self._std, strict=True)):
                values[:, channel].sub_(mean).div_(std)
            return _unit(self._model.get_image_features(pixel_values=values.to(self._dtype)))

    def texts(self, texts: Sequence[str]) -> Tensor:
        """As `DualEncoder.texts`."""
        return _halved(self._batch_size, lambda size: self._in_batches(texts, size))

    def _in_batches(self, texts: Sequence[str], batch_size: int) -> Tensor:
        order = sorted(range(len(texts)), key=lambda at: (len(texts[at]), at))
        found = []
        with torch.inference_mode():
            for first in range(0, len(order), batch_size):
                made = self._tokenizer(
                    [texts[at] for at in order[first : first + batch_size]],
                    truncation=True,
                    max_length=self._context,
                    padding="max_length" if self._whole else True,
                    return_tensors="pt",
                ).to(self._device)
                given = {name: made[name] for name in ("input_ids", "attention_mask") if name in made}
                found.append(_unit(self._model.get_text_features(**given)))
        return torch.cat(found)[torch.tensor(order).argsort()]

    def too_long(self, texts: list[str]) -> list[bool]:
        """As `DualEncoder.too_long`."""
        made = self._tokenizer(texts, truncation=True, max_length=self._context, padding=False)["input_ids"]
        return [len(ids) >= self._context for ids in made]


def _halved(size: int, work: Callable[[int], Tensor]) -> Tensor:
    """What `work` makes with batches of a size, which is halved when memory runs out."""
    while True:
        try:
            return work(size)
        except torch.cuda.OutOfMemoryError:
            if size == 1:
                raise
            torch.cuda.empty_cache()
            size = max(1, size // 2)


def _unit(found: Any) -> Tensor:
    """transformers 5 gives an object around the features, earlier versions the features."""
    features: Tensor = getattr(found, "pooler_output", found)
    return normalize(features.float(), dim=-1).cpu()


def _model_config(config: EmbedConfig, source: ModelSource) -> ModelConfig:
    return ModelConfig(architecture=source.name, pretrained=config.pretrained, preprocess=config.preprocess)


def _checkpoint(config: EmbedConfig, source: ModelSource) -> Checkpoint:
    return resolve(source.name, config.revision)


def _preparation(size: int, preprocess: dict[str, Any]) -> Preparation:
    asked = {k: v for k, v in preprocess.items() if k in ("resize_mode", "interpolation", "fill_color")}
    return Preparation(size, **asked)


def _processor_of(checkpoint: Checkpoint) -> tuple[Preparation, Sequence[float], Sequence[float]]:
    """How pictures are prepared, and the mean and standard deviation of each channel.

    Raises UserError for a preparation that is not a square by scaling and a centre crop, or by scaling alone.
    """
    from transformers import AutoImageProcessor

    try:
        found: Any = AutoImageProcessor.from_pretrained(checkpoint.source, **load_arguments(checkpoint))
    except (OSError, ValueError, ImportError) as error:
        raise UserError(
            "embed.NAME.model must come with its image processor",
            value=f"{checkpoint.source}: {describe(error)}",
            fix="add preprocessor_config.json to the folder",
        ) from error
    size = dict(found.size)
    crop = dict(found.crop_size) if getattr(found, "do_center_crop", False) else None
    shortest, square = size.get("shortest_edge"), {"height": size.get("height"), "width": size.get("height")}
    if shortest is not None and crop == {"height": shortest, "width": shortest}:
        preparation = Preparation(shortest, "shortest", _RESAMPLING.get(int(found.resample), ""))
    elif shortest is None and size == square and crop in (None, square):
        preparation = Preparation(int(size["height"]), "squash", _RESAMPLING.get(int(found.resample), ""))
    else:
        preparation = Preparation(0, "", "")
    if not preparation.interpolation:
        raise UserError(
            "embed.NAME.model must see squares, scaled bilinearly or bicubically, whole or cut to their centre",
            value=f"{checkpoint.source}: size {size}, crop_size {crop}, resample {found.resample}",
            fix="choose another model, or the same one of open_clip",
        )
    return preparation, tuple(found.image_mean), tuple(found.image_std)
