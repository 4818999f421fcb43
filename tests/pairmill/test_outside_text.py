"""Text from outside can always be stored, and only what no UTF-8 holds is changed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pairmill.outside_text import storable


@pytest.mark.parametrize(
    ("text", "stored"),
    [
        ("a dog", "a dog"),
        ("", ""),
        ("un chien 🐕 犬", "un chien 🐕 犬"),
        ("a dog \ud83d", "a dog \ufffd"),
        ("\udc15 a dog", "\ufffd a dog"),
        ("\ud83d\udc15", "🐕"),
        ("\ud83d \udc15", "\ufffd \ufffd"),
        ("caf\udce9.png", "caf\ufffd.png"),
        ("\ud83d\ud83d\udc15", "\ufffd🐕"),
    ],
)
def test_halves_of_pairs(text: str, stored: str) -> None:
    assert storable(text) == stored


@given(st.text(st.characters(exclude_categories=()), max_size=30))
def test_anything_becomes_utf8(text: str) -> None:
    stored = storable(text)
    assert stored.encode().decode() == stored == storable(stored)
    if not any("\ud800" <= c <= "\udfff" for c in text):
        assert stored == text
