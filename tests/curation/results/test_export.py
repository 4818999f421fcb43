"""Exports, read back with the tools they are for."""

import io
import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset as wds
from PIL import Image
from run_fixture import make_run

from curation.results.export import IMG2DATASET, export_img2dataset, export_webdataset
from pairmill.errors import RunDirError, UserError
from pairmill.layout import PAIRS
from pairmill.store import Store


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A finished run, only to be read."""
    return make_run(tmp_path_factory.mktemp("finished"))


def pairs(store: Store) -> list[dict[str, Any]]:
    return [row for part in sorted(store.index(PAIRS)) for row in store.load(PAIRS, part).to_pylist()]


def samples(files: list[Path]) -> list[dict[str, Any]]:
    tars = [str(file) for file in files if file.suffix == ".tar"]
    return list(wds.WebDataset(tars, shardshuffle=False, nodesplitter=wds.split_by_node, empty_check=False))


def test_webdataset_reads_every_pair_in_order(finished: Store, tmp_path: Path) -> None:
    files = export_webdataset(finished, tmp_path / "tars", rows_per_shard=8)
    assert [file.name for file in files] == ["00000.tar", "00001.tar", "00002.tar", "sizes.json", "README.md"]
    read, packed = samples(files), pairs(finished)
    assert len(read) == len(packed) == 20
    assert [s["__key__"] for s in read[6:10]] == ["000000006", "000000007", "000010000", "000010001"]
    for sample, row in zip(read, packed, strict=True):
        assert sample["jpg"] == row["image"]["bytes"]
        assert sample["txt"].decode() == row["caption"]
        said = json.loads(sample["json"])
        assert (said["uid"], said["url"], said["alt"]) == (row["uid"], row["url"], row["alt"])
        assert [text["text"] for text in said["texts"]] == [text["text"] for text in row["texts"]]
        assert said["input"] == row["input"]
        assert "image" not in said


def test_open_clip_decodes_the_samples_and_counts_them(finished: Store, tmp_path: Path) -> None:
    from open_clip_train import data  # brings torch, for this test alone

    files = export_webdataset(finished, tmp_path / "tars", rows_per_shard=8)
    assert data.get_dataset_size(os.fspath(tmp_path / "tars" / "{00000..00002}.tar")) == (20, 3)
    for sample in samples(files):
        assert data.filter_no_caption_or_no_image(sample)
        assert Image.open(io.BytesIO(sample["jpg"])).size == (96, 64)


def test_a_sample_without_a_caption_has_an_empty_text(tmp_path: Path) -> None:
    read = samples(export_webdataset(without_some_captions(tmp_path), tmp_path / "tars"))
    assert sorted(s["txt"] for s in read) == [b"", b"ball"]
    assert sorted(json.loads(s["json"])["caption"] or "none" for s in read) == ["ball", "none"]


def without_some_captions(folder: Path) -> Store:
    """A run with two pairs, of which one has no caption."""
    rows = [{"url": "http://a.example/ok/1", "text": ""}, {"url": "http://a.example/ok/2", "text": "ball"}]
    return make_run(folder, rows, recaption=False, translate=False)


@pytest.mark.parametrize("streaming", [False, True])
def test_datasets_loads_the_tars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, streaming: bool) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    store = without_some_captions(tmp_path)
    # A hash from 2**63 on, which JSON numbers of most readers do not hold, and a number of the list like it.
    for at, part in enumerate(store.index(PAIRS)):
        rows = store.load(PAIRS, part)
        big = pa.array([2**63 + at + row for row in range(len(rows))], pa.uint64())
        rows = rows.set_column(rows.schema.get_field_index("phash"), "phash", big)
        rows = rows.drop_columns([name for name in ("input",) if name in rows.schema.names])
        own = pa.StructArray.from_arrays([big, pa.array([[1]] * len(rows), pa.list_(pa.uint64()))], names=["n", "m"])
        store.remove_shard(PAIRS, part)
        store.commit(PAIRS, part, "k", rows.append_column("input", own), {})
    packed = pairs(store)
    files = [str(file) for file in export_webdataset(store, tmp_path / "tars") if file.suffix == ".tar"]
    loaded = list(
        datasets.load_dataset(
            "webdataset", data_files=files, split="train", streaming=streaming, cache_dir=str(tmp_path / "cache")
        )
    )
    assert [row["json"]["uid"] for row in loaded] == [row["uid"] for row in packed]
    assert [row["json"]["phash"] for row in loaded] == [str(row["phash"]) for row in packed]
    assert [row["json"]["input"]["n"] for row in loaded] == [str(row["input"]["n"]) for row in packed]
    assert [row["txt"] or None for row in loaded] == [row["caption"] for row in packed]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("form", ["webdataset", "img2dataset"])
def test_the_folder_loads_with_columns_that_come_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, streaming: bool
) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    rows = [{"url": f"http://a.example/ok/{n}", "text": f"ball {n}"} for n in range(20)]
    rows[-1] |= {"licence": "cc0", "n": 3, "boxes": [[1, 2], [3]]}
    store = make_run(tmp_path, rows, recaption=False, translate=False)
    export = {"webdataset": export_webdataset, "img2dataset": export_img2dataset}[form]
    export(store, tmp_path / "out", rows_per_shard=5)
    folder = str(tmp_path / "out")
    loaded = list(datasets.load_dataset(folder, split="train", streaming=streaming, cache_dir=str(tmp_path / "cache")))
    assert len(loaded) == 20
    own = [row["json"]["input"] if form == "webdataset" else row for row in loaded]
    assert sorted(str(one["licence"]) for one in own) == ["None"] * 19 + ["cc0"]
    assert {one["n"] for one in own} == {None, 3}
    if form == "webdataset":
        assert {row["jpg"].size for row in loaded} == {(96, 64)}


def test_values_that_json_does_not_know(tmp_path: Path) -> None:
    store = make_run(tmp_path)
    part = store.load(PAIRS, 0).slice(0, 1)
    odd = {"day": pa.scalar(0, pa.date32()), "raw": pa.scalar(b"\x00\xff"), "nan": pa.scalar(float("nan"))}
    odd["price"] = pa.scalar("1.50").cast(pa.decimal128(5, 2))
    inner = pa.StructArray.from_arrays([pa.repeat(v, 1) for v in odd.values()], names=list(odd))
    store.remove_shard(PAIRS, 1)
    store.remove_shard(PAIRS, 2)
    store.commit(PAIRS, 0, "k", part.set_column(part.schema.get_field_index("input"), "input", inner), {})
    [sample] = samples(export_webdataset(store, tmp_path / "tars"))
    said = json.loads(sample["json"], parse_constant=pytest.fail)
    assert said["input"] == {"day": "1970-01-01", "raw": "AP8=", "nan": None, "price": "1.50"}


def test_equal_products_give_equal_files(finished: Store, tmp_path: Path) -> None:
    for export in (export_webdataset, export_img2dataset):
        one = export(finished, tmp_path / f"{export.__name__}-1", rows_per_shard=8)
        two = export(finished, tmp_path / f"{export.__name__}-2", rows_per_shard=8)
        assert [file.read_bytes() for file in one] == [file.read_bytes() for file in two]


def test_img2dataset_columns_in_its_order(finished: Store, tmp_path: Path) -> None:
    files = export_img2dataset(finished, tmp_path / "parquet", rows_per_shard=8)
    assert [file.name for file in files] == ["00000.parquet", "00001.parquet", "00002.parquet"]
    table = pa.concat_tables(pq.read_table(file) for file in files)
    assert table.schema.names == ["id", "uid", "caption", "url", *IMG2DATASET.names, "jpg"]
    rows, packed = table.to_pylist(), pairs(finished)
    assert [row["key"] for row in rows[6:9]] == ["000000006", "000000007", "000010000"]
    for row, pair in zip(rows, packed, strict=True):
        assert (row["uid"], row["url"], row["caption"]) == (pair["uid"], pair["url"], pair["caption"])
        assert (row["status"], row["error_message"], row["exif"]) == ("success", None, None)
        assert (row["width"], row["original_height"], row["sha256"]) == (96, 640, pair["sha256"])
        assert row["jpg"] == pair["image"]["bytes"]
        assert row["id"] == pair["input"]["id"]


def test_input_columns_with_its_names_get_a_prefix(tmp_path: Path) -> None:
    given = [{"url": "http://a.example/ok/1", "text": "a ball", "key": 5, "width": "w", "jpg": "j", "input_key": 6}]
    [file] = export_img2dataset(make_run(tmp_path, given), tmp_path / "parquet")
    [row] = pq.read_table(file).to_pylist()
    assert (row["key"], row["width"]) == ("000000000", 96)
    assert (row["input_key"], row["input_width"], row["input_jpg"], row["input_input_key"]) == (5, "w", "j", 6)


@pytest.mark.parametrize("rows_per_shard", [1, 3, 20, 10_000])
def test_files_hold_what_they_are_asked_to(finished: Store, tmp_path: Path, rows_per_shard: int) -> None:
    files = export_img2dataset(finished, tmp_path / "parquet", rows_per_shard=rows_per_shard)
    sizes = [pq.ParquetFile(file).metadata.num_rows for file in files]
    assert sum(sizes) == 20
    assert all(size == rows_per_shard for size in sizes[:-1]) and sizes[-1] <= rows_per_shard


def test_a_run_that_kept_nothing_gives_no_samples(tmp_path: Path) -> None:
    store = make_run(tmp_path, [{"url": "http://a.example/timeout/1", "text": "x"}])
    assert export_img2dataset(store, tmp_path / "parquet") == []
    sizes, _ = export_webdataset(store, tmp_path / "tars")
    assert json.loads(sizes.read_text()) == {}


def test_a_run_that_is_not_packed_is_refused(tmp_path: Path) -> None:
    store = make_run(tmp_path, upto="translate")
    for export in (export_webdataset, export_img2dataset):
        with pytest.raises(RunDirError, match="pairs"):
            export(store, tmp_path / "out")


def test_a_folder_that_holds_something_is_refused(finished: Store, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    for export in (export_webdataset, export_img2dataset):
        with pytest.raises(UserError, match="empty folder"):
            export(finished, tmp_path)


def test_pictures_of_two_formats_are_in_one_column(tmp_path: Path) -> None:
    store = make_run(tmp_path)
    part = store.load(PAIRS, 0)
    images = part["image"].to_pylist()
    images[-1]["path"] = images[-1]["path"].replace(".jpg", ".png")
    at = part.schema.get_field_index("image")
    store.commit(PAIRS, 0, "k", part.set_column(at, "image", pa.array(images, part.schema.field("image").type)), {})
    files = export_img2dataset(store, tmp_path / "parquet", rows_per_shard=len(part) - 1)
    assert [row["jpg"] for file in files for row in pq.read_table(file).to_pylist()] == [
        row["image"]["bytes"] for row in pairs(store)
    ]
