"""The recipe that a curated run was made with: `recipe.yaml`, for people to look at, and the same again.

    recipe.yaml         what counts
    recipe-copy.yaml    what counts where recipe.yaml was edited, is damaged or is gone

Both end with a digest of their lines.  A run keeps its recipe: an edit of `recipe.yaml` does not count in any command,
and each says so.  The next job keeps the edited file aside and writes the run's own recipe in its place.  Whoever wants
the edit gives the file to `pairmill curate`, which makes it the run's recipe as it does any other.
"""

from __future__ import annotations

import logging
from functools import cache
from typing import Any

from pairmill.aside import keep_aside
from pairmill.config import bytes_digest
from pairmill.damage import DamagedError, damaged
from pairmill.layout import RECIPE_COPY, RECIPE_FILE
from pairmill.run_records import record_numbers
from pairmill.store import Store
from pairmill.yaml_text import read_mapping

logger = logging.getLogger("pairmill")

#: What the last line of the file says, before the digest of the others.
_SEAL = "# edits of this file do not count until `pairmill curate` is given it; digest of the lines above: "


def sealed(recipe: str) -> str:
    """The YAML text of a recipe with its digest, as the files of a run hold it."""
    text = recipe if recipe.endswith("\n") else f"{recipe}\n"
    return f"{text}{_SEAL}{bytes_digest(text.encode())}\n"


def recipe_text(store: Store) -> str | None:
    """The YAML text of the recipe of a curated run, with its comments; None if it was not run yet.

    Raises DamagedError if neither file is as it was written.
    """
    damage = None
    for name in (RECIPE_FILE, RECIPE_COPY):
        try:
            text = read_recipe_file(store, name)
        except DamagedError as error:
            damage = damage or error
            continue
        if text is not None and name == RECIPE_COPY:
            _warn(store.path(RECIPE_FILE), damage.why if damage else "it is gone")
        if text is not None:
            return text
    if damage is not None and (store.exists(RECIPE_COPY) or record_numbers(store)):
        raise damage
    return None  # not run yet: what is there is somebody's own


def run_recipe(store: Store) -> dict[str, Any]:
    """The sections of the recipe of a curated run; none if it was not run yet.  Raises DamagedError."""
    text = recipe_text(store)
    return {} if text is None else read_mapping(text, store.path(RECIPE_FILE))


def read_recipe_file(store: Store, name: str) -> str | None:
    """The text of `RECIPE_FILE` or `RECIPE_COPY`; None if there is no such file.

    Raises DamagedError if it is not as it was written.
    """
    text = store.read_text(name)
    if text is None:
        return None
    lines, seal, check = text.rpartition(_SEAL)
    if not seal or check != f"{bytes_digest(lines.encode())}\n":
        raise damaged(store.path(name), "it was edited or damaged after it was written")
    return text


def write_recipe(store: Store, recipe: str) -> None:
    """Make the YAML text of a recipe the run's."""
    for name in (RECIPE_FILE, RECIPE_COPY):
        store.write_bytes(name, sealed(recipe).encode())


def restore_recipe(store: Store) -> None:
    """Write the run's recipe where one of its files does not hold it; an edited or damaged one is kept aside.

    The caller must hold the run's lock.
    """
    try:
        text = recipe_text(store)
    except DamagedError:
        return  # the recipe of the next job is written in their place
    if text is None:
        return
    for name in (RECIPE_FILE, RECIPE_COPY):
        try:
            there = read_recipe_file(store, name)
        except DamagedError as error:
            there = None
            keep_aside(store, name, error, "the run's own is written again")
        if there != text:
            store.write_bytes(name, text.encode(), "recipe.restore")


def keep_foreign(store: Store) -> list[str]:
    """Keep aside those files of the recipe that pairmill did not write as they are; returns where.

    For before the recipe of a job is written in their place.  The caller must hold the run's lock.
    """
    found = []
    for name in (RECIPE_FILE, RECIPE_COPY):
        try:
            read_recipe_file(store, name)
        except DamagedError as error:
            found.append(keep_aside(store, name, error, "the job's recipe is written"))
    return found


@cache
def _warn(path: str, why: str) -> None:
    """Say once in a process that the copy counts."""
    logger.warning(
        "%s: %s; what counts is the recipe that the run was made with, from %s.  For an edit to count, "
        "give the file to `pairmill curate`",
        *(path, why, RECIPE_COPY),
    )
