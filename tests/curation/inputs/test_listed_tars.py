"""Tars as lists: no sample is lost without a word."""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
from pathlib import Path

import pytest
import webdataset as wds
from listed import read

from curation.inputs import InputConfig, extra_fields, find_files, read_rows
from pairmill.errors import InputError

BOM = b"\xef\xbb\xbf"


def member(at: int) -> tuple[str, bytes]:
    return f"{at:03}.json", json.dumps({"url": f"http://a/{at}", "text": f"t{at}"}).encode()


def text(at: int) -> tuple[str, bytes]:
    return f"{at:03}.txt", f"t{at}".encode()


def tar(*members: tuple[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as out:
        for name, content in members:
            header = tarfile.TarInfo(name)
            header.size = len(content)
            out.addfile(header, io.BytesIO(content))
    return file.getvalue()


def left_out(path: Path) -> dict[str, int]:
    config = InputConfig(path=str(path))
    [file] = find_files(config)
    list(read_rows(file, config, extra_fields([file], config)))
    return dict(file.left_out)


def test_tars_in_one_file_are_one_list(tmp_path: Path) -> None:
    (tmp_path / "1.tar").write_bytes(tar(member(0), member(1)) + tar(member(2)) + tar(member(3)))
    assert read(tmp_path / "1.tar")["alt"].to_pylist() == ["t0", "t1", "t2", "t3"]


@pytest.mark.parametrize("whole", [1, 2])
def test_a_tar_that_was_cut_off_between_members_is_refused(tmp_path: Path, whole: int) -> None:
    (tmp_path / "1.tar").write_bytes(tar(member(0), member(1), member(2))[: whole * 1024])
    with pytest.raises(InputError, match="cut off"):
        read(tmp_path / "1.tar")


@pytest.mark.parametrize("by", ["webdataset", "tar", "tar of one block", "tar, appended", "tar, concatenated"])
def test_tars_of_common_writers_end_as_they_must(tmp_path: Path, by: str) -> None:
    path = tmp_path / "1.tar"
    if by == "webdataset":
        with wds.TarWriter(str(path)) as writer:
            for at in range(3):
                writer.write({"__key__": f"{at}", "json": json.loads(member(at)[1])})
    else:
        for at in range(3):
            (tmp_path / member(at)[0]).write_bytes(member(at)[1])
        names = [member(at)[0] for at in range(3)]
        size = ["--blocking-factor=1"] if by == "tar of one block" else []
        subprocess.run(["tar", *size, "-cf", "1.tar", *names[:-1]], cwd=tmp_path, check=True)
        if by == "tar, concatenated":
            subprocess.run(["tar", "-cf", "2.tgz", names[-1]], cwd=tmp_path, check=True)
            subprocess.run(["tar", "-Af", "1.tar", "2.tgz"], cwd=tmp_path, check=True)
        else:
            subprocess.run(["tar", *size, "-rf", "1.tar", names[-1]], cwd=tmp_path, check=True)
    assert read(path)["alt"].to_pylist() == ["t0", "t1", "t2"]


def test_a_sample_that_says_nothing_is_counted(tmp_path: Path) -> None:
    (tmp_path / "1.tar").write_bytes(tar(member(0), ("001.json", b"{}"), member(2)))
    assert read(tmp_path / "1.tar")["alt"].to_pylist() == ["t0", "t2"]
    assert left_out(tmp_path / "1.tar") == {"other": 0, "no_sample": 1}


@pytest.mark.parametrize("samples", [2, 70])
@pytest.mark.parametrize("text_first", [False, True])
@pytest.mark.parametrize("step", [1, -1])
def test_samples_whose_files_stand_apart_are_refused(tmp_path: Path, samples: int, text_first: bool, step: int) -> None:
    jsons, texts = [member(at) for at in range(samples)], [text(at) for at in range(samples)][::step]
    if samples == 2:  # in the other order one of two samples is whole
        texts.sort()
    (tmp_path / "1.tar").write_bytes(tar(*(texts + jsons if text_first else jsons + texts)))
    with pytest.raises(InputError, match="one after the other"):
        read(tmp_path / "1.tar", text_column="txt")


def test_samples_may_lack_a_text(tmp_path: Path) -> None:
    (tmp_path / "1.tar").write_bytes(tar(member(0), text(0), member(1), member(2), text(2), text(3)))
    rows = read(tmp_path / "1.tar", text_column="txt")
    assert list(zip(rows["url"].to_pylist(), rows["alt"].to_pylist(), strict=True)) == [
        *(("http://a/0", "t0"), ("http://a/1", ""), ("http://a/2", "t2"), ("", "t3"))
    ]


def test_a_note_beside_samples_without_texts_is_no_half_of_one(tmp_path: Path) -> None:
    (tmp_path / "1.tar").write_bytes(tar(("README.txt", b"hello"), *(member(at) for at in range(5))))
    assert read(tmp_path / "1.tar")["alt"].to_pylist() == ["", *(f"t{at}" for at in range(5))]


def test_members_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    (name, content), (text_name, words) = member(0), text(0)
    (tmp_path / "1.tar").write_bytes(tar((name, BOM + content), (text_name, BOM + words)))
    rows = read(tmp_path / "1.tar", text_column="txt")
    assert (rows["url"].to_pylist(), rows["alt"].to_pylist()) == (["http://a/0"], ["t0"])
