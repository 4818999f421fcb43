"""Projectors of terms: what they compute, whole batches over ranks, steps that resume, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812  torch's own name for it
from gloo_ranks import run_on_ranks
from test_own_objective_steps import _steps
from test_step import recipe as step_recipe
from test_step import rows_of, setup_of
from torch import Tensor, nn

from pairmill.errors import RecipeError
from pairmill.towers.encode import encode_text
from pairmill.towers.token_features import pooled_widths
from training.gather import Exchange
from training.losses.loss_inputs import LossOutput
from training.losses.separate_projector import Perceptron
from training.losses.whole_batch_norm import WholeBatchNorm
from training.model import DualEncoder, Features, Further, Rows
from training.objectives.config import LossConfig
from training.objectives.declaration import Objective, When
from training.recipe import TrainRecipe
from training.worker import build

SMALL = {"hidden": 12, "width": 10}


def of(terms: dict[str, Any], *, accumulate: int = 1, stage: int = 0, **model: Any) -> TrainRecipe:
    return step_recipe(
        loss={"objective": "clip", "terms": terms},
        model={"patch_dropout": None, **model},
        train={"accumulate": accumulate},
        deepspeed={"stage": stage},
    )


def encoder_of(term: dict[str, Any]) -> tuple[DualEncoder, Objective]:
    """A term by itself, without an engine."""
    used = of({"own": term})
    model, objective = build(used), used.loss.terms["own"].opened("own")
    torch.manual_seed(0)
    objective.begin(setup_of(used)._replace(tower_widths=pooled_widths(model)))
    objective.when = When(0, 4, 2)
    return DualEncoder(model, "fp32", objective.heads(objective.setup), (), objective.needs), objective


def plain(perceptron: Perceptron, values: Tensor, there: Tensor) -> Tensor:
    """What a projector makes of the valid rows, by torch's own batch norm."""
    values = values[there]
    for linear, norm in zip(perceptron.linear, perceptron.norm, strict=False):
        values = F.linear(values, linear.weight, linear.bias)  # type: ignore[arg-type]  # modules of a list
        values = F.relu(F.batch_norm(values, None, None, norm.weight, norm.bias, training=True))  # type: ignore[arg-type]
    return F.normalize(perceptron.linear[-1](values), dim=1)


def test_a_norm_over_what_is_there_is_torchs_over_those_rows() -> None:
    random = torch.Generator().manual_seed(0)
    values = torch.randn(4, 3, 5, generator=random, dtype=torch.float64) * 3 + 7
    there = torch.rand(4, 3, generator=random) > 0.4
    own, torchs = WholeBatchNorm(5).double(), nn.BatchNorm1d(5).double()
    for norm in (own, torchs):
        with torch.no_grad():
            norm.weight.copy_(torch.linspace(0.5, 2, 5))
            norm.bias.copy_(torch.linspace(-1, 1, 5))
    holes = values.masked_fill(~there[..., None], torch.nan).requires_grad_()
    rows = values[there].requires_grad_()
    found, wanted = own(holes, there), torchs(rows)
    torch.testing.assert_close(found[there], wanted)
    assert found.isfinite().all()
    weight = torch.randn(wanted.shape, generator=random, dtype=torch.float64)
    (found[there] * weight).sum().backward()
    (wanted * weight).sum().backward()
    assert holes.grad is not None and rows.grad is not None
    torch.testing.assert_close(holes.grad[there], rows.grad)
    assert not holes.grad[~there].any()
    torch.testing.assert_close(own.weight.grad, torchs.weight.grad)


def test_a_norm_of_nothing_is_finite() -> None:
    norm = WholeBatchNorm(3)
    values = torch.full((2, 3), torch.nan, requires_grad=True)
    found = norm(values, torch.zeros(2, dtype=torch.bool))
    found.sum().backward()
    assert found.isfinite().all() and values.grad is not None and not values.grad.any()


def _normed(rank: int, share: list[list[int]]) -> tuple[Tensor, Tensor]:
    """Gradients of the values and of the weight, where each rank has a part of the sum."""
    values, there, weight = _batch()
    mine = share[rank]
    norm = WholeBatchNorm(4).double()
    own = values[mine].requires_grad_()
    (norm(own, there[mine]) * weight[mine]).pow(3).sum().backward()
    if own.grad is None or norm.weight.grad is None:
        raise RuntimeError("a gradient is missing")
    return own.grad, norm.weight.grad


