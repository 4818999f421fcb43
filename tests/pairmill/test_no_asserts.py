"""No `assert` guards data: under `python -O` there are none.  Those below tell mypy what it cannot see."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator

from product_sources import product_sources

PIPE = "the process was started with a pipe, so there is one"
ENTERED = "it is used inside its `async with` only, which sets it"
CHECKED = "the recipe was refused before if it is null"
ELSE = "what is no grid and no choice has a range: a parameter has exactly one of them"

#: file:function -> (how many, why it cannot fail whatever users, disk and network give).
ALLOWED: dict[str, tuple[int, str]] = {
    "curation/images/colour.py:_applied": (1, "Pillow answers None for conversion in place only"),
    "curation/images/decoder.py:_Worker.give": (1, PIPE),
    "curation/images/decoder.py:DecoderPool._serve": (1, PIPE),
    "curation/images/decoder.py:DecoderPool._retire": (1, PIPE),
    "curation/web/fetch.py:Fetcher.__aexit__": (1, ENTERED),
    "curation/web/fetch.py:Fetcher.fetch": (1, "the loop before it runs once at least, and sets it where it ends"),
    "curation/web/gate_client.py:GateClient.__aexit__": (1, ENTERED),
    "curation/web/safe_http.py:SafeHttp.__aexit__": (1, ENTERED),
    "curation/web/safe_http.py:SafeHttp.get": (1, ENTERED),
    "pipelines/demo_server.py:demo_server": (1, PIPE),
    "training/gather.py:Ring.gradient": (1, "the loop before it runs once a rank, and sets it"),
    "training/gather.py:Ring.lse": (1, "the loop before it runs once a rank, and sets it"),
    "training/gather.py:_rotating": (1, "torch answers an int to ranks outside the group only, and this one is in it"),
    "tune/proposals.py:Pbt.__init__": (1, CHECKED),
    "tune/proposals.py:_suggested": (1, ELSE),
    "tune/proposals.py:distribution_of": (1, ELSE),
    "tune/space.py:Parameter.draw": (1, ELSE),
    "tune/standings.py:Standings.measured": (
        1,
        "it is asked for trials that the ranking holds, which is made of values",
    ),
    "tune/sweep.py:_Searcher._standing": (1, "it is called where there is halving only"),
    "tune/sweep.py:_halving": (1, CHECKED),
}


def asserts(tree: ast.AST, within: str = "") -> Iterator[str]:
    """The qualified name of the function around each assert."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Assert):
            yield within or "<module>"
        named = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        yield from asserts(node, f"{within}.{node.name}".lstrip(".") if named else within)


def _found() -> Counter[str]:
    return Counter(f"{name}:{function}" for name, tree in product_sources().items() for function in asserts(tree))


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
