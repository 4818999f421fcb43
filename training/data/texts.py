"""Which texts of a row fill its K slots in this epoch.

A slot's selectors each find some of the row's texts, which their transforms may change, split or leave out; one
selector is drawn by `p` among those that found any, then one of its texts, all alike unless `harder_by` names a score
(1-to-K's harder positives, Nie et al. 2024: objectives #12).  Slots with equal selectors draw different texts while
there are any left, then again from all (DreamLIP samples its sentences so: objectives #66).  The draw depends on
(seed, row, epoch), not on which process reads the row.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from pairmill.folding import text_digest
from pairmill.languages import matches, primary
from pairmill.layout import OTHER_KINDS, TEXT_KINDS
from training.data.config import ANY, DataConfig, Slot, TextSelector
from training.data.sample import hex_id
from training.data.text_transforms import TEXT_TRANSFORMS, Text, TextTransform

_LETTERS = 27  # `a`-`z` and nothing: three of them fit an int16


def row_generator(seed: int, sample_id: int, epoch: int, purpose: int) -> np.random.Generator:
    """Random numbers of one row in one epoch; `purpose` tells independent uses apart.

    Philox by key and counter: no state to derive, so making one costs microseconds.
    """
    return np.random.Generator(np.random.Philox(key=[seed, sample_id], counter=[0, 0, purpose, epoch]))


def row_texts(
    texts: Iterable[Mapping[str, object]] | None, scores: Sequence[Sequence[tuple[str, float]]] | None = None
) -> list[Text]:
    """The texts of a SAMPLE row, stripped; blank ones are left out.  scores: of the same row."""
    found = []
    for at, one in enumerate(texts or ()):
        text = str(one["text"]).strip() if one.get("text") is not None else ""
        if text:
            own = tuple(scores[at]) if scores is not None else ()
            found.append(Text(text, _word(one.get("language")), _word(one.get("kind")), own))
    return found


def _word(value: object) -> str | None:
    return str(value) if value is not None else None


class TextChooser:
    """K slots with their transforms."""

    def __init__(self, slots: Sequence[Slot]) -> None:
        """Raises RecipeError if a transform cannot be imported in this process."""
        self._slots = slots
        # Equal slots share their texts, so that they can draw different ones.
        self._first = [list(slots).index(slot) for slot in slots]
        self._transforms = {
            at: [[TEXT_TRANSFORMS.get(one.name)(one) for one in selector.transforms] for selector in slots[at]]
            for at in set(self._first)
        }

    def __call__(self, texts: Sequence[Text], rng: np.random.Generator) -> list[Text | None]:
        """One text for each slot, None where the row has none for it.

        texts: of the row.  Draws two numbers a slot whatever the row holds, then what the transforms draw.
        """
        found: dict[int, list[list[Text]]] = {}
        left: dict[int, list[list[Text]]] = {}
        chosen: list[Text | None] = []
        for at, (which, where) in zip(self._first, rng.random((len(self._slots), 2)).tolist(), strict=True):
            slot = self._slots[at]
            if at not in found:
                found[at] = left[at] = [
                    _select(texts, selector, transforms, rng)
                    for selector, transforms in zip(slot, self._transforms[at], strict=True)
                ]
            if not any(left[at]):
                left[at] = found[at]
            text = _draw(slot, left[at], which, where)
            left[at] = [[other for other in texts if other != text] for texts in left[at]]
            chosen.append(text)
        return chosen


def _select(
    texts: Sequence[Text], selector: TextSelector, transforms: Sequence[TextTransform], rng: np.random.Generator
) -> list[Text]:
    found = [text for text in texts if _matches(text, selector)]
    for transform in transforms:
        found = [made for text in found for made in transform(text, rng) if made.text.strip()]
    return found


def check_transforms(config: DataConfig) -> None:
    """Raise RecipeError if a transform of the recipe cannot be imported, or refuses its keys."""
    TextChooser((*config.text_slots(), *config.negative_slots()))
    for one in config.views.transforms:
        TEXT_TRANSFORMS.get(one.name)(one)


def edited(text: Text, transforms: Sequence[TextTransform], rng: np.random.Generator) -> Text:
    """What transforms make of a text: one of their texts, all alike; the text itself where they make none."""
    for transform in transforms:
        made = [one for one in transform(text, rng) if one.text.strip()]
        if made:
            text = made[int(rng.integers(len(made)))] if len(made) > 1 else made[0]
    return text


def _matches(text: Text, selector: TextSelector) -> bool:
    if selector.kind not in (ANY, text.kind) or (selector.kind == ANY and text.kind in OTHER_KINDS):
        return False
    if selector.min_score:
        scores = dict(text.scores)
        if not all(name in scores and scores[name] >= least for name, least in selector.min_score.items()):
            return False
    return selector.language == ANY or matches(text.language, selector.language)


def _draw(slot: Slot, pools: Sequence[list[Text]], which: float, where: float) -> Text | None:
    """A text of the selector drawn among those with texts.  which, where: from 0 to below 1."""
    full = [(selector, pool) for selector, pool in zip(slot, pools, strict=True) if pool]
    if not full:
        return None
    selector, pool = full[_place([selector.p for selector, _ in full], which)]
    if selector.harder_by is None:
        return pool[int(where * len(pool))]
    scores = [dict(text.scores).get(selector.harder_by) for text in pool]
    known = [score for score in scores if score is not None]
    gaps = [0.0 if score is None else max(known) - score for score in scores]
    if not any(gaps):  # the same score, or none: all alike
        gaps = [float(score is not None or not known) for score in scores]
    return pool[_place(gaps, where)]


def _place(weights: Sequence[float], at: float) -> int:
    """The place of weights laid end to end, at this share of their sum; never one of weight 0."""
    reach = at * sum(weights)
    for place, weight in enumerate(weights):
        reach -= weight
        if reach < 0:
            return place
    return max(place for place, weight in enumerate(weights) if weight > 0)  # rounding


def text_group(text: Text | None) -> int:
    """63 bits that stand for a text, apart from its case, width and spaces; -1 for none."""
    return -1 if text is None else hex_id(text_digest(text.text).hex())


def kind_code(kind: str | None) -> int:
    """int8 code of a text's kind: its place in `pairmill.layout.TEXT_KINDS`; -1 if unknown."""
    return TEXT_KINDS.index(kind) if kind in TEXT_KINDS else -1


def language_code(language: str | None) -> int:
    """int16 code of a language (the letters of its ISO 639 code in base 27), however it is spelled; -1 if none."""
    letters = primary(language) if language else ""
    if not (2 <= len(letters) <= 3 and letters.isascii() and letters.isalpha()):
        return -1
    code = 0
    for letter in letters:
        code = code * _LETTERS + ord(letter) - ord("a") + 1
    return code


def language_of(code: int) -> str | None:
    """The language that a code stands for."""
    letters = ""
    while code > 0:
        code, letter = divmod(code, _LETTERS)
        letters = chr(ord("a") + letter - 1) + letters
    return letters or None
