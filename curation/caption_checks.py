"""Checks of captions that need no picture; curation/reasoning.py finds what is reasoning.

Captioners fail in five visible ways: they fall into a loop, they stop in mid-sentence, they refuse, they answer with
their reasoning, and they go on with another turn of the dialogue.  What is left without these, if it is whole
sentences, is the caption.

Captioners also write no full stop, or say that no picture is finer: what is uncertain keeps its caption.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Literal, NamedTuple

from curation.listed_patterns import listed_patterns
from curation.reasoning import thinks_aloud, without_reasoning
from curation.translation_checks import Loops
from curation.whole_sentences import sentences

Fault = Literal["repetition", "truncated", "refusal", "reasoning", "special_token"]

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

#: Special tokens of chat templates and tokenizers, with the role that may follow in the next turn's head.
_SPECIAL_TOKEN = re.compile(
    r"(?:<[|｜][\w▁ -]{1,40}[|｜]>|</?(?:s|bos|eos|pad|unk|image|image_soft_token)>|\[/?INST\]|<</?SYS>>"
    r"|<(?:start|end)_of_(?:turn|image|utterance|text)>|</?im_(?:start|end|sep)>|\[(?:BOS|EOS|PAD|UNK|CLS|SEP)\]"
    r"|<0x[0-9A-F]{2}>|<extra_id_\d{1,3}>)"
    r"(?:(?:assistant|model|user|system)(?=[\n:<]|\Z))?"
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
    # Around a text, special tokens are what a server did not take away; what follows one is another turn.
    turns = [turn for part in _SPECIAL_TOKEN.split(text) if (turn := part.strip())]
    if not turns:
        return Checked("", "special_token")
    found = _checked_turn(turns[0], cut=cut and len(turns) == 1)
    return found._replace(fault="special_token") if len(turns) > 1 and found.fault is None else found


def _checked_turn(text: str, *, cut: bool) -> Checked:
    if _refusal().match(text):
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


@cache
def _refusal() -> re.Pattern[str]:
    """What a refusal begins with."""
    return re.compile(rf"\W*(?:{'|'.join(listed_patterns('refusals.txt'))})", re.IGNORECASE)


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
