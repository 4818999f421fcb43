"""A forgetting that is killed anywhere ends the same; and runs in use, of killed jobs, and in object stores."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs
import pytest
from forgotten_run import (
    URL,
    WANTED,
    Made,
    all_rows,
    ended,
    killed,
    state,
    store_parts,
)
from fsspec.implementations.local import LocalFileSystem
from run_fixture import write_record
from traces import traces

from curation.forget.request import request
from curation.forget.takedown import complete_pending
from curation.forget.tombstones import Tombstones, refuse_pending
from curation.results.report import build_report
from curation.table import PLAN
from pairmill.errors import RunDirError
from pairmill.layout import PAIRS
from pairmill.store import Store, shard_file
from pipelines.forget import forget

POINTS = [
    "forget.tombstones.before_rename",
    "forget.tombstones.after_rename",
    "forget.reports_removed",
    "rewrite.selections/default.data.after_rename",
    "rewrite.images.manifest.before_write",
    "forget.shard_rewritten",
    "commit.pairs.data.before_rename",
    "commit.pairs.manifest.before_write",
    "forget.parts_rewritten",
    "forget.copy",
    "forget.copies_rewritten",
    "forget.record.after_rename",
    "forget.done.before_rename",
    "forget.done.after_rename",
]


@pytest.fixture(scope="module")
def expected(original: Made, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("expected") / "made"
    shutil.copytree(original.folder, folder)
    made = Made(folder, Store(str(folder / "run")))
    forget(made.store, WANTED, made.copies, sure=True)
    return ended(made)


@pytest.mark.slow
@pytest.mark.parametrize("point", POINTS)
def test_killed_anywhere_it_ends_the_same(
    made: Made, needles: set[bytes], expected: dict[str, Any], tmp_path: Path, point: str
) -> None:
    killed(made, tmp_path, point)
    if Tombstones.read(made.store).work:
        with pytest.raises(RunDirError, match="must be completed before"):
            refuse_pending(made.store)
    forget(made.store, WANTED, made.copies, sure=True)
    assert ended(made) == expected
    assert (made.folder / "run/report.html").exists()
    assert traces([made.folder], needles) == {}
    assert build_report(made.store)["complete"]


def test_a_job_completes_what_was_cut_short(made: Made, expected: dict[str, Any], tmp_path: Path) -> None:
    killed(made, tmp_path, "forget.shard_rewritten")
    complete_pending(made.store)
    assert ended(made) == expected
    complete_pending(made.store)  # nothing to do
    assert ended(made) == expected


def test_another_request_completes_the_first(made: Made, needles: set[bytes], tmp_path: Path) -> None:
    killed(made, tmp_path, "forget.reports_removed")
    done = forget(made.store, request(url=[URL.format(9)]))
    assert done["completed"] == 6
    assert (done["rows"], done["done"]) == (1, False)
    assert traces([made.folder], needles) == {}


def test_what_killed_jobs_left_is_cleaned_too(made: Made, needles: set[bytes]) -> None:
    store, run = made.store, made.folder / "run"
    page = run / "images" / ".0123.partial"
    shutil.copy(run / "images/shard-000000.parquet", page)
    shutil.copy(run / "report.html", run / ".4567.partial")
    # A plan that was killed while it was extended; a part that was not committed.
    store.write_table(shard_file(PLAN, 6), store.load(PLAN, 0))
    store.write_table(shard_file(PAIRS, 9), all_rows(store, PAIRS))
    store.retract("columns/filter", 1)
    write_record(store, 2, finished=False)
    with store.scratch("plan") as scratch:
        shutil.copy(run / "plan/shard-000000.parquet", scratch / "0.arrow")
        forget(store, WANTED, made.copies, sure=True)
        assert not scratch.exists()
        scratch.mkdir()
    assert traces([made.folder], needles) == {}
    assert not page.exists()
    assert sorted(store.index(PAIRS)) == store_parts(store) == [0, 1]


def test_a_run_in_use_is_left_alone(made: Made) -> None:
    before = state(made.folder / "run")
    ready, signal = os.pipe()
    child = os.fork()
    if not child:
        with made.store.locked():
            os.write(signal, b".")
            time.sleep(600)
        os._exit(0)
    try:
        assert os.read(ready, 1) == b"."
        with pytest.raises(RunDirError, match="one job at a time"):
            forget(made.store, WANTED, sure=True)
        assert state(made.folder / "run") == before
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)


def test_on_a_store_without_renames_and_locks(made: Made, needles: set[bytes]) -> None:
    """An object store as Arrow shows it: a put is whole, folders are made by names, and there is no lock."""
    store = made.store
    store._fs, store._local = pafs.PyFileSystem(pafs.FSSpecHandler(LocalFileSystem(auto_mkdir=True))), False
    done = forget(store, WANTED, made.copies, sure=True)
    assert done["rows"] == 6
    assert traces([made.folder], needles) == {}
    assert build_report(store)["complete"]
