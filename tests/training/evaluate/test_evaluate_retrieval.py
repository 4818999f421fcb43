import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from training.evaluate.rank_variance import mean_rank_variance
from training.evaluate.recall import chance_recall, rank_variance_metrics, recall_metrics


def unit(rows: int, dimension: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(rows, dimension, generator=generator), dim=1)


def naive_recalls(image: np.ndarray, text: np.ndarray, text_to_image: list[int], k: int) -> tuple[float, float]:
    """(image retrieval, text retrieval) by whole sorted rows: is anything that belongs together among the first k?"""
    scores = image.astype(np.float64) @ text.astype(np.float64).T
    owner = np.array(text_to_image)
    from_text = [owner[t] in np.argsort(-scores[:, t])[:k] for t in range(len(text))]
    from_image = [(owner[np.argsort(-scores[i])[:k]] == i).any() for i in range(len(image))]
    return float(np.mean(from_text)), float(np.mean(from_image))


def test_recall_both_ways_equals_a_naive_one_with_several_texts_an_image() -> None:
    image, text = unit(40, 8, 0), unit(150, 8, 1)
    owner = torch.tensor([*range(40), *np.random.default_rng(2).integers(0, 40, 110).tolist()])
    metrics = recall_metrics(image, text, owner, ["en"] * 150, ["alt"] * 150, (1, 5, 10))
    for k in (1, 5, 10):
        from_text, from_image = naive_recalls(image.numpy(), text.numpy(), owner.tolist(), k)
        assert metrics[f"image_retrieval_recall@{k}"] == pytest.approx(from_text)
        assert metrics[f"text_retrieval_recall@{k}"] == pytest.approx(from_image)
    assert metrics["image_retrieval_chance@1"] == pytest.approx(1 / 40)
    assert metrics["text_retrieval_chance@1"] == pytest.approx(110 / 150 / 40 + 40 / 150 / 40)


def test_equal_texts_of_two_images_are_texts_of_their_own_and_one_distinct_text() -> None:
    image = torch.nn.functional.normalize(torch.tensor([[1.0, 0.1], [1.0, -0.1], [0.0, 1.0]]), dim=1)
    text = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    labels = (torch.tensor([0, 1, 2]), ["en"] * 3, ["alt"] * 3, (1,))
    metrics = recall_metrics(image, text, *labels, key_M=torch.tensor([7, 7, 9]))
    distinct = {name.removeprefix("distinct_texts/"): n for name, n in metrics.items() if "/" in name}
    assert distinct["text_retrieval_recall@1"] == distinct["image_retrieval_recall@1"] == 1
    # Of two keys, each a positive of one or two of three images.
    assert distinct["text_retrieval_chance@1"] == pytest.approx(1 / 2)
    assert distinct["image_retrieval_chance@1"] == pytest.approx((2 / 3 + 1 / 3) / 2)
    # The first of equal texts goes first, to both images.
    assert metrics["text_retrieval_recall@1"] == pytest.approx(2 / 3)
    assert metrics["text_retrieval_chance@1"] == metrics["image_retrieval_chance@1"] == pytest.approx(1 / 3)
    apart = recall_metrics(image, text, *labels)
    assert apart["text_retrieval_recall@1"] == pytest.approx(1 / 3)  # equal embeddings tie, and a tie is a miss
    assert not any("/" in name for name in apart)


