"""Lists of regular expressions in `curation/data`, one a line; `name = pattern` is for lines below, as <name>."""

from __future__ import annotations

import re
from pathlib import Path

_FOLDER = Path(__file__).parent / "data"
_NAMED = re.compile(r"([a-z ]+) = (.+)")


def listed_patterns(file: str) -> list[str]:
    """The expressions of a file, in its order, with what names stand for put in."""
    names: dict[str, str] = {}
    patterns = []
    for line in (_FOLDER / file).read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("# "):
            line = re.sub("<([a-z ]+)>", lambda name: names[name[1]], line)
            if named := _NAMED.fullmatch(line):
                names[named[1]] = named[2]
            else:
                patterns.append(line)
    return patterns
