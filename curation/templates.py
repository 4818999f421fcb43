"""Prompts with a row's columns in them.

    Describe the picture in one sentence.
    Its alt text: {caption}
    What it shows as text: {words_text}
    Its concepts: {input.concepts}

`{NAME}` is a column that the row has by then: of the alt text (caption, language, text_quality), scores, what an OCR
head read, and of a user's own stages.  `{input.NAME}` is a column of the list.  `{recaptions}` are all descriptions
that the stage `recaption` wrote, `{recaptions.tags}` its texts of that kind.  A list has commas between its texts, or a
line for each where it holds texts with provenance; a score has three digits.  `{{NAME}}` stands for `{NAME}` itself,
and any other brace for itself.

Of a prompt of several lines, a line whose columns are all empty is left out.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

import pyarrow as pa

from pairmill.errors import RecipeError, nearest
from pairmill.layout import OTHER_KINDS, PROMPT_KINDS

#: What a column of the list is called in a template, before its name.
INPUT = "input."

_NAME = r"[A-Za-z_][A-Za-z0-9_]*(?:\.[^{}\n]+)?"
_PLACE = re.compile(rf"\{{\{{(?P<literal>{_NAME})\}}\}}|\{{(?P<name>{_NAME})\}}")


class Template:
    """A prompt, as the recipe has it."""

    def __init__(self, text: str) -> None:
        self.text = text
        #: What stands in braces, in order.
        self.names = tuple(dict.fromkeys(found["name"] for found in _PLACE.finditer(text) if found["name"]))

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that it is filled from; those of the list with `input.` before their names."""
        return tuple(dict.fromkeys(map(column_of, self.names)))

    def check_names(self, where: str, known: Collection[str]) -> None:
        """Raise RecipeError for a column that is neither of the list nor one of `known`.  where: what names it."""
        for name in self.names:
            if not name.startswith(INPUT) and column_of(name) not in known:
                raise _unknown(where, name, known)

    def check_types(self, where: str, columns: Mapping[str, pa.DataType]) -> None:
        """Raise RecipeError for a column that the list lacks, or whose values are no words.

        columns: that a row has by then, with their types; those of the list with `input.` before their names.
        """
        for name in self.names:
            column = column_of(name)
            if column not in columns:
                raise _unknown(where, name, columns)
            kind = columns[column]
            if not _has_words(kind):
                raise RecipeError(
                    f"{where} must name columns of texts, numbers or lists of texts",
                    value=f"{{{name}}} is {kind}",
                    fix="name another column",
                )
            if name != column and not (_holds(kind, "kind") and _part(name) in PROMPT_KINDS):
                known = [f"{column}.{one}" for one in PROMPT_KINDS] if _holds(kind, "kind") else [column]
                raise _unknown(where, name, known)

    def filled(self, values: Mapping[str, Any]) -> str:
        """The prompt for a row.  values: of `columns`; a missing one is empty."""
        lines = self.text.split("\n")
        kept = lines if len(lines) == 1 else [line for line in lines if _has_something(line, values)]
        return "\n".join(_PLACE.sub(lambda found: _put(found, values), line) for line in kept)


def column_of(name: str) -> str:
    """The column that a name in braces is about."""
    return name if name.startswith(INPUT) else name.partition(".")[0]


def texts_of(name: str, values: Mapping[str, Any]) -> list[int]:
    """Of a column of texts with provenance, the places of those that a name in braces stands for."""
    made = values.get(column_of(name)) or ()
    return [at for at, one in enumerate(made) if (one["text"] or "").strip() and _is_meant(name, one.get("kind"))]


def _is_meant(name: str, kind: str | None) -> bool:
    """Whether a text of a kind is one of those that a name stands for: of one kind, or the descriptions."""
    return kind == _part(name) if name != column_of(name) else kind not in OTHER_KINDS


def _part(name: str) -> str:
    return name.partition(".")[2]


def _unknown(where: str, name: str, known: Collection[str]) -> RecipeError:
    return RecipeError(
        f"{where} must name columns that a row has by then",
        value=f"{{{name}}}",
        fix=f"perhaps you mean: {nearest(name, known)}; {{{{{name}}}}} stands for the braces themselves",
    )


def _has_words(kind: pa.DataType) -> bool:
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _is_text(kind.value_type) or _holds(kind, "text")
    known = (pa.types.is_boolean, pa.types.is_integer, pa.types.is_floating, pa.types.is_temporal, pa.types.is_null)
    return _is_text(kind) or any(is_of(kind) for is_of in known)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _holds(kind: pa.DataType, field: str) -> bool:
    """Whether a column has lists of structs with this field."""
    return bool(
        (pa.types.is_list(kind) or pa.types.is_large_list(kind))
        and pa.types.is_struct(kind.value_type)
        and kind.value_type.get_field_index(field) >= 0
    )


def _has_something(line: str, values: Mapping[str, Any]) -> bool:
    names = [found["name"] for found in _PLACE.finditer(line) if found["name"]]
    return not names or any(_words(name, values) for name in names)


def _put(found: re.Match[str], values: Mapping[str, Any]) -> str:
    return _words(found["name"], values) if found["name"] else f"{{{found['literal']}}}"


def _words(name: str, values: Mapping[str, Any]) -> str:
    value = values.get(column_of(name))
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.3g}"
        case list() if value and isinstance(value[0], Mapping):
            return "\n".join(value[at]["text"].strip() for at in texts_of(name, values))
        case list():
            return ", ".join(one.strip() for one in value if one and one.strip())
        case _:
            return str(value).strip()
