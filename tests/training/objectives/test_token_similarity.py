"""Late interaction: its memory, which tokens are compared, and its own temperature."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812  torch's own name for it
from entries import Entry, basic
from entries import tensors_of as every_tensor
from every_entry import ENTRIES
from naive_similarities import token_max_tensors
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from training.gather import Exchange
from training.objectives import loss_by_name
from training.objectives.by_name import computed
from training.objectives.config import OBJECTIVES


class Largest(TorchDispatchMode):
    """Watches how many numbers the largest tensor has that anything computes."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        for one in out if isinstance(out, tuple) else [out]:
            if isinstance(one, Tensor):
                self.numbers = max(self.numbers, one.numel())
        return out


def tensors_of(rows: int, patches: int, tokens: int, width: int, slots: int = 1) -> dict[str, Any]:
    random = torch.Generator().manual_seed(0)

    def units(*shape: int) -> Tensor:
        return F.normalize(torch.randn(*shape, generator=random), dim=-1).requires_grad_()

    return {
        "image": units(rows, width),
        "text": units(rows, slots, width),
        "image_tokens": units(rows, patches, width),
        "text_tokens": units(rows, slots, tokens, width),
    }


def with_padding() -> dict[str, Any]:
    tensors = basic(5, 2, 6)
    return tensors | token_max_tensors(tensors, torch.Generator().manual_seed(1))


@pytest.mark.parametrize("settings", [{}, {"top_share": 0.25}])
def test_products_of_all_tokens_never_exist_as_a_whole(settings: dict[str, Any]) -> None:
    rows, patches, tokens, width = 96, 49, 32, 16
    tensors = tensors_of(rows, patches, tokens, width)
    with Largest() as watch:
        total = computed("token_max", tensors, settings, "paper", Exchange(), (8 * patches, 8 * tokens))[0].total
        total.backward()
    # 8 × 8 pairs at a time, or the tokens of all images; all pairs would be 14 million numbers.
    assert watch.numbers <= max(8 * 8 * patches * tokens, rows * patches * (width + 1))
    assert watch.numbers * 100 <= rows * rows * patches * tokens
    assert all(tensors[name].grad.any() for name in ("image_tokens", "text_tokens"))


def test_padding_of_a_text_takes_no_part() -> None:
    tensors = with_padding()
    padded = ~tensors["text_token_mask"][..., None]
    spoilt = {**tensors, "text_tokens": tensors["text_tokens"].detach().masked_fill(padded, torch.nan)}
    assert loss_by_name("token_max", spoilt).total == loss_by_name("token_max", tensors).total


def test_tokens_by_hand() -> None:
    # Patches along x and y; text 0 is the word x, text 1 the words x and y.
    axes = torch.eye(2, dtype=torch.float64)
    tensors = {
        "image": axes,
        "text": axes[:, None],
        "image_tokens": torch.stack([axes, torch.stack([axes[1], axes[1]])]),
        "text_tokens": torch.stack([torch.stack([axes[0], axes[1]]), axes])[:, None],
        "text_token_mask": torch.tensor([[[True, False]], [[True, True]]]),
        "logit_scale": torch.tensor(2.0, dtype=torch.float64),
    }
    # S^I = [[1/2, 1], [0, 1]], S^T = [[1, 1], [0, 1/2]]
    to_text = [math.log1p(math.exp(2 * (1 - 0.5))), math.log1p(math.exp(2 * (0 - 1)))]
    to_image = [math.log1p(math.exp(2 * (0 - 1))), math.log1p(math.exp(2 * (1 - 0.5)))]
    assert loss_by_name("token_max", tensors).total.item() == pytest.approx(sum(to_text + to_image) / 4)
    # x-clip contrasts S^I over images too.
    over_images = [math.log1p(math.exp(2 * (0 - 0.5))), math.log1p(math.exp(0))]
    assert loss_by_name("token_max", tensors, form="released").total.item() == pytest.approx(
        sum(over_images + to_image) / 4
    )


def test_its_own_temperature_begins_at_0_07() -> None:
    tensors = tensors_of(4, 3, 2, 8)
    own = loss_by_name("token_max", {**tensors, "logit_scale": torch.tensor(1.0)}, {"own_scale": True}).total
    models = loss_by_name("token_max", {**tensors, "logit_scale": torch.tensor(1 / 0.07)}).total
    torch.testing.assert_close(own, models)


def test_a_share_of_one_is_all_tokens() -> None:
    tensors = with_padding()
    torch.testing.assert_close(
        loss_by_name("token_max", tensors, {"top_share": 1.0}).total, loss_by_name("token_max", tensors).total
    )


@pytest.mark.parametrize(
    ("entry", "settings"),
    [
        (entry, settings)
        for entry in ENTRIES
        for settings in entry.settings
        if {"tokens", "masked", "captions"} & set(OBJECTIVES.get(entry.name).needs)
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_longer_padding_changes_nothing(entry: Entry, settings: Any) -> None:
    tensors = every_tensor(entry, 5, 2, 6)
    longer = dict(tensors)
    for name in ("text_tokens", "teacher_text_tokens", "masked_text_tokens", "caption_logits"):
        if name in tensors:
            longer[name] = F.pad(tensors[name], (0, 0, 0, 7), value=0.5)
    for name, value in (("text_token_mask", False), ("text_token_hidden", False), ("caption_labels", -1)):
        if name in tensors:
            longer[name] = F.pad(tensors[name], (0, 7), value=value)
    # The released form of FDT takes padding for a token, as its documentation says.
    for form in entry.forms if entry.name != "codebook" else ["paper"]:
        found = loss_by_name(entry.name, longer, settings, form).total
        torch.testing.assert_close(found, loss_by_name(entry.name, tensors, settings, form).total)


def test_a_share_is_of_a_texts_own_tokens() -> None:
    # Each text has 5 tokens of which its patches tell the first ones; a quarter of 5, rounded up, is 2.
    tensors = tensors_of(4, 3, 20, 8)
    mask = torch.zeros(4, 1, 20, dtype=torch.bool)
    mask[..., :5] = True
    alone = {**tensors, "text_tokens": tensors["text_tokens"][:, :, :5]}
    found = [
        loss_by_name("token_max", given, {"top_share": 0.25}).total
        for given in ({**tensors, "text_token_mask": mask}, alone)
    ]
    torch.testing.assert_close(*found)
    all_of_them = loss_by_name("token_max", alone, {"top_share": 1.0}).total
    assert not torch.isclose(found[0], all_of_them)
