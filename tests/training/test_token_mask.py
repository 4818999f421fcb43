"""`loss.mask_tokens`: importance by loops, which tokens go, and steps over ranks and micro-batches."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812  torch's own name for it
from gloo_ranks import run_on_ranks
from need_steps import three_steps
from test_step import recipe as step_recipe
from test_step import rows_of
from torch import Tensor

from pairmill.errors import RecipeError
from training.model import Features, Rows
from training.objectives.config import LossConfig
from training.objectives.mask_tokens import MaskTokensConfig
from training.recipe import TrainRecipe
from training.token_mask import IMPORTANCE, with_importance, without_noise

ROWS, SLOTS, LENGTH, WIDTH, PAD = 40, 2, 9, 4, 0


def units(*shape: int, seed: int) -> Tensor:
    return F.normalize(torch.randn(*shape, WIDTH, generator=torch.Generator().manual_seed(seed)), dim=-1)


def lengths() -> Tensor:
    return torch.randint(1, LENGTH + 1, (ROWS, SLOTS), generator=torch.Generator().manual_seed(5))


def test_importance_is_nearness_to_image_and_text_between_its_least_and_most() -> None:
    image, text, words = units(ROWS, seed=0), units(ROWS, SLOTS, seed=1), units(ROWS, SLOTS, LENGTH, seed=2)
    there = torch.arange(LENGTH) < lengths()[..., None]
    asked = {"text_tokens": words, "text_token_mask": there, "image_tokens": words[:, 0], "raw_image": image}
    found = with_importance(Features(image, text, torch.ones(()), None, asked=asked))
    assert found.asked.keys() == {"raw_image", IMPORTANCE}
    for row in range(ROWS):
        for slot in range(SLOTS):
            within = range(1, int(lengths()[row, slot]) - 1)
            near = {
                at: max(0.0, float(words[row, slot, at] @ image[row]))
                * max(0.0, float(words[row, slot, at] @ text[row, slot]))
                for at in within
            }
            least, most = min(near.values(), default=0), max(near.values(), default=0)
            for place in range(LENGTH):
                wanted = (near[place] - least) / (most - least) if place in near and most > least else 1.0
                assert float(found.asked[IMPORTANCE][row, slot, place]) == pytest.approx(wanted, abs=1e-5)


def texts(rows: int = ROWS) -> tuple[Rows, Tensor]:
    """Rows whose tokens number themselves, and an importance of which the first and last token have 1."""
    batch = rows_of(0, 0, 1)
    there = torch.arange(LENGTH) < lengths()[:rows, :, None]
    tokens = torch.where(there, torch.arange(1, LENGTH + 1), PAD).long()
    importance = torch.rand(rows, SLOTS, LENGTH, generator=torch.Generator().manual_seed(3))
    inner = (torch.arange(LENGTH) > 0) & (torch.arange(LENGTH) < lengths()[:rows, :, None] - 1)
    made = batch._replace(
        images_BHWC=torch.zeros(rows, 1, 1, 3, dtype=torch.uint8),
        tokens_BKL=tokens,
        text_mask_BK=there.any(2),
        group_B=torch.full((rows,), -1),
        sample_id_B=torch.arange(rows) * 7919 + 2**61,
    )
    return made, torch.where(inner, importance, 1.0)


def test_tokens_that_stay_keep_their_order_and_first_and_last_stay() -> None:
    rows, importance = texts()
    made = without_noise(rows, importance, MaskTokensConfig(most=1.0, threshold=0.2), pad_id=PAD, seed=1, step=4)
    gone = 0
    for before, after in zip(
        rows.tokens_BKL.flatten(0, 1).tolist(), made.tokens_BKL.flatten(0, 1).tolist(), strict=True
    ):
        kept = [token for token in after if token != PAD]
        whole = [token for token in before if token != PAD]
        assert after == kept + [PAD] * (LENGTH - len(kept)) and kept == sorted(kept)
        assert (kept[0], kept[-1]) == (whole[0], whole[-1]) and set(kept) <= set(whole)
        gone += len(whole) - len(kept)
    assert gone > 50


def test_how_often_a_token_goes_follows_its_importance() -> None:
    rows, _ = texts()
    rows = rows._replace(tokens_BKL=torch.arange(1, LENGTH + 1).expand(ROWS, SLOTS, -1).clone())
    levels = torch.linspace(0, 1, LENGTH).expand(ROWS, SLOTS, -1)
    counts = torch.zeros(LENGTH)
    for step in range(60):
        made = without_noise(rows, levels, MaskTokensConfig(), pad_id=PAD, seed=0, step=step)
        counts += torch.stack([(made.tokens_BKL != token).all(2).sum() for token in range(1, LENGTH + 1)])
    for level, count in zip(levels[0, 0].tolist(), (counts / (60 * ROWS * SLOTS)).tolist(), strict=True):
        assert count == pytest.approx(0.2 / (1 + 2.718281828 ** (-20 * (1 - level - 0.9))), abs=0.015)
    assert counts[-1] == 0


def test_a_row_loses_the_same_tokens_wherever_it_is_and_others_at_another_step() -> None:
    rows, importance = texts()
    config = MaskTokensConfig(most=0.9, threshold=0.3)

    def made(rows: Rows, importance: Tensor, step: int = 2, seed: int = 0) -> Tensor:
        return without_noise(rows, importance, config, pad_id=PAD, seed=seed, step=step).tokens_BKL

    whole = made(rows, importance)
    some = slice(11, 17)
    assert torch.equal(made(rows.part(some), importance[some]), whole[some])
    longer = rows._replace(tokens_BKL=F.pad(rows.tokens_BKL, (0, 3), value=PAD))
    assert torch.equal(made(longer, F.pad(importance, (0, 3), value=1.0))[..., :LENGTH], whole)
    assert not torch.equal(made(rows, importance, step=3), whole)
    assert not torch.equal(made(rows, importance, seed=1), whole)


def of(teacher: str = "average", *, accumulate: int = 1, most: float = 1.0) -> TrainRecipe:
    mask = {"teacher": teacher, "most": most, "threshold": 0.4}
    return step_recipe(
        loss={"objective": "one_to_k", "mask_tokens": mask},
        model={"patch_dropout": None},
        train={"accumulate": accumulate},
    )


def steps(rank: int, used: TrainRecipe) -> Tensor:
    """The whole batch's losses of three steps."""
    return three_steps(rank, used, rows_of)[0]


