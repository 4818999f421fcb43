"""What the noise-adaptive loss remembers of its pairs, and how it tells wrong ones from right ones."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from entries import basic
from gloo_ranks import run_on_ranks
from naive_contrastive import logits_of
from torch import Tensor

from training.gather import Exchange, open_exchange
from training.losses.mixture import fit_two, of_larger
from training.model import Rows
from training.objectives import loss_by_name
from training.objectives.by_name import computed
from training.objectives.noise_adaptive import NoiseAdaptive, NoiseAdaptiveConfig

ROWS, SLOTS, WIDTH = 8, 2, 16
#: Of a run with epochs of four steps.
EPOCH = {"steps": 12, "steps_per_epoch": 4}


def batch(*, wrong: int = 0, **more: Any) -> dict[str, Any]:
    """Texts near their image; the last `wrong` rows have the texts of one another."""
    tensors = {name: value.detach() for name, value in basic(ROWS, SLOTS, WIDTH, holes=False).items()}
    text = torch.nn.functional.normalize(tensors["image"][:, None] + 0.3 * tensors["text"], dim=-1)
    order = torch.arange(ROWS)
    order[ROWS - wrong :] = order[ROWS - wrong :].roll(1)
    return {**tensors, "text": text[order], **EPOCH, **more}


def state_after(tensors: dict[str, Any], exchange: Exchange | None = None, **settings: Any) -> dict[str, Tensor]:
    settings = {"table": 1024, **settings}
    return computed("noise_adaptive", tensors, settings, "paper", exchange or Exchange())[1].state


def noise(tensors: dict[str, Any], state: dict[str, Tensor]) -> Tensor:
    """ε of the batch [B, K] as the objective knows it, given the state."""
    objective = NoiseAdaptive(NoiseAdaptiveConfig(name="noise_adaptive", table=1024))
    objective.state = state
    asked = {name: value for name, value in tensors.items() if name == "noise_prob"}
    mask = tensors["text_mask"]
    nothing = torch.zeros(0)
    return objective.noise(Rows(nothing, nothing, mask, tensors["group_id"], mask, mask, tensors["sample_id"], asked))


def test_every_pair_is_remembered_with_half_of_both_directions() -> None:
    tensors = batch(step=0)
    tensors["text_mask"][2, 1] = False
    state = state_after(tensors)
    logits, own, _ = logits_of(tensors)
    each = -0.5 * (logits.log_softmax(1) + logits.log_softmax(0))[own]
    remembered = state["losses"][state["keys"] >= 0]
    assert len(remembered) == ROWS * SLOTS - 1
    torch.testing.assert_close(remembered.sort().values, each.sort().values.float())


def test_losses_are_told_apart_at_the_end_of_each_epoch_after_the_warm_up() -> None:
    for step, warm_up, fitted in [(2, 1, False), (3, 1, True), (3, 2, False), (7, 2, True), (8, 1, False)]:
        state = state_after(batch(wrong=3, step=step), warm_up=warm_up)
        assert bool(state["mixture"].any()) == fitted, (step, warm_up)


def test_pairs_that_do_not_belong_together_are_smoothed() -> None:
    tensors = batch(wrong=3, step=3)
    state = state_after(tensors)
    found = noise(tensors, state)
    assert found[:-3].max() < 0.1 and found[-3:].min() > 0.9
    unknown = {**tensors, "sample_id": tensors["sample_id"] + 1000}
    assert not noise(unknown, state).any()
    # Less is asked of the wrong pairs than by plain targets.
    plain = loss_by_name("noise_adaptive", {**tensors, **state}, {"table": 1024, "strength": 0.0}).total
    assert loss_by_name("noise_adaptive", {**tensors, **state}, {"table": 1024}).total < plain


def test_a_given_probability_holds_over_the_table() -> None:
    tensors = batch(wrong=3, step=3)
    state = state_after(tensors)
    given = torch.full((ROWS, SLOTS), torch.nan)
    given[0] = 0.75
    given[-1, 0] = 0.0
    found, own = noise({**tensors, "noise_prob": given}, state), noise(tensors, state)
    assert (found[0] == 0.75).all() and found[-1, 0] == 0
    assert torch.equal(found[1:-1], own[1:-1]) and found[-1, 1] == own[-1, 1]


def test_a_table_that_is_too_small_forgets_but_mixes_nothing_up() -> None:
    tensors = batch(wrong=3, step=3)
    state = state_after(tensors, table=5)
    full = state_after(tensors)
    of_pair = dict(zip(full["keys"].tolist(), full["losses"].tolist(), strict=True))
    kept = [(key, loss) for key, loss in zip(state["keys"].tolist(), state["losses"].tolist(), strict=True) if key >= 0]
    assert 0 < len(kept) <= 5
    assert all(of_pair[key] == loss for key, loss in kept)


def test_two_normal_distributions_are_found() -> None:
    random = torch.Generator().manual_seed(3)
    low = torch.randn(3000, generator=random, dtype=torch.float64) * 0.3 + 1
    high = torch.randn(1000, generator=random, dtype=torch.float64) * 0.8 + 5
    values = torch.cat([high, low])
    found = fit_two(values)
    expected = torch.tensor([[0.75, 1.0, 0.09], [0.25, 5.0, 0.64]], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=0.1, atol=0.02)
    assert torch.equal(found, fit_two(values.flip(0)))
    share = of_larger(torch.tensor([1.0, 5.0], dtype=torch.float64), found)
    assert share[0] < 1e-3 and share[1] > 0.999


@pytest.mark.parametrize("values", [torch.zeros(0), torch.ones(1), torch.full((9,), 2.5)])
def test_nothing_is_fitted_to_values_that_do_not_differ(values: Tensor) -> None:
    found = fit_two(values)
    assert not found.any()
    assert not of_larger(torch.tensor([0.0, 2.5, 9.0]), found).any()


def _on_rank(rank: int, tensors: dict[str, Any]) -> dict[str, Tensor]:
    mine = slice(rank * 4, rank * 4 + 4)
    by_row = {
        name: value[mine] if isinstance(value, Tensor) and value.ndim else value for name, value in tensors.items()
    }
    return state_after(by_row, open_exchange("ring")(0))


@pytest.mark.slow
def test_ranks_remember_alike_and_as_one_process() -> None:
    tensors = batch(wrong=3, step=3)
    alone = state_after(tensors)
    first, second = run_on_ranks(2, _on_rank, tensors)
    for name, value in alone.items():
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], value)


def test_a_recipe_has_the_datas_own_column_read_only_if_it_says_so() -> None:
    for given, columns in ((False, ()), (True, ("noise_prob",))):
        objective = NoiseAdaptive(NoiseAdaptiveConfig(name="noise_adaptive", given=given))
        assert objective.columns == columns and ("columns" in objective.needs) is given
