"""What targets of the tiled kernels hold at a time, and what they cannot do without."""

from __future__ import annotations

import pytest
from entries import tensors_of
from every_entry import BY_NAME
from naive_targets import ENTRIES
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pairmill.errors import RecipeError
from training.gather import Exchange
from training.objectives import loss_by_name
from training.objectives.by_name import computed

ROWS, TILE = 300, (20, 30)


class Largest(TorchDispatchMode):
    """Numbers of the largest tensor that any operation makes."""

    found = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        for one in out if isinstance(out, tuple | list) else [out]:
            if isinstance(one, Tensor):
                self.found = max(self.found, one.numel())
        return out


@pytest.mark.slow
@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_logits_and_targets_never_exist_as_a_whole(entry: object) -> None:
    entry = BY_NAME[entry.name]  # type: ignore[attr-defined]
    tensors = tensors_of(entry, ROWS, 1, 8, groups=True)
    with Largest() as watch:
        computed(entry.name, tensors, entry.settings[0], "paper", Exchange(), TILE)[0].total.backward()
    assert watch.found <= ROWS * 8 < ROWS * ROWS / 30


def test_what_a_target_is_made_of_must_be_given() -> None:
    tensors = tensors_of(BY_NAME["clip"], 4, 1, 8)
    with pytest.raises(RecipeError, match="without tags"):
        loss_by_name("jaccard", tensors)
    for name, missing in (
        ("distill", "teacher_image, teacher_text"),
        ("cwcl", "teacher_image"),
        ("momentum", "teacher_"),
    ):
        with pytest.raises(RecipeError, match=f"without {missing}"):
            loss_by_name(name, tensors)
