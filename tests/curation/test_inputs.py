import bz2
import gzip
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation.inputs import InputConfig, extra_fields, find_files, read_rows
from pairmill.errors import InputError

ROWS = [
    {"url": "http://a/1", "text": "red apple", "n": 7, "note": None},
    {"url": "http://a/2", "text": 'two\nlines, "quoted"', "n": 8, "note": "x"},
    {"url": "http://a/3", "text": "红苹果", "n": 9, "note": "y"},
]


def write(path: Path, rows: list[dict[str, object]]) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix in (".csv", ".tsv"):
        import csv

        with path.open("w", newline="", encoding="utf-8") as f:
            writer = csv.DictWriter(f, fieldnames=list(rows[0]), delimiter="," if path.suffix == ".csv" else "\t")
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8")
    elif path.suffix == ".txt":
        path.write_text("\n".join(str(r["url"]) for r in rows), encoding="utf-8")
    elif path.suffix == ".tar":
        with tarfile.open(path, "w") as tar:
            for i, row in enumerate(rows):
                for ending, content in (("jpg", b"\xff\xd8"), ("json", json.dumps(row).encode()), ("txt", b"t%d" % i)):
                    info = tarfile.TarInfo(f"shard/{i:05d}.{ending}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
    return path


def read(config: InputConfig) -> pa.Table:
    files = find_files(config)
    extra = extra_fields(files, config)
    return pa.concat_tables([batch for file in files for batch in read_rows(file, config, extra)])


def test_samples_of_a_tar_whose_names_other_readers_lose(tmp_path: Path) -> None:
    names = [
        "img.1.json",
        "img.1.jpg",
        "._2.json",
        "v2.json",
        "._2.txt",
        "v2.Caption",
        "v2.json",
        "img.3.JSON",
        "x.jpg",
    ]
    with tarfile.open(tmp_path / "LIST.TAR", "w") as tar:
        for number, name in enumerate(names):
            url = f"http://a.b/{number}"
            content = json.dumps({"url": url}).encode() if name.lower().endswith("json") else b"a caption"
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    config = InputConfig(path=str(tmp_path), text_column="txt")
    assert read(config)["url"].to_pylist() == [f"http://a.b/{number}" for number in (0, 3, 6, 7)]
    assert read(config)["alt"].to_pylist() == ["", "a caption", "", ""]
    (file,) = find_files(config)
    extra_fields([file], config)
    assert file.left_out == {"hidden": 2, "other": 1, "no_sample": 1}


@pytest.mark.parametrize("ending", ["parquet", "csv", "tsv", "jsonl", "tar"])
def test_every_format_gives_url_alt_and_the_other_columns(tmp_path: Path, ending: str) -> None:
    rows = read(InputConfig(path=str(write(tmp_path / f"list.{ending}", ROWS))))
    assert rows["url"].to_pylist() == [r["url"] for r in ROWS]
    assert rows["alt"].to_pylist() == [r["text"] for r in ROWS]
    numbers = [x["n"] for x in rows["input"].to_pylist()]
    assert numbers == (["7", "8", "9"] if ending in ("csv", "tsv") else [7, 8, 9])


def test_txt_is_urls_without_texts(tmp_path: Path) -> None:
    rows = read(InputConfig(path=str(write(tmp_path / "list.txt", ROWS))))
    assert rows.schema.names == ["url", "alt"]
    assert rows["alt"].to_pylist() == ["", "", ""]


def test_csv_keeps_values_as_written(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_text("url,text,id\nhttp://a/1,NA,007\nhttp://a/2,,1e3\n")
    rows = read(InputConfig(path=str(path)))
    assert rows["alt"].to_pylist() == ["NA", ""]
    assert [x["id"] for x in rows["input"].to_pylist()] == ["007", "1e3"]


def test_compressed_files_and_globs(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for name in ("a/1.jsonl.gz", "a/2.jsonl.gz"):
        (tmp_path / name).write_bytes(gzip.compress(json.dumps(ROWS[0]).encode()))
    (tmp_path / "a" / "readme.md").write_text("not a list")
    assert len(read(InputConfig(path=str(tmp_path / "a")))) == 2
    assert len(read(InputConfig(path=str(tmp_path / "a" / "2.*")))) == 1
    assert len(read(InputConfig(path=str(tmp_path / "*" / "*.gz")))) == 2
    assert len(read(InputConfig(path=str(tmp_path / "a" / "{1..9}.jsonl.gz")))) == 2


def test_a_folder_holds_other_files_and_a_pattern_does_not(tmp_path: Path) -> None:
    for name in ("1.jsonl", "deeper/2.jsonl", ".hidden.jsonl", "_manifest/3.jsonl", "readme.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps(ROWS[0]))
    found = [Path(file.path).name for file in find_files(InputConfig(path=str(tmp_path)))]
    assert found == ["1.jsonl", "2.jsonl"]
    assert len(find_files(InputConfig(path=str(tmp_path / "*.jsonl")))) == 1
    with pytest.raises(InputError, match=r"input\.format"):
        find_files(InputConfig(path=str(tmp_path / "*")))


def test_files_of_one_list_may_have_different_columns(tmp_path: Path) -> None:
    write(tmp_path / "1.parquet", [{"url": "u", "text": "t", "n": 1}])
    write(tmp_path / "2.parquet", [{"url": "v", "text": "s", "m": "x"}])
    assert read(InputConfig(path=str(tmp_path)))["input"].to_pylist() == [{"n": 1, "m": None}, {"n": None, "m": "x"}]


def test_jsonl_types(tmp_path: Path) -> None:
    path = tmp_path / "list.jsonl"
    records = [
        {"url": "u", "text": "t", "i": 1, "f": 1, "mixed": 1, "deep": {"a": [1]}, "never": None},
        {"url": "v", "text": "s", "i": 2, "f": 1.5, "mixed": "one", "deep": None, "never": None},
    ]
    path.write_text("\n".join(map(json.dumps, records)))
    first, second = read(InputConfig(path=str(path)))["input"].to_pylist()
    assert first == {"i": 1, "f": 1.0, "mixed": "1", "deep": '{"a": [1]}', "never": None}
    assert second == {"i": 2, "f": 1.5, "mixed": "one", "deep": None, "never": None}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("list.parquet", b"PAR1 this is no parquet file"),
        ("list.parquet", b""),
        ("list.jsonl", b'{"url": "u", "text": "t"}\n{"url": '),
        ("list.jsonl", b'["u", "t"]\n'),
        ("list.jsonl", b'{"url": "\xff\xfe"}\n'),
        ("list.csv", b"url,text\na,b\nc,d,e\n"),
        ("list.jsonl.gz", b"not gzip"),
        ("list.tar", b"not a tar" * 100),
    ],
)
def test_a_malformed_file_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as error:
        read(InputConfig(path=str(tmp_path / name)))
    assert name in str(error.value.value)
    assert error.value.exit_code == 2


def test_a_missing_column_names_its_neighbours(tmp_path: Path) -> None:
    write(tmp_path / "list.parquet", [{"URL": "u", "TEXT": "t"}])
    with pytest.raises(InputError, match="URL"):
        read(InputConfig(path=str(tmp_path), url_column="Url", text_column=None))
    with pytest.raises(InputError, match="text_column"):
        read(InputConfig(path=str(tmp_path), url_column="URL", text_column="text"))


@pytest.mark.parametrize("path", ["nowhere", "nowhere/*.parquet"])
def test_no_input_at_all(tmp_path: Path, path: str) -> None:
    with pytest.raises(InputError, match="at least one"):
        find_files(InputConfig(path=str(tmp_path / path)))


def test_an_unknown_ending_asks_for_the_format(tmp_path: Path) -> None:
    (tmp_path / "list.dat").write_text("http://a/1\n")
    with pytest.raises(InputError, match=r"input\.format"):
        find_files(InputConfig(path=str(tmp_path / "list.dat")))
    assert len(read(InputConfig(path=str(tmp_path / "list.dat"), format="txt"))) == 1


@given(st.lists(st.tuples(st.text(min_size=1), st.text()), min_size=1, max_size=20))
def test_jsonl_carries_any_text(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]) -> None:
    path = tmp_path_factory.mktemp("jsonl") / "list.jsonl"
    encodable = [(u.encode("utf-8", "replace").decode(), t.encode("utf-8", "replace").decode()) for u, t in rows]
    path.write_text("".join(json.dumps({"url": u, "text": t}) + "\n" for u, t in encodable), encoding="utf-8")
    table = read(InputConfig(path=str(path)))
    assert list(zip(table["url"].to_pylist(), table["alt"].to_pylist(), strict=True)) == encodable


@pytest.mark.parametrize("header", ["URL,TEXT", "TEXT,URL", "Url,Text", "text_url,URL"])
def test_a_column_that_differs_in_case_alone_is_the_one_suggested(tmp_path: Path, header: str) -> None:
    (tmp_path / "list.csv").write_text(f"{header}\nx,y\n")
    with pytest.raises(InputError) as error:
        read(InputConfig(path=str(tmp_path / "list.csv")))
    named = next(name for name in header.split(",") if name.lower() == "url")
    assert error.value.fix == f"set input.url_column, perhaps to: {named}"


@pytest.mark.parametrize(
    ("ending", "packed"),
    [("tgz", gzip.compress), ("TGZ", gzip.compress), ("tbz2", bz2.compress), ("tbz", bz2.compress)],
)
def test_short_endings_of_compressed_tars_are_known(
    tmp_path: Path, ending: str, packed: Callable[[bytes], bytes]
) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        content = b'{"url": "http://a/1", "text": "a red car"}'
        member = tarfile.TarInfo("1.json")
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
    (tmp_path / f"list.{ending}").write_bytes(packed(stream.getvalue()))
    assert read(InputConfig(path=str(tmp_path)))["alt"].to_pylist() == ["a red car"]
