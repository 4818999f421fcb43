"""No `assert` guards data: under `python -O` there are none.  Those below tell mypy what it cannot see."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("pairmill", "curation", "training", "tune", "pipelines")

PIPE = "Popen was given a pipe, so there is one"
ENTERED = "the object is in use only inside its `async with`, which sets it"

#: file:function -> (how many, why it cannot fail whatever users, disk and network give).
ALLOWED: dict[str, tuple[int, str]] = {}


def asserts(tree: ast.AST, within: str = "") -> Iterator[str]:
    """The qualified name of the function around each assert."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Assert):
            yield within or "<module>"
        named = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        yield from asserts(node, f"{within}.{node.name}".lstrip(".") if named else within)


def _found() -> Counter[str]:
    return Counter(
        f"{file.relative_to(ROOT)}:{function}"
        for package in PACKAGES
        for file in sorted((ROOT / package).rglob("*.py"))
        for function in asserts(ast.parse(file.read_text(encoding="utf-8")))
    )


def test_no_assert_guards_data() -> None:
    new = {where: count for where, count in _found().items() if count > ALLOWED.get(where, (0, ""))[0]}
    assert not new, "raise IntegrityError, or a UserError where the user can fix it"


def test_the_list_holds_what_there_is() -> None:
    found = _found()
    assert {where: count for where, (count, _) in ALLOWED.items() if found[where] != count} == {}
    assert all(why for _, why in ALLOWED.values())


def test_asserts_are_found_with_their_functions() -> None:
    source = "assert 1\nclass A:\n    def f(self):\n        if x:\n            assert y\n        def g(): assert z\n"
    assert list(asserts(ast.parse(source))) == ["<module>", "A.f", "A.f.g"]
