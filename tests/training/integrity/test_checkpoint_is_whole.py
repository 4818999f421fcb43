"""A checkpoint that lacks what was saved with it, or is of another model, is not resumed from."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from gloo_ranks import run_on_ranks
from safetensors.torch import load_file, save_file
from test_step import recipe, rows_of, setup_of
from torch import Tensor, nn

from pairmill.errors import IntegrityError
from training.gather import Exchange, open_exchange
from training.losses.loss_inputs import LossOutput
from training.model import Features, Own, Rows
from training.objectives.declaration import Kept, Objective, Setup
from training.recipe import TrainRecipe

OBJECTIVE = f"{__name__}:Taught"


class Widen(nn.Module):
    """Heads of one matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.widen = nn.Parameter(torch.ones(4, 4))

    def forward(self, image_BD: Tensor, text_BKD: Tensor) -> Own:
        return Own({}, {"sum": self.widen.sum()})


class Taught(Objective):
    """Has all that a checkpoint may hold: heads, state, both teachers."""

    needs = ("teacher", "frozen_teacher")
    keeps = (Kept("seen", "replicated", "rows seen"),)
    teacher_decay = 0.9

    def start(self, setup: Setup) -> dict[str, Tensor]:
        return {"seen": torch.zeros(())}

    def heads(self, setup: Setup) -> nn.Module:
        return Widen()

    def __call__(self, features: Features, rows: Rows, exchange: Exchange) -> LossOutput:
        product = (features.image_BD.unsqueeze(1) * features.text_BKD).sum() * features.scale
        total = product + features.own.shared["sum"]
        return LossOutput(total, {"total": total.detach()})


def _used() -> TrainRecipe:
    model = {"patch_dropout": None, "ema_decay": 0.9}
    return recipe(loss={"objective": OBJECTIVE}, model=model)


def _learner() -> Any:
    from training.worker import build, start_learner

    return start_learner(build(_used()), _used(), setup_of(_used()))


def _saved(rank: int, folder: Path) -> None:
    """A real checkpoint, after a step."""
    from pairmill.towers.build import model_description
    from pairmill.towers.tokenizer import open_tokenizer
    from training.checkpoint import Describe, Parts, Progress, write
    from training.engine import model_weights, objective_weights, optimizer_state
    from training.objectives.saved import to_save
    from training.step import train_step

    engine, ema, objective, teacher = _learner()
    train_step(engine, rows_of(0, 0, 1), objective, open_exchange("local")(0), accumulate=1, seed=0, teacher=teacher)
    own = to_save(objective, teacher, objective_weights(engine), rank=0)
    parts = Parts(model_weights(engine), optimizer_state(engine), ema, own)
    used = _used()
    describe = Describe(model_description(used.model, engine.module.model), open_tokenizer(used.model))
    write(folder, parts, Progress(1, "plan", {}, None), describe)


def _tried(rank: int, folders: dict[str, Path]) -> dict[str, str]:
    """What resuming from each says."""
    from training.checkpoint import Learner, restore

    learner, said = Learner(*_learner()), {}
    for name, folder in folders.items():
        try:
            restore(learner, folder)
            said[name] = "resumed"
        except IntegrityError as error:
            said[name] = str(error)
    return said


def _without_file(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def _changed(file: str, change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        data = torch.load(folder / file, weights_only=True)
        change(data)
        (folder / file).unlink()  # it is a link to the whole one's
        torch.save(data, folder / file)

    return apply


def _without_weight(folder: Path) -> None:
    file = folder / "open_clip_model.safetensors"
    weights = load_file(file)
    del weights["visual.conv1.weight"]
    file.unlink()
    save_file(weights, file)


WHOLE = "resumed"
MISSING = "a checkpoint must hold every parameter of its run; missing: "
DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "nothing": (lambda folder: None, WHOLE),
    "no_average": (_without_file("ema.pt"), "saved with it; missing: ema.pt"),
    "no_objective": (_without_file("objective.pt"), "saved with it; missing: objective.pt"),
    "no_weight": (_without_weight, f"{MISSING}visual.conv1.weight"),
    "no_head": (
        _changed("objective.pt", lambda data: data["parameters"].clear()),
        f"{MISSING}objective.widen",
    ),
    "no_moment": (
        _changed("optimizer.pt", lambda data: data["exp_avg_sq"].pop("visual.conv1.weight")),
        f"{MISSING}visual.conv1.weight",
    ),
    "no_teacher": (_changed("objective.pt", lambda data: data.update(teacher=None)), "must hold its teacher"),
    "a_part_of_the_teacher": (
        _changed("objective.pt", lambda data: data["teacher"]["shadow"].pop("heads.widen")),
        "it is of another model",
    ),
    "no_frozen_teacher": (
        _changed("objective.pt", lambda data: data.update(frozen=None)),
        "must hold its frozen teacher",
    ),
    "a_part_of_the_frozen_teacher": (
        _changed("objective.pt", lambda data: data["frozen"].pop("model.logit_scale")),
        "it is of another",
    ),
    "a_part_of_the_average": (
        _changed("ema.pt", lambda data: data["shadow"].pop("logit_scale")),
        "it is of another model",
    ),
}


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("checkpoints")
    whole = root / "whole"
    run_on_ranks(1, _saved, whole)
    folders = {}
    for name, (damage, _) in DAMAGE.items():
        folders[name] = root / name
        shutil.copytree(whole, folders[name], copy_function=os.link)
        damage(folders[name])
    (answers,) = run_on_ranks(1, _tried, folders)
    return answers


@pytest.mark.slow
@pytest.mark.parametrize("name", DAMAGE)
def test_what_is_not_whole_is_not_resumed_from(said: dict[str, str], name: str) -> None:
    assert DAMAGE[name][1] in said[name]
