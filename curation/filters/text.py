"""Repair the alt text, measure it, and filter pairs whose text says nothing about an image.

reads: alt (string)
adds:  caption (string; alt without mojibake, entities and stray controls, whitespace collapsed, NFC),
       text_words, text_characters (int32), text_digit_share, text_repeat_share (float32, 0-1)
drops: text_too_short, text_too_few_words, text_too_long, text_is_url, text_is_file_name, text_is_boilerplate,
       text_repeats_itself, text_too_many_digits, text_too_common, text_has_listed_word

A word is a run of non-space characters with a letter or digit in it.  Chinese, Japanese, Thai, Lao, Khmer and Burmese
put no space between words, so each of their letters counts as a word.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from curation.filters.patterns import is_boilerplate, is_file_name, is_url
from curation.filters.scripts import UNSPACED, WIDE
from curation.filters.words import WordList
from curation.stage import Column
from pairmill.config import Config
from pairmill.packages import needed
from pairmill.regex import compile_later


class TextConfig(Config):
    """Rules on the repaired alt text."""

    min_characters: int = Field(
        6,
        ge=0,
        description="least characters; a Chinese, Japanese or Korean one counts two (DataComp basic: over 5)",
    )
    max_characters: int | None = Field(None, ge=1, description="most characters, each counted once; null: off")
    min_words: int = Field(
        3,
        ge=0,
        description="least words; in scripts without spaces (Chinese, Japanese, Thai, …) each letter is a word "
        "(DataComp basic: over 2)",
    )
    max_words: int | None = Field(None, ge=1, description="most words, counted likewise (ALIGN: 20); null: off")
    drop_url_captions: bool = Field(True, description="whether to drop texts that are only URLs or a host name")
    drop_file_names: bool = Field(True, description="whether to drop texts that are a file name, such as IMG_1234.jpg")
    drop_boilerplate: bool = Field(
        True, description="whether to drop stock phrases of web pages, such as 'click to enlarge' (curation/data)"
    )
    boilerplate_file: Path | None = Field(
        None,
        description="file of more stock phrases, like curation/data/boilerplate.txt; null: none",
    )
    max_repeat_share: float | None = Field(
        0.5, ge=0, le=1, description="greatest share, 0-1, of word pairs that occurred before in the text; null: off"
    )
    max_digit_share: float | None = Field(
        0.5, ge=0, le=1, description="greatest share, 0-1, of digits among non-space characters; null: off"
    )
    max_images_per_text: int | None = Field(
        None, ge=1, description="most images with the same text in the whole input (ALIGN: 10); null: off"
    )
    listed_words: tuple[str, ...] | Path = Field(
        (), description="words and phrases that drop a text: a list, or a file with one per line (# starts a comment)"
    )


#: Measurements that `measure` returns beside the caption.
MEASURES = (
    Column("text_words", pa.int32(), "words of the caption; a letter of a script without spaces is one"),
    Column("text_characters", pa.int32(), "characters of the caption"),
    Column("text_digit_share", pa.float32(), "0-1, digits among its characters that are not spaces"),
    Column("text_repeat_share", pa.float32(), "0-1, pairs of neighbouring words that occurred earlier in it"),
)

_TOKEN = compile_later(rf"[{UNSPACED}]|(?:(?![{UNSPACED}])\w)+")
_ASCII_TOKEN = compile_later(r"[A-Za-z0-9_]+")
_UNSPACED = compile_later(f"[{UNSPACED}]")
_WIDE = compile_later(f"[{WIDE}]")
_SPACED_WORD = compile_later(r"\w\S*")
_DIGIT = compile_later(r"\d")
_SPACE = compile_later(r"\s+")

#: Invisible and silent: zero-width space, word joiner, byte-order mark, soft hyphen; not the joiners that Persian and
#: emoji need.
_INVISIBLE = compile_later("[\u200b\u2060\ufeff\u00ad]")

#: Text in which ftfy has nothing to fix, which is most text: printable ASCII without entities, CJK, and accented
#: letters between ASCII ones (a character of UTF-8 read in another encoding gives two or more, side by side).
_CLEAN = compile_later(
    r"(?:[ -%'-~\u3001-\u3029\u3030\u303b-\u3096\u309d-\u30ff\u3400-\u9fff\uac00-\ud7a3\uff01-\uff5e]"
    r"|(?<![^\x00-\x7f])[\xdf-\xf6\xf8-\xff](?![^\x00-\x7f]))*"
)


@cache
def _fixer() -> Any:
    """ftfy with our settings.  Imported here: a recipe, and most texts, need none of it."""
    with needed("ftfy"):
        import ftfy

    # Widths and curly quotes stay: they are how Chinese is punctuated.
    config = ftfy.TextFixerConfig(
        unescape_html=True, uncurl_quotes=False, fix_character_width=False, normalization="NFC", explain=False
    )
    return partial(ftfy.fix_text, config=config)


def repair(alt: str) -> str:
    """`alt` with mojibake, HTML entities and control characters fixed (ftfy), one space for each gap, in NFC."""
    if _CLEAN.fullmatch(alt):
        return " ".join(alt.split())
    fixed = _INVISIBLE.sub("", _fixer()(alt))
    return unicodedata.normalize("NFC", _SPACE.sub(" ", fixed).strip())


def tokens(text: str) -> list[str]:
    """Words without punctuation, as written; each letter of an unspaced script by itself."""
    return (_ASCII_TOKEN if text.isascii() else _TOKEN).findall(text)


def count_words(text: str) -> int:
    """Words, as defined in the module docstring."""
    if text.isascii():
        return len(_SPACED_WORD.findall(text))
    spaced, letters = _UNSPACED.subn(" ", text)
    return letters + len(_SPACED_WORD.findall(spaced))


def width(text: str) -> int:
    """Characters, with each wide one (Chinese, Japanese, Korean) counted twice."""
    return len(text) if text.isascii() else len(text) + len(_WIDE.findall(text))


def digit_share(text: str) -> float:
    """Digits among the characters that are not spaces; 0 for an empty text."""
    digits = len(_DIGIT.findall(text))
    return digits / (len(text) - text.count(" ")) if digits else 0.0


def repeat_share(text: str) -> float:
    """Share of the text's pairs of neighbouring words that occurred earlier in it; 0 under three words."""
    words = tokens(text.casefold())
    if len(words) < 3:
        return 0.0
    return 1 - len(set(pairwise(words))) / (len(words) - 1)


