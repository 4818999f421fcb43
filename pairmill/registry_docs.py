"""Registries as Markdown: every entry with its docstring and the keys of its own configuration.

Pages that show registries are generated, so that they say what the code says.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from pairmill.registry import Registry

#: Everyday names of JSON schema's types.
_TYPES = {"boolean": "true or false", "array": "list", "object": "mapping", "string": "text"}
_LIMITS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<", "pattern": "like"}


def render(registry: Registry[Any], title: str, more: Callable[[Any], str] | None = None) -> str:
    """The section of a registry: its key, then each entry in the order of registration.  Imports every entry.

    An entry is documented by its docstring; the keys are the fields of its attribute `Config`, if it has one, without
    `name`.  more: further Markdown about an entry.
    """
    entries = "\n\n".join(_entry(name, registry.get(name), more) for name in registry.names)
    choice = "one of these names, or the import path `package.module:attribute` of your own"
    return f"## {title}\n\nKey `{registry.key}`: {choice}.\n\n{entries}\n"


def _entry(name: str, entry: Any, more: Callable[[Any], str] | None) -> str:
    parts = [f"### `{name}`", inspect.getdoc(entry) or "", _keys(getattr(entry, "Config", None))]
    parts += [more(entry)] if more is not None else []
    return "\n\n".join(part for part in parts if part)


def _keys(config: type[BaseModel] | None) -> str:
    """A table of the keys of a configuration; nothing if there are none."""
    if config is None or not config.model_fields.keys() - {"name"}:
        return ""
    schema = config.model_json_schema()
    lines = ["| key | value | default | meaning |", "|---|---|---|---|"]
    for name, field in config.model_fields.items():
        if name == "name":
            continue
        default = "required"
        if not field.is_required():
            given = field.get_default(call_default_factory=True)
            default = f"`{_spelled(given)}`" if given is not PydanticUndefined else ""
        value = _form(schema["properties"][name], schema.get("$defs", {}))
        cells = (f"`{name}`", value, default, field.description or "")
        lines.append("| " + " | ".join(cell.replace("|", r"\|").replace("\n", " ") for cell in cells) + " |")
    return "\n".join(lines)


def _form(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    """The values that a schema allows, in words."""
    if "$ref" in schema:
        return _form(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_form(one, definitions) for one in schema["anyOf"]))
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    kind = str(schema.get("type", "any"))
    form = _TYPES.get(kind, kind)
    if kind == "array" and isinstance(items := schema.get("items"), Mapping):
        form = f"list of {_form(items, definitions)}"
    elif kind == "array" and (places := schema.get("prefixItems")):
        form = f"list of {len(places)}: " + ", ".join(_form(place, definitions) for place in places)
    limits = [f"{sign} `{schema[key]}`" for key, sign in _LIMITS.items() if key in schema]
    return " ".join([form, *limits])


def _spelled(value: object) -> str:
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    return json.dumps(value, ensure_ascii=False, default=str)
