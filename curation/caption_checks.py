"""Checks of captions that need no picture.

Captioners fail in four visible ways: they fall into a loop, they stop in mid-sentence, they refuse, and they answer
with their reasoning.  What is left without these, if it is whole sentences, is the caption.

Captioners also write no full stop, or say that no picture is finer: what is uncertain keeps its caption.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

from curation.translation_checks import Loops
from curation.whole_sentences import sentences

Fault = Literal["repetition", "truncated", "refusal", "reasoning"]

#: Most consecutive repeats of a phrase, as for translations (`translate.max_repeat`).
MOST_REPEATS = 3
#: A phrase of more words than `longest_loop` looks at is a loop if it comes this often.
_LONG_PHRASE, _LONG_REPEATS = 9, 3

_TAG = r"(?:think|thinking|thought|thoughts|reason|reasoning|reflection|analysis|scratchpad)"
_OPENING = re.compile(rf"<\|?(?:begin_of_)?{_TAG}\|?>|\[{_TAG}\]|◁think▷", re.IGNORECASE)
_CLOSING = re.compile(rf"<\|?(?:/|end_of_){_TAG}\|?>|\[/{_TAG}\]|◁/think▷", re.IGNORECASE)
_FINAL = re.compile(r"</?answer>|<\|?(?:begin|end)_of_solution\|?>", re.IGNORECASE)

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
#: Reasoning without tags: it speaks of the task, not of the picture.
_THINKS_ALOUD = re.compile(
    r"\W*(?:(?:okay|ok|alright|hmm+|well|so|right|let['’]s\ see|wait)[,.]?\ )*"
    r"(?:let\ me\ (?:think(?=[.,:;…]|\ about\ (?:this|the|how|what)\b)|see\ what\b|analy[sz]e\b|look\ at\b|start\ by\b)"
    r"|let['’]s\ (?:think|analy[sz]e|break\ (?:this|it)\ down)"
    r"|the\ user\ (?:wants|asks|asked|is\ asking|has\ asked|needs|provided|gave)\b"
    r"|I\ (?:need|have|should|must)\ (?:to\ )?"
    r"(?:describe|write|caption|analy[sz]e|come\ up|figure\ out|provide|generate)\b"
    r"|用户(?:要求|想|希望|让|需要)|(?:好的|嗯)[,，]\s*(?:用户|让我|我需要|我来))",
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
    plain = _without_reasoning(text)
    if not plain:
        return Checked("", "reasoning")
    text = plain
    if _REFUSAL.match(text):
        return Checked("", "refusal")
    loops = Loops()
    loops.add(text)
    if _loops(loops):
        return Checked(_before_loop(text), "repetition")
    whole, rest = sentences(text)
    if _THINKS_ALOUD.match(text):
        return Checked("", "reasoning")
    if rest and (cut or _is_half(rest, after_sentences=bool(whole))):
        return Checked(text.removesuffix(rest).strip(), "truncated")
    return Checked(text, None)


def _without_reasoning(text: str) -> str:
    """Without blocks of reasoning, what stands before the end of one, what follows the begin of one, and final tags.

    The begin of a block may be part of the prompt.  Each tag is looked for once: a caption may be made of nothing else.
    """
    kept, at = [], 0
    while opening := _OPENING.search(text, at):
        closing = _CLOSING.search(text, opening.end())
        if closing is None:
            break
        kept.append(text[at : opening.start()])
        at = closing.end()
    text = " ".join([*kept, text[at:]])
    ends = [closing.end() for closing in _CLOSING.finditer(text)]
    text = text[ends[-1] :] if ends else text
    text = " ".join(map(str.strip, _FINAL.split(text))).strip()
    opening = _OPENING.search(text)
    return text[: opening.start()].strip() if opening else text


def _is_half(rest: str, *, after_sentences: bool) -> bool:
    return bool(_HALF.search(rest) or (after_sentences and _UNFINISHED.search(rest)))


def _loops(text: Loops) -> bool:
    return text.longest > MOST_REPEATS or text.repeats_phrase(_LONG_PHRASE, _LONG_REPEATS)


def _before_loop(text: str) -> str:
    """The first sentences, up to one that loops or that was said before."""
    said: set[str] = set()
    loops = Loops()
    end = 0
    for sentence in sentences(text)[0]:
        loops.add(sentence)
        if sentence in said or _loops(loops):
            break
        said.add(sentence)
        end = text.index(sentence, end) + len(sentence)
    return text[:end]
