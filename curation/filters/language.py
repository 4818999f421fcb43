"""Name the language of short texts: a script test, then fastText lid.176 and ELD together, and alphabets.

reads: caption
adds:  language (ISO 639-1, `und` where there is no letter), language_score (float32, 0-1)
drops: language_not_allowed, language_uncertain

lid.176 was trained on sentences and is unreliable on a caption's two to five words: of short Chinese labels it
calls 23 % Japanese and 21 % English, and most English in capitals German.  So capitals that say nothing are lowered,
the script decides what it can, and `curation/filters/evidence.py` weighs what the script leaves open.
`benchmarks/languages.py` says how often the answer is right.
"""

from __future__ import annotations

import math
import unicodedata
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, field_validator

from curation.filters.alphabets import LANGUAGES
from curation.filters.evidence import best, known_languages, lid_model, relatives, weigh
from curation.filters.han import chinese_or_japanese
from curation.filters.scripts import SCRIPTS, script_of
from pairmill.config import Config
from pairmill.languages import ISO_639_1, UNKNOWN, canonical, primary
from pairmill.regex import compile_later

#: Characters of a text that suffice to identify its language.
_PREFIX = 300

#: What a letter says of a text's script.  Names in Latin letters stand in texts of every script, and hardly the other
#: way round, so other letters count twice.  A Han character says about as much as a word of three letters.
_LETTER_WEIGHT = {"latin": 1, "han": 6, "kana": 4, "hangul": 4}
_OTHER_LETTER = 2

#: Languages of other scripts, which lid.176 and ELD also name for Latin words.
_NEVER_LATIN = frozenset({"zh", "ja"}.union(*LANGUAGES.values())) - {"ku"}

#: Languages with a dotless ı.
_DOTLESS = frozenset({"tr", "az"})

#: Logarithm of how likely an I without a dot is dotless in a text in capitals.
_READ_AS_TURKISH = -0.7

#: Any but the likeliest language of a script.
_SECOND_LANGUAGE = 0.65

#: Signs and emoji of which NFKC makes letters, but not letters in circles and squares.
_LETTERS = frozenset((*range(0x24B6, 0x24EA), *range(0x1F130, 0x1F14A))) - {ord("Ⓜ")}
_BLOCKS_OF_SIGNS = (*range(0x2100, 0x2E00), *range(0x3200, 0x3400), *range(0x1F100, 0x1F300))
_SIGNS = dict.fromkeys(
    {ord("ℹ"), *(code for code in _BLOCKS_OF_SIGNS if unicodedata.category(chr(code)) == "So")} - _LETTERS, " "
)

#: A Wikipedia's code, as lid.176 gives it, that is another language's in ISO 639 (Albanian): Alemannic.
_OF_WIKIPEDIA = {"als": "gsw"}

_ONLY_LATIN = compile_later(rf"[\x00-\x7f{SCRIPTS['latin']}\u2010-\u2026]*")  # and dashes, quotes, dots
_WORD = compile_later(r"[^\W\d_]+")


