"""The need `tokens`: patches and text tokens in a step, over ranks, micro-batches and blocks computed again."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F  # noqa: N812  torch's own name for it
from gloo_ranks import run_on_ranks
from need_steps import recipe_of, three_steps
from test_step import LENGTH, ROWS, SLOTS, rows_of
from torch import Tensor, nn

from pairmill.errors import RecipeError
from training.gather import Exchange
from training.losses.loss_inputs import LossOutput
from training.model import Features, Own, Rows
from training.objectives.declaration import Objective, Setup


class Gate(nn.Module):
    """A weight of each dimension of a token."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.linspace(0.5, 1.5, width))

    def forward(self, image_BD: Tensor, text_BKD: Tensor, asked: dict[str, Tensor]) -> Own:
        return Own({"patches": asked["image_tokens"] * self.gate}, {})


class Late(Objective):
    """Images near to the texts of the batch whose tokens their patches match best (FILIP); close to a teacher."""

    needs = ("tokens", "teacher")
    teacher_decay = 0.5

    def heads(self, setup: Setup) -> nn.Module:
        return Gate(setup.width)

    def __call__(self, features: Features, rows: Rows, exchange: Exchange) -> LossOutput:
        if features.teacher is None:
            raise RuntimeError("this objective must have a teacher")
        words, there = (features.asked[name][:, 0] for name in ("text_tokens", "text_token_mask"))
        words, there = exchange.contrasted(words), exchange.contrasted(there.float()) > 0
        products = torch.einsum("bpd,gld->bgpl", features.own.rows["patches"], words)
        logits = 5 * products.masked_fill(~there[:, None], -2).amax(3).mean(2)
        valid = rows.text_mask_BK[:, 0]
        own = torch.arange(len(valid)) + exchange.place * len(valid)
        columns = exchange.contrasted(valid.float()) > 0
        each = F.cross_entropy(logits.masked_fill(~columns, -torch.inf)[valid], own[valid], reduction="sum")
        drift = 1 - (features.asked["image_tokens"] * features.teacher.asked["image_tokens"]).sum(2).mean(1)[valid]
        count = exchange.total(valid.sum().float()).clamp(min=1)
        total = exchange.world * (each + drift.sum()) / count
        return LossOutput(total, {"total": total.detach()})


of_step = partial(recipe_of, f"{__name__}:Late")


@pytest.fixture(scope="module")
def whole() -> tuple[Tensor, dict[str, Tensor]]:
    found: tuple[Tensor, dict[str, Tensor]] = run_on_ranks(1, three_steps, of_step(), rows_of)[0]
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("world", "accumulate", "stage"), [(1, 4, 0), (2, 1, 2), (2, 2, 0)])
def test_ranks_and_micro_batches_are_one_step_of_the_whole_batch(
    whole: tuple[Tensor, dict[str, Tensor]], world: int, accumulate: int, stage: int
) -> None:
    losses, weights = run_on_ranks(world, three_steps, of_step(accumulate=accumulate, stage=stage), rows_of)[0]
    torch.testing.assert_close(losses, whole[0], rtol=1e-4, atol=1e-6)
    assert len(set(losses.tolist())) == 3
    for name, value in whole[1].items():
        torch.testing.assert_close(weights[name], value, rtol=1e-3, atol=2e-5, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("accumulate", [1, 2])
def test_blocks_are_computed_again_as_they_were_in_bfloat16(accumulate: int) -> None:
    common = {"accumulate": accumulate, "precision": "bf16"}
    both = [of_step(**common, gradient_checkpointing=again) for again in (False, True)]
    found = [run_on_ranks(1, three_steps, used, rows_of)[0][0] for used in both]
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_tokens_are_unit_vectors_and_padding_is_masked(precision: str) -> None:
    from training.model import DualEncoder
    from training.worker import build

    used = of_step(precision=precision)
    module = DualEncoder(build(used), precision, None, (), ("tokens", "raw"))
    rows = rows_of(0, 0, 1)
    tokens = rows.tokens_BKL.clone()
    tokens[0, 0, 5:], tokens[0, 0, 4] = 0, 49407
    features = module(rows._replace(tokens_BKL=tokens))
    patches, words, there = (features.asked[n] for n in ("image_tokens", "text_tokens", "text_token_mask"))
    assert patches.shape == (ROWS, 16, 48) and words.shape == (ROWS, SLOTS, LENGTH, 48)
    assert patches.dtype == words.dtype == torch.float32 and there.dtype == torch.bool
    assert there[0, 0].tolist() == [bool(rows.text_mask_BK[0, 0]) and place < 5 for place in range(LENGTH)]
    assert torch.equal(there.any(2), rows.text_mask_BK)
    torch.testing.assert_close(patches.norm(dim=-1), torch.ones(ROWS, 16), rtol=1e-5, atol=0)
    torch.testing.assert_close(words[there].norm(dim=-1), torch.ones(int(there.sum())), rtol=1e-5, atol=0)
    plain = DualEncoder(module.model, precision)(rows._replace(tokens_BKL=tokens))
    tolerance = 1e-5 if precision == "fp32" else 2e-2
    torch.testing.assert_close(features.image_BD, plain.image_BD, rtol=0, atol=tolerance)
    torch.testing.assert_close(features.text_BKD, plain.text_BKD, rtol=0, atol=tolerance)
    assert features.asked["raw_text"].shape == (ROWS, SLOTS, 48) and not plain.asked


def test_towers_without_tokens_are_refused_as_the_model_is_built() -> None:
    from training.worker import build

    used = of_step(architecture="tests/pairmill/towers/configs/resnet.json")
    with pytest.raises(RecipeError, match=r"test_token_need:Late needs patches of images: .*vision transformer"):
        build(used)
