"""Columns as people's tools write them, and row groups larger than memory should be."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_datasets import jpeg

from pairmill.errors import RecipeError
from training.data import column_forms, row_groups
from training.data.config import DataConfig
from training.data.parquet import ParquetSource
from training.data.source import open_source
from training.evaluate import evaluated_rows
from training.evaluate.config import EvaluateDatasetConfig
from training.evaluate.evaluated_rows import read_rows

IMAGES = [jpeg(0), jpeg(1), jpeg(0)]
NUMBERS = [np.frombuffer(image, np.uint8) for image in IMAGES]
TEXTS = [["a cat", "eine Katze"], ["a dog", "ein Hund"], ["a cat", "eine Katze"]]

IMAGE_FORMS = {
    "dictionary": pa.array(IMAGES).dictionary_encode(),
    "large": pa.array(IMAGES, pa.large_binary()),
    "view": pa.array(IMAGES, pa.binary_view()),
    "numbers": pa.array(NUMBERS, pa.list_(pa.uint8())),
    "large numbers": pa.array(NUMBERS, pa.large_list(pa.uint8())),
    "struct of numbers": pa.array(
        [{"bytes": n, "path": None} for n in NUMBERS],
        pa.struct([("bytes", pa.list_(pa.uint8())), ("path", pa.string())]),
    ),
    "struct of views": pa.array([{"bytes": i} for i in IMAGES], pa.struct([("bytes", pa.binary_view())])),
}
TEXT_FORMS = {
    "lists": pa.array(TEXTS),
    "fixed": pa.array(TEXTS, pa.list_(pa.string(), 2)),
    "large": pa.array(TEXTS, pa.large_list(pa.large_string())),
    "views": pa.array(TEXTS, pa.list_(pa.string_view())),
    "dictionaries": pa.array(TEXTS, pa.list_(pa.dictionary(pa.int32(), pa.string()))),
    "json": pa.array([json.dumps(texts) for texts in TEXTS]),
    "json dictionary": pa.array([json.dumps(texts) for texts in TEXTS]).dictionary_encode(),
    "json of structs": pa.array([json.dumps([{"text": text} for text in texts]) for texts in TEXTS]),
}


def write(path: Path, **table: object) -> None:
    """A Parquet file; skips the test where this pyarrow, an older one, does not write such columns."""
    try:
        pq.write_table(pa.table(table), path)
    except pa.ArrowNotImplementedError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("form", IMAGE_FORMS)
def test_images(tmp_path: Path, form: str) -> None:
    write(tmp_path / "x.parquet", image=IMAGE_FORMS[form], text=["a", "b", "c"])
    source = open_source(str(tmp_path))
    assert source.read(0)["image"].to_pylist() == IMAGES
    assert source.read(0, 1, 2)["image"].to_pylist() == IMAGES[1:2]


@pytest.mark.parametrize("void", ["first", "second"])
@pytest.mark.parametrize(
    ("column", "kinds"),
    [
        ("image", [pa.null(), pa.struct([("bytes", pa.null()), ("path", pa.null())]), pa.list_(pa.null())]),
        ("caption", [pa.null(), pa.list_(pa.null()), pa.list_(pa.struct([("text", pa.null())]))]),
        ("uid", [pa.null()]),
        ("group_id", [pa.null()]),
        ("sha256", [pa.null()]),
        ("noise", [pa.null(), pa.list_(pa.null())]),
    ],
)
def test_a_part_without_any_value_of_a_column(tmp_path: Path, column: str, kinds: list[pa.DataType], void: str) -> None:
    whole = {"image": IMAGES, "caption": ["a", "b", "c"], "uid": ["1", "2", "3"], "group_id": [1, 2, 3]}
    whole |= {"sha256": ["1" * 64] * 3, "noise": [0.5] * 3}
    for number, kind in enumerate(kinds):
        folder = tmp_path / str(number)
        folder.mkdir()
        names = ("a", "b") if void == "first" else ("b", "a")
        write(folder / f"{names[0]}.parquet", **{**whole, column: pa.nulls(3, kind)})
        write(folder / f"{names[1]}.parquet", **whole)
        config = DataConfig(path=str(folder), columns={"noise_prob": "noise"})
        source = open_source(str(folder), config=config, asked=["noise_prob"])
        rows = [row for piece in range(2) for row in source.read(piece).to_pylist()]
        empty, full = (rows[:3], rows[3:]) if void == "first" else (rows[3:], rows[:3])
        assert [row["problem"] for row in rows] == [None] * 6
        assert [row["image"] for row in full] == IMAGES and [row["uid"] for row in full] == ["1", "2", "3"]
        assert [row["image"] for row in empty] == ([None] * 3 if column == "image" else IMAGES)
        assert [len(row["texts"]) for row in empty] == [0 if column == "caption" else 1] * 3
        assert [row["uid"] for row in empty] == (
            [f"{names[0]}.parquet/0/{n}" for n in range(3)] if column == "uid" else ["1", "2", "3"]
        )
        assert [row["group_id"] for row in empty] == ([-1] * 3 if column == "group_id" else [1, 2, 3])


@pytest.mark.parametrize("column", ["image", "caption"])
def test_a_column_without_any_value_in_any_file_is_refused(tmp_path: Path, column: str) -> None:
    write(tmp_path / "x.parquet", **{"image": IMAGES, "caption": ["a", "b", "c"], column: pa.nulls(3)})
    with pytest.raises(RecipeError, match="image" if column == "image" else "text"):
        open_source(str(tmp_path))
    write(tmp_path / "x.parquet", **{"image": IMAGES, "text": ["a", "b", "c"], "jpg": IMAGES, column: pa.nulls(3)})
    assert len(open_source(str(tmp_path)).read(0)) == 3


def test_a_fixed_number_of_bytes_and_nulls(tmp_path: Path) -> None:
    images = pa.array([[1, 2], None, [3, 4]], pa.list_(pa.uint8(), 2))
    write(tmp_path / "x.parquet", image=images, text=["a", "b", "c"])
    assert open_source(str(tmp_path)).read(0)["image"].to_pylist() == [b"\x01\x02", None, b"\x03\x04"]


@pytest.mark.parametrize("form", TEXT_FORMS)
def test_texts(tmp_path: Path, form: str) -> None:
    write(tmp_path / "x.parquet", image=IMAGES, captions=TEXT_FORMS[form])
    rows = open_source(str(tmp_path)).read(0).to_pylist()
    assert [[text["text"] for text in row["texts"]] for row in rows] == TEXTS
    assert [row["problem"] for row in rows] == [None] * 3


@pytest.mark.parametrize(
    "text", ["[1] a cat", "[a cat]", "[1, 2]", "[]", '["a", 1]', "[sic", '{"a": 1}', "[" * 99999 + "]"]
)
def test_a_text_in_brackets_is_a_text(text: str) -> None:
    assert column_forms.listed(text) == text


@given(st.lists(st.none() | st.binary(max_size=6), max_size=12), st.integers(0, 12), st.integers(0, 12))
def test_bytes_of_numbers_are_the_bytes(values: list[bytes | None], start: int, length: int) -> None:
    lists = pa.array([None if value is None else list(value) for value in values], pa.list_(pa.uint8()))
    column = pa.chunked_array([lists.slice(start, length), lists], lists.type)
    assert column_forms.image_bytes(column).to_pylist() == [*values[start : start + length], *values]


@pytest.fixture
def one_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, list[int]]]:
    """2,000 rows of 20 kB in one row group, as pandas and pyarrow write them; and each start of a stream of rows."""
    rng = np.random.default_rng(0)
    table = {"image": [rng.bytes(20_000) for _ in range(2000)], "text": [f"text {n}" for n in range(2000)]}
    # Pages of one megabyte: pyarrow looks at their size only after so many rows.
    pq.write_table(pa.table(table), tmp_path / "x.parquet", write_batch_size=50, use_dictionary=False)
    monkeypatch.setattr(row_groups, "LARGE_BYTES", 2**20)
    monkeypatch.setattr(row_groups, "_STEP_BYTES", 2**20)
    opened: list[int] = []
    stream = row_groups._OpenGroup

    class Counted(stream):  # type: ignore[misc,valid-type]
        def __init__(self, *given_: object) -> None:
            opened.append(1)
            super().__init__(*given_)

    monkeypatch.setattr(row_groups, "_OpenGroup", Counted)
    yield str(tmp_path), opened


def test_a_large_row_group_is_read_once_and_not_held(one_group: tuple[str, list[int]]) -> None:
    path, opened = one_group
    source = open_source(path)
    assert isinstance(source, ParquetSource) and source.rows.tolist() == [2000]
    before, most, seen = pa.total_allocated_bytes(), 0, []
    for start in range(0, 2000, 100):
        rows = source.read(0, start, start + 100)
        seen += [texts[0]["text"] for texts in rows["texts"].to_pylist()]
        most = max(most, pa.total_allocated_bytes() - before)
    assert seen == [f"text {n}" for n in range(2000)] and len(opened) == 1
    assert most < 2000 * 20_000 / 4


def test_any_rows_of_a_large_row_group_in_any_order(one_group: tuple[str, list[int]]) -> None:
    path, opened = one_group
    source = open_source(path)
    for start, stop in ((300, 310), (305, 320), (1990, None), (0, 5), (5, 5), (7, 2500), (1999, 2000)):
        rows = pickle.loads(pickle.dumps(source)).read(0, start, stop) if start == 305 else source.read(0, start, stop)
        wanted = range(2000)[start:stop]
        assert [texts[0]["text"] for texts in rows["texts"].to_pylist()] == [f"text {n}" for n in wanted]
        assert rows["uid"].to_pylist() == [f"x.parquet/0/{n}" for n in wanted]
    assert 1 < len(opened) <= 6


def test_evaluation_reads_a_large_row_group_in_parts(
    one_group: tuple[str, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, opened = one_group
    monkeypatch.setattr(evaluated_rows, "_ROWS", 100)
    before, most, count = pa.total_allocated_bytes(), 0, 0
    for row in read_rows(EvaluateDatasetConfig(path=path)):
        assert row.texts[0].text == f"text {count}"
        count += 1
        most = max(most, pa.total_allocated_bytes() - before)
    assert count == 2000 and len(opened) == 1
    assert most < 2000 * 20_000 / 4
