"""A Hugging Face text tower is locked from its embeddings up, whatever its family calls its blocks."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_text import write_bert, write_wordpiece

from pairmill.towers.build import build_model
from pairmill.towers.config import ModelConfig

VIT = str(Path(__file__).parent / "configs" / "vit.json")


def written(family: str, folder: Path) -> str:
    """A tiny encoder of three blocks and its tokenizer."""
    from transformers import (
        AutoTokenizer,
        M2M100Config,
        M2M100Model,
        MT5Config,
        MT5Model,
        RobertaConfig,
        RobertaModel,
    )

    if family == "bert":
        return str(write_bert(folder))
    write_wordpiece(folder)
    size = {"vocab_size": len(AutoTokenizer.from_pretrained(folder)), "pad_token_id": 0}
    heads = {"num_attention_heads": 2, "hidden_size": 32, "intermediate_size": 64}
    narrow = {"d_model": 32, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "encoder_layers": 2, "decoder_layers": 1}
    few = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "max_position_embeddings": 40}
    models: dict[str, Any] = {
        "roberta": lambda: RobertaModel(
            RobertaConfig(num_hidden_layers=2, max_position_embeddings=60, **size, **heads)
        ),
        "mt5": lambda: MT5Model(MT5Config(d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2, **size)),
        "m2m_100": lambda: M2M100Model(M2M100Config(**narrow, **few, **size)),
    }
    models[family]().save_pretrained(folder)
    return str(folder)


def learning(family: str, groups: int, folder: Path) -> set[str]:
    """Names of the encoder's parameters that learn."""
    if not folder.exists():
        written(family, folder)
    keys = {"text_model": str(folder), "lock_text": {"locked": True, "unlocked_groups": groups}, "context_length": 16}
    model: Any = build_model(ModelConfig(architecture=VIT, **keys), temperature_init=None, bias_init=None)
    assert all(p.requires_grad for p in model.text.proj.parameters())
    return {name for name, p in model.text.transformer.named_parameters() if p.requires_grad}


BLOCK = {
    "bert": "encoder.layer.{}.",
    "roberta": "encoder.layer.{}.",
    "mt5": "block.{}.",
    "m2m_100": "layers.{}.",
}


@pytest.mark.parametrize("family", BLOCK)
def test_groups_are_unlocked_from_the_last_block_down(family: str, tmp_path: Path) -> None:
    first, last = (BLOCK[family].format(number) for number in (0, 1))
    assert not learning(family, 0, tmp_path / family)
    one = learning(family, 1, tmp_path / family)
    assert any(name.startswith(last) for name in one)
    assert not any(name.startswith(first) or "embed" in name for name in one)
    two = learning(family, 2, tmp_path / family)
    assert any(name.startswith(first) for name in two) and not any("embed" in name for name in two)
    three = learning(family, 3, tmp_path / family)
    assert two < three and any("embed" in name for name in three)


def test_what_is_locked_gets_no_gradient_and_what_is_not_does(tmp_path: Path) -> None:
    keys = {"text_model": written("bert", tmp_path / "bert"), "lock_text": {"locked": True, "unlocked_groups": 1}}
    model: Any = build_model(
        ModelConfig(architecture=VIT, context_length=16, **keys), temperature_init=None, bias_init=None
    )
    model.encode_text(torch.randint(4, 100, (2, 12))).sum().backward()
    blocks = model.text.transformer.encoder.layer
    assert all(p.grad is None for p in blocks[0].parameters())
    assert blocks[1].output.dense.weight.grad.abs().sum() > 0
