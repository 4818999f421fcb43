"""Each gate on texts written for this test: what it refuses, and what looks like it and stays."""

from __future__ import annotations

import doctest
import importlib
from typing import Any

import pyarrow as pa
import pytest

from curation.gates.gate import GATES, Verdict, Written
from curation.gates.opener_gate import without_opener
from curation.gates.quotation_gate import part_distance
from pairmill.errors import RecipeError


def written(text: str, **given: Any) -> Written:
    """A short English text of a row with the alt text `alt`; other columns by their names."""
    fields: dict[str, Any] = {"kind": "short", "language": "en", "prompt_id": "short", "model": "m", "score": None}
    fields |= {name: given.pop(name) for name in (*fields, "at", "source") if name in given}
    row = {"caption": given.pop("alt", ""), "language": given.pop("alt_language", "en"), **given}
    return Written(**{"text": text, "at": 1, "source": None, "row": row, **fields})


def asked(name: str, *texts: Written, **keys: Any) -> list[Verdict]:
    gate = GATES.get(name)
    return list(gate(gate.Config.checked({"name": name, **keys}))(texts))


def refused(name: str, *texts: Written, **keys: Any) -> list[bool]:
    return [verdict.refused for verdict in asked(name, *texts, **keys)]


@pytest.mark.parametrize("name", ["opener_gate", "number_gate", "quotation_gate", "name_gate"])
def test_examples_in_docstrings(name: str) -> None:
    found = doctest.testmod(importlib.import_module(f"curation.gates.{name}"))
    assert found.attempted and not found.failed


OPENERS = {
    "The image shows a red apple on a table.": "A red apple on a table.",
    "The picture depicts that the shop is closed.": "The shop is closed.",
    "In this image, there is a dog.": "A dog.",
    "In this image we can see a man.": "A man.",
    "In the picture, a woman stands.": "A woman stands.",
    "This is a picture of two cats.": "Two cats.",
    "This is a black and white photograph of a bridge.": "A bridge.",
    "a picture of a dog": "a dog",
    "Sure! Here's a caption: The photo depicts a bird.": "A bird.",
    "**Caption:** a dog": "a dog",
    "这张图片展示了一只狗。": "一只狗。",
    "在这张图片中，我们可以看到一个男人": "一个男人",
    "图中有一只狗": "一只狗",
    "這張照片顯示了一隻貓": "一隻貓",
    "この画像には、犬が写っています": "犬が写っています",
    "이 이미지에는 개가 있습니다": "개가 있습니다",
    "Das Bild zeigt einen Hund.": "Einen Hund.",
    "L'image montre un chien": "Un chien",
    "La imagen muestra un perro": "Un perro",
    "На этой фотографии изображена собака": "Собака",
}
NO_OPENERS = [
    *("picture frame", "Photo of the year award", "The photo was taken in Paris", "image", "A painting of a dog"),
    *("A screenshot of a game", "camera with flash", "there is a dog in the grass", "The image", "Caption"),
    *("画面中央是一座塔", "图书馆", "照片墙", "Bilderrahmen", "A sure bet", "Imagen", "фотография"),
]


@pytest.mark.parametrize(("text", "left"), OPENERS.items())
def test_an_opener_is_stripped(text: str, left: str) -> None:
    assert asked("opener", written(text)) == [Verdict(False, text=left)]


@pytest.mark.parametrize("text", NO_OPENERS)
def test_what_only_looks_like_an_opener_stays(text: str) -> None:
    assert without_opener(text) == text


def test_a_text_that_is_only_an_opener_is_refused() -> None:
    assert refused("opener", written("The image shows."), written("这张照片展示了：…")) == [True, True]


