"""Open a run directory for the commands that read one."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Any


def selected_run(run: str) -> tuple[Any, str]:
    """The store of a run directory, and the selection that its recipe names.  Raises RunDirError if it holds no run."""
    from pairmill.layout import RECIPE_FILE
    from pairmill.yaml_text import read_mapping

    store, text = _text(run)
    # The recipe was checked when the run was made; only two names are read here.
    recipe = read_mapping(text, store.path(RECIPE_FILE))
    names = [of.get(key) for section, key in _NAMING if isinstance(of := recipe.get(section), dict)]
    return store, next((str(name) for name in names if name), "default")


#: The keys that may name the selection of the product, the first that is set counts.
_NAMING = (("pack", "selection"), ("deduplicate", "name"))


def opened_run(run: str, overrides: Sequence[str] = ()) -> tuple[Any, Any]:
    """The store of a run directory, and the recipe it was run with; `run_dir` is where it is now.

    From here on this process works where the recipe's relative paths start, so paths of the command must be absolute.
    Raises RunDirError if it holds no run.
    """
    from pairmill.layout import RECIPE_FILE
    from pairmill.origin import origin_of
    from pipelines.recipe import CurateRecipe, parse_recipe

    store, text = _text(run)
    given = [_from_here(override) for override in overrides]
    os.chdir(origin_of(text) or ".")
    recipe: CurateRecipe = parse_recipe(text, given, source=store.path(RECIPE_FILE))
    return store, recipe.model_copy(update={"run_dir": store.uri})


def _from_here(override: str) -> str:
    """An override, its path starting in the folder that the command is given in."""
    key, _, value = override.partition("=")
    if key.strip() == "download.hash_blocklist" and os.path.exists(value.strip()):
        return f"{key}={os.path.abspath(value.strip())}"
    return override


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


def local_target(to: Path) -> Path:
    """The place that `--to` names.  Raises UserError for an address of another place, such as s3://…."""
    from pairmill.uris import local_path

    return local_path(to, "--to")


def check_suffix(to: Path, suffix: str) -> None:
    """Raise UserError for a file to write whose name does not end as its format asks."""
    from pairmill.errors import UserError

    if to.suffix.lower() != suffix:
        raise UserError(f"--to must end in {suffix}", value=to, fix=f"give {to.with_suffix(suffix)}")


def check_outside(store: Any, to: Path) -> None:
    """Raise UserError for a file or folder to write that lies inside the run: it would mix with the run's own."""
    from pairmill.errors import UserError

    if "://" not in store.uri and to.resolve().is_relative_to(Path(store.uri).resolve()):
        raise UserError("--to must lead outside the run", value=to, fix="give a path outside of it")


def run_to_fit(run: str, to: Path) -> tuple[Any, Any, Path]:
    """What `opened_run` gives, and the .safetensors file that a head fitted to the run is written to, absolute.

    Raises RunDirError if there is no run, and UserError for a file of another ending or inside the run.
    """
    file = local_target(to).absolute()
    check_suffix(file, ".safetensors")
    store, _ = selected_run(run)
    check_outside(store, file)
    store, recipe = opened_run(run)
    return store, recipe, file


def given_recipe(recipe: Path | None, example: str) -> Path:
    """The recipe's file, which is not needed for a schema.  Raises RecipeError if there is none."""
    from pairmill.errors import RecipeError

    if recipe is None:
        raise RecipeError(
            "RECIPE must be given", value="nothing", fix=f"name a file, for example pipelines/recipes/{example}.yaml"
        )
    return recipe


def without_pandas() -> None:
    """Prevent the import of pandas in commands that only read a run: it takes longer than their work.

    pyarrow imports pandas, if it is installed, to recognise its objects among the values it is given.  There are none.
    """
    sys.meta_path.insert(0, _NoPandas())


def holds_curation(store: Any) -> bool:
    """Whether a run directory is that of a curation, planned at least, even if its plan is gone."""
    from pairmill.layout import PLAN_COPY, PLAN_JSON, RECIPE_COPY
    from pairmill.store import MANIFESTS

    there = any(store.exists(name) for name in (PLAN_JSON, PLAN_COPY, RECIPE_COPY))
    return there or any(MANIFESTS in store.folders(table) for table in ("plan", "images"))


#: What `pairmill export` writes of a curated run, and of a model.
DATASET_FORMATS = ("webdataset", "img2dataset")
MODEL_FORMATS = ("open_clip", "huggingface")


def check_format(what: str, form: str) -> None:
    """Raise UserError for an unknown format, and for one of models where `what` is a curated run, or the reverse."""
    from pairmill.errors import UserError
    from pairmill.store import Store

    if form not in (*DATASET_FORMATS, *MODEL_FORMATS):
        names = ", ".join((*DATASET_FORMATS, *MODEL_FORMATS))
        raise UserError(f"--format must be one of {names}", value=form, fix="choose one of them")
    store = Store(what)
    if holds_curation(store):
        kind, formats = "curated run", DATASET_FORMATS
    elif form in DATASET_FORMATS and _holds_model(store):
        kind, formats = "model", MODEL_FORMATS
    else:
        return  # what it is, if anything, is checked where it is opened
    if form not in formats:
        raise UserError(
            f"--format of a {kind} must be one of {', '.join(formats)}",
            value=f"{form}, but {what} is a {kind}",
            fix="choose one of them, or correct the path",
        )


def _holds_model(store: Any) -> bool:
    """Whether a folder is a model or a training run; imports torch."""
    from pairmill.towers.architecture import CONFIG_FILE
    from training.intact import RESULT_FILE

    return any(store.read_text(name) is not None for name in (CONFIG_FILE, RESULT_FILE))


class _NoPandas(MetaPathFinder):
    def find_spec(self, fullname: str, path: object = None, target: object = None) -> None:
        if fullname == "pandas":
            raise ModuleNotFoundError("pandas is not needed here", name=fullname)


def _text(run: str) -> tuple[Any, str]:
    """The store of a run directory, and its recipe.yaml."""
    from pairmill.errors import RunDirError
    from pairmill.recipe_file import recipe_text
    from pairmill.store import Store

    store = Store(run)
    text = recipe_text(store)
    if text is None:
        planned = holds_curation(store)
        raise RunDirError(
            "the run directory must hold the recipe it was run with",
            value=f"{run} is planned, but has not been run yet" if planned else f"{run} has no recipe.yaml",
            fix="run `pairmill curate` with its recipe first" if planned else "give the run_dir of a `pairmill curate`",
        )
    return store, text
