"""Checks of captions that need no picture.

Captioners fail in four visible ways: they fall into a loop, they stop in mid-sentence, they refuse, and they answer
with their reasoning.  What is left without these, if it is whole sentences, is the caption.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

from curation.translation_checks import longest_loop
from curation.whole_sentences import sentences

Fault = Literal["repetition", "truncated", "refusal", "reasoning"]

#: Most consecutive repeats of a phrase, as for translations (`translate.max_repeat`).
MOST_REPEATS = 3
#: A phrase of more words than `longest_loop` looks at is a loop if it comes this often.
_LONG_PHRASE, _LONGEST_PHRASE, _LONG_REPEATS = 9, 60, 3

_TAG = r"(?:think|thinking|thought|thoughts|reason|reasoning|reflection|analysis|scratchpad)"
_OPENING = rf"(?:<\|?(?:begin_of_)?{_TAG}\|?>|\[{_TAG}\]|◁think▷)"
_CLOSING = rf"(?:<\|?(?:/|end_of_){_TAG}\|?>|\[/{_TAG}\]|◁/think▷)"
_REASONING = re.compile(rf"{_OPENING}.*?{_CLOSING}", re.DOTALL | re.IGNORECASE)
#: The opening may be part of the prompt.
_BEFORE_CLOSING = re.compile(rf".*{_CLOSING}", re.DOTALL | re.IGNORECASE)
_UNCLOSED = re.compile(rf"{_OPENING}.*", re.DOTALL | re.IGNORECASE)
_FINAL = re.compile(r"\s*(?:</?answer>|<\|?(?:begin|end)_of_solution\|?>)\s*", re.IGNORECASE)

_NOT_ABLE = r"(?:can(?:no|['’])t|can\ not|(?:am|['’]m)\ (?:not\ able|unable)|(?:do\ not|don['’]t)\ have)"
_WHAT = (
    r"(?:assist|help|see|view|describe|provide|identify|process|access|analy[sz]e|comply|fulfil|caption|interpret|any"
    r"|the\ ability)"
)
#: How models decline, in the languages of the common ones.
_REFUSAL = re.compile(
    r"\W*(?:"
    + "|".join(
        (
            r"I(?:['’]m|\ am)\ (?:very\ |really\ |so\ )?sorry\b|(?:my\ )?apologies\b|I\ apologi[sz]e\b",
            r"unfortunately,?\ I\b|sorry,?\ (?:but\ )?I\b",
            rf"I(?:\ |(?=['’])){_NOT_ABLE}\ (?:\w+\ ){{0,3}}{_WHAT}\b",
            r"as\ an?\ (?:AI|language\ model|large\ language|artificial|text-based)\b",
            r"there\ is\ no\ (?:image|picture)\ (?:provided|attached|visible|to)\b|no\ image\ (?:was|is|has)\b",
            r"please\ (?:provide|upload|share)\b",
            r"(?:很)?(?:抱歉|对不起|對不起)[,，]?\s*(?:我|但)|我(?:无法|無法|不能)(?:提供|描述|识别|协助|查看|看到)",
            r"作为(?:一个|一名)?(?:AI|人工智能)|申し訳(?:ありません|ございません)",
            r"es\ tut\ mir\ leid\b|leider\ kann\ ich\b|je\ suis\ désolé|désolé,\ je|je\ ne\ peux\ pas\b",
            r"lo\ siento,|no\ puedo\ (?:ayudar|describir|ver)\b|mi\ dispiace,|desculpe,|sinto\ muito\b",
        )
    )
    + ")",
    re.IGNORECASE,
)

#: Words and marks in which no caption ends.
_DANGLING = re.compile(
    r"(?:[,;:\-–—(\[“‘«、，；：（「『]|(?<![\w'])(?:a|an|the|and|or|of|with|in|on|at|to|for|from|by|is|are|its|his|her|their"
    r"|that|which|while|as|und|mit|der|die|das|ein|eine|et|avec|le|la|les|un|une|de|du|des|y|con|el|los|las))\s*\Z",
    re.IGNORECASE,
)


class Checked(NamedTuple):
    """What of a caption can be kept (empty: nothing), and what was wrong with it (None: nothing)."""

    text: str
    fault: Fault | None


def checked(text: str, *, cut: bool) -> Checked:
    """A caption without what is no caption.  cut: whether the engine ended it at the token limit."""
    plain = _FINAL.sub(" ", _BEFORE_CLOSING.sub("", _REASONING.sub(" ", text))).strip()
    plain = _UNCLOSED.sub("", plain).strip()
    if not plain:
        return Checked("", "reasoning")
    text = plain
    if _REFUSAL.match(text):
        return Checked("", "refusal")
    if _loops(text):
        return Checked(_before_loop(text), "repetition")
    rest = sentences(text)[1]
    if rest and (cut or _DANGLING.search(rest)):
        return Checked(text.removesuffix(rest).strip(), "truncated")
    return Checked(text, None)


def _loops(text: str) -> bool:
    if longest_loop(text) > MOST_REPEATS:
        return True
    units = re.findall(r"\w+", text.lower())
    for size in range(_LONG_PHRASE, min(_LONGEST_PHRASE, len(units) // _LONG_REPEATS) + 1):
        same = 0
        for at in range(size, len(units)):
            same = same + 1 if units[at] == units[at - size] else 0
            if same >= size * (_LONG_REPEATS - 1):
                return True
    return False


def _before_loop(text: str) -> str:
    """The first sentences, up to one that loops or that was said before."""
    kept: list[str] = []
    end = 0
    for sentence in sentences(text)[0]:
        if sentence in kept or _loops(" ".join([*kept, sentence])):
            break
        kept.append(sentence)
        end = text.index(sentence, end) + len(sentence)
    return text[:end]
