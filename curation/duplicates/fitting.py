"""What kinds learn from a sample of the run before rows are brought together.

The sample is the rows with the smallest keyed hashes of their uids: the same rows in the same order however the run is
divided, and any rows as likely as any others.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curation.duplicates.kinds import Kind
from curation.duplicates.narrowing import called, narrowed

#: Column of a row's hash, beside `columns` of the kind.
_HASH = "_hash"

#: Rows that each task keeps for each one that the sample needs of its part, as some rows are dropped or have nothing
#: to compare.  Where more than three quarters are so, the sample is smaller than asked for.
_SPARE = 4


def sample_of(rows: pa.Table, kind: Kind, run_rows: int, compared: int | None = None) -> pa.Table:
    """What some rows may add to the sample of a kind: its `columns` and their hash, in the order of the hash.

    rows: with uid and what the kind reads.  run_rows: of the whole run.  compared: with those of other runs; None: as
    many.
    """
    compared = run_rows if compared is None else compared
    wanted = kind.sample_rows(compared)
    hashes = keyed_hashes(rows["uid"], kind.seed)
    share = min(1.0, _SPARE * wanted / max(1, run_rows))
    low = np.flatnonzero(hashes <= np.uint64(min(2**64 - 1, int(share * 2**64))))
    narrow = narrowed(kind, rows.take(pa.array(low)))
    return smallest([narrow.append_column(_HASH, pa.array(hashes[low]))], kind, compared)


def smallest(samples: Sequence[pa.Table], kind: Kind, compared: int) -> pa.Table:
    """The rows with the smallest hashes of several samples, as many as the kind asks for, without empty ones."""
    rows = pa.concat_tables(samples)
    there = np.zeros(len(rows), np.bool_)
    for name in kind.columns.names:
        there |= rows[name].is_valid().to_numpy()
    hashes: npt.NDArray[np.uint64] = rows[_HASH].to_numpy()
    order = np.argsort(hashes, kind="stable")
    order = order[there[order]][: kind.sample_rows(compared)]
    return rows.take(pa.array(order))


def fitted(kind: Kind, sample: pa.Table, compared: int) -> Kind:
    """The kind with what it learns from its sample (`smallest` of all parts).  compared: rows, of other runs too."""
    learnt = copy.copy(kind)
    learnt.state = called(kind, lambda: kind.fit(sample.drop_columns([_HASH]), compared))
    return learnt


def fitted_to(kinds: Sequence[Kind], rows: pa.Table) -> tuple[Kind, ...]:
    """The kinds, fitted to rows that are the whole run."""
    n = len(rows)
    return tuple(
        fitted(kind, smallest([sample_of(rows, kind, n)], kind, n), n) if kind.sample_rows(n) else kind
        for kind in kinds
    )


def keyed_hashes(uids: pa.ChunkedArray, key: int) -> npt.NDArray[np.uint64]:
    """A keyed hash of each uid, [n], the same everywhere: SipHash-2-4, then SplitMix64's last steps.

    key: below 2^64.
    """
    from pandas.util import hash_array  # not needed to read a recipe, and slow to import

    texts = uids.to_numpy(zero_copy_only=False)
    hashes: npt.NDArray[np.uint64] = hash_array(texts, hash_key=f"{key:016x}", categorize=False)
    return hashes
