from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tiny_models import EOS

from curation.engines import Failure, Generated
from curation.engines.model_files import Checkpoint, resolve
from curation.engines.transformers_translate import TransformersTranslator
from pairmill.errors import UserError


def found(folder: Path) -> Checkpoint:
    return resolve(str(folder), None)


@pytest.mark.parametrize(
    ("family", "yes", "no"),
    [
        ("marian", [("en", "zh")], [("zh", "en"), ("en", "fr"), ("en", "en")]),
        ("opus-mt-en-mul", [("en", "zh"), ("en", "fr")], [("fr", "zh"), ("en", "de"), ("en", "en")]),
        ("nllb", [("en", "zh"), ("zh", "en"), ("fr", "zh")], [("en", "de"), ("de", "en"), ("zh", "zh")]),
    ],
)
def test_directions_come_from_the_checkpoint(
    models: Path, family: str, yes: list[tuple[str, str]], no: list[tuple[str, str]]
) -> None:
    translator = TransformersTranslator(found(models / family), batch_size=2, max_new_tokens=8)
    assert [pair for pair in yes + no if translator.supports(*pair)] == yes


@pytest.mark.slow
@pytest.mark.parametrize(("family", "beams"), [("marian", 1), ("marian", 3), ("opus-mt-en-mul", 1), ("nllb", 1)])
def test_batches_sorted_by_length_give_each_text_its_own_answer(models: Path, family: str, beams: int) -> None:
    translator = TransformersTranslator(found(models / family), batch_size=2, max_new_tokens=8, num_beams=beams)
    texts = ["a red flower on the beach", "cat", "a dog", "one cat", ""]
    together = translator.translate(texts, source="en", target="zh")
    for text, ours in zip(texts, together, strict=True):
        (alone,) = translator.translate([text], source="en", target="zh")
        assert isinstance(ours, Generated) and isinstance(alone, Generated)
        assert ours.text == alone.text
        assert ours.score == pytest.approx(alone.score, abs=1e-4)


def test_the_target_decides_the_first_token(models: Path) -> None:
    translator = TransformersTranslator(found(models / "nllb"), batch_size=2, max_new_tokens=8)
    answers = [translator.translate(["a dog"], source="en", target=target)[0] for target in ("zh", "fr")]
    assert answers[0] != answers[1]
    several = TransformersTranslator(found(models / "opus-mt-en-mul"), batch_size=2, max_new_tokens=8)
    answers = [several.translate(["a dog"], source="en", target=target)[0] for target in ("zh", "fr")]
    assert answers[0] != answers[1]


def test_an_end_that_the_checkpoint_forces_at_its_limit_hides_no_cut(models: Path, tmp_path: Path) -> None:
    shutil.copytree(models / "marian", tmp_path / "m")
    settings = tmp_path / "m" / "generation_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "forced_eos_token_id": EOS}))
    plain, forced = (
        TransformersTranslator(found(folder), batch_size=2, max_new_tokens=8)
        for folder in (models / "marian", tmp_path / "m")
    )
    expected = plain.translate(["a dog"], source="en", target="zh")
    assert isinstance(expected[0], Generated) and expected[0].cut
    assert forced.translate(["a dog"], source="en", target="zh") == expected


def test_a_score_of_beams_leaves_out_the_token_that_was_forced(models: Path) -> None:
    # With as many beams as it takes, both searches find the same text of one token after the language's.
    engines = [
        TransformersTranslator(found(models / "nllb"), batch_size=2, max_new_tokens=2, num_beams=beams)
        for beams in (1, 2)
    ]
    greedy, beams = (engine.translate(["a dog"], source="en", target="zh")[0] for engine in engines)
    assert isinstance(greedy, Generated) and isinstance(beams, Generated)
    assert greedy.text == beams.text
    assert greedy.score == pytest.approx(beams.score, abs=1e-5)


def test_a_text_longer_than_the_model_takes_fails_alone(models: Path) -> None:
    translator = TransformersTranslator(found(models / "marian"), batch_size=2, max_new_tokens=500)
    long, short = translator.translate(["a" * 64, "a" * 63], source="en", target="zh")
    assert long == Failure("text of 65 tokens, the model takes 64")
    assert isinstance(short, Generated)


def test_a_pair_nobody_states_must_be_given(models: Path) -> None:
    with pytest.raises(UserError, match=r"translate\.engine\.pair"):
        TransformersTranslator(found(models / "unnamed"), batch_size=2, max_new_tokens=8)
    translator = TransformersTranslator(found(models / "unnamed"), batch_size=2, max_new_tokens=8, pair=("en", "zh"))
    assert translator.supports("en", "zh")
    with pytest.raises(UserError, match="must load"):
        TransformersTranslator(found(models / "llava"), batch_size=2, max_new_tokens=8)


def test_the_sample_translator_loads_and_answers() -> None:
    checkpoint = resolve("samples/models/translator", None)
    translator = TransformersTranslator(checkpoint, batch_size=2, max_new_tokens=32, pair=("en", "zh"))
    answers = translator.translate(["red apple", "dog"], source="en", target="zh")
    assert all(isinstance(answer, Generated) and answer.text for answer in answers)
