from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from tiny_models import save_marian

from curation.engines import Failure, Generated
from curation.engines.guard import MANY
from curation.recaption import RECAPTION
from curation.stage import Runtime
from curation.translate import TRANSLATION, RowStatus, Translate, TranslateConfig, model_revision, row_status
from curation.translation_checks import (
    LengthBounds,
    TranslationStatus,
    has_bad_length,
    is_wrong_language,
    length_bounds,
    longest_loop,
)
from curation.translation_verdicts import mean_score
from pairmill import faults
from pairmill.errors import JobError
from pairmill.layout import TEXT

SAMPLE = "samples/models/translator"

GLOSSARY = {
    "dog": "狗",
    "a red apple": "一个红苹果",
    "a dog on the beach": "海滩上的一只狗",
    "cat": "cat food for all",
    "loop": "狗狗狗狗狗狗",
    "short": "",
    "the quick brown fox jumps over the lazy dog on a sunny day by the river": "狐",
    "run": "海滩上的一只狗和一只猫",
    "endless": "一只",
    "狗": "dog",
}
CUT = {"endless"}


class Scripted:
    """An engine with a glossary; it fails for what it does not know."""

    sampling = "greedy"

    def __init__(self, directions: Sequence[tuple[str, str]] = (("en", "zh"),)) -> None:
        self.directions = directions
        self.asked: list[tuple[str, str, list[str]]] = []

    def supports(self, source: str, target: str) -> bool:
        return (source, target) in self.directions

    def translate(self, texts: Sequence[str], *, source: str, target: str) -> list[Generated | Failure]:
        self.asked.append((source, target, list(texts)))
        return [
            Generated(GLOSSARY[text], -0.25, cut=text in CUT) if text in GLOSSARY else Failure("unknown word")
            for text in texts
        ]


class Deaf(Scripted):
    """An engine that answers nothing."""

    def translate(self, texts: Sequence[str], *, source: str, target: str) -> list[Generated | Failure]:
        return [Failure("CUDA error") for _ in texts]


def config(**more: Any) -> TranslateConfig:
    return TranslateConfig.model_validate({"model": SAMPLE, **more})


def made(text: str, kind: str = "short", language: str = "en") -> dict[str, Any]:
    return {**dict.fromkeys(field.name for field in RECAPTION), "text": text, "kind": kind, "language": language}


def table(
    captions: Sequence[str | None],
    *,
    languages: Sequence[str | None] | None = None,
    recaptions: Sequence[list[dict[str, Any]]] | None = None,
    dropped: Sequence[int] = (),
) -> pa.Table:
    columns = {
        "caption": pa.array(captions, pa.string()),
        "language": pa.array(languages or ["en"] * len(captions), pa.string()),
        "drop_reason": pa.array(["nsfw" if at in dropped else None for at in range(len(captions))], pa.string()),
    }
    if recaptions is not None:
        columns["recaptions"] = pa.array(recaptions, pa.list_(RECAPTION))
    return pa.table(columns)


def statuses(rows: pa.Table) -> list[list[str]]:
    return [[entry["status"] for entry in row] for row in rows["translations"].to_pylist()]


def test_every_text_of_a_row_is_translated_with_its_provenance() -> None:
    rows = table(["dog"], recaptions=[[made("a red apple"), made("a dog on the beach", "long")]])
    out = Translate(config(), engine=Scripted())(rows)
    assert out.select(rows.column_names).equals(rows)
    assert out.schema.field("translations").type == pa.list_(TRANSLATION)
    entries = out["translations"][0].as_py()
    assert [(e["text"], e["source_kind"], e["source_index"]) for e in entries] == [
        ("狗", "alt", 0),
        ("一个红苹果", "short", 1),
        ("海滩上的一只狗", "long", 2),
    ]
    assert entries[0] == {
        "text": "狗",
        "language": "zh",
        "source_kind": "alt",
        "source_index": 0,
        "model": SAMPLE,
        "revision": model_revision(config()),
        "sampling": "greedy",
        "score": -0.25,
        "status": "success",
        "source_sentences": 1,
        "sentences": 1,
        "failed_sentence": None,
        "back_chrf": None,
    }
    assert out["translate_status"].to_pylist() == ["success"]
    assert out["translate_error"].to_pylist() == [None]


