"""What the exported tars make of the types of a list's own columns."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pyarrow as pa
import pytest
from run_fixture import make_run

from curation.results.export import export_webdataset
from pairmill.layout import PAIRS
from pairmill.store import Store

BIG = 2**63 + 1
U64 = pa.uint64()
MAP = pa.map_(pa.string(), U64)

#: Type, value, and what stands in the json for it.
CASES = [
    (pa.large_list(U64), [BIG, None], [str(BIG), None]),
    (pa.list_(U64, 2), [1, BIG], ["1", str(BIG)]),
    (MAP, [("a", BIG), ("b", None)], [{"key": "a", "value": str(BIG)}, {"key": "b", "value": None}]),
    (pa.map_(U64, pa.int64()), [(BIG, 2)], [{"key": str(BIG), "value": 2}]),
    (pa.map_(pa.string(), pa.large_list(U64)), [("a", [BIG])], [{"key": "a", "value": [str(BIG)]}]),
    (pa.large_list(pa.struct([("n", U64), ("m", pa.int64())])), [{"n": BIG, "m": 1}], [{"n": str(BIG), "m": 1}]),
    (pa.struct([("l", pa.large_list(pa.list_(U64, 1)))]), {"l": [[BIG]]}, {"l": [[str(BIG)]]}),
    (pa.list_(MAP), [[("a", 7)], []], [[{"key": "a", "value": "7"}], []]),
    (pa.list_(MAP, 1), [[("a", 7)]], [[{"key": "a", "value": "7"}]]),
    (pa.map_(pa.string(), MAP), [("x", [("a", 7)])], [{"key": "x", "value": [{"key": "a", "value": "7"}]}]),
    (pa.dictionary(pa.int32(), U64), BIG, str(BIG)),
    (pa.map_(pa.string(), pa.int64()), [("a", 1)], [{"key": "a", "value": 1}]),
    (pa.large_list(pa.int64()), [1], [1]),
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Store:
    rows = [{"url": f"http://a.example/ok/{n}", "text": f"ball {n}"} for n in range(2)]
    return make_run(tmp_path_factory.mktemp("made"), rows, recaption=False, translate=False)


def with_columns(store: Store, cases: list[tuple[pa.DataType, object, object]]) -> None:
    """Give the first pair the values of the cases as columns of the list, and the others none."""
    first = True
    for at in sorted(store.index(PAIRS)):
        rows = store.load(PAIRS, at)
        columns = [
            pa.array([value if first and n == 0 else None for n in range(len(rows))], k) for k, value, _ in cases
        ]
        first = first and not len(rows)
        own = pa.StructArray.from_arrays(columns, names=[f"c{n}" for n in range(len(cases))])
        rows = rows.drop_columns([name for name in ("input",) if name in rows.schema.names])
        store.remove_shard(PAIRS, at)
        store.commit(PAIRS, at, "k", rows.append_column("input", own), {})


def described(files: list[Path]) -> list[dict[str, object]]:
    found = []
    for file in files:
        if file.suffix == ".tar":
            with tarfile.open(file) as tar:
                found += [json.load(tar.extractfile(m))["input"] for m in tar if m.name.endswith("json")]
    return found


@pytest.mark.parametrize("case", CASES, ids=[str(kind) for kind, _, _ in CASES])
def test_unsigned_numbers_are_texts_at_any_depth(
    made: Store, tmp_path: Path, case: tuple[pa.DataType, object, object]
) -> None:
    with_columns(made, [case])
    first, *others = described(export_webdataset(made, tmp_path / "tars"))
    assert first["c0"] == case[2]
    assert others and all(one["c0"] is None for one in others)


@pytest.mark.parametrize("by", ["folder", "tars"])
@pytest.mark.parametrize("streaming", [False, True])
def test_datasets_loads_columns_of_all_types(
    made: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: str, streaming: bool
) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    with_columns(made, CASES)
    files = [str(file) for file in export_webdataset(made, tmp_path / "tars") if file.suffix == ".tar"]
    given = {"path": str(tmp_path / "tars")} if by == "folder" else {"path": "webdataset", "data_files": files}
    loaded = list(datasets.load_dataset(**given, split="train", streaming=streaming, cache_dir=str(tmp_path / "cache")))
    assert len(loaded) == 2
    assert list(loaded[0]["json"]["input"].values()) == [expected for _, _, expected in CASES]
    assert set(loaded[1]["json"]["input"].values()) == {None}