def _batch() -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(1)
    values, weight = (torch.randn(6, 2, 4, generator=random, dtype=torch.float64) for _ in range(2))
    there = torch.ones(6, 2, dtype=torch.bool)
    there[4:] = False
    there[0, 1] = False
    return values, there, weight


@pytest.mark.slow
def test_ranks_normalise_by_the_whole_batch() -> None:
    # The second rank has one row that counts, and two that do not.
    share = [[0, 1, 2], [3, 4, 5]]
    whole, weight = _normed(0, [[*range(6)]])
    parts = run_on_ranks(2, _normed, share)
    torch.testing.assert_close(torch.cat([values for values, _ in parts]), whole)
    torch.testing.assert_close(parts[0][1] + parts[1][1], weight)


@pytest.mark.parametrize("input_", ["tower", "embedding"])
@pytest.mark.parametrize("layers", [1, 3])
def test_a_term_is_its_objective_on_projected_embeddings(input_: str, layers: int) -> None:
    projector = {**SMALL, "layers": layers, "input": input_, "temperature": 0.2}
    encoder, objective = encoder_of({"objective": "one_to_k", "projector": projector})
    rows = rows_of(0, 0, 1)
    features, mask = encoder(rows), rows.text_mask_BK
    image, text = unprojected(encoder, rows) if input_ == "tower" else (features.image_BD, features.text_BKD)
    heads: Any = encoder.heads
    projected_image, projected_text = image.new_zeros(len(mask), 10), image.new_zeros(*mask.shape, 10)
    projected_image[mask.any(1)] = plain(heads.image, image, mask.any(1))
    projected_text[mask] = plain(heads.text, text, mask)
    alone = LossConfig.checked({"objective": "one_to_k", "tile": [4, 8]}).opened()
    alone.begin(objective.setup)
    wanted = alone(Features(projected_image, projected_text, torch.tensor(5.0), None), rows, Exchange()).total
    torch.testing.assert_close(objective(features, rows, Exchange()).total, wanted, rtol=1e-5, atol=1e-6)


def unprojected(encoder: DualEncoder, rows: Rows) -> tuple[Tensor, Tensor]:
    """What the towers give where open_clip has no projection."""
    model: Any = encoder.model
    kept = model.visual.proj, model.text_projection
    model.visual.proj = model.text_projection = None
    image = model.encode_image(encoder._pixels(rows.images_BHWC))
    text = encode_text(model, rows.tokens_BKL.flatten(0, 1)).view(*rows.text_mask_BK.shape, -1)
    model.visual.proj, model.text_projection = kept
    return image, text


@pytest.mark.parametrize(("input_", "temperature"), [("tower", 0.1), ("embedding", None)])
def test_a_term_trains_what_it_sees(input_: str, temperature: float | None) -> None:
    projector = {**SMALL, "input": input_, "temperature": temperature}
    encoder, objective = encoder_of({"objective": "clip", "projector": projector})
    rows = rows_of(0, 0, 1)
    objective(encoder(rows), rows, Exchange()).total.backward()
    learnt = {name for name, one in encoder.named_parameters() if one.grad is not None and one.grad.abs().max() > 1e-9}
    assert {"heads.image.linear.0.weight", "heads.text.norm.0.bias", "model.visual.conv1.weight"} <= learnt
    shared = {"model.visual.proj", "model.text_projection", "model.logit_scale"}
    assert learnt & shared == (set() if input_ == "tower" else shared)
    assert ("heads.log_scale" in learnt) == (temperature is not None)


@pytest.mark.parametrize("input_", ["tower", "embedding"])
@pytest.mark.parametrize("norm", ["batch", "layer"])
def test_views_and_wrong_texts_go_the_same_way(input_: str, norm: str) -> None:
    projector = {**SMALL, "input": input_, "norm": norm}
    encoder, objective = encoder_of({"objective": PATH, "projector": projector})
    plain_rows = rows_of(0, 0, 1)
    # What is further is what is there already: then so are its projections.
    there = torch.ones(len(plain_rows.text_mask_BK), 1, dtype=torch.bool)
    rows = plain_rows._replace(
        text_mask_BK=torch.ones_like(plain_rows.text_mask_BK),
        further=Further(
            plain_rows.images_BHWC[:, None], plain_rows.tokens_BKL[:, :1], plain_rows.tokens_BKL[:, 1:], there
        ),
    )
    parts = objective(encoder(rows), rows, Exchange()).parts
    assert parts["raw"] == pytest.approx(1, abs=1e-5) and parts["views"] == pytest.approx(1, abs=1e-5)
    if norm == "layer":  # one over a slot differs from one over both
        assert parts["texts"] == pytest.approx(2, abs=1e-5)


