"""Corner tokens in training: over ranks and micro-batches, resumed, beside a frozen teacher, not in exports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812  torch's own name for it
from gloo_ranks import run_on_ranks
from test_step import LENGTH, ROWS, SLOTS, rows_of, setup_of
from test_step import recipe as step_recipe
from torch import Tensor

from pairmill.errors import RecipeError
from training.gather import open_exchange
from training.objectives import loss_by_name
from training.recipe import TrainRecipe

CORNERS = "corners.tokens"


def of_step(*, accumulate: int = 1, stage: int = 0, precision: str = "fp32", **model: Any) -> TrainRecipe:
    return step_recipe(
        loss={"objective": "lotlip"},
        model={"patch_dropout": None, "corner_tokens": 2, **model},
        train={"accumulate": accumulate, "precision": precision},
        deepspeed={"stage": stage},
    )


def _trained(rank: int, used: TrainRecipe) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """Losses and weights of three steps, and the weights where the third is taken by a run resumed after two."""
    import torch.distributed as dist

    from training.engine import load, model_weights, objective_weights, optimizer_state, set_lr
    from training.objectives.saved import resume, to_save
    from training.step import train_step
    from training.worker import build, start_learner

    world = dist.get_world_size()
    exchange, losses, found = open_exchange("gather")(0), [], []
    learner, state = start_learner(build(used), used, setup_of(used, rank, world)), None
    for step in (0, 1, 2, 2):
        if len(losses) == 2:
            own = objective_weights(learner.engine)
            state = model_weights(learner.engine), to_save(learner.objective, None, own, rank=0)
            moments = optimizer_state(learner.engine)
        if state is not None and len(losses) == 3:
            learner = start_learner(build(used), used, setup_of(used, rank, world))
            resume(learner.objective, None, state[1])
            load(learner.engine, state[0] | (state[1] or {})["parameters"], moments)
        set_lr(learner.engine, 1e-3)
        rows = rows_of(step, rank, world)
        how = {"accumulate": used.train.accumulate, "seed": step}
        result = train_step(learner.engine, rows, learner.objective, exchange, **how)
        losses.append(exchange.total(result.loss) / world)
        found.append(model_weights(learner.engine) | objective_weights(learner.engine))
    return torch.stack(losses), found[2], found[3]


@pytest.mark.slow
def test_steps_are_the_same_over_ranks_and_micro_batches_and_resume_bit_for_bit() -> None:
    losses, weights, resumed = run_on_ranks(1, _trained, of_step())[0]
    assert weights[CORNERS].shape == (2, 64)
    for name, value in weights.items():
        assert torch.equal(resumed[name], value), name
    assert len(set(losses.tolist())) == 3 and losses[2] == losses[3]
    split, theirs, again = run_on_ranks(2, _trained, of_step(accumulate=2, stage=3))[0]
    torch.testing.assert_close(split, losses, rtol=1e-4, atol=1e-6)
    for name, value in weights.items():
        torch.testing.assert_close(theirs[name], value, rtol=1e-3, atol=2e-5, msg=name)
        assert torch.equal(again[name], theirs[name]), name


def encoder(used: TrainRecipe) -> Any:
    from pairmill.towers.corner_tokens import CornerTokens
    from training.model import DualEncoder
    from training.worker import build

    model = build(used)
    corners = CornerTokens(model, used.model.corner_tokens)
    return DualEncoder(model, used.train.precision, None, (), ("text_extra",), corners=corners)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_features_are_unit_vectors_and_learn_what_corners_are(precision: str) -> None:
    module = encoder(of_step(precision=precision))
    features = module(rows_of(0, 0, 1))
    extra = features.asked["text_extra"]
    assert extra.shape == (ROWS, SLOTS, 2, 48) and extra.dtype == torch.float32
    torch.testing.assert_close(extra.norm(dim=-1), torch.ones(ROWS, SLOTS, 2), rtol=1e-5, atol=0)
    (extra[:, 1, 0] * features.image_BD).sum().backward()
    gradient = module.corners.tokens.grad
    assert gradient[0].any() and not gradient[1].any()


def test_an_export_is_the_tower_without_corners(tmp_path: Path) -> None:
    from pairmill.towers.build import model_description
    from pairmill.towers.encode import encode_text
    from pairmill.towers.model_folder import load_exported
    from pairmill.towers.tokenizer import open_tokenizer
    from training.export import export_open_clip

    used = of_step()
    module, rows = encoder(used), rows_of(0, 0, 1)
    wanted = module(rows).text_BKD.detach().flatten(0, 1)
    own = module.model.state_dict()
    weights = own | {"logit_scale": own["logit_scale"].reshape(())}
    export_open_clip(weights, model_description(used.model, module.model), open_tokenizer(used.model), tmp_path / "out")
    exported = load_exported(tmp_path / "out").model
    found = F.normalize(encode_text(exported, rows.tokens_BKL.view(-1, LENGTH)), dim=-1)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)
    assert exported.state_dict().keys() == weights.keys()
    again = encoder(of_step(architecture=f"local-dir:{tmp_path / 'out'}"))
    torch.testing.assert_close(again(rows).text_BKD.detach().flatten(0, 1), wanted, rtol=0, atol=1e-6)


def test_a_frozen_teacher_keeps_its_corners() -> None:
    from training.teacher import Frozen

    module, rows = encoder(of_step()), rows_of(0, 0, 1)
    before = module(rows).asked["text_extra"].detach()
    frozen = Frozen(module)
    with torch.no_grad():
        module.corners.tokens.add_(1.0)
    torch.testing.assert_close(frozen([rows]).asked["text_extra"], before, rtol=0, atol=0)
    assert not torch.allclose(module(rows).asked["text_extra"], before)


@pytest.mark.parametrize(
    ("loss", "corners", "said"),
    [
        ({"objective": "lotlip"}, 0, "must be at least 1 with loss.objective lotlip"),
        ({"objective": "clip", "terms": {"lotlip": {}}}, 0, r"must be at least 1 with loss.objective clip \+ lotlip"),
        ({"objective": "clip", "terms": {"siglip": {}}}, 2, r"must be 0 with loss.objective clip \+ siglip"),
    ],
)
def test_corners_and_an_objective_that_learns_from_them_come_together(loss: Any, corners: int, said: str) -> None:
    model = {"architecture": "tests/pairmill/towers/configs/vit.json", "corner_tokens": corners}
    recipe = {"run_dir": "r", "data": {"path": "p"}, "model": model, "loss": loss, "train": {"steps": 1}}
    with pytest.raises(RecipeError, match=rf"model\.corner_tokens {said}"):
        TrainRecipe.checked(recipe)


def test_a_tower_that_cannot_have_corners_is_refused_as_the_model_is_built() -> None:
    from training.worker import build

    with pytest.raises(RecipeError, match="corner_tokens must be 0 for a text tower"):
        build(of_step(architecture="tests/pairmill/towers/configs/vit_qk_norm.json"))


def test_corner_features_of_another_form_are_refused() -> None:
    image, text = torch.eye(3), torch.eye(3)[:, None].expand(3, 2, 3)
    for extra in (torch.zeros(3, 2, 3), torch.zeros(3, 1, 2, 3), torch.zeros(3, 2, 2, 4)):
        with pytest.raises(RecipeError, match=r"text_extra must be \[B, K, M, D\]"):
            loss_by_name("lotlip", {"image": image, "text": text, "text_extra": extra})
