"""From architecture to model: build the towers, load their weights, set the temperature, lock what must not learn.

A training run calls `build_model`.  `model_description` gives what it built as plain data, which a checkpoint keeps;
`build_from_description` builds it again without recipe, hub or folder.
"""

from __future__ import annotations

import json
import logging
import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import open_clip
import torch
import torch.nn.functional as F  # noqa: N812  torch's own name for it
from open_clip.hf_model import HFTextEncoder
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transformer import CustomResidualAttentionBlock
from torch import Tensor, nn

from pairmill.errors import RecipeError
from pairmill.towers.architecture import (
    CONFIG_FILE,
    TEXT_TOWER_FOLDER,
    resolve_architecture,
    resolve_weights,
)
from pairmill.towers.caption_decoder import has_decoder
from pairmill.towers.config import ModelConfig
from pairmill.towers.encode import text_tower
from pairmill.towers.eval_transform import EvalTransform
from pairmill.towers.growth import grown, inherit, sizes_in, sizes_of
from pairmill.towers.tokenizer import tokenizer_description
from pairmill.towers.vl_ffn import VL_FFN, add_heads
from pairmill.towers.weights import is_big_vision, load_weights, read_weights


class Logits(NamedTuple):
    """Where the temperature and the logit bias begin; None: where open_clip lets them."""

    temperature: float | None = None
    bias: float | None = None


#: Nothing said.
OPEN_CLIPS = Logits()


def build_model(
    config: ModelConfig, *, temperature_init: float | None, bias_init: float | None, otherwise: Logits = OPEN_CLIPS
) -> nn.Module:
    """The open_clip model (CLIP, CustomTextCLIP or CoCa; float32, CPU, training mode) that a recipe describes.

    temperature_init: τ, what cosines are divided by; `logit_scale` becomes ln(1/τ).  bias_init: of `logit_bias`
    (SigLIP: -10).  Both, when given, hold over a checkpoint's values.  otherwise: what holds where neither they nor the
    weights say anything; a bias in either gives the model one.

    Weights that are drawn follow torch's global seed: the caller sets it, to the same value on all ranks.
    A position embedding of another length than the checkpoint's is interpolated: images bicubic on the grid
    (open_clip's `resize_pos_embed`), texts as `pairmill.towers.positions` says.

    Raises RecipeError: as `resolve_architecture`; weights that do not fit; a lock that the tower does not support.
    """
    architecture = resolve_architecture(config)
    weights = resolve_weights(config)
    if weights is None and config.kept_positions:
        raise RecipeError(
            "model.kept_positions must be 0 for a model from scratch",
            value=config.kept_positions,
            fix="leave it out, or set model.pretrained",
        )
    model_cfg = deepcopy(architecture.model_cfg)
    if bias_init is not None or otherwise.bias is not None:
        model_cfg["init_logit_bias"] = otherwise.bias if bias_init is None else bias_init
    state = None if weights is None or is_big_vision(weights) else read_weights(weights)
    if state is not None and "logit_bias" in state:
        model_cfg.setdefault("init_logit_bias", 0.0)
    name = config.architecture if config.text_model is None else f"{config.architecture} with {config.text_model}"
    model: nn.Module = _create(model_cfg, architecture.preprocess, name, tower_weights=weights is None)
    _check_size(model, config)
    add_heads(model, model_cfg["embed_dim"], architecture.vl_ffn)
    learnt = set()
    if weights is not None:
        with without_open_clips_log():
            learnt = _load_weights(model, config, weights, state)
    _set_logits(
        model,
        otherwise.temperature if temperature_init is None and "logit_scale" not in learnt else temperature_init,
        otherwise.bias if bias_init is None and "logit_bias" not in learnt else bias_init,
    )
    _lock(model, config)
    if config.gradient_checkpointing:
        _checkpoint_activations(model, config)
    return model.train()


