"""Language codes: ISO 639-1 (with `zh-hant` beside `zh`) to what each family of translators calls a language.

Families are told apart by the tokens in the vocabulary, because a tokenizer's class differs between versions and copies
of a checkpoint, and its tokens do not:

    NLLB      zho_Hans            FLORES-200 codes
    M2M100    __zh__
    mBART-50  zh_CN
    Marian    >>zh<<, >>cmn_Hans<<   before the text, only if the checkpoint has several target languages
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

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

_ISO_639_3 = {flores[:3]: iso for iso, flores in FLORES.items() if iso not in ("nb", "zh-hant")}
_ISO_639_3 |= {"zho": "zh", "cmn": "zh", "ara": "ar", "fas": "fa", "est": "et", "lav": "lv", "mon": "mn", "msa": "ms"}

#: mBART-50 names a country where others name a script; only Chinese has two candidates anywhere.
_COUNTRY_SCRIPTS = {"zh_TW": "zh-hant", "zh_HK": "zh-hant"}

#: What a Marian checkpoint's name has in place of a language when it translates from many.
MANY = "mul"

_MARIAN = re.compile(r">>([A-Za-z_\-]+)<<")
_M2M = re.compile(r"__([a-z]{2,3})__")
_MBART = re.compile(r"([a-z]{2})_[A-Z]{2}")


def canonical(code: str) -> str:
    """Any usual spelling of a language as ISO 639-1, `zh-hant` for traditional Chinese; unknown ones in lower case.

    >>> [canonical(c) for c in ("EN", "eng_Latn", "zh-CN", "cmn_Hans", "zh_TW", "zho")]
    ['en', 'en', 'zh', 'zh', 'zh-hant', 'zh']
    """
    head, *rest = re.split(r"[-_]", code.strip())
    head = _ISO_639_3.get(head.lower(), head.lower())
    if head == "zh" and {part.lower() for part in rest} & {"hant", "tw", "hk", "mo"}:
        return "zh-hant"
    return head


def base(code: str) -> str:
    """The language without its script: `zh` for `zh-hant`."""
    return code.split("-")[0]


def language_tokens(vocabulary: Collection[str]) -> dict[str, str]:
    """Language -> the token that stands for it, for a model whose vocabulary names languages; empty if it names none.

    Marian's multi-target checkpoints are not included: see `marian_targets`.
    """
    if FLORES["en"] in vocabulary:
        return {iso: token for iso, token in FLORES.items() if token in vocabulary}
    m2m = {match[1]: match[0] for match in map(_M2M.fullmatch, vocabulary) if match}
    if "en" in m2m:
        return m2m
    if "en_XX" in vocabulary:
        mbart = (match for match in map(_MBART.fullmatch, sorted(vocabulary)) if match)
        return {_COUNTRY_SCRIPTS.get(match[0], match[1]): match[0] for match in mbart}
    return {}


def marian_targets(vocabulary: Collection[str]) -> dict[str, str]:
    """Language -> `>>…<<` token, for a Marian checkpoint with several targets; a language's shortest token wins."""
    found = sorted((match for match in map(_MARIAN.fullmatch, vocabulary) if match), key=lambda m: (-len(m[0]), m[0]))
    return {canonical(match[1]): match[0] for match in found}


def pair_of_name(name: str) -> tuple[str, str] | None:
    """Source and target that a Marian checkpoint's name states (`Helsinki-NLP/opus-mt-en-zh`), or None."""
    match = re.search(r"opus-mt(?:-tc)?(?:-big|-tiny|-base)?-([a-z]{2,3})[-_]([a-z]{2,3})$", name.rstrip("/").lower())
    return (canonical(match[1]), canonical(match[2])) if match else None
