"""Which script a character is written in, and whether Chinese characters are a Chinese or a Japanese spelling.

Ranges are the Unicode blocks of each script's letters.
"""

from __future__ import annotations

from functools import lru_cache
from types import MappingProxyType

from pairmill.regex import compile_later

#: Script -> its blocks as a regular-expression character class.
SCRIPTS = MappingProxyType(
    {
        "latin": "A-Za-z\u00aa\u00ba\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f\u1e00-\u1eff",
        "han": "\u3005\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff",
        "kana": "\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\uff66-\uff9f",
        "hangul": "\u1100-\u11ff\u3131-\u318e\uac00-\ud7a3",
        "cyrillic": "\u0400-\u052f",
        "greek": "\u0370-\u03ff\u1f00-\u1fff",
        "arabic": "\u0620-\u064a\u066e-\u06d3\u06fa-\u06ff\u0750-\u077f\ufb50-\ufdff\ufe70-\ufefc",
        "hebrew": "\u05d0-\u05f4",
        "thaana": "\u0780-\u07b1",
        "devanagari": "\u0900-\u097f",
        "bengali": "\u0980-\u09ff",
        "gurmukhi": "\u0a00-\u0a7f",
        "gujarati": "\u0a80-\u0aff",
        "oriya": "\u0b00-\u0b7f",
        "tamil": "\u0b80-\u0bff",
        "telugu": "\u0c00-\u0c7f",
        "kannada": "\u0c80-\u0cff",
        "malayalam": "\u0d00-\u0d7f",
        "sinhala": "\u0d80-\u0dff",
        "thai": "\u0e01-\u0e3a\u0e40-\u0e4e",
        "lao": "\u0e80-\u0eff",
        "tibetan": "\u0f00-\u0fff",
        "myanmar": "\u1000-\u109f",
        "georgian": "\u10a0-\u10ff",
        "armenian": "\u0531-\u058f",
        "ethiopic": "\u1200-\u137f",
        "khmer": "\u1780-\u17ff",
    }
)

#: Letters of scripts that put no space between words: each counts as a word of its own.  Thai, Lao, Khmer and Myanmar
#: vowel signs above and below are part of the consonant's character cell and do not count.
UNSPACED = (
    SCRIPTS["han"]
    + SCRIPTS["kana"]
    + "\u0e01-\u0e30\u0e32\u0e33\u0e40-\u0e46"  # Thai
    + "\u0e81-\u0eb0\u0eb2\u0eb3\u0ebd\u0ec0-\u0ec6"  # Lao
    + "\u1780-\u17b3"  # Khmer
    + "\u1000-\u102a"  # Myanmar
)

#: Letters that take two columns in a terminal (East Asian wide), and carry about as much as two Latin letters.
WIDE = SCRIPTS["han"] + "\u3041-\u30ff" + SCRIPTS["hangul"]

_NAMED = compile_later("|".join(f"(?P<{name}>[{letters}])" for name, letters in SCRIPTS.items()))


#: The zero of years (二〇二〇年), which GB 2312 and Big5 lack and Chinese uses as Japanese does.
ZERO = "\u3007"


@lru_cache(maxsize=65_536)
def script_of(character: str) -> str | None:
    """Name of the character's script, or None if it is not a letter of a script in `SCRIPTS`."""
    found = _NAMED.match(character)
    return found.lastgroup if found else None


@lru_cache(maxsize=65_536)
def spelling(han: str) -> str | None:
    """`zh` or `ja` if only that language uses this form of the Han character, None if both do.

    Decided by the national character sets: a character of JIS X 0208 that is neither in GB 2312 (simplified Chinese)
    nor in Big5 (traditional Chinese) is a Japanese form, e.g. 駅 and 気; one that JIS X 0208 lacks is Chinese, e.g. 红.
    """
    if not charset_has(han, "shift_jis"):
        return "zh"
    if han == ZERO:
        return None
    return None if charset_has(han, "gb2312") or charset_has(han, "big5") else "ja"


@lru_cache(maxsize=65_536)
def jis_level(han: str) -> int | None:
    """Level of a Han character in JIS X 0208, None if it lacks it: 1 for those of daily use, 2 for rare ones.

    The level is the row of the code: 16 to 47 are level 1 (JIS X 0208:1997, 6.6.3).
    """
    if not charset_has(han, "shift_jis"):
        return None
    encoded = han.encode("euc_jp")
    return 1 if encoded[0] - 0xA0 < 48 else 2


def charset_has(character: str, charset: str) -> bool:
    """Whether Python's codec of a national character set has the character."""
    try:
        character.encode(charset)
    except UnicodeEncodeError:
        return False
    return True
