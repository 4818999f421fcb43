"""`loss.harmonise`: gradients that conflict, against loops in float64, over ranks, and what is refused."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from entries import basic
from gloo_ranks import run_on_ranks
from torch import Tensor

from pairmill.errors import RecipeError
from training.gather import open_exchange
from training.losses.harmony import cosines, projected
from training.losses.loss_inputs import LossOutput
from training.objectives.by_name import _features, _rows, loss_by_name
from training.objectives.config import LossConfig
from training.objectives.declaration import Objective, Setup, When
from training.recipe import TrainRecipe

ROWS, SLOTS, WIDTH, DATASETS = 12, 3, 5, 2
WEIGHT = 0.7
#: Short against long texts, and a third loss of all of them.
LOSS: dict[str, Any] = {
    "objective": "clip",
    "terms": {
        "long": {"objective": "clip", "slots": [1], "weight": WEIGHT},
        "every": {"objective": {"name": "one_to_k", "text_to_image_weight": 0.5}},
    },
}
#: Leaves of `basic`.
NAMES = ("image", "text", "logit_scale")


def batch() -> dict[str, Any]:
    return basic(ROWS, SLOTS, WIDTH, seed=2)


def dataset_of(sample_id: Any) -> Any:
    return sample_id // 7 % DATASETS


def opened(loss: dict[str, Any], *, rows: int = ROWS, world: int = 1, step: int = 0) -> Objective:
    objective = LossConfig.checked(loss, at="loss").opened()
    objective.begin(Setup(WIDTH, SLOTS, rows, 0, world, (3, 5), 0, torch.device("cpu"), datasets=DATASETS))
    objective.when = When(step, 11, 11)
    return objective


def output_of(loss: dict[str, Any], tensors: dict[str, Any], mode: str = "local", **where: Any) -> LossOutput:
    exchange = open_exchange(mode)(0)
    objective = opened(loss, rows=len(tensors["image"]), world=exchange.world, **where)
    rows = _rows(tensors)
    return objective(_features(objective, tensors), rows._replace(dataset_B=dataset_of(rows.sample_id_B)), exchange)


def gradients(total: Tensor, tensors: dict[str, Any]) -> dict[str, Tensor]:
    leaves = [tensors[name] for name in NAMES]
    return dict(zip(NAMES, torch.autograd.grad(total, leaves, materialize_grads=True), strict=True))


def apart(tensors: dict[str, Any]) -> list[dict[str, Tensor]]:
    """Gradients of each of the three losses by itself, on plain tensors."""
    second = {**tensors, **{name: tensors[name][:, 1:2] for name in ("text", "text_mask")}}
    losses = [
        loss_by_name("clip", tensors),
        loss_by_name("clip", second),
        loss_by_name("one_to_k", tensors, {"text_to_image_weight": 0.5}),
    ]
    found = [gradients(loss.total, tensors) for loss in losses]
    found[1] = {name: WEIGHT * gradient for name, gradient in found[1].items()}
    return found


def without_conflicts(vectors: list[Tensor]) -> Tensor:
    """PCGrad (Yu et al. 2020) of some gradients of one row, one after the other."""
    found = []
    for own, vector in enumerate(vectors):
        for other in (one for at, one in enumerate(vectors) if at != own):
            dot = float(vector @ other)
            if dot < 0:
                vector = vector - dot / float(other @ other) * other
        found.append(vector)
    return torch.stack(found).sum(0)


def expected(tensors: dict[str, Any], *, texts: bool, least: float | None = None) -> dict[str, Tensor]:
    found = apart(tensors)
    wanted = {name: torch.stack([one[name] for one in found]).sum(0) for name in NAMES}
    for row in range(ROWS):
        own = [one["image"][row] for one in found]
        wanted["image"][row] = without_conflicts(own)
        if texts:
            for slot in range(SLOTS):
                wanted["text"][row, slot] = without_conflicts([one["text"][row, slot] for one in found])
        if least is not None and least > least_cosine(own):
            wanted["image"][row] = wanted["text"][row] = 0
    return wanted


def least_cosine(vectors: list[Tensor]) -> float:
    pairs = [(a, b) for a, b in itertools.combinations(vectors, 2) if a.any() and b.any()]
    return min((float(a @ b / a.norm() / b.norm()) for a, b in pairs), default=2.0)


def conflicts(tensors: dict[str, Any], below: float = 0.0) -> list[bool | None]:
    """Of each row, whether any two gradients at the image conflict; None where there are no two."""
    each = apart(tensors)
    found = [least_cosine([one["image"][row] for one in each]) for row in range(ROWS)]
    return [None if cosine > 1.5 else cosine < below for cosine in found]


def assert_close(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")


def test_a_projection_by_hand() -> None:
    found = projected(torch.tensor([[[1.0, 0.0]], [[-1.0, 1.0]]]))
    torch.testing.assert_close(found, torch.tensor([[[0.5, 0.5]], [[0.0, 1.0]]]))
    agreeing = torch.tensor([[[1.0, 0.0]], [[1.0, 1.0]]])
    assert torch.equal(projected(agreeing), agreeing)


def test_gradients_whose_squares_vanish_in_float32_are_projected() -> None:
    one, other = torch.tensor([[1.0, 0.0]]), torch.tensor([[-1.0, 1.0]])
    torch.testing.assert_close(
        projected(1e-30 * torch.stack([one, other])), 1e-30 * projected(torch.stack([one, other])), rtol=1e-6, atol=0
    )
    torch.testing.assert_close(cosines(1e-30 * torch.stack([one, other]))[0, 0, 1], torch.tensor(-(0.5**0.5)))


@pytest.mark.parametrize("texts", [False, True])
def test_conflicting_gradients_of_a_row_lose_what_points_against_another(texts: bool) -> None:
    tensors = batch()
    output = output_of({**LOSS, "harmonise": {"texts": texts}}, tensors)
    plain = output_of(LOSS, tensors)
    torch.testing.assert_close(output.total, plain.total)
    assert {name: float(part) for name, part in output.parts.items()} == pytest.approx(
        {name: float(part) for name, part in plain.parts.items()}
    )
    assert True in conflicts(tensors) and False in conflicts(tensors)
    assert_close(gradients(output.total, tensors), expected(tensors, texts=texts))


def test_without_projection_gradients_are_added_up_and_conflicts_counted() -> None:
    tensors = batch()
    output = output_of({**LOSS, "harmonise": {"project": False}}, tensors)
    assert_close(gradients(output.total, tensors), gradients(output_of(LOSS, tensors).total, tensors))
    known = conflicts(tensors)
    of = [
        [row for row in range(ROWS) if known[row] is not None and row % DATASETS in sets]
        for sets in ((0, 1), (0,), (1,))
    ]
    counts = [[sum(known[row] is True for row in rows), len(rows)] for rows in of]
    names = ("conflict_rate", "conflict_rate/0", "conflict_rate/1")
    assert {name: rate.tolist() for name, rate in output.rates.items()} == dict(zip(names, counts, strict=True))
    assert None in known


@pytest.mark.parametrize(("step", "least"), [(0, -0.9), (5, -0.25), (10, 0.4)])
def test_rows_that_conflict_more_than_the_schedule_allows_get_no_gradient(step: int, least: float) -> None:
    tensors = batch()
    output = output_of({**LOSS, "harmonise": {"drop_below": [-0.9, 0.4]}}, tensors, step=step)
    assert_close(gradients(output.total, tensors), expected(tensors, texts=False, least=least))
    known = conflicts(tensors, least)
    assert output.rates["dropped_rate"].tolist() == [known.count(True), ROWS - known.count(None)]


def test_the_schedule_drops_more_and_more() -> None:
    tensors = batch()
    dropped = [conflicts(tensors, least).count(True) for least in (-0.9, -0.25, 0.4)]
    assert dropped == sorted(set(dropped))


def test_a_batch_without_texts_has_no_loss_and_no_conflict() -> None:
    tensors = batch()
    tensors["text_mask"] = torch.zeros_like(tensors["text_mask"])
    output = output_of({**LOSS, "harmonise": {}}, tensors)
    assert output.total.item() == 0 and output.rates["conflict_rate"].tolist() == [0, 0]
    assert not any(gradient.any() for gradient in gradients(output.total, tensors).values())


def on_rank(rank: int, mode: str, bounds: list[int], loss: dict[str, Any]) -> dict[str, Tensor]:
    """Means over ranks of gradients at the whole batch, and sums of the rates; a rank has the rows of its bounds."""
    exchange, tensors = open_exchange(mode)(0), batch()
    mine = list(range(bounds[rank], bounds[rank + 1]))
    most = max(after - before for before, after in itertools.pairwise(bounds))
    padded = mine + [0] * (most - len(mine))
    part = {name: v[padded] if name not in ("logit_scale", "logit_bias") else v for name, v in tensors.items()}
    part["text_mask"] = part["text_mask"].clone()
    part["text_mask"][len(mine) :] = False
    output = output_of(loss, part, mode)
    found = {name: exchange.total(v) / exchange.world for name, v in gradients(output.total, tensors).items()}
    return found | {name: exchange.total(rate) for name, rate in output.rates.items()}


@pytest.mark.slow
@pytest.mark.parametrize(("world", "mode"), [(2, "ring"), (4, "gather")])
def test_ranks_give_the_gradients_and_rates_of_one_process(world: int, mode: str) -> None:
    bounds = {2: [0, 7, 12], 4: [0, 4, 5, 10, 12]}[world]
    tensors, least = batch(), -0.2
    loss = {**LOSS, "harmonise": {"texts": True, "drop_below": [least, least]}}
    known = conflicts(tensors)
    for found in run_on_ranks(world, on_rank, mode, bounds, loss):
        assert_close(found, expected(tensors, texts=True, least=least))
        assert found["conflict_rate"].tolist() == [known.count(True), ROWS - known.count(None)]


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        ({"harmonise": {}}, r"must come with loss\.terms"),
        ({"terms": {"barlow": {}}, "harmonise": {}}, "heads of its own"),
        ({"terms": {"grouping": {}}, "harmonise": {}}, "which has tokens"),
        ({"terms": {"per_slot": {}}, "harmonise": {"drop_below": [0, -0.3]}}, "must not fall"),
        ({"terms": {"per_slot": {}}, "harmonise": {"drop_below": [-2, 0]}}, r"harmonise\.drop_below"),
        ({"terms": {"per_slot": {"slots": [1, 1]}}}, "once each"),
        ({"terms": {"per_slot": {"slots": []}}}, r"per_slot\.slots"),
    ],
)
def test_what_cannot_be_is_refused(loss: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        LossConfig.checked(loss, at="loss").opened()


def recipe(**loss: Any) -> TrainRecipe:
    data = {"path": "unused", "texts": [[{"kind": "short"}], [{"kind": "long"}]]}
    return TrainRecipe.checked({"run_dir": "unused", "data": data, "loss": loss, "train": {"steps": 1}})


def test_a_term_may_see_only_slots_that_there_are() -> None:
    recipe(terms={"long": {"objective": "clip", "slots": [1]}})
    with pytest.raises(RecipeError, match=r"loss\.terms\.long\.slots must be slots of data\.texts, which has 2"):
        recipe(terms={"long": {"objective": "clip", "slots": [2]}})


def test_keys_at_their_defaults_leave_a_recipe_what_it_was() -> None:
    plain = recipe(terms={"per_slot": {}}).identity()["loss"]
    assert "harmonise" not in plain and "slots" not in plain["terms"]["per_slot"]
    other = recipe(terms={"per_slot": {"slots": [1]}}, harmonise={}).identity()["loss"]
    assert other["harmonise"]["project"] is True and other["terms"]["per_slot"]["slots"] == [1]


def test_a_term_of_some_slots_is_the_objective_without_the_others() -> None:
    tensors = batch()
    loss = {"objective": "clip", "terms": {"late": {"objective": "one_to_k", "slots": [2, 1]}}}
    late = {**tensors, **{name: tensors[name][:, [2, 1]] for name in ("text", "text_mask")}}
    torch.testing.assert_close(output_of(loss, tensors).parts["late"], loss_by_name("one_to_k", late).total.detach())
