"""`python -O` takes asserts away; pytest keeps those of test modules and conftests, and of nothing else."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[2]


@pytest.mark.slow
def test_a_test_that_fails_fails_under_python_o_too(tmp_path: Path) -> None:
    (tmp_path / "test_wrong.py").write_text("def test_wrong():\n    assert 1 == 2\n")
    done = subprocess.run(
        [sys.executable, "-O", "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--rootdir={tmp_path}", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 1, done.stdout
    assert "assert 1 == 2" in done.stdout and "1 failed" in done.stdout


def test_the_asserts_of_this_run_are_not_taken_away() -> None:
    """Fails with `--assert=plain` under `-O`: no test of that run could fail."""
    try:
        assert 1 == 2
    except AssertionError:
        return
    raise RuntimeError("asserts must work: run pytest without --assert=plain")


def test_what_tests_share_asserts_nothing() -> None:
    """It is imported as it is, so its asserts would be gone under `-O`."""
    shared = [file for file in TESTS.rglob("*.py") if not file.name.startswith(("test_", "conftest"))]
    assert len(shared) > 5
    found = [
        f"{file.relative_to(TESTS)}:{node.lineno}"
        for file in shared
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Assert)
    ]
    assert not found