def test_a_translation_has_fields_of_the_product_and_its_own() -> None:
    wanted = {field.name: field.type for field in TEXT} | {"source_kind": pa.string(), "status": pa.string()}
    wanted |= dict.fromkeys(("source_sentences", "sentences", "failed_sentence"), pa.int32())
    wanted |= {"back_chrf": pa.float32()}
    assert {field.name: field.type for field in TRANSLATION}.items() <= wanted.items()


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("dog", "success"),
        ("cat", "wrong_language"),
        ("loop", "repetition"),
        ("short", "empty"),
        ("the quick brown fox jumps over the lazy dog on a sunny day by the river", "bad_length_ratio"),
        ("run", "bad_length_ratio"),
        ("endless", "truncated"),
        ("xyzzy", "engine_error"),
    ],
)
def test_a_failed_check_is_a_status_not_a_text(text: str, status: str) -> None:
    # The second row keeps the engine from looking dead.
    out = Translate(config(), engine=Scripted())(table([text, "a red apple"]))
    (entry,) = out["translations"][0].as_py()
    assert entry["status"] == status
    assert (entry["text"] is not None) == (status == "success")
    expected = {"success": "success", "engine_error": "engine_error"}.get(status, "failed")
    assert out["translate_status"].to_pylist() == [expected, "success"]
    assert out["translate_error"][0].as_py() == ("unknown word" if status == "engine_error" else None)


def test_the_language_check_can_be_turned_off() -> None:
    out = Translate(config(check_language=False, max_length_ratio=9), engine=Scripted())(table(["cat"]))
    assert out["translations"][0][0]["text"].as_py() == "cat food for all"


def test_texts_in_the_target_language_are_left_alone() -> None:
    rows = table(
        ["狗", "dog", "狗", None, "  "],
        languages=["zh", "en", "zh", "en", "en"],
        recaptions=[[], [], [made("a red apple")], [], []],
        dropped=[1],
    )
    out = Translate(config(), engine=Scripted())(rows)
    assert statuses(out) == [[], [], ["success"], [], []]
    assert out["translations"][2][0]["source_index"].as_py() == 1
    assert out["translate_status"].to_pylist() == ["not_needed", "not_needed", "success", "not_needed", "not_needed"]


@pytest.mark.parametrize("language", ["de", "und", None])
def test_a_direction_the_model_lacks_is_said(language: str | None) -> None:
    engine = Scripted()
    out = Translate(config(targets=("en", "zh")), engine=engine)(table(["狗", "Hund"], languages=["zh", language]))
    assert statuses(out) == [["unsupported_language"], ["unsupported_language"] * 2]
    assert out["translate_status"].to_pylist() == ["failed", "failed"]
    assert engine.asked == []


def test_a_model_for_both_directions_translates_both() -> None:
    engine = Scripted([("en", "zh"), ("zh", "en")])
    out = Translate(config(targets=("en", "zh")), engine=engine)(table(["狗", "dog"], languages=["zh", "en"]))
    entries = [row[0] for row in out["translations"].to_pylist()]
    assert [(entry["text"], entry["language"]) for entry in entries] == [("dog", "en"), ("狗", "zh")]


def test_equal_texts_are_translated_once_and_in_a_fixed_order() -> None:
    engine = Scripted()
    rows = table(["dog", "a red apple", "dog"], recaptions=[[made("dog")], [made("dog")], []])
    out = Translate(config(), engine=engine)(rows)
    assert engine.asked == [("en", "zh", ["a red apple", "dog"])]
    assert [[entry["text"] for entry in row] for row in out["translations"].to_pylist()] == [
        ["狗", "狗"],
        ["一个红苹果", "狗"],
        ["狗"],
    ]


