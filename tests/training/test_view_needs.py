"""The needs `views` and `negatives` in a step: over ranks and micro-batches, in teachers and heads."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F  # noqa: N812  torch's own name for it
from gloo_ranks import run_on_ranks
from need_steps import recipe_of, three_steps
from test_step import LENGTH, ROWS, setup_of
from test_step import recipe as step_recipe
from test_step import rows_of as plain_rows_of
from torch import Tensor

from training.gather import Exchange
from training.losses.loss_inputs import LossOutput
from training.model import DualEncoder, Features, Further, Rows
from training.objectives.declaration import Objective

V, NEGATIVES = 2, 3


class Nearby(Objective):
    """Images near to their views and to those of a teacher, texts to theirs, and images far from wrong texts."""

    needs = ("views", "negatives", "teacher")
    teacher_decay = 0.5

    def __call__(self, features: Features, rows: Rows, exchange: Exchange) -> LossOutput:
        if features.teacher is None:
            raise RuntimeError("this objective must have a teacher")
        asked, taught = features.asked, features.teacher.asked
        valid = rows.text_mask_BK[:, 0]
        near = (features.image_BD[:, None] * asked["image_views"]).sum(2).square().mean(1)
        near = near + (features.text_BKD[:, :1] * asked["text_views"]).sum(2).square().mean(1)
        near = near + (features.image_BD[:, None] * taught["image_views"]).sum(2).mean(1)
        wrong = (features.image_BD[:, None] * asked["neg_text"]).sum(2).exp()
        far = torch.where(asked["neg_mask"], wrong, torch.zeros_like(wrong)).sum(1)
        count = exchange.total(valid.sum().float()).clamp(min=1)
        total = exchange.world * (far - near)[valid].sum() / count
        return LossOutput(total, {"total": total.detach()})


of_step = partial(recipe_of, f"{__name__}:Nearby")


def rows_of(step: int, rank: int, world: int) -> Rows:
    random = torch.Generator().manual_seed(100 + step)
    images = torch.randint(0, 256, (ROWS, V, 64, 64, 3), generator=random, dtype=torch.uint8)
    views, negatives = (torch.randint(1, 300, (ROWS, n, LENGTH), generator=random) for n in (V, NEGATIVES))
    views[..., -1] = negatives[..., 5] = 49407
    mask = torch.rand(ROWS, NEGATIVES, generator=random) > 0.4
    share = slice(rank * ROWS // world, (rank + 1) * ROWS // world)
    further = Further(*(values[share] for values in (images, views, negatives, mask)))
    return plain_rows_of(step, rank, world)._replace(further=further)


@pytest.fixture(scope="module")
def whole() -> tuple[Tensor, dict[str, Tensor]]:
    found: tuple[Tensor, dict[str, Tensor]] = run_on_ranks(1, three_steps, of_step(), rows_of)[0]
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("world", "accumulate", "stage"), [(1, 4, 0), (2, 2, 2)])
def test_ranks_and_micro_batches_are_one_step_of_the_whole_batch(
    whole: tuple[Tensor, dict[str, Tensor]], world: int, accumulate: int, stage: int
) -> None:
    losses, weights = run_on_ranks(world, three_steps, of_step(accumulate=accumulate, stage=stage), rows_of)[0]
    torch.testing.assert_close(losses, whole[0], rtol=1e-4, atol=1e-6)
    assert len(set(losses.tolist())) == 3
    for name, value in whole[1].items():
        torch.testing.assert_close(weights[name], value, rtol=1e-3, atol=2e-5, msg=name)


@pytest.mark.slow
def test_blocks_are_computed_again_as_they_were_in_bfloat16() -> None:
    common = {"accumulate": 2, "precision": "bf16"}
    both = [of_step(**common, gradient_checkpointing=again) for again in (False, True)]
    found = [run_on_ranks(1, three_steps, used, rows_of)[0][0] for used in both]
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)


def test_further_views_and_texts_are_encoded_as_those_of_a_batch_are() -> None:
    from training.worker import build

    module = DualEncoder(build(of_step()), "fp32").eval()
    rows = rows_of(0, 0, 1)
    further = rows.further
    assert further is not None
    with torch.no_grad():
        asked = module(rows).asked
        for view in range(V):
            alone = module(
                rows._replace(
                    images_BHWC=further.images_BVHWC[:, view], tokens_BKL=further.views_BVL[:, [view]], further=None
                )
            )
            torch.testing.assert_close(asked["image_views"][:, view], alone.image_BD, rtol=0, atol=1e-5)
            torch.testing.assert_close(asked["text_views"][:, view], alone.text_BKD[:, 0], rtol=0, atol=1e-5)
        alone = module(rows._replace(tokens_BKL=further.negatives_BNL, further=None))
    torch.testing.assert_close(asked["neg_text"], alone.text_BKD, rtol=0, atol=1e-5)
    assert torch.equal(asked["neg_mask"], further.negative_mask_BN) and not alone.asked
    norms = F.normalize(asked["neg_text"], dim=-1)
    torch.testing.assert_close(norms, asked["neg_text"])


def test_one_of_the_needs_brings_its_own_only() -> None:
    from training.worker import build

    module, rows = DualEncoder(build(of_step()), "fp32"), rows_of(0, 0, 1)
    assert rows.further is not None
    further, nothing = rows.further, rows.further.views_BVL[:, :0]
    wrong = further._replace(views_BVL=nothing, images_BVHWC=further.images_BVHWC[:, :0])
    assert module(rows._replace(further=wrong)).asked.keys() == {"neg_text", "neg_mask"}
    views = further._replace(negatives_BNL=nothing)
    assert module(rows._replace(further=views)).asked.keys() == {"image_views", "text_views"}
    images = DualEncoder(module.model, "fp32", needs=("image_views", "negatives"))
    alone, whole = images(rows).asked, module(rows).asked
    assert alone.keys() == {"image_views", "neg_text", "neg_mask"}
    assert images(rows._replace(further=views)).asked.keys() == {"image_views"}
    for name, value in alone.items():
        torch.testing.assert_close(value, whole[name], rtol=0, atol=1e-5)


def test_a_teacher_encodes_views_only_where_an_objective_has_it_do_so() -> None:
    from training.teacher import open_teachers
    from training.worker import build

    of = {"hidden": 4, "width": 4, "prototypes": 4}
    local = {"local_global": {"objective": {"name": "local_global", **of}}}
    projector = {"layers": 2, "hidden": 4, "norm": "layer", "input": "embedding"}
    projected = {"local_global": {**local["local_global"], "projector": projector}}
    both = {**local, "self_supervised": {}}
    for terms, seen in ((local, set()), (projected, set()), (both, {"image_views", "text_views"})):
        used = step_recipe(loss={"objective": "clip", "terms": terms}, model={"patch_dropout": None})
        objective = used.loss.opened()
        objective.begin(setup_of(used))
        module = DualEncoder(build(used), "fp32", objective.heads(setup_of(used)), (), objective.needs)
        teacher = open_teachers(module, objective)
        assert teacher is not None
        rows = rows_of(0, 0, 1)
        further = rows.further
        assert further is not None
        rows = rows._replace(further=further._replace(negatives_BNL=further.negatives_BNL[:, :0]))
        taught = teacher([rows]).average
        assert taught is not None and taught.asked.keys() == seen
        assert "local_global.image" in taught.own.rows
