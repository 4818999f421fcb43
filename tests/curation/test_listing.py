"""A run is found by the content of its list: wherever that lies, whatever it is called, and not if it changed."""

from __future__ import annotations

import logging
import os
import shutil
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation import listing
from curation.inputs import InputConfig, find_files
from curation.listing import check_unchanged, record
from curation.plan import ShardsConfig, plan
from curation.plan_file import Plan
from pairmill.errors import InputError, RunDirError
from pairmill.store import Store

CSV = "url,text\nhttp://a/1,red\nhttp://a/2,sea\n"


def planned(run: Path | str, path: Path | str, **inputs: str | None) -> Plan:
    return plan(Store(str(run)), InputConfig(path=str(path), **inputs), ShardsConfig())


@pytest.fixture
def lists(tmp_path: Path) -> Path:
    """A folder of two files."""
    folder = tmp_path / "lists"
    folder.mkdir()
    (folder / "a.csv").write_text(CSV)
    (folder / "b.csv").write_text("url,text\nhttp://b/1,owl\nhttp://b/2,cat\nhttp://b/3,dog\n")
    return folder


def test_the_same_list_by_any_name_is_the_same_run(
    tmp_path: Path, lists: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = planned(tmp_path / "run", lists)
    monkeypatch.chdir(tmp_path)
    for path in (
        "lists",
        "./lists",
        "lists/",
        "lists/*.csv",
        str(tmp_path / "lists"),
        "../" + tmp_path.name + "/lists",
    ):
        assert planned("run", path) == made
    monkeypatch.chdir(lists)
    assert planned("../run", ".") == made
    shutil.copytree(lists, tmp_path / "copy")
    assert planned(tmp_path / "run", tmp_path / "copy") == made
    lists.rename(tmp_path / "moved")
    assert planned(tmp_path / "run", tmp_path / "moved") == made
    (tmp_path / "run").rename(tmp_path / "elsewhere")
    assert planned(tmp_path / "elsewhere", tmp_path / "moved") == made


def test_the_plan_does_not_depend_on_where_the_list_lies(tmp_path: Path, lists: Path) -> None:
    shutil.copytree(lists, tmp_path / "copy" / "lists")
    one, other = Store(str(tmp_path / "one")), Store(str(tmp_path / "other"))
    first, second = planned(one.uri, lists), planned(other.uri, tmp_path / "copy" / "lists")
    assert first.fingerprint == second.fingerprint
    assert one.index("plan") == other.index("plan")


def test_a_file_that_lies_where_it_lay_unchanged_is_not_read(
    tmp_path: Path, lists: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned(tmp_path / "run", lists)
    read = []
    digest = listing._digest
    monkeypatch.setattr(listing, "_digest", lambda file: read.append(file.path) or digest(file))
    planned(tmp_path / "run", lists)
    assert read == []
    os.utime(lists / "a.csv")
    planned(tmp_path / "run", lists)
    assert [Path(path).name for path in read] == ["a.csv"]


@pytest.mark.parametrize("restored", [False, True], ids=["touched", "mtime-put-back"])
def test_a_list_that_changed_at_equal_size_is_noticed(tmp_path: Path, lists: Path, restored: bool) -> None:
    planned(tmp_path / "run", lists)
    before = (lists / "a.csv").stat()
    time.sleep(0.02)  # more than a tick of the file system's clock
    (lists / "a.csv").write_text(CSV.replace("red", "sky"))
    if restored:
        os.utime(lists / "a.csv", ns=(before.st_atime_ns, before.st_mtime_ns))
    after = (lists / "a.csv").stat()
    assert after.st_size == before.st_size
    assert (after.st_mtime_ns == before.st_mtime_ns) is restored
    with pytest.raises(RunDirError, match=r"new or changed since: \S*a\.csv") as raised:
        planned(tmp_path / "run", lists)
    assert "pairmill extend" in raised.value.fix


def test_a_list_that_grew_says_how_to_add_what_is_new(tmp_path: Path, lists: Path) -> None:
    planned(tmp_path / "run", lists)
    (lists / "c.csv").write_text("url,text\nhttp://c/1,new\n")
    with pytest.raises(RunDirError, match=r"new or changed since: \S*c\.csv\n") as raised:
        planned(tmp_path / "run", lists)
    assert raised.value.fix.startswith(f"add their rows with `pairmill extend {tmp_path / 'run'} {lists}`")


def test_other_columns_are_another_list(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("url,text,title\nhttp://a/1,red,apple\n")
    planned(tmp_path / "run", tmp_path / "list.csv")
    with pytest.raises(RunDirError, match="text_column must be as they were"):
        planned(tmp_path / "run", tmp_path / "list.csv", text_column="title")


def test_a_list_that_is_gone_does_not_stop_a_planned_run(
    tmp_path: Path, lists: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = planned(tmp_path / "run", lists)
    (lists / "b.csv").unlink()
    with caplog.at_level(logging.WARNING):
        assert planned(tmp_path / "run", lists) == made
    assert "1 input files" in caplog.text
    shutil.rmtree(lists)
    with caplog.at_level(logging.WARNING):
        assert planned(tmp_path / "run", tmp_path / "other-root" / "lists") == made
    assert "no input file at" in caplog.text
    with pytest.raises(InputError, match="at least one input file"):
        planned(tmp_path / "run", tmp_path / "misspelt")
    with pytest.raises(InputError, match="at least one input file"):
        planned(tmp_path / "new-run", lists)


def test_a_compressed_file_is_known_by_its_own_bytes(tmp_path: Path) -> None:
    import gzip

    for name, mtime in (("one.csv.gz", 1), ("other.csv.gz", 2)):
        (tmp_path / name).write_bytes(gzip.compress(CSV.encode(), mtime=mtime))
    one, other = (record(find_files(InputConfig(path=str(tmp_path / n)))) for n in ("one.csv.gz", "other.csv.gz"))
    assert one[0].size == other[0].size
    assert one[0].content != other[0].content


def test_a_file_written_to_while_it_is_planned_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"url": ["u"], "text": ["t"]}), tmp_path / "list.parquet")
    files = find_files(InputConfig(path=str(tmp_path / "list.parquet")))
    recorded = record(files)
    check_unchanged(files, recorded)
    time.sleep(0.02)
    (tmp_path / "list.parquet").touch()
    with pytest.raises(InputError, match="must not change while"):
        check_unchanged(files, recorded)
