"""Texts as sets of n-grams, against a reading of the rules one character at a time."""

from __future__ import annotations

import unicodedata

import numpy as np
import pyarrow as pa
import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.duplicates import shingles
from curation.duplicates.shingles import distinct, folded, jaccard, portions, sketches

TEXTS = st.text(st.sampled_from("abcdé ,.!-中国汽车カぞ한ไทยสر\n\t\u200d\u00ad\ufe0f❤🚗ＡẞΣ½"), max_size=30) | st.text(
    max_size=20
)


def naive_fold(text: str) -> str | None:
    text = unicodedata.normalize("NFKC", text).casefold()
    seen = [c for c in text if not regex.match(r"\p{Default_Ignorable_Code_Point}", c)]
    spaced = "".join(" " if regex.match(r"[\p{P}\p{Z}\p{Cc}]", c) else c for c in seen)
    return " ".join(word for word in spaced.split(" ") if word) or None


def naive_shingles(text: str, ngram: int = 4, dense: int = 2) -> set[str]:
    """The n-grams of a folded text."""
    padded = f" {text} "
    found = set()
    for at, character in enumerate(padded):
        decides = padded[at + 1] if character == " " and at + 1 < len(padded) else character
        n = dense if regex.match(r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Hangul}\p{Bopomofo}\p{Yi}]", decides) else ngram
        if at + n <= len(padded) or at == 0:
            found.add(padded[at : at + n])
    return found


def naive_jaccard(one: str, other: str) -> float:
    a, b = naive_shingles(one), naive_shingles(other)
    return len(a & b) / len(a | b)


def fold_all(*texts: str | None) -> list[str | None]:
    found: list[str | None] = folded(pa.chunked_array([pa.array(texts, pa.string())])).to_pylist()
    return found


@given(st.lists(TEXTS | st.none(), max_size=6))
@settings(deadline=None)
def test_each_text_is_folded_as_if_it_were_alone(texts: list[str | None]) -> None:
    assert fold_all(*texts) == [None if text is None else naive_fold(text) for text in texts]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  A  Red,Car!\n", "a red car"),
        ("ＦＵＬＬ－ｗｉｄｔｈ", "full width"),
        ("Straße", "strasse"),
        ("红色的，汽车。", "红色的 汽车"),
        ("ｶﾀｶﾅ", "カタカナ"),
        ("สวัสดี\u200bครับ", "สวัสดีครับ"),
        ("co\u00adop\ufeff", "coop"),
        ("❤️", "❤"),
        ("c++ $5", "c++ $5"),
        ("... !!", None),
        ("\u200d", None),
        ("", None),
        (None, None),
    ],
)
def test_what_does_not_count_is_folded_away(text: str | None, expected: str | None) -> None:
    assert fold_all(text) == [expected]


@given(st.lists(TEXTS, min_size=2, max_size=6))
@settings(deadline=None)
def test_similarity_is_that_of_the_sets_of_ngrams(texts: list[str]) -> None:
    known = [text for text in fold_all(*texts) if text]
    pairs = [(i, j) for i in range(len(known)) for j in range(len(known))]
    sets = distinct(known, ngram=4, dense_ngram=2)
    assert sets.size.tolist() == [len(naive_shingles(text)) for text in known]
    a, b = np.array(pairs, np.int64).reshape(-1, 2).T
    expected = [naive_jaccard(known[i], known[j]) for i, j in pairs]
    assert jaccard(sets, a, b).tolist() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("a red car", "a red cat", 6 / 10),
        ("a", "b", 0),
        ("a", "a b", 0),  # " a " and " a b", both shorter than four with their spaces or just so
        ("红", "红", 1),
        ("红车", "蓝车", 1 / 5),  # _红 红车 车_ and _蓝 蓝车 车_
        ("ha ha ha", "ha ha ha ha ha", 1),
        ("iphone 手机壳", "iphone 手机套", 9 / 13),  # all but 机壳 壳_ and 机套 套_
    ],
)
def test_similarities_by_hand(one: str, other: str, expected: float) -> None:
    sets = distinct([one, other], ngram=4, dense_ngram=2)
    assert jaccard(sets, np.array([0]), np.array([1]))[0] == pytest.approx(expected)


@given(st.lists(TEXTS, min_size=2, max_size=6))
@settings(deadline=None)
def test_a_sketch_never_differs_in_more_bits_than_the_sets_in_shingles(texts: list[str]) -> None:
    known = [text for text in fold_all(*texts) if text]
    bits = sketches(distinct(known, ngram=4, dense_ngram=2))
    for one, bits_one in zip(known, bits, strict=True):
        for other, bits_other in zip(known, bits, strict=True):
            differing = sum(int(word).bit_count() for word in bits_one ^ bits_other)
            assert differing <= len(naive_shingles(one) ^ naive_shingles(other))


def test_texts_are_the_same_in_portions_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"text number {at * at} of 红色的汽车 many" for at in range(50)]
    a, b = np.triu_indices(50, 1)
    whole = distinct(texts, ngram=4, dense_ngram=2)
    expected = whole.size.tolist(), jaccard(whole, a, b).tolist(), sketches(whole).tolist()
    monkeypatch.setattr(shingles, "_ITEMS", 7)
    monkeypatch.setattr(shingles, "_LETTERS", 90)
    parts = distinct(texts, ngram=4, dense_ngram=2)
    assert (parts.size.tolist(), jaccard(parts, a, b).tolist(), sketches(parts).tolist()) == expected


@given(st.lists(st.integers(0, 2_000_000), max_size=40))
def test_portions_follow_each_other_and_are_bounded(sizes: list[int]) -> None:
    found = list(portions(np.array(sizes, np.int64)))
    assert [at for part in found for at in range(part.start, part.stop)] == list(range(len(sizes)))
    assert all(part.stop - part.start == 1 or sum(sizes[part]) <= 1 << 20 for part in found)
