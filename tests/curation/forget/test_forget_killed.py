"""A forgetting that is killed anywhere ends the same; and runs in use, of killed jobs, and in object stores."""

from __future__ import annotations

import json
import os
import shutil
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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

from curation.forget.place import Place
from curation.forget.request import Request, request
from curation.forget.takedown import complete_pending
from curation.forget.tombstones import Tombstones
from curation.results.report import build_report
from curation.table import PLAN
from pairmill import faults
from pairmill.errors import RunDirError, UserError
from pairmill.layout import PAIRS
from pairmill.pending import refuse_pending
from pairmill.store import Store, shard_file
from pipelines.forget import forget, lines

pytestmark = pytest.mark.slow


POINTS = [
    "forget.tombstones.before_rename",
    "forget.tombstones.after_rename",
    "forget.reports_removed",
    "rewrite.selections/default.data.after_rename",
    "rewrite.images.manifest.before_write",
    "forget.shard_rewritten",
    "forget.tables_rewritten",
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


@contextmanager
def in_use(store: Store) -> Iterator[None]:
    """Another process holds the run's lock."""
    ready, signal = os.pipe()
    child = os.fork()
    if not child:
        with store.locked():
            os.write(signal, b".")
            time.sleep(600)
        os._exit(0)
    try:
        assert os.read(ready, 1) == b"."
        yield
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)


def test_a_run_in_use_is_left_alone(made: Made) -> None:
    before = state(made.folder / "run")
    with in_use(made.store), pytest.raises(RunDirError, match="one job at a time"):
        forget(made.store, WANTED, sure=True)
    assert state(made.folder / "run") == before


def test_a_run_in_use_can_be_looked_at(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    before, alone = state(made.folder), forget(made.store, WANTED, made.copies)
    # A job that packs removes parts, also between a listing and the reading of what it lists.
    listed = Place(made.store).part_numbers()
    monkeypatch.setattr(Place, "part_numbers", lambda here: [*listed, 99])
    with in_use(made.store):
        assert forget(made.store, WANTED, made.copies) == alone
    assert state(made.folder) == before


def test_what_is_pending_is_not_completed_in_a_run_in_use(made: Made, tmp_path: Path) -> None:
    killed(made, tmp_path, "forget.shard_rewritten")
    with in_use(made.store), pytest.raises(RunDirError, match="one job at a time"):
        forget(made.store, WANTED)


def test_on_a_store_without_renames_and_locks(made: Made, needles: set[bytes]) -> None:
    """An object store as Arrow shows it: a put is whole, folders are made by names, and there is no lock."""
    store = made.store
    store._fs, store._local = pafs.PyFileSystem(pafs.FSSpecHandler(LocalFileSystem(auto_mkdir=True))), False
    done = forget(store, WANTED, made.copies, sure=True)
    assert done["rows"] == 6
    assert traces([made.folder], needles) == {}
    assert build_report(store)["complete"]


def corrupt(copy: Path) -> None:
    file = copy / "00000.tar" if copy.is_dir() else copy
    file.write_bytes(file.read_bytes()[:700])


LOST: dict[str, Callable[[Path], object]] = {
    "deleted": lambda copy: shutil.rmtree(copy) if copy.is_dir() else copy.unlink(),
    "moved": lambda copy: copy.rename(copy.with_name("elsewhere")),
    "corrupt": corrupt,
    "a run now": lambda copy: (copy / "plan").mkdir() or (copy / "plan" / "plan.json").write_text("{}"),
}


@pytest.mark.parametrize("how", LOST)
def test_a_copy_that_was_lost_meanwhile_is_reported_and_stops_nothing(
    made: Made, needles: set[bytes], tmp_path: Path, how: str
) -> None:
    killed(made, tmp_path, "forget.shard_rewritten")
    copy = made.folder / "tars"
    LOST[how](copy)
    done: dict[str, Any] = {}
    if how in ("deleted", "moved"):
        done = forget(made.store, Request())
        assert done["completed"] == 6
        assert done["copies_gone"] == [str(copy)]
        assert any(str(copy) in line for line in lines(done))
    else:
        with pytest.raises(UserError, match="not out of") as refused:
            forget(made.store, Request(), sure=True)
        assert str(copy) in str(refused.value.value)
        assert f"pairmill forget {made.store.uri} --also COPY --yes" in refused.value.fix
    for lost in (copy, copy.with_name("elsewhere")):
        shutil.rmtree(lost, ignore_errors=True)
    assert traces([made.folder], needles) == {}
    refuse_pending(made.store)
    assert build_report(made.store)["complete"]
    record = made.store.read_json("runs/run-0002.json")
    assert record is not None
    assert record["forgot"]["not_cleaned"] == [str(copy)]


def test_the_same_command_does_not_stumble_over_a_lost_copy(made: Made, tmp_path: Path) -> None:
    killed(made, tmp_path, "forget.shard_rewritten")
    shutil.rmtree(made.folder / "tars")
    done = forget(made.store, WANTED, made.copies, sure=True)
    assert (done["completed"], done["copies_gone"]) == (6, [str(made.folder / "tars")])
    (made.folder / "rows.parquet").unlink()
    with pytest.raises(UserError, match="must name an export"):  # nothing is pending: it is a mistake
        forget(made.store, WANTED, made.copies, sure=True)


def test_a_job_is_not_stopped_by_a_lost_copy(made: Made, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    killed(made, tmp_path, "forget.parts_rewritten")
    shutil.rmtree(made.folder / "parquet")
    corrupt(made.folder / "tars")
    complete_pending(made.store)
    refuse_pending(made.store)
    for name in ("parquet", "tars"):
        assert str(made.folder / name) in caplog.text


def test_one_lost_file_of_a_copy_does_not_keep_the_others_from_being_cleaned(
    made: Made, needles: set[bytes], tmp_path: Path
) -> None:
    killed(made, tmp_path, "forget.shard_rewritten")
    tars = made.folder / "tars"
    corrupt(tars)
    with pytest.raises(UserError, match=r"00000\.tar"):
        forget(made.store, Request(), sure=True)
    sizes = json.loads((tars / "sizes.json").read_text())
    (tars / "00000.tar").unlink()
    assert traces([made.folder], needles) == {}
    for tar in tars.glob("*.tar"):
        assert sizes[tar.name] == len(uids_of(tar))


def uids_of(tar: Path) -> list[str]:
    with tarfile.open(tar) as members:
        streams = [members.extractfile(member) for member in members if member.name.endswith(".json")]
        return [json.loads(stream.read())["uid"] for stream in streams if stream is not None]


def test_a_copy_that_cannot_be_written_is_reported(
    made: Made, needles: set[bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(faults, "_armed", faults._parse("forget.copy:disk-full@1", str(tmp_path)))
    with pytest.raises(UserError, match="No space left"):
        forget(made.store, WANTED, made.copies, sure=True)
    assert not Tombstones.read(made.store).work
    forget(made.store, Request(), made.copies, sure=True)
    assert traces([made.folder], needles) == {}


@pytest.mark.parametrize("sure", [True, False])
def test_a_request_for_nothing_is_a_mistake_unless_it_completes_another(
    made: Made, tmp_path: Path, expected: dict[str, Any], sure: bool
) -> None:
    with pytest.raises(UserError, match="must be given what to forget"):
        forget(made.store, Request(), sure=sure)
    killed(made, tmp_path, "forget.shard_rewritten")
    done = forget(made.store, Request(), sure=sure)
    assert (done["completed"], done["done"], len(lines(done))) == (6, True, 1)
    assert ended(made) == expected
