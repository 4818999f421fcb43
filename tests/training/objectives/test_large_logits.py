"""Float32 where logits are just too large for plain exponentials, and far beyond; small ones are tested elsewhere."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from entries import gradients, tensors_of
from every_entry import BY_NAME
from torch import Tensor

from training.gather import Exchange
from training.objectives.by_name import computed

#: What goes through the kernels of row and column sums.
NAMES = ("clip", "label_smoothing", "noise_adaptive", "distill", "cwcl", "jaccard", "momentum", "sdm", "mv_infonce")


def rounded(value: Any) -> Any:
    """The same in float64, of numbers that float32 has."""
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return value
    return value.detach().float().double().requires_grad_(value.requires_grad)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("scale", [41.0, 300.0])
def test_float32_gives_what_float64_gives(name: str, scale: float) -> None:
    entry = BY_NAME[name]
    tensors = {key: rounded(value) for key, value in tensors_of(entry, 20, 2, 8, groups=True).items()}
    tensors["logit_scale"] = torch.tensor(scale, dtype=torch.float64, requires_grad=True)
    if "teacher_logit_scale" in tensors:
        tensors["teacher_logit_scale"] = torch.tensor(scale, dtype=torch.float64)
    # Half of the rows lie opposite to their texts.
    with torch.no_grad():
        tensors["image"][::2] = -tensors["text"][::2, 0]
    narrow = {
        key: value.detach().float().requires_grad_(value.requires_grad)
        if isinstance(value, Tensor) and value.is_floating_point()
        else value
        for key, value in tensors.items()
    }
    settings = entry.settings[0]
    found = computed(name, narrow, settings, "paper", Exchange(), (6, 10))[0].total
    expected = entry.reference(tensors, settings, "paper")
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5)
    mine, theirs = gradients(found, narrow), gradients(expected, tensors)
    for key, wanted in theirs.items():
        assert torch.linalg.norm(mine[key] - wanted) <= 1e-3 * torch.linalg.norm(wanted) + 1e-5, key
