"""`pairmill select`: further selections of a curated run, by the rules of a recipe; the product stays as it is."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from curation.selections.chain import ordered
from curation.selections.config import Section, SelectionConfig
from curation.selections.selected_tables import selected_table
from curation.selections.steps import Rules
from pairmill.errors import RecipeError, RunDirError
from pairmill.layout import SELECTIONS, filter_table, kept_rows
from pairmill.store import Store
from pairmill.uris import absolute
from pipelines.recipe import CurateRecipe, parse_override, read_mapping


def load_selections(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The section `selections` of a recipe, with overrides of it.  Raises RecipeError as `load_recipe` does."""
    for override in overrides:
        if parse_override(override)[0].partition(".")[0] != "selections":
            raise RecipeError(
                "overrides of `select` must be keys of selections: others would fetch, or write pixels",
                value=override,
                fix="change the key in the curation recipe, and run `pairmill curate`",
            )
    section = read_mapping(path, overrides).get("selections")
    if not isinstance(section, dict) or not section:
        raise RecipeError(
            "the recipe of `select` must have a section selections",
            value=f"{path}: {section!r}",
            fix="write selections: {NAME: {where: …}}",
        )
    return {name: from_here(given) for name, given in section.items()}


def from_here(given: Any) -> Any:
    """A selection, the paths of its files starting in the folder that the command is given in."""
    if not isinstance(given, dict):
        return given
    found = dict(given)
    if isinstance(path := given.get("uids"), str):
        found["uids"] = os.path.abspath(path)
    if isinstance(balance := given.get("balance"), dict) and isinstance(path := balance.get("metadata"), str):
        found["balance"] = {**balance, "metadata": os.path.abspath(path)}
    if isinstance(against := given.get("against"), dict):
        found["against"] = {name: _run_from_here(one) for name, one in against.items()}
    return found


def _run_from_here(given: Any) -> Any:
    if isinstance(given, str):
        return absolute(given)
    run = given.get("run") if isinstance(given, dict) else None
    return {**given, "run": absolute(run)} if isinstance(run, str) else given


def _absolute(config: SelectionConfig) -> SelectionConfig:
    """The same with absolute paths, those of a run's recipe starting in its folder: the command works there."""
    update: dict[str, Any] = {}
    if config.uids is not None:
        update["uids"] = Path(os.path.abspath(config.uids))
    if config.balance is not None:
        file = Path(os.path.abspath(config.balance.metadata))
        update["balance"] = config.balance.model_copy(update={"metadata": file})
    if config.against:
        update["against"] = {
            name: one.model_copy(update={"run": absolute(one.run)}) for name, one in config.against.items()
        }
    return config.model_copy(update=update)


def rules_to_make(recipe: CurateRecipe, section: Mapping[str, Any], store: Store) -> list[Rules]:
    """The rules of a section, each after its bases, which may be selections of the run's recipe, and others there are.

    This process must work where relative paths of the run's recipe start.

    Raises RecipeError for a rule that is none, and for a name that stands for something else in the run.
    """
    own: Mapping[str, SelectionConfig] = recipe.selections
    given = Section.checked({"selections": section}).selections
    for name, config in given.items():
        if name in own and _absolute(own[name]) != _absolute(config):
            raise RecipeError(
                f"selections.{name} must be as in the run's own recipe, which has it too",
                value=name,
                fix="choose another name, or change it in the recipe and run `pairmill curate`",
            )
        if store.holds(filter_table(name)):
            raise RecipeError(
                f"selections.{name} must have another name than a selection that was made by filters of its own",
                value=name,
                fix="choose another name",
            )
    whole = {**own, **given}
    there = [name for name in store.folders(SELECTIONS) if name not in whole]
    names = ordered(whole, dict.fromkeys([recipe.deduplicate.name, *there]))
    rules = {name: Rules(name, whole[name]) for name in names}
    needed: set[str] = set()
    pending = list(given)
    while pending:
        name = pending.pop()
        if name in rules and name not in needed:
            needed.add(name)
            pending += rules[name].bases
    return [rules[name] for name in names if name in needed]


def select_in(
    recipe: CurateRecipe, section: Mapping[str, Any], *, command: str = "", quiet: bool = False
) -> dict[str, int]:
    """Make the selections of a section in a curated run; rows that each keeps, by name.

    recipe: the run's.  section: plain data.  Nothing is fetched, computed by a model, or packed.
    Raises UserError for wrong rules and a run that is not curated so far, JobError as `curate` does.
    """
    store = Store(recipe.run_dir)
    rules = rules_to_make(recipe, section, store)
    # Ray takes seconds to import.
    from pipelines.curate import select_rules

    select_rules(recipe, rules, command=command, quiet=quiet)
    return {
        one.name: sum(kept_rows(manifest) for manifest in store.manifests(f"{SELECTIONS}/{one.name}")) for one in rules
    }


def require_curated(store: Store, tables: Any, rules: Sequence[Rules], shards: Sequence[int]) -> None:
    """Raise RunDirError if a table that rules read is not complete yet.  tables: `Job.plain`."""
    made = {f"{SELECTIONS}/{one.name}" for one in rules}
    read = dict.fromkeys(name for one in rules for name in selected_table(tables, one).table.upstream)
    for name in read:
        if name not in made and (missing := len(set(shards) - store.index(name).keys())):
            raise RunDirError(
                "a run must be curated as far as its selections read it",
                value=f"{missing} of {len(shards)} shards of {store.uri} lack {name}",
                fix="run `pairmill curate` again: it makes what is missing",
            )
