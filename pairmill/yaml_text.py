"""Read YAML that a person wrote: plain data, no key twice, and an error that names the place."""

from __future__ import annotations

from typing import Any

import yaml

from pairmill.errors import RecipeError
from pairmill.layout import RECIPE_FILE
from pairmill.store import Store


def read_yaml(text: str, source: str) -> Any:
    """The data of a YAML text.  source: what it is called in messages.  Raises RecipeError if it cannot be read."""
    try:
        return yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise RecipeError(
            "the recipe must be YAML, with every key once",
            value=f"{source}: {error}",
            fix="correct the line that it names",
        ) from error


def read_mapping(text: str, source: str) -> dict[str, Any]:
    """The sections of a YAML text.  Raises RecipeError as `read_yaml`, and for anything but a mapping of names."""
    data = read_yaml(text, source)
    if not isinstance(data, dict):
        raise RecipeError(
            "a recipe must be a mapping of sections",
            value=f"{source} holds a {type(data).__name__}",
            fix="start from a file in pipelines/recipes/",
        )
    if odd := [key for key in data if not isinstance(key, str)]:
        raise RecipeError(
            "the keys of a recipe must be names", value=f"{source}: {odd[0]!r}", fix="correct the key, or quote it"
        )
    return data


#: The parser in C, where PyYAML was built with it.
_FASTEST: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def stored_recipe(store: Store) -> dict[str, Any]:
    """The sections of the recipe that a run directory holds; none if it holds no recipe.  Raises as `read_mapping`."""
    text = store.read_text(RECIPE_FILE)
    return read_mapping(text, store.path(RECIPE_FILE)) if text else {}


class _Loader(_FASTEST):  # type: ignore[misc]
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.value == "<<":
                continue
            if (key.tag, key.value) in seen:
                raise yaml.constructor.ConstructorError(
                    "while constructing a mapping", node.start_mark, f"the key {key.value} occurs twice", key.start_mark
                )
            seen.add((key.tag, key.value))
        found: dict[Any, Any] = super().construct_mapping(node, deep)
        return found
