"""Columns as other programs write them arrive with their values, or the error says which and how."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from listed import own, read

from curation.inputs import InputConfig, limits
from curation.plan import ShardsConfig, plan
from pairmill.errors import InputError
from pairmill.store import Store


def jsonl(path: Path, *values: object) -> Path:
    rows = [{"url": f"http://a/{path.stem}{at}", "text": "t", "n": value} for at, value in enumerate(values)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def parquet(path: Path, values: pa.Array, name: str = "n") -> Path:
    columns = {"url": [f"http://a/{path.stem}{at}" for at in range(len(values))], "text": ["t"] * len(values)}
    pq.write_table(pa.table(columns | {name: values}), path)
    return path


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([2**63 + 11, 12], ["9223372036854775819", "12"]),
        ([2**64], ["18446744073709551616"]),
        ([-(2**63) - 1, None], ["-9223372036854775809", None]),
        ([2**63, "x"], ["9223372036854775808", "x"]),
        ([2**63, 1.5], ["9223372036854775808", "1.5"]),
        # A double holds whole numbers up to 2**53.
        ([2**53 + 1, 0.5], ["9007199254740993", "0.5"]),
        ([2**53, 0.5], [2.0**53, 0.5]),
        ([2**63 - 1, 1], [2**63 - 1, 1]),
    ],
)
def test_whole_numbers_of_any_size_are_exact(tmp_path: Path, values: list[object], expected: list[object]) -> None:
    assert own(read(jsonl(tmp_path / "1.jsonl", *values)), "n") == expected


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([2**63], [1], ["9223372036854775808", "1"]),
        ([1], ["x"], ["1", "x"]),
        ([None], [2**64], [None, "18446744073709551616"]),
        ([1.5], [2], [1.5, 2.0]),
        ([True], [2], ["true", "2"]),
        ([[1]], [2], ["[1]", "2"]),
    ],
)
def test_parts_of_json_share_a_type(
    tmp_path: Path, first: list[object], second: list[object], expected: list[object]
) -> None:
    jsonl(tmp_path / "1.jsonl", *first)
    jsonl(tmp_path / "2.jsonl", *second)
    assert own(read(tmp_path), "n") == expected


WORDS = [["cc3m", "cc3m"], ["laion", None]]


@pytest.mark.parametrize(
    "encoded",
    [
        lambda values: pa.array(values).dictionary_encode(),
        lambda values: pa.array(values, pa.large_string()).dictionary_encode(),
        lambda values: pa.array(values, pa.dictionary(pa.int8(), pa.string())),
        lambda values: pa.array([[v] for v in values], pa.list_(pa.dictionary(pa.int32(), pa.string()))),
        lambda values: pa.array([{"s": v} for v in values], pa.struct([("s", pa.dictionary(pa.int32(), pa.string()))])),
    ],
)
def test_dictionary_columns_of_several_files_are_plain_values(tmp_path: Path, encoded: object) -> None:
    folder = tmp_path / "list"
    folder.mkdir()
    arrays = [encoded(words) for words in WORDS]  # type: ignore[operator]
    for at, array in enumerate(arrays):
        parquet(folder / f"{at}.parquet", array)
    assert own(read(folder), "n") == [value for array in arrays for value in array.to_pylist()]
    store = Store(str(tmp_path / "run"))
    made = plan(store, InputConfig(path=str(folder)), ShardsConfig(rows_per_shard=3))
    shards = [store.read_table(f"plan/shard-{number:06d}.parquet") for number in made.shard_numbers()]
    assert sum(map(len, shards)) == made.rows == 4


#: Columns whose types pyarrow has no kernels for, and the values that a plan holds.
IDS = [UUID(int=2**127 + at) for at in range(3)]
NESTED_ID = {"id": str(IDS[0]), "tags": [str(IDS[1]), None]}


def ids(count: int = 3) -> pa.Array:
    if not hasattr(pa, "uuid"):
        pytest.skip("this pyarrow reads a UUID as bytes")
    return pa.ExtensionArray.from_storage(pa.uuid(), pa.array([one.bytes for one in IDS[:count]], pa.binary(16)))


class Named(pa.ExtensionType):  # type: ignore[misc]
    """A type of a program's own, which it registers."""

    def __init__(self) -> None:
        super().__init__(pa.list_(pa.int8()), "tests.named")

    def __arrow_ext_serialize__(self) -> bytes:
        return b""

    @classmethod
    def __arrow_ext_deserialize__(cls, storage_type: pa.DataType, serialized: bytes) -> Named:
        return cls()


def nested_ids() -> pa.Array:
    tags = pa.ListArray.from_arrays([0, 2], pa.concat_arrays([ids()[1:2], pa.nulls(1, pa.uuid())]))
    return pa.StructArray.from_arrays([ids(1), tags], ["id", "tags"])


