"""From how often entries are named to who stays.

An entry that n captions name has the probability p = min(1, t / n).  A caption stays if one of its entries does:
with probability 1 - Π (1 - p).  So captions of rare things all stay, and those of common things are thinned.  One that
names no entry goes.  MetaCLIP has t = 20,000 for 400 million pairs; MetaCLIP 2 (Chuang et al. 2025) has t = 170,000 for
English, and for every other language the t that leaves the same share of mentions to entries below it.

Chance is a hash of seed, uid and entry, so it is the same for any order and any division of the rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from curation.balancing.matching import Matches

Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

#: A language whose t others are derived from, unless the recipe gives one for each.
ENGLISH = "en"


def thresholds(counts: Mapping[str, Counts], t: int | Mapping[str, int]) -> dict[str, float]:
    """Language -> its t.

    counts: language -> how many captions name each entry.  t: one number: that of English, or of the only language;
    for other languages the count up to which entries have the same share of all mentions, as MetaCLIP 2 does.  A
    mapping: that of each language; those that are not in it follow from English as well, if it is.  Where no caption
    names an entry of English, nothing tells what is common: no other language is thinned by it.
    """
    given = dict(t) if isinstance(t, Mapping) else {}
    leading = ENGLISH if ENGLISH in counts else next(iter(counts), ENGLISH)
    first = given.get(leading) if isinstance(t, Mapping) else t
    found: dict[str, float] = {}
    for language, n in counts.items():
        if language in given:
            found[language] = given[language]
        elif language == leading and first is not None:
            found[language] = first
        elif first is None or leading not in counts:
            found[language] = float(n.max(initial=1))  # nothing is thinned
        else:
            found[language] = _same_tail(n, tail_share(counts[leading], first))
    return found


def tail_share(counts: Counts, t: float) -> float:
    """The share of all mentions that entries with fewer than t have; 1 where nothing is mentioned."""
    total = counts.sum()
    return float(counts[counts < t].sum() / total) if total else 1.0


def _same_tail(counts: Counts, share: float) -> float:
    """The count of the entry up to which, from the rarest, the share of mentions is closest."""
    if not counts.sum():
        return 1.0
    ascending = np.sort(counts)
    at = np.abs(np.cumsum(ascending) / ascending.sum() - share).argmin()
    return float(max(1, ascending[at]))


def probabilities(counts: Counts, t: float) -> Floats:
    """p of each entry."""
    found: Floats = t / np.maximum(counts, t).astype(np.float64)
    return found


def count(matches: Matches, entries: int) -> Counts:
    """How many captions name each entry."""
    found: Counts = np.bincount(matches.entries, minlength=entries).astype(np.int64)
    return found


def staying(
    matches: Matches, uids: Sequence[str], probability: Floats, seed: int
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Which captions stay, and which name an entry at all, each [len(uids)].

    uids: of the rows of the captions, 32 hex digits each.
    """
    named, stays = np.zeros(len(uids), np.bool_), np.zeros(len(uids), np.bool_)
    named[matches.text] = True
    # Bits of a uid are random already; entries are not.
    low = np.array([int(uid[16:], 16) for uid in uids], np.uint64)
    with np.errstate(over="ignore"):
        mixed = low[matches.text] ^ _mixed(matches.entries.astype(np.uint64) + np.uint64(seed) * np.uint64(1 << 32))
    chance = (_mixed(mixed) >> np.uint64(11)).astype(np.float64) / 2.0**53
    stays[matches.text[chance < probability[matches.entries]]] = True
    return stays, named


def _mixed(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """SplitMix64's finaliser (Steele, Lea, Flood 2014): each bit of the input changes half of those of the output."""
    with np.errstate(over="ignore"):
        values = values + np.uint64(0x9E3779B97F4A7C15)
        values = (values ^ values >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
        values = (values ^ values >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
        return values ^ values >> np.uint64(31)
