"""A sample: the form that every kind of source gives its rows.

uid       string  names the row for good; from the dataset, else made from the row's position
image     binary  the encoded picture; null if there is none
texts     list of {text, language, kind}
group_id  int64   rows with equal ids show the same image and are no negatives of each other; -1: unknown
label     int64   number of the row's class, for evaluation; null if there is none
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

#: Arrow types of a text and of a sample.
SAMPLE_TEXT = pa.struct([("text", pa.string()), ("language", pa.string()), ("kind", pa.string())])
SAMPLE = pa.schema(
    [
        ("uid", pa.string()),
        ("image", pa.binary()),
        ("texts", pa.list_(SAMPLE_TEXT)),
        ("group_id", pa.int64()),
        ("label", pa.int64()),
    ]
)

#: Fields of a text in SAMPLE.
_TEXT_FIELDS = ("text", "language", "kind")


class Source(Protocol):
    """A dataset on disk, cut into pieces that are read one at a time; picklable."""

    #: Where it is, for messages.
    name: str
    #: Rows of each piece, int64 [pieces].
    rows: NDArray[np.int64]
    #: Number of pieces.
    pieces: int
    #: Hex digest of what the dataset holds; independent of where it is stored.
    fingerprint: str
    #: Whether rows give their class by number.
    labelled: bool
    #: What of its files is in no row, by reason.
    left_out: Mapping[str, int]

    def read(self, piece: int, start: int = 0, stop: int | None = None) -> pa.Table:
        """Rows [start, stop) of a piece as SAMPLE columns.  Raises OSError if a file is gone."""
        ...


def samples(
    uids: Sequence[str],
    images: pa.Array | pa.ChunkedArray | Sequence[bytes | None],
    texts: Iterable[object],
    group_ids: NDArray[np.int64],
    labels: Sequence[int | None] | None = None,
) -> pa.Table:
    """SAMPLE rows.  texts: for each row a string, a list of strings or a list of {text, language, kind}, or None."""
    columns = [
        pa.array(uids, pa.string()),
        images.cast(pa.binary()) if isinstance(images, pa.Array | pa.ChunkedArray) else pa.array(images, pa.binary()),
        pa.array([as_texts(value) for value in texts], SAMPLE.field("texts").type),
        pa.array(group_ids, pa.int64()),
        pa.nulls(len(uids), pa.int64()) if labels is None else pa.array(labels, pa.int64()),
    ]
    return pa.table(columns, schema=SAMPLE)


def as_texts(value: object) -> list[dict[str, object]]:
    """A text or texts, in any of the usual forms, as SAMPLE texts; plain strings are alt texts of no language."""
    if value is None:
        return []
    if isinstance(value, str):
        return [{"text": value, "language": None, "kind": "alt"}]
    if isinstance(value, Mapping):
        return [{"language": None, "kind": "alt"} | {k: v for k, v in value.items() if k in _TEXT_FIELDS}]
    if isinstance(value, list | tuple):
        return [text for inner in value for text in as_texts(inner)]
    return []


def group_ids(groups: pa.ChunkedArray | None, sha256: Sequence[object] | None, rows: int) -> NDArray[np.int64]:
    """int64 [rows]: the dataset's own ids (null: -1), else from the images' digests (hex), else -1.

    63 bits of the digest, so that only -1 is negative.
    """
    if groups is not None:
        return np.asarray(groups.cast(pa.int64()).fill_null(-1).to_numpy(), np.int64)
    if sha256 is not None:
        return np.array([hex_id(digest) for digest in sha256], np.int64)
    return np.full(rows, -1, np.int64)


def hex_id(digest: object) -> int:
    """63 bits of the first 8 bytes of a hex digest; -1 if it is none."""
    try:
        return int(str(digest)[:16], 16) & (2**63 - 1) if digest is not None else -1
    except ValueError:
        return -1


def sample_id(uid: str) -> int:
    """63 bits that stand for a uid: of its first 8 bytes if it is 32 hex digits, as ours are, else of its digest."""
    own = hex_id(uid) if len(uid) == 32 else -1
    return own if own >= 0 else hex_id(hashlib.blake2b(uid.encode(), digest_size=8).hexdigest())
