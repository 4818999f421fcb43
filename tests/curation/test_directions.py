from __future__ import annotations

import pytest

from curation.engines.directions import language_tokens, marian_targets, pair_of_name


def test_language_tokens_of_each_family() -> None:
    assert language_tokens({"eng_Latn", "zho_Hant", "zho_Hans", "dog"}) == {
        "en": "eng_Latn",
        "zh": "zho_Hans",
        "zh-hant": "zho_Hant",
    }
    assert language_tokens({"__en__", "__zh__", "__init__x"}) == {"en": "__en__", "zh": "__zh__"}
    assert language_tokens({"__en__", "__iw__"})["he"] == "__iw__"
    assert language_tokens({"en_XX", "zh_CN", "fr_XX"}) == {"en": "en_XX", "zh": "zh_CN", "fr": "fr_XX"}
    assert language_tokens({"dog", ">>zh<<"}) == {}


def test_marian_prefers_the_plainest_token_of_a_language() -> None:
    vocabulary = {">>cmn_Hans<<", ">>cmn<<", ">>zh<<", ">>cmn_Hant<<", ">>fra<<", "<<", ">>"}
    assert marian_targets(vocabulary) == {"zh": ">>zh<<", "zh-hant": ">>cmn_Hant<<", "fr": ">>fra<<"}


@pytest.mark.parametrize(
    ("name", "pair"),
    [
        ("Helsinki-NLP/opus-mt-en-zh", ("en", "zh")),
        ("/models/opus-mt-zho-eng/", ("zh", "en")),
        ("Helsinki-NLP/opus-mt-tc-big-en-fr", ("en", "fr")),
        ("facebook/nllb-200-distilled-600M", None),
        ("my-translator-en-zh", None),
    ],
)
def test_pair_of_name(name: str, pair: tuple[str, str] | None) -> None:
    assert pair_of_name(name) == pair
