import hashlib
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pairmill.languages import canonical
from pairmill.layout import OTHER_KINDS
from training.data.config import Slot, TextSelector
from training.data.sentences import split_sentences
from training.data.text_transforms import Text
from training.data.texts import TextChooser, kind_code, language_code, language_of, row_generator, row_texts, text_group

ALT = Text("a dog", "en", "alt")
SHORT = Text("A dog runs", "en", "short")
LONG = Text("A dog runs. It is 3.5 years old.\nThe sky is blue</s>Grass", "en", "long")
CHINESE = Text("一只狗。它在跑", "zh-Hans", "translated")
ROW = [ALT, SHORT, LONG, CHINESE]


def draws(texts: list[Text], slot: Slot, n: int = 4000) -> Counter[str | None]:
    choose = TextChooser([slot])
    chosen = (choose(texts, row_generator(0, row, 0, 0))[0] for row in range(n))
    return Counter(text.text if text else None for text in chosen)


def test_kinds_are_drawn_by_their_probabilities() -> None:
    slot = (TextSelector(kind="alt", p=1.0), TextSelector(kind="long", p=3.0))
    found = draws(ROW, slot)
    # 4,000 draws of p = 1/4: standard deviation 27.
    assert abs(found[ALT.text] - 1000) < 5 * 27 and found[ALT.text] + found[LONG.text] == 4000


def test_probabilities_are_normalised_over_what_the_row_has() -> None:
    slot = (TextSelector(kind="alt", p=0.2), TextSelector(kind="long", p=0.8))
    assert draws([ALT], slot, 50) == {ALT.text: 50}
    assert draws([SHORT], slot, 50) == {None: 50}


def test_without_kinds_all_texts_are_alike() -> None:
    found = draws(ROW, (TextSelector(),))
    assert set(found) == {text.text for text in ROW} and all(abs(n - 1000) < 5 * 27 for n in found.values())


@pytest.mark.parametrize("kind", OTHER_KINDS)
def test_what_is_no_description_is_drawn_only_where_its_kind_is_named(kind: str) -> None:
    other = Text("dog, cat", "en", kind)
    assert draws([ALT, other], (TextSelector(),), 50) == {ALT.text: 50}
    assert draws([ALT, other], (TextSelector(kind=kind),), 50) == {other.text: 50}
    assert kind_code(kind) == -1


def test_fixed_slots_by_kind_and_language_stay_in_place() -> None:
    slots = [(TextSelector(kind="alt", language="en"),), (TextSelector(language="zh"),), (TextSelector(language="fr"),)]
    assert TextChooser(slots)(ROW, np.random.default_rng(0)) == [ALT, CHINESE, None]


def test_equal_slots_draw_different_sentences_and_begin_again_when_there_are_no_more() -> None:
    slot = (TextSelector(kind="long", transforms=("sentences",)),)
    chosen = TextChooser([slot] * 6)([LONG], np.random.default_rng(0))
    texts = [text.text for text in chosen if text]
    sentences = {"A dog runs", "It is 3.5 years old", "The sky is blue", "Grass"}
    assert set(texts[:4]) == sentences and set(texts[4:]) <= sentences and len(set(texts[4:])) == 2
    assert all(text and text.kind == "long" and text.language == "en" for text in chosen)


@pytest.mark.parametrize(
    ("caption", "sentences"),
    [
        ("One. Two! Three?", ["One", "Two", "Three"]),
        ("一只狗。它在跑！", ["一只狗", "它在跑"]),
        ("a photo.jpg at 3.5 m", ["a photo.jpg at 3.5 m"]),
        (" . \n </s> ", []),
    ],
)
def test_sentences(caption: str, sentences: list[str]) -> None:
    assert split_sentences(caption) == sentences


def test_runs_of_sentences_end_with_their_caption_and_their_keys_count_where_they_are_set() -> None:
    captions = [LONG, Text("It barks. Loudly", "en", "long")]
    of = {"name": "sentences", "merged": 3, "joined_by": " [SEP] "}
    slot = TextSelector.checked({"kind": "long", "transforms": [of]})
    runs = {
        "A dog runs [SEP] It is 3.5 years old [SEP] The sky is blue",
        "It is 3.5 years old [SEP] The sky is blue [SEP] Grass",
        "It barks [SEP] Loudly",
    }
    chosen = TextChooser([(slot,)] * 3)(captions, np.random.default_rng(0))
    assert {text.text for text in chosen if text} == runs
    nothing = TextSelector.checked({"transforms": [of]})
    assert TextChooser([(nothing,)])([Text(" . ", "en", "long")], np.random.default_rng(0)) == [None]
    pairs = TextSelector.checked({"transforms": [{"name": "sentences", "merged": 2}]})
    assert draws([captions[1]], (pairs,), 5) == {"It barks. Loudly": 5}
    assert pairs.identity()["transforms"] == [{"name": "sentences", "merged": 2}]
    assert TextSelector.checked({"transforms": ["sentences"]}).identity()["transforms"] == [{"name": "sentences"}]


def test_one_text_is_one_group_whatever_its_case_width_and_spaces() -> None:
    group = text_group(Text("Red apple：1", "en", "alt"))
    assert group == text_group(Text(" red  APPLE:1", None, "long")) != text_group(Text("red apple 1", "en", "alt"))
    # As before texts of full width were folded: 63 bits of BLAKE2b, big-endian.
    digest = hashlib.blake2b("红苹果 apple".encode(), digest_size=8).digest()
    assert text_group(Text("红苹果  Apple", "zh", "alt")) == int.from_bytes(digest, "big") & (2**63 - 1)
    assert text_group(Text("half an emoji \ud83d", None, None)) >= 0 and text_group(None) == -1


def test_blank_texts_are_none() -> None:
    rows = [{"text": None}, {"text": "  "}, {"text": " x ", "language": None, "kind": "alt"}]
    assert row_texts(rows) == [Text("x", None, "alt")] and row_texts(None) == []


def test_a_draw_depends_on_seed_row_epoch_and_purpose_alone() -> None:
    def first(*key: int) -> float:
        return float(row_generator(*key).random())

    keys = [(1, 2, 3, 0), (2, 2, 3, 0), (1, 3, 3, 0), (1, 2, 4, 0), (1, 2, 3, 1)]
    assert len({first(*key) for key in keys}) == len(keys) and first(*keys[0]) == first(*keys[0])
    assert 0 <= first(2**63 - 1, 2**63 - 1, 10**6, 1) < 1


@given(st.from_regex(r"[a-z]{2,3}", fullmatch=True))
def test_languages_survive_their_code(language: str) -> None:
    code = language_code(language)
    assert language_of(code) == canonical(language) and 0 < code < 2**15
    assert language_code(f"{language.upper()}_Latn-US") == code


def test_spellings_of_a_language_are_one_language() -> None:
    assert {language_code(tag) for tag in ("en", "EN", "eng", "en-US", "en_GB", "eng_Latn")} == {5 * 27 + 14}
    texts = [Text("a", "zh_CN", "alt"), Text("b", "zh-TW", "alt"), Text("c", "eng", "alt"), Text("d", None, "alt")]
    for language, found in {"zh": "ab", "zh-Hant": "b", "zh-Hans": "a", "en": "c", "EN_us": "c", "und": "d"}.items():
        assert set(draws(texts, (TextSelector(language=language),), 40)) == set(found)


def test_unknown_kinds_and_languages_are_minus_one() -> None:
    assert (kind_code("alt"), kind_code(None), kind_code("poem")) == (0, -1, -1)
    assert language_code(None) == language_code("") == language_code("Klingon") == -1 and language_of(-1) is None
