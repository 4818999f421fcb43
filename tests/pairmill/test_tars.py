from __future__ import annotations

import io
import tarfile
from collections import Counter
from pathlib import Path

import pytest
import webdataset as wds
from hypothesis import given
from hypothesis import strategies as st

from pairmill.tars import IMAGE_ENDINGS, printable, samples, split_name

KINDS = {**dict.fromkeys(IMAGE_ENDINGS, "image"), "txt": "text", "caption": "text", "json": "json"}
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


def cut(names: list[str], made_by: str = "image") -> tuple[list[tuple[str, dict[str, str]]], dict[str, int]]:
    """The samples of a tar with these names, each file standing for its own name, and what is left out."""
    left_out: Counter[str] = Counter()
    found = samples(
        (tarfile.TarInfo(name) for name in names), KINDS, lambda m: m.name, lambda kinds: made_by in kinds, left_out
    )
    return list(found), {reason: number for reason, number in left_out.items() if number}


@pytest.mark.parametrize(
    ("name", "key", "ending"),
    [
        ("0001.jpg", "0001", "jpg"),
        ("train/0001.seg.PNG", "train/0001", "seg.png"),
        ("v1.5/0001.txt", "v1.5/0001", "txt"),
        ("./0001.txt", "./0001", "txt"),
    ],
)
def test_the_key_goes_to_the_first_dot_of_the_last_part(name: str, key: str, ending: str) -> None:
    assert split_name(name) == (key, ending)


@pytest.mark.parametrize("mode", ["r:", "r|"])
def test_a_sample_is_files_in_a_row_with_one_key(tmp_path: Path, mode: str) -> None:
    path, left_out = write(tmp_path / "x.tar", NAMES), Counter[str]()
    with path.open("rb") as stream, tarfile.open(fileobj=stream, mode=mode) as tar:  # type: ignore[call-overload]

        def content(member: tarfile.TarInfo) -> str:
            opened = tar.extractfile(member)
            assert opened is not None
            return opened.read().decode()

        found = list(samples(tar, KINDS, content, bool, left_out))
    assert found == [
        ("a/1", {"image": "a/1.jpg", "json": "a/1.json"}),
        ("a/2", {"image": "a/2.JPG"}),
        ("b/2", {"text": "b/2.txt"}),
        ("a/1", {"text": "a/1.txt"}),
        ("v.d/4", {"image": "v.d/4.jpg", "text": "v.d/4.txt"}),
    ]
    assert left_out == {"other": 1, "no_ending": 1}


@pytest.mark.parametrize(
    ("names", "keys", "left_out"),
    [
        (["v1.5.jpg", "v1.5.txt", "v1.6.jpg", "v1.6.txt"], ["v1.5", "v1.6"], {}),
        (["img.1.json", "img.1.jpg"], ["img.1"], {}),
        (["v1.5.jpg", "v1.6.jpg", "v1.6.txt", "v1.5.txt"], ["v1.5", "v1.6"], {}),
        (["x.y.z.JPG", "x.y.z.txt"], ["x.y.z"], {}),
        # As in webdataset where it finds an image: the other names are other files of that sample.
        (["1.jpg", "1.seg.png", "1.txt"], ["1"], {"other": 1}),
        (["1.seg.npz", "1.txt"], [], {"no_sample": 2}),
        (["1.JPEG", "1.Caption"], ["1"], {}),
        # Of two images, the one whose ending is listed first.
        (["1.png", "1.jpg"], ["1"], {"other": 1}),
        # What macOS puts between the files of a sample.
        (["._1.jpg", "1.jpg", "._1.txt", "1.txt", ".DS_Store"], ["1"], {"hidden": 3}),
        (["a/1.jpg", "a/._1.txt", "a/1.txt"], ["a/1"], {"hidden": 1}),
        (["1.jpg", "README", "1.txt"], ["1"], {"no_ending": 1}),
        # All images before all texts.
        (["1.jpg", "2.jpg", "1.txt", "2.txt"], ["1", "2"], {"no_sample": 2}),
    ],
)
def test_names_that_readers_lose_or_disagree_on(names: list[str], keys: list[str], left_out: dict[str, int]) -> None:
    found, counts = cut(names)
    assert [key for key, _ in found] == keys
    assert counts == left_out
    for key, files in found:
        assert all(name.startswith(key + ".") for name in files.values())