def measure(captions: Sequence[str]) -> dict[str, pa.Array]:
    """The columns of `MEASURES` for repaired texts."""
    columns: dict[str, list[int] | list[float]] = {
        "text_words": [count_words(text) for text in captions],
        "text_characters": [len(text) for text in captions],
        "text_digit_share": [digit_share(text) for text in captions],
        "text_repeat_share": [repeat_share(text) for text in captions],
    }
    return {column.name: pa.array(columns[column.name], column.type) for column in MEASURES}


def text_masks(
    captions: Sequence[str],
    measures: dict[str, pa.Array],
    config: TextConfig,
    common: pa.Array | pa.ChunkedArray | None,
) -> dict[str, pa.Array]:
    """Reason -> mask over the given texts, for the rules that are on.

    common: which of the raw alt texts the whole input gives to more than `config.max_images_per_text` images; read only
        if that rule is on.
    """

    def each(rule: Callable[[str], bool]) -> pa.Array:
        return pa.array([rule(text) for text in captions], pa.bool_())

    masks = {}
    if config.min_characters:
        masks["text_too_short"] = each(lambda text: width(text) < config.min_characters)
    if config.min_words:
        masks["text_too_few_words"] = pc.less(measures["text_words"], config.min_words)
    too_long = [
        pc.greater(measures[column], most)
        for column, most in (("text_characters", config.max_characters), ("text_words", config.max_words))
        if most is not None
    ]
    if too_long:
        masks["text_too_long"] = pc.or_(too_long[0], too_long[-1])
    if config.drop_url_captions:
        masks["text_is_url"] = each(is_url)
    if config.drop_file_names:
        masks["text_is_file_name"] = each(is_file_name)
    if config.drop_boilerplate:
        masks["text_is_boilerplate"] = each(lambda text: is_boilerplate(text, config.boilerplate_file))
    if config.max_repeat_share is not None:
        masks["text_repeats_itself"] = pc.greater(measures["text_repeat_share"], config.max_repeat_share)
    if config.max_digit_share is not None:
        masks["text_too_many_digits"] = pc.greater(measures["text_digit_share"], config.max_digit_share)
    if config.max_images_per_text is not None:
        masks["text_too_common"] = common
    if config.listed_words:
        listed = WordList.load(config.listed_words)
        masks["text_has_listed_word"] = each(listed.found_in)
    return masks
