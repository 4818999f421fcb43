"""Items of evaluation sets of every form; nothing that is broken is passed over."""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
from PIL import Image
from run_fixture import make_run

from curation.decontamination.evaluation_set import EvaluationSet, Item, evaluation_set
from pairmill.errors import RecipeError

TEXT = pa.struct([("text", pa.string()), ("language", pa.string())])


def png(colour: str) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(stream, "PNG")
    return stream.getvalue()


def items(given: EvaluationSet) -> list[Item]:
    return [item for number in range(len(given.pieces)) for item in given.items(number)]


def tar(path: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as packed:  # type: ignore[call-overload]
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            packed.addfile(info, io.BytesIO(data))
    return path


def test_a_folder_has_pictures_and_the_captions_beside_them(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "one.png").write_bytes(png("red"))
    (tmp_path / "a" / "one.txt").write_text("a red square\n\n  another caption \n")
    (tmp_path / "two.JPG").write_bytes(b"no picture at all")
    (tmp_path / "bare").write_bytes(png("blue"))  # known by its first bytes
    (tmp_path / "labels.csv").write_text("one,red\n")
    (tmp_path / "notes.txt").write_text("beside no picture")
    given = evaluation_set(str(tmp_path))
    assert {item.name: item.captions for item in items(given)} == {
        "a/one.png": ("a red square", "another caption"),
        "two.JPG": (),
        "bare": (),
    }
    assert dict(given.pieces[0].others) == {"csv": 1, "txt": 1}


@pytest.mark.parametrize("name", ["s.tar", "s.tar.gz", "s.tgz"])
def test_tars_have_samples(tmp_path: Path, name: str) -> None:
    members = {
        "a/0.png": png("red"),
        "a/0.txt": b"a red square",
        "a/1.json": json.dumps({"caption": "of a json", "n": 1}).encode(),
        "a/1.webp": png("blue"),
        "a/2.txt": b"a caption alone",
    }
    path = tar(tmp_path / name, members, "w" if name == "s.tar" else "w:gz")
    found = items(evaluation_set(str(path)))
    assert [(one.name, one.image is not None, one.captions) for one in found] == [
        (f"{name}/a/0", True, ("a red square",)),
        (f"{name}/a/1", True, ("of a json",)),
        (f"{name}/a/2", False, ("a caption alone",)),
    ]


@pytest.mark.parametrize(
    ("column", "type_", "values", "captions"),
    [
        ("caption", pa.string(), ["one", None], [("one",), ()]),
        ("captions", pa.list_(pa.string()), [["one", " two "], []], [("one", "two"), ()]),
        (
            "texts",
            pa.list_(pa.struct([("text", pa.string()), ("language", pa.string())])),
            [[{"text": "x"}], None],
            [("x",), ()],
        ),
        ("text", pa.large_string(), ["一只狗", ""], [("一只狗",), ()]),
    ],
)
def test_parquet_has_captions_of_any_form(
    tmp_path: Path, column: str, type_: pa.DataType, values: list[Any], captions: list[Any]
) -> None:
    pictures = pa.array(
        [{"bytes": png("red"), "path": "x"}, None], pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    )
    pq.write_table(pa.table({"image": pictures, column: pa.array(values, type_)}), tmp_path / "p.parquet")
    found = items(evaluation_set(str(tmp_path)))
    assert [one.captions for one in found] == captions
    assert [(one.image is not None, one.status) for one in found] == [(True, ""), (False, "no_picture")]
    assert [one.name for one in found] == ["p.parquet#0", "p.parquet#1"]


def test_the_product_of_a_run_is_a_set_too(tmp_path: Path) -> None:
    store = make_run(tmp_path, recaption=False, translate=False)
    packed = pa.concat_tables([store.load("pairs", part) for part in sorted(store.index("pairs"))])
    found = items(evaluation_set(store.path("pairs")))
    assert [one.image for one in found] == [picture["bytes"] for picture in packed["image"].to_pylist()]
    assert [one.captions for one in found] == [(text,) for text in packed["caption"].to_pylist()]


def test_columns_may_be_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"foto": [png("red")], "said": ["x"]}), tmp_path / "p.parquet")
    (one,) = items(evaluation_set(str(tmp_path), "foto", "said"))
    assert one.image == png("red") and one.captions == ("x",)
    evaluation_set(str(tmp_path), "foto").check()
    with pytest.raises(RecipeError, match="must have pictures or captions"):
        evaluation_set(str(tmp_path)).check()
    with pytest.raises(RecipeError, match="image_column of an evaluation set must be a column"):
        evaluation_set(str(tmp_path), "photo").check()


