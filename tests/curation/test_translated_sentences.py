from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.translated_sentences import Block, blocks, count_sentences, ended, joined, requests_of
from curation.whole_sentences import sentences


def parts(text: str, language: str = "en") -> list[str]:
    return [one for block in blocks(text, language) for one in block.sentences]


@pytest.mark.parametrize(
    ("language", "text", "expected"),
    [
        ("en", "", []),
        ("en", "a red apple", ["a red apple"]),
        ("en", "Dr. Who runs. It is 3.5 km! Is it?", ["Dr. Who runs.", "It is 3.5 km!", "Is it?"]),
        ("en", "a dog runs. it is brown. and then", ["a dog runs.", "it is brown.", "and then"]),
        ("en", '"Stop!" he said. He ran.', ['"Stop!" he said.', "He ran."]),
        ("en", '"Stop!" He ran.', ['"Stop!"', "He ran."]),
        ("en", "12. A dog. A cat.", ["12. A dog.", "A cat."]),
        ("en", "It was built in 1984. It burnt.", ["It was built in 1984.", "It burnt."]),
        ("en", "It ends. !", ["It ends. !"]),
        ("en", "!", ["!"]),
        ("de", "Am 13. Mai. Am 3. Juni 1984. Ende", ["Am 13. Mai.", "Am 3. Juni 1984.", "Ende"]),
        ("en", "She is 13. He is 12.", ["She is 13.", "He is 12."]),
        ("zh", "一只狗。“停！”他说。 猫？是", ["一只狗。", "“停！”", "他说。", "猫？", "是"]),
        ("ja", "「犬。」猫。", ["「犬。」", "猫。"]),
        ("hi", "एक कुत्ता। एक बिल्ली।", ["एक कुत्ता।", "एक बिल्ली।"]),
        ("ar", "كلب يجري. أين القط؟ هناك", ["كلب يجري.", "أين القط؟", "هناك"]),
        ("ur", "ایک کتا۔ ایک بلی۔", ["ایک کتا۔", "ایک بلی۔"]),
        ("am", "ውሻ። ድመት።", ["ውሻ።", "ድመት።"]),
        ("hy", "Շուն։ Կատու։", ["Շուն։", "Կատու։"]),
        ("my", "ခွေး။ကြောင်။", ["ခွေး။", "ကြောင်။"]),
        ("th", "สุนัขวิ่ง แมวนอน", ["สุนัขวิ่ง แมวนอน"]),
    ],
)
def test_sentences_by_script(language: str, text: str, expected: list[str]) -> None:
    assert parts(text, language) == expected
    assert count_sentences(text, language) == len(expected)


def test_lines_and_items_of_lists_come_back_as_they_were() -> None:
    text = "A dog\nruns. A cat.\n\nA list:\n- one\n- two\n\n\nThe end."
    assert blocks(text, "en") == [
        Block("", ["A dog\nruns.", "A cat."]),
        Block("\n\n", ["A list:"]),
        Block("\n", ["- one"]),
        Block("\n", ["- two"]),
        Block("\n\n", ["The end."]),
    ]
    assert joined(blocks(text, "en"), "de") == "A dog\nruns. A cat.\n\nA list:\n- one\n- two\n\nThe end."


@pytest.mark.parametrize(
    ("source", "text", "target", "expected"),
    [
        ("A dog.", "一只狗", "zh", "一只狗。"),
        ("A dog.", "一只狗，", "zh-hant", "一只狗。"),
        ("A dog?", "一只狗", "ja", "一只狗？"),
        ("A dog!”", "一只狗", "zh", "一只狗！"),
        ("一只狗。", "a dog", "en", "a dog."),
        ("A dog.", "एक कुत्ता", "hi", "एक कुत्ता।"),
        ("A dog?", "كلب", "ar", "كلب؟"),
        ("A dog.", "สุนัข", "th", "สุนัข"),
        ("A dog.", "Ein Hund!“", "de", "Ein Hund!“"),
        ("A dog", "Ein Hund", "de", "Ein Hund"),
    ],
)
def test_a_sentence_ends_with_a_mark_of_its_language(source: str, text: str, target: str, expected: str) -> None:
    assert ended(text, source, target) == expected


