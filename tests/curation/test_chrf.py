import pytest

from curation.chrf import chrf


# The values are sacrebleu 2.6.0's: `sentence_chrf(text, [reference]).score`.
@pytest.mark.parametrize(
    ("text", "reference", "score"),
    [
        ("a black dog runs", "the black dog is running", 39.9061),
        ("Ein Hund läuft.", "Ein brauner Hund läuft über den Hof.", 31.7622),
        ("狗在跑", "一只黑狗在跑步", 37.1051),
        ("ab", "a red apple", 6.5789),
        ("a red dog", "a red dog", 100.0),
        ("", "a red dog", 0.0),
        ("a red dog", "", 0.0),
    ],
)
def test_chrf_is_that_of_sacrebleu(text: str, reference: str, score: float) -> None:
    assert chrf(text, reference) == pytest.approx(score, abs=1e-4)
