"""Read csv and tsv files.

Every column is read as text: guessing types block by block makes two files of one list disagree, and turns ids such as
007 into 7.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.csv as pacsv

from curation.inputs.files import InputFile
from curation.inputs.limits import Content, check_columns
from curation.inputs.quoting import delimiter_of, numbered

_COLUMN = re.compile(r"In CSV column #(\d+)")


def schema(file: InputFile) -> pa.Schema:
    """The columns of a file whose `quoted` is known; none if it holds nothing.  Raises ValueError as `batches`."""
    header = next((line for _, line in numbered(file) if not line.isspace()), None)
    if header is None:
        return pa.schema([])
    check_columns(header.count(delimiter_of(file).encode()) + 1)
    try:
        return pa.schema([(name, pa.string()) for name in _open(file, []).schema.names])
    except pa.ArrowInvalid as error:
        raise ValueError(_where(file, str(error))) from error


def batches(file: InputFile) -> Iterator[pa.Table]:
    """The rows, a block at a time.  Raises ValueError with the line and the column that cannot be read."""
    names = schema(file).names
    try:
        for batch in _open(file, names) if names else ():
            yield pa.Table.from_batches([batch])
    except pa.ArrowInvalid as error:
        raise ValueError(_where(file, str(error))) from error


def _open(file: InputFile, names: Sequence[str]) -> pacsv.CSVStreamingReader:
    """names: the columns, read as text; empty for a reader that only finds the names."""
    convert = pacsv.ConvertOptions(
        column_types=dict.fromkeys(names, pa.string()),
        strings_can_be_null=False,
        quoted_strings_can_be_null=False,
    )
    parse = pacsv.ParseOptions(
        delimiter=delimiter_of(file), quote_char='"' if file.quoted else False, newlines_in_values=bool(file.quoted)
    )
    return pacsv.open_csv(Content(file), parse_options=parse, convert_options=convert)


def _where(file: InputFile, error: str) -> str:
    """The error with the first line that has it: Arrow does not say which."""
    column = _COLUMN.search(error)
    for number, line in numbered(file):
        try:
            line.decode()
        except UnicodeDecodeError as undecodable:
            names = _open(file, []).schema.names
            named = f", column {names[int(column[1])]!r}" if column else ""
            return f"line {number}{named}: {undecodable}"
    text = (line.decode() for _, line in numbered(file))
    rows = csv.reader(text, delimiter=delimiter_of(file), quoting=csv.QUOTE_MINIMAL if file.quoted else csv.QUOTE_NONE)
    columns = None
    try:
        for row in rows:
            columns = columns or len(row)
            if row and len(row) != columns:
                return f"line {rows.line_num}: {len(row)} values in a row of {columns} columns"
    except csv.Error as odd:
        return f"line {rows.line_num}: {odd}"
    return error