def extension(kind: str, storage: pa.Array, *given: object) -> pa.Array:
    if not hasattr(pa, kind):
        pytest.skip(f"this pyarrow has no {kind}")
    return pa.ExtensionArray.from_storage(getattr(pa, kind)(*given), storage)


UNUSUAL = {
    "uuid": (ids, [str(one) for one in IDS]),
    "uuid with a gap": (lambda: pa.concat_arrays([ids(1), pa.nulls(1, pa.uuid())]), [str(IDS[0]), None]),
    "uuid in fields and lists": (nested_ids, [NESTED_ID]),
    "uuid in a map": (lambda: pa.MapArray.from_arrays([0, 1], ["k"], ids(1)), [[("k", str(IDS[0]))]]),
    "json": (lambda: extension("json_", pa.array(['{"a": 1}', None])), ['{"a": 1}', None]),
    "bool8": (lambda: extension("bool8", pa.array([2, 0, None], pa.int8())), [True, False, None]),
    "tensor": (
        lambda: extension("fixed_shape_tensor", pa.array([[1, 2]], pa.list_(pa.int8(), 2)), pa.int8(), (2,)),
        [[1, 2]],
    ),
    "opaque": (lambda: extension("opaque", pa.array([b"x"]), pa.binary(), "t", "v"), [b"x"]),
    "own": (lambda: pa.ExtensionArray.from_storage(Named(), pa.array([[1], None], pa.list_(pa.int8()))), [[1], None]),
    "string view": (lambda: pa.array(["a", None], pa.string_view()), ["a", None]),
    "binary view": (lambda: pa.array([b"a" * 99], pa.binary_view()), [b"a" * 99]),
    "list of views": (lambda: pa.array([["a"], []], pa.list_(pa.string_view())), [["a"], []]),
    "list view": (lambda: pa.array([["a"], None], pa.list_view(pa.string())), [["a"], None]),
    "large list view": (lambda: pa.array([[1]], pa.large_list_view(pa.int8())), [[1]]),
    "fields of views": (lambda: pa.array([{"a": "x"}], pa.struct([("a", pa.string_view())])), [{"a": "x"}]),
}


@pytest.fixture
def registered() -> Iterator[None]:
    pa.register_extension_type(Named())
    yield
    pa.unregister_extension_type("tests.named")


@pytest.mark.parametrize("case", UNUSUAL)
@pytest.mark.usefixtures("registered")
def test_columns_of_unusual_types_are_planned_with_their_values(tmp_path: Path, case: str) -> None:
    make, values = UNUSUAL[case]
    parquet(tmp_path / "1.parquet", make())
    store = Store(str(tmp_path / "run"))
    made = plan(store, InputConfig(path=str(tmp_path / "1.parquet")), ShardsConfig())
    (number,) = made.shard_numbers()
    rows = store.read_table(f"plan/shard-{number:06d}.parquet").sort_by("index")
    assert own(rows, "n") == values


def test_a_uuid_can_be_a_text(tmp_path: Path) -> None:
    pq.write_table(pa.table({"url": ["http://a/1"], "text": ids(1)}), tmp_path / "1.parquet")
    assert read(tmp_path)["alt"].to_pylist() == [str(IDS[0])]


def test_a_dictionary_and_a_plain_column_are_one(tmp_path: Path) -> None:
    parquet(tmp_path / "1.parquet", pa.array(["x"]).dictionary_encode())
    parquet(tmp_path / "2.parquet", pa.array(["y"]))
    assert own(read(tmp_path), "n") == ["x", "y"]


@pytest.mark.parametrize("name", ["url", "text"])
def test_urls_and_texts_may_be_a_dictionary(tmp_path: Path, name: str) -> None:
    for at in range(2):
        columns = {"url": pa.array([f"http://a/{at}"]), "text": pa.array([f"t{at}"])}
        columns[name] = columns[name].dictionary_encode()
        pq.write_table(pa.table(columns), tmp_path / f"{at}.parquet")
    rows = read(tmp_path)
    assert (rows["url"].to_pylist(), rows["alt"].to_pylist()) == (["http://a/0", "http://a/1"], ["t0", "t1"])


def test_types_that_no_column_holds_are_named_with_their_files(tmp_path: Path) -> None:
    parquet(tmp_path / "1.parquet", pa.array([1]))
    parquet(tmp_path / "2.parquet", pa.array([True]))
    with pytest.raises(InputError) as error:
        read(tmp_path)
    assert all(part in str(error.value.value) for part in ("'n'", "int64", "bool", "1.parquet", "2.parquet"))


def test_a_value_that_the_shared_type_does_not_hold_is_named(tmp_path: Path) -> None:
    parquet(tmp_path / "1.parquet", pa.array([1, 2**53 + 1]))
    parquet(tmp_path / "2.parquet", pa.array([0.5]))
    with pytest.raises(InputError, match=r"1\.parquet: row 2, column 'n'"):
        read(tmp_path)


