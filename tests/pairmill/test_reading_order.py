"""The docstring of a folder that says in which order to read it names modules that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from product_sources import ROOT, product_sources

_ORDER = "Read in this order:"
#: Parts of a list that name no module.
_NO_MODULES = ("this file", "then one file per engine", "then the kinds", "then the arithmetic")


def reading_orders() -> dict[str, str]:
    """Folder -> its list, without remarks in brackets."""
    found = {}
    for file, tree in product_sources().items():
        text = " ".join((ast.get_docstring(tree) or "").split())
        if _ORDER in text:
            listed = re.sub(r" \([^)]*\)", "", text.partition(_ORDER)[2])
            found[str(Path(file).parent)] = re.split(r"\.(?: |$)", listed)[0]
    return found


def named(listed: str) -> list[str]:
    """The modules that a list names: one begins each of its parts; `one and two` are two."""
    found = []
    for part in (part.strip() for part in re.split(r"[,;:]", listed)):
        words = part.removeprefix("then ").split()
        if part not in _NO_MODULES:
            found += words[::2] if words[1:2] == ["and"] and len(words) == 3 else words[:1]
    return found


@pytest.mark.parametrize(
    ("listed", "modules"),
    [
        ("this file, one, two and three", ["one", "two", "three"]),
        ("one; then two, three and the others built on it", ["one", "two", "three"]),
    ],
)
def test_modules_are_found_in_a_list(listed: str, modules: list[str]) -> None:
    assert named(listed) == modules


@pytest.mark.parametrize("folder", sorted(reading_orders()))
def test_every_word_of_a_reading_order_is_a_module(folder: str) -> None:
    modules = named(reading_orders()[folder])
    assert modules
    assert set(modules) <= {path.stem for path in (ROOT / folder).glob("*.py")}


def test_folders_say_in_which_order_to_read_them() -> None:
    assert len(reading_orders()) > 8
