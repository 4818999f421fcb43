"""Recognise texts that are no captions: URLs, file names, stock phrases of web pages."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from curation.filters.words import read_list
from pairmill.folding import fold
from pairmill.regex import compile_later

BOILERPLATE = Path(__file__).parent.parent / "data" / "boilerplate.txt"

_URL = compile_later(r"(?:https?:)?//\S+|www\.\S+", re.IGNORECASE)
_NOT_WORD = compile_later(r"[\W_]+")
_LETTER = compile_later(r"[^\W\d_]")
_HOST = compile_later(
    r"(?:[\w-]{2,63}\.)+"
    r"(?:com|net|org|info|biz|edu|gov|io|co|tv|me|cn|hk|tw|jp|kr|de|fr|it|es|nl|be|ch|at|pl|ru|ua|uk|eu|us|ca|au|in|br)"
    r"(?:[:/?#]\S*)?",
    re.IGNORECASE,
)

#: The limit of common file systems; it also bounds the work of the patterns below.
_LONGEST_FILE_NAME = 255
_EXTENSION = r"\.(?:jpe?g|jfif|png|gif|webp|bmp|tiff?|svgz?|heic|avif|ico|psd|cr2|nef|dng|mp4|mov|pdf)"
_FILE = compile_later(rf"\S+(?: \S+)?{_EXTENSION}(?:[?#]\S*)?", re.IGNORECASE)
_PHOTO_NAME = compile_later(
    rf"""
    (?:
      # what cameras, phones and messengers call their files
      (?:img|imgp|image|dsc|dscn|dscf|dscf?_|_dsc|_mg|pict|photo|picture|pic|gopr|dji|mvimg|pano|wp|vid|cimg|sam|scan|
         screen[ _-]?shot|screen[ _-]?capture|capture|untitled|unnamed|file|thumb(?:nail)?|fullsizerender|
         whatsapp[ _-]image|wechat[ _-]image|received|snapchat|fb_img|
         微信图片|微信截图|qq图片|qq截图|截图|截屏|屏幕截图|图片|照片|未命名|無題|スクリーンショット)
      (?:[ _.()-]*(?:\d|wa|edit(?:ed)?|copy|at|am|pm|上午|下午|副本))+
    | (?:untitled|unnamed|noname|fullsizerender|未命名|無題)
    | p?\d{{6,}}(?:[ _-]\d+)*  # 20190503_123456, P1010001
    | [0-9a-f]{{8}}-[0-9a-f]{{4}}-[0-9a-f]{{4}}-[0-9a-f]{{4}}-[0-9a-f]{{12}}
    | (?=[a-f]*\d)(?=\d*[a-f])[0-9a-f]{{12,}}  # a hash
    )
    [ _.()-]* (?:{_EXTENSION})?
    """,
    re.IGNORECASE | re.VERBOSE,
)


def is_url(text: str) -> bool:
    """Whether the text is only URLs or a bare host name."""
    if "/" not in text and "." not in text:
        return False
    rest, n = _URL.subn("", text)
    return bool((n and not _LETTER.search(rest)) or _HOST.fullmatch(text))


def is_file_name(text: str) -> bool:
    """Whether the text is a file name, with an ending or, for names that devices give, without one.

    A name of three words or more, such as "Red apple on a table.jpg", describes its picture and is not one.
    """
    if len(text) > _LONGEST_FILE_NAME:
        return False
    return bool(_PHOTO_NAME.fullmatch(text) or _FILE.fullmatch(text))


def is_boilerplate(text: str, more: Path | None = None) -> bool:
    """Whether the whole text is one of the phrases in curation/data/boilerplate.txt or in the file `more`."""
    folded = _fold(text)
    if not folded:
        return False
    return any(
        folded in phrases.exact or (phrases.starts and folded.startswith(phrases.starts))
        for phrases in ((_phrases(BOILERPLATE),) if more is None else (_phrases(BOILERPLATE), _phrases(more)))
    )


class _Phrases(NamedTuple):
    exact: frozenset[str]
    starts: tuple[str, ...]


@lru_cache(maxsize=8)
def _phrases(path: Path) -> _Phrases:
    """A line ending in * is the start of a text; any other line is a whole text."""
    lines = read_list(path, key="filter.boilerplate_file")
    starts = tuple(_fold(line) for line in lines if line.endswith("*"))
    return _Phrases(frozenset(_fold(line) for line in lines if not line.endswith("*")), starts)


def _fold(text: str) -> str:
    """Without case, width, punctuation and symbols; one space for each gap."""
    return _NOT_WORD.sub(" ", fold(text)).strip()
