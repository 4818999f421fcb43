"""Any damage of any file of a run: each command says what it always said, or names the file in one line."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from run_fixture import make_run

from curation.duplicates.stage import Deduplicate
from curation.flow import Tables, flow_of
from curation.forget.request import request
from curation.healing import examine
from curation.plan import open_plan
from curation.results.export import export_img2dataset, export_webdataset
from curation.results.report import build_report
from curation.results.rows import write_rows
from curation.shards import Work, listed, read_shard
from pairmill.damage import DamagedError
from pairmill.store import Store
from pipelines.forget import forget

#: Files that are made from the rest, and hold no row.
DERIVED = ("report.json", "report.html", "README.md", ".lock")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A run in which a row was forgotten, so that it has files of every kind."""
    store = make_run(tmp_path_factory.mktemp("fuzzed"))
    forget(store, request(url=["http://a.example/ok/3"]), sure=True)
    return store


def the_report(store: Store, _: Path) -> Any:
    return {name: value for name, value in build_report(store).items() if name != "runs"}


def the_rows(store: Store, folder: Path) -> Any:
    write_rows(store, folder / "rows.parquet")
    return pq.read_table(folder / "rows.parquet").to_pylist()


def an_export(form: Callable[..., list[Path]]) -> Callable[[Store, Path], Any]:
    return lambda store, folder: [file.read_bytes() for file in form(store, folder / "export")]


def what_stages_read(store: Store, _: Path) -> Any:
    flow = flow_of({name: {"model": "m", "enabled": True} for name in ("recaption", "translate")})
    tables = Tables(flow, selection=flow.of(Deduplicate).config.name, keyed=False).all
    there = listed(store, [table.name for table in tables])
    columns = {table.name: [name for name in table.columns if name != "uid"] for table in tables}
    return [
        read_shard(store, Work(shard, {name: there[name][shard].content for name in there}), columns).to_pydict()
        for shard in open_plan(store).shard_numbers()
    ]


def a_preview(store: Store, _: Path) -> Any:
    done = forget(store, request(host=["c.example"]))
    return {name: value for name, value in done.items() if name != "bytes"}  # of files as they are


COMMANDS: dict[str, Callable[[Store, Path], Any]] = {
    "report": the_report,
    "rows": the_rows,
    "webdataset": an_export(export_webdataset),
    "img2dataset": an_export(export_img2dataset),
    "stages": what_stages_read,
    "forget": a_preview,
}


def a_bit(data: bytes, draw: random.Random) -> bytes:
    place = draw.randrange(len(data))
    return bytes([*data[:place], data[place] ^ 1 << draw.randrange(8), *data[place + 1 :]])


#: Twice a bit of the end, where Parquet keeps its footer.
DAMAGES: list[Callable[[bytes, random.Random], bytes]] = [
    a_bit,
    lambda data, draw: data[:-3000] + a_bit(data[-3000:], draw),
    lambda data, draw: data[:-900] + a_bit(data[-900:], draw),
    lambda data, draw: data[: draw.randrange(len(data))],
    lambda data, draw: b"",
    lambda data, draw: bytes(len(data)),
    lambda data, draw: data + b"\0",
]


#: What a report has from the journal.
OF_JOURNAL = ("runs_lost", "throughput", "images_per_second", "complete")


def same(one: Any, other: Any) -> bool:
    return json.dumps(one, default=str) == json.dumps(other, default=str)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_no_damage_is_met_with_anything_but_one_line(store: Store, tmp_path: Path, seed: int) -> None:
    draw, root = random.Random(seed), Path(store.uri)
    expected = {}
    for command, run in COMMANDS.items():
        (tmp_path / command).mkdir()
        expected[command] = run(store, tmp_path / command)
    files = sorted(file for file in root.rglob("*") if file.is_file() and not file.name.endswith(DERIVED))
    assert len(files) > 80
    for file in files:
        sound, damage = file.read_bytes(), draw.choice(DAMAGES)
        while (damaged := damage(sound, draw)) == sound:
            damage = draw.choice(DAMAGES)
        file.write_bytes(damaged)
        name = str(file.relative_to(root))
        assert name in [one.name for one in examine(store).damaged] or same_json(sound, damaged), name
        command = draw.choice(sorted(COMMANDS))
        shutil.rmtree(tmp_path / command)
        (tmp_path / command).mkdir()
        try:
            found = COMMANDS[command](store, tmp_path / command)
        except DamagedError as error:
            assert file.name in str(error.value) and "\n" not in str(error.value)
        else:
            if command == "report" and name.startswith("runs/"):  # it goes without that invocation, and says so
                assert found["runs_lost"] == [int(file.stem[-4:])]
                found = {**found, **{key: expected[command][key] for key in OF_JOURNAL}}
                # So is how long packing took.
                packed = next(one for one in expected[command]["stages"] if one["name"] == "pack")
                took = {key: packed[key] for key in ("seconds", "rows_per_second")}
                found["stages"] = [one | took if one["name"] == "pack" else one for one in found["stages"]]
            assert same(found, expected[command]), (command, name)
        file.write_bytes(sound)


def same_json(sound: bytes, damaged: bytes) -> bool:
    """Whether it is another spelling of the same JSON, such as 1E-5."""
    try:
        return bool(json.loads(sound) == json.loads(damaged))
    except ValueError:
        return False
