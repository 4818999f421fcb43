"""An engine answers every request, one for one: an answer too few would give a row the text of another."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from PIL import Image
from tiny_models import save_marian

from curation.engines import TRANSLATE_ENGINES, CaptionRequest, Failure, Generated
from curation.engines.decoding import TokenScores
from curation.recaption import Recaption, RecaptionConfig
from curation.translate import Translate, TranslateConfig
from pairmill.errors import IntegrityError


class Captioner:
    """Answers with so many texts too many, or too few."""

    rows_per_call = 4

    def __init__(self, more: int) -> None:
        self.more = more

    def caption(self, requests: Sequence[CaptionRequest]) -> list[Generated | Failure]:
        return [Generated("a text", -0.5) for _ in range(len(requests) + self.more)]


class Translator:
    sampling = "greedy"

    def __init__(self, more: int) -> None:
        self.more = more

    def supports(self, source: str, target: str) -> bool:
        return True

    def translate(self, texts: Sequence[str], *, source: str, target: str) -> list[Generated | Failure]:
        return [Generated("一只狗", -0.5) for _ in range(len(texts) + self.more)]


def _picture(side: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (side, 8)).save(file, "PNG")
    return file.getvalue()


def _rows() -> pa.Table:
    nothing = pa.nulls(2, pa.string())
    columns = {
        "uid": ["0" * 32, "1" * 32],
        "image": pa.array([_picture(8), _picture(9)]),
        "caption": ["a dog", "a cat"],
    }
    return pa.table({**columns, "language": ["en", "en"], "drop_stage": nothing, "drop_reason": nothing})


@pytest.mark.parametrize("more", [-1, 1])
def test_a_captioner_that_does_not_stops_the_job(more: int) -> None:
    config = RecaptionConfig(engine="openai", model="owner/name", revision="v1", prompts={"short": "1", "long": "2"})
    with pytest.raises(IntegrityError, match=rf"recaption\.engine openai must .*: {4 + more} answers to 4"):
        Recaption(config, engine=Captioner(more))(_rows())


@pytest.mark.parametrize("more", [-1, 1])
def test_a_translator_that_does_not_stops_the_job(more: int) -> None:
    config = TranslateConfig(model="samples/models/translator")
    with pytest.raises(IntegrityError, match=rf"translate\.engine \w+ must .*: {2 + more} answers to 2"):
        Translate(config, engine=Translator(more))(_rows())


def test_a_translator_never_gets_a_direction_that_it_does_not_have(tmp_path: Path) -> None:
    config = TranslateConfig.model_validate({"model": str(save_marian(tmp_path)), "engine": {"pair": ["en", "zh"]}})
    declared = TRANSLATE_ENGINES.get(config.engine.name)
    engine = declared.load(config.engine, config, declared.check(config.engine, config))
    assert engine.supports("en", "zh")
    with pytest.raises(IntegrityError, match="directions that it supports, not zh to en"):
        engine.translate(["狗"], source="zh", target="en")


def test_scores_of_tokens_that_no_step_chose_are_refused() -> None:
    with pytest.raises(IntegrityError, match="every step"):
        TokenScores(None).finish(torch.tensor([1]))
