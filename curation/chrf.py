"""How alike two texts are in their characters."""

from __future__ import annotations

from collections import Counter

_LONGEST, _BETA = 6, 2.0


def chrf(text: str, reference: str) -> float:
    """chrF2 of one text, 0-100: the F2 of the mean precision and recall of n-grams of 1 to 6 characters without spaces
    (Popović 2015), as sacrebleu's `sentence_chrf` computes it.

    >>> chrf("a red dog", "a red dog"), chrf("狗", "猫")
    (100.0, 0.0)
    """
    precisions, recalls = [], []
    for size in range(1, _LONGEST + 1):
        ours, wanted = _ngrams(text, size), _ngrams(reference, size)
        # A text too short for this size says nothing of it.
        if ours and wanted:
            common = (ours & wanted).total()
            precisions.append(common / ours.total())
            recalls.append(common / wanted.total())
    precision, recall = sum(precisions) / max(1, len(precisions)), sum(recalls) / max(1, len(recalls))
    weighted = _BETA**2 * precision + recall
    return 100 * (1 + _BETA**2) * precision * recall / weighted if weighted else 0.0


def _ngrams(text: str, size: int) -> Counter[str]:
    bare = "".join(text.split())
    return Counter(bare[at : at + size] for at in range(len(bare) - size + 1))