def test_kinds_choose_what_is_translated() -> None:
    rows = table(["dog"], recaptions=[[made("a red apple"), made("a dog on the beach", "long")]])
    out = Translate(config(kinds=("long",)), engine=Scripted())(rows)
    assert [entry["source_index"] for entry in out["translations"][0].as_py()] == [2]


def test_some_of_a_row_is_partial() -> None:
    rows = table(["dog", "xyzzy"], recaptions=[[made("cat")], [made("cat")]])
    out = Translate(config(), engine=Scripted())(rows)
    assert out["translate_status"].to_pylist() == ["partial", "failed"]


def test_a_dead_engine_stops_the_job() -> None:
    with pytest.raises(JobError, match="CUDA error"):
        Translate(config(), engine=Deaf())(table(["dog"]))


def test_a_table_without_one_text_stops_the_job() -> None:
    class OnlyProbe(Scripted):
        def translate(self, texts: Sequence[str], *, source: str, target: str) -> list[Generated | Failure]:
            return [Generated("1", 0.0) if text == "1" else Failure("boom") for text in texts]

    words = [f"word {at}" for at in range(MANY)]
    with pytest.raises(JobError, match="boom"):
        Translate(config(), engine=OnlyProbe())(table(words))
    out = Translate(config(), engine=OnlyProbe())(table(words[1:]))
    assert set(out["translate_status"].to_pylist()) == {"engine_error"}


def test_no_rows() -> None:
    out = Translate(config(), engine=Scripted())(table([]))
    assert out.schema.field("translations").type == pa.list_(TRANSLATION)
    assert out.num_rows == 0


S = TranslationStatus


@pytest.mark.parametrize(
    ("made_", "expected"),
    [
        ([], RowStatus.NOT_NEEDED),
        ([S.SUCCESS, S.SUCCESS], RowStatus.SUCCESS),
        ([S.SUCCESS, S.EMPTY], RowStatus.PARTIAL),
        ([S.EMPTY, S.ENGINE_ERROR], RowStatus.FAILED),
        ([S.ENGINE_ERROR, S.ENGINE_ERROR], RowStatus.ENGINE_ERROR),
    ],
)
def test_row_status(made_: list[TranslationStatus], expected: RowStatus) -> None:
    assert row_status(made_) is expected


@pytest.mark.parametrize(
    ("text", "loops"),
    [
        ("", 0),
        ("...", 0),
        ("dog", 1),
        ("a dog and a cat and a bird", 1),
        ("very very big", 2),
        ("the dog the dog the dog", 3),
        ("一只狗一只狗一只狗一只狗", 4),
        ("哈哈哈", 3),
        ("1000000", 6),
        ("red, red, red, red apple", 4),
    ],
)
def test_longest_loop(text: str, loops: int) -> None:
    assert longest_loop(text) == loops


@given(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=4, unique=True), st.integers(2, 8))
@settings(deadline=None, max_examples=60)
def test_a_phrase_repeated_n_times_is_a_loop_of_n(words: list[str], times: int) -> None:
    assert longest_loop(" ".join(words * times)) == times


@given(st.text(max_size=60))
@settings(deadline=None, max_examples=100)
def test_a_loop_is_never_longer_than_the_text(text: str) -> None:
    assert 0 <= longest_loop(text) <= len(text)


def test_length_bounds_by_script() -> None:
    assert length_bounds("en", "zh").most < 1 < length_bounds("zh", "en").least
    assert length_bounds("en", "fr") == length_bounds("zh", "ja") == length_bounds("zh-hant", "ja")
    bounds = LengthBounds(least=0.1, most=0.5, slack=2)
    assert not has_bad_length("a" * 40, "b" * 22, bounds)
    assert has_bad_length("a" * 40, "b" * 23, bounds)
    assert not has_bad_length("a" * 40, "b" * 2, bounds)
    assert has_bad_length("a" * 40, "b", bounds)
    assert config(min_length_ratio=0.2, max_length_ratio=3).bounds("en", "zh")[:2] == (0.2, 3)


