"""Answers with status 206 to a request that asked for no range: some caches give the whole file that way.

A browser takes what comes for the picture.  A dataset must not hold half of one, so the range that the server names
must be all of it.  Where it names none the picture itself has to show that it is whole, when it is decoded.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

# RFC 9110, 14.4.
_RANGE = re.compile(r"\s*bytes\s+([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)\s*", re.IGNORECASE)


def lacks(ranges: Sequence[str], content_type: str) -> str:
    """What an answer with 206 does not have of the file, by its Content-Range fields; "" if nothing is known."""
    if content_type.lower().lstrip().startswith("multipart/"):
        return "several ranges"
    for named in filter(None, map(_RANGE.fullmatch, ranges)):
        first, last, size = int(named[1]), int(named[2]), named[3]
        if first or (size != "*" and last + 1 < int(size)):
            return f"bytes {first}-{last} of {size}"
    return ""


def announced(ranges: Sequence[str]) -> int | None:
    """The bytes of the file, by its Content-Range fields; None if they do not say."""
    sizes = [int(named[2]) + 1 for named in map(_RANGE.fullmatch, ranges) if named]
    return max(sizes, default=None)
