"""From a checkpoint's weights and description to transformers' `SiglipModel`: timm's SigLIP image tower, and a text
tower that attends both ways and is pooled at its last position.

Built model -> has every part a counterpart? -> configuration -> weights by name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from open_clip.model import CLIPTextCfg
from timm.layers.attention_pool import AttentionPoolLatent
from timm.models import VisionTransformer
from torch import Tensor, nn

from pairmill.towers.build import build_from_description
from pairmill.towers.tokenizer import Tokenizer
from training.export_clip import (
    TEXT_NAMES,
    renamed_block,
    split_projection,
    text_parts_without_counterpart,
    tower_config,
)

_VISION = "vision_model"
_BLOCK = {
    "norm1": "layer_norm1",
    "norm2": "layer_norm2",
    "attn.proj": "self_attn.out_proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
_NAMES = {
    "patch_embed.proj": f"{_VISION}.embeddings.patch_embedding",
    "norm": f"{_VISION}.post_layernorm",
    "attn_pool.proj": f"{_VISION}.head.attention.out_proj",
    "attn_pool.norm": f"{_VISION}.head.layernorm",
    "attn_pool.mlp.fc1": f"{_VISION}.head.mlp.fc1",
    "attn_pool.mlp.fc2": f"{_VISION}.head.mlp.fc2",
}


def is_siglip(architecture: Mapping[str, Any]) -> bool:
    """Whether to look for counterparts in SiglipModel rather than in CLIPModel: by the pooling of both towers."""
    pooled_last = bool(architecture["text_cfg"].get("pool_type") == "last")
    return pooled_last and architecture["vision_cfg"].get("timm_pool") == "map"


def siglip_parts_without_counterpart(description: Mapping[str, Any], tokenizer: Tokenizer) -> list[str]:
    """The parts of an architecture that transformers' SiglipModel lacks, in words."""
    architecture = description["architecture"]
    text = CLIPTextCfg(**architecture["text_cfg"])
    visual: Any = build_from_description(dict(description)).visual
    trunk = visual.trunk
    if not isinstance(trunk, VisionTransformer) or not isinstance(trunk.attn_pool, AttentionPoolLatent):
        return [f"the image tower {architecture['vision_cfg']['timm_model_name']}"]
    block: Any = trunk.blocks[0]
    plain = (trunk.norm_pre, trunk.fc_norm, trunk.head, block.attn.q_norm, block.ls1, trunk.attn_pool.q_norm)
    parts = {
        "no logit bias": architecture.get("init_logit_bias") is None,
        "a projection of the image": len(visual.head) > 0,
        "prefix tokens in the image tower": trunk.num_prefix_tokens > 0,
        "more norms or layer scale in the image tower": not all(isinstance(part, nn.Identity) for part in plain),
        "no position embedding of the image": trunk.pos_embed is None,
        f"{type(block.mlp.act).__name__} in the image tower": _activation(block.mlp.act) is None,
        "a causal mask in the text tower": not text.no_causal_mask,
        "a text projection without bias": not text.proj_bias,
        "open_clip's own tokenizer": tokenizer.description["source"] is None,
        **text_parts_without_counterpart(architecture, text),
    }
    return [part for part, there in parts.items() if there]


def siglip_model(state_dict: Mapping[str, Tensor], description: Mapping[str, Any], tokenizer: Tokenizer) -> Any:
    """transformers' SiglipModel with these weights; `siglip_parts_without_counterpart` found none."""
    from transformers import SiglipConfig, SiglipModel

    architecture = description["architecture"]
    text = CLIPTextCfg(**architecture["text_cfg"])
    visual: Any = build_from_description(dict(description)).visual
    trunk = visual.trunk
    config = SiglipConfig(
        vision_config={
            "hidden_size": trunk.embed_dim,
            "intermediate_size": trunk.blocks[0].mlp.fc1.out_features,
            "num_hidden_layers": len(trunk.blocks),
            "num_attention_heads": trunk.blocks[0].attn.num_heads,
            "image_size": description["preprocess"]["size"][0],
            "patch_size": trunk.patch_embed.patch_size[0],
            "hidden_act": _activation(trunk.blocks[0].mlp.act),
            "layer_norm_eps": trunk.norm.eps,
        },
        text_config={
            **tower_config(text, text.heads, bool(architecture.get("quick_gelu"))),
            "vocab_size": text.vocab_size,
            "max_position_embeddings": text.context_length,
            "projection_size": architecture["embed_dim"],
            "pad_token_id": tokenizer.pad_id,
            "bos_token_id": None,
            "eos_token_id": tokenizer.end_id,
        },
    )
    model = SiglipModel(config)
    model.load_state_dict(dict(_renamed(state_dict)), strict=True)
    return model


def _activation(module: nn.Module) -> str | None:
    if type(module).__name__ == "GELUTanh" or getattr(module, "approximate", None) == "tanh":
        return "gelu_pytorch_tanh"
    return "gelu" if type(module).__name__ == "GELU" else None


def _renamed(state_dict: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    tensors = {name: value.detach().float() for name, value in state_dict.items()}
    for kind in ("weight", "bias"):
        pool = [tensors.pop(f"visual.trunk.attn_pool.{part}.{kind}") for part in ("q", "kv")]
        yield f"{_VISION}.head.attention.in_proj_{kind}", torch.cat(pool)
    for full_name, tensor in tensors.items():
        name = full_name.removeprefix("text.")
        if name in ("logit_scale", "logit_bias"):
            yield name, tensor.reshape(1)
        elif name.startswith("visual.trunk."):
            yield from _renamed_image(name.removeprefix("visual.trunk."), tensor)
        elif name.startswith("text_projection."):
            yield name.replace("text_projection", "text_model.head"), tensor
        elif name in TEXT_NAMES:
            yield TEXT_NAMES[name], tensor
        else:
            yield from renamed_block(name, tensor)


def _renamed_image(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    module, _, kind = name.rpartition(".")
    block = re.fullmatch(r"blocks\.(\d+)\.(.+)", module)
    if name == "pos_embed":
        yield f"{_VISION}.embeddings.position_embedding.weight", tensor[0]
    elif name == "attn_pool.latent":
        yield f"{_VISION}.head.probe", tensor
    elif block is None:
        yield f"{_NAMES[module]}.{kind}", tensor
    elif block[2] == "attn.qkv":
        yield from split_projection(f"{_VISION}.encoder.layers.{block[1]}.self_attn", kind, tensor)
    else:
        yield f"{_VISION}.encoder.layers.{block[1]}.{_BLOCK[block[2]]}.{kind}", tensor
