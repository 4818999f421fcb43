"""Texts that are longer than a model's context, in windows that fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple


class Windows(NamedTuple):
    """texts: the windows of all texts.  of: for each of them, the position of its text, ascending."""

    texts: list[str]
    of: list[int]


def in_windows(texts: Sequence[str], too_long: Callable[[list[str]], list[bool]]) -> Windows:
    """Each text in windows: itself if it fits, else halves of its words, halved again until each fits.

    Texts without spaces are halved between characters.  too_long: whether a model's context does not hold each text.
    """
    pieces = [[text] for text in texts]
    open_ = list(range(len(texts)))
    while open_:
        flat = [piece for at in open_ for piece in pieces[at]]
        long = iter(too_long(flat))
        again: list[int] = []
        for at in open_:
            found: list[str] = []
            for piece in pieces[at]:
                halves = _halves(piece) if next(long) else (piece,)
                found += halves
                if len(halves) > 1 and at not in again[-1:]:
                    again.append(at)
            pieces[at] = found
        open_ = again
    return Windows(
        [piece for found in pieces for piece in found], [at for at, found in enumerate(pieces) for _ in found]
    )


def _halves(text: str) -> tuple[str, ...]:
    words = text.split()
    if len(words) > 1:
        middle = len(words) // 2
        return " ".join(words[:middle]), " ".join(words[middle:])
    text = text.strip()
    if len(text) < 2:
        return (text,)  # one character of many tokens: the model cuts it
    return text[: len(text) // 2], text[len(text) // 2 :]
