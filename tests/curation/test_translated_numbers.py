from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.translated_numbers import numbers_differ


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a dog", "一只狗"),
        ("1,500 people", "1.500 Menschen"),
        ("1,500 people", "1 500 personnes"),
        ("1,500 people", "1\u202f500 personnes"),
        ("1,500 people", "1'500 Personen"),
        ("3.5 km", "3,5 km"),
        ("3.50 km", "3,5 km"),
        ("1,234,567.25", "1.234.567,25"),
        ("in 1984", "في ١٩٨٤"),
        ("3.5 km", "٣٫٥ كم"),
        ("in 1984", "१९८४ में"),
        ("in 1984", "１９８４年"),
        ("in 1984", "一九八四年"),
        ("125 birds", "一百二十五只鸟"),
        ("2.5 million people", "250万人"),
        ("35,000 people", "3.5万人"),
        ("1.2 billion", "12億"),
        ("2.5 million", "2,5 Millionen"),
        ("the 1980s", "20世纪80年代"),
        ("19th century", "XIXe siècle"),
        ("19th century", "XIX век"),
        ("eighteen dogs", "18只狗"),
        ("2 dogs, 20 birds", "两只狗，二十只鸟"),
        ("May 3, 2024", "2024年5月3日"),
        ("12.05.2024", "May 12, 2024"),
        ("at 12:30", "um 12.30 Uhr"),
        ("1, 2, 3", "1、2、3"),
        ("iPhone 15 in 4K", "iPhone 15 的 4K"),
    ],
)
def test_one_number_in_two_ways(one: str, other: str) -> None:
    assert not numbers_differ(one, other)
    assert not numbers_differ(other, one)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("in 1984", "1948年"),
        ("in 1984", "一九四八年"),
        ("in 1984", "那一年"),
        ("3.5 km", "35公里"),
        ("3,5 km", "٣٥ كم"),
        ("1,500 people", "15000人"),
        ("2.5 million people", "250亿人"),
        ("the 1980s", "90年代"),
        ("747 and 737", "747 und 747"),
        ("a red car", "一辆1984年的红车"),
        ("room 1408", "1408 Zimmer im Jahr 1999"),
    ],
)
def test_another_number(one: str, other: str) -> None:
    assert numbers_differ(one, other)
    assert numbers_differ(other, one)


@given(st.text(max_size=60) | st.text(alphabet="0123456789.,' 万千mK٣१:", max_size=80))
@settings(deadline=None, max_examples=300)
def test_every_text_has_its_own_numbers(text: str) -> None:
    assert not numbers_differ(text, text)


@given(st.integers(1001, 9_999_999))
@settings(deadline=None)
def test_thousands_of_two_languages(number: int) -> None:
    english, german = f"{number:,}", f"{number:,}".replace(",", ".")
    assert not numbers_differ(english, german)
    assert not numbers_differ(english, str(number))
    assert numbers_differ(english, f"{number * 10 + 7}")


def test_digits_without_end() -> None:
    long = "9" * 2_000_000
    assert not numbers_differ(long, long)
    assert numbers_differ(long, "1984")
    assert not numbers_differ("1.2" * 50_000, "1.2" * 50_000)
