"""One bad part of a list: named with file, row and column, or left out and counted."""

from __future__ import annotations

import gzip
import io
import json
import logging
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from listed import own, read

from curation.inputs import InputConfig
from curation.plan import ShardsConfig, plan
from pairmill.errors import InputError
from pairmill.store import Store

ROW = {"url": "http://a/1", "text": "a red car"}


def parquet(path: Path, **columns: object) -> Path:
    pq.write_table(pa.table({**{name: [value] for name, value in ROW.items()}, **columns}), path)
    return path


def jsonl(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("2.jsonl", b""),
        ("2.jsonl", b"\n \n"),
        ("2.csv", b""),
        ("2.csv", b"\r\n\r\n"),
        ("2.csv", b"\xef\xbb\xbf"),
        ("2.csv", b"url,text,n\n"),
        ("2.tsv", b""),
        ("2.txt", b""),
        ("2.jsonl.gz", gzip.compress(b"", mtime=0)),
        ("2.csv.gz", gzip.compress(b"", mtime=0)),
    ],
)
def test_a_part_without_rows_has_none(tmp_path: Path, name: str, content: bytes) -> None:
    jsonl(tmp_path / "1.jsonl", ROW)
    (tmp_path / name).write_bytes(content)
    assert read(tmp_path)["alt"].to_pylist() == ["a red car"]


def test_an_empty_tar_has_no_rows(tmp_path: Path) -> None:
    jsonl(tmp_path / "1.jsonl", ROW)
    tarfile.open(tmp_path / "2.tar", "w").close()
    assert len(read(tmp_path)) == 1


def test_a_part_of_nulls_takes_the_types_of_the_others(tmp_path: Path) -> None:
    jsonl(tmp_path / "1.jsonl", ROW | {"n": None, "url": None})
    jsonl(tmp_path / "2.jsonl", ROW | {"n": 7})
    assert own(read(tmp_path), "n") == [None, 7]


def test_missing_values_of_pandas_are_no_texts(tmp_path: Path) -> None:
    parquet(tmp_path / "1.parquet", text=pa.array([float("nan")]))
    parquet(tmp_path / "2.parquet", text=pa.array([None]))
    assert read(tmp_path)["alt"].to_pylist() == ["", ""]


def bad_parquet(folder: Path) -> tuple[Path, tuple[str, ...]]:
    return parquet(folder / "2.parquet", text=pa.array([b"\xff"])), ("row 1", "'text'")


def unchecked(*values: bytes) -> pa.Array:
    """A column that says it holds UTF-8, as a writer that does not check leaves it."""
    binary = pa.array(values, pa.binary())
    return pa.Array.from_buffers(pa.string(), len(values), binary.buffers())


def text_that_is_not_utf8(folder: Path) -> tuple[Path, tuple[str, ...]]:
    table = pa.table({"url": ["http://a/1", "http://a/2"], "text": unchecked(b"x", b"caf\xe9")})
    pq.write_table(table, folder / "2.parquet", row_group_size=1)
    return folder / "2.parquet", ("row 2", "'text'")


def url_that_is_not_utf8(folder: Path) -> tuple[Path, tuple[str, ...]]:
    pq.write_table(pa.table({"url": unchecked(b"http://a/\xff"), "text": ["x"]}), folder / "2.parquet")
    return folder / "2.parquet", ("row 1", "'url'")


def nested_text_that_is_not_utf8(folder: Path) -> tuple[Path, tuple[str, ...]]:
    tags = pa.ListArray.from_arrays([0, 1, 1, 3], unchecked(b"a", b"b", b"\xed\xa0\xbd"))
    own = pa.StructArray.from_arrays([tags], ["tags"])
    pq.write_table(pa.table({"url": ["http://a/1"] * 3, "text": ["x"] * 3, "own": own}), folder / "2.parquet")
    return folder / "2.parquet", ("row 3", "'own'")


def word_that_is_not_utf8(folder: Path) -> tuple[Path, tuple[str, ...]]:
    words = pa.DictionaryArray.from_arrays(pa.array([0, 1], pa.int8()), unchecked(b"a", b"\x80"))
    pq.write_table(pa.table({"url": ["http://a/1"] * 2, "text": ["x"] * 2, "own": words}), folder / "2.parquet")
    return folder / "2.parquet", ("'own'",)


def duplicate_column(folder: Path) -> tuple[Path, tuple[str, ...]]:
    table = pa.table([["http://a/1"], ["x"], ["y"]], names=["url", "text", "text"])
    pq.write_table(table, folder / "2.parquet")
    return folder / "2.parquet", ("'text'", "twice")


def duplicate_csv_column(folder: Path) -> tuple[Path, tuple[str, ...]]:
    (folder / "2.csv").write_text("url,text,,\nhttp://a/1,x,,\n")
    return folder / "2.csv", ("''", "twice")


def key_twice(folder: Path) -> tuple[Path, tuple[str, ...]]:
    (folder / "2.jsonl").write_text(json.dumps(ROW) + '\n{"url": "http://a/2", "text": "x", "text": "y"}\n')
    return folder / "2.jsonl", ("line 2", "'text'", "twice")