def test_columns_of_a_usual_name_must_hold_what_they_are_called(tmp_path: Path) -> None:
    columns = {"image": [7], "jpg": [png("red")], "captions": [[3]], "caption": [1.5], "text": ["x"], "id": ["y"]}
    pq.write_table(pa.table(columns), tmp_path / "p.parquet")
    (one,) = items(evaluation_set(str(tmp_path)))
    assert one.image == png("red") and one.captions == ("x",)
    for image, text in (("image", None), ("id", None), (None, "caption"), (None, "jpg")):
        with pytest.raises(RecipeError, match=r"must be a column of (encoded pictures|texts)"):
            evaluation_set(str(tmp_path), image, text).check()


def test_a_caption_has_the_whole_name_of_its_picture(tmp_path: Path) -> None:
    (tmp_path / "v.1").mkdir()
    for name in ("v.1/bare", "v.1/other.png", "v.1/two.tones.png"):
        (tmp_path / name).write_bytes(png("red"))
    for name in ("v", "v.1/bare", "v.1/two.tones", "v.1/two"):
        (tmp_path / f"{name}.txt").write_text(name)
    captions = {one.name: one.captions for one in items(evaluation_set(str(tmp_path)))}
    assert captions == {"v.1/bare": ("v.1/bare",), "v.1/other.png": (), "v.1/two.tones.png": ("v.1/two.tones",)}


def test_captions_that_change_far_away_are_noticed(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png("red"))
    (tmp_path / "a.txt").write_text("x")

    def far() -> EvaluationSet:
        return evaluation_set(str(tmp_path))._replace(filesystem=pafs.SubTreeFileSystem("/", pafs.LocalFileSystem()))

    before = far().content(0)
    assert far().content(0) == before and items(far())[0].captions == ("x",)
    (tmp_path / "a.txt").write_text("another caption")
    assert far().content(0) != before


def test_a_set_without_anything_is_refused(tmp_path: Path) -> None:
    (tmp_path / "readme.md").write_text("x")
    for path in (tmp_path, tmp_path / "gone"):
        with pytest.raises(RecipeError, match="must lead to pictures, Parquet files or tars"):
            evaluation_set(str(path))


def test_files_that_break_off_are_items_with_their_error(tmp_path: Path) -> None:
    whole = tar(tmp_path / "whole.tar", {f"{n}.png": png("red") + bytes(2000) for n in range(4)})
    data = whole.read_bytes()
    whole.unlink()
    (tmp_path / "cut.tar").write_bytes(data[: len(data) // 2])
    (tmp_path / "cut.tgz").write_bytes(b"\x1f\x8b\x08\x00 no gzip")
    (tmp_path / "cut.parquet").write_bytes(b"PAR1 and no more")
    given = evaluation_set(str(tmp_path))
    given.check()
    found = items(given)
    broken = {one.name: one for one in found if one.status == "unreadable_file"}
    assert broken.keys() == {"cut.tar", "cut.tgz", "cut.parquet"} and all(one.error for one in broken.values())
    assert {"cut.tar/0"} <= {one.name for one in found}


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_a_file_that_may_not_be_read_is_an_item(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png("red"))
    (tmp_path / "a.png").chmod(0)
    assert [one.status for one in items(evaluation_set(str(tmp_path)))] == ["unreadable_file"]


def test_a_file_that_is_gone_meanwhile_is_an_item(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png("red"))
    given = evaluation_set(str(tmp_path))
    (tmp_path / "a.png").unlink()
    assert [one.status for one in items(given)] == ["unreadable_file"]
    gone = given.content(0)
    (tmp_path / "a.png").write_bytes(png("red"))
    assert evaluation_set(str(tmp_path)).content(0) != gone


def test_a_set_is_known_by_its_bytes_and_not_by_place_or_time(tmp_path: Path) -> None:
    one = tmp_path / "one"
    one.mkdir()
    (one / "a.png").write_bytes(png("red"))
    (one / "a.txt").write_text("x")
    before = evaluation_set(str(one)).content(0)
    os.utime(one / "a.png", (1, 1))
    assert evaluation_set(str(one)).content(0) == before
    shutil.copytree(one, tmp_path / "two")
    assert evaluation_set(str(tmp_path / "two")).content(0) == before
    (one / "a.txt").write_text("y")
    assert evaluation_set(str(one)).content(0) != before
    (one / "a.txt").write_text("x")
    (one / "a.png").write_bytes(png("blue"))
    assert evaluation_set(str(one)).content(0) != before
