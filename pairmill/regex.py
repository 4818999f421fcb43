"""Regular expressions that are compiled when they are first used.

Modules that declare stages are imported wherever a recipe is read, and compiling their expressions is a large part of
what that import costs.
"""

from __future__ import annotations

import re
from typing import Any, cast


class _Later:
    def __init__(self, pattern: str, flags: int) -> None:
        self._source = pattern, flags

    def __getattr__(self, name: str) -> Any:
        """An attribute of the compiled expression; it is kept, so that only its first use takes this way."""
        found = getattr(re.compile(*self._source), name)
        setattr(self, name, found)
        return found


def compile_later(pattern: str, flags: int = 0) -> re.Pattern[str]:
    """What `re.compile` returns, compiled when one of its methods is first used.

    An error in the expression shows then, as `re.error`.
    """
    return cast("re.Pattern[str]", _Later(pattern, int(flags)))
