"""What tells languages of one alphabet apart in a few words: function words, and how words are spelt.

The words are few, frequent, and of one language or two; a word that stands under several counts for each.  The
spellings are endings and groups of letters that the language's neighbours write otherwise: -ção, -ción, -zione.
"""

from __future__ import annotations

import re
from types import MappingProxyType

FUNCTION_WORDS = MappingProxyType(
    {
        language: frozenset(words.split())
        for language, words in {
            "en": "the of and with on for from at by is are in a an to without over under woman man person "
            "button sign face wearing his her its",
            "de": "der die das den dem des und mit ohne auf im am ein eine einer einem einen von vom zum zur für ist "
            "nach an bei aus über unter nicht mann frau person in",
            "fr": "le la les des du de et avec sans sur un une en au aux à dans pour par l d qui ou est femme homme "
            "personne visage drapeau",
            "es": "el la los las del de y con sin en un una al para por sobre que es mujer hombre persona cara bandera "
            "hacia",
            "it": "il lo la i gli le di del della dello dei delle degli e con senza su un una in per che è al alla dal "
            "dalla nel nella sul sulla a da donna uomo persona faccina bandiera d l verso",
            "pt": "o a os as de do da dos das e com sem em um uma no na nos nas para por que é ao à pelo pela mulher "
            "homem pessoa rosto bandeira sobre mão",
            "nl": "de het een en met zonder op van voor in naar aan bij uit is te door over onder vrouw man persoon "
            "gezicht vlag die dat hand",
            "pl": "z ze i w na bez do od o za pod nad przy po dla się jest lub kobieta mężczyzna osoba twarz flaga",
            "tr": "ve ile bir bu olan için da de var yok kadın erkek kişi yüz eden doğru giden simgesi bayrağı",
            "sv": "och med utan på en ett av för till från är som det den i kvinna person ansikte",
            "da": "og med uden på en et af for til fra er som det den i kvinde mand person ansigt",
            "no": "og med uten på en et av for til fra er som det den i kvinne mann person ansikt",
            "ro": "și cu fără pe un o de la din în pentru al ai ale este femeie bărbat persoană față",
            "ca": "el la els les de del amb sense un una i en per al dona home persona cara",
            "id": "dan dengan di ke dari yang tanpa pada untuk ini itu orang wanita pria wajah",
            "cs": "a s se v ve na bez z do od o za pod nad pro je žena muž osoba",
            "hu": "a az és egy nélkül nő férfi személy arc",
            "fi": "ja on ei kanssa nainen mies henkilö",
            "vi": "và với không có của người đàn ông phụ nữ một trên trong cái",
        }.items()
    }
)

#: Groups of letters, each of which speaks for the language.
SPELLINGS = MappingProxyType(
    {
        language: re.compile("|".join(patterns))
        for language, patterns in {
            "pt": (r"ção|ções|[ãõ]o?\b|ões\b|lh|nh|ç[ao]|eir[ao]s?\b|agem\b", r"ss[ao]|[ei]m\b|ou\b|rr?ei|[aeo]i[xr]"),
            "es": (r"ción|ciones|ñ|ll|u[eé]\w|[^aeq]ie\w|ito\b|dad\b", r"[aeo]z\b|[ij]ón\b|[eou]j[ao]|ch[ao]\b|aje\b"),
            "it": (
                r"zion[ei]|gli|gn|zz|cc|gg|tt|[^s]ss[^s]|tà\b|[aeiou]ll[aeio]",
                r"[aeio]nn[aeio]|h[ei]\b|lett|[^aeiou]ia\b|uo\w",
            ),
            "fr": (
                r"eau|oi|eux\b|[^g]ues?\b|aux\b|ou|é\b|ée|ette|age\b|eur|ille|è",
                r"[^q]u[iy]t|ais\b|[ae]nt\b|[^aeiou]es\b|tion\b",
            ),
            "nl": (r"ij|aa|oo|ee|sch|ui|je\b|oe|[^a]uw|gh|cht|heid\b|ie\b|ing\b|en\b|tj",),
            "de": (r"sch|ß|ei|tz|ch\b|chen|ung\b|[kh]eit|ä|pf|cht|er\b|ie[a-z]|en\b",),
        }.items()
    }
)
