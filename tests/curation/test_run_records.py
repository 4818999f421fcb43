"""The journal: any bytes are either a record of their invocation or damage, and nothing else is raised."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from run_fixture import make_run

from curation.results.report import build_report
from pairmill.checked_json import write_checked
from pairmill.damage import DamagedError
from pairmill.errors import IntegrityError
from pairmill.run_records import ended_well, read_record, read_records, record_file, write_record
from pairmill.store import Store

SAME_FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=80)
RECORD: dict[str, Any] = {
    **{"run": 1, "command": "pairmill curate", "started_at": 5.0, "finished_at": 9.5, "failed": None},
    **{"segments": {"collect": [5.0, 6.5], "pack": [7.0, None]}, "versions": {"ray": "2.9"}, "cluster": {"CPU": 2.0}},
    **{"forgot": {"at": 3, "rows": 2, "kept": 1, "not_cleaned": ["x"]}},
}
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*RECORD, "x"]), inner, max_size=3),
    max_leaves=6,
)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    write_record(store, RECORD)
    assert read_records(store) == [RECORD]
    assert ended_well(RECORD)


@pytest.mark.parametrize("more", [{"beside": True}, {"forgot": None}, {"failed": "JobError"}])
def test_all_that_a_command_notes_is_read_again(tmp_path: Path, more: dict[str, Any]) -> None:
    store = Store(str(tmp_path))
    write_record(store, {**RECORD, **more})
    assert read_records(store) == [{**RECORD, **more}]


@pytest.mark.parametrize("more", [{"note": "x"}, {"run": 0}, {"segments": {"collect": [1.0]}}])
def test_what_would_be_read_as_damage_is_not_written(tmp_path: Path, more: dict[str, Any]) -> None:
    store = Store(str(tmp_path))
    with pytest.raises(IntegrityError, match="must be written as it is read"):
        write_record(store, {**RECORD, **more})
    assert not list(tmp_path.rglob("*.json"))


@SAME_FOLDER
@given(st.sampled_from([*RECORD, "new"]), VALUES)
def test_any_value_anywhere_is_read_or_damage(tmp_path: Path, key: str, value: Any) -> None:
    store = Store(str(tmp_path))
    write_checked(store, record_file(1), {**RECORD, key: value})
    try:
        [found] = read_records(store)
    except DamagedError as error:
        assert record_file(1) in str(error.value)
    else:  # what readers rely on
        assert found["run"] == 1 and (found["finished_at"] is None or found["finished_at"] > float("-inf"))
        assert all(isinstance(begin, float) for begin, _ in found["segments"].values())


@SAME_FOLDER
@given(st.binary(max_size=60) | VALUES.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_damage(tmp_path: Path, data: bytes) -> None:
    store = Store(str(tmp_path))
    (tmp_path / "runs").mkdir(exist_ok=True)
    (tmp_path / record_file(1)).write_bytes(data)
    with pytest.raises(DamagedError):
        read_records(store)


@pytest.mark.parametrize("key", [key for key in RECORD if key not in ("failed", "forgot")])
def test_one_that_lacks_an_entry_is_damage(tmp_path: Path, key: str) -> None:
    store = Store(str(tmp_path))
    write_checked(store, record_file(1), {name: value for name, value in RECORD.items() if name != key})
    with pytest.raises(DamagedError, match=key):
        read_record(store, 1)


def test_the_record_of_another_invocation_is_damage(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    write_checked(store, record_file(2), RECORD)
    with pytest.raises(DamagedError, match="of invocation 1"):
        read_record(store, 2)


def test_a_bit_that_has_changed_is_noticed_by_the_report(tmp_path: Path) -> None:
    store = make_run(tmp_path)
    name = record_file(1)
    sound = store.read_bytes(name)
    store.write_bytes(name, sound.replace(b"pairmill curate", b"pairmill cuRate"))
    with pytest.raises(DamagedError, match=r"run-0001\.json: its digest"):
        read_records(store)
    report = build_report(store)
    assert (report["runs"], report["runs_lost"]) == ([], [1])
