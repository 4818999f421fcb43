"""One odd row costs itself at most; a column of the wrong type is refused before anything starts."""

from __future__ import annotations

import json
import os
import uuid
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_datasets import as_json, jpeg, reader_of, write_tar

from pairmill.errors import RecipeError, UserError
from pairmill.store import Store
from training.bad_rows import BadRows, bad_rows_file
from training.data.batches import assemble, read_here
from training.data.bundle import STATUSES, from_table, to_table
from training.data.config import DataConfig
from training.data.cursor import make_plan, single_pass
from training.data.sample import SAMPLE, Source, as_texts
from training.data.source import open_source
from training.evaluate.config import EvaluateDatasetConfig
from training.evaluate.evaluated_rows import read_rows
from training.evaluate.merged_pictures import Pictures

HALF = "\ud83d"


def statuses(source: Source) -> list[str]:
    (spec,) = single_pass(source.rows, 100)
    return [STATUSES[code] for code in reader_of([source])(spec).status]


def written(folder: Path, **columns: Any) -> str:
    path = folder / "part.parquet"
    pq.write_table(pa.table(columns), path)
    return str(path)


@pytest.mark.parametrize(
    ("facts", "texts", "said"),
    [
        (as_json({"caption": f"half a {HALF} face"}), [], "half a character: U+D83D"),
        (as_json({"caption": "x"}).replace(b'"x"', b'"half \\udc00"'), [], "U+DC00"),
        (as_json({"texts": ["one", 3, "two"]}), ["one", "two"], "not int"),
        (as_json({"texts": [{"text": 3}, {"text": "one", "language": 7}]}), ["one"], "not int"),
        (as_json({"texts": [True, None, [["one"]]]}), ["one"], "not bool"),
        (as_json({"caption": 3.5}), [], "not float"),
        (b"[" * 100_000, [], "json"),
        (b'["a list"]', [], "must be an object"),
        (b'{"caption": "cut off', [], "json"),
        (b"\xff\xfe", [], "json"),
        (as_json({"caption": "one", "group_id": "g"}), ["one"], "group_id"),
        (as_json({"caption": "one", "uid": f"u{HALF}", "sha256": [1], "group_id": 2**64 + 5}), ["one"], None),
        (as_json({"caption": "one", "uid": {"a": 1}}), ["one"], None),
    ],
)
def test_odd_json_in_a_tar(tmp_path: Path, facts: bytes, texts: list[str], said: str | None) -> None:
    sound = {"jpg": jpeg(1), "txt": b"sound"}
    write_tar(tmp_path / "x.tar", [("1", sound), ("2", {"jpg": jpeg(2), "json": facts}), ("3", sound)])
    source = open_source(str(tmp_path))
    row = source.read(0).to_pylist()[1]
    assert [text["text"] for text in row["texts"]] == texts
    assert (row["problem"] is None) == (said is None)
    assert said is None or (said in row["problem"] and row["problem"].startswith("x.tar, sample 2: "))
    assert statuses(source) == ["valid", "valid" if texts else "bad_row", "valid"]


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("group_id", pa.array(["a", "b"])),
        ("group_id", pa.array([[1], [2]])),
        ("uid", pa.array([[1], [2]])),
        ("uid", pa.array([{"a": 1}, {"a": 2}])),
        ("sha256", pa.array([1, 2])),
        ("texts", pa.array([[1], [2]])),
        ("texts", pa.array([[{"text": 1}], [{"text": 2}]])),
        ("texts", pa.array([[{"text": "a", "language": 1}], []])),
    ],
)
def test_columns_of_the_wrong_type_are_refused_at_opening(tmp_path: Path, column: str, values: pa.Array) -> None:
    columns = {"image": [jpeg(0), jpeg(1)], "texts": ["a", "b"], column: values}
    pq.write_table(pa.table(columns), tmp_path / "b.parquet")
    with pytest.raises(RecipeError, match=column if column != "texts" else "text") as raised:
        open_source(str(tmp_path))
    assert str(pq.read_schema(tmp_path / "b.parquet").field(column).type) in str(raised.value)


