"""Where the relative paths of a run's recipe start: the folder that the command was given in, recorded with the recipe.

A recipe keeps its paths as they were written, so that neither what is computed nor the product depends on where a list
or a model lies.  A comment at its top says where they start, for commands that are given elsewhere with the run alone.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager

_COMMENT = "# relative paths start in "


def with_origin(recipe: str) -> str:
    """The YAML text of a recipe that is used in the working directory, with a comment that says so."""
    return f"{_COMMENT}{json.dumps(os.getcwd(), ensure_ascii=False)}\n{recipe}"


def origin_of(recipe: str) -> str | None:
    """The folder that the text of a stored recipe names; None if it names none, or one that is not there (any more)."""
    first = recipe.partition("\n")[0]
    try:
        folder = json.loads(first.removeprefix(_COMMENT)) if first.startswith(_COMMENT) else None
    except ValueError:
        return None
    return folder if isinstance(folder, str) and os.path.isdir(folder) else None


@contextmanager
def working_in(folder: str | None) -> Iterator[None]:
    """Work in a folder for a while; None: where we are."""
    before = os.getcwd()
    os.chdir(folder or before)
    try:
        yield
    finally:
        os.chdir(before)
