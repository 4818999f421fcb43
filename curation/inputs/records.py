"""Read files whose rows are JSON objects: jsonl, and the samples of webdataset tars.

A key takes the JSON type that all its values share, over all files of a list.  Keys with mixed or nested values are
kept as JSON text, and so are whole numbers that no column of numbers holds exactly.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from curation.inputs.files import InputFile, SeveralTexts
from curation.inputs.quoting import numbered
from pairmill.tars import samples

#: Rows of a batch.
BATCH_ROWS = 16_384

#: Kinds of values, beside the column types that some of them take.
_NULL, _BOOL, _INT, _LONG, _FLOAT, _TEXT = "null", "bool", "int", "long", "float", "text"
_ARROW: Mapping[str, pa.DataType] = {
    _NULL: pa.null(),
    _BOOL: pa.bool_(),
    _INT: pa.int64(),
    _LONG: pa.int64(),  # beyond 2**53, so that it is no exact floating-point number
    _FLOAT: pa.float64(),
    _TEXT: pa.string(),
}

Record = tuple[str, dict[str, Any]]


def kinds(file: InputFile, texts: Sequence[str | None]) -> dict[str, str]:
    """The kind of every key's values.  texts: keys that must not hold a list or an object.

    Raises ValueError with the place of what cannot be read.
    """
    found: dict[str, str] = {}
    for where, record in _records(file):
        for key, value in record.items():
            if isinstance(value, list | dict) and key in texts:
                word = "list" if isinstance(value, list) else "struct"
                raise SeveralTexts(f"{where}, column {key!r} holds a {word}")
            seen = _kind(value)
            known = found.get(key)
            if known is None:
                _require_text(key, f"{where}, column {key!r}")
                found[key] = seen
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
    return _FLOAT if isinstance(value, float) else _TEXT


def text_batches(file: InputFile) -> Iterator[pa.Table]:
    """The lines of a text file as the column `url`, without blank ones."""
    return _in_batches((f"line {number}", {"url": line}) for number, line in _lines(file) if line.strip())


def batches(file: InputFile) -> Iterator[pa.Table]:
    """The rows.  Raises ValueError with the place of what cannot be read."""
    return _in_batches((where, {k: _plain(v) for k, v in record.items()}) for where, record in _records(file))


def _in_batches(records: Iterable[tuple[str, Mapping[str, object]]]) -> Iterator[pa.Table]:
    batch: list[tuple[str, Mapping[str, object]]] = []
    for record in records:
        batch.append(record)
        if len(batch) == BATCH_ROWS:
            yield _table(batch)
            batch = []
    if batch:
        yield _table(batch)


def _table(records: list[tuple[str, Mapping[str, object]]]) -> pa.Table:
    names = dict.fromkeys(name for _, record in records for name in record)
    columns = {}
    for name in names:
        values = [record.get(name) for _, record in records]
        try:
            columns[name] = _column(values)
        except UnicodeEncodeError:
            for where, record in records:
                _require_text(f"{record.get(name)}", f"{where}, column {name!r}")
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


def _plain(value: object) -> object:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else value


def _as_text(value: object) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value)


def _lines(file: InputFile) -> Iterator[tuple[int, str]]:
    """The lines of a file, numbered from 1, without their ends.  Raises ValueError with the line that is not UTF-8."""
    for number, line in numbered(file):
        try:
            yield number, line.decode().rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise ValueError(f"line {number}: {error}") from error


def _records(file: InputFile) -> Iterator[Record]:
    """Each row with its place in the file."""
    if file.kind == "jsonl":
        for number, line in _lines(file):
            if line.strip():
                yield f"line {number}", _json_object(line, f"line {number}")
    else:
        yield from _webdataset_records(file)


def _json_object(text: str, where: str) -> dict[str, Any]:
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: {error}") from error
    if not isinstance(record, dict):
        raise ValueError(f"{where}: every record must be a JSON object, not {type(record).__name__}")
    return record


def _webdataset_records(file: InputFile) -> Iterator[Record]:
    """One record per sample: its `.json` member, with its `.txt` member as the key `txt`."""
    with file.filesystem.open_input_stream(file.path) as raw, tarfile.open(fileobj=raw, mode="r|*") as tar:
        for key, members in samples(tar):
            record: dict[str, Any] = {}
            for ending, member in members:
                if ending in ("json", "txt") and (content := tar.extractfile(member)) is not None:
                    text = _decoded(content.read(), member.name)
                    record |= _json_object(text, member.name) if ending == "json" else {"txt": text}
            if record:
                yield f"sample {key}", record


def _decoded(content: bytes, name: str) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{name}: {error}") from error