def test_only_a_sure_detector_calls_a_language_wrong() -> None:
    assert is_wrong_language("en", 0.9, "zh", least_confidence=0.5)
    assert not is_wrong_language("en", 0.4, "zh", least_confidence=0.5)
    assert not is_wrong_language("und", 1.0, "zh", least_confidence=0.5)
    assert not is_wrong_language("zh", 1.0, "zh-hant", least_confidence=0.5)
    for detected, target in (("no", "nb"), ("tl", "fil"), ("he", "iw"), ("de", "ger")):
        assert not is_wrong_language(detected, 0.97, target, least_confidence=0.5)


def test_languages_of_a_recipe_are_canonical() -> None:
    made_config = config(targets=["zh-CN", "zh", "en"], engine={"pair": ["eng", "zho"]})
    assert made_config.targets == ("zh", "en")
    assert config(targets=["nb", "fil", "iw", "ger"]).targets == ("no", "tl", "he", "de")
    assert made_config.engine.model_dump()["pair"] == ("en", "zh")
    with pytest.raises(ValidationError):
        config(targets=[])
    with pytest.raises(ValidationError):
        config(trust_remote_code=True)


@pytest.mark.slow
def test_the_sample_translator_end_to_end(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stage = Translate(config(engine={"pair": ("en", "zh"), "batch_size": 2}, max_new_tokens=32))
    stage.setup(Runtime())
    words = ["red apple", "dog", "smiling face with sunglasses", "cat", "flag: France"]
    out = stage(table([*words, "狗"], languages=["en"] * 5 + ["zh"]))
    assert out["translate_status"].to_pylist() == ["success"] * 5 + ["not_needed"]
    # Bit for bit the same when computed again, also after an engine call that failed once.
    monkeypatch.setattr(faults, "_armed", faults._parse("engine.translate:raise@2", str(tmp_path)))
    assert stage(table([*words, "狗"], languages=["en"] * 5 + ["zh"])).equals(out)


FIVE = "A dog runs. A cat sleeps. A bird sings. A horse stands. A cow eats."
FIVE_ZH = ["一只狗在跑。", "一只猫在睡觉。", "一只鸟在唱歌。", "一匹马站着。", "一头牛在吃东西。"]
SENTENCES = dict(zip([f"{one}." for one in FIVE.rstrip(".").split(". ")], FIVE_ZH, strict=True))


class OfSentences(Scripted):
    """An engine of a sentence model: of a text of several it translates the first and drops the others."""

    sentence_model = True

    def __init__(self, texts: Mapping[str, str] = SENTENCES, directions: Any = (("en", "zh"), ("zh", "en"))) -> None:
        super().__init__(directions)
        self.texts = texts

    def translate(self, texts: Sequence[str], *, source: str, target: str) -> list[Generated | Failure]:
        self.asked.append((source, target, list(texts)))
        known = self.texts if target == "zh" else {made: text for text, made in self.texts.items()}
        return [self._answer(known, text) for text in texts]

    def _answer(self, known: Mapping[str, str], text: str) -> Generated | Failure:
        first = next((one for one in known if text.startswith(one)), None)
        tokens = len(text.split())
        return Failure("unknown") if first is None else Generated(known[first], -1.0 / tokens, tokens=tokens)


def entry(rows: pa.Table) -> dict[str, Any]:
    ((one,),) = rows["translations"].to_pylist()
    return dict(one)


def test_a_text_of_five_sentences_has_five() -> None:
    engine = OfSentences()
    one = entry(Translate(config(), engine=engine)(table([FIVE])))
    assert (one["text"], one["status"]) == ("".join(FIVE_ZH), "success")
    assert (one["source_sentences"], one["sentences"], one["failed_sentence"]) == (5, 5, None)
    assert engine.asked == [("en", "zh", sorted(SENTENCES))]


def test_a_text_of_five_sentences_that_comes_back_as_one_is_refused() -> None:
    one = entry(Translate(config(split="never"), engine=OfSentences())(table([FIVE])))
    assert (one["text"], one["status"]) == (None, "lost_sentences")
    assert (one["source_sentences"], one["sentences"], one["failed_sentence"]) == (5, 1, None)


@pytest.mark.parametrize(
    ("split", "sentence_model", "requests"),
    [("auto", True, 5), ("auto", False, 1), ("always", False, 5), ("never", True, 1)],
)
def test_split_says_when_sentences_are_requests(split: str, sentence_model: bool, requests: int) -> None:
    engine = OfSentences()
    engine.sentence_model = sentence_model
    Translate(config(split=split), engine=engine)(table([FIVE]))
    assert len(engine.asked[0][2]) == requests


def test_the_score_is_the_mean_over_all_tokens() -> None:
    text = "A dog runs. A very big cat sleeps well."
    made = {"A dog runs.": FIVE_ZH[0], "A very big cat sleeps well.": "一只很大的猫睡得很好。"}
    one = entry(Translate(config(), engine=OfSentences(made))(table([text])))
    assert one["score"] == pytest.approx(-(3 * 1 / 3 + 6 * 1 / 6) / 9)


def test_without_numbers_of_tokens_characters_count() -> None:
    answers = [Generated("abc", -1.0), Generated("a", -4.0)]
    assert mean_score(answers) == pytest.approx(-(4 * 1 + 2 * 4) / 6)
    assert mean_score([*answers, Generated("a", None)]) is None
    assert mean_score([Generated("a", None)]) is None
    assert mean_score([*answers, Failure("boom")]) is None


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        ("", "empty"),
        ("A horse stands and looks at us from afar.", "wrong_language"),
        ("一匹马一匹马一匹马一匹马一匹马", "repetition"),
        ("一匹马站在1984年的草地上。", "numbers_differ"),
        ("马" * 3 + "站在草地上看着远处的群山和蓝天白云。" * 2, "bad_length_ratio"),
    ],
)
def test_the_sentence_that_fails_is_named_with_its_reason(answer: str, status: str) -> None:
    made = {**SENTENCES, "A horse stands.": answer}
    one = entry(Translate(config(), engine=OfSentences(made))(table([FIVE])))
    assert (one["text"], one["status"], one["failed_sentence"]) == (None, status, 3)


