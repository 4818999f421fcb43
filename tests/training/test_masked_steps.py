"""A model that learns clip beside what hides tokens and places crops: over ranks, micro-batches and ZeRO stages."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from gloo_ranks import run_on_ranks
from test_step import ROWS, rows_of, setup_of
from test_step import recipe as step_recipe
from torch import Tensor

from training.gather import open_exchange
from training.model import Crops, DualEncoder, Rows
from training.objectives.declaration import Hides, When
from training.recipe import TrainRecipe
from training.token_hiding import drawn

#: They share one pass where tokens are hidden.
HIDING: dict[str, Any] = {
    "denoise": {"objective": {"name": "denoise", "image_share": 0.5, "patches": "like_text"}, "weight": 0.3},
    "masked_image": {"weight": 0.1},
}
#: It has a teacher, which hides nothing and needs whole weights.
PLACED: dict[str, Any] = {
    "denoise": {"weight": 0.3},
    "pixpro": {"objective": {"name": "pixpro", "decay": 0.5}, "weight": 0.3},
}
STEPS = 2


def of(terms: dict[str, Any], *, accumulate: int = 1, stage: int = 0) -> TrainRecipe:
    return step_recipe(
        loss={"objective": "clip", "terms": terms},
        model={"patch_dropout": None},
        train={"accumulate": accumulate},
        deepspeed={"stage": stage},
    )


def with_crops(rows: Rows) -> Rows:
    """Two crops of each image, the second mirrored: its upper left three quarters, and its lower right ones."""
    images = rows.images_BHWC.permute(0, 3, 1, 2).float()
    parts = [images[:, :, :48, :48], images[:, :, 16:, 16:].flip(3)]
    crops = [torch.nn.functional.interpolate(part, (64, 64)).permute(0, 2, 3, 1).byte() for part in parts]
    boxes = torch.tensor([[0.0, 0, 48, 48], [64, 16, 16, 64]]).expand(len(images), 2, 4)
    return rows._replace(crops=Crops(torch.stack(crops, 1), boxes))


def steps(rank: int, used: TrainRecipe) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """The whole batch's losses, its parts at the last step, and the weights."""
    import torch.distributed as dist

    from training.engine import model_weights, objective_weights, set_lr
    from training.step import train_step
    from training.worker import build, start_learner, step_seed

    world = dist.get_world_size()
    setup = setup_of(used, rank, world)._replace(patch_values=3 * 16**2)
    engine, _, objective, teacher = start_learner(build(used), used, setup)
    exchange, found = open_exchange("gather")(0), []
    for step in range(STEPS):
        set_lr(engine, 1e-3)
        objective.when = When(step, STEPS, 1)
        result = train_step(
            engine,
            with_crops(rows_of(step, rank, world)),
            objective,
            exchange,
            accumulate=used.train.accumulate,
            seed=step_seed(0, step, rank),
            teacher=teacher,
        )
        found.append(exchange.total(result.loss) / world)
    return torch.stack(found), dict(result.parts), model_weights(engine) | objective_weights(engine)


@pytest.mark.slow
@pytest.mark.parametrize(("terms", "stage"), [(HIDING, 3), (PLACED, 2)])
def test_ranks_and_micro_batches_change_nothing(terms: dict[str, Any], stage: int) -> None:
    whole, parts, weights = run_on_ranks(1, steps, of(terms))[0]
    assert parts.keys() == {"clip", *terms} and all(part.isfinite() and part != 0 for part in parts.values())
    assert len(set(whole.tolist())) == STEPS
    losses, _, others = run_on_ranks(2, steps, of(terms, accumulate=2, stage=stage))[0]
    torch.testing.assert_close(losses, whole, rtol=1e-4, atol=0)
    for name, value in weights.items():
        torch.testing.assert_close(others[name], value, rtol=1e-3, atol=5e-5, msg=name)
    assert {"mask_tokens.image", "mask_tokens.text"} <= weights.keys()


def test_blocks_are_computed_again_as_they_were_in_bfloat16() -> None:
    from training.worker import build

    rows, found = with_crops(rows_of(0, 0, 1)), []
    rows = rows._replace(draw_B=drawn(0, 0, rows.sample_id_B))
    for again in (False, True):
        used = step_recipe(model={"patch_dropout": None, "gradient_checkpointing": again}, train={"precision": "bf16"})
        torch.manual_seed(1)
        module = DualEncoder(build(used), "bf16", None, (), ("masked", "pixels", "view_tokens"), Hides(0.5, 0.3))
        with module.kernels(torch.device("cpu")):
            asked = module(rows).asked
            names = ("masked_image_tokens", "masked_text_tokens", "view_tokens")
            torch.stack([asked[name].sum() for name in names]).sum().backward()
        found.append({name: value.grad for name, value in module.named_parameters() if value.grad is not None})
    assert found[0].keys() == found[1].keys() and "mask_tokens.image" in found[0]
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())


def test_rows_are_those_of_the_other_steps() -> None:
    rows = with_crops(rows_of(0, 0, 1))
    assert rows.crops is not None and rows.crops.images_BVHWC.shape == (ROWS, 2, 64, 64, 3)
    assert torch.equal(rows.crops.images_BVHWC[0, 0, 0, 0], rows.images_BHWC[0, 0, 0])
    assert torch.equal(rows.crops.images_BVHWC[0, 1, -1, 0], rows.images_BHWC[0, -1, -1])
