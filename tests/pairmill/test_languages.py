from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pairmill.languages import FLORES, canonical, matches, parse, primary


@pytest.mark.parametrize(
    ("tag", "expected"),
    [
        ("EN", "en"),
        ("eng", "en"),
        ("eng_Latn", "en"),
        ("en-US", "en"),
        ("pt_BR", "pt"),
        ("zh-CN", "zh"),
        ("zh_TW", "zh-hant"),
        ("zh-Hant", "zh-hant"),
        ("zh-Hans-TW", "zh"),  # the script that is named, not the region's
        ("zho_Hant", "zh-hant"),
        ("cmn_Hans", "zh"),
        (" zh ", "zh"),
        ("yue", "yue"),
        ("Klingon", "klingon"),
        ("und", "und"),
        ("", "und"),
        (None, "und"),
    ],
)
def test_canonical(tag: str | None, expected: str) -> None:
    assert canonical(tag) == expected
    assert canonical(expected) == expected


def test_every_flores_code_leads_back_to_its_language() -> None:
    for iso, flores in FLORES.items():
        assert FLORES[canonical(flores)] == flores
        assert primary(iso) == iso.removesuffix("-hant")
        assert matches(flores, iso) or iso == "nb"


@pytest.mark.parametrize(
    ("tag", "wanted", "found"),
    [
        ("en", "en", True),
        ("en-GB", "EN_us", True),  # regions are passed over
        ("eng_Latn", "en", True),
        ("en", "eng", True),
        ("de", "en", False),
        ("zh-Hant", "zh", True),
        ("zh_CN", "zh", True),
        ("ZH", "zh", True),
        ("zh-TW", "zh-Hant", True),
        ("zh-hant", "zh_Hant", True),
        ("zh-CN", "zh-Hant", False),
        ("zh", "zh-Hant", False),  # without a script, Chinese is simplified Chinese
        ("zh", "zh-Hans", True),
        ("zh-HK", "zh-Hans", False),
        ("sr-Latn", "sr", True),
        ("sr", "sr-Latn", False),
        ("sr", "sr-Cyrl", True),
        ("yue", "yue-Hant", False),  # no usual script is known
        (None, "und", True),
        (None, "en", False),
        ("en", "und", False),
    ],
)
def test_a_script_counts_where_it_is_asked_for(tag: str | None, wanted: str, found: bool) -> None:
    assert matches(tag, wanted) is found


@given(st.text(max_size=20) | st.from_regex(r"[a-zA-Z]{2,3}([-_][A-Za-z]{2,4}){0,2}", fullmatch=True))
def test_any_tag_has_a_canonical_form_that_stays(tag: str) -> None:
    assert canonical(canonical(tag)) == canonical(tag)
    assert primary(tag) == parse(tag).language and matches(tag, primary(tag))
