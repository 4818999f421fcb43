"""A larger model that starts from a smaller one's weights (GrowCLIP, Deng et al. 2023).

    width   every new channel, head and hidden number is a copy of an old one, and what reads copies divides by their
            number (Net2WiderNet, Chen et al. 2016)
    depth   a new layer is a copy of the layer before it
    weights θ = m·θ_grown + (1 − m)·θ_drawn, so that copies do not stay equal

With m = 1, and new layers that begin as the identity, the larger model computes what the smaller one does: exactly so
where a width is a multiple of the old one, for a layer norm averages over all channels.  Channels are copied in turn
(j mod old width), where Net2WiderNet draws them: only so are there equally many copies of each.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from open_clip.model import CLIPTextCfg, CLIPVisionCfg
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch import Tensor, nn

from pairmill.errors import RecipeError
from pairmill.towers.encode import text_tower

#: Block number in a name.
_BLOCK = re.compile(r"(.*\bresblocks\.)(\d+)(\..*)")

#: What the axes of a weight are, by its name without tower and block: see `_Axes`.
_KINDS: Mapping[str, tuple[str | None, ...]] = {
    "class_embedding": ("channel",),
    "positional_embedding": (None, "channel"),
    "conv1.weight": ("channel", None, None, None),
    "token_embedding.weight": (None, "channel"),
    **{
        f"{norm}.{part}": ("channel",)
        for norm in ("ln_pre", "ln_post", "ln_final", "ln_1", "ln_2")
        for part in ("weight", "bias")
    },
    "ls_1.gamma": ("channel",),
    "ls_2.gamma": ("channel",),
    "attn.in_proj_weight": ("query", "from channel"),
    "attn.in_proj_bias": ("query",),
    "attn.out_proj.weight": ("channel", "from head"),
    "attn.out_proj.bias": ("channel",),
    "mlp.c_fc.weight": ("hidden", "from channel"),
    "mlp.c_fc.bias": ("hidden",),
    "mlp.c_proj.weight": ("channel", "from hidden"),
    "mlp.c_proj.bias": ("channel",),
    "proj": ("from channel", "embedding"),
    "text_projection": ("from channel", "embedding"),
    "text_projection.weight": ("embedding", "from channel"),
    "text_projection.bias": ("embedding",),
}

#: What a block adds to its input: zeros here make it the identity.
_ADDED = ("attn.out_proj.weight", "attn.out_proj.bias", "mlp.c_proj.weight", "mlp.c_proj.bias")


class Size(NamedTuple):
    """Of a tower."""

    width: int  #: channels
    heads: int
    hidden: int  #: of a block's perceptron
    layers: int
    embedding: int  #: D


class Sizes(NamedTuple):
    """Of a model's towers."""

    image: Size
    text: Size


def sizes_of(model: nn.Module) -> Sizes:
    """The sizes of a model that can grow.  Raises RecipeError for one whose towers are not open_clip's plain ones."""
    visual: Any = model.visual
    tower = text_tower(model)
    transformers = (getattr(visual, "transformer", None), getattr(tower, "transformer", None))
    blocks = [list(getattr(transformer, "resblocks", ())) for transformer in transformers]
    plain = all(found and all(type(block) is ResidualAttentionBlock for block in found) for found in blocks)
    odd = getattr(visual, "attn_pool", None) is not None or getattr(tower, "cls_emb", None) is not None
    if not plain or odd or not isinstance(visual, VisionTransformer) or hasattr(model, "text_decoder"):
        raise RecipeError(
            "model.grow must be null for towers that are not open_clip's plain transformers",
            value=f"{type(visual).__name__} and {type(tower).__name__}",
            fix="choose an architecture such as ViT-B-32, or remove model.grow",
        )
    state, found_ = model.state_dict(), []
    for name, of_tower in (("visual.proj", blocks[0]), ("text_projection", blocks[1])):
        first: Any = of_tower[0]
        width = int(first.ln_1.weight.shape[0])
        hidden = int(first.mlp.c_fc.out_features)
        found_.append(Size(width, int(first.attn.num_heads), hidden, len(of_tower), _embedding(state, name, width)))
    return Sizes(*found_)


def _embedding(state: Mapping[str, Tensor], name: str, width: int) -> int:
    """D by the state of a model or its file; the width where a tower has no projection."""
    for prefix in ("", "text."):
        if (found := state.get(prefix + name)) is not None:
            return int(found.shape[1])
        if (found := state.get(f"{prefix}{name}.weight")) is not None:
            return int(found.shape[0])
    return width


