"""What was forgotten stays so: a file of tombstones that is gone, damaged or older than the last is refused."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from forgotten_run import WANTED, Made, killed, state
from run_fixture import make_run

from curation.erase import NOTES
from curation.forget.request import request
from curation.forget.takedown import complete_pending, preview
from curation.forget.tombstones import Tombstones
from curation.healing import examine, heal
from curation.inputs import InputConfig
from curation.plan import ShardsConfig, extend
from curation.results.export import export_webdataset
from curation.results.report import write_report
from curation.results.rows import write_rows
from pairmill.damage import DamagedError, damaged
from pairmill.errors import RunDirError
from pairmill.layout import PLAN_COPY, PLAN_JSON
from pairmill.pending import FORGOTTEN_COPY, FORGOTTEN_FILE, read_forgotten, refuse_pending, restore_forgotten
from pairmill.store import Store, shard_file
from pipelines.forget import forget

BOTH = (FORGOTTEN_FILE, FORGOTTEN_COPY)
DAMAGES: dict[str, Callable[[bytes], bytes | None]] = {
    "gone": lambda old: None,
    "empty": lambda old: b"",
    "cut off": lambda old: old[:-1],
    "a bit of its data": lambda old: bytes([*old[:6], old[6] ^ 1, *old[7:]]),
    "a bit of its footer": lambda old: bytes([*old[:-30], old[-30] ^ 1, *old[-29:]]),
    "another file": lambda old: b"PAR1" + old,
}


def damage(store: Store, names: tuple[str, ...], how: str) -> None:
    for name in names:
        changed = DAMAGES[how](store.read_bytes(name))
        store.remove(name) if changed is None else store.write_bytes(name, changed)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A run in which two rows were forgotten, one after the other."""
    store = make_run(tmp_path)
    for number in (3, 5):
        assert forget(store, request(url=[f"http://a.example/ok/{number}"]), sure=True)["rows"] == 1
    return store


@pytest.mark.parametrize("how", DAMAGES)
def test_where_both_files_are_damaged_no_command_reads_or_extends_the_run(
    store: Store, tmp_path: Path, how: str
) -> None:
    damage(store, BOTH, how)
    listed = tmp_path / "more.jsonl"
    listed.write_text(json.dumps({"url": "http://a.example/ok/3", "text": "a red ball, number 3", "id": 3}) + "\n")
    inputs = InputConfig(path=str(listed), format="jsonl")
    before = state(Path(store.uri))
    for command in (
        lambda: extend(store, [str(listed)], inputs, ShardsConfig(rows_per_shard=7)),
        lambda: forget(store, WANTED, sure=True),
        lambda: forget(store, WANTED),
        lambda: complete_pending(store),
        lambda: refuse_pending(store),
        lambda: write_report(store),
        lambda: write_rows(store, tmp_path / "rows.parquet"),
        lambda: export_webdataset(store, tmp_path / "tars"),
        lambda: heal(store, damaged(store.path(FORGOTTEN_FILE), "as asked"), yes=True),
    ):
        with pytest.raises(DamagedError, match=FORGOTTEN_FILE):
            command()
    assert state(Path(store.uri)) == before
    assert [one.name for one in examine(store).damaged] == [FORGOTTEN_FILE]


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("name", BOTH)
def test_one_of_them_is_restored_from_the_other(store: Store, name: str, how: str) -> None:
    before, stones = state(Path(store.uri)), Tombstones.read(store)
    damage(store, (name,), how)
    assert Tombstones.read(store).same_as(stones)
    assert [one.name for one in examine(store).damaged] == [name]
    restore_forgotten(store)
    assert examine(store).damaged == []
    after = {file: data for file, (data, _) in state(Path(store.uri)).items() if not file.startswith("damaged/")}
    assert after == {file: data for file, (data, _) in before.items()}
    assert len(store.names("damaged")) == (how != "gone")


def test_an_older_file_is_not_taken_for_the_last_one(tmp_path: Path) -> None:
    store = make_run(tmp_path)
    forget(store, request(url=["http://a.example/ok/3"]), sure=True)
    older = store.read_bytes(FORGOTTEN_FILE)
    forget(store, request(url=["http://a.example/ok/5"]), sure=True)
    for name in BOTH:
        store.write_bytes(name, older)
    with pytest.raises(DamagedError, match="not those that `pairmill forget` wrote last"):
        Tombstones.read(store)


def test_nor_is_one_where_nothing_was_forgotten(store: Store, tmp_path: Path) -> None:
    other = make_run(tmp_path / "other")
    assert read_forgotten(other) is None
    other.write_bytes(FORGOTTEN_FILE, store.read_bytes(FORGOTTEN_FILE))  # or its plan is an older one
    with pytest.raises(DamagedError):
        Tombstones.read(other)


