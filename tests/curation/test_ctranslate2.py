"""CTranslate2 against transformers on the same checkpoints: the sample translator, and tiny ones of each family."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from curation.engines import Failure, Generated
from curation.engines.ctranslate2_files import converted
from curation.engines.ctranslate2_translate import CTranslate2Config, CTranslate2Translator
from curation.engines.model_files import Checkpoint, resolve
from curation.engines.transformers_translate import TransformersTranslator
from curation.stage import Runtime
from curation.translate import Translate, TranslateConfig
from pairmill import faults
from pairmill.errors import IntegrityError, UserError
from pipelines.doctor import project_root

SAMPLES = project_root() / "samples"
SAMPLE = resolve(str(SAMPLES / "models" / "translator"), None)
LABELS = [json.loads(line)["en"] for line in (SAMPLES / "emoji" / "labels.jsonl").read_text().splitlines()]
PAIR = ("en", "zh")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("converted")


def ours(checkpoint: Checkpoint, cache: Path, *, limit: int = 48, **keys: object) -> CTranslate2Translator:
    config = CTranslate2Config.model_validate(
        {"name": "ctranslate2", "conversions": str(cache), "intra_threads": 1, **keys}
    )
    return CTranslate2Translator(checkpoint, config, max_new_tokens=limit)


def theirs(checkpoint: Checkpoint, *, limit: int = 48, **keys: object) -> TransformersTranslator:
    return TransformersTranslator(checkpoint, batch_size=32, max_new_tokens=limit, dtype="float32", **keys)  # type: ignore[arg-type]


def translated(
    translator: CTranslate2Translator | TransformersTranslator, texts: list[str], target: str = "zh"
) -> list[Generated]:
    answers = translator.translate(texts, source="en", target=target)
    assert all(isinstance(answer, Generated) for answer in answers)
    return answers  # type: ignore[return-value]


def same(made: list[Generated], expected: list[Generated], *, scores: float = 1e-3) -> None:
    assert [(one.text, one.cut) for one in made] == [(one.text, one.cut) for one in expected]
    assert [one.score for one in made] == pytest.approx([one.score for one in expected], abs=scores)


@pytest.mark.slow
def test_all_labels_get_the_text_and_the_score_that_transformers_gives(cache: Path) -> None:
    made = translated(ours(SAMPLE, cache, pair=PAIR), LABELS)
    same(made, translated(theirs(SAMPLE, pair=PAIR), LABELS))
    assert len(LABELS) == 683 and not any(one.cut for one in made)


@pytest.mark.slow
def test_eight_bits_change_few_texts(cache: Path) -> None:
    engine = ours(SAMPLE, cache, pair=PAIR, compute_type="int8_float32")
    assert engine.sampling == "greedy,ctranslate2,int8_float32"
    exact, rounded = (translated(one, LABELS) for one in (ours(SAMPLE, cache, pair=PAIR), engine))
    assert sum(a.text == b.text for a, b in zip(exact, rounded, strict=True)) >= 0.98 * len(LABELS)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["marian", "opus-mt-en-mul", "nllb", "mbart"])
@pytest.mark.parametrize("beams", [1, 3])
def test_every_family_writes_what_transformers_writes(models: Path, cache: Path, family: str, beams: int) -> None:
    checkpoint = resolve(str(models / family), None)
    texts = ["a red flower on the beach", "cat", "a dog", "one cat"]
    expected = translated(theirs(checkpoint, limit=8, num_beams=beams), texts)
    made = translated(ours(checkpoint, cache, limit=8, num_beams=beams, batch_size=2), texts)
    # transformers forbids tokens after it has normalised the scores of beams, ctranslate2 before; Marian's forbid one.
    same(made, expected, scores=1e-2 if beams > 1 and family not in ("nllb", "mbart") else 1e-3)


@pytest.mark.parametrize("family", ["marian", "opus-mt-en-mul", "nllb", "mbart", "unnamed"])
def test_directions_are_those_of_transformers(models: Path, cache: Path, family: str) -> None:
    checkpoint = resolve(str(models / family), None)
    pair = PAIR if family == "unnamed" else None
    engines = ours(checkpoint, cache, pair=pair), theirs(checkpoint, pair=pair)
    codes = ("en", "zh", "fr", "de")
    found = [[one.supports(a, b) for a in codes for b in codes] for one in engines]
    assert found[0] == found[1] and any(found[0])
    with pytest.raises(IntegrityError, match="not zh to zh"):
        engines[0].translate(["a"], source="zh", target="zh")


def test_the_target_decides_the_first_token(models: Path, cache: Path) -> None:
    engine = ours(resolve(str(models / "nllb"), None), cache, limit=8)
    zh, fr = (translated(engine, ["a dog"], target) for target in ("zh", "fr"))
    assert zh != fr


@pytest.mark.slow
@pytest.mark.parametrize("limit", [1, 3, 6])
def test_a_text_is_cut_where_transformers_cuts_it(cache: Path, limit: int) -> None:
    texts = LABELS[:40]
    expected = translated(theirs(SAMPLE, limit=limit, pair=PAIR), texts)
    same(translated(ours(SAMPLE, cache, limit=limit, pair=PAIR), texts), expected)
    assert any(one.cut for one in expected)


def test_no_text_depends_on_its_batch_and_several_are_translated_at_once(cache: Path) -> None:
    texts = LABELS[:40]
    together = translated(ours(SAMPLE, cache, pair=PAIR, inter_threads=2, batch_size=4), texts)
    one = ours(SAMPLE, cache, pair=PAIR)
    same(together, [translated(one, [text])[0] for text in texts], scores=1e-5)
    assert translated(one, texts) == translated(one, texts)


def test_a_text_longer_than_the_model_takes_fails_alone(models: Path, cache: Path) -> None:
    engine = ours(resolve(str(models / "marian"), None), cache, limit=500)
    long, short = engine.translate(["a" * 64, "a" * 63], source="en", target="zh")
    assert long == Failure("text of 65 tokens, the model takes 64")
    assert isinstance(short, Generated)


def test_a_failure_that_passes_costs_no_text(cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    engine = ours(SAMPLE, cache, pair=PAIR)
    expected = translated(engine, LABELS[:8])
    monkeypatch.setattr(faults, "_armed", faults._parse("engine.translate:raise@1", str(tmp_path)))
    assert translated(engine, LABELS[:8]) == expected
    assert (tmp_path / "engine.translate.passes").read_bytes() == b".."


def test_the_stage_translates_with_it(cache: Path) -> None:
    keys = {"name": "ctranslate2", "pair": PAIR, "conversions": str(cache)}
    stage = Translate(TranslateConfig.checked({"model": SAMPLE.source, "engine": keys}))
    stage.setup(Runtime())
    nothing = pa.nulls(1, pa.string())
    rows = pa.table({"caption": ["red apple"], "language": ["en"], "drop_stage": nothing, "drop_reason": nothing})
    ((made,),) = stage(rows)["translations"].to_pylist()
    assert (made["text"], made["sampling"]) == ("红苹果", "greedy,ctranslate2,float32")
    assert made["revision"] == SAMPLE.revision


# Conversions


def test_a_model_that_is_converted_already_is_used_as_it_is(cache: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    shutil.copytree(converted(SAMPLE, "int8_float32", str(cache)), folder)
    with pytest.raises(UserError, match="tokenizer"):
        ours(resolve(str(folder), None), tmp_path / "none", pair=PAIR)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(Path(SAMPLE.source) / name, folder)
    engine = ours(resolve(str(folder), None), tmp_path / "none", pair=PAIR)
    assert engine.sampling == "greedy,ctranslate2,int8_float32"
    expected = translated(ours(SAMPLE, cache, pair=PAIR, compute_type="int8_float32"), LABELS[:8])
    assert translated(engine, LABELS[:8]) == expected
    assert not (tmp_path / "none").exists()


def test_other_content_and_other_numbers_are_other_conversions(models: Path, tmp_path: Path) -> None:
    folder = tmp_path / "marian"
    shutil.copytree(models / "marian", folder)
    kept = [converted(resolve(str(folder), None), kind, str(tmp_path / "c")) for kind in ("float32", "int8_float32")]
    assert converted(resolve(str(folder), None), "float32", str(tmp_path / "c")) == kept[0]
    settings = folder / "generation_config.json"
    settings.write_text(settings.read_text().replace("}", ', "x": 1}', 1))
    kept.append(converted(resolve(str(folder), None), "float32", str(tmp_path / "c")))
    assert len(set(kept)) == 3 and all((one / "model.bin").is_file() for one in kept)


CONVERT = """
import sys
from curation.engines.ctranslate2_files import converted
from curation.engines.model_files import resolve
print(converted(resolve(sys.argv[1], None), "float32", sys.argv[2]))
"""


@pytest.mark.slow
def test_processes_that_start_together_convert_once_also_after_one_was_killed(models: Path, tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "PAIRMILL_FAULTS": "engine.convert.before_rename:kill@1",
        "PAIRMILL_FAULTS_DIR": str(tmp_path),
        "PYTHONPATH": str(project_root()),
    }
    cache = tmp_path / "cache"
    command = [sys.executable, "-c", CONVERT, str(models / "marian"), str(cache)]
    running = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    said = [process.communicate()[0].strip() for process in running]
    assert sorted(process.returncode for process in running) == [-signal.SIGKILL, 0, 0]
    (folder,) = {one for one in said if one}
    assert sorted(path.name for path in cache.iterdir()) == sorted([f".{Path(folder).name}.lock", Path(folder).name])
    # The one that was killed, and the one that did its work.
    assert (tmp_path / "engine.convert.before_rename.passes").read_bytes() == b".."
    engine = ours(resolve(str(models / "marian"), None), cache, limit=8)
    assert isinstance(engine.translate(["a dog"], source="en", target="zh")[0], Generated)


def test_what_cannot_be_converted_says_why(models: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"(?s)must be a Marian.*a model of type llava.*transformers"):
        ours(resolve(str(models / "llava"), None), tmp_path)
    with pytest.raises(UserError, match=r"compute_type must be one that the device computes in(?s:.*)float16 on cpu"):
        ours(SAMPLE, tmp_path, compute_type="float16", device="cpu")
    with pytest.raises(UserError, match=r"translate\.engine\.pair"):
        ours(resolve(str(models / "unnamed"), None), tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"translate\.engine\.conversions must be a folder"):
        ours(SAMPLE, tmp_path / "file", pair=PAIR)


def test_the_identity_holds_what_decides_the_text_only() -> None:
    keys = {"batch_size": 2, "device": "cpu", "inter_threads": 2, "intra_threads": 2, "conversions": "x"}
    config = CTranslate2Config.model_validate({"name": "ctranslate2", **keys})
    assert config.identity() == {"name": "ctranslate2", "compute_type": "auto", "num_beams": 1, "pair": None}
