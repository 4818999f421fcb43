"""Language tags, and when a text is in a wanted language: one rule for every place that asks.

Whatever compares tags or files numbers under them asks this module, so that every spelling is one language.
Tags come in many spellings (`en`, `EN`, `en-US`, `eng`, `eng_Latn`, `zh_CN`; `de` and `ger`, `no` and `nb`, `he` and
`iw`).  What counts is the primary subtag of BCP 47, in lower case, as ISO 639-1 where it has a code; `-` and `_` are
alike, and regions are ignored.  A script counts only where it is asked for: `zh` takes every Chinese text, `zh-Hant`
only traditional Chinese.
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

#: ISO 639-1, the code of ISO 639-3, and that of ISO 639-2/B where it is another one.
_CODES = """
aa:aar ab:abk ae:ave af:afr ak:aka am:amh an:arg ar:ara as:asm av:ava ay:aym az:aze ba:bak be:bel bg:bul bh:bih
bi:bis bm:bam bn:ben bo:bod:tib br:bre bs:bos ca:cat ce:che ch:cha co:cos cr:cre cs:ces:cze cu:chu cv:chv cy:cym:wel
da:dan de:deu:ger dv:div dz:dzo ee:ewe el:ell:gre en:eng eo:epo es:spa et:est eu:eus:baq fa:fas:per ff:ful fi:fin
fj:fij fo:fao fr:fra:fre fy:fry ga:gle gd:gla gl:glg gn:grn gu:guj gv:glv ha:hau he:heb hi:hin ho:hmo hr:hrv ht:hat
hu:hun hy:hye:arm hz:her ia:ina id:ind ie:ile ig:ibo ii:iii ik:ipk io:ido is:isl:ice it:ita iu:iku ja:jpn jv:jav
ka:kat:geo kg:kon ki:kik kj:kua kk:kaz kl:kal km:khm kn:kan ko:kor kr:kau ks:kas ku:kur kv:kom kw:cor ky:kir la:lat
lb:ltz lg:lug li:lim ln:lin lo:lao lt:lit lu:lub lv:lav mg:mlg mh:mah mi:mri:mao mk:mkd:mac ml:mal mn:mon mr:mar
ms:msa:may mt:mlt my:mya:bur na:nau nd:nde ne:nep ng:ndo nl:nld:dut nn:nno no:nor nr:nbl nv:nav ny:nya oc:oci
oj:oji om:orm or:ori os:oss pa:pan pi:pli pl:pol ps:pus pt:por qu:que rm:roh rn:run ro:ron:rum ru:rus rw:kin sa:san
sc:srd sd:snd se:sme sg:sag sh:hbs si:sin sk:slk:slo sl:slv sm:smo sn:sna so:som sq:sqi:alb sr:srp ss:ssw st:sot
su:sun sv:swe sw:swa ta:tam te:tel tg:tgk th:tha ti:tir tk:tuk tl:tgl tn:tsn to:ton tr:tur ts:tso tt:tat tw:twi
ty:tah ug:uig uk:ukr ur:urd uz:uzb ve:ven vi:vie vo:vol wa:wln wo:wol xh:xho yi:yid yo:yor za:zha zh:zho:chi zu:zul
"""
_OF_ONE = tuple(tuple(codes.split(":")) for codes in _CODES.split())

#: The codes of ISO 639-1.
ISO_639_1 = frozenset(iso for iso, *_ in _OF_ONE)

#: The individual language that a macrolanguage mostly is, and withdrawn codes, before the ISO 639-1 code (CLDR's
#: languageAlias; Filipino the other way round, as detectors say `tl`).
_LIKE_ANOTHER = """
cmn:zh cwd:cr ekk:et esk:ik fil:tl fuc:ff gaz:om gug:gn ike:iu in:id iw:he ji:yi jw:jv kmr:ku knc:kr kng:kg kpv:kv mo:ro
mol:ro nb:no ojg:oj ory:or pbu:ps plt:mg quz:qu scc:sr scr:hr src:sc ydd:yi zyb:za
"""
_ALIASES = {flores[:3]: iso for iso, flores in FLORES.items() if iso != "zh-hant"}
_ALIASES |= dict(alias.split(":") for alias in _LIKE_ANOTHER.split())

#: Other spellings of a language -> ISO 639-1.
_SPELLINGS = {code: iso for iso, *others in _OF_ONE for code in others} | _ALIASES

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
    language = _SPELLINGS.get(head, head) or UNKNOWN
    script = next((part for part in rest if len(part) == 4 and part.isalpha()), None)
    if script is None and language == "zh":
        script = next((_CHINESE_SCRIPTS[part] for part in rest if part in _CHINESE_SCRIPTS), None)
    return Tag(language, script)


def canonical(tag: str | None) -> str:
    """ISO 639-1, or `zh-hant` for traditional Chinese; a language without a code in lower case, `und` for none.

    >>> [canonical(tag) for tag in ("EN", "eng_Latn", "ger", "nb", "zh-CN", "cmn_Hans", "zh_TW", "pt-BR", "")]
    ['en', 'en', 'de', 'no', 'zh', 'zh', 'zh-hant', 'pt', 'und']
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