@pytest.mark.parametrize(
    "texts",
    [
        pa.array([["a dog", "a brown dog"]]),
        pa.array([["a dog", "a brown dog"]], pa.list_(pa.string(), 2)),
        pa.array([["a dog"]], pa.large_list(pa.string())),
        pa.array([{"en": "a dog"}]),
    ],
)
def test_several_texts_in_parquet_are_refused_with_what_to_do(tmp_path: Path, texts: pa.Array) -> None:
    pq.write_table(pa.table({"url": ["http://a/1"], "text": texts}), tmp_path / "1.parquet")
    with pytest.raises(InputError) as error:
        read(tmp_path)
    assert all(part in str(error.value.value) for part in ("1.parquet", "'text'", str(texts.type).split("<")[0]))
    assert "a row for each text" in error.value.fix


@pytest.mark.parametrize("text", [["a dog", "a brown dog"], [], {"en": "a dog"}])
def test_several_texts_in_json_are_refused_with_the_line(tmp_path: Path, text: object) -> None:
    rows = [{"url": "http://a/1", "text": "x"}, {"url": "http://a/2", "text": text}]
    (tmp_path / "1.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(InputError) as error:
        read(tmp_path)
    assert all(part in str(error.value.value) for part in ("1.jsonl", "line 2", "'text'"))
    assert "a row for each text" in error.value.fix
    assert len(read(tmp_path, text_column=None)) == 2


MAP = pa.map_(pa.string(), pa.int64())
PAIRS = [[("a", 1), ("b", None)], [], None, [("c", 3)]]


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (MAP, PAIRS),
        (MAP, [None, None]),
        (pa.map_(pa.string(), MAP), [[("x", PAIRS[0]), ("y", None)], None, []]),
        (pa.map_(pa.int64(), pa.list_(pa.string())), [[(1, ["a", None]), (2, None)], None]),
        (pa.map_(pa.string(), pa.struct([("s", pa.string())])), [[("k", {"s": "t"})], None]),
        (pa.list_(MAP), [PAIRS, None, []]),
        (pa.large_list(MAP), [PAIRS, None, []]),
        (pa.list_(MAP, 2), [PAIRS[:2], PAIRS[2:]]),
        (pa.struct([("m", MAP)]), [{"m": pairs} for pairs in PAIRS]),
    ],
)
@pytest.mark.parametrize("pieces", [False, True])
def test_columns_of_maps_arrive_with_their_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: pa.DataType, values: list[object], pieces: bool
) -> None:
    if pieces:
        monkeypatch.setattr(limits, "BATCH_BYTES", 200)
    values = values * 8
    parquet(tmp_path / "1.parquet", pa.array(values, kind))
    assert own(read(tmp_path / "1.parquet"), "n") == values


def test_a_map_of_words_of_a_dictionary_arrives_with_its_values(tmp_path: Path) -> None:
    words = pa.DictionaryArray.from_arrays(pa.array([0, 1, 0]), ["a", "b"])
    parquet(tmp_path / "1.parquet", pa.MapArray.from_arrays([0, 1, 1, 3], ["k", "l", "m"], words))
    assert own(read(tmp_path / "1.parquet"), "n") == [[("k", "a")], [], [("l", "b"), ("m", "a")]]


def test_the_size_of_maps_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "BATCH_BYTES", 5_000)
    kind = pa.map_(pa.string(), pa.string())
    parquet(tmp_path / "1.parquet", pa.array([[("k", "x" * 400)] * 20, []], kind))
    with pytest.raises(InputError, match="column 'n'"):
        read(tmp_path / "1.parquet")


@pytest.mark.parametrize("by", ["duckdb", "polars"])
def test_maps_of_other_programs_arrive(tmp_path: Path, by: str) -> None:
    path = tmp_path / "1.parquet"
    if by == "duckdb":
        duckdb = pytest.importorskip("duckdb", reason="duckdb is a package of the extra dev")
        duckdb.connect().execute(f"COPY (SELECT 'http://a' url, 't' AS text, MAP {{'k': 1}} n) TO '{path}'")
        assert own(read(path), "n") == [[("k", 1)]]
    else:
        polars = pytest.importorskip("polars", reason="polars is a package of the extra dev")
        polars.DataFrame({"url": ["http://a"], "text": ["t"], "n": [[{"key": "k", "value": 1}]]}).write_parquet(path)
        assert own(read(path), "n") == [[{"key": "k", "value": 1}]]


def test_a_page_that_pyarrow_passes_over_loses_no_rows(tmp_path: Path) -> None:
    file = tmp_path / "list.parquet"
    pq.write_table(pa.table({"url": [f"http://a/{n}" for n in range(3000)]}), file, row_group_size=1000)
    data = bytearray(file.read_bytes())
    data[pq.read_metadata(file).row_group(1).column(0).data_page_offset + 1] ^= 1  # the type of the page
    file.write_bytes(data)
    with pytest.raises(InputError, match=r"2,000 rows of 3,000"):
        read(file, text_column=None)
