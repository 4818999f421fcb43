from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_text import write_bert

from pairmill.errors import IntegrityError
from pairmill.towers.build import build_model
from pairmill.towers.config import ModelConfig
from pairmill.towers.encode import encode_text, length_groups, needs_full_length, runs_of, text_tower

CONFIGS = Path(__file__).parent / "configs"
SHORT = ("vit", "vit_custom_text", "vit_qk_norm", "resnet")
CONTEXT = 32
END = 49407


def build(name: str, **keys: Any) -> Any:
    torch.manual_seed(0)
    config = ModelConfig(architecture=str(CONFIGS / f"{name}.json"), **keys)
    return build_model(config, temperature_init=None, bias_init=None)


def padded(lengths: tuple[int, ...], end: int | None, width: int) -> torch.Tensor:
    """Texts of these lengths [B, width]: ids from 4 up, `end` last, 0 behind."""
    tokens = torch.zeros(len(lengths), width, dtype=torch.long)
    for row, length in enumerate(lengths):
        tokens[row, :length] = torch.randint(4, 400, (length,))
        if end is not None:
            tokens[row, length - 1] = end
    return tokens


@pytest.mark.slow
@pytest.mark.parametrize("name", SHORT)
@pytest.mark.parametrize("lengths", [(2, 9, 5), (3, 3, 3), (31, 4, 2), (32, 7, 2), (2, 1, 1)])
def test_tokens_cut_to_the_longest_give_the_features_of_padded_ones(name: str, lengths: tuple[int, ...]) -> None:
    model = build(name)
    tokens = padded(lengths, END, CONTEXT)
    assert not needs_full_length(model)
    expected = model.encode_text(tokens, normalize=True)
    short = torch.nn.functional.normalize(encode_text(model, tokens[:, : max(lengths)]), dim=-1)
    torch.testing.assert_close(short, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", SHORT)
def test_the_features_are_equal_in_exact_arithmetic(name: str) -> None:
    model = build(name).double()
    tokens = padded((3, 12, 7), END, CONTEXT)
    expected = model.encode_text(tokens)
    torch.testing.assert_close(encode_text(model, tokens[:, :12]), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(encode_text(model, tokens), expected, rtol=0, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("name", SHORT)
@pytest.mark.parametrize("checkpointed", [False, True])
def test_runs_of_one_length_give_the_features_and_gradients_of_one_batch(name: str, checkpointed: bool) -> None:
    lengths = tuple(int(n) for n in torch.randint(1, CONTEXT + 1, (90,), generator=torch.Generator().manual_seed(0)))
    assert len(runs_of(list(lengths), CONTEXT)) > 8
    model = build(name).double()
    tokens = padded(lengths, END, CONTEXT)
    weights = torch.randn(90, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = []
    for encode in (encode_text, type(model).encode_text):
        model.zero_grad()
        text_tower(model).transformer.grad_checkpointing = checkpointed and encode is encode_text
        features = encode(model, tokens)
        (features * weights).sum().backward()
        found.append(
            (features.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
        )
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-10)


@given(st.lists(st.integers(1, 77), min_size=1, max_size=300))
def test_every_text_is_in_one_run_and_at_most_a_quarter_is_padding(lengths: list[int]) -> None:
    longest = max(lengths)
    runs = runs_of(lengths, longest)
    assert sorted(text for run in runs for text in run.texts) == list(range(len(lengths)))
    for run in runs:
        for text in run.texts:
            assert lengths[text] <= run.length <= min(1.25 * lengths[text], longest)
    assert len(runs) <= 18


@given(st.lists(st.integers(1, 77), min_size=1, max_size=300))
def test_every_text_is_in_one_group_and_little_is_padded(lengths: list[int]) -> None:
    groups = length_groups(lengths)
    assert sorted(index for group in groups for index in group) == list(range(len(lengths)))
    for group in groups:
        assert lengths[group[-1]] == max(lengths[index] for index in group)
    assert len(groups) == 1 or min(map(len, groups)) >= 16
    assert len(groups) <= 5


@pytest.mark.slow
@pytest.mark.parametrize("name", SHORT)
def test_they_give_the_same_gradients(name: str) -> None:
    tokens, gradients = padded((5, 11), END, CONTEXT), []
    for length in (CONTEXT, 11):
        model = build(name).double()
        encode_text(model, tokens[:, :length]).square().sum().backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert "positional_embedding" in {n.removeprefix("text.") for n in gradients[0]}
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=1e-9)


def test_a_tower_pooled_at_its_own_end_token_takes_short_texts(tmp_path: Path) -> None:
    text = (CONFIGS / "vit_custom_text.json").read_text()
    path = tmp_path / "eos.json"
    path.write_text(text.replace('"layers": 2}\n}', '"layers": 2, "pool_type": "eos", "eos_id": 3}\n}'))
    model: Any = build_model(ModelConfig(architecture=str(path)), temperature_init=None, bias_init=None).double()
    tokens = padded((4, 8), 3, CONTEXT)
    assert model.text.pool_type == "eos" and not needs_full_length(model)
    torch.testing.assert_close(encode_text(model, tokens[:, :8]), model.encode_text(tokens), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["siglip", "coca"])
def test_towers_that_see_the_padding_need_it(name: str) -> None:
    model = build(name)
    width = 32 if name == "siglip" else 31
    tokens = padded((5, 9), END, width)
    assert needs_full_length(model)
    torch.testing.assert_close(encode_text(model, tokens), model.encode_text(tokens, normalize=False))
    with pytest.raises(IntegrityError, match="must be padded to the context length"):
        encode_text(model, tokens[:, :9])


def test_what_siglip_gives_for_cut_texts_differs_from_what_it_gives_for_padded_ones() -> None:
    model = build("siglip").eval()
    tokens = padded((5, 9), END, CONTEXT)
    cut = model.text(tokens[:, :9])  # open_clip takes it: there is no causal mask whose shape would not fit
    assert (cut - model.encode_text(tokens)).abs().max() > 1e-3


@pytest.mark.parametrize("pooler", ["mean_pooler", "cls_pooler"])
def test_a_hugging_face_tower_masks_its_padding(tmp_path: Path, pooler: str) -> None:
    path = tmp_path / "vit.json"
    path.write_text(
        (CONFIGS / "vit.json")
        .read_text()
        .replace('"context_length"', f'"hf_pooler_type": "{pooler}", "context_length"')
    )
    config = ModelConfig(architecture=str(path), text_model=str(write_bert(tmp_path / "bert")))
    model: Any = build_model(config, temperature_init=None, bias_init=None).eval()
    tokens = padded((2, 7, 3), 3, CONTEXT)
    assert not needs_full_length(model)
    torch.testing.assert_close(encode_text(model, tokens[:, :7]), model.encode_text(tokens), rtol=0, atol=1e-6)


def test_an_unused_text_slot_gives_no_nan(tmp_path: Path) -> None:
    config = ModelConfig(architecture=str(CONFIGS / "vit.json"), text_model=str(write_bert(tmp_path / "bert")))
    model: Any = build_model(config, temperature_init=None, bias_init=None)
    tokens = padded((4, 6), 3, 6)
    tokens[0] = 0
    features = encode_text(model, tokens)
    (features * torch.tensor([[0.0], [1.0]])).sum().backward()
    assert features.isfinite().all()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
