"""Open a run directory for the commands that read one."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Any


def selected_run(run: str) -> tuple[Any, str]:
    """The store of a run directory, and the selection that its recipe names.  Raises RunDirError if it holds no run."""
    from pairmill.yaml_text import read_mapping

    store, text = _text(run)
    # The recipe was checked when the run was made; only one name is read here.
    section = read_mapping(text, store.path("recipe.yaml")).get("deduplicate")
    return store, str(section.get("name", "default")) if isinstance(section, dict) else "default"


def opened_run(run: str, overrides: Sequence[str] = ()) -> tuple[Any, Any]:
    """The store of a run directory, and the recipe it was run with; `run_dir` is where it is now.

    Raises RunDirError if it holds no run.
    """
    from pipelines.recipe import CurateRecipe, parse_recipe

    store, text = _text(run)
    recipe: CurateRecipe = parse_recipe(text, overrides, source=store.path("recipe.yaml"))
    return store, recipe.model_copy(update={"run_dir": store.uri})


#: The keys that may permit more, or say where the work is done.
_RETRIED = ("download.", "image.max_", "cluster.")


def check_retried(overrides: Sequence[str]) -> None:
    """Raise RecipeError for an override that is not about which failed or refused rows are fetched again."""
    from pairmill.errors import RecipeError

    for override in overrides:
        if not override.strip().startswith(_RETRIED):
            raise RecipeError(
                "overrides of `retry-failed` must be keys of download, cluster or image.max_*",
                value=override or "''",
                fix="change other keys in the recipe, and run `pairmill curate`",
            )


def check_outside(store: Any, to: Path) -> None:
    """Raise UserError for a file or folder to write that lies inside the run: it would mix with the run's own."""
    from pairmill.errors import UserError

    if "://" not in store.uri and to.resolve().is_relative_to(Path(store.uri).resolve()):
        raise UserError("--to must lead outside the run", value=to, fix="give a path outside of it")


def without_pandas() -> None:
    """Prevent the import of pandas in commands that only read a run: it takes longer than their work.

    pyarrow imports pandas, if it is installed, to recognise its objects among the values it is given.  There are none.
    """
    sys.meta_path.insert(0, _NoPandas())


class _NoPandas(MetaPathFinder):
    def find_spec(self, fullname: str, path: object = None, target: object = None) -> None:
        if fullname == "pandas":
            raise ModuleNotFoundError("pandas is not needed here", name=fullname)


def _text(run: str) -> tuple[Any, str]:
    """The store of a run directory, and its recipe.yaml."""
    from pairmill.errors import RunDirError
    from pairmill.store import Store

    store = Store(run)
    text = store.read_text("recipe.yaml")
    if text is None:
        raise RunDirError(
            "the run directory must hold the recipe it was run with",
            value=f"{run} has no recipe.yaml",
            fix="give the run_dir of a `pairmill curate`",
        )
    return store, text