def test_another_language_is_refused_and_an_uncertain_one_is_not() -> None:
    french = written("un chien qui court sur la plage avec une balle rouge")
    chinese = written("一只狗在海滩上奔跑", language="zh")
    texts = [french, french._replace(language="fr"), chinese, chinese._replace(language="en")]
    assert refused("language", *texts) == [True, False, False, True]
    assert refused("language", written("piano"), written("123"), chinese._replace(language=None)) == [False] * 3
    assert refused("language", french, min_share=0.0) == [False]
    (verdict,) = asked("language", french)
    assert verdict.value is not None and verdict.value < 0.01


def test_a_length_is_bounded_by_kind() -> None:
    texts = [written("a " * 61), written("a " * 60), written("…"), written("a " * 61, kind="long")]
    assert asked("length", *texts) == [Verdict(True, 61.0), Verdict(False), Verdict(True, 0.0), Verdict(False)]
    assert refused("length", written("一只狗"), words={"short": [4, None]}) == [True], "characters count as words"
    assert refused("length", written("a dog"), words={}, characters={"short": [None, 4]}) == [True]
    with pytest.raises(RecipeError, match="the least must be at most the most"):
        asked("length", words={"short": [9, 1]})


def test_the_improbable_are_refused_for_each_prompt() -> None:
    sure = [written("a dog", score=-0.1 - at / 1000) for at in range(100)]
    unsure = [written("a cat", score=-2.0 - at / 1000, prompt_id="long") for at in range(100)]
    keys = {"quantile": 0.02, "min_texts": 100}
    assert [at for at, one in enumerate(refused("log_probability", *sure, *unsure, **keys)) if one] == [
        98,
        99,
        198,
        199,
    ]
    assert not any(refused("log_probability", *sure[:99], **keys)), "fewer texts say nothing"
    assert asked("log_probability", written("a", score=-1.5), written("a"), least=-1.0) == [
        Verdict(True, -1.5),
        Verdict(False),
    ]
    assert refused("log_probability", written("a", score=-1.5), least=-2.0) == [False]
    with pytest.raises(RecipeError, match="least or quantile must be set"):
        asked("log_probability")


def test_equal_scores_are_all_kept() -> None:
    assert not any(refused("log_probability", *[written("a", score=-1.0)] * 500, quantile=0.5))


def test_what_does_not_fit_the_picture_is_refused() -> None:
    scores = {"score_clip_texts": [0.3, 0.2, None]}
    low, none = written("a", at=1, alt="b", **scores), written("a", at=2, alt="b", **scores)
    keys = {"encoder": "clip"}
    assert asked("image_text_score", low, none, least=0.25, **keys) == [Verdict(True, 0.2), Verdict(False)]
    assert refused("image_text_score", low, least=0.1, **keys) == [False]
    assert refused("image_text_score", low, margin=0.05, **keys) == [True]
    assert refused("image_text_score", low, margin=0.15, **keys) == [False]
    other = low._replace(language="zh")
    assert refused("image_text_score", other, margin=0.0, **keys) == [False], "cosines of two languages differ anyway"
    assert refused("image_text_score", low._replace(row={**low.row, "score_clip_texts": None}), least=1, **keys) == [
        False
    ]
    with pytest.raises(RecipeError, match="least or margin must be set"):
        asked("image_text_score", **keys)


@pytest.mark.parametrize(
    ("text", "alt", "shown", "value"),
    [
        ("A bus of 1984", "a bus", "", 1984.0),
        ("A bus of 1984", "London bus, 1984", "", None),
        ("A bus of 1984", "a bus", "LINE 7\n1984", None),
        ("A bus of 1984", "a bus", "19\n84", None),
        ("A bus of 1984", "a bus", None, None),
        ("A bus of 1984", "a bus of 1989", None, 1984.0),
        ("12 balloons", "balloons", "", None),
        ("21 balloons", "balloons", "", 21.0),
        ("A price of $12.50", "lunch", "", 12.5),
        ("A price of 12,50", "lunch for 12.5", "", None),
        ("1,000 people", "1000 people", "", None),
        ("An F16 over the sea", "a jet", "", None),
        ("９９ red balloons", "99 balloons", "", None),
        ("9" * 5000, "a dog", "", float("inf")),
    ],
)
def test_a_number_that_nothing_knows_of_is_refused(text: str, alt: str, shown: str | None, value: float | None) -> None:
    (verdict,) = asked("numbers", written(text, alt=alt, words_text=shown), ocr="words")
    assert verdict == Verdict(value is not None, value)


