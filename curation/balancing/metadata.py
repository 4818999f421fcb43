"""Metadata: the entries that captions are looked up in, a list for each language.

    METADATA.json        ["dog", "hot dog", …]            one list, for captions of any language
                         {"en": […], "zh": […]}           a list for each language
    METADATA.txt         an entry a line, for captions of any language

MetaCLIP's (Xu et al. 2024) has 500,000 entries: WordNet's words, words and pairs of words of Wikipedia that are common
enough, and its titles that are read often enough.  `build` makes such lists from titles with counts.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pairmill.config import bytes_digest
from pairmill.errors import InputError, RecipeError
from pairmill.languages import canonical

#: The language of lists that are for all, and what a file calls it beside others.
ANY, _OTHERS = "", "other"

#: Bytes of a file of metadata at most: MetaCLIP 2's 27 million entries are less than half of it.
_LARGEST = 2 << 30


def read_metadata(file: Path) -> dict[str, list[str]]:
    """Language -> its entries, each once, in the file's order; `ANY` is for captions of every other language.

    Raises RecipeError for a file that cannot be read, is too large, or is in another form.
    """
    # Spreadsheets and Windows editors put a byte-order mark before the text.
    text = _content(file).decode("utf-8-sig")
    if file.suffix != ".json":
        found: object = text.splitlines()
    else:
        try:
            found = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise _refused(file, f"no JSON: {error}") from error
    lists = found if isinstance(found, dict) else {ANY: found}
    entries: dict[str, list[str]] = {}
    for language, given in lists.items():
        if not isinstance(given, list) or not all(isinstance(one, str) for one in given):
            raise _refused(file, f"{language or 'the list'} is no list of texts")
        name = list_name(language)
        kept = [*entries.get(name, ()), *(one.strip() for one in given)]
        entries[name] = list(dict.fromkeys(one for one in kept if one))
    if not any(entries.values()):
        raise _refused(file, "it has no entry")
    return entries


def list_name(language: str) -> str:
    """What a list that a file or a recipe calls `language` is called here: its canonical tag; `ANY` for `other`."""
    return ANY if language in (ANY, _OTHERS) else canonical(language)


def shown_name(name: str) -> str:
    """How a user writes the name of a list."""
    return name or _OTHERS


def metadata_digest(file: Path) -> str:
    """What names the content of a file of metadata.  Raises RecipeError if it cannot be read."""
    return bytes_digest(_content(file))


def _content(file: Path) -> bytes:
    try:
        if file.stat().st_size > _LARGEST:
            raise _refused(file, f"{file.stat().st_size:,} bytes, of {_LARGEST:,} at most")
        content = file.read_bytes()
        content.decode("utf-8")
    except OSError as error:
        raise _refused(file, error.strerror or error) from error
    except UnicodeDecodeError as error:
        raise _refused(file, f"not UTF-8: {error}") from error
    return content


def _refused(file: Path, why: object) -> RecipeError:
    return RecipeError(
        "balance.metadata of a selection must be a .txt file with an entry a line, or .json with a list of texts, or "
        "a list for each language",
        value=f"{file}: {why}",
        fix="correct the file; `pairmill metadata` makes one from titles and counts",
    )


def build(
    files: Iterable[Path], *, least: int, language: str = ANY, without: Iterable[str] = (":",)
) -> dict[str, list[str]]:
    """Language -> its entries, the most frequent first: titles whose counts over all files are `least` or more.

    files: tsv or csv with a header: title, count, and language if there are several.  Underscores in titles are spaces,
    as in Wikipedia's lists of page views; titles with a text of `without` are left out, as MetaCLIP leaves out those
    with a colon (Talk:, User:).  language: of titles without one.
    Raises InputError for a file without these columns, for a count that is no number, and if no title is left.
    """
    files = list(files)
    counts: dict[str, dict[str, int]] = {}
    unwanted = tuple(without)
    for file in files:
        for place, spoken, title, count in _titles(file, language):
            if count < 0:
                raise _bad(file, f"row {place}: {count}")
            title = " ".join(title.replace("_", " ").split())
            if title and not any(one in title for one in unwanted):
                of_language = counts.setdefault(spoken, {})
                of_language[title] = of_language.get(title, 0) + count
    entries = {
        name: [title for title, count in sorted(found.items(), key=lambda item: (-item[1], item[0])) if count >= least]
        for name, found in sorted(counts.items())
    }
    if not any(entries.values()):
        most = max((count for found in counts.values() for count in found.values()), default=None)
        left = "no title" if most is None else f"a title's count is {most:,} at most, and --least {least:,}"
        raise _bad(files[0] if len(files) == 1 else f"{len(files)} files", f"no entry is left: {left}")
    return entries


def metadata_text(entries: Mapping[str, list[str]]) -> str:
    """The content of a file of metadata."""
    whole = entries[ANY] if entries.keys() == {ANY} else {shown_name(name): found for name, found in entries.items()}
    return json.dumps(whole, ensure_ascii=False, indent=0) + "\n"


def _titles(file: Path, language: str) -> Iterator[tuple[int, str, str, int]]:
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            tabs = file.suffix.lower() == ".tsv"
            form: dict[str, Any] = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if tabs else {}
            rows = csv.DictReader(stream, **form)
            if missing := [name for name in ("title", "count") if name not in (rows.fieldnames or ())]:
                raise _bad(file, f"no column {missing[0]}; there are {', '.join(rows.fieldnames or ()) or 'none'}")
            for place, row in enumerate(rows, 1):
                try:
                    count = int(row["count"])
                except (TypeError, ValueError):
                    raise _bad(file, f"row {place}: {row['count']!r}") from None
                spoken = row.get("language") or language
                yield place, canonical(spoken) if spoken else ANY, row["title"] or "", count
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise _bad(file, error) from error


def _bad(file: Path | str, why: object) -> InputError:
    return InputError(
        "a list of titles must be tsv or csv in UTF-8 with a header: title, count (whole, 0 or more), and language "
        "if it has several",
        value=f"{file}: {why}",
        fix="correct the file, or the options",
    )