def _load_weights(model: nn.Module, config: ModelConfig, weights: Path, state: dict[str, Tensor] | None) -> set[str]:
    """As `load_weights`; through growth where the recipe asks for it."""
    if config.vl_ffn is not None and state is not None and not any(name.startswith(f"{VL_FFN}.") for name in state):
        # Of towers that were trained without heads.
        state |= {name: value for name, value in model.state_dict().items() if name.startswith(f"{VL_FFN}.")}
    if config.grow is None:
        return load_weights(model, weights, state, kept_positions=config.kept_positions)
    if state is None:
        raise RecipeError(
            "model.grow must be null with weights of big_vision",
            value=weights,
            fix="export a model that was trained from them first, or remove model.grow",
        )
    drawn = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    small = sizes_in(weights.parent, CONFIG_FILE, state)
    larger = grown(state, small, sizes_of(model), config.grow.new_layers)
    learnt = load_weights(model, weights, larger, kept_positions=config.kept_positions)
    inherit(model, drawn, config.grow.momentum)
    return learnt


def image_statistics(model: nn.Module) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel (R, G, B; pixels in 0–1) that images are normalised with."""
    preprocess = _preprocess(model)
    return tuple(preprocess["mean"]), tuple(preprocess["std"])


def image_size(model: nn.Module) -> int:
    """Side of the (square) input image in pixels.  Raises RecipeError if the architecture's is not square."""
    visual: Any = model.visual
    size = visual.image_size
    height, width = (size, size) if isinstance(size, int) else size
    if height != width:
        raise RecipeError(
            "the images of model.architecture must be square",
            value=f"{height}x{width}",
            fix="set model.image_size to one number",
        )
    return int(height)


def eval_transform(model: nn.Module) -> EvalTransform:
    """How a model's images are prepared for evaluation: by its preprocess_cfg.  Raises as `image_size`."""
    asked = {k: v for k, v in _preprocess(model).items() if k in ("resize_mode", "interpolation", "fill_color")}
    return EvalTransform(image_size(model), **asked)


def model_description(config: ModelConfig, model: nn.Module) -> dict[str, Any]:
    """What `build_model(config)` built, as JSON data without weights.

    `architecture` (open_clip's model_cfg, resolved), `preprocess` (open_clip's preprocess_cfg), `tokenizer` (for
    `tokenizer_from_description`), `text_tower` (the configuration of a Hugging Face text tower, else None), `name`, and
    where there are heads `vl_ffn`.
    """
    architecture = resolve_architecture(config)
    model_cfg = deepcopy(architecture.model_cfg)
    # These say how training runs; the checkpoint has the outcome.
    model_cfg["vision_cfg"].pop("patch_dropout", None)
    model_cfg.pop("init_logit_scale", None)
    model_cfg.pop("init_logit_bias", None)
    if model.logit_bias is not None:
        model_cfg["init_logit_bias"] = 0.0  # there is a parameter; its value is in the weights
    tower = text_tower(model)
    text: Any = json.loads(tower.config.to_json_string()) if isinstance(tower, HFTextEncoder) else None
    description = {
        "name": Path(config.architecture.partition(":")[2] or config.architecture).stem,
        "architecture": model_cfg,
        "preprocess": _preprocess(model),
        "tokenizer": tokenizer_description(model_cfg["text_cfg"]),
        "text_tower": text,
        **({VL_FFN: architecture.vl_ffn} if architecture.vl_ffn else {}),
    }
    plain: dict[str, Any] = json.loads(json.dumps(description))
    return plain


def build_from_description(description: dict[str, Any]) -> nn.Module:
    """The model of a `model_description`, weights drawn: load the checkpoint's into it (evaluation mode, all unlocked).

    Reads nothing but the description.
    """
    model_cfg = deepcopy(description["architecture"])
    with tempfile.TemporaryDirectory() as folder:
        if description.get("text_tower"):
            tower = Path(folder) / TEXT_TOWER_FOLDER
            tower.mkdir()
            (tower / "config.json").write_text(json.dumps(description["text_tower"]))
            model_cfg["text_cfg"]["hf_model_name"] = str(tower)
        name = description.get("name", "the checkpoint")
        model: nn.Module = _create(model_cfg, description["preprocess"], name, tower_weights=False)
    add_heads(model, model_cfg["embed_dim"], description.get(VL_FFN))
    return model.eval()


