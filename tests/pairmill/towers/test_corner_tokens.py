"""Corner tokens against each text alone, its tokens in the paper's order and its mask written out by loops."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from test_token_features import built
from test_towers_encode import CONFIGS, CONTEXT, END, build, padded
from tiny_text import write_bert, write_wordpiece
from torch import Tensor

from pairmill.errors import IntegrityError, RecipeError
from pairmill.towers.config import ModelConfig
from pairmill.towers.corner_tokens import CornerTokens, check_corners, corner_mask, encode_text_corners
from pairmill.towers.encode import encode_text
from pairmill.towers.tokenizer import open_tokenizer

LENGTHS = (2, 12, 7, 3, 9)
M = 3


def corners_of(model: Any) -> Tensor:
    torch.manual_seed(1)
    check_corners(model)
    drawn: Tensor = CornerTokens(model, M).double()()
    return (30 * drawn).detach().requires_grad_()  # as far apart as words


def test_the_mask_of_a_short_text_written_out() -> None:
    # [CLS] [Cor] [Cor] a b [PAD]
    found = corner_mask(torch.tensor([[True, True, True, False]]), 2)[0].int().tolist()
    assert found == [
        [1, 0, 0, 1, 1, 0],
        [0, 1, 0, 1, 1, 0],
        [0, 0, 1, 1, 1, 0],
        [1, 0, 0, 1, 1, 0],
        [1, 0, 0, 1, 1, 0],
        [1, 0, 0, 1, 1, 1],
    ]


def alone(tower: Any, ids: Tensor, corners_mW: Tensor) -> Tensor:
    """Features at [EOT] and at each corner of [SOT] w … [Cor] … [EOT], by open_clip's transformer."""
    n, m = len(ids) - 1, len(corners_mW)
    places = tower.positional_embedding
    words = tower.token_embedding(ids[:n]) + places[:n]
    x = torch.cat([words, corners_mW + places[n], tower.token_embedding(ids[n:]) + places[n : n + 1]])[None]
    mask = torch.full((n + m + 1, n + m + 1), -torch.inf, dtype=x.dtype)
    for row in range(n + m + 1):
        for column in range(row + 1):
            if column < n or column == row:
                mask[row, column] = 0
    out = tower.ln_final(tower.transformer(x, attn_mask=mask))[0]
    return (out @ tower.text_projection)[[n + m, *range(n, n + m)]]


@pytest.mark.parametrize("name", ["vit", "vit_custom_text"])
@pytest.mark.parametrize("checkpointed", [False, True])
def test_a_causal_tower_gives_what_each_text_gives_alone(name: str, checkpointed: bool) -> None:
    model = build(name).double()
    tower, corners = getattr(model, "text", model), corners_of(model)
    tower.transformer.grad_checkpointing = checkpointed
    tokens = padded(LENGTHS, END, CONTEXT)
    text, extra = encode_text_corners(model, tokens[:, :12], corners)
    assert torch.equal(text, encode_text(model, tokens[:, :12]))
    tower.transformer.grad_checkpointing = False
    expected = torch.stack([alone(tower, tokens[row, :own], corners) for row, own in enumerate(LENGTHS)])
    torch.testing.assert_close(torch.cat([text[:, None], extra], 1), expected, rtol=0, atol=1e-10)
    assert (extra[:, 0] - text).norm(dim=1).min() > 1e-2
    learnt = (corners, tower.token_embedding.weight, tower.positional_embedding)
    both = [torch.autograd.grad(x.pow(3).sum(), learnt) for x in (torch.cat([text[:, None], extra], 1), expected)]
    for one, other in zip(*both, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-8)


def test_a_slot_without_a_text_has_finite_features_and_a_long_text_is_an_error() -> None:
    model = build("vit")
    corners = corners_of(model).float()
    tokens = torch.zeros(2, CONTEXT + 1, dtype=torch.long)
    assert all(found.isfinite().all() for found in encode_text_corners(model, tokens[:, :5], corners))
    with pytest.raises(IntegrityError, match="must truncate"):
        encode_text_corners(model, tokens, corners)


def encoder_of(folder: Path, kind: str) -> str:
    """A tiny encoder of another kind, with BERT's tokenizer; its positions begin after the padding id."""
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    write_wordpiece(folder)
    size = {"vocab_size": len(AutoTokenizer.from_pretrained(folder)), "pad_token_id": 0}
    body = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    if kind == "mt5":
        body = {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2}
    else:
        body |= {"max_position_embeddings": 40}
    AutoModel.from_config(AutoConfig.for_model(kind, **size, **body)).save_pretrained(folder)
    return str(folder)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "pooler"), [("bert", "cls_pooler"), ("xlm-roberta", "cls_last_hidden_state_pooler")])
