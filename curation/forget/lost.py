"""The flow of a run whose own code is lost: a takedown must be possible without it.

What a lost stage made is handled as a table of a stage that is off: by the columns of its files (`blanking`).  Nothing
can say what its shards should be keyed by, so they become stale.  A job makes them again once the code is back, where a
model's results are taken over row by row (`curation.reuse`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from curation.flow import Flow, flow_of
from curation.own_stage import own_stage
from curation.stage import default_table
from curation.stages import SECTIONS, STAGES
from pairmill.errors import UserError
from pairmill.registry import load_object


class Found(NamedTuple):
    """The flow of what is there.

    lost:   import paths of the recipe that lead nowhere here, and stages that do not fit without those.
    tables: those of our own stages whose configuration names one of these.
    """

    flow: Flow
    lost: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()


def flow_of_what_is_there(recipe: Mapping[str, Any]) -> Found:
    """The flow of a recipe as far as its code can be imported here.

    Raises RecipeError for a recipe that is wrong in another way.
    """
    try:
        return Found(flow_of(recipe))
    except UserError as error:
        sections, lost = _sections(recipe)
        tables = tuple(_tables_without(recipe, sections))
        own = [_made(given) for given in recipe.get("stages") or ()]
        lost += [name for name, there in own if not there]
        if not lost:
            raise
        left = [given for given, (_, there) in zip(recipe.get("stages") or (), own, strict=True) if there]
        try:
            return Found(flow_of({**recipe, **sections, "stages": left}), tuple(lost), tables)
        except UserError:
            if not left:
                raise error from None
        # Those that are there read what those that are lost add, or follow them.
        return Found(flow_of({**recipe, **sections, "stages": []}), tuple(name for name, _ in own), tables)


def _tables_without(recipe: Mapping[str, Any], sections: Mapping[str, Any]) -> Iterator[str]:
    """The tables of our stages that are configured without lost code.  sections: those that name any, without it."""
    for name in STAGES.names:
        if STAGES.get(name).section_name() in sections:
            yield default_table(STAGES.get(name))
    for kind in map(SECTIONS.get, SECTIONS.names):
        section = kind.section_name()
        if section in sections:
            gone = (given for given in recipe[section] if given not in sections[section])
            yield from (f"columns/{kind.stage_name(given)}" for given in gone)


def _made(given: Any) -> tuple[str, bool]:
    """The import path of an entry of `stages`, and whether the stage can be made here."""
    name = given.get("name") if isinstance(given, Mapping) else given
    try:
        own_stage(given)
    except UserError:
        return str(name), False
    return str(name), True


def _sections(recipe: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The sections that cannot be used because they name lost code, without it; and the import paths of that."""
    found: dict[str, list[str]] = {}
    stages = [STAGES.get(one).section_name() for one in STAGES.names]
    chosen = [SECTIONS.get(one).section_name() for one in SECTIONS.names]
    for name in dict.fromkeys([*stages, *chosen, "selections"]):
        try:
            flow_of({name: recipe.get(name)})
        except UserError:
            found[name] = list(_lost(recipe.get(name)))
    gone = [path for paths in found.values() for path in paths]
    return {name: _without(recipe[name], set(gone)) for name, paths in found.items() if paths}, gone


def _lost(given: Any) -> Iterator[str]:
    if isinstance(given, Mapping):
        for value in given.values():
            yield from _lost(value)
    elif isinstance(given, list | tuple):
        for value in given:
            yield from _lost(value)
    elif isinstance(given, str) and _is_path(given):
        try:
            load_object(given, key="an entry of the recipe")
        except UserError:
            yield given


def _is_path(text: str) -> bool:
    module, colon, attribute = text.partition(":")
    return bool(colon) and all(part.isidentifier() for part in (*module.split("."), *attribute.split(".")))


def _without(given: Any, lost: set[str]) -> Any:
    if isinstance(given, Mapping):
        return {key: _without(value, lost) for key, value in given.items() if not _names(value, lost)}
    if isinstance(given, list | tuple):
        return [_without(value, lost) for value in given if not _names(value, lost)]
    return given


def _names(value: Any, lost: set[str]) -> bool:
    """Whether it is an import path that is lost, or the entry of one with its keys."""
    name = value.get("name") if isinstance(value, Mapping) else value
    return isinstance(name, str) and name in lost