def _preprocess(model: nn.Module) -> dict[str, Any]:
    visual: Any = model.visual
    return dict(visual.preprocess_cfg)


def _create(model_cfg: dict[str, Any], preprocess: dict[str, Any], name: str, *, tower_weights: bool) -> Any:
    """Let open_clip build it, through a folder in its own hub form, so that every class it knows is built its way.

    tower_weights: whether towers from timm or transformers may start from weights of their own.
    """
    with tempfile.TemporaryDirectory() as folder, without_open_clips_log():
        content = {"model_cfg": model_cfg, "preprocess_cfg": preprocess}
        (Path(folder) / CONFIG_FILE).write_text(json.dumps(content))
        try:
            model = open_clip.create_model(
                f"local-dir:{folder}",
                pretrained_image=tower_weights and model_cfg["vision_cfg"].get("timm_model_pretrained", False),
                pretrained_text=tower_weights and model_cfg["text_cfg"].get("hf_model_pretrained", True),
            )
        except (AssertionError, KeyError, OSError, RuntimeError, TypeError, ValueError) as error:
            raise RecipeError(
                "model.architecture must be one that open_clip can build",
                value=f"{name}: {type(error).__name__}: {error}",
                fix="correct the architecture, or the keys of `model` that change it",
            ) from error
    _cut_patches_by_matmul(model.visual)
    if has_decoder(model):
        # open_clip 3.3 leaves it as the memory was: nothing calls its `init_parameters`, whose spread this is.
        projection = model.text_decoder.text_projection
        nn.init.normal_(projection, std=len(projection) ** -0.5)
    return model


