"""The JSON schema of a configuration in words, for the pages that are generated from it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

Schema = Mapping[str, Any]

#: Everyday names of JSON schema's types.
_TYPES = {"boolean": "true or false", "array": "list", "object": "mapping", "string": "text"}
_LIMITS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<", "pattern": "like"}


def values(schema: Schema, definitions: Schema) -> str:
    """The values that a schema allows.  definitions: the `$defs` of the schema it is part of."""
    schema = resolved(schema, definitions)
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(values(one, definitions) for one in schema["anyOf"]))
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{plain(value)}`" for value in schema.get("enum", [schema.get("const")]))
    kind = schema.get("type", "any")
    limits = "".join(f" {sign} `{schema[key]}`" for key, sign in _LIMITS.items() if key in schema)
    return _form(kind, schema, definitions) + limits


def default(schema: Schema, *, required: bool) -> str:
    """The default of a key, or that it must be set."""
    return "required" if required else f"`{plain(schema['default'])}`" if "default" in schema else ""


def plain(value: object) -> str:
    """A value of plain data as a recipe may hold it."""
    return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)


def row(*cells: str) -> str:
    """A row of a Markdown table."""
    return "| " + " | ".join(" ".join(cell.split()).replace("|", r"\|") for cell in cells) + " |"


def resolved(schema: Schema, definitions: Schema) -> Schema:
    """The schema that a reference leads to; any other as it is."""
    return definitions[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema


def _form(kind: str, schema: Schema, definitions: Schema) -> str:
    if kind == "array" and (places := schema.get("prefixItems")):
        return f"list of {len(places)}: " + ", ".join(values(place, definitions) for place in places)
    if kind == "array" and (items := schema.get("items")):
        least = schema.get("minItems", 0)
        return f"list of {values(items, definitions)}" + (f", {least} or more" if least else "")
    if kind == "object" and isinstance(more := schema.get("additionalProperties"), Mapping):
        return f"mapping of names to {values(more, definitions)}"
    if kind == "string" and schema.get("format") == "path":
        return "path"
    return _TYPES.get(kind, kind)
