"""`train.patch_keeping`: images from the patches most like their text, alike over ranks, micro-batches and a resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from gloo_ranks import run_on_ranks
from test_step import ROWS, rows_of, setup_of
from test_step import recipe as step_recipe
from torch import Tensor

from pairmill.errors import RecipeError
from training.gather import open_exchange
from training.model import DualEncoder
from training.objectives.declaration import When
from training.objectives.saved import resume, to_save
from training.patch_keeping import with_kept
from training.recipe import PatchKeepingConfig, TrainConfig, TrainRecipe
from training.teacher import Teachers, open_teachers

STEPS = 4
KEEPING = PatchKeepingConfig(rows=0.5, share=0.25)


def of(*, accumulate: int = 1, keeping: dict[str, Any] | None = None, **sections: Any) -> TrainRecipe:
    train = {"accumulate": accumulate, "patch_keeping": KEEPING.model_dump() if keeping is None else keeping}
    return step_recipe(**({"model": {"patch_dropout": None}, "train": train} | sections))


def teachers_of(used: TrainRecipe) -> tuple[DualEncoder, Teachers]:
    from training.worker import build

    module = DualEncoder(build(used), "fp32")
    found = open_teachers(module, used.loss.opened(), used.train.patch_keeping)
    assert found is not None
    return module, found


def test_rows_are_drawn_by_what_they_are_and_their_likest_patches_kept() -> None:
    rows = rows_of(0, 0, 1)
    many = rows._replace(sample_id_B=torch.arange(4000))
    likeness = torch.rand(ROWS, 16, generator=torch.Generator().manual_seed(0))
    kept = with_kept(rows, likeness, KEEPING, 0, 5).kept
    assert kept is not None
    for row in range(ROWS):
        assert set(kept.patches_BN[row].tolist()) == set(likeness[row].topk(4).indices.tolist())
    part = with_kept(rows.part(slice(3, 6)), likeness[3:6], KEEPING, 0, 5).kept
    assert part is not None and torch.equal(part.few_B, kept.few_B[3:6])
    alike = torch.zeros(4000, 16)
    first, second = (with_kept(many, alike, KEEPING, 0, step).kept for step in (0, 1))
    assert first is not None and second is not None
    for few in (first.few_B, first.few_B == second.few_B):
        assert abs(few.double().mean() - 0.5) < 5 * 0.5 / 4000**0.5
    every = with_kept(many, alike, PatchKeepingConfig(rows=1, share=0.01), 0, 0).kept
    assert every is not None and every.few_B.all() and every.patches_BN.shape == (4000, 1)


def test_the_average_judges_the_whole_images_and_the_objective_gets_none_of_it() -> None:
    module, teachers = teachers_of(of())
    rows = rows_of(0, 0, 1)
    with torch.no_grad():
        likeness = module.eval().likeness(rows)
        features = module(rows)
        tokens = DualEncoder(module.model, "fp32", None, (), ("tokens",)).eval()(rows)
        for row in range(ROWS):
            slot = 0 if rows.text_mask_BK[row, 0] else int(rows.text_mask_BK[row, 1])
            expected = tokens.asked["image_tokens"][row] @ features.text_BKD[row, slot]
            torch.testing.assert_close(likeness[row], expected, rtol=0, atol=1e-5)
        module.train()
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    parts = [rows.part(slice(0, 4)), rows.part(slice(4, 8))]
    found = teachers.keep(rows, parts, seed=0, step=0)
    expected = with_kept(rows, likeness, KEEPING, 0, 0)
    assert found.kept is not None and expected.kept is not None
    assert torch.equal(found.kept.patches_BN, expected.kept.patches_BN) and module.training
    assert teachers([found]).average is None


def test_some_rows_are_encoded_from_some_patches_and_the_others_whole() -> None:
    module, teachers = teachers_of(of())
    rows = teachers.keep(rows_of(0, 0, 1), [rows_of(0, 0, 1)], seed=0, step=0)
    assert rows.kept is not None and 0 < rows.kept.few_B.sum() < ROWS
    some, whole = module(rows), module(rows._replace(kept=None))
    changed = (some.image_BD - whole.image_BD).abs().amax(1)
    assert (changed[rows.kept.few_B] > 1e-3).all() and (changed[~rows.kept.few_B] < 1e-5).all()
    assert torch.equal(some.text_BKD, whole.text_BKD)


def steps(rank: int, used: TrainRecipe, begin: Path | None = None) -> tuple[Tensor, Any]:
    """The whole batch's losses from the start, or from a state after two steps; that state."""
    import torch.distributed as dist

    from training.engine import load, model_weights, optimizer_state, set_lr
    from training.step import train_step
    from training.worker import build, start_learner

    world = dist.get_world_size()
    engine, _, objective, teacher = start_learner(build(used), used, setup_of(used, rank, world))
    first, state = 0, None
    if begin is not None:
        first, (weights, moments, saved) = 2, torch.load(begin, weights_only=True)
        resume(objective, teacher, saved)
        load(engine, weights, moments)
    exchange, found = open_exchange("gather")(0), []
    for step in range(first, STEPS):
        if step == 2:
            state = model_weights(engine), optimizer_state(engine), to_save(objective, teacher, {}, rank=rank)
        set_lr(engine, 1e-3)
        objective.when = When(step, STEPS, 1)
        rows, seed = rows_of(step, rank, world), step
        result = train_step(
            engine, rows, objective, exchange, accumulate=used.train.accumulate, seed=seed, teacher=teacher
        )
        found.append(exchange.total(result.loss) / world)
    return torch.stack(found), None if rank else state


@pytest.mark.slow
def test_ranks_micro_batches_and_a_resume_change_nothing(tmp_path: Path) -> None:
    whole, _ = run_on_ranks(1, steps, of())[0]
    split, state = run_on_ranks(2, steps, of(accumulate=2))[0]
    torch.testing.assert_close(split, whole, rtol=1e-5, atol=0)
    torch.save(state, tmp_path / "state.pt")
    rest, _ = run_on_ranks(2, steps, of(accumulate=2), tmp_path / "state.pt")[0]
    assert torch.equal(rest, split[2:])


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"loss": {"objective": "token_max"}}, r"must be null with .*\n.*token_max needs tokens"),
        ({"model": {"patch_dropout": 0.5}}, r"model\.patch_dropout must be 0 with train\.patch_keeping"),
        ({"deepspeed": {"stage": 3}}, r"stage must be below 3 with train\.patch_keeping"),
    ],
)
def test_what_cannot_be_is_said_before_any_work(sections: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        TrainRecipe.checked(of(**sections).model_dump(mode="json"))


def test_a_tower_without_patches_is_refused_as_the_model_is_built() -> None:
    from training.worker import build

    file = "tests/pairmill/towers/configs/resnet.json"
    with pytest.raises(RecipeError, match=r"train\.patch_keeping needs patches of images"):
        build(of(model={"architecture": file, "patch_dropout": None}))


def test_recipes_without_it_are_what_they_were() -> None:
    assert "patch_keeping" not in TrainConfig(steps=1).identity()
    assert TrainConfig(steps=1, patch_keeping=KEEPING).identity()["patch_keeping"] == {"rows": 0.5, "share": 0.25}
