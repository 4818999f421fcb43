"""The learning rate and the temperature, by step."""

from __future__ import annotations

import math

import pytest
import torch

from pairmill.errors import RecipeError
from training.schedule import OptimConfig, TemperatureConfig


def rates(steps: int = 10, **config: object) -> list[float]:
    optim = OptimConfig(**{"lr": 1.0, "warmup_steps": 4, **config})
    return [optim.lr_at(step, steps) for step in range(steps)]


def test_warm_up_is_linear_and_its_first_step_learns() -> None:
    assert rates()[:4] == [0.25, 0.5, 0.75, 1.0]


def test_cosine_is_half_way_down_in_the_middle_of_the_rest() -> None:
    found = rates(steps=12)
    assert found[4] == 1.0
    assert found[8] == pytest.approx(0.5)
    assert found[11] == pytest.approx((1 + math.cos(math.pi * 7 / 8)) / 2)


def test_linear() -> None:
    assert rates(schedule="linear", min_lr=0.4)[4:] == pytest.approx([1.0, 0.9, 0.8, 0.7, 0.6, 0.5])


def test_constant() -> None:
    assert rates(schedule="constant")[4:] == [1.0] * 6


def test_wsd_is_constant_and_then_falls() -> None:
    assert rates(schedule="wsd", cooldown_steps=4)[4:] == pytest.approx([1.0, 1.0, 1.0, 0.75, 0.5, 0.25])


def test_equal_to_open_clips_cosine() -> None:
    from open_clip_train.scheduler import cosine_lr

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.0)
    theirs = cosine_lr(optimizer, 3e-4, 5, 40)
    ours = OptimConfig(lr=3e-4, warmup_steps=5)
    for step in range(40):
        theirs(step)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(ours.lr_at(step, 40))


def test_a_scheduled_temperature_runs_from_init_to_final() -> None:
    config = TemperatureConfig(init=0.1, final=0.02, learnable=False)
    scales = [config.scale_at(step, 5) for step in range(5)]
    assert scales[0] == pytest.approx(10) and scales[4] == pytest.approx(50)
    assert scales[2] == pytest.approx(math.sqrt(500))


def test_a_learnt_temperature_has_no_schedule() -> None:
    assert TemperatureConfig().scale_at(3, 10) is None
    with pytest.raises(RecipeError, match="learnable"):
        TemperatureConfig(final=0.01)


def test_an_initial_temperature_beyond_the_limit_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"temperature\.max"):
        TemperatureConfig(init=0.001)
