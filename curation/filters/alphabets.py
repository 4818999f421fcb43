"""Letters beyond a-z of each common Latin and Cyrillic language, and which languages a script may be.

A language with a letter that its alphabet lacks is all but ruled out: ß is not English, ы is not Ukrainian.
"""

from __future__ import annotations

from types import MappingProxyType

LATIN = MappingProxyType(
    {
        language: frozenset(letters)
        for language, letters in {
            "en": "éèïçêöüñâàô",  # loan words: café, naïve, façade, piñata
            "de": "äöüßé",
            "fr": "àâæçéèêëîïôœùûüÿ",
            "es": "áéíñóúü",
            "it": "àèéìíîòóùú",
            "pt": "ãáàâçéêíóôõúü",
            "nl": "áéëïíóöüè",
            "pl": "ąćęłńóśźż",
            "tr": "çğıöşüâîû\u0307",
            "id": "é",
            "ms": "é",
            "vi": "àáâãèéêìíòóôõùúýăđĩũơưạảấầẩẫậắằẳẵặẹẻẽếềểễệỉịọỏốồổỗộớờởỡợụủứừửữựỳỵỷỹ",
            "cs": "áčďéěíňóřšťúůýž",
            "sk": "áäčďéíĺľňóôŕšťúýž",
            "sv": "åäöéà",
            "da": "æøåé",
            "no": "æøåéèêóòôà",
            "fi": "äöåšž",
            "et": "äõöüšž",
            "ro": "ăâîșțşţ",
            "hu": "áéíóöőúüű",
            "hr": "čćđšž",
            "sl": "čšž",
            "lt": "ąčęėįšųūž",
            "lv": "āčēģīķļņšūž",
            "ca": "àçéèíïóòúü·",
            "gl": "áéíïñóúü",
            "oc": "àáçèéíïòóúü",
            "an": "áéíñóúü",
            "af": "áéèêëíîïóôúûý",
            "fy": "âêéëïôöúûü",
            "lb": "äëéèêôöüß",
            "eu": "ñü",
            "sq": "ëç",
            "is": "áæðéíóöþúý",
            "fo": "áæðíóøúýå",
            "nn": "æøåéèêóòôà",
            "az": "çəğıöşü\u0307",
            "tk": "äçžňöşüý",
            "mt": "àċèġħìòùż",
            "br": "âêñùü",
            "cy": "áàâäéèêëíìîïóòôöúùûüŵýŷ",
            "ga": "áéíóú",
            "gd": "àèìòù",
            "bs": "čćđšž",
            "sh": "čćđšž",
            "eo": "ĉĝĥĵŝŭ",
            "tl": "ñ",
            "sw": "",
        }.items()
    }
)

_RUSSIAN = "абвгдежзийклмнопрстуфхцчшщъыьэюяё"
CYRILLIC = MappingProxyType(
    {
        language: frozenset(letters)
        for language, letters in {
            "ru": _RUSSIAN,
            "uk": "абвгґдеєжзиіїйклмнопрстуфхцчшщьюя",
            "be": "абвгдеёжзійклмнопрстуўфхцчшыьэюя",
            "bg": "абвгдежзийклмнопрстуфхцчшщъьюя",
            "sr": "абвгдђежзијклљмнњопрстћуфхцчџш",
            "mk": "абвгдѓежзѕијклљмнњопрстќуфхцчџш",
            "kk": _RUSSIAN + "әғқңөұүһі",
            "ky": _RUSSIAN + "ңөү",
            "mn": _RUSSIAN + "өү",
            "tg": _RUSSIAN + "ғӣқӯҳҷ",
            "cv": _RUSSIAN + "ӑӗҫӳ",
            "os": _RUSSIAN + "ӕ",
            "tt": _RUSSIAN + "әөүҗңһ",
            "ba": _RUSSIAN + "әөүғҡңҙҫһ",
        }.items()
    }
)

ALPHABETS = MappingProxyType({**LATIN, **CYRILLIC})

#: Script -> languages written in it, the likeliest first.  One language: the script alone decides.
LANGUAGES = MappingProxyType(
    {
        "cyrillic": tuple(CYRILLIC),
        "arabic": ("ar", "fa", "ur", "ps", "sd", "ug", "ku"),
        "hebrew": ("he", "yi"),
        "thaana": ("dv",),
        "devanagari": ("hi", "mr", "ne", "sa"),
        "bengali": ("bn", "as"),
        "hangul": ("ko",),
        "greek": ("el",),
        "gurmukhi": ("pa",),
        "gujarati": ("gu",),
        "oriya": ("or",),
        "tamil": ("ta",),
        "telugu": ("te",),
        "kannada": ("kn",),
        "malayalam": ("ml",),
        "sinhala": ("si",),
        "thai": ("th",),
        "lao": ("lo",),
        "tibetan": ("bo",),
        "myanmar": ("my",),
        "georgian": ("ka",),
        "armenian": ("hy",),
        "ethiopic": ("am",),
        "khmer": ("km",),
    }
)
