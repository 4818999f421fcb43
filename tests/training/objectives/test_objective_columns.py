"""Columns of the data that an objective declares: what it may name, and how a batch and a single call bring them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pairmill.errors import RecipeError
from pairmill.registry import NamedConfig
from training.data.batches import Batch
from training.gather import Exchange
from training.losses.loss_inputs import LossOutput
from training.model import Features, Rows, to_device
from training.objectives import loss_by_name
from training.objectives.composite import Composite, Term
from training.objectives.declaration import Objective, opened


class Weighted(Objective):
    """Mean of the weights of the rows."""

    needs = ("columns",)
    columns: tuple[str, ...] = ("sample_weight",)

    def __call__(self, features: Features, rows: Rows, exchange: Exchange) -> LossOutput:
        loss = (features.image_BD * features.text_BKD[:, 0]).sum(1) * rows.asked["sample_weight"]
        return LossOutput(loss.mean(), {"loss": loss.mean().detach()})


class Noisy(Weighted):
    columns = ("noise_prob", "sample_weight")


def config(name: str = "one") -> NamedConfig:
    return NamedConfig(name=name)


@pytest.mark.parametrize(
    ("declared", "said"),
    [
        ({"columns": ()}, "need columns and name them"),
        ({"needs": ()}, "need columns and name them"),
        ({"columns": ("sample_wieght",)}, "perhaps you mean: sample_weight"),
    ],
)
def test_a_wrong_declaration_is_refused(declared: dict[str, Any], said: str) -> None:
    kind = type("Wrong", (Weighted,), declared)
    with pytest.raises(RecipeError, match=said):
        opened(kind, config())


def test_an_objective_with_terms_asks_for_those_of_all() -> None:
    both = Composite(Weighted(config()), {"noisy": Term(Noisy(config("noisy")), 1.0, 0.0, 0.0)})
    assert both.columns == ("sample_weight", "noise_prob") and both.needs == ("columns",)


def test_a_batch_brings_them_to_the_device_and_to_micro_batches() -> None:
    weights = np.arange(4, dtype=np.float32)
    one = np.ones((4, 1), np.int64)
    batch = Batch(
        np.zeros((4, 8, 8, 3), np.uint8),
        one[:, :, None],
        one > 0,
        one.astype(np.int8),
        one.astype(np.int16),
        one[:, 0] > 0,
        one[:, 0],
        one[:, 0],
        {},
        asked={"sample_weight": weights},
    )
    rows = to_device(batch, torch.device("cpu"))
    assert rows.part(slice(1, 3)).asked["sample_weight"].tolist() == [1.0, 2.0]


def test_a_single_call_must_be_given_them() -> None:
    name = f"{__name__}:Weighted"
    tensors: dict[str, Tensor] = {"image": torch.eye(2), "text": torch.eye(2)[:, None]}
    assert float(loss_by_name(name, tensors | {"sample_weight": torch.tensor([1.0, 3.0])}).total) == 2.0
    with pytest.raises(RecipeError, match="without sample_weight"):
        loss_by_name(name, tensors)