@pytest.mark.slow
def test_ranks_and_micro_batches_change_nothing() -> None:
    [whole] = run_on_ranks(1, steps, of())
    for losses in (*run_on_ranks(1, steps, of(accumulate=4)), *run_on_ranks(2, steps, of())):
        torch.testing.assert_close(losses, whole, rtol=2e-5, atol=0)
    assert not torch.allclose(run_on_ranks(1, steps, of(most=1e-9))[0], whole, rtol=1e-3)
    # The teachers are equal at the first step only.
    [frozen] = run_on_ranks(1, steps, of("frozen"))
    torch.testing.assert_close(frozen[0], whole[0])


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(RecipeError, match="compare no tokens"):
        LossConfig.checked({"objective": "token_max", "mask_tokens": {}})
    with pytest.raises(RecipeError, match=r"deepspeed\.stage must be below 3"):
        TrainRecipe.model_validate({**of().model_dump(), "deepspeed": {"stage": 3}})


def test_without_it_a_recipe_is_what_it_was() -> None:
    assert "mask_tokens" not in LossConfig.checked({}).identity()
    assert LossConfig.checked({}).opened().needs == ()
    assert LossConfig.checked({"mask_tokens": {"teacher": "frozen"}}).opened().needs == ("frozen_teacher",)
