"""Read files whose rows are JSON objects: jsonl, and the samples of webdataset tars.

A key takes the JSON type that all its values share, over all files of a list.  Keys with mixed or nested values are
kept as JSON text, and so are whole numbers that no column of numbers holds exactly.
"""

from __future__ import annotations

import json
import logging
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from curation.inputs.files import InputFile, SeveralTexts
from curation.inputs.limits import BATCH_BYTES, BATCH_ROWS, Content, check_columns, unsized
from curation.inputs.quoting import BOM, numbered
from pairmill.bounded_tar import forward_tar
from pairmill.tars import TEXT_ENDINGS, samples

logger = logging.getLogger("pairmill")

#: Cells of a batch, most of them empty where every row has keys of its own.
_MOST_CELLS = 2**20

#: Kinds of values, beside the column types that some of them take.
_NULL, _BOOL, _INT, _LONG, _FLOAT, _TEXT, _NESTED = "null", "bool", "int", "long", "float", "text", "nested"
_ARROW: Mapping[str, pa.DataType] = {
    _NULL: pa.null(),
    _BOOL: pa.bool_(),
    _INT: pa.int64(),
    _LONG: pa.int64(),  # beyond 2**53, so that it is no exact floating-point number
    _FLOAT: pa.float64(),
    _TEXT: pa.string(),
    _NESTED: pa.string(),
}

#: What a row is made of, in a tar, by the ending of its files.
_TAR_KINDS: Mapping[str, str] = {"json": "json", **dict.fromkeys(TEXT_ENDINGS, "txt")}

#: The number of a line or the name of a sample, and the row that it holds.
Record = tuple[int | str, dict[str, Any]]


def kinds(file: InputFile, texts: Sequence[str | None]) -> dict[str, str]:
    """The kind of every key's values.  texts: keys that must not hold a list or an object.

    Raises ValueError with the place of what cannot be read.
    """
    found: dict[str, str] = {}
    for where, record in _records(file, first=True):
        for key, value in record.items():
            seen = _kind(value)
            if seen is _NESTED and key in texts:
                word = "list" if isinstance(value, list) else "struct"
                raise SeveralTexts(f"{_place(where)}, column {key!r} holds a {word}")
            known = found.get(key)
            if known is None:
                _require_text(key, f"{_place(where)}, column {key!r}")
                found[key] = seen
                check_columns(len(found))
            elif seen != known:
                found[key] = shared_kind(known, seen)
    return found


def shared_kind(one: str, other: str) -> str:
    """The kind that holds the values of both."""
    both = {one, other} - {_NULL}
    if len(both) < 2:
        return both.pop() if both else _NULL
    if both == {_INT, _LONG}:
        return _LONG
    return _FLOAT if both == {_INT, _FLOAT} else _TEXT


def type_of(kind: str) -> pa.DataType:
    """The column type that values of a kind take."""
    return _ARROW[kind]


def _kind(value: object) -> str:
    if isinstance(value, str):
        return _TEXT
    if value is None:
        return _NULL
    if isinstance(value, bool):
        return _BOOL
    if isinstance(value, int):
        return _INT if -(2**53) <= value <= 2**53 else _LONG if -(2**63) <= value < 2**63 else _TEXT
    return _FLOAT if isinstance(value, float) else _NESTED


def text_batches(file: InputFile) -> Iterator[pa.Table]:
    """The lines of a text file as the column `url`, without blank ones."""
    lines = ((number, _text(line, number)) for number, line in numbered(file))
    return _in_batches((number, {"url": line.rstrip("\r\n")}) for number, line in lines if line.strip())


def batches(file: InputFile) -> Iterator[pa.Table]:
    """The rows.  Raises ValueError with the place of what cannot be read."""
    return _in_batches((where, _flat(record)) for where, record in _records(file))


def _in_batches(records: Iterable[tuple[int | str, Mapping[str, object]]]) -> Iterator[pa.Table]:
    places: list[int | str] = []
    rows: list[Mapping[str, object]] = []
    names: set[str] = set()
    size = 0
    for place, record in records:
        places.append(place)
        rows.append(record)
        names.update(record)
        size += unsized(record)
        if len(rows) == BATCH_ROWS or size > BATCH_BYTES or len(names) * len(rows) > _MOST_CELLS:
            yield _table(places, rows)
            places, rows, size = [], [], 0
            names.clear()
    if rows:
        yield _table(places, rows)


