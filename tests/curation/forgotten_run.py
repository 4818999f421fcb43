"""A finished run with copies of its product, the rows to forget in it, and what to compare afterwards."""

from __future__ import annotations

import json
import os
import tarfile
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from run_fixture import make_run

from curation.forget.place import Place
from curation.forget.request import request
from curation.forget.tombstones import Tombstones
from curation.identity import row_uid
from curation.results.export import export_img2dataset, export_webdataset
from curation.results.report import write_report
from curation.results.rows import write_rows
from pairmill import faults
from pairmill.store import Store
from pipelines.forget import forget

URL = "http://a.example/ok/{}"
#: By its URL; by its uid; both rows of a host; and one that was dropped before there was a picture.
URLS = [URL.format(3), "http://b.example/timeout/1"]
UID = row_uid(URL.format(5), "a red ball, number 5")
WANTED = request(url=URLS, uid=[UID], host=["c.example"])
GONE = {
    *(row_uid(URL.format(n), f"a red ball, number {n}") for n in (3, 5)),
    row_uid("http://b.example/timeout/1", "meets timeout"),
    *(row_uid(f"http://c.example/same-x/{n}", f"one of three, {n}") for n in range(3)),
}

#: What every run has behind its plan.
TABLES = ("images", "columns/policy", "columns/filter", "selections/default")


class Made(NamedTuple):
    """A finished run with its report, and copies of its product."""

    folder: Path
    store: Store

    @property
    def copies(self) -> list[Path]:
        return [self.folder / name for name in ("tars", "parquet", "rows.parquet")]


def make(folder: Path, **how: Any) -> Made:
    store = make_run(folder, **how)
    write_report(store)
    export_webdataset(store, folder / "tars", rows_per_shard=6)
    export_img2dataset(store, folder / "parquet", rows_per_shard=6)
    write_rows(store, folder / "rows.parquet")
    (folder / "input.jsonl").rename(folder.with_suffix(".jsonl"))  # the list is its owner's
    return Made(folder, store)


def state(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Content and time of every file; the lock, which a reader may take too, has neither."""
    files = (f for f in sorted(folder.rglob("*")) if f.is_file() and f.name != ".lock")
    return {str(f.relative_to(folder)): (f.read_bytes(), f.stat().st_mtime_ns) for f in files}


def all_rows(store: Store, table: str) -> pa.Table:
    return pa.concat_tables([store.load(table, shard) for shard in sorted(store.index(table))])


def others(rows: pa.Table) -> pa.Table:
    return rows.filter(pc.invert(pc.is_in(rows["uid"], pa.array(sorted(GONE)))))


def samples(folder: Path) -> dict[str, dict[str, bytes]]:
    """uid -> name and bytes of each file of the sample."""
    found: dict[str, dict[str, bytes]] = {}
    for file in sorted(folder.glob("*.tar")):
        by_key: dict[str, dict[str, bytes]] = {}
        with tarfile.open(file) as tar:
            for member in tar:
                stream = tar.extractfile(member)
                if stream is None:
                    pytest.fail(f"{file} has a member that is no file: {member.name}")
                by_key.setdefault(member.name.partition(".")[0], {})[f"{file.name}/{member.name}"] = stream.read()
        for key, members in by_key.items():
            found[json.loads(members[f"{file.name}/{key}.json"])["uid"]] = members
    return found


def store_parts(store: Store) -> list[int]:
    return sorted(Place(store).part_numbers())


def killed(made: Made, folder: Path, point: str, at_pass: int = 1) -> None:
    """Forget in a process of its own, which is killed at the n-th pass through a fault point."""
    child = os.fork()
    if not child:
        faults._armed = faults._parse(f"{point}:kill@{at_pass}", str(folder))
        forget(made.store, WANTED, made.copies, sure=True)
        os._exit(0)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != -9:
        pytest.fail(f"{point} was not passed")


def ended(made: Made) -> dict[str, Any]:
    """All that a forgetting ends with, but for the time of day."""
    found: dict[str, Any] = {}
    for name, (data, _) in state(made.folder).items():
        if name.startswith("run/plan/plan"):
            found[name] = {k: v for k, v in json.loads(data).items() if k not in ("forgotten", "check")}
        elif name in ("run/forgotten.parquet", "run/forgotten-copy.parquet"):
            found[name] = Tombstones.read(made.store).table.drop_columns(["at"]).to_pylist()
        elif name == "run/report.json":
            found[name] = {k: v for k, v in json.loads(data).items() if k not in ("run_dir", "runs")}
        elif name.startswith("run/runs/"):
            found[name] = {k: v for k, v in json.loads(data).get("forgot", {}).items() if k != "at"}
        elif name != "run/report.html":
            found[name] = data
    return found
