"""Rows whose picture a page must not show, because a rule of a selection says what is unsafe and they are it.

A column is about safety if its name, or that of its head, says so: nsfw, unsafe, porn and the like, the higher the less
safe; sfw and safe, the lower.  What is unsafe is beyond the strictest threshold that any selection has for it,
whichever way the rule is written: `nsfw < 0.3` chooses safe rows, and `nsfw > 0.3` those that others leave out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curation.filters.syntax import Source
from curation.filters.where import columns_of
from curation.selections.thresholds import Threshold
from curation.stage import Column

#: Names of columns, and what a stage says of them.
_UNSAFE = re.compile(r"nsfw|unsafe|porn|nud(?:e|ity)|explicit|hentai|gore|violen|toxic", re.IGNORECASE)
_SAFE = re.compile(r"(?<![a-z])(?:sfw|safe|safety)(?![a-z])", re.IGNORECASE)


class Withheld:
    """Which rows of a run are unsafe by the thresholds of its selections."""

    def __init__(self, thresholds: Sequence[Threshold], columns: Mapping[str, Column]) -> None:
        """columns: of the run's stages, by name."""
        self._rules = [(one, sign) for one in thresholds if (sign := _sign(one, columns)) is not None]

    @property
    def columns(self) -> list[str]:
        """The columns that it reads, by their names in expressions."""
        return sorted({name for one, _ in self._rules for name in one.columns})

    def mask(self, rows: pa.Table) -> npt.NDArray[np.bool_]:
        """The rows whose picture must not be shown, [rows].

        A rule whose columns are not there yet says nothing.
        """
        found = np.zeros(len(rows), np.bool_)
        for one, sign in self._rules:
            if set(one.columns) <= set(rows.schema.names):
                numbers, limits = one.numbers(rows), one.limits(rows)
                with np.errstate(invalid="ignore"):
                    beyond = numbers >= limits if sign > 0 else numbers <= limits
                if not sign:
                    beyond = ~one.passes(numbers, limits) & np.isfinite(numbers)
                found |= beyond
        return found


def _sign(one: Threshold, columns: Mapping[str, Column]) -> int | None:
    """1: higher numbers are less safe; -1: lower ones; 0: rows that fail are unsafe; None: it is not about safety."""
    read = columns_of(Source(one.subject))
    said = {name: f"{name} {columns[name].description}" if name in columns else name for name in read}
    unsafe = [name for name, words in said.items() if _UNSAFE.search(words)]
    safe = [name for name, words in said.items() if name not in unsafe and _SAFE.search(words.replace("_", " "))]
    if not unsafe and not safe:
        return None
    if one.subject in (read[0], f"number({read[0]})"):
        return 1 if unsafe else -1
    return 0
