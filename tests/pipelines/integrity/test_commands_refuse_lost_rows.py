"""The commands themselves, in an interpreter without asserts, end with an error where a run has lost rows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from damage import rewrite, without
from run_fixture import make_run

from pairmill.layout import PAIRS
from pairmill.store import Store
from pipelines.doctor import project_root


def _optimised(*arguments: str) -> subprocess.CompletedProcess[str]:
    """`pairmill …` by `python -O`."""
    command = [sys.executable, "-O", "-m", "pipelines", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=project_root(), env=dict(os.environ), timeout=300
    )


@pytest.mark.slow
def test_a_run_that_lost_nothing_is_reported(tmp_path: Path) -> None:
    store = make_run(tmp_path)
    done = _optimised("report", store.uri, "--json")
    assert done.returncode == 0, done.stderr
    assert (json.loads(done.stdout)["rows_in"], json.loads(done.stdout)["rows_pending"]) == (40, 0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "says", "code"),
    [
        (lambda store: rewrite(store, "columns/filter", 2, without(3)), "columns/filter/shard-000002.parquet", 2),
        (lambda store: rewrite(store, PAIRS, 1, without(0)), "pairs part 1", 1),
    ],
    ids=["a_row_lost", "a_pair_lost"],
)
def test_one_that_lost_rows_is_not(damage: Callable[[Store], None], says: str, code: int, tmp_path: Path) -> None:
    store = make_run(tmp_path)
    damage(store)
    done = _optimised("report", store.uri)
    assert done.returncode == code
    assert says in _flat(done.stderr)
    assert "Traceback" not in done.stderr
    assert not store.exists("report.json")


def test_nor_are_its_rows_written(tmp_path: Path) -> None:
    store = make_run(tmp_path, upto="plan")
    rewrite(store, "plan", 3, without(0))
    done = _optimised("rows", store.uri, "--to", str(tmp_path / "rows.parquet"))
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert not (tmp_path / "rows.parquet").exists()


def _flat(text: str) -> str:
    return " ".join(text.split())
