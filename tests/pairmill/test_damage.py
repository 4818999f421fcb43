"""A damaged file is named by its path, whatever characters the path has."""

from __future__ import annotations

import pickle
import traceback
from pathlib import Path

import pytest
from run_fixture import make_run

from curation.healing import examine, heal
from curation.results.report import write_report
from pairmill.damage import DamagedError, damaged, undamaged
from pairmill.store import Store, shard_file
from pairmill.worker_errors import raised_by

ODD = ["a: b", "it is gone", ": ", "got: x", "50 %", "a b", "ü:", "'"]


def raised_in_a_worker(error: Exception) -> Exception | None:
    """What is known of an error when Ray keeps only its traceback."""
    try:
        raise error
    except DamagedError:
        return raised_by(RuntimeError(traceback.format_exc()))


@pytest.mark.parametrize("name", [*ODD, "two\nlines", '"quoted": "x"', "back\\slash: y"])
def test_path_and_reason_are_kept_apart(name: str) -> None:
    path = f"/runs/{name}/x.json"
    error = damaged(path, "two\n  lines: of reasons")
    for one in (error, pickle.loads(pickle.dumps(error)), raised_in_a_worker(error)):
        assert isinstance(one, DamagedError)
        assert (one.path, one.why, str(one)) == (path, "two lines: of reasons", str(error))


@pytest.mark.parametrize("path", ['"bucket": x/run/a.json', "bucket/run/a.json", "/a"])
def test_paths_of_other_places(path: str) -> None:
    again = raised_in_a_worker(damaged(path, "it is gone"))
    assert isinstance(again, DamagedError) and (again.path, again.why) == (path, "it is gone")


@pytest.mark.parametrize("name", ODD)
def test_a_run_heals_in_a_folder_of_any_name(tmp_path: Path, name: str) -> None:
    store = make_run(tmp_path / name, upto="filter")
    lost = shard_file("columns/filter", 1)
    store.write_bytes(lost, b"PAR1")
    with pytest.raises(DamagedError) as found:
        store.load("columns/filter", 1)
    assert found.value.path == store.path(lost)
    assert heal(store, found.value, yes=False).startswith(f"{lost} is damaged and kept as damaged/")
    assert [one.name for one in examine(store).damaged if one.name == lost] == []
    assert 1 not in store.index("columns/filter")


def test_a_table_file_that_is_gone_is_damage_to_every_reader(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    for read in (store.read_table, store.schema, lambda name: list(store.batches(name, 9))):
        with pytest.raises(DamagedError) as found:
            read("x.parquet")
        assert (found.value.path, found.value.why) == (store.path("x.parquet"), "it is gone")


@pytest.mark.parametrize("table", ["images", "columns/filter", "selections/default", "pairs"])
def test_a_lost_file_of_a_finished_run_is_found_by_the_report_and_made_again(tmp_path: Path, table: str) -> None:
    store = make_run(tmp_path / "run")
    lost = store.path(shard_file(table, 0))
    Path(lost).unlink()
    with pytest.raises(DamagedError) as found:
        write_report(store, selection="default")
    assert (found.value.path, found.value.why) == (lost, "it is gone")
    assert heal(store, found.value, yes=True).startswith(f"{shard_file(table, 0)} is gone")
    assert 0 not in store.index(table)


def test_what_is_no_damage_passes(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    with pytest.raises(FileNotFoundError):
        store.read_bytes("x.parquet")
    with pytest.raises(PermissionError), undamaged("x", local=True):
        raise PermissionError(13, "Permission denied")
    with pytest.raises(OSError, match="slow down"), undamaged("x", local=False):
        raise OSError("slow down")
    with pytest.raises(TypeError), undamaged("x", local=True):
        raise TypeError("a bug")
