"""Terms compute in float32 whatever the rest of a step computes in."""

from __future__ import annotations

import pytest
import torch
from entries import tensors_of
from every_entry import BY_NAME
from torch import Tensor

from training.objectives import loss_by_name

#: Those without heads of their own, which compute as the model says.
NAMES = ("align", "uniform", "cross_uniform", "mv_dhel", "mv_infonce", "rafa", "hycd", "mixup")


@pytest.mark.parametrize("name", NAMES)
def test_autocast_changes_nothing(name: str) -> None:
    entry = BY_NAME[name]
    tensors = {
        key: value.detach().float() if isinstance(value, Tensor) and value.is_floating_point() else value
        for key, value in tensors_of(entry, 9, 2, 16).items()
    }
    for settings in entry.settings:
        leaf = tensors["image"].clone().requires_grad_()
        raw = tensors["raw_image"].clone().requires_grad_() if "raw_image" in tensors else leaf
        given = tensors | {"image": leaf} | ({"raw_image": raw} if "raw_image" in tensors else {})
        found = []
        for on in (False, True):
            with torch.autocast("cpu", torch.bfloat16, enabled=on):
                total = loss_by_name(name, given, settings).total
            assert total.dtype == torch.float32
            found += [
                (total, *(g for g in torch.autograd.grad(total, (leaf, raw), allow_unused=True) if g is not None))
            ]
        for plain, cast in zip(*found, strict=True):
            assert torch.equal(plain, cast)