def test_a_bert_like_tower_gives_what_each_text_gives_alone(tmp_path: Path, kind: str, pooler: str) -> None:
    path = str(write_bert(tmp_path / kind)) if kind == "bert" else encoder_of(tmp_path / kind, kind)
    model = built(tmp_path, {}, {"hf_pooler_type": pooler}, text_model=path)
    encoder, corners = model.text.transformer, corners_of(model)
    lengths = (*[2, 7, 3] * 8, *[20] * 20, 0)  # more than one group, and an unused slot
    tokens = padded(lengths[:-1], 3, CONTEXT)
    tokens = torch.cat([tokens, torch.zeros_like(tokens[:1])])
    text, extra = encode_text_corners(model, tokens, corners)
    torch.testing.assert_close(text, encode_text(model, tokens), rtol=0, atol=1e-10)
    assert extra.shape == (len(lengths), M, 48) and extra.isfinite().all()
    first = 0 if kind == "bert" else 1
    for row, own in enumerate(lengths[:3]):
        words = encoder.get_input_embeddings()(tokens[row, :own])
        for corner in range(M):
            # A corner alone: it stands in the place of [CLS], which it does not see and which words do.
            x = torch.cat([words[:1], corners[corner : corner + 1], words[1:]])[None]
            mask = torch.zeros(1, 1, own + 1, own + 1, dtype=x.dtype)
            mask[..., 1], mask[..., 1, 0], mask[..., 1, 1] = -1e30, -1e30, 0
            positions = torch.tensor([[0, 0, *range(1, own)]]) + first
            states = encoder(inputs_embeds=x, attention_mask=mask, position_ids=positions).last_hidden_state[0, 1]
            if kind == "bert":
                states = torch.tanh(encoder.pooler.dense(states))
            torch.testing.assert_close(extra[row, corner], model.text.proj(states), rtol=0, atol=1e-8)
    extra.pow(3).sum().backward()
    assert corners.grad is not None and (corners.grad.norm(dim=1) > 0).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "pooler", "said"),
    [("bert", "mean_pooler", "pooled by MeanPooler"), ("mt5", "cls_last_hidden_state_pooler", "takes no embeddings")],
)
def test_other_hugging_face_towers_are_refused(tmp_path: Path, kind: str, pooler: str, said: str) -> None:
    model = built(tmp_path, {}, {"hf_pooler_type": pooler}, text_model=encoder_of(tmp_path / kind, kind))
    with pytest.raises(RecipeError, match=rf"corner_tokens must be 0 .*\n.*{said}"):
        check_corners(model)


def test_a_tower_that_ignores_the_mask_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = built(tmp_path, {}, {"hf_pooler_type": "cls_pooler"}, text_model=str(write_bert(tmp_path / "bert")))
    check_corners(model.train())
    assert model.text.training
    forward = model.text.transformer.forward
    everything = lambda **given: forward(**{**given, "attention_mask": None})  # noqa: E731
    monkeypatch.setattr(model.text.transformer, "forward", everything)
    with pytest.raises(RecipeError, match="does not keep to a mask"):
        check_corners(model)


@pytest.mark.parametrize(
    ("name", "said"),
    [("siglip", "not causal"), ("coca", "not causal"), ("vit_qk_norm", "blocks that are not open_clip's plain ones")],
)
def test_other_native_towers_are_refused(name: str, said: str) -> None:
    with pytest.raises(RecipeError, match=rf"corner_tokens must be 0 .*\n.*{said}"):
        check_corners(build(name))


def test_corners_are_drawn_with_the_spread_of_the_tower(tmp_path: Path) -> None:
    write_bert(tmp_path / "bert")
    file = tmp_path / "bert" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"initializer_range": 0.5}))
    bert = built(tmp_path, {}, {"hf_pooler_type": "cls_pooler"}, text_model=str(tmp_path / "bert"))
    for model, width, spread in ((bert, 32, 0.5), (build("vit"), 64, 0.02)):
        drawn = CornerTokens(model, 200)()
        assert drawn.shape == (200, width) and drawn.std().item() == pytest.approx(spread, rel=0.05)


def test_sentences_can_be_joined_by_a_token_of_bert(tmp_path: Path) -> None:
    model = ModelConfig(architecture=str(CONFIGS / "vit.json"), text_model=str(write_bert(tmp_path / "bert")))
    [ids] = open_tokenizer(model)(["a dog [SEP] a cat"])
    assert ids.tolist().count(3) == 2 and ids[-1] == 3
