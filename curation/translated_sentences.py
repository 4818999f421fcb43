"""A text as the sentences that are translated one by one, and a text of their translations.

A line break within a sentence is white space, as in a page's source.  An empty line ends a sentence, and so does the
beginning of an item of a list; both are in the translation again.  Thai and Lao have no mark that ends a sentence, so
their texts are one.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from curation.whole_sentences import sentences
from pairmill.languages import primary

#: Written without a space between sentences.
_SPACELESS = frozenset({"zh", "ja"})
#: Languages that end no sentence with a mark.
_MARKLESS = frozenset({"th", "lo"})
#: Languages that write ordinal numbers with a point (`am 13. Oktober`), so that one ends no sentence.
_ORDINAL_POINTS = frozenset(
    ("de", "lb", "da", "no", "fi", "et", "is", "cs", "sk", "sl", "hr", "bs", "sr", "hu", "lv", "tr")
)

_ITEM = re.compile(r"[-*•·–—]\s|\d{1,3}[.)、]\s?")
_ORDINAL = re.compile(r"(?<!\d)\d{1,2}\.\Z")
_LETTER = re.compile(r"[^\W\d_]")
#: A quotation that ends where the sentence goes on: `"Stop!" he said.`
_QUOTED = re.compile(r"[\"'”“’»«]\Z")
#: What a sentence ends with: its mark, and the quotes and brackets behind it.
_MARK = re.compile(r"([.!?…。！？｡।॥؟۔።፧։។៕။]+)[\"'”“’»«)\]」』）]*\Z")
#: Marks that a translator puts where a sentence ends, and that end none.
_NO_END = ",;:、，；："

#: The mark of a statement, a question and an exclamation, where they are not `.`, `?` and `!`.
_STATEMENT = {"zh": "。", "ja": "。", "ur": "۔", "am": "።", "ti": "።", "hy": "։", "my": "။", "km": "។"}
_STATEMENT |= dict.fromkeys(("hi", "bn", "ne", "pa", "or", "as", "sa"), "।")
_QUESTION = {"zh": "？", "ja": "？", "el": ";"} | dict.fromkeys(("ar", "fa", "ur", "ps", "ug", "sd"), "؟")
_EXCLAMATION = {"zh": "！", "ja": "！"}
_MARKS = {".", "?", "!", *_STATEMENT.values(), *_QUESTION.values(), *_EXCLAMATION.values()}


class Block(NamedTuple):
    """Sentences that follow each other.  gap: what is before them in the text: nothing, a line break or two."""

    gap: str
    sentences: list[str]


def blocks(text: str, language: str) -> list[Block]:
    """The sentences of a text in a language; none only of a text without any.

    >>> [block.sentences for block in blocks("Ein Haus. Am 13. Mai\\nwar es rot.\\n- neu", "de")]
    [['Ein Haus.', 'Am 13. Mai\\nwar es rot.'], ['- neu']]
    """
    made: list[Block] = []
    for gap, lines in _runs(text):
        found = _joined_again(lines, primary(language))
        if found:
            made.append(Block(gap if made else "", found))
    return made


def count_sentences(text: str, language: str) -> int:
    """How many sentences `blocks` finds."""
    return sum(len(block.sentences) for block in blocks(text, language))


def ended(text: str, source: str, target: str) -> str:
    """A translated sentence with a mark at its end, if its source has one: without, it would run into the next one."""
    mark, target = _MARK.search(source.rstrip()), primary(target)
    text = text.strip()
    if mark is None or target in _MARKLESS or _MARK.search(text):
        return text
    kind, usual = _STATEMENT, "."
    if any(one in mark[1] for one in "?？؟፧"):
        kind, usual = _QUESTION, "?"
    elif any(one in mark[1] for one in "!！"):
        kind, usual = _EXCLAMATION, "!"
    return text.rstrip(_NO_END) + kind.get(target, usual)


def requests_of(text: str) -> set[str]:
    """All that may have been asked for, in any language, to translate a text, or to translate it back."""
    # One language for each way of cutting.
    cuts = [block.sentences for language in ("en", "de", "zh") for block in blocks(text, language)]
    found = {text, text.strip(), *(sentence for one in cuts for sentence in one)}
    return found | {one.rstrip(_NO_END) + mark for one in found if not _MARK.search(one) for mark in _MARKS}


def joined(parts: list[Block], target: str) -> str:
    """A text of translated sentences: with a space between two, or none where the target has none."""
    spaceless = primary(target) in _SPACELESS
    text = ""
    for gap, translated in parts:
        for at, sentence in enumerate(translated):
            mark = _MARK.search(text)
            # Behind a Latin mark the next sentence would begin within a word.
            close = spaceless and (mark is None or not mark[1].isascii())
            text += (gap if at == 0 else "" if close else " ") + sentence
    return text


def _runs(text: str) -> list[tuple[str, str]]:
    """The lines between which no sentence goes on, each with what is before it."""
    made: list[tuple[str, str]] = []
    gap = ""
    for line in text.splitlines():
        if not line.strip():
            gap = "\n\n"
        elif made and not gap and not _ITEM.match(line.lstrip()):
            made[-1] = (made[-1][0], f"{made[-1][1]}\n{line.strip()}")
        else:
            made.append((gap or "\n", line.strip()))
            gap = ""
    return made


def _joined_again(text: str, language: str) -> list[str]:
    """The sentences, with what only looked like the end of one put together again."""
    whole, rest = sentences(text)
    made: list[str] = []
    goes_on = False
    for one in [*whole, *([rest] if rest else [])]:
        bare_mark = not any(character.isalnum() for character in one)
        if made and (goes_on or bare_mark or _continues(made[-1], one)):
            made[-1] += ("" if language in _SPACELESS else " ") + one
        else:
            made.append(one)
        # A list's `12.` says nothing by itself.
        goes_on = not _LETTER.search(made[-1]) or (language in _ORDINAL_POINTS and bool(_ORDINAL.search(one)))
    return made


def _continues(before: str, sentence: str) -> bool:
    return sentence[0].islower() and bool(_QUOTED.search(before))