def _table(places: list[int | str], rows: list[Mapping[str, object]]) -> pa.Table:
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {}
    for name in names:
        values = [row.get(name) for row in rows]
        try:
            columns[name] = _column(values)
        except UnicodeEncodeError:
            for where, value in zip(places, values, strict=True):
                _require_text(f"{value}", f"{_place(where)}, column {name!r}")
            raise
    return pa.table(columns)


def _column(values: list[object]) -> pa.Array:
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        return pa.array([_as_text(v) for v in values], pa.string())


def _require_text(value: str, where: str) -> None:
    """Raise ValueError for a text with half of a surrogate pair, which no UTF-8 holds."""
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{where}: {error}") from error


def _flat(record: dict[str, Any]) -> dict[str, Any]:
    """The record, with its nested values as JSON text."""
    for key, value in record.items():
        if type(value) is dict or type(value) is list:
            try:
                record[key] = json.dumps(value, ensure_ascii=False)
            except RecursionError as error:
                raise ValueError(f"column {key!r}: {error}") from error
    return record


def _as_text(value: object) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value)


def _place(where: int | str) -> str:
    return f"line {where}" if isinstance(where, int) else where


def _text(content: bytes, where: int | str) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{_place(where)}: {error}") from error


def _records(file: InputFile, *, first: bool = False) -> Iterator[Record]:
    """Each row with its place in the file.  first: whether the file is read for the first time, to warn once."""
    if file.kind == "jsonl":
        for number, line in numbered(file):
            if not line.isspace():
                yield number, _json_object(_text(line, number), number)
    else:
        yield from _webdataset_records(file, first)


def _json_object(text: str, where: int | str) -> dict[str, Any]:
    try:
        record = json.loads(text, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{_place(where)}: {error}") from error
    if not isinstance(record, dict):
        raise ValueError(f"{_place(where)}: every record must be a JSON object, not {type(record).__name__}")
    return record


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys are there once: which of two values is meant, nobody knows."""
    record = dict(pairs)
    if len(record) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"key {twice!r} occurs twice; every key of an object must have a name of its own")
    return record


def _webdataset_records(file: InputFile, first: bool) -> Iterator[Record]:
    """One record per sample: its `.json` member, with its `.txt` or `.caption` member as the key `txt`.

    What makes no record is counted in `file.left_out`.  Raises ValueError for a tar of texts apart from their json.
    """
    file.left_out = Counter()
    rows: Counter[tuple[str, ...]] = Counter()  # by the kinds of their files
    with Content(file, by_magic=True) as raw, forward_tar(raw) as tar:

        def content(member: tarfile.TarInfo) -> tuple[str, str]:
            stream = tar.extractfile(member)
            return member.name, _text(stream.read().removeprefix(BOM) if stream is not None else b"", member.name)

        for key, files in samples(tar, _TAR_KINDS, content, bool, file.left_out):
            record = _json_object(files["json"][1], files["json"][0]) if "json" in files else {}
            if "txt" in files:
                record["txt"] = files["txt"][1]
            rows[tuple(sorted(files))] += 1
            if record:
                yield f"sample {key}", record
            else:
                file.left_out["no_sample"] += 1
    _check_together(file, json_alone=rows["json",], text_alone=rows["txt",], whole=rows["json", "txt"], warn=first)


def _check_together(file: InputFile, *, json_alone: int, text_alone: int, whole: int, warn: bool) -> None:
    """Raise ValueError if the samples' files stand apart, so that each is a sample; warn if that may be so of some."""
    less, more = sorted([json_alone, text_alone])
    # A README.txt is one text, and some samples may lack a file.
    if less > max(1, whole) and 2 * less > more:
        raise ValueError(
            "the files of a sample must stand one after the other, as `tar --sort=name` writes them; "
            f"{json_alone:,} json files and {text_alone:,} texts stand apart"
        )
    if less and warn:
        logger.warning(
            "%s: %d samples have a json file and no text, %d a text and no json file; are the files of a sample one "
            "after the other?",
            file.path,
            json_alone,
            text_alone,
        )
