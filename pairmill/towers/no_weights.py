"""What a file is that holds no weights, or a part of them: a pointer, an answer of a server, a cut download."""

from __future__ import annotations

import json
import pickletools
import re
import zipfile
from collections import deque
from pathlib import Path

from pairmill.errors import RecipeError

_BEGIN = 2**16
#: A text has none of these.
_CONTROL = re.compile(r"[\0-\x08\x0e-\x1f]")
_SHOWN = 60
#: The largest header that safetensors reads, bytes (its MAX_HEADER_SIZE).
_LARGEST_HEADER = 100_000_000
#: What torch and pickle say of a file that ends too soon.
_ENDS = re.compile(r"truncated|unexpected EOF|Ran out of input|incomplete|unexpected end", re.IGNORECASE)

#: Of a number, a version, the machine, the state dict and its storages.
_PICKLES = 5
#: What pickletools says of a pickle that ends too soon.
_NO_MORE = re.compile(r"exhausted|not enough|expected \d+ bytes|no newline")

_AGAIN = "download or copy it again"


def no_weights(file: Path, error: Exception) -> RecipeError | None:
    """Why a file that failed with `error` is none of weights, if its bytes say so; else None."""
    with file.open("rb") as opened:
        begin = opened.read(_BEGIN)
    size = file.stat().st_size
    if not begin:
        return _refused(file, "it is empty", _AGAIN)
    text = _text_of(begin)
    if text is not None:
        return _text_error(file, text.removeprefix("\ufeff").strip())
    whole = _size_by_header(begin, file)
    if whole is not None and size < whole:
        return _refused(file, f"it is cut off: {size:,} bytes of {whole:,}", _AGAIN)
    if begin.startswith(b"PK\x03\x04"):
        ends = not zipfile.is_zipfile(file)
    else:
        said = isinstance(error, EOFError) or _ENDS.search(str(error)) is not None
        ends = said or (begin.startswith(b"\x80") and _ends_in_pickle(file))
    if ends:
        return _refused(file, f"it is cut off, at {size:,} bytes", _AGAIN)
    return None


def _refused(file: Path, what: str, fix: str) -> RecipeError:
    return RecipeError("a file of weights must hold them, whole", value=f"{file}: {what}", fix=fix)


def _text_of(begin: bytes) -> str | None:
    """The begin of a text; None for bytes that are none."""
    try:
        # The last character may be cut.
        text = begin.decode() if len(begin) < _BEGIN else begin[:-4].decode(errors="ignore")
    except UnicodeDecodeError:
        return None
    return None if _CONTROL.search(text) else text


def _text_error(file: Path, text: str) -> RecipeError:
    if re.match(r"version https?://\S+/spec/v\d", text):
        return _refused(file, "it is a Git LFS pointer", "run `git lfs pull` in the repository it is from")
    if "annex/objects/" in text[:500]:
        return _refused(file, "it is a git-annex pointer", "run `git annex get` in the repository it is from")
    if re.match(r"(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)*<(?:!doctype html|html|head|body)\b", text, re.I | re.DOTALL):
        return _refused(
            file, "it is an HTML page, as a server answers instead of a file", f"{_AGAIN}, from the file's URL"
        )
    shown = (text.splitlines() or [""])[0][:_SHOWN]
    return _refused(file, f"it is a text: {shown!r}", "give the file of weights, or download it again")


def _ends_in_pickle(file: Path) -> bool:
    """Whether a file ends within one of the pickles that torch's old format begins with."""
    with file.open("rb") as opened:
        for _ in range(_PICKLES):
            if not opened.peek(1):
                return False
            try:
                deque(pickletools.genops(opened), maxlen=0)
            except ValueError as error:
                return _NO_MORE.search(str(error)) is not None
    return False


def _size_by_header(begin: bytes, file: Path) -> int | None:
    """The bytes that a safetensors file must have; None for another one."""
    if file.suffix != ".safetensors":
        return None
    header = int.from_bytes(begin[:8], "little")
    if len(begin) < 8 or header > _LARGEST_HEADER:
        return 8 if len(begin) < 8 else None
    with file.open("rb") as opened:
        opened.seek(8)
        text = opened.read(header)
    if len(text) < header:
        return 8 + header
    try:
        entries = json.loads(text)
        ends = [entry["data_offsets"][1] for name, entry in entries.items() if name != "__metadata__"]
        return 8 + header + max(ends, default=0)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        return None
