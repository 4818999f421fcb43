"""From a checkpoint's weights and description to transformers' `CLIPModel`, for architectures in OpenAI's style.

Architecture -> has every part a counterpart? -> configuration -> weights by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from open_clip.model import CLIPTextCfg, CLIPVisionCfg
from torch import Tensor

from pairmill.errors import IntegrityError
from pairmill.towers.tokenizer import Tokenizer

#: A block of open_clip's transformer, and of an encoder of transformers.
_BLOCK = {
    "ln_1.": "layer_norm1.",
    "attn.out_proj.": "self_attn.out_proj.",
    "ln_2.": "layer_norm2.",
    "mlp.c_fc.": "mlp.fc1.",
    "mlp.c_proj.": "mlp.fc2.",
}

#: What a text tower has around its blocks.
TEXT_NAMES = {
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
}
_IMAGE_NAMES = {
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",  # transformers' own spelling
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
}
_CUSTOM_BLOCK = ("qk_norm", "scaled_cosine_attn", "scale_heads", "scale_attn_inner", "scale_attn", "scale_fc")


def clip_parts_without_counterpart(architecture: Mapping[str, Any], tokenizer: Tokenizer) -> list[str]:
    """The parts of an architecture that transformers' CLIPModel lacks, in words."""
    text, vision = CLIPTextCfg(**architecture["text_cfg"]), CLIPVisionCfg(**architecture["vision_cfg"])
    parts = {
        "a logit bias": architecture.get("init_logit_bias") is not None,
        "an image tower from timm": vision.timm_model_name,
        "a ResNet image tower": isinstance(vision.layers, list | tuple),
        "attentional pooling of the image": vision.attentional_pool,
        f"{vision.pool_type} pooling of the image": vision.pool_type != "tok",
        "no norm before the image tower's blocks": vision.no_ln_pre,
        "custom blocks in the image tower": has_own_blocks(vision),
        "a text tower without causal mask": text.no_causal_mask,
        f"{text.pool_type} pooling of the text": text.pool_type not in ("argmax", "eos"),
        "a text projection with bias": text.proj_bias,
        # transformers takes the id 2 to mean the highest id of the text, because of old configurations.
        "an end token of id 2": tokenizer.end_id == 2,
        "a tokenizer without end token": tokenizer.end_id is None,
        **text_parts_without_counterpart(architecture, text),
    }
    return [part for part, there in parts.items() if there]


def text_parts_without_counterpart(architecture: Mapping[str, Any], text: CLIPTextCfg) -> dict[str, bool]:
    """Parts of a text tower that neither CLIPModel nor SiglipModel has, in words, and whether they are present."""
    return {
        "a caption decoder (CoCa)": "multimodal_cfg" in architecture,
        "a Hugging Face text tower": bool(text.hf_model_name),
        "a class token in the text": text.embed_cls,
        "a text tower without projection": text.proj_type == "none",
        "custom blocks in the text tower": has_own_blocks(text),
    }


def has_own_blocks(tower: CLIPVisionCfg | CLIPTextCfg) -> bool:
    """Whether the blocks differ from the plain transformer's (layer scale, norms within attention, …)."""
    flags = any(getattr(tower, flag) for flag in _CUSTOM_BLOCK)
    return flags or tower.block_type == "custom" or tower.ls_init_value is not None


def clip_model(state_dict: Mapping[str, Tensor], description: Mapping[str, Any], tokenizer: Tokenizer) -> Any:
    """transformers' CLIPModel with these weights; `clip_parts_without_counterpart` found none."""
    from transformers import CLIPConfig, CLIPModel

    architecture = description["architecture"]
    vision, text = CLIPVisionCfg(**architecture["vision_cfg"]), CLIPTextCfg(**architecture["text_cfg"])
    quick, width = bool(architecture.get("quick_gelu")), architecture["embed_dim"]
    config = CLIPConfig(
        projection_dim=width,
        vision_config={
            **tower_config(vision, vision.width // vision.head_width, quick),
            "image_size": description["preprocess"]["size"][0],
            "patch_size": vision.patch_size,
            "projection_dim": width,
        },
        text_config={
            **tower_config(text, text.heads, quick),
            "vocab_size": text.vocab_size,
            "max_position_embeddings": text.context_length,
            "projection_dim": width,
            "pad_token_id": tokenizer.pad_id,
            "bos_token_id": None,
            "eos_token_id": tokenizer.end_id,
        },
    )
    model = CLIPModel(config)
    model.load_state_dict(dict(_renamed(state_dict)), strict=True)
    return model


def tower_config(tower: CLIPVisionCfg | CLIPTextCfg, heads: int, quick_gelu: bool) -> dict[str, Any]:
    """The sizes of a tower's blocks, as transformers names them."""
    tanh = (tower.act_kwargs or {}).get("approximate") == "tanh"
    return {
        "hidden_size": tower.width,
        "intermediate_size": int(tower.width * tower.mlp_ratio),
        "num_hidden_layers": tower.layers,
        "num_attention_heads": heads,
        "hidden_act": "quick_gelu" if quick_gelu else "gelu_pytorch_tanh" if tanh else "gelu",
        "layer_norm_eps": (tower.norm_kwargs or {}).get("eps", 1e-5),
    }


def _renamed(state_dict: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    names = {**TEXT_NAMES, **_IMAGE_NAMES}
    for full_name, value in state_dict.items():
        name, tensor = full_name.removeprefix("text."), value.detach().float()
        if name == "logit_scale":
            yield name, tensor.reshape(())
        elif name == "visual.proj":
            yield "visual_projection.weight", tensor.T.contiguous()
        elif name == "text_projection":
            yield "text_projection.weight", tensor.T.contiguous()
        elif name in names:
            yield names[name], tensor
        else:
            yield from renamed_block(name, tensor)


def renamed_block(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """A weight of one of open_clip's blocks under its name (or, cut in three, its names) in transformers.

    Raises IntegrityError for any other weight.
    """
    path, _, rest = name.partition("transformer.resblocks.")
    number, _, parameter = rest.partition(".")
    layer = f"{'vision' if path == 'visual.' else 'text'}_model.encoder.layers.{number}"
    if parameter.startswith("attn.in_proj_"):
        kind = parameter.removeprefix("attn.in_proj_")
        yield from split_projection(f"{layer}.self_attn", kind, tensor)
        return
    for ours, theirs in _BLOCK.items():
        if parameter.startswith(ours):
            yield f"{layer}.{theirs}{parameter.removeprefix(ours)}", tensor
            return
    raise IntegrityError(f"every weight must belong to a part that has a counterpart: {name} does not")


def split_projection(attention: str, kind: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Stacked projections [3·W, …] of query, key and value, under their three names; kind is `weight` or `bias`."""
    for projection, part in zip("qkv", tensor.chunk(3), strict=True):
        yield f"{attention}.{projection}_proj.{kind}", part.contiguous()
