"""Runs to damage: each is made once, and every test has a copy of its own."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from damage import RunUpto
from run_fixture import make_run

from pairmill.store import Store


@pytest.fixture(scope="session")
def _made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("runs")

    def made(upto: str) -> Path:
        if not (folder / upto).exists():
            make_run(folder / upto, upto=upto)
        return folder / upto / "run"

    return made


@pytest.fixture
def run_upto(_made: Callable[[str], Path], tmp_path: Path) -> RunUpto:
    def copied(upto: str) -> Store:
        shutil.copytree(_made(upto), tmp_path / "run")
        return Store(str(tmp_path / "run"))

    return copied
