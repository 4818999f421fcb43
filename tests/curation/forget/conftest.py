"""Runs to forget rows in: one is made, and every test has a copy of its own."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from forgotten_run import (
    GONE,
    Made,
    make,
)
from traces import of_rows

from pairmill.store import Store


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(tmp_path_factory.mktemp("forget") / "made")


@pytest.fixture(scope="session")
def needles(original: Made) -> set[bytes]:
    """What the files say of the rows and of no other."""
    return of_rows(original.folder, GONE)


@pytest.fixture
def made(original: Made, tmp_path: Path) -> Made:
    """A copy of the run, for one test to change."""
    shutil.copytree(original.folder, tmp_path / "made")
    return Made(tmp_path / "made", Store(str(tmp_path / "made" / "run")))


@pytest.fixture(autouse=True)
def own_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    yield
