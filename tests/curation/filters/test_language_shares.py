"""How much of a text may be in a language that was asked for."""

from __future__ import annotations

import pytest

from curation.filters.language import share_of


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Un can dingo che corre.", "en"),
        ("una carta de amor en la mesa", "en"),
        ("A pink flamingo.", "zh"),
        ("一只狗在海滩上", "en"),
        ("犬が海辺を走る", "zh"),
        ("собака бежит по пляжу", "en"),
        ("ᖁᐱᕐᕈᖅ ᑎᖏᒪᓲᖅ ᐊᐅᐸᕐᑑᓱᓂ", "en"),
        ("강아지", "ja"),
    ],
)
def test_it_is_surely_another_language(text: str, language: str) -> None:
    share = share_of(text, language)
    assert share is not None and share < 0.05


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("a dog on the beach", "en"),
        ("A dog on the beach", "en_US"),
        ("一只狗在海滩上", "zh"),
        ("一隻狗", "zh-hant"),
        ("LOGO 标志", "zh"),
        ("Apple Watch Series 表", "zh"),
        ("Un bolso royo.", "an"),
        ("Un autobús verde.", "gl"),
        ("Eit eple ligg på bordet.", "nn"),
        ("собака бежит по пляжу", "ru"),
    ],
)
def test_it_may_be_that_language(text: str, language: str) -> None:
    share = share_of(text, language)
    assert share is not None and share > 0.1


@pytest.mark.parametrize(
    ("text", "language"), [("", "en"), ("12 + 3", "en"), ("piano", "de"), ("Mango.", "sq"), ("x y", "iu")]
)
def test_nothing_can_be_said(text: str, language: str) -> None:
    assert share_of(text, language) is None
