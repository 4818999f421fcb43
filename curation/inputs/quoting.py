"""Whether the values of a csv or tsv file stand in double quotes, found before a row is read.

In csv (RFC 4180) they may.  In tsv (IANA text/tab-separated-values) a quote is a character like any other, but most
programs write tsv as csv with tabs.  A reader that takes the wrong one of the two loses rows without a word: a value
that begins with a quote goes on to the next quote, over any number of lines.  So a file is looked at as a whole, a line
at a time: a tsv file is read without quoting if that reading alone makes sense, and a csv file is refused if one of its
values would swallow rows.
"""

from __future__ import annotations

import contextlib
import csv
import logging
import re
from collections.abc import Iterator
from typing import Literal, NamedTuple

from curation.inputs import limits
from curation.inputs.files import InputFile
from pairmill.errors import InputError

logger = logging.getLogger("pairmill")

Quoting = Literal["auto", "quoted", "none"]

_BLOCK_BYTES = 2**20
_BOM = b"\xef\xbb\xbf"
#: How a URL in a list begins.
_URL = re.compile(r'"?(?:https?:)?//', re.IGNORECASE)


class Quotes(NamedTuple):
    """The first lines, counted from 1, in which a reading with quotes meets something odd; None: nowhere.

    broken: a value goes on after its closing quote.  torn: the same, of a value that began on an earlier line.
    swallowed: a line within a quoted value looks like a whole row, and so does that in which the value begins.
    unclosed: where the quote opens that never closes.
    ragged: in a tsv file, a line by itself has another number of values than there are columns.
    """

    broken: int | None = None
    torn: int | None = None
    swallowed: int | None = None
    unclosed: int | None = None
    ragged: int | None = None


def delimiter_of(file: InputFile) -> str:
    """What stands between the values of a csv or tsv file."""
    return "\t" if file.kind == "tsv" else ","


def is_quoted(file: InputFile, url_column: str, quoting: Quoting) -> bool:
    """Whether values of the file may stand in quotes.

    Raises InputError for a file that loses rows if they do, and has a format in which they may.
    """
    if quoting != "auto":
        return quoting == "quoted"
    found = _quotes(file, delimiter_of(file), url_column)
    odd = {
        "a value opens a quote that is never closed": found.unclosed,
        "this line lies within a quoted value and looks like a row of its own": found.swallowed,
        "a value of several lines goes on after its closing quote": found.torn,
        "a value goes on after its closing quote": found.broken,
    }
    if file.kind == "tsv":
        if all(line is None for line in odd.values()):
            return True
        if found.ragged is None:
            return False  # every line is a row
        if found._replace(ragged=None, swallowed=None) == Quotes():
            return True
    else:
        odd.popitem()  # loses no row
    for what, line in odd.items():
        if line is not None:
            raise InputError(
                f"input.path: the quotes of a {file.kind} file must be closed where their values end: {what}",
                value=f"{file.path}: line {line}",
                fix='write a quote within a quoted value as "", or set input.quoting: none if the file has no quoting, '
                "quoted if it is right as it is",
            )
    if found.broken is not None:
        logger.warning(
            "%s: line %d: a value goes on after its closing quote; it is read without that quote",
            file.path,
            found.broken,
        )
    return True


def lines(file: InputFile) -> Iterator[list[bytes]]:
    """The lines of a text file with their ends, many at a time, without a byte-order mark at the start."""
    with limits.Content(file) as stream:
        rest, first = b"", True
        while block := stream.read(_BLOCK_BYTES):
            rest += block
            if len(rest) > limits.LARGEST_VALUE + _BLOCK_BYTES:
                raise ValueError(f"a line must have at most {limits.LARGEST_VALUE:,} bytes")
            # A carriage return at the end may be half of a line end.
            cut = (rest.rfind(b"\n") + 1) or (rest.rfind(b"\r", 0, len(rest) - 1) + 1)
            if cut:
                yield (rest[:cut].removeprefix(_BOM) if first else rest[:cut]).splitlines(keepends=True)
                rest, first = rest[cut:], False
        if rest := rest.removeprefix(_BOM) if first else rest:
            yield rest.splitlines(keepends=True)