def test_a_sentence_that_the_engine_fails_for_is_tried_again() -> None:
    made = {text: zh for text, zh in SENTENCES.items() if text != "A horse stands."}
    stage = Translate(config(), engine=OfSentences(made))
    out = stage(table([FIVE]))
    assert (entry(out)["status"], entry(out)["failed_sentence"]) == ("engine_error", 3)
    assert stage.unfinished(out).to_pylist() == [True]


def test_a_mark_that_the_translator_left_out_is_put_in() -> None:
    made = {text: zh.rstrip("。") for text, zh in SENTENCES.items()}
    one = entry(Translate(config(), engine=OfSentences(made))(table([FIVE])))
    assert (one["text"], one["sentences"]) == ("".join(FIVE_ZH), 5)


def test_a_sentence_is_paid_for_once(tmp_path: Path) -> None:
    first, second = OfSentences(), OfSentences()
    Translate(config(cache=str(tmp_path)), engine=first)(table([FIVE, "A cat sleeps. A dog runs."]))
    assert [len(texts) for _, _, texts in first.asked] == [5]
    rows = table(["A dog runs.", "A cow eats. A cat sleeps. A dog runs."])
    out = Translate(config(cache=str(tmp_path)), engine=second)(rows)
    assert second.asked == []
    assert out["translations"][1][0]["text"].as_py() == FIVE_ZH[4] + FIVE_ZH[1] + FIVE_ZH[0]
    # The number of tokens is kept with the score.
    assert out["translations"][1][0]["score"].as_py() == pytest.approx(-3 / 9)


