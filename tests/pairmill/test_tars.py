from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
import webdataset as wds

from pairmill.tars import samples, split_name

NAMES = ["a/1.jpg", "a/1.json", "a/2.seg.png", "a/2.JPG", "b/2.txt", "3", "a/1.txt", "v.d/4.jpg", "v.d/4.txt"]


def write(path: Path, names: list[str]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name in names:
            header = tarfile.TarInfo(name)
            header.size = len(name)
            tar.addfile(header, io.BytesIO(name.encode()))
            folder = tarfile.TarInfo("a")
            folder.type = tarfile.DIRTYPE
            tar.addfile(folder)  # lies between the files of a sample, and is none of them
    return path


@pytest.mark.parametrize(
    ("name", "key", "ending"),
    [
        ("0001.jpg", "0001", "jpg"),
        ("train/0001.seg.PNG", "train/0001", "seg.png"),
        ("v1.5/0001.txt", "v1.5/0001", "txt"),
        ("./0001.txt", "./0001", "txt"),
        ("readme", "readme", ""),
        ("a/.hidden", "a/", "hidden"),
    ],
)
def test_the_key_goes_to_the_first_dot_of_the_last_part(name: str, key: str, ending: str) -> None:
    assert split_name(name) == (key, ending)


@pytest.mark.parametrize("mode", ["r:", "r|"])
def test_a_sample_is_files_in_a_row_with_one_key(tmp_path: Path, mode: str) -> None:
    found = []
    with write(tmp_path / "x.tar", NAMES).open("rb") as stream, tarfile.open(fileobj=stream, mode=mode) as tar:
        for key, members in samples(tar):
            contents: dict[str, str] = {}
            for ending, member in members:
                content = tar.extractfile(member)
                assert content is not None
                contents[ending] = content.read().decode()
            found.append((key, contents))
    assert found == [
        ("a/1", {"jpg": "a/1.jpg", "json": "a/1.json"}),
        ("a/2", {"seg.png": "a/2.seg.png", "jpg": "a/2.JPG"}),
        ("b/2", {"txt": "b/2.txt"}),
        ("3", {"": "3"}),
        ("a/1", {"txt": "a/1.txt"}),
        ("v.d/4", {"jpg": "v.d/4.jpg", "txt": "v.d/4.txt"}),
    ]


def test_a_sample_can_be_passed_over_unread(tmp_path: Path) -> None:
    with tarfile.open(write(tmp_path / "x.tar", NAMES)) as tar:
        assert [key for key, _ in samples(tar)] == ["a/1", "a/2", "b/2", "3", "a/1", "v.d/4"]


def test_webdataset_cuts_the_same_samples(tmp_path: Path) -> None:
    path = write(tmp_path / "x.tar", [name for name in NAMES if "." in name])
    with tarfile.open(path) as tar:
        ours = [(key, sorted(ending for ending, _ in members)) for key, members in samples(tar)]
    theirs = [
        (sample["__key__"], sorted(name for name in sample if not name.startswith("__")))
        for sample in wds.WebDataset(str(path), shardshuffle=False)
    ]
    assert ours == theirs