def test_a_plan_that_lost_its_copy_still_knows(store: Store) -> None:
    for name in (PLAN_JSON, PLAN_COPY):
        kept = store.read_bytes(name)
        store.write_bytes(name, b"{")
        assert len(Tombstones.read(store).uids) == 2
        store.write_bytes(name, kept)


def test_extending_keeps_the_mark(store: Store, tmp_path: Path) -> None:
    listed = tmp_path / "more.jsonl"
    listed.write_text(json.dumps({"url": "http://m.example/ok/1", "text": "new", "id": 1}) + "\n")
    extend(store, [str(listed)], InputConfig(path=str(listed), format="jsonl"), ShardsConfig(rows_per_shard=7))
    assert len(Tombstones.read(store).uids) == 2
    damage(store, BOTH, "gone")
    with pytest.raises(DamagedError):
        Tombstones.read(store)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("point", "begun"),
    [
        ("forget.mark.before_rename", False),
        ("forget.tombstones.before_rename", False),
        ("forget.tombstones.after_rename", True),
        ("forget.copy_written.before_rename", True),
        ("forget.copy_written.after_rename", True),
        ("forget.done.before_rename", True),
        ("forget.done.after_rename", False),
    ],
)
def test_killed_while_it_is_written_it_is_the_old_one_or_the_new(
    made: Made, tmp_path: Path, point: str, begun: bool
) -> None:
    killed(made, tmp_path, point)
    if begun:
        with pytest.raises(RunDirError, match="must be completed before"):
            refuse_pending(made.store)
        damage(made.store, (FORGOTTEN_COPY,), "gone") if made.store.exists(FORGOTTEN_COPY) else None
    forget(made.store, WANTED, sure=True)
    assert len(Tombstones.read(made.store).uids) == 6
    assert examine(made.store).damaged == []
    damage(made.store, BOTH, "gone")
    with pytest.raises(DamagedError):
        Tombstones.read(made.store)


def test_a_copy_of_the_product_without_a_plan_may_have_the_file(store: Store, tmp_path: Path) -> None:
    shutil.copytree(Path(store.uri) / "pairs", tmp_path / "copy" / "pairs")
    copy = Store(str(tmp_path / "copy"))
    refuse_pending(copy)
    copy.write_bytes(FORGOTTEN_FILE, store.read_bytes(FORGOTTEN_FILE))
    refuse_pending(copy)


def _of_its_shards(store: Store) -> list[str]:
    """Files of the shards that the work rewrites, and others that it reads."""
    planned = preview(store, WANTED)
    files = [str(file.relative_to(store.uri)) for file in Path(store.uri).rglob("*.*") if file.is_file()]
    numbers = {False: planned.shards, True: tuple(planned.parts)}
    ours = [
        name
        for name in files
        if any(re.search(rf"(shard|part)-{number:06d}", name) for number in numbers["pairs" in name])
    ]
    assert len(ours) > 10 * len(planned.shards)
    return [*ours, "runs/run-0001.json"]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["empty", "cut off", "a bit in its middle"])
def test_damage_is_found_before_anything_is_noted(made: Made, how: str) -> None:
    store = made.store
    for name in _of_its_shards(store):
        sound = store.read_bytes(name)
        half = len(sound) // 2
        store.write_bytes(name, DAMAGES[how](sound) if how in DAMAGES else flipped(sound, half))
        before = state(made.folder)
        with pytest.raises(DamagedError, match=Path(name).name):
            forget(store, WANTED, made.copies, sure=True)
        assert state(made.folder) == before, name
        store.write_bytes(name, sound)
    assert forget(store, WANTED, made.copies, sure=True)["rows"] == 6


def test_damage_elsewhere_costs_the_report_only(made: Made) -> None:
    shards = set(preview(made.store, WANTED).shards)
    other = min(set(made.store.index("columns/translate")) - shards, default=None)
    if other is None:  # the request meets every shard of the fixture
        rows = request(url=["http://a.example/ok/3"])
        other = min(set(made.store.index("columns/translate")) - set(preview(made.store, rows).shards))
    else:
        rows = WANTED
    made.store.write_bytes(shard_file("columns/translate", other), b"")
    assert forget(made.store, rows, sure=True)["rows"]
    assert not Tombstones.read(made.store).work
    assert not made.store.exists("report.html")


def test_a_damaged_note_of_a_rewriting_is_found_too(made: Made) -> None:
    made.store.write_bytes(f"{NOTES}/000001-images.json", b"{")
    with pytest.raises(DamagedError, match=NOTES):
        forget(made.store, WANTED, sure=True)
    assert not made.store.exists(FORGOTTEN_FILE)


def flipped(data: bytes, place: int) -> bytes:
    return bytes([*data[:place], data[place] ^ 4, *data[place + 1 :]])
