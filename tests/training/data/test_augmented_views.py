"""What CLIP-Rocket does to views: hues that turn, and captions with words left out and swapped (`eda`)."""

from __future__ import annotations

import numpy as np
import pytest
from small_datasets import picture
from test_further_views import path, some, used, words  # noqa: F401  `path` is a fixture

from pairmill.errors import RecipeError
from training.data.config import DataConfig, ViewsConfig
from training.data.eda import Eda, EdaConfig
from training.data.strong_views import changed
from training.data.text_transforms import Text

NOTHING = {"mirror_p": 0, "grey_p": 0, "blur_p": 0, "jitter_p": 1, "jitter": 0}


def turned(pixels: np.ndarray, hue: float, draw: int = 0) -> np.ndarray:
    found, _ = changed(pixels, ViewsConfig.checked({**NOTHING, "hue": hue}), np.random.default_rng(draw))
    return found


def test_hues_turn_and_grey_stays() -> None:
    red = np.full((4, 4, 3), (255, 0, 0), np.uint8)
    found = {tuple(turned(red, 0.1, draw)[0, 0].tolist()) for draw in range(30)}
    assert len(found) > 10
    for r, g, b in found:  # a tenth of the circle is 36 degrees: to orange or to pink, not to green or blue
        assert r == 255 and min(g, b) == 0 and max(g, b) <= 255 * 36 / 60 + 1
    grey = np.full((4, 4, 3), 90, np.uint8)
    assert np.array_equal(turned(grey, 0.5), grey)


def test_without_a_hue_views_are_what_they_were() -> None:
    pixels, plain = picture(0), ViewsConfig.checked({})
    rng, other = np.random.default_rng(4), np.random.default_rng(4)
    changed(pixels, plain, rng)
    other.random(8)
    assert rng.random() == other.random()
    assert "hue" not in plain.identity() and "transforms" not in plain.identity()
    assert ViewsConfig.checked({"hue": 0.1}).identity()["hue"] == 0.1


def edit(text: str, draw: int = 0, **keys: object) -> str:
    [found] = Eda(EdaConfig.checked({"name": "eda", **keys}))(Text(text, "en", "alt"), np.random.default_rng(draw))
    return found.text


def test_stop_words_go_whatever_their_case_and_marks() -> None:
    assert edit("The dog, and THE cat.", stop_p=1, swap=0, delete=0, keep=1) == "dog, cat."
    assert edit("the dog", stop_p=0, swap=0, delete=0, keep=1) == "the dog"
    assert edit("to be or not to be", stop_p=1, swap=0, delete=0, keep=1) == "to be or not to be"
    assert edit("le chat", stop_p=1, stop_words=["le"], swap=0, delete=0, keep=1) == "chat"


def test_two_words_change_places() -> None:
    text = "one two three four"
    found = [edit(text, draw, stop_p=0, delete=0).split() for draw in range(30)]
    assert all(sorted(one) == sorted(text.split()) for one in found)
    moved = {sum(a != b for a, b in zip(one, text.split(), strict=True)) for one in found}
    assert moved == {0, 2}


def test_words_are_left_out_at_random_but_never_all() -> None:
    text = " ".join(f"w{number}" for number in range(100))
    left = [len(edit(text, draw, stop_p=0, swap=0).split()) for draw in range(30)]
    assert 85 < np.mean(left) < 95
    assert edit("lonely", stop_p=0, swap=0, delete_p=1) == "lonely"


def test_weights_choose_among_the_edits() -> None:
    text, kinds = " ".join(f"w{number}" for number in range(100)), []
    for draw in range(300):
        made = edit(text, draw, stop_p=1, keep=0.4).split()
        kinds.append("delete" if len(made) < 100 else "keep" if made == text.split() else "swap")
    assert [kinds.count(kind) / 300 for kind in ("swap", "keep", "delete")] == pytest.approx([0.4, 0.4, 0.2], abs=0.1)


def test_an_edit_without_weights_is_refused() -> None:
    with pytest.raises(RecipeError, match="must not all be 0"):
        EdaConfig.checked({"name": "eda", "swap": 0, "delete": 0})


def test_texts_of_views_are_edited_each_by_itself_and_no_others(path: str) -> None:  # noqa: F811  the fixture
    whole = {"name": "eda", "stop_p": 0, "delete": 0}
    keys = {"texts": [[{"kind": "long"}]], "views": {"number": 4}}
    plain, _ = some(used(path, **keys), 6, views=True)
    made, _ = some(used(path, **{**keys, "views": {"number": 4, "transforms": [whole]}}), 6, views=True)
    orders = set()
    for one, other in zip(plain, made, strict=True):
        assert np.array_equal(one.tokens_BKL[:, 0], other.tokens_BKL[:, 0])
        assert np.array_equal(one.asked["image_views"], other.asked["image_views"])
        for row in np.flatnonzero(one.row_valid_B):
            before = [words(tokens).split() for tokens in one.tokens_BKL[row, 1:]]
            after = [words(tokens).split() for tokens in other.tokens_BKL[row, 1:]]
            assert [sorted(text) for text in before] == [sorted(text) for text in after]
            orders.add(tuple(a == b for a, b in zip(before, after, strict=True)))
    assert len(orders) > 4


def test_a_resumed_run_edits_them_as_one_that_never_stopped(path: str) -> None:  # noqa: F811  the fixture
    config = used(path, views={"number": 2, "hue": 0.1, "transforms": ["eda"]})
    whole, _ = some(config, 7, views=True)
    again, _ = some(config, 3, start=4, views=True)
    for one, other in zip(whole[4:], again, strict=True):
        assert np.array_equal(one.tokens_BKL, other.tokens_BKL)
        assert np.array_equal(one.asked["image_views"], other.asked["image_views"])


def test_a_transform_of_views_is_named_as_those_of_texts() -> None:
    with pytest.raises(RecipeError, match="perhaps you mean: eda"):
        DataConfig.checked({"path": "x", "views": {"transforms": ["ead"]}})
