"""Whether a translation has lost sentences of its source: it has fewer, and they cannot be joined ones.

A translator may join sentences, or be terse.  Which it was shows in how long the sentences are: a joined one is as long
as the sentences that went into it, one that stands alone behind a lost one is as long as its own.
"""

from __future__ import annotations

import math
from itertools import accumulate

from curation.whole_sentences import sentences
from pairmill.languages import primary

#: Characters of a text per character of the English one: the median of 24 sentences of captions that were translated
#: for this (tests/curation/test_lost_sentences.py); for zh, that of 1,949 labels (`length_bounds`) agrees.
_LENGTH = {"en": 1.0, "de": 1.14, "fr": 1.15, "es": 1.1, "it": 1.1, "pt": 1.1, "nl": 1.1, "zh": 0.3, "ja": 0.46}
_OF_CHARACTERS = frozenset({"zh", "ja"})

#: Below this share of the usual length, fewer sentences are lost ones in any case.  Chosen by hand between whole and
#: shortened translations of a few sentences.
_LOST_BELOW = 0.65
#: The same where two sentences or more, and two in five, are missing between languages whose texts are about as long.
_MANY_LOST_BELOW, _MANY_LOST, _MANY_LOST_SHARE = 0.75, 2, 0.4

#: Standard deviation of the logarithm of a translated sentence's length around the usual, in the sentences above (0.14
#: to 0.22), and what a lost sentence costs beside the squared deviations: as much as one that is two fifths too short.
#: Of these texts with one sentence of three left out, 75 % are seen; of those with joined sentences none, and 2 % where
#: every sentence is a fifth shorter too.
_DEVIATION, _COST_OF_LOSS = 0.2, 6.0
#: Sentences of a text beyond which only its whole length is judged: the work grows with the third power.
_MOST_SENTENCES = 40


def has_lost_sentences(source_text: str, text: str, source: str, target: str) -> bool:
    """Whether a translation of several sentences has fewer, of which some were lost and not joined."""
    given, made = _lengths(source_text), _lengths(text)
    if len(given) < 2 or len(made) >= len(given):
        return False
    source, target = primary(source), primary(target)
    usual = _LENGTH.get(target, 1.0) / _LENGTH.get(source, 1.0)
    alike = source in _LENGTH and target in _LENGTH and not {source, target} & _OF_CHARACTERS
    many = alike and len(given) - len(made) >= max(_MANY_LOST, _MANY_LOST_SHARE * len(given))
    if len(text) < (_MANY_LOST_BELOW if many else _LOST_BELOW) * usual * len(source_text):
        return True
    known = source in _LENGTH and target in _LENGTH and len(given) <= _MOST_SENTENCES
    return known and bool(made) and _skips([length * usual for length in given], made)


def _lengths(text: str) -> list[int]:
    """The characters of each sentence."""
    whole, rest = sentences(text)
    return [len(one) for one in (*whole, rest) if one]


def _skips(usual: list[float], made: list[int]) -> bool:
    """Whether the best alignment leaves out sentences of the source.

    usual: the usual length of each sentence's translation.  made: the lengths of the sentences that there are.  Each of
    these stands for one or more sentences that follow each other, as in Gale and Church (1993), or none are for it.
    """
    ends = [0.0, *accumulate(usual)]
    # The least cost of the sentences so far, and whether it leaves one out.
    best = [(index * _COST_OF_LOSS, index > 0) for index in range(len(ends))]
    for length in made:
        row = [(math.inf, False)]
        for end in range(1, len(ends)):
            cost, skips = row[end - 1]
            options = [(cost + _COST_OF_LOSS, True)]
            for begin in range(end):
                deviation = math.log(length / (ends[end] - ends[begin])) / _DEVIATION
                cost, skips = best[begin]
                options.append((cost + deviation * deviation, skips))
            row.append(min(options))
        best = row
    return best[-1][1]