def test_numbers_are_compared_with_the_alt_text_alone_where_it_has_some() -> None:
    texts = [written("A bus of 1984", alt=alt) for alt in ("a bus", "a bus of 1989", "a bus of 1984", "2 buses")]
    assert refused("numbers", *texts) == [False, True, False, False]


@pytest.mark.parametrize(
    ("text", "shown", "value"),
    [
        ('A sign that says "STOP"', "STOP", None),
        ('A sign that says "STOP"', "st0p", None),
        ('A sign that says "STOP"', "YIELD", 1.0),
        ('A sign that says "STOP"', "", 1.0),
        ('A sign that says "STOP"', None, None),
        ("A sign that says 'STOP'", "GO", 0.75),
        ("A sign with the words “Road closed”", "x\nROAD\nCLOSED", None),
        ("A sign with the words “Road closed”", "Bakery", 0.8),
        ('A scene of the film "Psycho"', "", None),
        ('A sign that says "A"', "", None),
        ('A sign that says "one" and "two"', "one", 2 / 3),
        ("牌子上写着“停车”", "", None),
        ("牌子上写着“禁止停车”", "出口", 1.0),
        ("It's the dog's bowl, and it's Tom's", "", None),
    ],
)
def test_a_quotation_that_is_not_shown_is_refused(text: str, shown: str | None, value: float | None) -> None:
    (verdict,) = asked("rendered_text", written(text, words_text=shown), ocr="words")
    assert verdict == Verdict(value is not None, None if value is None else pytest.approx(value))


def test_the_distance_of_a_part() -> None:
    assert [part_distance("stop", text) for text in ("stop", "a stop sign", "stp", "", "xyz")] == [0, 0, 1, 4, 4]


@pytest.mark.parametrize(
    ("text", "alt", "is_refused"),
    [
        ("A statue of Queen Victoria in a park", "a statue", True),
        ("A statue of Queen Victoria in a park", "Queen Victoria statue", False),
        ("A Bavarian castle near Lake Constance", "castle at lake constance", False),
        ("Barack Obama speaks to people in a hall", "a speech", True),
        ("The Dog runs in a park", "a dog", False),
        ("In London a bus stops at the corner", "a bus", False),
        ("A Man With A Hat", "a man", False),
        ("Man Riding a Horse", "a man", False),
        ("Scissors with John Lindqvist", "scissors", True),
        ("a man in new york city", "a man", False),
        ("A picture of the Palace of Justice in the rain", "a palace", False),
        ("女王像", "statue", False),
    ],
)
def test_a_name_that_nothing_knows_of_is_refused(text: str, alt: str, is_refused: bool) -> None:
    assert refused("names", written(text, alt=alt)) == [is_refused]
    german = written(text, alt=alt, language="de")
    assert refused("names", german) == [False], "every German noun has a capital"


def test_text_in_the_picture_is_evidence_for_a_name() -> None:
    text = written("A cup of Acme Coffee on a table", alt="a cup", words_text="ACME")
    assert [refused("names", text), refused("names", text, ocr="words")] == [[True], [False]]


@pytest.mark.parametrize("name", ["numbers", "rendered_text", "names"])
def test_a_reader_must_be_a_head_that_reads(name: str) -> None:
    gate = GATES.get(name)
    made = gate(gate.Config.checked({"name": name, "ocr": "wordz"}))
    with pytest.raises(RecipeError, match=r"must name an entry of `score` with the head ocr(?s:.)*words"):
        made.check({"words_text": pa.string(), "wordz_text": pa.float32()})
