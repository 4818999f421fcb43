"""An engine answers every request, one for one: an answer too few would give a row the text of another."""

from __future__ import annotations

import io
from collections.abc import Sequence

import pyarrow as pa
import pytest
from PIL import Image

from curation.engines import CaptionRequest, Failure, Generated
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


def _rows() -> pa.Table:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "PNG")
    nothing = pa.nulls(2, pa.string())
    columns = {"uid": ["0" * 32, "1" * 32], "image": pa.array([file.getvalue()] * 2), "caption": ["a dog", "a cat"]}
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