class LanguageConfig(Config):
    """Which languages stay."""

    languages: tuple[str, ...] | None = Field(
        None,
        description="languages to keep (ISO 639-1; `und`: texts without letters; DataComp basic: en); null: all",
    )
    language_detector: Literal["combined", "lid.176"] = Field(
        "combined",
        description="what names the language; combined: script, lid.176 and ELD, which is right far more often on "
        "short texts; lid.176: fastText's model alone, on the alt text as it was found, as published rules used it",
    )
    min_language_score: float | None = Field(
        None, ge=0, le=1, description="least `language_score`, 0-1 (Data-Juicer: 0.8, on long text); null: off"
    )

    @field_validator("languages")
    @classmethod
    def _codes(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for code in value or ():
            if canonical(code) not in (UNKNOWN, *ISO_639_1):
                raise ValueError(f"a language must have an ISO 639-1 code, such as en or zh, or be und; got {code!r}")
        return None if value is None else tuple(dict.fromkeys(map(canonical, value)))


def language_masks(rows: pa.Table, config: LanguageConfig) -> dict[str, pa.ChunkedArray]:
    """Reason -> mask, for the rules that are on; null where `language` is null."""
    masks = {}
    if config.languages is not None:
        allowed = pc.is_in(rows["language"], pa.array(config.languages, pa.string()))
        masks["language_not_allowed"] = pc.and_(pc.is_valid(rows["language"]), pc.invert(allowed))
    if config.min_language_score is not None:
        masks["language_uncertain"] = pc.less(rows["language_score"], np.float32(config.min_language_score))
    return masks


def detect(texts: Sequence[str]) -> tuple[list[str], list[float]]:
    """Language (ISO 639-1, or `und`) and confidence (0-1) of each text.

    Full-width and mathematical letters, ligatures and letters in circles (NFKC) are read as the plain ones; signs that
    NFKC spells out (™, №) are no letters.
    The confidence is the chosen language's share of the weights of all candidates, or the share of the letters in the
    chosen script where the script alone decides.
    """
    found = [_detect_one(*_read(text)) for text in texts]
    return [language for language, _ in found], [score for _, score in found]


def share_of(text: str, language: str) -> float | None:
    """How much of a text may be in a language, 0-1: its share, with that of its near relatives, of all weights.

    It is near 0 only where the text is surely in another language, however unsure it is in which: `detect` tells
    Galician from Spanish with little confidence, and both are surely not English.  A name in another script counts as
    much as its letters.  None where nothing can be said: without letters, for a language that no detector knows, and
    for one word that a language of its script may have borrowed.
    """
    language = primary(language)
    if language not in known_languages() and language not in _NEVER_LATIN:
        return None
    running, turkish = _read(text)
    letters = Counter(filter(None, map(script_of, running)))
    words = sum(1 for _ in _WORD.finditer(running))
    # Letters of a script that no language of ours has.
    others = sum(map(str.isalpha, running)) - letters.total()
    if not (letters or others) or (set(letters) == {"latin"} and words == 1 and language not in _NEVER_LATIN):
        return None
    near = {language, *relatives(language)}
    weights = {script: n * _LETTER_WEIGHT.get(script, _OTHER_LETTER) for script, n in letters.items()}
    found = 0.0
    for script, weight in weights.items():
        if script in ("han", "kana"):
            named, score = chinese_or_japanese(running)
            share = score if named in near else 1 - score if language in ("zh", "ja") else 0.0
        elif script == "latin":
            share = _share(_latin_weights(running, turkish), near)
        else:
            languages = LANGUAGES[script]
            single = float(languages[0] in near)
            share = _share(_weights_among(running, script, languages), near) if len(languages) > 1 else single
        found += share * weight
    return found / (sum(weights.values()) + others * _OTHER_LETTER)


def _share(weights: Mapping[str, float], near: Collection[str]) -> float:
    """The share of some languages of the weights, whose logarithms these are; 1 if there are none."""
    if not weights:
        return 1.0
    most = max(weights.values())
    each = {language: math.exp(weight - most) for language, weight in weights.items()}
    return sum(each[language] for language in near if language in each) / sum(each.values())


def _read(text: str) -> tuple[str, str | None]:
    """The beginning of a text with plain letters, as in running text: see `_as_written_in_running_text`."""
    # Half an emoji, as a model's server may send it, is no text that lid.176 takes.
    whole = text[:_PREFIX].replace("\n", " ").encode(errors="replace").decode()
    return _as_written_in_running_text(unicodedata.normalize("NFKC", whole.translate(_SIGNS))[:_PREFIX])


def detect_by_lid(texts: Sequence[str]) -> tuple[list[str], list[float]]:
    """The first label of lid.176 for each text, whole, and its probability; `und` and 0 where it names none."""
    languages, scores = [], []
    for text in texts:
        # As fastText's users do: it reads one line.  Half an emoji is no text that it takes.
        line = text.replace("\n", " ").encode(errors="replace").decode()
        labels, probabilities = lid_model().predict(line, k=1)
        language = labels[0].removeprefix("__label__") if labels else UNKNOWN
        languages.append(_OF_WIKIPEDIA.get(language, language))
        scores.append(min(1.0, float(probabilities[0])) if labels else 0.0)
    return languages, scores


def _as_written_in_running_text(text: str) -> tuple[str, str | None]:
    """The text in lower case if its capitals say nothing: all of it, each word, or the first letter has one.

    lid.176 has hardly seen words in capitals, and takes a first capital for a name.  The second text is the first one
    as Turkish lowers it, where that differs: its I is the capital of dotless ı, and its İ that of i.
    """
    words = [word for word in _WORD.findall(text) if word.lower() != word.upper()]
    raised = [word for word in words if word[0].isupper()]
    long = [word for word in words if len(word) > _SHORT_IN_TITLES]
    capitals = len(raised) == len(words) and all(word.isupper() for word in words)
    title = len(words) > 1 and all(word[0].isupper() for word in long) and 2 * len(raised) >= len(words)
    sentence = len(words) > 1 and raised == words[:1] and not any(map(str.isupper, words[0][1:]))
    if not (capitals or title or sentence):
        return text, None
    # Python lowers İ to i and a loose dot.
    return text.lower().replace("i\u0307", "i"), _turkish_lower(text) if "I" in text or "İ" in text else None


def _turkish_lower(text: str) -> str:
    return text.replace("I", "ı").replace("İ", "i").lower()


#: Letters of the words that Title Case may leave small: of, and, the, avec.
_SHORT_IN_TITLES = 4


def _detect_one(text: str, turkish: str | None) -> tuple[str, float]:
    if _ONLY_LATIN.fullmatch(text):
        return _latin(text, turkish) if _WORD.search(text) else (UNKNOWN, 0.0)
    letters = Counter(filter(None, map(script_of, text)))
    if not letters:
        return UNKNOWN, 0.0
    weights = {script: n * _LETTER_WEIGHT.get(script, _OTHER_LETTER) for script, n in letters.items()}
    total = sum(weights.values())
    cjk = weights.get("han", 0) + weights.get("kana", 0)
    script = max(weights, key=lambda name: weights[name])
    if cjk >= weights[script]:
        language, score = chinese_or_japanese(text)
        return language, score * cjk / total
    if script == "latin":
        return _latin(text, turkish)
    languages = LANGUAGES[script]
    if len(languages) == 1:
        return languages[0], weights[script] / total
    return _among(text, script, languages)


def _latin(text: str, turkish: str | None) -> tuple[str, float]:
    return best(_latin_weights(text, turkish))


def _latin_weights(text: str, turkish: str | None) -> dict[str, float]:
    weights = weigh(text, "latin", _latin_prior)
    if turkish is not None:
        read_as_turkish = weigh(turkish, "latin", _latin_prior)
        for language in _DOTLESS & read_as_turkish.keys():
            weights[language] = read_as_turkish[language] + _READ_AS_TURKISH
    return weights


def _latin_prior(language: str) -> float:
    return 0.0 if language in _NEVER_LATIN else 1.0


def _among(text: str, script: str, languages: tuple[str, ...]) -> tuple[str, float]:
    """The best of one script's languages; the first of them if neither model names one."""
    language, score = best(_weights_among(text, script, languages))
    return (languages[0], 0.0) if language == UNKNOWN else (language, score)


def _weights_among(text: str, script: str, languages: tuple[str, ...]) -> dict[str, float]:
    def prior(language: str) -> float:
        return 0.0 if language not in languages else 1.0 if language == languages[0] else _SECOND_LANGUAGE

    return weigh(text, script, prior)
