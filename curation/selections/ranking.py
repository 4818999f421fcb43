"""Ranks of rows as numbers whose order is that of the rows: three words of 64 bits, the smallest first.

score       descending, or ascending for quantiles; null and NaN come last
uid         the first and the last 64 bits, which decide among equal scores
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from curation.selections.uids import uids_of

Words = npt.NDArray[np.uint64]

_SIGN = np.uint64(1 << 63)
_LAST = np.uint64(2**64 - 1)

#: The columns of ranked rows; equal groups are ranked together.
RANKED = pa.schema([("group", pa.string()), ("score", pa.uint64()), ("high", pa.uint64()), ("low", pa.uint64())])
WORDS = ("score", "high", "low")


class Ranks(NamedTuple):
    """The rank of each row, [rows] each: compared word by word."""

    score: Words
    high: Words
    low: Words


def rising(values: pa.ChunkedArray) -> Words:
    """Numbers (float64) as words of the same order; equal ones are equal, -0.0 and 0.0 too.  NaN and null are last."""
    plain = np.asarray(pc.fill_null(values, np.nan), np.float64) + 0.0  # -0.0 + 0.0 is 0.0
    bits = plain.view(np.uint64)
    words: Words = np.where(bits & _SIGN, ~bits, bits | _SIGN)
    words[np.isnan(plain)] = _LAST
    return words


def falling(values: pa.ChunkedArray) -> Words:
    """As `rising`, the highest number first; NaN and null are last here too."""
    words = rising(values)
    return np.where(words == _LAST, words, ~words)


def value_of(words: Words) -> npt.NDArray[np.float64]:
    """The numbers that `rising` made words of."""
    return np.where(words & _SIGN, words & ~_SIGN, ~words).astype(np.uint64).view(np.float64)


def ranked(group: pa.ChunkedArray | None, score: pa.ChunkedArray | None, uid: pa.ChunkedArray) -> pa.Table:
    """Rows as `RANKED`, the highest score first.

    group: texts; None: all rows are one group.  score: float64; None: by uid alone.
    """
    uids, _ = uids_of(uid)
    nothing = np.zeros(len(uids), np.uint64)
    return pa.table(
        {
            "group": pa.repeat("", len(uids)) if group is None else group,
            "score": nothing if score is None else falling(score),
            "high": uids["f0"],
            "low": uids["f1"],
        },
        schema=RANKED,
    )


def measured(group: pa.ChunkedArray | None, values: pa.ChunkedArray) -> pa.Table:
    """Values as `RANKED`, the least first, without null and NaN."""
    words = rising(values)
    there = words != _LAST
    rows = len(words)
    nothing = np.zeros(rows, np.uint64)
    table = pa.table(
        {"group": pa.repeat("", rows) if group is None else group, "score": words, "high": nothing, "low": nothing},
        schema=RANKED,
    )
    return table.filter(pa.array(there))


def ranks(rows: pa.Table) -> Ranks:
    """The words of rows of schema `RANKED`, or of cuts (`curation.selections.cuts`)."""
    return Ranks(*(rows[name].to_numpy() for name in WORDS))


def up_to(rows: Ranks, cut: Ranks) -> npt.NDArray[np.bool_]:
    """Mask of the rows whose rank is at most the cut of the same row, [rows] each."""
    low = rows.low <= cut.low
    high = (rows.high < cut.high) | ((rows.high == cut.high) & low)
    found: npt.NDArray[np.bool_] = (rows.score < cut.score) | ((rows.score == cut.score) & high)
    return found