def sizes_in(folder: Path, config: str, state: Mapping[str, Tensor]) -> Sizes:
    """The sizes of the model of an exported folder or a checkpoint, from the file `config` in it and its weights.

    Raises RecipeError where there is no such file, or the model is none that can grow.
    """
    try:
        model_cfg = json.loads((folder / config).read_text(encoding="utf-8"))["model_cfg"]
        vision, text = CLIPVisionCfg(**model_cfg["vision_cfg"]), CLIPTextCfg(**model_cfg["text_cfg"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RecipeError(
            "model.pretrained must be the folder of a checkpoint or an export with model.grow, which reads from its "
            f"{config} how many heads the towers have",
            value=f"{folder}: {type(error).__name__}",
            fix="give the folder, or remove model.grow",
        ) from error
    begins = {name.partition("resblocks.")[0] for name in state if "resblocks." in name}
    before = next((one for one in begins if not one.startswith("visual.")), None)
    if "visual.transformer." not in begins or before is None or isinstance(vision.layers, list | tuple):
        raise RecipeError(
            "model.pretrained must be a model of open_clip's plain transformers with model.grow",
            value=folder,
            fix="give another one, or remove model.grow",
        )
    image = _size_in(state, "visual.transformer.", "visual.proj", lambda width: width // vision.head_width)
    return Sizes(image, _size_in(state, before, "text_projection", lambda width: text.heads))


def _size_in(state: Mapping[str, Tensor], before: str, projection: str, heads: Callable[[int], int]) -> Size:
    hidden, width = state[f"{before}resblocks.0.mlp.c_fc.weight"].shape
    layers = 1 + max(int(match[2]) for name in state if name.startswith(before) and (match := _BLOCK.fullmatch(name)))
    return Size(width, heads(width), hidden, layers, _embedding(state, projection, width))


def grown(
    state: Mapping[str, Tensor], small: Sizes, large: Sizes, new_layers: Literal["copy", "identity"]
) -> dict[str, Tensor]:
    """The state of a model of the sizes `small` as that of one of the sizes `large`, by the same names.

    new_layers: what a layer that is new does at first: what the layer before it does, or nothing.
    Raises RecipeError for a model that is smaller in anything, or has heads of another width.
    """
    _check_larger(small, large)
    found = {}
    for name, value in state.items():
        of_image = name.startswith("visual.")
        before, after = (small.image, large.image) if of_image else (small.text, large.text)
        block = _BLOCK.fullmatch(name)
        own = block[3][1:] if block else name.removeprefix("visual.").removeprefix("text.")
        wider = _wider(value, _KINDS.get(own, ()), before, after)
        if block is None:
            found[name] = wider
            continue
        copies = [new for new in range(after.layers) if new * before.layers // after.layers == int(block[2])]
        for number, new in enumerate(copies):
            nothing = number > 0 and new_layers == "identity" and own in _ADDED
            found[f"{block[1]}{new}{block[3]}"] = torch.zeros_like(wider) if nothing else wider.clone()
    return found


def _check_larger(small: Sizes, large: Sizes) -> None:
    for tower, before, after in zip(("image", "text"), small, large, strict=True):
        if smaller := [field for field in Size._fields if getattr(after, field) < getattr(before, field)]:
            raise RecipeError(
                f"with model.grow, the {tower} tower must not be smaller than that of model.pretrained",
                value=", ".join(f"{f}: {getattr(after, f)}, not {getattr(before, f)}" for f in smaller),
                fix="choose a larger architecture",
            )
        widths = before.width / before.heads, after.width / after.heads
        if widths[0] != widths[1]:
            raise RecipeError(
                f"with model.grow, the heads of the {tower} tower must be as wide as those of model.pretrained",
                value=f"{widths[1]:g}, not {widths[0]:g}",
                fix="change the number of heads (vision_cfg.head_width, text_cfg.heads) of the larger architecture",
            )


def _wider(value: Tensor, kinds: tuple[str | None, ...], before: Size, after: Size) -> Tensor:
    for axis, kind in enumerate(kinds):
        if kind is None:
            continue
        taken = _taken(kind.removeprefix("from "), before, after)
        if kind.startswith("from "):
            # The copies of a number add up to it.
            copies = taken.bincount(minlength=value.shape[axis]).to(value.dtype)
            shape = [1] * value.ndim
            shape[axis] = -1
            value = value / copies.view(shape)
        value = value.index_select(axis, taken)
    return value


def _taken(kind: str, before: Size, after: Size) -> Tensor:
    """For each number of an axis, which of the smaller one's it is a copy of."""
    if kind in ("head", "query"):
        head = before.width // before.heads
        heads = torch.arange(after.heads) % before.heads
        taken = (heads[:, None] * head + torch.arange(head)).flatten()
        # Queries, keys and values lie one after the other.
        return taken if kind == "head" else torch.cat([part * before.width + taken for part in range(3)])
    old, new = {
        "channel": (before.width, after.width),
        "hidden": (before.hidden, after.hidden),
        "embedding": (before.embedding, after.embedding),
    }[kind]
    return torch.arange(new) % old


@torch.no_grad()
def inherit(model: nn.Module, drawn: Mapping[str, Tensor], momentum: float) -> None:
    """θ = m·θ + (1 − m)·θ_drawn for all parameters of the towers; `drawn`: a copy of them before they were loaded."""
    for name, parameter in model.named_parameters():
        if name not in ("logit_scale", "logit_bias"):
            parameter.lerp_(drawn[name].to(parameter), 1 - momentum)