def test_a_file_whose_name_is_not_utf8_is_named(tmp_path: Path) -> None:
    write_tar(tmp_path / "x.tar", [("1", {"jpg": jpeg(1), "txt": b"one"})])
    (tmp_path / "x.tar").rename(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.tar"))
    for path in (tmp_path, tmp_path / "*.tar"):
        with pytest.raises(UserError, match=r"caf\\xe9\.tar"):
            open_source(str(path))


def test_every_file_is_looked_at(tmp_path: Path) -> None:
    for name, group in (("a", pa.array([1])), ("b", pa.array(["1"]))):
        table = pa.table({"image": [jpeg(0)], "text": ["a"], "group_id": group})
        pq.write_table(table, tmp_path / f"{name}.parquet")
    with pytest.raises(RecipeError, match=r"b\.parquet"):
        open_source(str(tmp_path))


def test_odd_values_of_a_parquet_column(tmp_path: Path) -> None:
    texts = pa.array([b"sound", b"caf\xe9", None, b"  "], pa.binary()).view(pa.string())
    path = written(
        tmp_path,
        image=[jpeg(n) for n in range(4)],
        text=texts,
        uid=pa.array([None, "a", None, "a"]),
        group_id=pa.array([1.0, None, 2.5, -3.0]),
    )
    source = open_source(path)
    rows = source.read(0)
    assert rows["uid"].to_pylist() == ["part.parquet/0/0", "a", "part.parquet/0/2", "a"]
    assert rows["group_id"].to_pylist() == [1, -1, -1, 2**63 - 3]
    assert [problem for problem in rows["problem"].to_pylist() if problem] == [
        "part.parquet, row 1: not UTF-8: unexpected end of data"
    ]
    assert statuses(source) == ["valid", "bad_row", "no_text", "empty_text"]


@pytest.mark.parametrize("form", ["tar", "signed", "unsigned", "floats", "null"])
def test_of_group_ids_only_minus_one_is_none(tmp_path: Path, form: str) -> None:
    """Hashes are signed in one dataset and unsigned in another; rows of one id are one group in each."""
    ids = {"unsigned": [2**64 - 5] * 3, "floats": [-5.0] * 3, "null": [None] * 3}.get(form, [-5] * 3)
    ids += [None, 9, 9] if form in ("unsigned", "null") else [-1, 9, 9]
    ids += [-1 if form != "unsigned" else None, 0]
    kind = {"unsigned": pa.uint64(), "floats": pa.float64()}.get(form, pa.int64())
    if form == "tar":
        samples = [
            (str(n), {"jpg": jpeg(n), "json": as_json({"caption": "x", "group_id": id_})}) for n, id_ in enumerate(ids)
        ]
        path = str(write_tar(tmp_path / "x.tar", samples))
    else:
        path = written(tmp_path, image=[jpeg(n) for n in range(8)], text=["x"] * 8, group_id=pa.array(ids, kind))
    source = open_source(path)
    fifth = -1 if form == "null" else 2**63 - 5
    assert source.read(0)["group_id"].to_pylist() == [fifth] * 3 + [-1, 9, 9, -1, 0]
    assert source.read(0)["problem"].null_count == 8
    (spec,) = single_pass(source.rows, 100)
    assert len(set(reader_of([source])(spec).group_id)) == (7 if form == "null" else 5)
    pictures = Pictures(merged=True)
    for row in read_rows(EvaluateDatasetConfig(path=path)):
        pictures.of(row, new=True)
    assert len(pictures.made) == (7 if form == "null" else 5)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (b"caf\xe9", None),
        ("caf\u00e9".encode("utf-16"), None),
        (b"cut off \xe2\x82", None),
        ("\ufeffcaf\u00e9".encode(), "caf\u00e9"),
        ("caf\u00e9 \ufffd".encode(), "caf\u00e9 \ufffd"),
    ],
)
def test_a_txt_that_is_not_utf8_is_a_bad_row(tmp_path: Path, text: bytes, found: str | None) -> None:
    samples = [
        (str(n), {"jpg": jpeg(n), ending: one}) for n, (ending, one) in enumerate([("txt", b"a"), ("txt", text)])
    ]
    write_tar(tmp_path / "x.tar", [*samples, ("2", {"jpg": jpeg(2), "caption": text})])
    source = open_source(str(tmp_path))
    rows = source.read(0).to_pylist()
    assert [[one["text"] for one in row["texts"]] for row in rows] == [["a"], *[[found] if found else []] * 2]
    assert statuses(source) == ["valid", *["valid" if found else "bad_row"] * 2]
    assert [row["problem"] and row["problem"].partition(":")[0] for row in rows] == (
        [None] * 3 if found else [None, "x.tar, sample 1", "x.tar, sample 2"]
    )
    evaluated = list(read_rows(EvaluateDatasetConfig(path=str(tmp_path))))
    assert [[one.text for one in row.texts] for row in evaluated] == [["a"], *[[found] if found else []] * 2]


