"""Captions of any length and make are checked in time proportional to their length, and as a plain count says."""

from __future__ import annotations

import random
import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.caption_checks import checked
from curation.translation_checks import Loops, longest_loop
from curation.whole_sentences import sentences


def naive_units(text: str) -> list[str]:
    words = re.findall(r"\w+", text.lower())
    long_ones = [word for word in words if len(word) > 8 and not word.isascii()]
    return [c for c in text if c.isalnum()] if long_ones or len(words) <= 1 else words


def naive_repeats(units: list[str], size: int) -> int:
    """How often a phrase of `size` units follows itself, from every place in turn."""
    best = 0
    for at in range(len(units)):
        phrase = units[at : at + size]
        times = 0
        while len(phrase) == size and units[at + times * size : at + (times + 1) * size] == phrase:
            times += 1
        best = max(best, times)
    return best


def naive_loop(text: str) -> int:
    units = naive_units(text)
    return max((naive_repeats(units, size) for size in range(1, 9)), default=0)


def naive_phrase(text: str) -> bool:
    words = re.findall(r"\w+", text.lower())
    return any(naive_repeats(words, size) >= 3 for size in range(9, min(60, len(words) // 3) + 1))


WORDS = st.sampled_from(["a", "b", "dog", "Dog", "the", "12", "-", "哈", "红色的", "红色的自行车在墙边", "é", "!"])
TEXTS = st.builds(
    lambda words, times, gap, rest: gap.join([*words * times, *rest]),
    st.lists(WORDS, max_size=14),
    st.integers(1, 4),
    st.sampled_from([" ", "", ", "]),
    st.lists(WORDS, max_size=4),
)


@given(TEXTS)
@settings(deadline=None, max_examples=300)
def test_the_longest_loop_is_that_of_a_plain_count(text: str) -> None:
    assert longest_loop(text) == naive_loop(text)


@given(st.lists(TEXTS, max_size=6))
@settings(deadline=None, max_examples=200)
def test_a_text_that_grows_has_the_loops_of_the_whole(parts: list[str]) -> None:
    loops = Loops()
    for count, part in enumerate(parts, start=1):
        loops.add(part)
        whole = " ".join(parts[:count])
        assert loops.longest == naive_loop(whole)
        assert loops.repeats_phrase(9, 3) == naive_phrase(whole)


SENTENCES = st.sampled_from(
    [
        "A cat sits.",
        "The sky is blue.",
        "It is a cat.",
        "A dog, a dog, a dog.",
        "红色的自行车。",
        "The the the end.",
        "Ha ha!",
    ]
)


@given(st.lists(SENTENCES, max_size=12))
@settings(deadline=None, max_examples=200)
def test_of_a_text_that_loops_the_sentences_before_the_loop_stay(parts: list[str]) -> None:
    text = " ".join(parts)
    if naive_loop(text) <= 3 and not naive_phrase(text):
        assert checked(text, cut=False).fault != "repetition"
        return
    kept: list[str] = []
    for part in parts:
        before = " ".join([*kept, part])
        if part in kept or naive_loop(before) > 3 or naive_phrase(before):
            break
        kept.append(part)
    assert checked(text, cut=False) == (" ".join(kept), "repetition")


def _drawn(words: str, count: int) -> str:
    chance = random.Random(1)
    return " ".join(chance.choice(words.split()) for _ in range(count))


#: Each of 200,000 characters, far beyond any caption: what takes time by the square of the length takes minutes here.
LONG = {
    "words": _drawn("a cat on the red roof of house and sky", 45_000),
    "one word": "dog " * 50_000,
    "one letter": "a" * 200_000,
    "characters": _drawn("猫 狗 红 天", 100_000).replace(" ", ""),
    "sentences": " ".join(f"A cat {n} sits on mat {n * 7}." for n in range(7_000)),
    "sentences, then a loop": " ".join(f"A cat {n} sits on mat {n * 7}." for n in range(7_000)) + " so" * 9,
    "one sentence often": "A cat sits on the mat. " * 8_700,
    "full stops": "a" + "." * 199_990 + "x",
    "abbreviations": "St. " * 50_000,
    "letters with full stops": "a. b. " * 33_000,
    "quotes": '."' * 100_000 + "x",
    "one mark and quotes": "a." + '"' * 199_990 + "x",
    "marks of Chinese": "。」" * 100_000,
    "spaces": "a" + " " * 199_990 + "b",
    "line ends": "a" + "\n" * 199_990 + "b",
    "commas": "a, " * 66_000,
    "exclamations": "!" * 199_999 + "a",
    "begins of reasoning": "<think>" * 28_000,
    "ends of reasoning": "</think>" * 25_000,
    "blocks of reasoning": "<think>a</think>" * 12_500,
    "tags apart": "<answer>" + (" " * 100 + "<answer>") * 1_800 + "a",
    "half a tag": "<" * 200_000,
}


@pytest.mark.parametrize("name", LONG)
@pytest.mark.parametrize("cut", [False, True])
def test_a_long_text_is_checked_in_bounded_time(name: str, cut: bool) -> None:
    began = time.process_time()
    found = checked(LONG[name], cut=cut)
    whole, rest = sentences(LONG[name])
    assert time.process_time() - began < 20
    assert found.text in LONG[name]
    assert sum(map(len, whole)) + len(rest) <= len(LONG[name])


@pytest.mark.parametrize("pairs", [10, 40, 400])
def test_words_before_a_thought_are_read_in_one_way(pairs: int) -> None:
    """Each `so` could be one more such word, or go with the word before it: twice as many ways with every pair."""
    words = " ".join(f"{word} so" for word in _drawn("okay well right wait hmm", pairs).split())
    began = time.process_time()
    assert checked(f"{words} a cat", cut=False).fault in (None, "repetition")
    assert time.process_time() - began < 20
    assert checked("okay so well, so the user wants a caption of a cat", cut=False).fault == "reasoning"
    assert checked("Alright, so, let me think.", cut=False).fault == "reasoning"
