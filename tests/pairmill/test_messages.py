"""Every error that a user can cause says what must hold, what was found and how to fix it."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator, Mapping

import pytest
from product_sources import product_sources

from pairmill import errors

#: Functions that are given a rule and raise it: file:function -> the position of the rule.  Their calls are looked at.
RELAYS = {
    "curation/filters/syntax.py:refuse_part": 2,
    "curation/filters/syntax.py:_point": 3,
    "curation/selections/expression.py:_refuse": 1,
}
#: The same, where they are imported.
IMPORTED = {"curation/filters/where.py:refuse_part": 2}

#: Functions that raise a rule again that was one already: file:function -> whose it was.
AGAIN = {
    "pairmill/errors.py:_rebuild": "an error that travels between processes",
    "pairmill/worker_errors.py:_again": "an error that travels as text",
    "pairmill/config.py:_of_entry": "what an entry's own configuration says, with the key at which it is chosen",
    "pipelines/extend.py:_in_arguments": "what a list's keys break, as the command calls them",
    "training/errors.py:reported_error": "the error that a worker left in a file",
    "pairmill/towers/model_folder.py:load_exported": "what the weights of a folder break, which no recipe names",
    "tune/space.py:check_space": "what the training recipe says of a value, with the key of the space in front",
}


def _family(sources: Mapping[str, ast.Module]) -> set[str]:
    """The names of UserError and of every class that is one, in `pairmill.errors` or elsewhere."""
    found = {name for name, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, errors.UserError)}
    classes = [node for tree in sources.values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    before = 0
    while len(found) > before:
        before = len(found)
        found |= {c.name for c in classes if {_called(base) for base in c.bases} & found}
    return found


def _called(node: ast.expr) -> str:
    """The last part of a dotted name; nothing for anything else."""
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _texts(node: ast.expr, local: dict[str, list[ast.expr]]) -> Iterator[str]:
    """The literal texts that an expression is made of, each one that may be it as a whole.

    local: variable -> what it is assigned in the same function.
    """
    if isinstance(node, ast.Constant):
        if node.value is not None:
            yield str(node.value)
    elif isinstance(node, ast.Name) and node.id in local:
        for value in local[node.id]:
            yield from _texts(value, {})
    elif isinstance(node, ast.JoinedStr):
        yield "".join(str(part.value) for part in node.values if isinstance(part, ast.Constant))
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        yield from (left + right for left in _texts(node.left, local) for right in _texts(node.right, local))
    elif isinstance(node, ast.IfExp):
        yield from _texts(node.body, local)
        yield from _texts(node.orelse, local)
    else:
        yield ""


def _calls(tree: ast.AST, name: str = "", around: ast.AST | None = None) -> Iterator[tuple[str, ast.AST, ast.Call]]:
    """Every call with the name of the function around it, and that function (or the module)."""
    for node in ast.iter_child_nodes(tree):
        inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if isinstance(node, ast.Call):
            yield name, around or tree, node
        yield from _calls(node, node.name if inside else name, node if inside else around or tree)


def _assigned(function: ast.AST) -> dict[str, list[ast.expr]]:
    found: dict[str, list[ast.expr]] = {}
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            found.setdefault(node.targets[0].id, []).append(node.value)
    return found


def wrong(name: str, tree: ast.Module, family: set[str]) -> Iterator[str]:
    """What the calls that make such an error lack."""
    for function, around, node in _calls(tree):
        called, where = _called(node.func), f"{name}:{node.lineno}"
        if f"{name}:{function}" in AGAIN:
            continue
        relay = (RELAYS | IMPORTED).get(f"{name}:{called}")
        if relay is None and called not in family:
            continue
        at = relay or 0
        rules = [*node.args[at : at + 1], *(keyword.value for keyword in node.keywords if keyword.arg == "rule")]
        if not rules:
            yield f"{where} has no rule"
        if f"{name}:{function}" not in RELAYS:
            for text in (text for rule in rules for text in _texts(rule, _assigned(around))):
                if "must" not in text.split():
                    yield f"{where} has a rule without must: {text!r}"
        if relay is None:
            given = {keyword.arg for keyword in node.keywords}
            yield from (f"{where} has no {key}=" for key in ("value", "fix") if key not in given)


@pytest.mark.slow
def test_every_error_of_a_user_says_what_must_hold_what_was_found_and_the_fix() -> None:
    sources = product_sources()
    family = _family(sources)
    assert {"UserError", "RecipeError", "InputError", "RunDirError"} <= family
    calls = [n for t in sources.values() for n in ast.walk(t) if isinstance(n, ast.Call) and _called(n.func) in family]
    assert len(calls) > 100
    found = [one for name, tree in sources.items() for one in wrong(name, tree, family)]
    assert not found, "\n" + "\n".join(found)


@pytest.mark.parametrize(
    ("source", "lacks"),
    [
        ('UserError("x must be y", value=1, fix="set x")', []),
        ('errors.UserError(f"{name} must be y", value=1, fix="set x")', []),
        ('UserError("x must " + f"be {y}", value=1, fix="set x")', []),
        ('UserError("there is a dataset", value=1, fix="set x")', ["a rule without must"]),
        ('UserError("this is a mustang", value=1, fix="set x")', ["a rule without must"]),
        ('UserError(f"{must}", value=1, fix="set x")', ["a rule without must"]),
        ('UserError(rule, value=1, fix="set x")', ["a rule without must"]),
        ('UserError("x must be y" if a else "x is y", value=1, fix="set x")', ["a rule without must"]),
        ('UserError("x must be y")', ["no value=", "no fix="]),
        ("UserError()", ["no rule", "no value=", "no fix="]),
        ('class Own(UserError): ...\nOwn("x is y", value=1, fix="set x")', ["a rule without must"]),
        ('JobError("it broke")', []),
        ('def f():\n    p = "x must be y" if a else None\n    raise UserError(p, value=1, fix="set x")', []),
        ('def f():\n    p = "x is y"\n    raise UserError(p, value=1, fix="set x")', ["a rule without must"]),
    ],
)
def test_what_an_error_lacks_is_seen(source: str, lacks: list[str]) -> None:
    tree = ast.parse(source)
    found = list(wrong("file.py", tree, _family({"file.py": tree})))
    assert len(found) == len(lacks)
    assert all(what in one for what, one in zip(lacks, found, strict=True))


def test_the_rules_that_are_handed_on_are_looked_at() -> None:
    tree = ast.parse('refuse_part(a, b, "x is y", "fix")\nrefuse_part(a, b, "x must be y", "fix")')
    for name in ("curation/filters/where.py", "curation/filters/syntax.py"):
        assert len(list(wrong(name, tree, {"UserError"}))) == 1
    functions = {
        f"{name}:{node.name}"
        for name, tree in product_sources().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
    }
    assert {*RELAYS, *AGAIN} <= functions