class Patches(nn.Conv2d):
    """A convolution whose windows touch and do not overlap, computed as a matrix product.

    Same parameters, same values.  Its gradient takes a fraction of the convolution's time: ViT-B/32, 32 images, one
    core, bfloat16: 61 ms against 1,115 (float32: 145 against 271).
    """

    def forward(self, input: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, D, H / patch, W / patch]; what is left over at the right and the bottom is ignored."""
        high, wide = self.kernel_size
        rows, columns = input.shape[2] // high, input.shape[3] // wide
        seen = input[:, :, : rows * high, : columns * wide]
        windows = seen.reshape(*seen.shape[:2], rows, high, columns, wide)
        # [B, C, rows, high, columns, wide] -> [B, rows, columns, C · high · wide], in the order of the weights
        flat = windows.permute(0, 2, 4, 1, 3, 5).flatten(3)
        return F.linear(flat, self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)


def _cut_patches_by_matmul(visual: nn.Module) -> None:
    """Make every patch embedding of the image tower a `Patches`."""
    for module in visual.modules():
        for name, child in module.named_children():
            if type(child) is not nn.Conv2d or child.stride != child.kernel_size or child.padding not in (0, (0, 0)):
                continue
            if child.kernel_size == (1, 1) or child.dilation != (1, 1) or child.groups != 1:
                continue
            side: Any = child.kernel_size
            patches = Patches(child.in_channels, child.out_channels, side, side, bias=child.bias is not None)
            patches.weight, patches.bias = child.weight, child.bias
            setattr(module, name, patches)


@torch.no_grad()
def _set_logits(model: Any, temperature: float | None, bias: float | None) -> None:
    if temperature is not None:
        model.logit_scale.fill_(-math.log(temperature))
    if bias is not None:
        model.logit_bias.fill_(bias)


def _check_size(model: Any, config: ModelConfig) -> None:
    image_size(model)
    resized = isinstance(model.visual, TimmModel) and hasattr(model.visual.trunk, "set_input_size")
    if config.image_size is not None and resized:
        # timm could, but plain open_clip could not load the outcome: it resizes a timm tower after the weights.
        raise RecipeError(
            "model.image_size must be null for an image tower from timm, which has the size in its name",
            value=f"model.image_size: {config.image_size}",
            fix="use a JSON architecture with another timm_model_name, such as vit_base_patch16_siglip_256",
        )


def _lock(model: Any, config: ModelConfig) -> None:
    image, text = config.lock_image, config.lock_text
    if image.locked:
        if isinstance(model.visual, ModifiedResNet) and image.unlocked_groups:
            raise RecipeError(
                "model.lock_image.unlocked_groups must be 0 for a ResNet, which is locked as a whole",
                value=image.unlocked_groups,
                fix="set it to 0",
            )
        try:
            model.lock_image_tower(image.unlocked_groups, freeze_bn_stats=image.freeze_batch_norm)
        except (AssertionError, AttributeError, KeyError, RuntimeError) as error:
            raise _not_lockable("image", image.unlocked_groups, error) from error
    if text.locked:
        try:
            tower = text_tower(model)
            if isinstance(tower, HFTextEncoder) and text.unlocked_groups:
                _lock_below(tower.transformer, text.unlocked_groups)
            else:
                model.lock_text_tower(text.unlocked_groups)
        except (AssertionError, AttributeError, KeyError, RuntimeError) as error:
            raise _not_lockable("text", text.unlocked_groups, error) from error


def _lock_below(encoder: nn.Module, unlocked: int) -> None:
    """Freeze the embeddings and all blocks of a Hugging Face encoder but the last `unlocked`.

    open_clip 3.3 knows the names of the blocks of two families only.  What comes after the blocks (pooler, last norm)
    learns, as there.  Raises RuntimeError for an encoder without a list of blocks.
    """
    lists = [(name, m) for name, m in encoder.named_modules() if isinstance(m, nn.ModuleList) and len(m)]
    lists = [(name, m) for name, m in lists if not any(name.startswith(f"{outer}.") for outer, _ in lists)]
    if not lists:
        raise RuntimeError(f"{type(encoder).__name__} has no list of blocks")
    prefix, blocks = max(lists, key=lambda found: sum(p.numel() for p in found[1].parameters()))
    names = [name for name, _ in encoder.named_parameters()]
    start = next(number for number, name in enumerate(names) if name.startswith(f"{prefix}."))
    learning = {id(p) for block in list(blocks)[max(0, len(blocks) - unlocked) :] for p in block.parameters()}
    for number, (name, parameter) in enumerate(encoder.named_parameters()):
        below = number < start and unlocked <= len(blocks)
        if below or (name.startswith(f"{prefix}.") and id(parameter) not in learning):
            parameter.requires_grad = False


def _not_lockable(tower: str, groups: int, error: Exception) -> RecipeError:
    return RecipeError(
        f"model.lock_{tower}.unlocked_groups must suit the {tower} tower",
        value=f"{groups} ({type(error).__name__}: {error})",
        fix="set it to 0, which locks the whole tower",
    )


def _checkpoint_activations(model: Any, config: ModelConfig) -> None:
    # open_clip passes its plain block's arguments to every block, and these take others (transformer.py, 3.3).
    blocks = any(isinstance(module, CustomResidualAttentionBlock) for module in model.modules())
    if blocks or isinstance(model.visual, ModifiedResNet):
        raise RecipeError(
            "model.gradient_checkpointing must be false for a tower whose blocks open_clip cannot checkpoint",
            value=config.architecture,
            fix="set model.gradient_checkpointing: false",
        )
    model.set_grad_checkpointing(True)
    if isinstance(model.visual, TimmModel) and not hasattr(model.visual.trunk, "set_grad_checkpointing"):
        raise RecipeError(
            "model.gradient_checkpointing must be false for an image tower that timm cannot checkpoint",
            value=config.architecture,
            fix="set model.gradient_checkpointing: false",
        )


@contextmanager
def without_open_clips_log() -> Iterator[None]:
    """open_clip logs to the root logger, and would warn of drawn weights just before we load them."""

    def keep(record: logging.LogRecord) -> bool:
        return "open_clip" not in record.pathname or record.levelno >= logging.ERROR

    root = logging.getLogger()
    root.addFilter(keep)
    try:
        yield
    finally:
        root.removeFilter(keep)