def test_a_name_twice_begins_another_sample() -> None:
    found, counts = cut(["1.jpg", "1.txt", "1.jpg", "1.txt", "1.TXT"])
    both = {"image": "1.jpg", "text": "1.txt"}
    assert found == [("1", both), ("1", both)]
    assert counts == {"no_sample": 1}


def test_links_and_sparse_files_are_left_out() -> None:
    link, sparse, plain = (tarfile.TarInfo(name) for name in ("1.jpg", "1.png", "1.webp"))
    link.type, sparse.sparse = tarfile.SYMTYPE, [(0, 10)]  # type: ignore[attr-defined]
    left_out: Counter[str] = Counter()
    found = list(samples([link, sparse, plain], KINDS, lambda m: m.name, lambda kinds: "image" in kinds, left_out))
    assert found == [("1", {"image": "1.webp"})] and left_out["no_content"] == 2


def test_a_tar_of_dotted_names_is_not_held_in_memory() -> None:
    seen: list[str] = []

    def names() -> list[tarfile.TarInfo]:
        return [tarfile.TarInfo(f"set.{n:05}.{ending}") for n in range(1000) for ending in ("jpg", "txt")]

    def load(member: tarfile.TarInfo) -> str:
        seen.append(member.name)
        return member.name

    found = samples(names(), KINDS, load, lambda kinds: "image" in kinds, Counter())
    for n, (key, files) in enumerate(found):
        assert (key, len(files)) == (f"set.{n:05}", 2)
        assert len(seen) < 2 * n + 200
    assert n == 999


@given(
    st.lists(st.sampled_from(["jpg", "txt", "json", "seg.png", "1.jpg", "1.txt", "2.txt", "npz", "._"]), max_size=40)
)
def test_no_file_is_used_twice_or_lost_uncounted(endings: list[str]) -> None:
    names = [f"._{n // 5}.jpg" if ending == "._" else f"{n // 5}.{ending}" for n, ending in enumerate(endings)]
    left_out: Counter[str] = Counter()
    members = [tarfile.TarInfo(name) for name in names]
    found = list(samples(members, KINDS, lambda m: id(m), bool, left_out))
    used = [file for _, files in found for file in files.values()]
    assert len(used) == len(set(used)) and set(used) <= set(map(id, members))
    # A sample that is none has at least one file.
    assert len(used) + left_out["other"] + left_out["hidden"] + left_out["no_sample"] <= len(names)
    if not left_out["no_sample"]:
        assert len(used) + left_out["other"] + left_out["hidden"] == len(names)


def test_names_that_are_not_utf8_can_be_stored() -> None:
    name = b"caf\xe9.jpg".decode("utf-8", "surrogateescape")
    assert printable(name) == "caf\\xe9.jpg"
    assert printable("café.jpg") == "café.jpg"
    assert [key for key, _ in cut([name])[0]] == ["caf\\xe9"]


def test_webdataset_cuts_the_same_samples(tmp_path: Path) -> None:
    path = write(tmp_path / "x.tar", ["._9.jpg", "README", *NAMES, ".DS_Store"])
    kinds = {ending: ending for ending in ("jpg", "json", "seg.png", "txt")}
    with tarfile.open(path) as tar:
        ours = [(key, sorted(files)) for key, files in samples(tar, kinds, lambda m: m, bool, Counter())]
    theirs = [
        (sample["__key__"], sorted(name for name in sample if not name.startswith("__")))
        for sample in wds.WebDataset(str(path), shardshuffle=False)
    ]
    assert ours == theirs
