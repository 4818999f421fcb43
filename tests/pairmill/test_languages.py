from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pairmill.languages import FLORES, ISO_639_1, canonical, matches, parse, primary


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
        *((tag, "no") for tag in ("no", "nor", "nb", "nob", "nb-NO", "nob_Latn")),
        *((tag, "nn") for tag in ("nn", "nno")),  # another written language
        *((tag, "tl") for tag in ("tl", "tgl", "fil", "fil-PH")),
        *((tag, "he") for tag in ("he", "heb", "iw", "iw-IL")),
        *((tag, "id") for tag in ("in", "ind")),
        *((tag, "yi") for tag in ("ji", "yid", "ydd_Hebr")),
        *((tag, "ku") for tag in ("kur", "kmr_Latn")),
        *((tag, "ro") for tag in ("ro", "ron", "rum", "mo")),
        *((tag, "eo") for tag in ("epo", "EO")),
        ("Klingon", "klingon"),
        ("und", "und"),
        ("", "und"),
        (None, "und"),
    ],
)
def test_canonical(tag: str | None, expected: str) -> None:
    assert canonical(tag) == expected
    assert canonical(expected) == expected


def test_the_bibliographic_codes_are_those_of_their_languages() -> None:
    """The 20 of ISO 639-2/B."""
    both = "alb:sqi arm:hye baq:eus bur:mya chi:zho cze:ces dut:nld fre:fra geo:kat ger:deu gre:ell ice:isl mac:mkd"
    both += " mao:mri may:msa per:fas rum:ron slo:slk tib:bod wel:cym"
    for pair in both.split():
        one, other = pair.split(":")
        assert canonical(one) == canonical(other) in ISO_639_1


def test_no_code_is_that_of_two_languages() -> None:
    assert len(ISO_639_1) == 184  # those of ISO 639, `bh`, without `nb`
    for code in ISO_639_1:
        assert canonical(code) == code and canonical(f"{code}-XX") == code


def test_every_flores_code_leads_back_to_its_language() -> None:
    for iso, flores in FLORES.items():
        assert FLORES[canonical(flores)] == flores
        assert primary(iso) == iso.removesuffix("-hant")
        assert matches(flores, iso)


@pytest.mark.parametrize(
    ("tag", "wanted", "found"),
    [
        ("en", "en", True),
        ("en-GB", "EN_us", True),  # regions are passed over
        ("eng_Latn", "en", True),
        ("en", "eng", True),
        ("de", "en", False),
        ("no", "nb", True),
        ("nob", "no", True),
        ("tl", "fil", True),
        ("ger", "de", True),
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
