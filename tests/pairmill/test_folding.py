from __future__ import annotations

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from pairmill.folding import fold, text_digest


def test_case_and_width_are_folded_and_spaces_stay() -> None:
    assert fold("Ａpple  PIE") == "apple  pie" and fold("Straße") == "strasse" and fold("①") == "1"


def test_texts_that_differ_in_case_width_or_spaces_only_have_one_digest() -> None:
    same = {text_digest(text) for text in ("Red  Apple", "red apple ", "ＲＥＤ\u3000ａｐｐｌｅ")}
    assert len(same) == 1
    assert text_digest("red apple") != text_digest("redapple")
    assert len(text_digest("\ud800")) == 8


def test_the_digest_is_the_one_that_runs_have_stored() -> None:
    assert text_digest("Red  Apple") == hashlib.blake2b(b"red apple", digest_size=8).digest()
    assert text_digest("红苹果").hex() == hashlib.blake2b("红苹果".encode(), digest_size=8).hexdigest()


@given(st.text(max_size=30))
def test_spaces_around_a_text_are_no_part_of_it(text: str) -> None:
    assert text_digest(f" {text}\n") == text_digest(text) and len(text_digest(text)) == 8
