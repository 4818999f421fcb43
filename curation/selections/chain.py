"""The selections of a recipe as a whole: each after those that it is made from, with everything checked that can be."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from curation.filters.syntax import Source, parse
from curation.selections.config import SelectionConfig
from curation.selections.expression import ALL, NAME, WORDS, names_of, parse_names
from pairmill.errors import RecipeError, nearest


def ordered(selections: Mapping[str, SelectionConfig], given: Iterable[str]) -> list[str]:
    """The names of the selections, each after those that it is made from; the order of the mapping plays no part.

    given: selections that exist beside these, besides `all`: the deduplicate section's.
    Raises RecipeError for a name that is taken, an expression that is none, an unknown selection, and a circle.
    """
    there = list(given)
    for name in sorted(selections):
        _check_name(name, there)
    bases = {name: bases_of(name, selections[name]) for name in sorted(selections)}
    known = [ALL, *there, *selections]
    for name, needed in bases.items():
        _check_expressions(name, selections[name])
        for base in needed:
            if base not in known:
                raise RecipeError(
                    f"selections.{name}.from must name selections of the recipe",
                    value=base,
                    fix=f"perhaps you mean: {nearest(base, known)}",
                )
    order: dict[str, None] = {}
    for name in bases:
        if name not in order:
            _place(name, bases, order)
    return list(order)


def bases_of(name: str, config: SelectionConfig) -> list[str]:
    """The selections that one is made from.  Raises RecipeError for an expression that is none."""
    return names_of(parse_names(config.source, f"selections.{name}.from"))


def expressions_of(name: str, config: SelectionConfig) -> dict[str, Source]:
    """The expressions over columns of a selection, by their key within it."""
    at = f"selections.{name}"
    over_all = {"where": config.where, "weight": config.weight if isinstance(config.weight, str) else None}
    of_one: dict[str, str | None] = {}
    for key, rule in (("quota", config.quota), ("top", config.top)):
        if rule is not None:
            of_one |= {f"{key}.per": rule.per, f"{key}.by": rule.by}
    if config.skew is not None:
        of_one |= {f"weight.{key}": getattr(config.skew, key) for key in ("of", "per", "by")}
    of_one = {key: "host(url)" if key.endswith(".per") and text == "host" else text for key, text in of_one.items()}
    found = {key: Source(text, f"{at}.{key}", population=True) for key, text in over_all.items() if text is not None}
    return found | {key: Source(text, f"{at}.{key}") for key, text in of_one.items() if text is not None}


def _check_name(name: str, there: list[str]) -> None:
    if not re.fullmatch(NAME, name) or len(name) > 64:
        raise RecipeError(
            "selections must have names of letters, digits, _ and -, 64 at most", value=repr(name), fix="rename it"
        )
    if name in (*WORDS, ALL, *there):
        what = {ALL: "every row that no stage dropped"} | dict.fromkeys(WORDS, "a word of expressions")
        meant = what.get(name, "the deduplicate section's selection")
        raise RecipeError(f"selections.{name} must have another name: {name} is {meant}", value=name, fix="rename it")


def _check_expressions(name: str, config: SelectionConfig) -> None:
    for source in expressions_of(name, config).values():
        parse(source)


def _place(name: str, bases: Mapping[str, list[str]], order: dict[str, None]) -> None:
    """Put a selection behind those that it is made from, however long the chain of them is."""
    # The selections above, each with those of its bases that are still to be looked at.
    above = {name: iter(sorted(bases[name]))}
    while above:
        last = next(reversed(above))
        base = next((one for one in above[last] if one in bases and one not in order), None)
        if base is None:
            above.popitem()
            order[last] = None
        elif base in above:
            names = list(above)
            circle = [*names[names.index(base) :], base]
            raise RecipeError(
                "selections must not be made from themselves",
                value=" -> ".join(circle),
                fix="take one of them out of `from`",
            )
        else:
            above[base] = iter(sorted(bases[base]))