def test_a_text_without_a_term_of_the_glossary_is_refused(tmp_path: Path) -> None:
    terms = tmp_path / "terms.tsv"
    terms.write_text("dog\tzh\t狗\ncat\tzh\t喵\n", encoding="utf-8")
    settings = config(glossary=str(terms))
    stage = Translate(settings, engine=OfSentences())
    out = stage(table(["A dog runs.", FIVE]))
    assert [[one["status"], one["failed_sentence"]] for (one,) in out["translations"].to_pylist()] == [
        ["success", None],
        ["lost_term", 1],
    ]
    before = stage.revision()
    terms.write_text("dog\tzh\t狗\n", encoding="utf-8")
    assert Translate(settings, engine=OfSentences()).revision() != before
    assert Translate(config()).revision() == model_revision(config())


def test_texts_are_translated_back_and_compared() -> None:
    class Forgetful(OfSentences):
        def translate(self, texts: Sequence[str], *, source: str, target: str) -> list[Generated | Failure]:
            made = super().translate(texts, source=source, target=target)
            return [
                Generated("Something else.", -1.0) if "马" in text else one
                for text, one in zip(texts, made, strict=True)
            ]

    engine = Forgetful()
    out = Translate(config(min_back_chrf=60), engine=engine)(table(["A dog runs. A cat sleeps.", "A horse stands."]))
    (good,), (bad,) = out["translations"].to_pylist()
    assert (good["status"], good["back_chrf"]) == ("success", 100.0)
    assert (bad["status"], bad["text"]) == ("back_translation", None)
    assert bad["back_chrf"] < 60
    assert engine.asked == [
        ("en", "zh", ["A cat sleeps.", "A dog runs.", "A horse stands."]),
        ("zh", "en", sorted([FIVE_ZH[0], FIVE_ZH[1], FIVE_ZH[3]])),
    ]


def test_another_model_translates_back() -> None:
    forth, back = OfSentences(directions=[("en", "zh")]), OfSentences(directions=[("zh", "en")])
    settings = config(min_back_chrf=60, back_model=SAMPLE, engine={"pair": ["en", "zh"]})
    assert settings.back is not None
    assert settings.back.engine.model_dump()["pair"] == ("zh", "en")
    stage = Translate(settings, engine=forth, back=back)
    assert entry(stage(table([FIVE])))["back_chrf"] == 100.0
    assert [source for source, _, _ in [*forth.asked, *back.asked]] == ["en", "zh"]
    assert stage.revision() == [model_revision(config())] * 2


def test_a_text_that_cannot_be_translated_back_has_not_passed() -> None:
    engine = OfSentences(directions=[("en", "zh")])
    one = entry(Translate(config(min_back_chrf=0), engine=engine)(table([FIVE])))
    assert (one["text"], one["status"], one["back_chrf"]) == (None, "back_translation", None)


def test_an_engine_that_fails_while_translating_back_is_asked_again() -> None:
    class OneWay(OfSentences):
        def translate(self, texts: Sequence[str], *, source: str, target: str) -> list[Generated | Failure]:
            if target == "en":
                return [Generated("1", 0.0) if text == "1" else Failure("boom") for text in texts]
            return super().translate(texts, source=source, target=target)

    stage = Translate(config(min_back_chrf=10), engine=OneWay())
    out = stage(table([FIVE]))
    assert (entry(out)["status"], entry(out)["text"]) == ("engine_error", None)
    assert stage.unfinished(out).to_pylist() == [True]


def test_keys_of_back_translation_come_together() -> None:
    with pytest.raises(ValidationError, match="min_back_chrf"):
        config(back_model=SAMPLE)
    with pytest.raises(ValidationError, match="back_model"):
        config(min_back_chrf=30, back_revision="main")


