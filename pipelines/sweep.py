"""`pairmill sweep`: read the recipe, make the selections it compares, and call tune."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from curation.selections.config import SelectionConfig
from pairmill.config import put
from pairmill.errors import InputError, RecipeError
from pairmill.origin import origin_of, working_in
from pairmill.recipe_file import recipe_text
from pairmill.store import Store
from pairmill.uris import absolute
from pipelines.recipe import CurateRecipe, parse_override, parse_recipe, read_mapping
from pipelines.selecting import from_here, select_in
from tune.check import check
from tune.recipe import SweepRecipe
from tune.space import value_at


def load_sweep(path: Path, overrides: Sequence[str] = ()) -> SweepRecipe:
    """The recipe of a sweep; `base` names a training recipe beside it, and keys of `train` replace its keys.

    Raises RecipeError as `load_recipe` does.
    """
    # A key of the space has dots of its own: space.optim.lr={…} sets `optim.lr` of the space.
    of_space = [override for override in overrides if override.startswith("space.")]
    data = read_mapping(path, [override for override in overrides if override not in of_space])
    for override in of_space:
        key, value = parse_override(override)
        put(data, "space", {**(data.get("space") or {}), key.removeprefix("space."): value})
    base = data.pop("base", None)
    if base is not None:
        changes = data.get("train") or {}
        if not isinstance(changes, dict):
            raise RecipeError("train must be a section", value=changes, fix="give keys of the training recipe in it")
        data["train"] = _merged(read_mapping(path.parent / str(base)), changes)
    if isinstance(data.get("train"), dict):
        for given in ("run_dir", "name"):
            data["train"].pop(given, None)  # each trial has its own
    return SweepRecipe.checked(data)


def run_sweep(recipe: SweepRecipe, *, command: str = "", quiet: bool = False, resume: bool = False) -> dict[str, Any]:
    """Make the missing selections, then `tune.sweep.sweep`."""
    check(recipe)
    # Imported after the check: the imports take longer than refusing a wrong recipe.
    from tune.sweep import claim, sweep

    claim(recipe, resume=resume)

    def first() -> None:
        if recipe.selections:
            make_selections(recipe, command=command, quiet=quiet)

    return sweep(recipe, quiet=quiet, first=first)


def make_selections(recipe: SweepRecipe, *, command: str = "", quiet: bool = False) -> dict[str, int]:
    """Rows that each of the recipe's selections keeps, by name; nothing is fetched and no pixels are written.

    Raises InputError if train.data.path is not a curated run, RecipeError if a selection changes more than its filters
    and its deduplication, and has no rules of its own.
    """
    run_dir = absolute(str(value_at(recipe.base, "data.path")))
    text = recipe_text(Store(run_dir))
    if text is None:
        raise InputError(
            "train.data.path must be the run_dir of a curated run for `selections`",
            value=run_dir,
            fix="run `pairmill curate` (or `pairmill demo`) first",
        )
    given = {name: from_here(settings) for name, settings in recipe.selections.items() if _is_rules(settings)}
    kept = {}
    for name, settings in recipe.selections.items():
        if name not in given and isinstance(settings, dict):
            kept[name] = _by_filters(name, settings, text, run_dir, command=command, quiet=quiet)
    if given:
        with working_in(origin_of(text)):
            of_run = parse_recipe(text, kind=CurateRecipe, source=f"{run_dir}/recipe.yaml")
            of_run = of_run.model_copy(update={"run_dir": run_dir})
            kept |= select_in(of_run, given, command=command, quiet=quiet)
    return {name: kept[name] for name in recipe.selections}


def _is_rules(settings: Any) -> bool:
    """Whether a selection is one of rules, as in the curation recipe's own section, and not of other keys of it."""
    rules = SelectionConfig.model_fields.keys()
    return isinstance(settings, str) or any(key.partition(".")[0] in rules for key in settings)


def _by_filters(name: str, settings: Mapping[str, Any], text: str, run_dir: str, *, command: str, quiet: bool) -> int:
    """Make a selection by filters and a deduplication of its own.  text: the run's recipe."""
    from pipelines.curate import select

    for key in settings:
        if key.partition(".")[0] not in ("filter", "deduplicate") or key == "deduplicate.name":
            raise RecipeError(
                "a selection must change keys of filter and deduplicate only, or have rules of its own; others would "
                "fetch or write pixels",
                value=f"selections.{name}: {key}",
                fix="change the key in the curation recipe, and curate into another run_dir",
            )
    curated = parse_recipe(text, kind=CurateRecipe, source=f"{run_dir}/recipe.yaml").model_dump(mode="json")
    if name in (curated["deduplicate"]["name"], *curated["selections"]):
        raise RecipeError(
            "a selection must have another name than those of the curated run's recipe",
            value=f"selections.{name}",
            fix="choose another name",
        )
    for key, value in {**settings, "run_dir": run_dir, "deduplicate.name": name, **_NO_OTHERS}.items():
        put(curated, key, value)
    checked = CurateRecipe.checked(curated)
    with working_in(origin_of(text)):
        return select(checked, command=command, quiet=quiet)


#: A recipe that makes one selection by its filters and its deduplication alone.
_NO_OTHERS: Mapping[str, Any] = {"selections": {}, "pack.selection": None}


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`above` over `below`, section by section."""
    merged = dict(below)
    for key, value in above.items():
        inner = merged.get(key)
        merged[key] = _merged(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
    return merged