def numbered(file: InputFile) -> Iterator[tuple[int, bytes]]:
    """The lines of a text file with their ends, numbered from 1."""
    number = 1
    for block in lines(file):
        yield from enumerate(block, start=number)
        number += len(block)


def _quotes(file: InputFile, delimiter: str, url_column: str) -> Quotes:
    names = _header(file, delimiter)
    url = names.index(url_column) if url_column in names else None
    between = delimiter.encode()
    whole = _whole_line(between).fullmatch
    tabs = len(names) - 1 if file.kind == "tsv" else 0
    quoted_name = f'"{url_column}"'.encode()
    first: dict[str, int] = {}
    opened, within_row = None, False  # the line in which the open quote is; whether it could be a row by itself
    for number, line in numbered(file):
        # The header of a file with quoting may stand in quotes as a whole.
        if tabs and (line.count(between) != tabs or (number == 1 and quoted_name in line)) and not line.isspace():
            first.setdefault("ragged", number)
        if opened is None and (b'"' not in line or whole(line)):
            continue
        if within_row and opened is not None and _is_row(line, delimiter, len(names), url):
            first.setdefault("swallowed", number)
        inside, broken, closed = _walk(line, between, opened is not None)
        if broken:
            first.setdefault("torn" if opened is not None and broken == 1 else "broken", number)
        if not inside:
            opened = None
        elif opened is None or closed:
            opened, within_row = number, _is_row(line, delimiter, len(names), url)
    if opened is not None:
        first["unclosed"] = opened
    return Quotes(*(first.get(name) for name in Quotes._fields))


def _header(file: InputFile, delimiter: str) -> list[str]:
    """The names of the columns, by csv's rules."""
    text = (line.decode("utf-8", "replace") for _, line in numbered(file))
    try:
        return next((row for row in csv.reader(text, delimiter=delimiter) if row), [])
    except csv.Error:  # a quote that is never closed
        return []


def _whole_line(delimiter: bytes) -> re.Pattern[bytes]:
    """A line in which every value that begins with a quote ends with one."""
    value = rb'(?:"[^"]*(?:""[^"]*)*"|[^"%b\r\n][^%b\r\n]*|)' % (delimiter, delimiter)
    return re.compile(rb"%b(?:%b%b)*[\r\n]*" % (value, delimiter, value))


def _is_row(line: bytes, delimiter: str, columns: int, url: int | None) -> bool:
    if url is None:
        return False
    text = line.decode("utf-8", "replace").rstrip("\r\n")
    readings = [text.split(delimiter)]
    with contextlib.suppress(csv.Error):  # a value that is too long
        readings.append(next(csv.reader([text], delimiter=delimiter), []))
    return any(len(values) == columns and _URL.match(values[url]) for values in readings)


def _walk(line: bytes, delimiter: bytes, inside: bool) -> tuple[bool, int, int]:
    """Read one line: whether a quote is open at its end, which closing quote first has text behind it (0: none), and
    how many quotes close."""
    at, closed, broken = 0, 0, 0
    if not inside:
        if not line.startswith(b'"'):
            at = _next_opening(line, delimiter, 0)
            if at < 0:
                return False, 0, 0
        else:
            at = 1
    while True:
        at = line.find(b'"', at)
        while at >= 0 and line[at + 1 : at + 2] == b'"':
            at = line.find(b'"', at + 2)
        if at < 0:
            return True, broken, closed
        closed += 1
        behind = line[at + 1 : at + 2]
        if behind and behind != delimiter and behind not in (b"\r", b"\n"):
            broken = broken or closed
        at = _next_opening(line, delimiter, at + 1)
        if at < 0:
            return False, broken, closed


def _next_opening(line: bytes, delimiter: bytes, at: int) -> int:
    """Where the next value that begins with a quote begins, behind that quote; -1: there is none."""
    opening = line.find(delimiter + b'"', at)
    return -1 if opening < 0 else opening + 2
