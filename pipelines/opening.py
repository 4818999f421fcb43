"""Open a run directory for the commands that read one."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from typing import Any


def selected_run(run: str) -> tuple[Any, str]:
    """The store of a run directory, and the selection that its recipe names.  Raises RunDirError if it holds no run."""
    import yaml

    store, text = _text(run)
    # The recipe was checked when the run was made; only one name is read here.
    section = (yaml.load(text, Loader=yaml.CSafeLoader) or {}).get("deduplicate") or {}
    return store, str(section.get("name", "default"))


def opened_run(run: str, overrides: Sequence[str] = ()) -> tuple[Any, Any]:
    """The store of a run directory, and the recipe it was run with; `run_dir` is where it is now.

    Raises RunDirError if it holds no run.
    """
    from pipelines.recipe import CurateRecipe, parse_recipe

    store, text = _text(run)
    recipe: CurateRecipe = parse_recipe(text, overrides, source=store.path("recipe.yaml"))
    return store, recipe.model_copy(update={"run_dir": store.uri})


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