def inner_key_twice(folder: Path) -> tuple[Path, tuple[str, ...]]:
    (folder / "2.jsonl").write_text('{"url": "http://a/2", "text": "x", "own": [{"a": 1, "\\u0061": 1}]}\n')
    return folder / "2.jsonl", ("line 1", "'a'", "twice")


def key_twice_in_a_tar(folder: Path) -> tuple[Path, tuple[str, ...]]:
    with tarfile.open(folder / "2.tar", "w") as tar:
        content = b'{"url": "http://a/2", "text": "x", "url": "http://a/3"}'
        header = tarfile.TarInfo("sample/1.json")
        header.size = len(content)
        tar.addfile(header, io.BytesIO(content))
    return folder / "2.tar", ("sample/1.json", "'url'", "twice")


def surrogate(folder: Path) -> tuple[Path, tuple[str, ...]]:
    (folder / "2.jsonl").write_text(json.dumps(ROW) + '\n\n{"url": "http://a/2", "text": "half \\ud83d"}\n')
    return folder / "2.jsonl", ("line 3", "'text'")


def surrogate_in_a_key(folder: Path) -> tuple[Path, tuple[str, ...]]:
    (folder / "2.jsonl").write_text('{"url": "http://a/2", "text": "x", "\\udc00": 1}\n')
    return folder / "2.jsonl", ("line 1",)


def not_utf8(folder: Path) -> tuple[Path, tuple[str, ...]]:
    (folder / "2.csv").write_bytes(b"url,text\nhttp://a/1,x\nhttp://a/2,caf\xe9\n")
    return folder / "2.csv", ("line 3", "'text'")


def ragged(folder: Path) -> tuple[Path, tuple[str, ...]]:
    (folder / "2.csv").write_text("url,text\nhttp://a/1,x\nhttp://a/2,a, b\n")
    return folder / "2.csv", ("line 3", "3 values")


def too_deep(folder: Path) -> tuple[Path, tuple[str, ...]]:
    (folder / "2.jsonl").write_text(json.dumps(ROW) + "\n" + "[" * 200_000 + "\n")
    return folder / "2.jsonl", ("line 2",)


def torn_tar(folder: Path) -> tuple[Path, tuple[str, ...]]:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        header = tarfile.TarInfo("sample/1.json")
        content = json.dumps(ROW | {"text": "\xe9"}, ensure_ascii=False).encode("latin-1")
        header.size = len(content)
        tar.addfile(header, io.BytesIO(content))
    (folder / "2.tar").write_bytes(stream.getvalue())
    return folder / "2.tar", ("sample/1.json",)


def torn_gzip(folder: Path) -> tuple[Path, tuple[str, ...]]:
    whole = gzip.compress("".join(f"http://a/{at}\n" for at in range(10_000)).encode())
    (folder / "2.txt.gz").write_bytes(whole[:-500])
    return folder / "2.txt.gz", ()


def empty_parquet(folder: Path) -> tuple[Path, tuple[str, ...]]:
    (folder / "2.parquet").write_bytes(b"")
    return folder / "2.parquet", ()


BAD = [
    *(bad_parquet, duplicate_column, duplicate_csv_column, surrogate, surrogate_in_a_key, not_utf8, ragged),
    *(text_that_is_not_utf8, url_that_is_not_utf8, nested_text_that_is_not_utf8, word_that_is_not_utf8),
    *(key_twice, inner_key_twice, key_twice_in_a_tar),
    *(too_deep, torn_tar, torn_gzip, empty_parquet),
]


@pytest.mark.parametrize("make", BAD)
def test_a_bad_part_is_named_with_row_and_column(tmp_path: Path, make: object) -> None:
    jsonl(tmp_path / "1.jsonl", ROW)
    file, named = make(tmp_path)  # type: ignore[operator]
    with pytest.raises(InputError) as error:
        read(tmp_path)
    assert all(part in str(error.value.value) for part in (str(file), *named)), error.value


@pytest.mark.parametrize("make", BAD)
def test_a_bad_part_can_be_left_out_and_is_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, make: object
) -> None:
    folder = tmp_path / "list"
    folder.mkdir()
    jsonl(folder / "1.jsonl", ROW)
    file, _ = make(folder)  # type: ignore[operator]
    store = Store(str(tmp_path / "run"))
    given = InputConfig(path=str(folder), bad_files="skip")
    made = plan(store, given, ShardsConfig())
    assert made.rows == 1
    assert [one.place for one in made.inputs[0].skipped] == [str(file)]
    assert [one.place for one in made.inputs[0].files] == [str(folder / "1.jsonl")]
    # The same list is the same run.
    caplog.set_level(logging.WARNING)
    assert plan(store, given, ShardsConfig()) == made


def test_a_list_of_bad_parts_alone_is_refused(tmp_path: Path) -> None:
    surrogate(tmp_path)
    with pytest.raises(InputError, match="line 3"):
        read(tmp_path, bad_files="skip")


def test_a_plan_without_bad_parts_does_not_speak_of_them(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "run"))
    plan(store, InputConfig(path=str(jsonl(tmp_path / "1.jsonl", ROW))), ShardsConfig())
    recorded = store.read_json("plan/plan.json")["inputs"][0]
    assert {"skipped", "quoting"}.isdisjoint(recorded)
