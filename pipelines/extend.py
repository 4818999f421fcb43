"""Add lists to a run: their rows follow the existing ones, and the job brings the dataset up to date."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from curation.forget.takedown import complete_pending
from curation.inputs import InputConfig
from curation.plan import extend
from curation.plan_file import Plan
from pairmill.errors import InputError, RecipeError, UserError
from pairmill.store import Store
from pipelines.recipe import CurateRecipe


def extend_plan(
    store: Store, recipe: CurateRecipe, paths: Sequence[str], changes: Mapping[str, Any]
) -> tuple[Plan, list[str]]:
    """The plan with these lists, and the files that were added; nothing is fetched.

    recipe:  that of the run.
    changes: keys of its section `input` that differ for these lists (`url_column`, `format`, …).
    Raises InputError for a list that cannot be read, RunDirError if the run is in use.
    """
    complete_pending(store)
    try:
        inputs = InputConfig.checked(recipe.input.model_dump() | dict(changes), at="input")
        return extend(store, paths, inputs, recipe.shards)
    except (InputError, RecipeError) as error:
        raise _in_arguments(error) from error


#: What the command calls the keys of `input`.
_ARGUMENTS = {
    "input.path": "the argument INPUTS",
    "input.url_column": "--url-column",
    "input.text_column": "--text-column",
    "input.format": "--format",
    "input.quoting": "--quoting",
    "input.bad_files": "--bad-files",
}


def _in_arguments(error: UserError) -> UserError:
    """The error, with the command's arguments in place of keys of the recipe."""
    parts = [error.rule, str(error.value), error.fix]
    for key, argument in _ARGUMENTS.items():
        parts = [part.replace(key, argument) for part in parts]
    return InputError(parts[0], value=parts[1], fix=parts[2])


def extend_run(
    store: Store,
    recipe: CurateRecipe,
    paths: Sequence[str],
    changes: Mapping[str, Any],
    *,
    command: str = "",
    quiet: bool = False,
    yes: bool = False,
    other_code: bool = False,
) -> dict[str, Any]:
    """`extend_plan`, then the job; returns its report.  Killed anywhere, the same call completes it.

    yes, other_code: as of `curate`.  Raises as `extend_plan` and `curate`.
    """
    extend_plan(store, recipe, paths, changes)
    # Imported after planning: the imports take longer than refusing an unreadable list.
    from pipelines.curate import curate

    return curate(recipe, command=command, quiet=quiet, planned=True, yes=yes, other_code=other_code)
