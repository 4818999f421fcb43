"""Checks of captions that need no picture; curation/reasoning.py finds what is reasoning.

Captioners fail in four visible ways: they fall into a loop, they stop in mid-sentence, they refuse, and they answer
with their reasoning.  What is left without these, if it is whole sentences, is the caption.

Captioners also write no full stop, or say that no picture is finer: what is uncertain keeps its caption.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

from curation.reasoning import thinks_aloud, without_reasoning
from curation.translation_checks import Loops
from curation.whole_sentences import sentences

Fault = Literal["repetition", "truncated", "refusal", "reasoning"]

#: Most consecutive repeats of a phrase, as for translations (`translate.max_repeat`).
MOST_REPEATS = 3
#: A phrase of more words than `longest_loop` looks at is a loop if it comes this often.
_LONG_PHRASE, _LONG_REPEATS = 9, 3

#: The numbers of a list: `1.`, `(2)`, `c)`, `iv.`, `5、`, `⑥`.
_LIST_NUMBER = re.compile(
    r"(?<![A-Za-z0-9.,])(?:[(（\[]?(?:(?:\d{1,3}|[a-z]|[ivx]{2,5}|[IVX]{2,5})(?:[.．](?!\d)|[)）\]])|[A-Z][)）\]])|\d{1,3}[:：、](?!\d)"
    r"|#\d{1,3}\b|[\u2460-\u2473\u2776-\u277f])"
)
_NUMBER = re.compile(r"\d+")
#: A phrase of so many words that comes so often is a loop although each has another number (`Step 1: a dog.`).
_NUMBERED_PHRASE, _NUMBERED_REPEATS = 3, 4

_NOT_ABLE = (
    r"(?:can(?:no|['’])t|can\ not|(?:am|['’]m)\ (?:not\ able|unable)|(?:do\ not|don['’]t)\ have|(?:will\ not|won['’]t)"
    r"|(?:was|were)\ (?:not\ able|unable)|could(?:\ not|n['’]t))"
)
_WHAT = (
    r"(?:assist|help|see|view|describe|provide|identify|process|access|analy[sz]e|comply|fulfil|caption|interpret|any"
    r"|recogni[sz]e|discuss|generate|the\ ability)"
)
#: How models decline, in the languages of the common ones.
_REFUSAL = re.compile(
    r"\W*(?:"
    + "|".join(
        (
            rf"(?:I(?:['’]m|\ am)\ (?:very\ |really\ |so\ )?sorry|(?:my\ )?apologies|I\ apologi[sz]e)"
            rf"(?=[,.;:!—–-]\s*(?:but\b|I\b|this\b|that\b|there\b|as\b)|\ but\b|\ I\ {_NOT_ABLE}|\W*\Z"
            r"|\ for\ (?:the|any)\ (?:confusion|inconvenience))",
            rf"(?:unfortunately|sorry),?\ (?:but\ )?I(?:\ |(?=['’])){_NOT_ABLE}\b",
            rf"I(?:\ |(?=['’])){_NOT_ABLE}\ (?:\w+\ ){{0,3}}{_WHAT}\b",
            r"as\ an?\ (?:AI|language\ model|large\ language|artificial\ intelligence|text-based)\b[^.]{0,60},?\ I\b",
            r"there\ is\ no\ (?:image|picture)\ (?:provided|attached|visible"
            r"|to\ (?:describe|see|caption|analy[sz]e))\b",
            r"no\ image\ (?:was|is|has\ been)\ "
            r"(?:provided|attached|uploaded|shared|given|visible|available|included)\b",
            r"please\ (?:provide|upload|share)\ (?:me\ with\ )?"
            r"(?:the|an?|your|another)\ (?:\w+\ )?(?:image|picture|photo)\b",
            r"(?:很|非常)?(?:抱歉|对不起|對不起|遗憾)[,，。]?\s*(?:我|但|无法|無法|不能|这|該|该)",
            r"我?(?:无法|無法|不能)(?:为您|为你|為您)?(?:提供|描述|识别|辨识|識別|协助|查看|看到|分析|处理|回答|描繪)(?!的)",
            r"我(?:看不到|没有办法|沒有辦法)\S{0,4}(?:图|圖|描述|查看)",
            r"作为(?:一个|一名)?(?:AI|人工智能)|申し訳(?:ありません|ございません)|(?:この)?画像を(?:表示|説明)できません",
            r"죄송합니다|(?:извините|к\ сожалению),\ (?:но\ )?я\b",
            r"(?:es\ )?tut\ mir\ (?:sehr\ )?leid(?=[,.;!]|\ aber\b|\s*\Z)|leider\ kann\ ich\b",
            r"ich\ (?:kann|werde)\ (?:\w+\ ){0,4}nicht\ (?:\w+\ )?"
            r"(?:beschreiben|erkennen|sehen|helfen|identifizieren|anzeigen|analysieren|beantworten)\b",
            r"ich\ bin\ nicht\ in\ der\ Lage\b",
            r"je\ suis\ (?:vraiment\ )?désolée?(?=[,.;!]|\ mais\b|\s*\Z)|désolée?,\ (?:mais\ )?je\b",
            r"je\ ne\ (?:peux|vois|suis)\ pas\b|je\ n['’]arrive\ pas\b",
            r"(?:lo\ (?:siento|lamento)|disculpa|perdón)(?:\ mucho)?,",
            r"no\ puedo\ (?:ayudar|describir|ver|identificar|analizar)\b",
            r"mi\ dispiace,|non\ posso\ (?:descrivere|aiutar|vedere|identificare)",
            r"desculpe,|sinto\ muito(?=[,.;!]|\ mas\b|\s*\Z)|lamento,\ (?:mas|não)",
            r"não\ (?:posso|consigo)\ (?:descrever|ver|ajudar|identificar)\b",
        )
    )
    + ")",
    re.IGNORECASE,
)
#: Marks and words in which no caption ends.  Particles (`a train passing by`) are none of them, nor is what may be a
#: name: a capital (`vitamin A`), a letter (`the letter y`).
_HALF = re.compile(
    r"(?:[,;(\[“‘«、，；（「『]|(?<![\w'’.&/-])(?:(?:with|and|of|or|in|on|at|to|for|from|by|as|is|are|has|into|near|behind|under"
    r"|over|beside|against|holding|wearing|through|like|while|that|there['’]s)\ an?|the|and|of|its|their"
    r"|und|(?:mit|und|ist|auf|in)\ ein|einem|einen|avec\ une?|et|des|con\ una?))\s*\Z"
)
#: Words that end no text whose other sentences have full stops.
_UNFINISHED = re.compile(
    r"(?:[:\-–—]|(?<![\w'’.&/-])(?:a|or|with|in|on|at|to|for|from|by|is|are|his|her|that|which|while|as|mit|der|die|das|ein"
    r"|eine|avec|le|la|les|un|une|de|du|y|con|el|los|las))\s*\Z"
)


class Checked(NamedTuple):
    """What of a caption can be kept (empty: nothing), and what was wrong with it (None: nothing)."""

    text: str
    fault: Fault | None


def checked(text: str, *, cut: bool) -> Checked:
    """A caption without what is no caption.  cut: whether the engine ended it at the token limit."""
    text = without_reasoning(text)
    if not text:
        return Checked("", "reasoning")
    if _REFUSAL.match(text):
        return Checked("", "refusal")
    repeats = _Repeats(text)
    repeats.add(text)
    if repeats.loop:
        return Checked(_before_loop(text), "repetition")
    whole, rest = sentences(text)
    if thinks_aloud(text):
        return Checked("", "reasoning")
    if rest and (cut or _is_half(rest, after_sentences=bool(whole))):
        return Checked(text.removesuffix(rest).strip(), "truncated")
    return Checked(text, None)


def _is_half(rest: str, *, after_sentences: bool) -> bool:
    return bool(_HALF.search(rest) or (after_sentences and _UNFINISHED.search(rest)))


class _Repeats:
    """The repeats in a text that grows by sentences, whatever numbers its phrases have.  text: the whole."""

    def __init__(self, text: str) -> None:
        self._listed, self._numbered = Loops(), Loops()
        self._has_numbers = _NUMBER.search(text) is not None

    def add(self, text: str) -> None:
        listed = _LIST_NUMBER.sub(" ", text)
        self._listed.add(listed)
        if self._has_numbers:
            self._numbered.add(_NUMBER.sub(" ", listed))

    @property
    def loop(self) -> bool:
        return (
            self._listed.longest > MOST_REPEATS
            or self._listed.repeats_phrase(_LONG_PHRASE, _LONG_REPEATS)
            or self._numbered.repeats_phrase(_NUMBERED_PHRASE, _NUMBERED_REPEATS)
        )


def _before_loop(text: str) -> str:
    """The first sentences, up to one that loops or that was said before; without the number of a list."""
    said: set[str] = set()
    repeats = _Repeats(text)
    number = _LIST_NUMBER.match(text)
    begin = end = number.end() if number else 0
    for sentence in sentences(text[begin:])[0]:
        repeats.add(sentence)
        plain = _LIST_NUMBER.sub("", sentence).strip()
        if plain in said or repeats.loop:
            break
        said.add(plain)
        end = text.index(sentence, end) + len(sentence)
    return text[begin:end].strip()