def test_a_latin_mark_keeps_its_space_in_chinese() -> None:
    assert joined([Block("", ["一只狗.", "一只猫。", "鸟"])], "zh") == "一只狗. 一只猫。鸟"
    assert joined([Block("", ["Ein Hund.", "Eine Katze."])], "de") == "Ein Hund. Eine Katze."


_WORDS = {
    "en": (st.sampled_from(["dog", "the", "Red", "3.5", "runs", "U.S.A", "(left)"]), " ", ".!?"),
    "de": (st.sampled_from(["Hund", "der", "rot", "läuft", "über"]), " ", ".!?"),
    "zh": (st.sampled_from(["狗", "一只", "红", "跑", "3.5"]), "", "。！？"),
    "hi": (st.sampled_from(["कुत्ता", "एक", "लाल"]), " ", "।!?"),
}


@st.composite
def sentence_lists(draw: st.DrawFn, language: str) -> list[str]:
    word, gap, marks = _WORDS[language]
    one = st.tuples(
        st.lists(word, min_size=1, max_size=6), st.just("跑" if language == "zh" else "hund"), st.sampled_from(marks)
    )
    return [gap.join([*words, last]) + mark for words, last, mark in draw(st.lists(one, min_size=1, max_size=8))]


@pytest.mark.parametrize("language", _WORDS)
@given(data=st.data())
@settings(deadline=None, max_examples=60)
def test_joined_sentences_are_split_as_they_were(language: str, data: st.DataObject) -> None:
    given_sentences = data.draw(sentence_lists(language))
    text = joined([Block("", given_sentences)], language)
    assert parts(text, language) == given_sentences


@pytest.mark.parametrize("target", _WORDS)
@given(data=st.data())
@settings(deadline=None, max_examples=60)
def test_as_many_sentences_come_back_from_a_translator_that_drops_marks(target: str, data: st.DataObject) -> None:
    source = data.draw(sentence_lists("en"))
    word, gap, _ = _WORDS[target]
    made = [gap.join(data.draw(st.lists(word, min_size=1, max_size=5))) + gap + "hund" for _ in source]
    text = joined([Block("", [ended(m, s, target) for m, s in zip(made, source, strict=True)])], target)
    assert count_sentences(text, target) == len(source)


@given(st.text(max_size=200), st.sampled_from(["en", "de", "zh", "hi", "th"]))
@settings(deadline=None, max_examples=300)
def test_nothing_of_a_text_is_lost_but_white_space(text: str, language: str) -> None:
    kept = "".join("".join(one.split()) for one in parts(text, language))
    assert kept == "".join(text.split())
    assert all(one.strip() == one and one for one in parts(text, language))


@given(st.text(alphabet="aB .!?。\n\"'12-।", max_size=80))
@settings(deadline=None, max_examples=300)
def test_a_sentence_is_not_split_again(text: str) -> None:
    assert all("\n\n" not in one for one in parts(text))
    assert joined(blocks(text, "en"), "en").split() == text.split() or "。" in text or "।" in text


def test_the_work_grows_with_the_text() -> None:
    assert count_sentences("A dog runs. " * 50_000, "en") == 50_000
    assert count_sentences("\n \n" * 50_000 + "!" * 50_000, "en") == 1


def test_marks_of_all_scripts_end_sentences_everywhere() -> None:
    assert sentences("एक कुत्ता। एक बिल्ली") == (["एक कुत्ता।"], "एक बिल्ली")


@pytest.mark.parametrize("language", ["en", "de", "zh", "ja", "hi", "ur", "am", "el", "th"])
@given(data=st.data())
@settings(deadline=None, max_examples=40)
def test_all_requests_of_a_text_are_found_whatever_its_language(language: str, data: st.DataObject) -> None:
    pieces = ["dog", "Am", "13.", "Mai", "狗。", "猫", "कुत्ता।", '"So!"', "he", "\n\n", "- ", "Is", "it?", "Yes!", "."]
    text = " ".join(data.draw(st.lists(st.sampled_from(pieces), min_size=1, max_size=12)))
    made = data.draw(st.sampled_from(["Hund", "一只狗", " dog, "]))
    assert requests_of(text) >= {text, *parts(text, language)}
    for source in parts(text, "en"):
        assert ended(made, source, language) in requests_of(made)
