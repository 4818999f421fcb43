"""The tiled kernels in one process: arithmetic by hand, precision, tiles, targets, groups."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F  # noqa: N812  torch's own name for it
from hypothesis import given, settings
from hypothesis import strategies as st
from naive import CONTRASTIVE, make_case, naive_loss, naive_normalised
from torch import Tensor

from pairmill.errors import RecipeError
from pairmill.registry import Registry
from training.gather import Columns, Exchange
from training.losses.compose import compute_loss
from training.losses.loss_inputs import LossInputs
from training.losses.softmax import SoftTarget, log_sums
from training.losses.tiles import Queries, inner_products
from training.objectives.config import OBJECTIVES, LossConfig


def inputs(
    image: Tensor, text: Tensor, mask: Tensor | None = None, *, scale: float = 10.0, group: Tensor | None = None
) -> LossInputs:
    rows, slots = text.shape[:2]
    return LossInputs(
        image,
        text,
        torch.ones(rows, slots, dtype=torch.bool) if mask is None else mask,
        torch.tensor(scale, dtype=image.dtype),
        torch.tensor(-2.0, dtype=image.dtype),
        torch.full((rows,), -1) if group is None else group,
    )


def loss(of: LossInputs, target: str, **config: object) -> Tensor:
    used = LossConfig(objective=target, **config)
    return compute_loss(of, used.opened().contrasts(of.text_mask_BK), Exchange(), tile=used.tile)


def units(*shape: int, seed: int = 0) -> Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_clip_of_two_pairs_by_hand() -> None:
    image = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    text = torch.tensor([[[1.0, 0.0]], [[0.6, 0.8]]])
    # logits at scale 1:  [[1, .6], [0, .8]]
    rows = [math.log(math.exp(1) + math.exp(0.6)) - 1, math.log(math.exp(0) + math.exp(0.8)) - 0.8]
    columns = [math.log(math.exp(1) + math.exp(0)) - 1, math.log(math.exp(0.6) + math.exp(0.8)) - 0.8]
    assert loss(inputs(image, text, scale=1.0), "clip").item() == pytest.approx(sum(rows + columns) / 4)


def test_siglip_of_two_pairs_by_hand() -> None:
    image = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    text = torch.tensor([[[1.0, 0.0]], [[0.6, 0.8]]])
    # scale 1, bias -2:  own 1-2, 0.8-2; others 0.6-2, 0-2
    each = [math.log1p(math.exp(-x)) for x in (-1.0, -1.2)] + [math.log1p(math.exp(x)) for x in (-1.4, -2.0)]
    assert loss(inputs(image, text, scale=1.0), "siglip").item() == pytest.approx(sum(each) / 2)


@pytest.mark.parametrize("target", ["clip", "one_to_k", "per_slot"])
def test_chance_is_the_logarithm_of_the_choices(target: str) -> None:
    image, text = units(8, 16), units(8, 2, 16, seed=1)
    found = loss(inputs(image, text, scale=0.0), target).item()
    expected = (math.log(16) + math.log(8)) / 2 if target == "one_to_k" else math.log(8)
    assert found == pytest.approx(expected)


@pytest.mark.parametrize("target", CONTRASTIVE)
def test_alignment_is_better_than_chance(target: str) -> None:
    image = units(8, 16)
    aligned = image[:, None].expand(8, 2, 16)
    assert loss(inputs(image, aligned), target) < loss(inputs(image, units(8, 2, 16, seed=1)), target)


@settings(max_examples=60)
@given(
    st.sampled_from(CONTRASTIVE),
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.integers(2, 9),
    st.integers(1, 3),
    st.booleans(),
    st.integers(0, 99),
)
def test_any_tile_gives_the_naive_value_and_gradients(
    target: str, tile: tuple[int, int], rows: int, slots: int, groups: bool, seed: int
) -> None:
    case = make_case(rows, slots, 4, seed=seed, groups=groups)
    image, text = F.normalize(case.image_GD, dim=-1), F.normalize(case.text_GKD, dim=-1)
    of = LossInputs(image, text, case.mask_GK, case.log_scale.exp(), case.bias, case.group_G)
    found = loss(of, target, tile=tile)
    leaves = list(case.leaves().values())
    mine = torch.autograd.grad(found, leaves, allow_unused=True, materialize_grads=True)
    if not (case.mask_GK[:, 0] if target == "clip" else case.mask_GK).any():
        assert found == 0 and not any(g.any() for g in mine)
        return
    expected = naive_loss(case, target)
    assert found.item() == pytest.approx(expected.item(), rel=1e-9, abs=1e-12)
    theirs = torch.autograd.grad(expected, leaves, allow_unused=True, materialize_grads=True)
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("target", CONTRASTIVE)
def test_what_a_missing_text_holds_does_not_matter(target: str) -> None:
    image, text = units(6, 8), units(6, 3, 8, seed=1)
    mask = torch.rand(6, 3, generator=torch.Generator().manual_seed(2)) > 0.4
    junk = torch.where(mask[..., None], text, torch.full_like(text, torch.nan))
    clean = torch.where(mask[..., None], text, 0.0)
    image = image.requires_grad_()
    values = [loss(inputs(image, t, mask), target) for t in (clean, junk)]
    gradients = [torch.autograd.grad(v, image)[0] for v in values]
    assert values[0] == values[1]
    assert torch.equal(*gradients)


@pytest.mark.parametrize("target", CONTRASTIVE)
def test_order_of_rows_does_not_matter(target: str) -> None:
    image, text = units(9, 8), units(9, 2, 8, seed=1)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(1))
    found = [loss(inputs(i, t), target).item() for i, t in ((image, text), (image[order], text[order]))]
    assert found[0] == pytest.approx(found[1], rel=1e-6)


def test_one_to_k_of_one_text_is_clip() -> None:
    of = inputs(units(7, 8), units(7, 1, 8, seed=1))
    assert loss(of, "one_to_k") == loss(of, "clip") == loss(of, "per_slot")


@pytest.mark.parametrize("target", CONTRASTIVE)
def test_rows_of_one_group_are_not_pushed_apart(target: str) -> None:
    image, text = units(4, 8).requires_grad_(), units(4, 1, 8, seed=1)
    pair = torch.tensor([5, 5, -1, -1])
    # Rows 0 and 1 are of a group: how near image 0 is to text 1 has no effect any more.
    moved = text.clone()
    moved[1] = text[0]
    own = loss(inputs(image[:1], text[:1]), target)
    alone = inputs(image[:2], text[:2], group=pair[:2])
    assert loss(alone, target).item() == pytest.approx(
        own.item() if target != "siglip" else loss(alone, target).item(), abs=1e-6
    )
    gradient = torch.autograd.grad(loss(inputs(image, moved, group=pair), target), image)[0]
    reference = torch.autograd.grad(
        naive_normalised(
            image.double(),
            moved.double(),
            torch.ones(4, 1, dtype=torch.bool),
            pair,
            torch.tensor(10.0),
            torch.tensor(-2.0),
            target,
        ),
        image,
    )[0]
    torch.testing.assert_close(gradient, reference, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("target", CONTRASTIVE)
@pytest.mark.parametrize("scale", [1.0, 100.0, 1000.0])
def test_float32_is_exact_where_logits_are_far_apart(target: str, scale: float) -> None:
    # Half of the rows lie opposite to their text, so that row and column maxima are up to 2·scale apart.
    image, text = units(64, 8), units(64, 1, 8, seed=1)
    image[::2] = -text[::2, 0]
    image, text = image.requires_grad_(), text.requires_grad_()
    found = loss(inputs(image, text, scale=scale), target, tile=(16, 24))
    reference = naive_normalised(
        image.double(),
        text.double(),
        torch.ones(64, 1, dtype=torch.bool),
        torch.full((64,), -1),
        torch.tensor(scale),
        torch.tensor(-2.0),
        target,
    )
    assert found.item() == pytest.approx(reference.item(), rel=1e-5)
    mine, theirs = (torch.autograd.grad(value, [image, text]) for value in (found, reference))
    for a, b in zip(mine, theirs, strict=True):
        assert torch.linalg.norm(a - b) <= 1e-4 * torch.linalg.norm(b)


@pytest.mark.parametrize("target", CONTRASTIVE)
def test_autocast_does_not_reach_the_logits(target: str) -> None:
    of = inputs(units(32, 16), units(32, 1, 16, seed=1), scale=100.0)
    with torch.autocast("cpu", torch.bfloat16):
        inside = loss(of, target)
    assert inside.dtype == torch.float32
    assert inside == loss(of, target)


@pytest.mark.parametrize("target", CONTRASTIVE)
def test_bfloat16_features_are_close(target: str) -> None:
    of = inputs(units(32, 16), units(32, 1, 16, seed=1))
    low = of._replace(image_BD=of.image_BD.bfloat16(), text_BKD=of.text_BKD.bfloat16())
    assert loss(low, target).item() == pytest.approx(loss(of, target).item(), rel=1e-2)


def test_soft_targets_are_softmaxes_of_other_logits() -> None:
    random = torch.Generator().manual_seed(4)
    image, text, query, key = (torch.randn(6, 5, generator=random, dtype=torch.float64) for _ in range(4))
    image, text = (F.normalize(t, dim=-1).requires_grad_() for t in (image, text))
    scale = torch.tensor(7.0, dtype=torch.float64, requires_grad=True)
    none = torch.zeros(6, dtype=torch.float64)
    number, group = torch.arange(6), torch.full((6,), -1)
    yes = torch.ones(6, dtype=torch.bool)
    other = query @ key.T
    by_row, by_column = torch.rand(2, 6, generator=random, dtype=torch.float64)
    rows = Queries(image, yes, none, number, group)
    columns = Columns(text, yes, none, number, group, (key,))
    soft = SoftTarget(query, inner_products, both=True)
    sums = log_sums(rows, columns, scale, exchange=Exchange(), tile=(4, 5), soft=soft)
    found = sums.row, sums.column, (by_row * sums.row_mean).sum() + (by_column * sums.column_mean).sum()
    logits = scale * image @ text.T
    target = by_row[:, None] * other.softmax(1) + by_column * other.softmax(0)
    expected = [logits.logsumexp(1), logits.logsumexp(0), (target * logits).sum()]
    for one, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(one, wanted)
    weights = torch.rand(2, 6, generator=random, dtype=torch.float64)
    for a, b in zip(
        torch.autograd.grad((weights * torch.stack(found[:2])).sum() - 3 * found[2], [image, text, scale]),
        torch.autograd.grad((weights * torch.stack(expected[:2])).sum() - 3 * expected[2], [image, text, scale]),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


@pytest.mark.slow
def test_logits_never_exist_as_a_whole() -> None:
    from torch.utils._python_dispatch import TorchDispatchMode

    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            if isinstance(out, Tensor):
                largest = max(largest, out.numel())
            return out

    image, text = units(600, 4).requires_grad_(), units(600, 1, 4, seed=1).requires_grad_()
    for target in CONTRASTIVE:
        with Watch():
            loss(inputs(image, text), target, tile=(50, 40)).backward()
    assert largest <= 600 * 4


def test_a_batch_without_a_text_costs_nothing() -> None:
    of = inputs(units(3, 4).requires_grad_(), units(3, 2, 4), torch.zeros(3, 2, dtype=torch.bool))
    for target in CONTRASTIVE:
        assert loss(of, target) == 0


def test_unknown_objective_names_the_near_ones() -> None:
    with pytest.raises(RecipeError, match="one_to_k"):
        OBJECTIVES.get("one_to_n")


def test_a_name_is_registered_once() -> None:
    registry: Registry[int] = Registry("loss.objective")
    registry.register("a")(1)
    with pytest.raises(ValueError, match="'a'"):
        registry.register("a")(2)
