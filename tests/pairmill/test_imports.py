"""What a package may import, and what importing a module may cost."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

#: Package -> those it must not know: pipelines -> (curation | training | tune) -> pairmill, and sweeps train.
APART = {
    "pairmill": {"curation", "training", "tune", "pipelines"},
    "curation": {"training", "tune", "pipelines"},
    "training": {"curation", "tune", "pipelines"},
    "tune": {"curation", "pipelines"},
}

#: An entry of a registry is an import that has not happened yet.
ENTRY = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def imported(source: str) -> Iterator[str]:
    """Every module that a file imports, at its top or in a function, or names for a registry to load."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, "imports are absolute"
            yield node.module
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and ENTRY.fullmatch(node.value):
            yield node.value.partition(":")[0]


@pytest.mark.parametrize("package", APART)
def test_imports_go_down(package: str) -> None:
    files = sorted((ROOT / package).rglob("*.py"))
    assert len(files) > 10
    upwards = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in files
        for name in imported(path.read_text(encoding="utf-8"))
        if name.partition(".")[0] in APART[package]
    ]
    assert not upwards


def test_imports_of_every_form_are_seen() -> None:
    source = 'import a.b\nfrom c import d\ndef f():\n    from e.f import g\nENTRIES = {"x": "h.i:J"}\n"k: l"\n'
    assert sorted(imported(source)) == ["a.b", "c", "e.f", "h.i"]


#: Modules, and what none of them may load.
LIGHT = {
    "ground": (
        [
            f"pairmill.{path.stem}"
            for path in (ROOT / "pairmill").glob("*.py")
            if path.stem not in ("cluster", "pixels")
        ],
        {"ray", "torch", "cv2", "simplejpeg", "PIL", "scipy", "fasttext", "ftfy", "onnxruntime", "aiohttp", "pandas"},
    ),
    "plan": (
        ["curation.schema", "curation.inputs", "curation.identity", "curation.plan"],
        {"ray", "torch", "cv2", "simplejpeg", "scipy", "fasttext", "ftfy", "onnxruntime", "transformers", "open_clip"},
    ),
    # What answers a mistake in a recipe.
    "recipe": (
        ["pipelines.recipe"],
        {"ray", "torch", "cv2", "PIL", "scipy", "fasttext", "ftfy", "onnxruntime", "aiohttp", "asyncio", "pandas"},
    ),
    "fetch": (
        ["curation.web.config", "curation.web.fetch"],
        {"ray", "torch", "cv2", "simplejpeg", "PIL", "scipy", "fasttext", "ftfy", "onnxruntime", "transformers"},
    ),
}

IMPORT = """
import importlib, json, sys
heavy, found = set(json.loads(sys.argv[2])), {}
for name in json.loads(sys.argv[1]):
    importlib.import_module(name)
    if loaded := sorted(heavy & set(sys.modules)):
        found[name] = loaded
        heavy -= set(loaded)
print(json.dumps(found))
"""


def loaded(modules: list[str], heavy: set[str]) -> dict[str, list[str]]:
    """Module -> which of `heavy` it loads, in an interpreter that has loaded nothing else."""
    arguments = [json.dumps(modules), json.dumps(sorted(heavy))]
    done = subprocess.run(
        [sys.executable, "-c", IMPORT, *arguments], cwd=ROOT, capture_output=True, text=True, check=True
    )
    found: dict[str, list[str]] = json.loads(done.stdout)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("group", LIGHT)
def test_importing_loads_nothing_heavy(group: str) -> None:
    assert loaded(*LIGHT[group]) == {}


def test_what_is_heavy_is_seen() -> None:
    assert loaded(["pairmill.errors", "pairmill.pixels"], {"cv2", "torch"}) == {"pairmill.pixels": ["cv2"]}
