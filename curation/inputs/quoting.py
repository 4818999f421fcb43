"""Whether the values of a csv or tsv file stand in double quotes, found before a row is read.

In csv (RFC 4180) they may.  In tsv (IANA text/tab-separated-values) a quote is a character like any other, but most
programs write tsv as csv with tabs.  A reader that takes the wrong one of the two loses rows without a word: a value
that begins with a quote extends to the next quote, over any number of lines.  So a file is looked at as a whole, a line
at a time: a tsv file with a quoted value over several lines is read without quoting, unless its lines are no rows then,
and a csv file is refused if one of its values would swallow rows.
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
#: What Windows programs put before the text of a file in UTF-8.
BOM = b"\xef\xbb\xbf"
#: How a URL in a list begins, or the path of a file in its place.
_URL = re.compile(
    r'[\s"]*(?:[a-z][a-z0-9+.-]*://|//|www\.|(?:data|file|blob|ipfs|urn):|(?:[\w-]+\.)+[a-z]{2,}/|[^\s"]*/[^\s"]*\.\w)',
    re.IGNORECASE,
)
#: What else may stand where the URL belongs: nothing, a word for nothing, or a name or number without white space.
_NAME = re.compile(
    r'[\s"]*(?:[^\s"]*[./:0-9_][^\s"]*|none|null|nil|nan|na|\\n|undefined|missing|-)?[\s"]*', re.IGNORECASE
)
#: What stands there in a list whose URLs are something else.
_WORD = re.compile(r'"?[^\s"]+"?')
_Kind = Literal["url", "name", "word", "text"]


class Quotes(NamedTuple):
    """The first lines, counted from 1, in which a reading with quotes meets something odd; None: nowhere.

    broken: a value continues after its closing quote.  torn: the same, of a value that began on an earlier line.
    spread: a quoted value continues in the next line.
    swallowed: a line of a quoted value over several lines looks like a whole row.
    unclosed: where the quote opens that never closes.
    ragged: in a tsv file, a line by itself has another number of values than there are columns.
    """

    broken: int | None = None
    torn: int | None = None
    spread: int | None = None
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
        "this line is part of a quoted value of several lines and looks like a row of its own": found.swallowed,
        "a value of several lines continues after its closing quote": found.torn,
        "a value continues after its closing quote": found.broken,
    }
    if file.kind == "tsv":
        if found.spread is None and all(line is None for line in odd.values()):
            return True
        if found.ragged is None:  # every line is a row
            if found.spread is not None and found.swallowed is None:
                logger.warning(
                    "%s: line %d: read without quoting, as every line has all columns; input.quoting: quoted takes "
                    "this line for the end of a value",
                    file.path,
                    found.spread + 1,
                )
            return False
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
            "%s: line %d: a value continues after its closing quote; it is read without that quote",
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
                yield (rest[:cut].removeprefix(BOM) if first else rest[:cut]).splitlines(keepends=True)
                rest, first = rest[cut:], False
        if rest := rest.removeprefix(BOM) if first else rest:
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
    rows = None if url is None else _Rows(delimiter, len(names), url)
    opened = None  # the line in which the open quote is
    kinds: set[_Kind] | None = None  # of what all lines since would have for a URL; None: they cannot all be rows
    doubtful: dict[frozenset[_Kind], int] = {}
    for number, line in numbered(file):
        # The header of a file with quoting may stand in quotes as a whole.
        if tabs and (line.count(between) != tabs or (number == 1 and quoted_name in line)) and not line.isspace():
            first.setdefault("ragged", number)
        if opened is None and (b'"' not in line or whole(line)):
            continue
        walked = _walk(line, between, opened is not None)
        if walked.broken:
            first.setdefault("torn" if opened is not None and walked.broken == 1 else "broken", number)
        looks = _Looks() if rows is None else rows.looks(line, walked, opened is not None)
        if opened is not None and not line.isspace():
            kinds = _with(kinds, looks.kind)
        if looks.certain:
            first.setdefault("swallowed", number)
        elif opened is not None and walked.closed and kinds is not None:
            doubtful.setdefault(frozenset(kinds - {"url", "name"}), number)
        if not walked.inside:
            opened = None
        elif opened is None or walked.closed:
            # Of a line that ends one value and begins another only the former is judged.
            kinds = _with(set(), looks.kind) if opened is None else None
            opened = number
            first.setdefault("spread", number)
    if opened is not None:
        first["unclosed"] = opened
    if doubtful and rows is not None:
        # A caption's lines with commas are rows only if other rows have such words for a URL too.
        there = _url_kinds(file, rows) if any(doubtful) else set()
        swallowed = [line for needed, line in doubtful.items() if needed <= there]
        if "swallowed" in first:
            swallowed.append(first["swallowed"])
        if swallowed:
            first["swallowed"] = min(swallowed)
    return Quotes(*(first.get(name) for name in Quotes._fields))


def _with(kinds: set[_Kind] | None, kind: _Kind | None) -> set[_Kind] | None:
    return None if kinds is None or kind is None else {*kinds, kind}


def _kind(value: str) -> _Kind:
    """What stands where a URL belongs."""
    if _URL.match(value):
        return "url"
    if _NAME.fullmatch(value):
        return "name"
    return "word" if _WORD.fullmatch(value) else "text"


def _url_kinds(file: InputFile, rows: _Rows) -> set[_Kind]:
    """What the rows have for a URL that is none, by csv's rules: a "word" too if it is the URL of a value of several
    lines that is none, which is no better a reading."""
    found: set[_Kind] = set()
    text = (line.decode("utf-8", "replace") for _, line in numbered(file))
    with contextlib.suppress(csv.Error):  # a value that is too long
        for number, values in enumerate(csv.reader(text, delimiter=rows.delimiter)):
            if number == 0 or len(values) != rows.columns:
                continue
            kind = _kind(values[rows.url])
            if kind == "name" and any("\n" in value or "\r" in value for value in values):
                kind = "word"
            if kind in ("word", "text"):
                found.add(kind)
                if len(found) == 2:
                    break
    return found


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


class _Walk(NamedTuple):
    """What the quotes of a line do.

    inside: whether one is open at its end.  opening: where the quote is that stays open; -1: it was open before.
    broken: which closing quote first has text behind it (0: none).  closed: how many close.  closing: where the first
    does; -1: nowhere.
    """

    inside: bool
    opening: int
    broken: int
    closed: int
    closing: int


class _Looks(NamedTuple):
    """Whether a line of a quoted value over several lines is certain to be a row of its own.

    kind: what its URL would be; None: it cannot be a row.
    """

    certain: bool = False
    kind: _Kind | None = None


class _Rows(NamedTuple):
    """How the rows of a file look: what is between the values, how many columns there are, which is the URL."""

    delimiter: str
    columns: int
    url: int

    def looks(self, line: bytes, walked: _Walk, inside: bool) -> _Looks:
        """inside: whether the line begins within a quoted value; else one begins in it."""
        if not inside and not walked.inside:
            return _Looks()  # no value continues in the next line
        text = line.decode("utf-8", "replace").rstrip("\r\n")
        if not inside:
            before = self._values(line[: walked.opening])[:-1] if walked.opening else []
            values = before + line[walked.opening :].decode("utf-8", "replace").rstrip("\r\n").split(self.delimiter)
            # If the URL stands before the quote, the row that begins here has it however quotes are read.
            return self._judge([values], self.url > len(before))
        if walked.closing < 0:
            return self._judge([text.split(self.delimiter), self._values(line)], True)
        begin = line[: walked.closing + 1].decode("utf-8", "replace").split(self.delimiter)
        values = begin + self._values(b"-" + line[walked.closing + 1 :])[1:]
        return self._judge([values], self.url < len(begin))

    def _judge(self, readings: list[list[str]], quoted: bool) -> _Looks:
        """quoted: whether the place of the URL is within the quoted value, where rows have texts."""
        kinds = {_kind(values[self.url]) for values in readings if len(values) == self.columns}
        if not kinds:
            return _Looks()
        if not quoted:
            return _Looks(False, "name")  # the same URL however quotes are read
        # Texts hold commas, but seldom tabs.
        certain = self.delimiter == "\t" or "url" in kinds
        likely: tuple[_Kind, ...] = ("url", "name", "word", "text")
        return _Looks(certain, next(kind for kind in likely if kind in kinds))

    def _values(self, line: bytes) -> list[str]:
        with contextlib.suppress(csv.Error):  # a value that is too long
            return next(csv.reader([line.decode("utf-8", "replace").rstrip("\r\n")], delimiter=self.delimiter), [])
        return []


def _walk(line: bytes, delimiter: bytes, inside: bool) -> _Walk:
    opening, broken, closed, closing = -1, 0, 0, -1
    at = 0
    if not inside:
        at = 1 if line.startswith(b'"') else _next_opening(line, delimiter, 0)
        if at < 0:
            return _Walk(False, -1, 0, 0, -1)
        opening = at - 1
    while True:
        at = line.find(b'"', at)
        while at >= 0 and line[at + 1 : at + 2] == b'"':
            at = line.find(b'"', at + 2)
        if at < 0:
            return _Walk(True, opening, broken, closed, closing)
        closed += 1
        closing = at if closing < 0 else closing
        behind = line[at + 1 : at + 2]
        if behind and behind != delimiter and behind not in (b"\r", b"\n"):
            broken = broken or closed
        at = _next_opening(line, delimiter, at + 1)
        if at < 0:
            return _Walk(False, -1, broken, closed, closing)
        opening = at - 1


def _next_opening(line: bytes, delimiter: bytes, at: int) -> int:
    """Where the next value that begins with a quote begins, behind that quote; -1: there is none."""
    opening = line.find(delimiter + b'"', at)
    return -1 if opening < 0 else opening + 2
