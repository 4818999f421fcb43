from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

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
    }
    assert out["translate_status"].to_pylist() == ["success"]
    assert out["translate_error"].to_pylist() == [None]


def test_a_translation_has_fields_of_the_product_and_its_own() -> None:
    wanted = {field.name: field.type for field in TEXT} | {"source_kind": pa.string(), "status": pa.string()}
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
