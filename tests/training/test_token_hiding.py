"""The need `masked`: which patches and words are hidden, and what the towers make of the rest."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from need_steps import recipe_of
from test_step import LENGTH, ROWS, SLOTS, rows_of
from torch import Tensor

from pairmill.errors import RecipeError
from training.model import DualEncoder, Rows
from training.objectives.config import LossConfig
from training.objectives.declaration import Hides
from training.recipe import TrainRecipe
from training.teacher import Frozen
from training.token_hiding import drawn, hidden_patches, hidden_words, numbers
from training.worker import build

PATCHES = 16
LEAST: dict[str, Any] = {"run_dir": "r", "data": {"path": "p"}, "train": {"steps": 4}}


def random_patches(share: float, draw_B: Tensor, patches: int = PATCHES) -> Tensor:
    return hidden_patches(Hides(share), draw_B, torch.zeros(len(draw_B), patches))


def test_what_is_drawn_belongs_to_seed_step_row_and_place() -> None:
    ids = torch.tensor([3, 2**62 + 5, 3 + 2**40, 3, -1])
    draw = drawn(7, 2, ids)
    assert torch.equal(draw[0], draw[3]) and len(set(draw.tolist())) == 4
    assert torch.equal(drawn(7, 2, ids.flip(0)), draw.flip(0)) and torch.equal(drawn(7, 2, ids[1:3]), draw[1:3])
    for other in (drawn(7, 3, ids), drawn(8, 2, ids)):
        assert not (other == draw).any()
    # A longer text, or more patches, draw the same for the places that both have.
    assert torch.equal(numbers(draw, torch.arange(9))[:, :4], numbers(draw, torch.arange(4)))


def test_places_are_hidden_evenly_and_independently() -> None:
    hidden = random_patches(0.25, drawn(0, 0, torch.arange(4000))).double()
    # A share of exactly a quarter has a variance of 3/16 a row, and a correlation of -1/15 between places.
    assert (hidden.mean(0) - 0.25).abs().max() < 5 * (3 / 16 / 4000) ** 0.5
    between = torch.corrcoef(hidden.T)[~torch.eye(PATCHES, dtype=torch.bool)]
    assert (between + 1 / (PATCHES - 1)).abs().max() < 5 / 4000**0.5
    steps = torch.stack([random_patches(0.25, drawn(0, step, torch.arange(50))) for step in range(40)]).double()
    assert (steps.mean(0) - 0.25).abs().max() < 5 * (3 / 16 / 40) ** 0.5


@pytest.mark.parametrize(
    ("share", "patches", "expected"), [(0.75, 16, 12), (0.01, 16, 1), (0.99, 16, 15), (0.5, 49, 24), (0.9, 1, 1)]
)
def test_a_share_is_exact_at_least_one_and_not_all(share: float, patches: int, expected: int) -> None:
    hidden = random_patches(share, drawn(0, 0, torch.arange(20)), patches)
    assert hidden.sum(1).tolist() == [expected] * 20


def test_patches_like_the_text_or_unlike_it_are_chosen_by_their_cosine() -> None:
    draw, likeness = drawn(0, 0, torch.arange(2)), torch.tensor([[0.1, 0.9, -0.5, 0.4], [0.3, 0.3, 0.3, 0.3]])
    like, unlike = (hidden_patches(Hides(0.5, None, how), draw, likeness) for how in ("like_text", "unlike_text"))
    assert like.int().tolist() == [[0, 1, 0, 1], [1, 1, 0, 0]]
    assert unlike.int().tolist() == [[1, 0, 1, 0], [1, 1, 0, 0]]


def test_neither_start_nor_end_of_a_text_nor_padding_is_hidden() -> None:
    lengths = torch.tensor([[20, 2], [3, 0], [1, 12]])
    mask = torch.arange(32) < lengths[..., None]
    mask[2, 1, 0] = False  # as of a tower whose first token is that of the class
    seen = torch.zeros_like(mask)
    for step in range(60):
        hidden = hidden_words(0.3, drawn(0, step, torch.arange(3)), mask)
        assert hidden.sum(2).tolist() == [[round(0.3 * 18), 0], [1, 0], [0, round(0.3 * 9)]]
        seen |= hidden
    assert seen[0, 0].nonzero().flatten().tolist() == [*range(1, 19)]
    assert seen[2, 1].nonzero().flatten().tolist() == [*range(2, 11)]


def of(hides: Hides, needs: tuple[str, ...] = ("tokens", "masked")) -> DualEncoder:
    return DualEncoder(build(recipe_of("denoise")), "fp32", None, (), needs, hides)


def with_draws(rows: Rows, step: int = 0) -> Rows:
    return rows._replace(draw_B=drawn(0, step, rows.sample_id_B))


def test_hidden_tokens_come_from_a_second_pass_and_all_else_from_the_first() -> None:
    module, rows = of(Hides(0.5, 0.3)), with_draws(rows_of(0, 0, 1))
    features, plain = module(rows), module(rows._replace(draw_B=None))
    asked = features.asked
    assert torch.equal(features.image_BD, plain.image_BD) and torch.equal(
        asked["image_tokens"], plain.asked["image_tokens"]
    )
    patches, words = asked["image_token_hidden"], asked["text_token_hidden"]
    assert patches.shape == (ROWS, PATCHES) and words.shape == (ROWS, SLOTS, LENGTH)
    assert patches.sum(1).tolist() == [8] * ROWS and words.any() and not (words & ~asked["text_token_mask"]).any()
    for name in ("image", "text"):
        norms = asked[f"masked_{name}_tokens"].norm(dim=-1)
        there = torch.ones_like(patches) if name == "image" else asked["text_token_mask"]
        torch.testing.assert_close(norms[there], torch.ones_like(norms[there]), rtol=0, atol=1e-5)
        gap = (asked[f"masked_{name}_tokens"] - asked[f"{name}_tokens"]).abs().amax(-1)
        assert gap[asked[f"{name}_token_hidden"]].min() > 1e-3
        # Where nothing is hidden, the tokens are those of the whole input.
        assert torch.equal(plain.asked[f"masked_{name}_tokens"], plain.asked[f"{name}_tokens"])
        assert not plain.asked[f"{name}_token_hidden"].any()
    assert module.mask_tokens is not None
    (asked["masked_image_tokens"].sum() + asked["masked_text_tokens"].sum()).backward()
    for vector in module.mask_tokens.parameters():
        assert vector.grad is not None and vector.grad.any()


@pytest.mark.parametrize("how", ["random", "like_text"])
def test_micro_batches_hide_the_same(how: Any) -> None:
    module, rows = of(Hides(0.5, 0.3, how)), with_draws(rows_of(1, 0, 1), 4)
    with torch.no_grad():
        whole, parts = module(rows).asked, [module(rows.part(slice(at, at + 2))).asked for at in range(0, ROWS, 2)]
    for name in ("image_token_hidden", "text_token_hidden"):
        assert torch.equal(torch.cat([part[name] for part in parts]), whole[name])


def test_attentive_masks_hide_what_is_most_like_the_first_text_of_the_row() -> None:
    module, rows = of(Hides(0.5, None, "like_text")), with_draws(rows_of(0, 0, 1))
    mask = rows.text_mask_BK.clone()
    mask[0], mask[1] = torch.tensor([False, True]), torch.tensor([True, True])
    features = module(rows._replace(text_mask_BK=mask))
    for row, slot in ((0, 1), (1, 0)):
        cosines = features.asked["image_tokens"][row] @ features.text_BKD[row, slot]
        chosen = set(cosines.topk(8).indices.tolist())
        assert set(features.asked["image_token_hidden"][row].nonzero().flatten().tolist()) == chosen
    assert not features.asked["text_token_hidden"].any()


def test_no_tower_runs_twice_for_nothing() -> None:
    calls = []
    for hides in (Hides(0.5, None), Hides(None, 0.5), Hides(0.5, 0.5)):
        module = of(hides)
        handles = [
            one.register_forward_hook(lambda *_, name=name: calls.append(name))
            for name, one in (("image", module.model.visual.conv1), ("text", module.model.token_embedding))  # type: ignore[union-attr, list-item]  # an open_clip model
        ]
        module(with_draws(rows_of(0, 0, 1)))
        for handle in handles:
            handle.remove()
    assert [calls.count(name) for name in ("image", "text")] == [5, 5]
    for hides, vectors in ((Hides(0.5, None), ["image"]), (Hides(None, 0.5), ["text"])):
        mask_tokens = of(hides).mask_tokens
        assert mask_tokens is not None and [name for name, _ in mask_tokens.named_parameters()] == vectors


def test_tokens_that_nobody_asked_for_are_not_carried_along() -> None:
    features = of(Hides(0.5, 0.5), ("masked", "pixels"))(with_draws(rows_of(0, 0, 1)))
    assert features.asked.keys() == {
        "masked_image_tokens",
        "image_token_hidden",
        "masked_text_tokens",
        "text_token_hidden",
        "image_patches",
    }


def test_nothing_is_hidden_from_a_teacher() -> None:
    module, rows = of(Hides(0.5, 0.3)), with_draws(rows_of(0, 0, 1))
    taught = Frozen(module)([rows]).asked
    assert not taught["image_token_hidden"].any() and torch.equal(taught["masked_image_tokens"], taught["image_tokens"])


def test_pixels_are_what_the_tower_is_given() -> None:
    rows = rows_of(0, 0, 1)
    patches = of(Hides(), ("pixels",))(rows).asked["image_patches"]
    from pairmill.towers.build import image_statistics

    mean, std = (torch.tensor(v) for v in image_statistics(build(recipe_of("denoise"))))
    expected = (rows.images_BHWC[2, 16:32, 32:48] / 255 - mean) / std  # second row of patches, third column
    torch.testing.assert_close(patches[2, 6], expected.permute(2, 0, 1).flatten(), rtol=0, atol=1e-5)


# The recipe


def test_an_objective_says_what_it_hides_and_two_must_agree() -> None:
    assert LossConfig.checked({"objective": "denoise"}).opened().hides == Hides(0.75, 0.15, "random")
    assert LossConfig.checked({"objective": "masked_image"}).opened().hides == Hides(0.5, None, "like_text")
    unseen = {"name": "denoise", "image_weight": 0, "text_share": 0.4}
    assert LossConfig.checked({"objective": unseen}).opened().hides == Hides(None, 0.4)
    alone = {"objective": "clip", "terms": {"masked_image": {}, "pixpro": {}, "denoise": {"objective": unseen}}}
    assert LossConfig.checked(alone).opened().hides == Hides(0.5, 0.4, "like_text")
    both = {"objective": "clip", "terms": {"masked_image": {}, "denoise": {}}}
    with pytest.raises(RecipeError, match=r"must agree on what is hidden.*\n.*0\.5.*0\.75"):
        LossConfig.checked(both)


@pytest.mark.parametrize("name", ["denoise", "masked_image", "pixpro"])
def test_patches_must_not_be_left_out(name: str) -> None:
    model = {"architecture": "tests/pairmill/towers/configs/vit.json", "patch_dropout": 0.5}
    with pytest.raises(RecipeError, match=r"model\.patch_dropout must be 0"):
        TrainRecipe.checked(LEAST | {"loss": {"objective": "clip", "terms": {name: {}}}, "model": model})
    TrainRecipe.checked(LEAST | {"loss": {"objective": "clip"}, "model": model})


def test_towers_without_tokens_are_refused_as_the_model_is_built() -> None:
    for name, architecture in (("masked_image", "resnet"), ("pixpro", "resnet"), ("denoise", "coca")):
        file = f"tests/pairmill/towers/configs/{architecture}.json"
        with pytest.raises(RecipeError, match=f"loss.objective {name} needs"):
            build(recipe_of(name, architecture=file))
    build(recipe_of("pixpro", architecture="tests/pairmill/towers/configs/siglip.json"))