def test_sources_of_both_languages_get_the_other_one() -> None:
    engine = OfSentences(directions=[("en", "zh"), ("zh", "en"), ("zh-hant", "en")])
    rows = table(
        [FIVE, "".join(FIVE_ZH), FIVE],
        languages=["en", "zh-Hant", "EN"],
        recaptions=[[made(FIVE_ZH[0], language="zh")], [made("A dog runs.")], []],
    )
    out = Translate(config(targets=("en", "zh")), engine=engine)(rows)
    assert {(source, target) for source, target, _ in engine.asked} == set(engine.directions)
    assert {status for row in statuses(out) for status in row} == {"success"}
    assert [[(one["language"], one["source_index"]) for one in row] for row in out["translations"].to_pylist()] == [
        [("en", 1), ("zh", 0)],
        [("en", 0), ("zh", 1)],
        [("zh", 0)],
    ]


@given(
    st.lists(st.sampled_from(sorted(SENTENCES)), min_size=1, max_size=8),
    st.sets(st.sampled_from(sorted(SENTENCES)), max_size=2),
)
@settings(deadline=None, max_examples=40)
def test_a_text_has_all_its_sentences_or_none(chosen: list[str], bad: set[str]) -> None:
    texts = {text: "" if text in bad else zh for text, zh in SENTENCES.items()}
    stage = Translate(config(check_language=False, max_repeat=8), engine=OfSentences(texts))
    one = entry(stage(table([" ".join(chosen)])))
    first_bad = next((at for at, text in enumerate(chosen) if text in bad), None)
    assert one["source_sentences"] == len(chosen)
    if first_bad is None:
        assert (one["text"], one["sentences"]) == ("".join(texts[text] for text in chosen), len(chosen))
    else:
        assert (one["text"], one["status"]) == (None, "empty")
        assert one["failed_sentence"] == (first_bad if len(chosen) > 1 else None)


@pytest.mark.slow
def test_the_sample_translator_by_sentences(tmp_path: Path) -> None:
    """As one text, the sample translator gives one label for five sentences (measured)."""
    text = "A red apple. The dog. A cat! The sun. A black bird."
    settings = {"engine": {"pair": ("en", "zh"), "batch_size": 2}, "max_new_tokens": 32}
    rows = table([text, "The dog.", "A cat! The dog."])
    results = {}
    for split in ("always", "auto", "never"):
        stage = Translate(config(**settings, split=split, cache=str(tmp_path / split)))
        stage.setup(Runtime())
        results[split] = stage(rows)
        assert stage(rows).equals(results[split])  # from the cache
    assert results["auto"].equals(results["always"])
    first = results["auto"]["translations"][0][0].as_py()
    assert first["source_sentences"] == 5
    assert (first["status"], first["sentences"], first["text"].count("。")) == ("success", 5, 4)
    assert results["never"]["translations"][0][0]["status"].as_py() == "lost_sentences"


@pytest.mark.slow
def test_a_real_model_translates_back(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Forth by the sample translator, back by a tiny Marian model of random weights, which says nothing alike."""
    back = str(save_marian(tmp_path / "back"))
    common: dict[str, Any] = {"engine": {"pair": ("en", "zh"), "batch_size": 2}, "max_new_tokens": 32}
    rows = table(["A red apple. The dog. A cat!", "The dog.", "red apple"])
    results = {}
    for name, least in (("all", 0), ("none", 99)):
        stage = Translate(config(**common, min_back_chrf=least, back_model=back, cache=str(tmp_path / name)))
        stage.setup(Runtime())
        results[name] = stage(rows)
        assert stage(rows).equals(results[name])  # from the cache
    assert {status for row in statuses(results["all"]) for status in row} == {"success"}
    assert {status for row in statuses(results["none"]) for status in row} == {"back_translation"}
    scores = [one["back_chrf"] for row in results["all"]["translations"].to_pylist() for one in row]
    assert all(0 <= score < 99 for score in scores)
    # The same after an engine's call that failed once, forth or back.
    for call in (2, 4):
        passes = tmp_path / f"failed-{call}"
        passes.mkdir()
        monkeypatch.setattr(faults, "_armed", faults._parse(f"engine.translate:raise@{call}", str(passes)))
        stage = Translate(config(**common, min_back_chrf=0, back_model=back))
        stage.setup(Runtime())
        assert stage(rows).equals(results["all"])