@pytest.mark.parametrize(("facet", "value"), [("language", "zh"), ("kind", "long")])
def test_a_language_or_kind_is_measured_as_a_dataset_of_its_own(facet: str, value: str) -> None:
    rng = np.random.default_rng(5)
    image, text = unit(20, 6, 3), unit(50, 6, 4)
    owner = torch.from_numpy(rng.integers(0, 20, 50))
    language, kind = rng.choice(["en", "zh"], 50).tolist(), rng.choice(["alt", "short", "long"], 50).tolist()
    whole = recall_metrics(image, text, owner, language, kind)
    rows = [m for m in range(50) if (language if facet == "language" else kind)[m] == value]
    images = sorted({int(owner[m]) for m in rows})
    alone = recall_metrics(
        image[images],
        text[rows],
        torch.tensor([images.index(int(owner[m])) for m in rows]),
        [language[m] for m in rows] if facet == "kind" else ["x"] * len(rows),
        [kind[m] for m in rows] if facet == "language" else ["x"] * len(rows),
    )
    for name in ("image_retrieval_recall@1", "text_retrieval_recall@5", "image_retrieval_chance@1"):
        assert whole[f"{facet}_{value}/{name}"] == pytest.approx(alone[name])


def test_one_language_and_kind_has_no_parts() -> None:
    metrics = recall_metrics(unit(3, 4, 0), unit(3, 4, 1), torch.arange(3), ["en"] * 3, ["alt"] * 3)
    assert not any("/" in name for name in metrics)
    assert not rank_variance_metrics(unit(3, 4, 0), unit(3, 4, 1), torch.arange(3), ["en"] * 3, ["alt"] * 3)


def test_rank_variance_by_hand() -> None:
    found = mean_rank_variance(torch.tensor([[1, 3], [2, 2], [1, 201]]))
    assert found["variance"] == pytest.approx((1 + 0 + 100**2) / 3)
    assert found["std"] == pytest.approx((1 + 0 + 100) / 3)
    assert found["variance_capped"] == pytest.approx((1 + 0 + 49.5**2) / 3)


def test_rank_variance_over_languages_of_the_images_that_have_all() -> None:
    image = torch.eye(4)
    # English is right; Chinese gives each image's text to the next, a little less to its own; image 3 has no Chinese.
    chinese = torch.nn.functional.normalize(torch.eye(4)[[1, 2, 0]] + 0.5 * torch.eye(4)[:3], dim=1)
    given_ = (
        image,
        torch.cat([torch.eye(4), chinese]),
        torch.tensor([0, 1, 2, 3, 0, 1, 2]),
        ["en"] * 4 + ["zh"] * 3,
        ["alt"] * 7,
    )
    metrics = rank_variance_metrics(*given_)
    assert metrics["mrv_language/instances"] == 3
    for direction in ("image_retrieval_", "text_retrieval_", ""):
        assert metrics[f"mrv_language/{direction}variance"] == pytest.approx(0.25)  # ranks 1 and 2
        assert metrics[f"mrv_language/{direction}std"] == pytest.approx(0.5)
    assert not any(name.startswith("mrv_kind") for name in metrics), "there is one kind only"
    assert recall_metrics(*given_)["language_zh/image_retrieval_recall@1"] == 0


def test_no_image_with_every_language_is_said_not_guessed() -> None:
    metrics = rank_variance_metrics(torch.eye(2), torch.eye(2), torch.arange(2), ["en", "zh"], ["alt", "alt"])
    assert metrics["mrv_language/instances"] == 0
    assert "mrv_language/variance" not in metrics


@given(st.lists(st.integers(0, 6), min_size=1, max_size=5), st.integers(6, 9), st.integers(1, 10))
def test_chance_is_the_hypergeometric_one(positives: list[int], keys: int, k: int) -> None:
    exact = [1 - math.comb(keys - p, min(k, keys)) / math.comb(keys, min(k, keys)) for p in positives]
    assert chance_recall(torch.tensor(positives), keys, k) == pytest.approx(sum(exact) / len(exact))


def test_random_embeddings_are_at_chance() -> None:
    metrics = recall_metrics(unit(500, 64, 8), unit(1000, 64, 9), torch.arange(1000) % 500, ["en"] * 1000, ["a"] * 1000)
    # 1000 queries at p = 0.002: within five standard deviations
    assert metrics["image_retrieval_recall@1"] == pytest.approx(0.002, abs=5 * math.sqrt(0.002 / 1000))
    assert metrics["image_retrieval_chance@1"] == pytest.approx(0.002)
