"""Whether a text in Chinese characters is Chinese or Japanese.

Kana and characters that only one language spells so decide.  What is left are short labels in characters that both
use, and some of them are words of both (富士山, 十字架, 火山).  Of those, the ones that only traditional Chinese would
spell so are Japanese, unless Japan hardly uses one of their characters.  lid.176 is no help: it takes two of three
Chinese labels of one or two characters for Japanese or English.
"""

from __future__ import annotations

from collections import Counter

from curation.filters.scripts import ZERO, charset_has, jis_level, script_of, spelling

#: Japanese of more characters than these has kana.
_LONGEST_WITHOUT_KANA = 5

#: Words of one character that Chinese uses without kana, and Japanese hardly ever.
_CHINESE_WORDS = frozenset("的是")

#: Of CLDR's labels in shared characters, 764 Chinese and 245 Japanese ones are called Chinese.
_SHARED_IS_CHINESE = 0.75

#: Characters that traditional Chinese has too never prove that a text is Japanese: a Chinese translation is not refused
#: for them.
_SHARED_IS_JAPANESE = 0.45


def chinese_or_japanese(text: str) -> tuple[str, float]:
    """`zh` or `ja`, and how sure that is, 0-1.  text: has a Chinese character or kana."""
    characters = [character for character in text if script_of(character) == "han"]
    kana = sum(script_of(character) == "kana" for character in text)
    spellings = Counter(map(spelling, characters))
    chinese, japanese = spellings["zh"], spellings["ja"]
    if kana:
        # One の in a Chinese shop's name does not make it Japanese.
        return ("zh", 0.7) if chinese > japanese and kana < 0.2 * (len(characters) + kana) else ("ja", 1.0)
    if japanese > chinese:
        return "ja", japanese / (japanese + chinese)
    if chinese:
        return "zh", chinese / (japanese + chinese)
    return ("ja", _SHARED_IS_JAPANESE) if _is_japanese_label(characters) else ("zh", _SHARED_IS_CHINESE)


def _is_japanese_label(characters: list[str]) -> bool:
    """Whether all are of daily use in Japan, and simplified Chinese spells one of them otherwise."""
    if len(characters) > _LONGEST_WITHOUT_KANA or not _CHINESE_WORDS.isdisjoint(characters):
        return False
    characters = [character for character in characters if character != ZERO]
    daily = all(jis_level(character) == 1 for character in characters)
    return daily and not all(charset_has(character, "gb2312") for character in characters)
