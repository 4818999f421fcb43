"""What `local_global`, `masked_prediction` and `prototype` keep from step to step, and k-means."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from entries import BY_ROW, gradients, tensors_of
from every_entry import BY_NAME
from gloo_ranks import run_on_ranks
from naive_generative import C, prototype, rows_of, slots_of, unit
from naive_terms import PROJECTED
from test_objectives_over_ranks import part
from torch import Tensor

from pairmill.errors import RecipeError
from training.gather import Exchange, open_exchange
from training.losses.kmeans import clusters, means_by_label
from training.objectives import loss_by_name
from training.objectives.by_name import computed
from training.objectives.config import LossConfig

EPISODE = 9
#: Of an episode of two batches with holes.
SHORT = {"hidden": 5, "width": PROJECTED, "clusters": 3, "episode": EPISODE, "restarts": 2}
BEGUN = ("image_centroids", "text_centroids", "image_of_text", "text_of_image", "rounds")
SHARES = [[3, 0, 5, 1], [4, 6, 2]]


def batch(name: str, seed: int = 0) -> dict[str, Any]:
    found = tensors_of(BY_NAME[name], 7, 3, 6, seed=seed)
    weights = tensors_of(BY_NAME[name], 7, 3, 6)  # the same head for all batches
    same = {key: value for key, value in weights.items() if "." in key or key in ("prototypes", "log_scale", "centre")}
    return {**{key: value for key, value in found.items() if key not in BEGUN}, **same}


def state_after(name: str, *batches: dict[str, Any], exchange: Exchange | None = None) -> dict[str, Tensor]:
    settings = SHORT if name == "prototype" else BY_NAME[name].settings[0]
    state: dict[str, Tensor] = {}
    for tensors in batches:
        found = computed(name, {**tensors, **state}, settings, "paper", exchange or Exchange(), (4, 2))
        state = dict(found[1].state)
    return state


def mean_logits(tensors: dict[str, Any], vectors: list[Tensor]) -> Tensor:
    cosines = [[unit(tensors, "head", v) @ (c / c.norm()) for c in tensors["prototypes"]] for v in vectors]
    return torch.stack([torch.stack(one) for one in cosines]).mean(0).detach()


@pytest.mark.parametrize("name", ["local_global", "masked_prediction"])
def test_the_centre_follows_the_mean_of_the_teachers_logits(name: str) -> None:
    tensors = batch(name)
    assert len(rows_of(tensors)) < 7
    if name == "local_global":
        seen = [tensors["teacher_image"][i] for i in rows_of(tensors)]
    else:  # hidden patches and others
        seen = [patch for i in rows_of(tensors) for patch in tensors["teacher_image_tokens"][i]]
    expected = 0.9 * tensors["centre"] + 0.1 * mean_logits(tensors, seen)
    torch.testing.assert_close(state_after(name, tensors)["centre"], expected, rtol=1e-9, atol=1e-12)
    empty = {**tensors, "text_mask": torch.zeros_like(tensors["text_mask"])}
    assert torch.equal(state_after(name, empty)["centre"], tensors["centre"])


def test_an_episode_holds_the_rows_that_have_a_text_by_their_ids() -> None:
    tensors = batch("prototype")
    rows = rows_of(tensors)
    backwards = {key: value.flip(0) if key in BY_ROW else value for key, value in tensors.items()}
    for of in (tensors, backwards):
        state = state_after("prototype", of)
        assert int(state["filled"]) == len(rows) and not state["rounds"]
        image = torch.stack([unit(tensors, "image", tensors["image"][i]) for i in rows])
        text = torch.stack([unit(tensors, "text", tensors["text"][i, slots_of(tensors, i)[0]]) for i in rows])
        torch.testing.assert_close(state["episode_image"][: len(rows)], image.detach().float())
        torch.testing.assert_close(state["episode_text"][: len(rows)], text.detach().float())
        assert not state["episode_image"][len(rows) :].any()


def test_clusters_are_found_at_an_episodes_end_and_then_cost_something() -> None:
    first, second = batch("prototype"), batch("prototype", seed=1)
    assert len(rows_of(first)) < EPISODE <= len(rows_of(first)) + len(rows_of(second))
    found = loss_by_name("prototype", first, SHORT).total
    assert found == 0 and not any(gradient.any() for gradient in gradients(found, first).values())
    state = state_after("prototype", first, second)
    assert int(state["rounds"]) == 1 and int(state["filled"]) == 0
    for own, of, translated in (("image", "text", "image_of_text"), ("text", "image", "text_of_image")):
        points, other = state[f"episode_{own}"], state[f"episode_{of}"]
        apart = torch.cdist(other, state[f"{of}_centroids"])
        for cluster in range(3):
            there = apart.argmin(1) == cluster
            expected = points[there].mean(0) if there.any() else torch.zeros(PROJECTED)
            torch.testing.assert_close(state[translated][cluster], expected)
            # Lloyd's algorithm came to rest.
            torch.testing.assert_close(state[f"{of}_centroids"][cluster], other[there].mean(0))
    later = {**first, **{name: state[name] for name in BEGUN}}
    exact = {name: value.double() if value.is_floating_point() else value for name, value in later.items()}
    torch.testing.assert_close(loss_by_name("prototype", exact, SHORT).total, prototype(exact, SHORT, "paper"))


def _states(rank: int) -> dict[str, dict[str, Tensor]]:
    exchange = open_exchange("gather")(0)
    return {
        name: state_after(name, *(part(batch(name, seed), SHARES[rank], 4) for seed in range(2)), exchange=exchange)
        for name in ("local_global", "masked_prediction", "prototype")
    }


@pytest.mark.slow
def test_ranks_keep_what_one_process_does_and_all_the_same() -> None:
    found = run_on_ranks(2, _states)
    for name, state in found[0].items():
        alone = state_after(name, *(batch(name, seed) for seed in range(2)))
        for key, value in state.items():
            assert torch.equal(value, found[1][name][key]), key
            torch.testing.assert_close(value, alone[key], rtol=1e-5, atol=1e-6, msg=key)
    assert found[0]["prototype"]["rounds"] == 1


def blobs(sizes: list[int]) -> Tensor:
    """Points around the corners of a wide square."""
    random = torch.Generator().manual_seed(3)
    corners = torch.tensor([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0], [9.0, 9.0]])
    return torch.cat([corner + torch.randn(n, 2, generator=random) for corner, n in zip(corners, sizes, strict=False)])


def test_k_means_finds_what_lies_apart() -> None:
    points = blobs([20, 30, 10, 25])
    how = {"iterations": 20, "seed": 6, "exchange": Exchange()}  # the first two starts end badly
    for tile in ((1024, 2048), (7, 3)):
        found = clusters(points, 4, restarts=10, tile=tile, **how)  # type: ignore[arg-type]
        assert sorted(found.label_N.bincount().tolist()) == [10, 20, 25, 30]
        assert all(len(set(some.tolist())) == 1 for some in torch.split(found.label_N, [20, 30, 10, 25]))
        torch.testing.assert_close(found.centroid_CE, means_by_label(points, found.label_N, 4))
    far = [
        float((points - one.centroid_CE[one.label_N]).square().sum())
        for one in (clusters(points, 4, restarts=n, tile=(9, 9), **how) for n in (1, 2, 4, 10))  # type: ignore[arg-type]
    ]
    assert far == sorted(far, reverse=True) and far[0] > far[-1]


def test_a_cluster_without_points_keeps_its_centroid() -> None:
    # Two of three centroids begin at one place, where the first of them takes all points.
    points = torch.tensor([[0.0], [0.0], [8.0]])
    found = clusters(points, 3, iterations=5, restarts=1, seed=0, exchange=Exchange(), tile=(9, 9))
    assert sorted(found.centroid_CE[:, 0].tolist()) == [0.0, 0.0, 8.0]
    assert sorted(found.label_N.bincount(minlength=3).tolist()) == [0, 1, 2]
    assert means_by_label(points, torch.tensor([0, 0, 2]), 4)[:, 0].tolist() == [0, 0, 8, 0]


def test_more_clusters_than_rows_are_refused() -> None:
    few = {"objective": {"name": "prototype", "clusters": 30, "episode": 20}}
    with pytest.raises(RecipeError, match=r"a row for each cluster.*\n.*clusters: 30, episode: 20"):
        LossConfig.checked({"terms": {"prototype": few}}, at="loss")


def test_captioning_asks_for_one_of_two_tensors() -> None:
    tensors = tensors_of(BY_NAME["captioning"], 4, 2, 6)
    found = loss_by_name("captioning", tensors).total
    shares = tensors["caption_logits"].log_softmax(-1)
    losses = -shares.gather(-1, tensors["caption_labels"].clamp(min=0)[..., None])[..., 0]
    logits = tensors.pop("caption_logits")
    again = loss_by_name("captioning", {**tensors, "caption_losses": losses}).total
    torch.testing.assert_close(again, found)
    assert logits.shape[-1] > C
    with pytest.raises(RecipeError, match="caption_losses or caption_logits"):
        loss_by_name("captioning", tensors)


def test_clusters_that_are_given_count_as_found() -> None:
    entry = BY_NAME["prototype"]
    tensors = tensors_of(entry, 5, 2, 6)
    few = {name: value for name, value in tensors.items() if name != "rounds"}
    found = loss_by_name("prototype", few, entry.settings[0]).total
    assert found == loss_by_name("prototype", tensors, entry.settings[0]).total != 0
    del few["text_of_image"]
    with pytest.raises(RecipeError, match="without text_of_image"):
        loss_by_name("prototype", few, entry.settings[0])
