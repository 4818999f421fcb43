import numpy as np
import pytest

from training.data.sample import samples
from training.evaluate.evaluated_rows import EvaluatedText, chosen_texts, rows_of

TEXTS = [EvaluatedText(tag, tag, "alt") for tag in ("en", "EN", "pt_BR", "zh_CN", "ZH", "zh-Hant", "und")]


def test_a_language_has_one_name_however_it_is_spelled() -> None:
    spelled = ["zh_CN", "ZH", "pt_BR", "eng_Latn", "en-US", "zh_Hant_HK", None]
    texts = [{"text": str(tag), "language": tag, "kind": "alt"} for tag in spelled]
    (row,) = rows_of(samples(["a"], [b"image"], [texts], np.array([-1])))
    assert [text.language for text in row.texts] == ["zh", "zh", "pt", "en", "en", "zh-hant", "und"]


@pytest.mark.parametrize(
    ("languages", "found"),
    [
        (["zh"], ["zh_CN", "ZH", "zh-Hant"]),
        (["zh-Hant"], ["zh-Hant"]),
        (["pt", "eng"], ["en", "EN", "pt_BR"]),
        (["und"], ["und"]),
        (["fr"], []),
    ],
)
def test_languages_are_chosen_however_they_are_spelled(languages: list[str], found: list[str]) -> None:
    assert [text.text for text in chosen_texts(TEXTS, languages, None)] == found
    assert chosen_texts(TEXTS, languages, ["long"]) == []
