"""Parameter groups for AdamW: which parameters decay, and at what share of the learning rate.

Weight decay follows open_clip's rule (its trainer, 3.3): parameters of fewer than two dimensions and those whose names
hold `bn`, `ln`, `bias` or `logit_scale` do not decay.  So norms, biases, scale, bias and class embedding do not, and
the two-dimensional position embeddings do.

Layer-wise learning rate decay counts blocks from the top of each tower (BEiT, Bao et al. 2022): the projection and the
last norm have the full rate, the last block `layer_decay` of it, and the embeddings `layer_decay ** (blocks + 1)`.
"""

from __future__ import annotations

import re
from typing import Any

from open_clip.timm_model import TimmModel
from timm.models import group_parameters
from torch import nn

_BLOCK = re.compile(r"\.(?:resblocks|blocks|block|layers|layer)\.(\d+)\.|^visual\.layer(\d)\.")
_EMBEDDING = re.compile(
    r"visual\.(conv\d|bn\d|class_embedding|positional_embedding|ln_pre)\b"
    r"|(text\.)?(token_embedding|positional_embedding|cls_emb)\b"
    r"|text\.transformer\.(embeddings|embed_tokens|embed_positions|shared)\b"
)
_TOP = -1


def parameter_groups(model: nn.Module, *, weight_decay: float, layer_decay: float | None) -> list[dict[str, Any]]:
    """Groups of all parameters that learn, each once; the same groups in the same order for equal models.

    A group: `params`, `weight_decay` (the given one or 0), `lr_scale` (a factor of the schedule's rate, which
    the optimiser does not apply), `names` of its parameters.  Without layer_decay there are at most two groups.
    """
    scales = _lr_scales(model, layer_decay)
    groups: dict[tuple[float, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        decayed = decays(name, parameter)
        key = (scales[name], decayed)
        group = groups.setdefault(
            key, {"params": [], "weight_decay": weight_decay if decayed else 0.0, "lr_scale": key[0], "names": []}
        )
        group["params"].append(parameter)
        group["names"].append(name)
    return [groups[key] for key in sorted(groups)]


def decays(name: str, parameter: nn.Parameter) -> bool:
    """open_clip's rule of the module's docstring."""
    return parameter.ndim >= 2 and not any(part in name for part in ("bn", "ln", "bias", "logit_scale"))


def _lr_scales(model: nn.Module, layer_decay: float | None) -> dict[str, float]:
    names = [name for name, _ in model.named_parameters()]
    if layer_decay is None:
        return dict.fromkeys(names, 1.0)
    layers = _layers(model)
    tops: dict[str, int] = {}
    for name in names:
        tops[_tower(name)] = max(tops.get(_tower(name), 0), layers[name] + 1)
    return {n: layer_decay ** (0 if layers[n] == _TOP else tops[_tower(n)] - layers[n]) for n in names}


def _tower(name: str) -> str:
    first = name.partition(".")[0]
    return first if first in ("visual", "text_decoder") else "text"


def _layers(model: nn.Module) -> dict[str, int]:
    """Layer of each parameter: 0 the embeddings, then the blocks from the input up; what is above them is `_TOP`."""
    layers = {name: _layer(name) for name, _ in model.named_parameters()}
    if isinstance(model.visual, TimmModel):
        trunk = model.visual.trunk
        own = group_parameters(trunk, trunk.group_matcher(), reverse=True)
        last = max(own.values())
        # timm counts what no pattern names as one more layer, and a last norm as part of the last block.
        head = not any(re.search(r"\d+\.", name) for name, layer in own.items() if layer == last)
        for name, layer in own.items():
            layers[f"visual.trunk.{name}"] = _TOP if layer == last and head else layer
    return layers


def _layer(name: str) -> int:
    block = _BLOCK.search(name)
    if block:
        # The stages of a ResNet are numbered from 1, blocks from 0.
        return int(block[2]) if block[2] else int(block[1]) + 1
    return 0 if _EMBEDDING.match(name) else _TOP
