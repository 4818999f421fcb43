"""Repairing, measuring and recognising texts."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import ftfy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.filters.patterns import is_boilerplate, is_file_name, is_url
from curation.filters.text import count_words, digit_share, repair, repeat_share, tokens, width
from curation.filters.words import WordList
from pairmill.errors import RecipeError


@pytest.mark.parametrize(
    ("alt", "caption"),
    [
        ("  a\tred\n\n apple ", "a red apple"),
        ("caf\u00c3\u00a9 in Z\u00c3\u00bcrich", "café in Zürich"),
        ("un ni\u00c3\u00b1o \u00e2\u20ac\u201c playa", "un niño – playa"),
        ("Tom &amp; Jerry", "Tom & Jerry"),
        ("5 &lt; 7 &amp;quot;", '5 < 7 "'),
        ("a\x00b\x07c\x7f", "abc"),
        ("soft\u00adhyphen zero\u200bwidth\ufeff", "softhyphen zerowidth"),
        ("cafe\u0301", "café"),
        ("红苹果，很好吃！", "红苹果，很好吃！"),
        ("全角　空格", "全角 空格"),
        ("“quoted” – text…", "“quoted” – text…"),
        ("", ""),
    ],
)
def test_repair(alt: str, caption: str) -> None:
    assert repair(alt) == caption


letters = st.text(st.sampled_from("aZ é ü ñ ã Ã © € “ & ; \t 红 が 한 ， ﾊ\u0301\u00a0\u200b"), max_size=12)


@given(letters | st.text(max_size=30))
@settings(deadline=None, max_examples=300)
def test_repair_is_ftfy_also_where_it_takes_the_short_way(alt: str) -> None:
    config = ftfy.TextFixerConfig(unescape_html=True, uncurl_quotes=False, fix_character_width=False, explain=False)
    repaired = ftfy.fix_text(alt, config)
    for invisible in "\u200b\u2060\ufeff\u00ad":
        repaired = repaired.replace(invisible, "")
    assert repair(alt) == unicodedata.normalize("NFC", " ".join(repaired.split()))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", 0),
        ("a red apple", 3),
        ("T-shirt — don't!", 2),
        ("... !!", 0),
        ("红苹果", 3),
        ("红色 iPhone 手机", 5),
        ("ラーメン", 4),
        ("빨간 사과", 2),
        ("นก", 2),
        ("şehir manzarası", 2),
    ],
)
def test_count_words(text: str, words: int) -> None:
    assert count_words(text) == words


def test_wide_letters_count_two() -> None:
    assert [width(text) for text in ("apple", "红苹果", "사과 a", "é")] == [5, 6, 6, 1]


def test_digit_share_ignores_spaces() -> None:
    assert digit_share("ab 12") == 0.5
    assert digit_share("") == digit_share("ab") == 0.0


def test_repeat_share_counts_pairs_seen_before() -> None:
    assert repeat_share("buy now") == 0.0
    assert repeat_share("Buy now, buy now") == pytest.approx(1 / 3)  # buy-now, now-buy, buy-now
    assert repeat_share("哈哈哈哈哈") == 0.75
    assert repeat_share("a red apple on a wooden table") == 0.0


@given(st.text(max_size=40))
@settings(deadline=None, max_examples=200)
def test_measures_are_within_their_ranges(text: str) -> None:
    caption = repair(text)
    assert 0 <= digit_share(caption) <= 1
    assert 0 <= repeat_share(caption) < 1
    assert len(caption) <= width(caption) <= 2 * len(caption)
    assert 0 <= count_words(caption) <= len(caption)
    assert len(tokens(caption)) <= len(caption)


@pytest.mark.parametrize(
    "name",
    [
        *("IMG_1234.jpg", "IMG_1234", "DSC0001", "_DSC0012.NEF", "DSC_0001 (2)", "untitled-1.png", "Untitled"),
        *("image001.png", "image.png", "photo 2", "P1010001.JPG", "20190503_123456", "red-apple.jpg", "apple red.jpg"),
        *(
            "Screenshot 2020-01-01 at 10.00.00",
            "WhatsApp Image 2020-05-05 at 10.10.10",
            "FB_IMG_1589",
            "微信图片_20200101",
        ),
        *("a3f9c0d1e2b34455", "550e8400-e29b-41d4-a716-446655440000", "图片1", "logo.svg?v=2"),
    ],
)
def test_file_names(name: str) -> None:
    assert is_file_name(name)


@pytest.mark.parametrize(
    "caption",
    [
        *("Red apple on a table.jpg", "red apple", "image of 3 cats", "Photo 51 by Franklin", "Route 66", "deadbeef"),
        *(
            "untitled painting by Monet",
            "Capture of Rome",
            "grinning face",
            "红苹果",
            "Boeing 747",
            "图片上有三只猫",
            "",
        ),
    ],
)
def test_captions_are_no_file_names(caption: str) -> None:
    assert not is_file_name(caption)


@pytest.mark.parametrize("hostile", ["img" + "1" * 250, "img" + " -" * 120 + "x", "a " * 20_000, "0" * 50_000 + "z"])
def test_patterns_do_not_backtrack_for_ever(hostile: str) -> None:
    # With exponential backtracking, these would not return.
    assert not is_url(hostile)
    assert is_file_name(hostile) == (hostile == "img" + "1" * 250)
    assert repair(hostile) == hostile.strip()


@pytest.mark.parametrize(
    "url", ["http://a.b/c", "www.example.com", "//cdn.x/y.png", "example.com", "shop.example.co.uk/x?y=1", "图片.cn"]
)
def test_urls(url: str) -> None:
    assert is_url(url)


@pytest.mark.parametrize("caption", ["see http://a.b for apples", "e.g.", "U.S.A.", "red apple.", "and/or", ""])
def test_captions_are_no_urls(caption: str) -> None:
    assert not is_url(caption)


@pytest.mark.parametrize(
    "text",
    [
        "Click to enlarge",
        "[LOGO]",
        "No image available.",
        "stock photo",
        "点击查看大图",
        "图片来源：新华社",
        "PHOTO BY Jo",
    ],
)
def test_boilerplate(text: str) -> None:
    assert is_boilerplate(text)


@pytest.mark.parametrize("text", ["logo of a red fox", "a photo of a stock exchange", "一张猫的图片", "ad astra", ""])
def test_captions_are_no_boilerplate(text: str) -> None:
    assert not is_boilerplate(text)


def test_more_boilerplate_from_a_file(tmp_path: Path) -> None:
    more = tmp_path / "more.txt"
    more.write_text("# ours\nmade with love\ncookie notice*\n", encoding="utf-8")
    assert is_boilerplate("Made with love!", more)
    assert is_boilerplate("Cookie notice: we care", more)
    assert is_boilerplate("click to enlarge", more)
    assert not is_boilerplate("made with love in Rome", more)
    with pytest.raises(RecipeError, match="boilerplate_file"):
        is_boilerplate("x", tmp_path / "none.txt")


def test_listed_words_are_whole_words_where_there_are_spaces() -> None:
    listed = WordList(["ass", "Hot dog", "赌博", "C++", ""])
    found = [
        text
        for text in ("an ASS!", "hot-dog stand", "在线赌博网站", "ｈｏｔ　ｄｏｇ", "written in c")
        if listed.found_in(text)
    ]
    assert found == ["an ASS!", "hot-dog stand", "在线赌博网站", "ｈｏｔ　ｄｏｇ", "written in c"]
    assert not any(map(listed.found_in, ("glass class", "hotdog", "hot red dog", "赌 一 博", "", "博赌")))


def test_listed_words_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text("# bad\ncasino\n\n", encoding="utf-8")
    assert WordList.load(path).found_in("a casino at night")
    assert not WordList.load(path).found_in("# bad")
    with pytest.raises(RecipeError, match="listed_words"):
        WordList.load(tmp_path / "none.txt")
