"""Language tags, and when a text is in a wanted language: one rule for every place that asks.

Whatever compares tags or files numbers under them asks this module, so that every spelling is one language.
Tags come in many spellings (`en`, `EN`, `en-US`, `eng`, `eng_Latn`, `zh_CN`).  What counts is the primary subtag of
BCP 47, in lower case, as ISO 639-1 where it has a code; `-` and `_` are alike, and regions are ignored.  A script
counts only where it is asked for: `zh` takes every Chinese text, `zh-Hant` only traditional Chinese.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

#: ISO 639-2 code of an unknown language.
UNKNOWN = "und"

#: ISO 639-1 -> FLORES-200, the default script of each (NLLB Team et al. 2022, table 1).
FLORES: Mapping[str, str] = {
    "af": "afr_Latn",
    "am": "amh_Ethi",
    "ar": "arb_Arab",
    "az": "azj_Latn",
    "be": "bel_Cyrl",
    "bg": "bul_Cyrl",
    "bn": "ben_Beng",
    "bs": "bos_Latn",
    "ca": "cat_Latn",
    "cs": "ces_Latn",
    "cy": "cym_Latn",
    "da": "dan_Latn",
    "de": "deu_Latn",
    "el": "ell_Grek",
    "en": "eng_Latn",
    "es": "spa_Latn",
    "et": "est_Latn",
    "eu": "eus_Latn",
    "fa": "pes_Arab",
    "fi": "fin_Latn",
    "fr": "fra_Latn",
    "ga": "gle_Latn",
    "gl": "glg_Latn",
    "gu": "guj_Gujr",
    "he": "heb_Hebr",
    "hi": "hin_Deva",
    "hr": "hrv_Latn",
    "hu": "hun_Latn",
    "hy": "hye_Armn",
    "id": "ind_Latn",
    "is": "isl_Latn",
    "it": "ita_Latn",
    "ja": "jpn_Jpan",
    "ka": "kat_Geor",
    "kk": "kaz_Cyrl",
    "km": "khm_Khmr",
    "kn": "kan_Knda",
    "ko": "kor_Hang",
    "lo": "lao_Laoo",
    "lt": "lit_Latn",
    "lv": "lvs_Latn",
    "mk": "mkd_Cyrl",
    "ml": "mal_Mlym",
    "mn": "khk_Cyrl",
    "mr": "mar_Deva",
    "ms": "zsm_Latn",
    "my": "mya_Mymr",
    "nb": "nob_Latn",
    "ne": "npi_Deva",
    "nl": "nld_Latn",
    "no": "nob_Latn",
    "pa": "pan_Guru",
    "pl": "pol_Latn",
    "pt": "por_Latn",
    "ro": "ron_Latn",
    "ru": "rus_Cyrl",
    "si": "sin_Sinh",
    "sk": "slk_Latn",
    "sl": "slv_Latn",
    "sq": "als_Latn",
    "sr": "srp_Cyrl",
    "sv": "swe_Latn",
    "sw": "swh_Latn",
    "ta": "tam_Taml",
    "te": "tel_Telu",
    "th": "tha_Thai",
    "tl": "tgl_Latn",
    "tr": "tur_Latn",
    "uk": "ukr_Cyrl",
    "ur": "urd_Arab",
    "uz": "uzn_Latn",
    "vi": "vie_Latn",
    "zh": "zho_Hans",
    "zh-hant": "zho_Hant",
}

#: ISO 639-3 -> ISO 639-1.
_ISO_639_3 = {flores[:3]: iso for iso, flores in FLORES.items() if iso not in ("nb", "zh-hant")}
_ISO_639_3 |= {"zho": "zh", "cmn": "zh", "ara": "ar", "fas": "fa", "est": "et", "lav": "lv", "mon": "mn", "msa": "ms"}

#: Regions that imply a script of Chinese; in other languages they imply none.
_CHINESE_SCRIPTS = {"tw": "hant", "hk": "hant", "mo": "hant", "cn": "hans", "sg": "hans", "my": "hans"}


class Tag(NamedTuple):
    """The parts of a language tag that count, in lower case.  script: ISO 15924; None where the tag names none."""

    language: str
    script: str | None


@lru_cache(maxsize=4096)
def parse(tag: str | None) -> Tag:
    """Primary subtag and script of a tag in any usual spelling; `und` for none."""
    head, *rest = [part.strip() for part in re.split("[-_]", (tag or "").lower())]
    language = _ISO_639_3.get(head, head) or UNKNOWN
    script = next((part for part in rest if len(part) == 4 and part.isalpha()), None)
    if script is None and language == "zh":
        script = next((_CHINESE_SCRIPTS[part] for part in rest if part in _CHINESE_SCRIPTS), None)
    return Tag(language, script)


def canonical(tag: str | None) -> str:
    """ISO 639-1, or `zh-hant` for traditional Chinese; a language without a code in lower case, `und` for none.

    >>> [canonical(tag) for tag in ("EN", "eng_Latn", "zh-CN", "cmn_Hans", "zh_TW", "zho", "pt-BR", "")]
    ['en', 'en', 'zh', 'zh', 'zh-hant', 'zh', 'pt', 'und']
    """
    language, script = parse(tag)
    return "zh-hant" if (language, script) == ("zh", "hant") else language


def primary(tag: str | None) -> str:
    """The language without its script: `zh` for `zh-hant`."""
    return parse(tag).language


def matches(tag: str | None, wanted: str) -> bool:
    """Whether a text tagged `tag` is in the language `wanted`.

    Where `wanted` names a script, a tag without one is taken to be in its language's usual script (`FLORES`).

    >>> [matches("zh_TW", "zh"), matches("zh_TW", "zh-Hant"), matches("zh", "zh-Hans"), matches("zh", "zh-Hant")]
    [True, True, True, False]
    """
    asked, found = parse(wanted), parse(tag)
    if asked.language != found.language:
        return False
    return asked.script is None or asked.script == (found.script or _usual_script(found.language))


def _usual_script(language: str) -> str | None:
    return FLORES[language].partition("_")[2].lower() if language in FLORES else None
