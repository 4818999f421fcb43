"""What to forget: uids, URLs, hosts and pictures, from the command line or a file."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import pyarrow as pa

from curation.forget.tombstones import SCHEMA, Kind, rule_digest
from curation.identity import canonical_url, plain_host, requested_url
from curation.web.address import Refused, canonical_host
from pairmill.errors import InputError, UserError

_UID = re.compile(r"[0-9a-f]{32}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_HOST = re.compile(r"[^\s/?#@*:]+|\[[0-9a-f:.]+\]")


class Request(NamedTuple):
    """Rows by their uids, and rules; each value in the form in which it is compared.

    hosts: one that begins with a dot stands for every host below it.
    """

    uids: frozenset[str] = frozenset()
    urls: frozenset[str] = frozenset()
    hosts: frozenset[str] = frozenset()
    sha256s: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return any(self)

    @property
    def kinds(self) -> dict[Kind, frozenset[str]]:
        """Kind of tombstone -> values."""
        return {"uid": self.uids, "url": self.urls, "host": self.hosts, "sha256": self.sha256s}

    def tombstones(self, at: int) -> pa.Table:
        """The request as tombstones that apply to rows added later.  at: seconds since the epoch."""
        rows = [
            {"kind": kind, "digest": rule_digest(kind, value), "at": at}
            for kind, values in self.kinds.items()
            for value in sorted(values)
        ]
        return pa.Table.from_pylist(rows, SCHEMA)


def request(
    *, uid: Iterable[str] = (), url: Iterable[str] = (), host: Iterable[str] = (), sha256: Iterable[str] = ()
) -> Request:
    """A request for these values.  Raises UserError for a malformed one."""
    return Request(
        frozenset(_checked(value, "uid", _UID, "32 hex digits, as in the dataset's column uid") for value in uid),
        frozenset(_checked_url(value) for value in url),
        frozenset(_checked_host(value) for value in host),
        frozenset(_checked(value, "sha256", _SHA256, "64 hex digits, of the original file") for value in sha256),
    )


def read_request(file: Path) -> Request:
    """The values of a file, one per line: a uid (32 hex digits), a SHA-256 (64 hex digits), a URL (has ://) or a host.

    Empty lines, and lines that begin with #, are skipped.  Raises InputError for a file that cannot be read, and for a
    malformed line.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError("--from must name a text file in UTF-8", value=error, fix="check the path") from error
    return merged(_parsed(file, number, line) for number, line in _lines(text))


def merged(requests: Iterable[Request]) -> Request:
    """Several requests as one."""
    return Request(*(frozenset().union(*values) for values in zip(Request(), *requests, strict=True)))


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """The lines that ask for something, with their numbers."""
    for number, line in enumerate(text.split("\n"), start=1):
        if (stripped := line.strip()) and not stripped.startswith("#"):
            yield number, stripped


def _parsed(file: Path, number: int, line: str) -> Request:
    try:
        return request(**{_kind(line): [line]})
    except UserError as error:
        raise InputError(
            "every line of --from must be a uid (32 hex digits), a SHA-256 (64), a URL, or a host with a dot",
            value=f"line {number} of {file}: {line}",
            fix=error.fix,
        ) from error


def _kind(line: str) -> Literal["uid", "url", "host", "sha256"]:
    if "://" in line:
        return "url"
    if _UID.fullmatch(line.lower()):
        return "uid"
    return "sha256" if _SHA256.fullmatch(line.lower()) else "host"


def _checked(value: str, name: str, form: re.Pattern[str], what: str) -> str:
    lower = value.strip().lower()
    if not form.fullmatch(lower):
        raise UserError(f"--{name} must be {what}", value=value, fix="copy it from the product or from the report")
    return lower


def _checked_url(value: str) -> str:
    if "://" not in value:
        raise UserError("--url must be a URL", value=value, fix="give it with its scheme: https://…")
    return requested_url(canonical_url(value))


def _checked_host(value: str) -> str:
    lower = value.strip().lower()
    below, name = lower.startswith("*."), lower.removeprefix("*.")
    if not _HOST.fullmatch(name) or not _is_host(name, below):
        raise UserError(
            "--host must be the name of a host, with a dot in it, or *. and a name for every host below it",
            value=value,
            fix="give it without scheme, port and path, as in images.example.com; end a name of one word with a dot",
        )
    return ("." if below else "") + plain_host(name)


def _is_host(name: str, below: bool) -> bool:
    """Whether a name can be looked up, and was meant to be: one of a single word is more often a mistyped uid."""
    try:
        found = canonical_host(name)
    except Refused:
        return False
    # Other scripts have dots of their own.
    dotted = "." in name or (not name.isascii() and "." in found)
    return below or dotted or ":" in found or found == "localhost"
