import copy
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from training.ema import Ema


def small() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    model[0].bias.requires_grad = False
    return model


@given(st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=30), st.floats(0.1, 0.99))
def test_the_shadow_is_the_recurrence(weights: list[float], decay: float) -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    ema, expected = Ema(model, decay), 0.0
    for n, weight in enumerate(weights):
        nn.init.constant_(model.weight, weight)
        ema.update(model.named_parameters())
        d = min(decay, (1 + n) / (10 + n))
        expected = d * expected + (1 - d) * weight
    assert ema.shadow["weight"].item() == pytest.approx(expected, rel=1e-4, abs=1e-3)


def test_what_does_not_learn_is_not_averaged_and_what_does_is_float32() -> None:
    ema = Ema(small().to(torch.bfloat16), 0.9)
    assert set(ema.shadow) == {"0.weight", "1.weight", "1.bias"}
    assert all(t.dtype == torch.float32 for t in ema.shadow.values())


def test_it_is_swapped_in_and_out_even_when_the_block_fails() -> None:
    model = small()
    ema = Ema(model, 0.9)
    first = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    own = copy.deepcopy(model.state_dict())
    with pytest.raises(RuntimeError), ema.swapped_in(model):
        for name in ema.shadow:
            assert torch.equal(model.state_dict()[name], first[name])
        assert torch.equal(model.state_dict()["0.bias"], own["0.bias"])
        raise RuntimeError
    assert all(torch.equal(model.state_dict()[name], own[name]) for name in own)


def test_it_continues_from_a_checkpoint(tmp_path: Path) -> None:
    model = small()
    through = Ema(model, 0.9)
    through.update(model.named_parameters())
    torch.save(through.state_dict(), tmp_path / "ema.pt")
    with torch.no_grad():
        model[0].weight.mul_(3)
    resumed = Ema(model, 0.9)
    resumed.load_state_dict(torch.load(tmp_path / "ema.pt", weights_only=True))
    for ema in (through, resumed):
        ema.update(model.named_parameters())
    assert resumed.updates == through.updates == 2
    assert all(torch.equal(resumed.shadow[n], through.shadow[n]) for n in through.shadow)


@pytest.mark.parametrize("decay", [0.0, 1.0])
def test_a_decay_that_averages_nothing_is_refused(decay: float) -> None:
    with pytest.raises(ValueError, match="must lie between 0 and 1"):
        Ema(small(), decay)


def test_without_warm_up_the_first_update_has_the_whole_decay() -> None:
    model = small()
    ema, before = Ema(model, 0.9, warm_up=False), model[0].weight.detach().clone()
    with torch.no_grad():
        model[0].weight.add_(1.0)
    ema.update(model.named_parameters())
    torch.testing.assert_close(ema.shadow["0.weight"], before + 0.1)