class Same(Objective):
    """Tells how far what it is given is the same."""

    needs = ("views", "negatives", "raw")

    def __call__(self, features: Features, rows: Rows, exchange: Exchange) -> LossOutput:
        asked = features.asked
        found = {
            "raw": (features.image_BD * F.normalize(asked["raw_image"], dim=1)).sum(1).mean(),
            "views": (features.image_BD * asked["image_views"][:, 0]).sum(1).mean(),
            "texts": (features.text_BKD * torch.cat([asked["text_views"], asked["neg_text"]], 1)).sum((1, 2)).mean(),
        }
        return LossOutput(torch.stack(list(found.values())).sum(), {n: value.detach() for n, value in found.items()})


PATH = f"{__name__}:Same"

TERMS: dict[str, Any] = {
    "own": {"objective": "label_smoothing", "projector": SMALL},
    "taught": {
        "objective": {"name": "siam", "target": "teacher", "decay": 0.5, "hidden": 6, "width": 4},
        "projector": {**SMALL, "norm": "layer", "layers": 2, "input": "embedding"},
    },
}


@pytest.mark.slow
def test_steps_are_those_of_the_whole_batch_and_resume_bit_for_bit(tmp_path: Path) -> None:
    [(whole, _)] = run_on_ranks(1, _steps, of(TERMS), 0, 4)
    used = of(TERMS, stage=2)
    found, (_, _, end) = run_on_ranks(2, _steps, used, 0, 4)[0]
    torch.testing.assert_close(found, whole, rtol=1e-4, atol=0)
    begun, state = run_on_ranks(2, _steps, used, 0, 2)[0]
    weights, _, saved = state
    # The projectors are beside the model, and not in what is exported.
    assert not any("own" in name or "taught" in name for name in weights)
    assert saved["parameters"]["objective.own.image.linear.0.weight"].shape == (12, 64)
    assert saved["parameters"]["objective.taught.inner.image.0.weight"].shape == (6, 10)
    torch.save(state, tmp_path / "state.pt")
    rest, (_, _, again) = run_on_ranks(2, _steps, used, 2, 4, tmp_path / "state.pt")[0]
    assert torch.equal(torch.cat([begun, rest]), found)
    for name, value in end["parameters"].items():
        assert again["parameters"][name].equal(value), name


@pytest.mark.parametrize(
    ("term", "said"),
    [
        ({"objective": "token_max"}, r"loss\.terms\.own\.projector must be null[^|]*token_max, which needs tokens"),
        ({"objective": "distill"}, "needs frozen_teacher"),
        ({"projector": {"depth": 2}}, r"loss\.terms\.own\.projector\.depth is not a key"),
    ],
)
def test_what_cannot_be_projected_is_refused(term: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        LossConfig.checked({"terms": {"own": {"objective": "clip", "projector": SMALL, **term}}}, at="loss")


def test_a_batch_norm_must_see_the_whole_batch() -> None:
    with pytest.raises(RecipeError, match=r"train\.accumulate must be 1"):
        of({"own": {"objective": "clip", "projector": SMALL}}, accumulate=2)
    assert of({"own": {"objective": "clip", "projector": {**SMALL, "norm": "layer"}}}, accumulate=2)


def test_towers_whose_projection_is_inside_are_refused() -> None:
    path = "tests/pairmill/towers/configs/resnet.json"
    term = {"objective": "clip", "projector": SMALL}
    with pytest.raises(RecipeError, match="a projector with input tower"):
        build(of({"own": term}, architecture=path))
    term["projector"] = {**SMALL, "input": "embedding"}
    assert build(of({"own": term}, architecture=path))


def test_a_term_without_a_projector_is_what_it_was() -> None:
    config = LossConfig.checked({"terms": {"per_slot": {}}})
    assert config.identity()["terms"]["per_slot"].keys() == {"objective", "weight", "start", "ramp"}
    other = LossConfig.checked({"terms": {"per_slot": {"projector": {}}}})
    assert other.identity() != config.identity() and LossConfig.checked(other.model_dump(mode="json")) == other