def test_a_json_without_a_group_id_has_that_of_its_picture(tmp_path: Path) -> None:
    facts = [{"group_id": id_, "sha256": "1" * 64} for id_ in (-1, None, float("nan"), 3, 3.0, 2**64 + 3)]
    write_tar(tmp_path / "x.tar", [(str(n), {"jpg": jpeg(n), "json": as_json(one)}) for n, one in enumerate(facts)])
    rows = open_source(str(tmp_path)).read(0)
    assert rows["group_id"].to_pylist() == [int("1" * 16, 16)] * 3 + [3] * 3
    assert rows["problem"].null_count == 6


def test_rows_are_named_by_bytes_too(tmp_path: Path) -> None:
    names = [uuid.UUID(int=n * 0x1234567890ABCDEF1234567890ABCDEF % 2**128) for n in (1, 2)]
    forms = {
        "fixed": pa.array([name.bytes for name in names], pa.binary(16)),
        "binary": pa.array([name.bytes for name in names], pa.large_binary()),
    }
    if hasattr(pa, "uuid"):  # since pyarrow 18
        forms["uuid"] = pa.ExtensionArray.from_storage(pa.uuid(), forms["fixed"])
    for form, uids in forms.items():
        (tmp_path / form).mkdir()
        path = written(tmp_path / form, image=[jpeg(0), jpeg(1)], text=["a", "b"], uid=uids)
        assert open_source(path).read(0)["uid"].to_pylist() == [name.hex for name in names], form


def test_problems_travel_with_their_bundle_and_are_listed_once(tmp_path: Path) -> None:
    facts = [as_json({"texts": ["one", n]} if n % 3 == 0 else {"caption": "one"}) for n in range(12)]
    write_tar(tmp_path / "x.tar", [(f"{n:02}", {"jpg": jpeg(n), "json": fact}) for n, fact in enumerate(facts)])
    source = open_source(str(tmp_path))
    (spec,) = single_pass(source.rows, 100)
    reader = reader_of([source])
    bundle = reader(spec)
    assert [problem.partition(":")[0] for problem in bundle.problems] == [f"x.tar, sample {n:02}" for n in (0, 3, 6, 9)]
    assert from_table(to_table(bundle), 16, 16).problems == bundle.problems
    plan = make_plan(DataConfig(path=str(tmp_path), batch_size=4, lanes=1, bundle_rows=6), [source], seed=0)
    made = assemble(read_here(plan, reader), plan)
    met = [problem for _ in range(6) for problem in next(made).problems]
    assert sorted(met) == sorted(2 * bundle.problems)
    store = Store(str(tmp_path / "run"))
    for _ in range(2):
        listed = BadRows(store, 1)
        listed.add(met)
        listed.write()
    lines = (tmp_path / "run" / bad_rows_file(1)).read_text(encoding="utf-8").splitlines()
    assert sorted(json.loads(line)["problem"] for line in lines) == sorted(bundle.problems)


def test_rows_of_equal_bytes_are_no_negatives_without_a_column_that_says_so(tmp_path: Path) -> None:
    path = written(tmp_path, image=[jpeg(0), jpeg(1), jpeg(0), b"broken"], text=["a", "b", "c", "d"])
    source = open_source(path)
    (spec,) = single_pass(source.rows, 100)
    groups = reader_of([source])(spec).group_id
    assert groups[0] == groups[2] >= 0 and groups[1] >= 0 and groups[1] != groups[0]


def test_texts_of_any_form() -> None:
    assert as_texts(None) == ([], None)
    assert [text["text"] for text in as_texts(["a", ("b", {"text": "c"})])[0]] == ["a", "b", "c"]
    assert as_texts({"text": None}) == ([], None)
    assert SAMPLE.field("problem").type == pa.string()
