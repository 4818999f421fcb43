"""An export that was killed, or whose folder is in use."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from run_fixture import make_run

from curation.results.export import export_img2dataset, export_webdataset
from pairmill.atomic import partials_of, unfinished_folder, whole_folder
from pairmill.errors import RunDirError, UserError
from pairmill.store import Store

EXPORT = """
import sys
from curation.results import export
from pairmill.store import Store
getattr(export, sys.argv[1])(Store(sys.argv[2]), sys.argv[3], rows_per_shard=8)
"""

FOLDER = """
import sys
from pathlib import Path
from pairmill.atomic import whole_folder, whole_file
with whole_folder(Path(sys.argv[1])) as folder:
    with whole_file(folder / "a", fault="here"):
        pass
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_run(tmp_path_factory.mktemp("finished"))


def killed(folder: Path, fault: str, code: str, *arguments: str) -> None:
    faults = folder / "faults"
    faults.mkdir()
    armed = {"PAIRMILL_FAULTS": fault, "PAIRMILL_FAULTS_DIR": str(faults)}
    done = subprocess.run([sys.executable, "-c", code, *arguments], env=os.environ | armed, check=False)
    assert done.returncode == -9


def content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.parametrize("at", [1, 2, 3])
@pytest.mark.parametrize("write", [export_webdataset, export_img2dataset])
def test_a_killed_dataset_export_is_written_again(finished: Store, tmp_path: Path, write: object, at: int) -> None:
    name = write.__name__  # type: ignore[attr-defined]
    killed(tmp_path, f"write.before_rename:kill@{at}", EXPORT, name, finished.uri, str(tmp_path / "out"))
    assert len(content(tmp_path / "out")) == at + 1  # whole ones, one that is not, and the mark
    again = write(finished, tmp_path / "out", rows_per_shard=8)  # type: ignore[operator]
    assert {file.name for file in again} == set(os.listdir(tmp_path / "out"))
    write(finished, tmp_path / "whole", rows_per_shard=8)  # type: ignore[operator]
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_what_is_not_an_export_s_own_is_never_removed(finished: Store, tmp_path: Path) -> None:
    killed(tmp_path, "write.before_rename:kill@2", EXPORT, "export_webdataset", finished.uri, str(tmp_path / "out"))
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="new or an empty folder"):
        export_webdataset(finished, tmp_path / "out")
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"


def test_two_exports_do_not_share_a_folder(finished: Store, tmp_path: Path) -> None:
    export_webdataset(finished, tmp_path / "whole", rows_per_shard=8)
    with unfinished_folder(tmp_path / "out", re.compile("x")):
        (tmp_path / "out" / "00000.tar").write_bytes(b"theirs")
        with pytest.raises(UserError, match="another process"):
            export_webdataset(finished, tmp_path / "out")
        assert (tmp_path / "out" / "00000.tar").read_bytes() == b"theirs"
    with pytest.raises(UserError, match="new or an empty folder"):
        export_webdataset(finished, tmp_path / "out")


def test_a_failed_export_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(RunDirError):
        export_webdataset(Store(str(tmp_path / "run")), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_killed_folder_is_removed_by_the_next_one(tmp_path: Path) -> None:
    killed(tmp_path, "here.before_rename:kill@1", FOLDER, str(tmp_path / "model"))
    assert len(partials_of([tmp_path / "model"])) == 1
    with whole_folder(tmp_path / "model") as folder:
        assert partials_of([tmp_path / "model"]) == [folder]
        (tmp_path / "other").mkdir()
    assert partials_of([tmp_path / "model"]) == [] and (tmp_path / "model").is_dir()


def test_a_folder_that_is_being_written_is_left_alone(tmp_path: Path) -> None:
    with whole_folder(tmp_path / "model") as first:
        (first / "a").touch()
        with pytest.raises(OSError), whole_folder(tmp_path / "model") as second:
            (second / "b").touch()
            first.rename(tmp_path / "model")
        (tmp_path / "model").rename(first)
        assert (first / "a").exists()
    assert os.listdir(tmp_path / "model") == ["a"]
