"""Registries as Markdown: every entry with its docstring and the keys of its own configuration.

Pages that show registries are generated, so that they say what the code says.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel

from pairmill.registry import Registry
from pairmill.schema_words import default, row, values


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
    required, definitions = schema.get("required", ()), schema.get("$defs", {})
    lines = ["| key | value | default | meaning |", "|---|---|---|---|"]
    for name, key in schema["properties"].items():
        if name != "name":
            given = default(key, required=name in required)
            lines.append(row(f"`{name}`", values(key, definitions), given, key.get("description", "")))
    return "\n".join(lines)
