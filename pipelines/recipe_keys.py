"""docs/recipe.md: every key of every recipe with its type, default and meaning, made from the recipes' own schemas.

python -m pipelines.recipe_keys docs/recipe.md       (make docs)
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pairmill.config import Config

Schema = Mapping[str, Any]

_BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
_HEAD = """# Recipe keys

Made by `make docs` from the schemas that recipes are checked by; a test holds it to them.  Any key can be set in the
recipe or as `dotted.key=value` on the command line.  `NAME` stands for a name of your own, `[]` for each entry of a
list.  Keys marked with ○ say how or where the work is done, not what comes out: changing them makes nothing stale.
"""


class Section(NamedTuple):
    """One table of the page: the keys that stand directly under `key`.

    rows: (key, type, default, meaning), in the recipe's order.
    """

    key: str
    meaning: str
    rows: list[tuple[str, str, str, str]]


def recipe_page(recipes: Mapping[str, type[Config]]) -> str:
    """The page.  recipes: command -> the recipe it takes."""
    parts = [_HEAD]
    for command, recipe in recipes.items():
        parts.append(f"## {command}\n\n{_text(recipe.__doc__ or '')}\n")
        for section in sections(recipe.model_json_schema()):
            if not section.rows:
                continue
            heading = f"### {section.key}\n\n{section.meaning}\n\n" if section.key else ""
            table = "\n".join(f"| {' | '.join(row)} |" for row in section.rows)
            parts.append(f"{heading}| key | type | default | meaning |\n|---|---|---|---|\n{table}\n")
    return "\n".join(parts)


def sections(schema: Schema) -> Iterator[Section]:
    """The tables of a recipe's schema, outer before inner."""
    yield from _sections("", "", schema, schema.get("$defs", {}), False)


def _sections(key: str, meaning: str, schema: Schema, defs: Schema, execution: bool) -> Iterator[Section]:
    """The keys of an object as one table, then a table for each object that they hold."""
    rows, inner = [], []
    required = schema.get("required", ())
    for name, field in schema.get("properties", {}).items():
        path = f"{key}.{name}" if key else name
        marked = execution or bool(field.get("execution"))
        objects = list(_objects(path, field, defs))
        inner += [(*found, marked) for found in objects]
        # A section that is nothing but a section has its own table, and no line.
        if not (objects and "$ref" in field):
            default = "required" if name in required else _default(field)
            shown = f"`{path}`{' ○' if marked else ''}"
            rows.append((shown, _cell(_type(field, defs)), _cell(default), _cell(_text(field.get("description", "")))))
    yield Section(key, meaning, rows)
    for path, found, described, marked in inner:
        yield from _sections(path, described, found, defs, marked)


def _objects(path: str, field: Schema, defs: Schema) -> Iterator[tuple[str, Schema, str]]:
    """The objects with keys of their own that a field can hold: where, their schema, what they are."""
    target = _resolved(field, defs)
    if "properties" in target:
        yield path, target, _text(field.get("description") or target.get("description", ""))
        return
    options = target.get("anyOf", [])
    # A choice by name: the names, then the keys of each (`pairmill.registry.ChosenBy`).
    names = options[0].get("enum", []) if options else []
    prefixes = (
        [f"With `name: {name}`: " for name in names]
        if names and len(names) == len(options) - 1
        else [""] * len(options)
    )
    for prefix, option in zip(prefixes, options[len(options) - len(prefixes) :], strict=True):
        for where, found, meaning in _objects(path, option, defs):
            yield where, found, (prefix if where == path else "") + meaning
    if isinstance(more := target.get("additionalProperties"), dict):
        yield from _objects(f"{path}.NAME", more, defs)
    for item in (target.get("items"), *target.get("prefixItems", ())):
        if item:
            yield from _objects(f"{path}[]", item, defs)


def _resolved(field: Schema, defs: Schema) -> Schema:
    return defs[field["$ref"].rpartition("/")[2]] if "$ref" in field else field


def _type(field: Schema, defs: Schema) -> str:
    """What a value may be, in words."""
    target = _resolved(field, defs)
    if "anyOf" in target:
        return " or ".join(dict.fromkeys(_type(option, defs) for option in target["anyOf"]))
    if "const" in target or "enum" in target:
        return ", ".join(f"`{_plain(value)}`" for value in target.get("enum", [target.get("const")]))
    kind = target.get("type")
    if kind == "array":
        if items := target.get("prefixItems"):
            return f"[{', '.join(_type(item, defs) for item in items)}]"
        least = target.get("minItems", 0)
        return f"list of {_type(target.get('items', {}), defs)}" + (f", {least} or more" if least else "")
    if kind == "object":
        more = target.get("additionalProperties")
        return f"mapping of names to {_type(more, defs)}" if isinstance(more, dict) else "mapping"
    if kind == "string":
        return "path" if target.get("format") == "path" else "string"
    limits = "".join(f" {sign} {target[name]}" for name, sign in _BOUNDS.items() if name in target)
    return {"null": "null", None: "any"}.get(kind, str(kind)) + limits


def _default(field: Schema) -> str:
    if "default" not in field:
        return ""
    return "(below)" if isinstance(field["default"], dict) and field["default"] else f"`{_plain(field['default'])}`"


def _plain(value: Any) -> str:
    return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)


def _text(text: str) -> str:
    return " ".join(text.split())


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def all_recipes() -> dict[str, type[Config]]:
    """Command -> the recipe it takes."""
    from pipelines.recipe import CurateRecipe
    from training.recipe import TrainRecipe
    from tune.recipe import SweepRecipe

    return {"pairmill curate": CurateRecipe, "pairmill train": TrainRecipe, "pairmill sweep": SweepRecipe}


def main() -> None:
    """Write the page to the file that is named."""
    Path(sys.argv[1]).write_text(recipe_page(all_recipes()), encoding="utf-8")


if __name__ == "__main__":
    main()
