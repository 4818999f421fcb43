import pytest

from training.evaluate.evaluated_rows import EvaluatedText, chosen_texts

TEXTS = [EvaluatedText(tag, tag, "alt") for tag in ("en", "EN", "pt_BR", "zh_CN", "ZH", "zh-Hant", "und")]


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
