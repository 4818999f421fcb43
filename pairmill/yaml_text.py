"""Read YAML that a person wrote: plain data, no key twice, and an error that names the place.

Numbers mean what they look like.  PyYAML takes 1e-3 for a text, as it has no point; here it is a number.  What YAML 1.1
reads as a number to another base (010 is 8, 1:30 is 90) is refused.  Only `true` and `false` are truth values, as in
YAML 1.2: `language: no` is Norwegian.  A key that asks for a truth value takes the texts yes, no, on and off for one.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from pairmill.errors import RecipeError
from pairmill.layout import RECIPE_FILE
from pairmill.store import Store


def read_yaml(text: str, source: str) -> Any:
    """The data of a YAML text.  source: what it is called in messages.  Raises RecipeError if it cannot be read."""
    source = source if len(source) <= _MOST_SHOWN else f"{source[:_MOST_SHOWN]}…"
    try:
        data = yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise RecipeError(
            "the recipe must be YAML, with every key once and numbers as they look",
            value=f"{source}: {error}",
            fix="correct the line that it names",
        ) from error
    _refuse_endless(data, source)
    return data


_MOST_SHOWN = 200
_MOST_VALUES = 100_000
_DEEPEST = 100


def _refuse_endless(data: Any, source: str) -> None:
    """Raise RecipeError for data that is part of itself, or that aliases repeat without measure."""
    rest, seen = [(data, 1)], 0
    while rest:
        one, depth = rest.pop()
        seen += 1
        if depth > _DEEPEST or seen > _MOST_VALUES:
            raise RecipeError(
                f"a recipe must have at most {_MOST_VALUES:,} values and {_DEEPEST} levels, aliases written out",
                value=f"{source} has more, or an alias (*NAME) that stands within its own anchor (&NAME)",
                fix="write the values themselves instead of the aliases",
            )
        if isinstance(one, dict):
            rest += [(value, depth + 1) for value in one.values()]
        elif isinstance(one, list | tuple | set):
            rest += [(value, depth + 1) for value in one]


#: What a YAML text may be instead of a mapping, in words.
_KINDS = {type(None): "nothing", list: "a list", str: "a text", int: "a number", float: "a number", bool: "a bool"}


def read_mapping(text: str, source: str) -> dict[str, Any]:
    """The sections of a YAML text.  Raises RecipeError as `read_yaml`, and for anything but a mapping of names."""
    data = read_yaml(text, source)
    if not isinstance(data, dict):
        raise RecipeError(
            "a recipe must be a mapping of sections",
            value=f"{source} holds {_KINDS.get(type(data), f'a {type(data).__name__}')}",
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
    return {} if text is None else read_mapping(text, store.path(RECIPE_FILE))


class _Loader(_FASTEST):  # type: ignore[misc]
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if (key.tag, key.value) in seen:
                raise yaml.constructor.ConstructorError(
                    "while constructing a mapping", node.start_mark, f"the key {key.value} occurs twice", key.start_mark
                )
            seen.add((key.tag, key.value))
        found: dict[Any, Any] = super().construct_mapping(node, deep)
        return found

    def construct_number(self, node: yaml.ScalarNode) -> int | float:
        found: int | float = self.construct_yaml_int(node) if node.tag == _INT else self.construct_yaml_float(node)
        text = node.value.replace("_", "")
        if ":" in text or (_LEADING_ZERO.fullmatch(text) and int(text) != found):
            raise yaml.constructor.ConstructorError(
                None,
                None,
                f"{node.value} is the number {found} to YAML; write that, or put a text in quotes",
                node.start_mark,
            )
        return found


_INT, _FLOAT = "tag:yaml.org,2002:int", "tag:yaml.org,2002:float"
_LEADING_ZERO = re.compile(r"[-+]?0[0-9]+")
#: Numbers with an exponent that PyYAML reads as texts: without a point, or without the sign of the exponent.
_EXPONENT = re.compile(r"[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)[eE][-+]?[0-9]+\Z")

_BOOL = "tag:yaml.org,2002:bool"
#: PyYAML's rules for plain words, without its many truth values.
_Loader.yaml_implicit_resolvers = {
    first: [rule for rule in rules if rule[0] != _BOOL] for first, rules in _FASTEST.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(_BOOL, re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z"), list("tTfF"))

for _tag in (_INT, _FLOAT):
    _Loader.add_constructor(_tag, _Loader.construct_number)
_Loader.add_implicit_resolver(_FLOAT, _EXPONENT, list("-+.0123456789"))


def write_yaml(data: Any) -> str:
    """Plain data as YAML text that `read_yaml` reads back: texts that look like numbers are quoted."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


class _Dumper(yaml.SafeDumper):
    pass


_Dumper.add_implicit_resolver(_FLOAT, _EXPONENT, list("-+.0123456789"))
