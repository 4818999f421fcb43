from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pairmill import faults
from pairmill.atomic import is_partial, partials_of, require_empty, whole_file, whole_folder
from pairmill.errors import UserError


def test_a_file_appears_when_its_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.bin"
    with whole_file(path) as stream:
        stream.write(b"one")
        assert not path.exists()
    assert path.read_bytes() == b"one"
    with whole_file(path) as stream:
        stream.write(b"two")
        stream.flush()
        assert path.read_bytes() == b"one"
    assert path.read_bytes() == b"two" and os.listdir(path.parent) == ["a.bin"]


@pytest.mark.parametrize("error", [OSError("disk"), KeyError("bug"), KeyboardInterrupt()])
def test_a_failed_block_changes_nothing(tmp_path: Path, error: BaseException) -> None:
    (tmp_path / "a.bin").write_bytes(b"old")
    with pytest.raises(type(error)), whole_file(tmp_path / "a.bin") as stream:
        stream.write(b"half")
        raise error
    with pytest.raises(type(error)), whole_folder(tmp_path / "folder") as folder:
        (folder / "x").touch()
        raise error
    assert os.listdir(tmp_path) == ["a.bin"] and (tmp_path / "a.bin").read_bytes() == b"old"


@pytest.mark.parametrize(("action", "kind"), [("disk-full", OSError), ("raise", faults.InjectedFault)])
def test_a_failure_before_the_rename_leaves_no_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, action: str, kind: type[Exception]
) -> None:
    monkeypatch.setattr(faults, "_armed", faults._parse(f"here.before_rename:{action}@1", str(tmp_path)))
    with pytest.raises(kind), whole_file(tmp_path / "out" / "a.bin", fault="here") as stream:
        stream.write(b"x")
    assert os.listdir(tmp_path / "out") == []


WRITE = """
import sys
from pathlib import Path
from pairmill.atomic import whole_file
with whole_file(Path(sys.argv[1]), fault="here") as stream:
    stream.write(b"new")
"""


def test_a_killed_writer_leaves_the_old_file_and_a_hidden_one(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    path = tmp_path / "out" / "a.bin"
    path.write_bytes(b"old")
    armed = {"PAIRMILL_FAULTS": "here.before_rename:kill@1", "PAIRMILL_FAULTS_DIR": str(tmp_path)}
    killed = subprocess.run([sys.executable, "-c", WRITE, str(path)], env=os.environ | armed, check=False)
    assert killed.returncode == -9 and path.read_bytes() == b"old"
    [left] = set(os.listdir(path.parent)) - {"a.bin"}
    assert left.startswith(".") and is_partial(path.parent / left)
    assert partials_of([path, tmp_path / "nowhere" / "a.bin"]) == [path.parent / left]
    assert partials_of([path.parent / "b.bin", path.parent / "*", path.parent / "a"]) == []


@pytest.mark.parametrize("name", ["[a]*.tar", "a" * 250, "图" * 80, ".a.", "a\nb"])
def test_what_is_not_finished_is_known_by_its_name(tmp_path: Path, name: str) -> None:
    with whole_file(tmp_path / name):
        [partial] = tmp_path.iterdir()
        assert partials_of([tmp_path / name]) == [partial]
        assert is_partial(partial)
        assert not is_partial(tmp_path / name)
    assert os.listdir(tmp_path) == [name]


def test_a_folder_takes_its_name_when_its_block_ends(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("deep/new", "empty"):
        with whole_folder(tmp_path / name) as folder:
            (folder / "x").write_text("x")
            assert not (tmp_path / name / "x").exists()
        assert os.listdir(tmp_path / name) == ["x"]


def test_what_is_there_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / ".hidden").touch()
    for name in ("file", "full"):
        with pytest.raises(UserError, match="new or an empty folder"), whole_folder(tmp_path / name):
            pytest.fail("the block must not run")
        with pytest.raises(UserError):
            require_empty(tmp_path / name)
    assert sorted(os.listdir(tmp_path)) == ["file", "full"]
