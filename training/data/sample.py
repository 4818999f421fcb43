"""A sample: the form that every kind of source gives its rows.

uid       string  names the row for good; from the dataset, else made from the row's position
image     binary  the encoded picture; null if there is none
texts     list of {text, language, kind}
scores    list of a map from name to number for each of the texts; null if none were asked for
group_id  int64   rows with equal ids show the same image and are no negatives of each other; -1: unknown, none else
                  is negative (`group_of`)
label     int64   number of the row's class, for evaluation; null if there is none
weight    float   weight of the row; null if there is none, or none was asked for (`training.data.asked_columns`)
tags      list of int64   ids of what is in the picture; null likewise
lines     bool    in evaluation: the texts are the lines of a `.txt`, of which blank ones and none count too; else null
problem   string  where the row is and what of it cannot be used; null if all can
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

#: The bits of a number that is not negative.
_LOW = 2**63 - 1

#: Arrow types of a text and of a sample.
SAMPLE_TEXT = pa.struct([("text", pa.string()), ("language", pa.string()), ("kind", pa.string())])
SAMPLE = pa.schema(
    [
        ("uid", pa.string()),
        ("image", pa.binary()),
        ("texts", pa.list_(SAMPLE_TEXT)),
        ("scores", pa.list_(pa.map_(pa.string(), pa.float32()))),
        ("group_id", pa.int64()),
        ("label", pa.int64()),
        ("weight", pa.float32()),
        ("tags", pa.list_(pa.int64())),
        ("lines", pa.bool_()),
        ("problem", pa.string()),
    ]
)


class TextScores(tuple[tuple[str, float], ...]):
    """Name and number of each score of a text, as `training.data.text_scores` puts it beside the text."""


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


@runtime_checkable
class Numbered(Source, Protocol):
    """A source that can give columns of integers without reading pictures, for `training.data.batch_policy`."""

    def number_by(self, columns: Sequence[str]) -> None:
        """Have these columns given by `numbers`, and be part of the fingerprint.

        Raises RecipeError if one is missing or holds something else.
        """
        ...

    def numbers(self, piece: int, start: int, stop: int) -> NDArray[np.int64]:
        """Rows [start, stop) of a piece, [rows, columns]; -1 where there is no number.  Raises as `read`."""
        ...


def samples(
    uids: Sequence[str],
    images: pa.Array | pa.ChunkedArray | Sequence[bytes | None],
    texts: Iterable[object],
    group_ids: NDArray[np.int64],
    labels: Sequence[int | None] | None = None,
    weights: Sequence[float | None] | None = None,
    tags: Sequence[Sequence[int | None] | None] | None = None,
    lines: Sequence[bool] | None = None,
    *,
    places: Sequence[str] | None = None,
    wrong: Sequence[str | None] | None = None,
) -> pa.Table:
    """SAMPLE rows.

    texts: for each row a string, a list of strings or a list of {text, language, kind}, or None.  What is none of these
    is left out, and is a problem of the row.
    places: of the rows, by file and row or name, for problems; None: their uids.  wrong: what is known to be wrong.
    """
    uids = [storable(uid) for uid in uids]
    taken: list[list[dict[str, object]]] = []
    problems: list[str | None] = []
    for row, value in enumerate(texts):
        found, odd = as_texts(value)
        odd = (wrong[row] if wrong is not None else None) or odd
        taken.append(found)
        problems.append(f"{storable(places[row]) if places is not None else uids[row]}: {odd}" if odd else None)
    columns = [
        pa.array(uids, pa.string()),
        images.cast(pa.binary()) if isinstance(images, pa.Array | pa.ChunkedArray) else pa.array(images, pa.binary()),
        pa.array(taken, SAMPLE.field("texts").type),
        pa.array([_scores(texts) for texts in taken], SAMPLE.field("scores").type),
        pa.array(group_ids, pa.int64()),
        *(
            pa.nulls(len(uids), SAMPLE.field(name).type) if found is None else pa.array(found, SAMPLE.field(name).type)
            for name, found in (("label", labels), ("weight", weights), ("tags", tags), ("lines", lines))
        ),
        pa.array(problems, pa.string()),
    ]
    return pa.table(columns, schema=SAMPLE)


def as_texts(value: object) -> tuple[list[dict[str, object]], str | None]:
    """A text or texts, in any of the usual forms, as SAMPLE texts, and what is wrong with the first that is none.

    Plain strings are alt texts of no language.
    """
    found: list[dict[str, object]] = []
    problem: str | None = None
    left = [value]
    while left:
        one = left.pop()
        if one is None:
            continue
        if isinstance(one, list | tuple):
            left += reversed(one)
            continue
        fields = {"language": None, "kind": "alt"}
        scores: object = None
        if isinstance(one, Mapping):
            # A foreign dataset may have a field of this name for something else.
            scores = one["scores"] if isinstance(one.get("scores"), TextScores) else None
            fields |= {name: one[name] for name in ("language", "kind") if name in one}
            one = one.get("text")
            if one is None:
                continue
        odd = _odd("text", one)
        if odd is None:
            for name, word in fields.items():
                if word is not None and (wrong := _odd(name, word)):
                    odd, fields[name] = wrong, None
            found.append({"text": one, **fields} if scores is None else {"text": one, **fields, "scores": scores})
        problem = problem or odd
    return found, problem


def _scores(texts: Sequence[Mapping[str, object]]) -> list[object] | None:
    """The scores of each text; None if no text has any."""
    return [one.get("scores", ()) for one in texts] if any("scores" in one for one in texts) else None


def _odd(name: str, value: object) -> str | None:
    """Why a value is no text that can be stored; None if it is one."""
    if not isinstance(value, str):
        return f"a {name} must be a string, not {type(value).__name__}"
    try:
        value.encode()
    except UnicodeEncodeError as error:
        return f"a {name} holds half a character: U+{ord(value[error.start]):04X}"
    return None


def storable(text: str) -> str:
    """A text as UTF-8 can hold it: half characters, and bytes of a file name that are no UTF-8, as `\\uXXXX`."""
    return text.encode("utf-8", "backslashreplace").decode()


def group_ids(sha256: Sequence[object]) -> NDArray[np.int64]:
    """int64 [rows], from the digests of the images (hex); -1 where there is none."""
    return np.array([hex_id(digest) for digest in sha256], np.int64)


def group_of(number: float | None) -> int:
    """A group's number as SAMPLE has it, its low 63 bits; -1 for null, -1, and what is no whole number.

    Hashes are signed in one dataset and unsigned in another, and only -1 says that there is none.
    """
    if isinstance(number, float):
        number = int(number) if number.is_integer() and abs(number) < 2**64 else None
    return -1 if number is None or number == -1 else number & _LOW


def hex_id(digest: object) -> int:
    """63 bits of the first 8 bytes of a hex digest; -1 if it is none."""
    try:
        return int(str(digest)[:16], 16) & _LOW if digest is not None else -1
    except ValueError:
        return -1


def sample_id(uid: str) -> int:
    """63 bits that stand for a uid: of its first 8 bytes if it is 32 hex digits, as ours are, else of its digest."""
    own = hex_id(uid) if len(uid) == 32 else -1
    return own if own >= 0 else hex_id(hashlib.blake2b(uid.encode(), digest_size=8).hexdigest())
