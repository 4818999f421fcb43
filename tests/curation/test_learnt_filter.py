"""Filters learnt from examples: what they learn, and what their figures say."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from curation.embedding.vectors import vector_column
from curation.heads.learnt_filter import FEWEST, Pairs, auc, fit, roc, save_head
from curation.heads.mlp import Mlp, MlpConfig
from pairmill.errors import InputError

D = 16


def pairs(count: int, seed: int, agreement: float, name: str) -> Pairs:
    """Pairs whose caption follows the picture more or less."""
    rng = np.random.default_rng(seed)
    images = rng.standard_normal((count, D))
    texts = agreement * images + (1 - agreement) * rng.standard_normal((count, D))
    images, texts = (one / np.linalg.norm(one, axis=1, keepdims=True) for one in (images, texts))
    return Pairs(images.astype(np.float16), texts.astype(np.float16), [f"{name}{at}" for at in range(count)])


def test_the_area_is_the_share_of_pairs_in_the_right_order() -> None:
    yes, no = np.array([0.2, 0.5, 0.5, 0.9]), np.array([0.1, 0.5, 0.7])
    wins = [1.0 if a > b else 0.5 if a == b else 0.0 for a, b in itertools.product(yes, no)]
    assert auc(yes, no) == pytest.approx(sum(wins) / len(wins))


def test_thresholds_keep_the_share_of_ordinary_pairs_that_they_say() -> None:
    no = np.arange(1000) / 1000
    for point in roc(no + 0.3, no):
        assert point["ordinary_kept"] == (no >= point["threshold"]).mean()
        assert point["good_kept"] == (no + 0.3 >= point["threshold"]).mean()
    assert [round(point["ordinary_kept"], 2) for point in roc(no, no)] == [0.01, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5]


def test_it_learns_agreement_and_scores_as_its_file_does(tmp_path: Path) -> None:
    good, ordinary = pairs(3000, 1, 0.6, "g"), pairs(5000, 2, 0.0, "o")
    fitted = fit(good, ordinary)
    assert fitted.figures["auc"] > 0.95
    low, high = fitted.figures["auc_95"]
    assert low < fitted.figures["auc"] < high
    assert fitted.figures["good"]["fitted"] + fitted.figures["good"]["held_out"] == 3000
    assert 0.15 < fitted.figures["good"]["held_out"] / 3000 < 0.25
    save_head(fitted, tmp_path / "head.safetensors", {"good pairs": "made up"})
    head = Mlp.load(MlpConfig(name="mlp", embedding="x", weights=tmp_path / "head.safetensors"))
    there = np.ones(2, bool)
    for kind, expected in ((good, 1), (ordinary, 0)):
        both = [vector_column(v[:2], there) for v in (kind.images, kind.texts)]
        made = head(both[0], text_embedding_x=both[1])["score"].to_pylist()
        assert all(abs(score - expected) < 0.5 for score in made)
    card = (tmp_path / "head.md").read_text(encoding="utf-8")
    assert "good pairs: made up" in card and f"{fitted.figures['auc']:.3f}" in card


def test_a_perceptron_learns_what_is_not_linear() -> None:
    rng = np.random.default_rng(0)

    def ring(count: int, inner: bool, name: str) -> Pairs:
        angles = np.abs(rng.standard_normal((count, 1)))
        first = np.where(inner, 0.2, 0.9) * rng.choice([-1, 1], (count, 1))
        images = np.concatenate([first, angles, np.zeros((count, D - 2))], axis=1)
        texts = np.concatenate([np.ones((count, 1)), np.zeros((count, D - 1))], axis=1)
        return Pairs(images.astype(np.float16), texts.astype(np.float16), [f"{name}{at}" for at in range(count)])

    good, ordinary = ring(2000, True, "g"), ring(2000, False, "o")
    assert fit(good, ordinary, hidden=16).figures["auc"] > 0.95 > 0.7 > fit(good, ordinary).figures["auc"]


def test_without_a_difference_the_area_is_a_half() -> None:
    low, high = fit(pairs(2000, 5, 0.3, "g"), pairs(2000, 6, 0.3, "o")).figures["auc_95"]
    assert low < 0.52 and high > 0.48


def test_it_is_the_same_every_time_and_follows_the_keys_not_the_order() -> None:
    good, ordinary = pairs(300, 1, 0.6, "g"), pairs(300, 2, 0.0, "o")
    one, two = fit(good, ordinary), fit(good, ordinary)
    assert one.figures == two.figures
    for (a, b), (c, d) in zip(one.layers, two.layers, strict=True):
        np.testing.assert_array_equal(a, c)
        np.testing.assert_array_equal(b, d)
    back = Pairs(good.images[::-1], good.texts[::-1], good.keys[::-1])
    assert fit(back, ordinary).figures["good"] == one.figures["good"]


def test_too_few_examples_are_refused() -> None:
    with pytest.raises(InputError, match=f"there must be {FEWEST} good pairs or more"):
        fit(pairs(FEWEST - 1, 1, 0.5, "g"), pairs(100, 2, 0.0, "o"))


def test_scores_of_a_pair_without_a_caption_are_null(tmp_path: Path) -> None:
    save_head(fit(pairs(200, 1, 0.6, "g"), pairs(200, 2, 0.0, "o")), tmp_path / "h.safetensors", {})
    head = Mlp.load(MlpConfig(name="mlp", embedding="x", weights=tmp_path / "h.safetensors"))
    one = pairs(2, 3, 0.5, "x")
    made = head(
        vector_column(one.images, np.array([True, True])),
        text_embedding_x=vector_column(one.texts[:1], np.array([False, True])),
    )
    assert made["score"].is_valid().to_pylist() == [False, True] and made["score"].type == pa.float32()


def test_examples_that_are_repeated_or_no_numbers_count_once_or_not() -> None:
    ordinary, good = pairs(200, 2, 0.0, "o"), pairs(60, 1, 0.6, "g")
    again = Pairs(np.repeat(good.images[:1], 80, 0), np.repeat(good.texts[:1], 80, 0), [good.keys[0]] * 80)
    with pytest.raises(InputError, match="all different"):
        fit(again, ordinary)
    images = good.images.copy()
    images[:20] = np.nan
    with pytest.raises(InputError, match="40 with a picture"):
        fit(Pairs(images, good.texts, good.keys), ordinary)
