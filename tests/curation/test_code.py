"""Rows of one table are made by one code: what counts as its code, and what happens when it has changed."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import yaml

from curation import code
from curation.code import CODE_FILE, Code, CodeLog, code_of, differences
from curation.flow import Flow, flow_of
from curation.stage import Stage
from pairmill.errors import RunDirError
from pairmill.store import Store

STAGE = """
import pyarrow as pa
import yaml
from curation.stage import Column, Stage
from .helper import half

class Own(Stage):
    name, segment = "own", "score"
    reads = ("entropy",)
    adds = (Column("own", pa.float32()),)

    def __call__(self, rows):
        from ownstage.late import more
        return more(half(rows))
"""
FILES = {
    "__init__.py": "",
    "stage.py": STAGE,
    "helper.py": "from ownstage import deeper\n\ndef half(rows):\n    return deeper.same(rows)\n",
    "deeper.py": "def same(rows):\n    return rows\n",
    "late.py": "def more(rows):\n    return rows\n",
    "unused.py": "x = 1\n",
}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = tmp_path / "ownstage"
    folder.mkdir()
    for name, text in FILES.items():
        (folder / name).write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    _forget()
    yield folder
    _forget()


def _forget() -> None:
    """What a new process would not know."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "ownstage"]:
        del sys.modules[name]
    importlib.invalidate_caches()
    for one in (code.reachable, code._imports, code._is_source, code._file):
        one.cache_clear()


def _own() -> Sequence[Stage]:
    _forget()
    flow: Flow = flow_of({"stages": ["ownstage.stage:Own"]})
    return [flow.named("own")]


def test_the_code_of_a_stage_is_what_it_reaches_by_imports(package: Path) -> None:
    found = code_of(_own())
    own = {name for name in found.sources if name.startswith("ownstage")}
    assert own == {"ownstage", "ownstage.stage", "ownstage.helper", "ownstage.deeper", "ownstage.late"}
    assert {"curation.stage", "pairmill.registry"} <= found.sources.keys()
    assert found.libraries["PyYAML"] == yaml.__version__
    assert "pyarrow" in found.libraries


@pytest.mark.parametrize(
    ("file", "counts"), [("stage", True), ("helper", True), ("deeper", True), ("late", True), ("unused", False)]
)
def test_a_changed_module_is_other_code(package: Path, file: str, counts: bool) -> None:
    before = code_of(_own())
    (package / f"{file}.py").write_text(FILES[f"{file}.py"].replace("rows\n", "rows \n") + "\nmore = 2\n")
    after = code_of(_own())
    assert (before != after) == counts
    if counts:
        assert differences(before, after) == f"ownstage.{file} changed"


def test_engines_heads_and_functions_that_a_recipe_names_count(package: Path) -> None:
    (package / "score.py").write_text("def keeps(rows):\n    return rows\n")
    given = {"filter": {"callables": ["ownstage.score:keeps"], "nsfw_max": 0.5}, "recaption": {"model": "m"}}
    flow = flow_of({**given, "recaption": {"model": "m", "enabled": True}})
    found = {name: code_of([flow.named(name)]) for name in ("filter", "recaption", "deduplicate", "inspect")}
    assert "ownstage.score" in found["filter"].sources
    assert "onnxruntime" in found["filter"].libraries
    assert "curation.engines.transformers_caption" in found["recaption"].sources
    assert {"torch", "transformers"} <= found["recaption"].libraries.keys()
    assert "curation.duplicates.near_duplicate_image" in found["deduplicate"].sources
    assert {"pillow", "simplejpeg"} <= found["inspect"].libraries.keys()


def test_modules_that_are_no_source_of_this_python_are_passed_over(package: Path) -> None:
    (package / "fast.cpython-311-x86_64-linux-gnu.so").write_bytes(b"\x7fELF\0")
    (package / "old.py").write_text("print 'of Python 2'\n")
    (package / "helper.py").write_text(FILES["helper.py"] + "\ndef never():\n    from ownstage import fast, old\n")
    assert {"ownstage.helper", "ownstage.old"} <= code_of(_own()).sources.keys()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "run"))


def test_a_library_that_only_one_choice_of_the_recipe_uses_is_no_change(store: Store) -> None:
    """As after a change of `download.engine`, which its rows name; another release of it is one."""
    _begin(store, OLD)
    resized = OLD._replace(libraries={"pillow": "11.0", "img2dataset": "1.47"})
    _begin(store, resized)
    _begin(store, OLD)
    for changed in ({"pillow": "12.0"}, {"pillow": "11.0", "img2dataset": "1.48"}):
        with pytest.raises(RunDirError, match=r"pillow became 12\.0|img2dataset became 1\.48"):
            _begin(store, OLD._replace(libraries=changed))


OLD = Code({"curation.a": "1", "curation.b": "2"}, {"pillow": "11.0"})
NEW = Code({"curation.a": "1", "curation.b": "3"}, {"pillow": "12.0"})


def _begin(store: Store, made_by: Code, *, there: bool = True, accept: bool = False) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(code, "code_of", lambda stages: made_by)
        CodeLog(store, accept=accept).begin("columns/filter", [], there=there)


def test_rows_of_two_codes_are_mixed_only_if_that_is_accepted(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    _begin(store, OLD)
    _begin(store, OLD)
    before = store.read_bytes(CODE_FILE)
    with pytest.raises(RunDirError, match=r"has rows made before curation\.b changed and pillow became 12\.0 "):
        _begin(store, NEW)
    assert store.read_bytes(CODE_FILE) == before
    _begin(store, NEW, accept=True)
    recorded = store.read_json(CODE_FILE)["columns/filter"]
    assert [one["libraries"]["pillow"] for one in recorded] == ["11.0", "12.0"]
    _begin(store, NEW)  # accepted once for this code


def test_a_table_that_is_made_anew_is_of_todays_code_alone(store: Store) -> None:
    _begin(store, OLD)
    _begin(store, NEW, there=False)
    assert [one["sources"]["curation.b"] for one in store.read_json(CODE_FILE)["columns/filter"]] == ["3"]


def test_a_table_of_an_unknown_code_is_taken_over(store: Store) -> None:
    _begin(store, NEW)
    assert len(store.read_json(CODE_FILE)["columns/filter"]) == 1


@pytest.mark.parametrize("version", [1, 2])
def test_a_version_that_a_stage_states_is_part_of_its_key(monkeypatch: pytest.MonkeyPatch, version: int) -> None:
    from curation.flow import Tables

    flow = flow_of({})
    before = Tables(flow, selection="default")
    monkeypatch.setattr(type(flow.named("policy")), "version", version)
    after = Tables(flow, selection="default")
    changed = {t.name for t, other in zip(before.all, after.all, strict=True) if t.identity != other.identity}
    assert changed == ({"columns/policy"} if version > 1 else set())
