"""Every kind of record of a run: any JSON and any bytes are a value or damage, and no other exception."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from curation.code import CODE_FILE, read_code_log
from curation.common_texts import common_texts_table, mark_common_texts
from curation.erase import NOTES, finish_rewrites, read_note
from curation.forget.tombstones import SCHEMA, Tombstones
from curation.healing import examine, heal
from curation.inputs import InputConfig
from curation.plan import ShardsConfig, open_plan, plan
from curation.plan_file import read_plan_file
from pairmill.checked_json import write_checked
from pairmill.damage import DamagedError, damaged
from pairmill.layout import PLAN_JSON
from pairmill.pending import FORGOTTEN_FILE, WORK, pending_work
from pairmill.run_records import read_record, record_file
from pairmill.store import Entry, Store, manifest_file

SAME_FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
ENTRY = Entry("aa", "bb")
NOTE = f"{NOTES}/000001-images.json"

WORK_TO_DO = {
    **{"at": 7, "rows": 1, "kept": 1, "also": ["x"], "reports": ["report.json"]},
    "parts": {"0": {"key": None, "fresh": True, "rows": 1}},
}
#: Kind of record -> its file, its reader, and one that is right.
KINDS: dict[str, tuple[str, Callable[[Store], Any], dict[str, Any]]] = {
    "plan": (
        PLAN_JSON,
        lambda store: read_plan_file(store, PLAN_JSON),
        {
            **{"fingerprint": "f", "rows": 2, "shards": 1, "cut": "c", "forgotten": []},
            "inputs": [
                {
                    **{"given": ["a"], "url_column": "url", "text_column": None, "rows": 2, "first_shard": 0},
                    **{"shards": 1, "fingerprint": "g"},
                    "files": [{"place": "a", "kind": "txt", "size": 1, "stamp": "", "content": "c"}],
                }
            ],
        },
    ),
    "invocation": (
        record_file(1),
        lambda store: read_record(store, 1),
        {
            **{"run": 1, "command": "c", "started_at": 1.0, "finished_at": None, "segments": {"collect": [1.0, None]}},
            **{"versions": {"ray": "2"}, "cluster": {"CPU": 2}},
        },
    ),
    "code": (CODE_FILE, read_code_log, {"images": [{"sources": {"m": "1"}, "libraries": {"l": "2"}}]}),
    "note": (
        NOTE,
        lambda store: read_note(store, NOTE),
        {"table": "images", "shard": 1, "manifest": {"key": "k", "content": "c"}, "file": None},
    ),
    "manifest": (
        manifest_file("images", 1, ENTRY),
        lambda store: store.manifest("images", 1, ENTRY),
        {"shard": 1, "rows": 2, "bytes": 3, "file": "f", "key": "aa", "content": "bb"},
    ),
}
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
SCALARS = st.none() | st.booleans() | st.integers() | st.just(10**400) | st.floats() | TEXTS
NAMES = sorted({"x", *(key for _, _, right in KINDS.values() for key in right)})
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
    max_leaves=6,
)


def value_or_damage(reads: Callable[[Store], Any], store: Store, name: str) -> bool:
    """Whether it is damage, which names its file."""
    try:
        reads(store)
    except DamagedError as error:
        assert name in str(error.value) and "\n" not in str(error.value) and len(error.fix) > 9
        return True
    return False


@pytest.mark.parametrize("kind", KINDS)
def test_one_that_is_right_is_read(tmp_path: Path, kind: str) -> None:
    name, reads, right = KINDS[kind]
    store = Store(str(tmp_path))
    write_checked(store, name, right)
    assert not value_or_damage(reads, store, name) and reads(store)


@pytest.mark.parametrize("kind", KINDS)
@SAME_FOLDER
@given(data=st.data())
def test_any_value_in_any_place_of_it(tmp_path: Path, kind: str, data: st.DataObject) -> None:
    name, reads, right = KINDS[kind]
    store = Store(str(tmp_path))
    made = json.loads(json.dumps(right))
    inner = made
    while True:  # a random way down to the place that changes
        key = data.draw(st.sampled_from(sorted(inner) if isinstance(inner, dict) else range(len(inner))))
        if not (isinstance(inner[key], dict | list) and inner[key] and data.draw(st.booleans())):
            break
        inner = inner[key]
    inner[key] = data.draw(VALUES)
    write_checked(store, name, made)
    value_or_damage(reads, store, name)


@pytest.mark.parametrize("kind", KINDS)
@SAME_FOLDER
@given(found=VALUES.map(json.dumps).map(str.encode) | st.binary(max_size=40))
def test_any_bytes_in_its_place(tmp_path: Path, kind: str, found: bytes) -> None:
    name, reads, _ = KINDS[kind]
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_bytes(found)
    assert value_or_damage(reads, Store(str(tmp_path)), name)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "text", ["null", "[]", "{}", "NaN", '{"check": null}', '{"run":1,"segments":{}}', "[" * 99_999]
)
def test_what_looks_like_one(tmp_path: Path, kind: str, text: str) -> None:
    name, reads, _ = KINDS[kind]
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text(text)
    assert value_or_damage(reads, Store(str(tmp_path)), name)


def stones(store: Store, metadata: Any = None, **changes: Any) -> None:
    """A file of two tombstones, with other columns."""
    columns = {
        **{"kind": ["uid", "host"], "digest": ["a", "b"], "shard": [0, None], "kept": [True, None], "at": [7, 7]},
        **changes,
    }
    table = pa.table({name: pa.array(values) for name, values in columns.items() if values is not None})
    work = metadata if isinstance(metadata, bytes) else json.dumps(metadata).encode()
    store.write_table(FORGOTTEN_FILE, table.replace_schema_metadata({WORK: work}))


@SAME_FOLDER
@given(st.sampled_from(SCHEMA.names), st.lists(st.none() | st.integers(-9, 2**40) | TEXTS, min_size=2, max_size=2))
def test_any_tombstones(tmp_path: Path, name: str, values: list[Any]) -> None:
    store = Store(str(tmp_path))
    kind = pa.string() if any(isinstance(value, str) for value in values) else pa.int64()
    stones(
        store,
        {},
        **{name: pa.array([None if v is None else v if kind == pa.int64() else str(v) for v in values], kind)},
    )
    try:
        found = Tombstones.read(store)
    except DamagedError as error:
        assert FORGOTTEN_FILE in str(error.value)
    else:
        assert len(found.kept_by_shard()) <= 1 and found.uids <= {"a", *map(str, values)}


@pytest.mark.parametrize("name", SCHEMA.names)
def test_tombstones_that_lack_a_column(tmp_path: Path, name: str) -> None:
    stones(Store(str(tmp_path)), {}, **{name: None})
    with pytest.raises(DamagedError, match=FORGOTTEN_FILE):
        Tombstones.read(Store(str(tmp_path)))


@SAME_FOLDER
@given(
    (st.sampled_from(sorted(WORK_TO_DO)).flatmap(lambda key: VALUES.map(lambda value: {**WORK_TO_DO, key: value})))
    | VALUES
    | st.binary(max_size=9)
)
def test_any_work(tmp_path: Path, metadata: Any) -> None:
    store = Store(str(tmp_path))
    stones(store, metadata)
    try:
        found = pending_work(store)
    except DamagedError as error:
        assert FORGOTTEN_FILE in str(error.value)
    else:
        assert found == {} or found.keys() == WORK_TO_DO.keys()
    if metadata in (None, [], "null", b""):
        assert metadata == b"" or value_or_damage(pending_work, store, FORGOTTEN_FILE)


def test_work_is_read_as_it_was_written(tmp_path: Path) -> None:
    stones(Store(str(tmp_path)), WORK_TO_DO)
    assert pending_work(Store(str(tmp_path))) == WORK_TO_DO


@given(found=st.binary(max_size=200))
@SAME_FOLDER
def test_any_bytes_in_place_of_tombstones(tmp_path: Path, found: bytes) -> None:
    (tmp_path / FORGOTTEN_FILE).write_bytes(found)
    assert value_or_damage(Tombstones.read, Store(str(tmp_path)), FORGOTTEN_FILE)


def test_a_note_whose_data_are_gone_is_void(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    write_checked(store, NOTE, {**KINDS["note"][2], "file": "0" * 32})
    finish_rewrites(store)
    assert store.names(NOTES) == [] and store.index("images") == {}


@pytest.mark.parametrize("found", [b"", b"{", b'{"fingerprint": 1}', b"null"])
def test_a_damaged_mark_of_common_texts_makes_the_table_anew(tmp_path: Path, found: bytes) -> None:
    (tmp_path / "list.txt").write_text("http://a/1\nhttp://a/2\n")
    store = Store(str(tmp_path / "run"))
    plan(store, InputConfig(path=str(tmp_path / "list.txt"), text_column=None), ShardsConfig())
    table = common_texts_table(1)
    mark_common_texts(store, open_plan(store), 1)
    before, index = store.read_bytes(f"{table}/plan.json"), store.index(table)
    store.write_bytes(f"{table}/plan.json", found)
    assert f"{table}/plan.json" in [one.name for one in examine(store).damaged]
    mark_common_texts(store, open_plan(store), 1)
    assert (store.read_bytes(f"{table}/plan.json"), store.index(table)) == (before, index)
    heal(store, damaged(store.path(f"{table}/plan.json"), "as asked"), yes=False)
    assert not store.exists(f"{table}/plan.json")
