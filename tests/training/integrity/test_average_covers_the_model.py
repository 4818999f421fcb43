"""The average of the weights is of all parameters that learn, at every step and when it is resumed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from pairmill.errors import IntegrityError
from training.ema import Ema


def _model(*, wide: bool = False) -> nn.Module:
    layers = [nn.Linear(3, 4), nn.Linear(4, 2), *([nn.Linear(2, 2)] if wide else [])]
    model = nn.Sequential(*layers)
    model[0].bias.requires_grad = False
    return model


def test_a_step_that_hands_over_some_parameters_only_is_noticed() -> None:
    model = _model()
    ema = Ema(model, 0.9)
    some = [(name, parameter) for name, parameter in model.named_parameters() if name != "1.weight"]
    with pytest.raises(IntegrityError, match=r"1 .*missing from the model"):
        ema.update(some)


@pytest.mark.parametrize("saved_wide", [True, False])
def test_the_average_of_another_model_is_not_resumed(saved_wide: bool, tmp_path: Path) -> None:
    torch.save(Ema(_model(wide=saved_wide), 0.9).state_dict(), tmp_path / "ema.pt")
    ema = Ema(_model(wide=not saved_wide), 0.9)
    with pytest.raises(IntegrityError, match="it is of another model"):
        ema.load_state_dict(torch.load(tmp_path / "ema.pt", weights_only=True))


@pytest.mark.parametrize("frozen", [True, False])
def test_nor_is_one_of_other_parameters_that_learn(frozen: bool) -> None:
    models = [_model(), _model()]
    models[0][1].bias.requires_grad = not frozen
    models[1][1].bias.requires_grad = frozen
    with pytest.raises(IntegrityError, match="must be of the parameters that learn"):
        Ema(models[0], 0.9).load_state_dict(Ema(models[1], 0.9).state_dict())
