"""Rows that are forgotten: nothing of them is left anywhere, the rest is as it was, and they do not come back."""

from __future__ import annotations

import json
import os
import shutil
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.local import LocalFileSystem
from run_fixture import commit_step, make_run, some_rows, write_record
from traces import of_rows, traces

from curation.flow import Tables
from curation.forget.place import Place
from curation.forget.request import Request, merged, read_request, request
from curation.forget.takedown import begin, complete_pending, preview
from curation.forget.tombstones import Tombstones, refuse_pending
from curation.identity import row_uid
from curation.inputs import InputConfig
from curation.plan import ShardsConfig, extend, open_plan
from curation.results.export import export_img2dataset, export_webdataset
from curation.results.page import thumbnails
from curation.results.report import build_report, write_report
from curation.results.rows import write_rows
from curation.schema import set_columns
from curation.shards import commit_shard, outstanding
from curation.table import PLAN
from pairmill import faults
from pairmill.errors import InputError, RunDirError, UserError
from pairmill.layout import PAIRS
from pairmill.store import Entry, Store, shard_file
from pipelines.forget import forget, lines

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


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(tmp_path_factory.mktemp("forget") / "made")


@pytest.fixture(scope="module")
def needles(original: Made) -> set[bytes]:
    """What the files say of the rows and of no other."""
    return of_rows(original.folder, GONE)


@pytest.fixture
def made(original: Made, tmp_path: Path) -> Made:
    """A copy of the run, for one test to change."""
    shutil.copytree(original.folder, tmp_path / "made")
    return Made(tmp_path / "made", Store(str(tmp_path / "made" / "run")))


def state(folder: Path) -> dict[str, tuple[bytes, int]]:
    files = (f for f in sorted(folder.rglob("*")) if f.is_file())
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
                assert stream is not None
                by_key.setdefault(member.name.partition(".")[0], {})[f"{file.name}/{member.name}"] = stream.read()
        for key, members in by_key.items():
            found[json.loads(members[f"{file.name}/{key}.json"])["uid"]] = members
    return found


# What goes


@pytest.mark.slow
def test_no_file_holds_anything_of_the_rows(made: Made, needles: set[bytes]) -> None:
    shown = thumbnails(made.store, json.loads((made.folder / "run/report.json").read_text())["gallery"]["kept"])
    report = json.loads((made.folder / "run/report.json").read_text())
    needles = needles | {
        shown[f"{e['shard']}/{e['row']}"].encode() for e in report["gallery"]["kept"] if e["uid"] in GONE
    }
    assert {url.encode() for url in [*URLS, "http://c.example/same-x/1"]} <= needles
    # Three rows have one picture, and one of those is kept; the timeout has none.
    assert sum(needle.startswith(b"\xff\xd8") for needle in needles) == 3
    assert sum(needle.startswith(b"data:image/webp") for needle in needles) == 3
    before = traces([made.folder], needles)
    assert before.keys() == needles
    assert {name.split("/")[0] for names in before.values() for name in names} == {
        *("run", "tars", "parquet", "rows.parquet")
    }
    done = forget(made.store, WANTED, made.copies, sure=True)
    assert (done["rows"], done["rows_kept"], done["done"]) == (6, 3, True)
    assert traces([made.folder], needles) == {}
    # Which row it was is said where the run keeps count of its rows, and nowhere else.
    named = traces([made.folder], {uid.encode() for uid in GONE})
    assert {name.split("/")[1] for names in named.values() for name in names} == {
        *("plan", "images", "columns", "selections", "forgotten.parquet")
    }


def test_every_row_is_still_there_once_and_the_report_says_why_some_are_gone(made: Made) -> None:
    before = build_report(made.store)
    forget(made.store, WANTED, made.copies, sure=True)
    report = build_report(made.store)
    written = json.loads((made.folder / "run/report.json").read_text())
    for one in (report, written):
        assert (one["rows_in"], one["rows_kept"]) == (40, before["rows_kept"] - 3)
        assert one["rows_in"] == one["rows_kept"] + one["rows_dropped"]
        assert one["complete"]
        assert one["stages"][0]["dropped"] == {"forgotten": 6, "duplicate_input": 1}
    assert not any(group["reason"] == "forgotten" for group in report["gallery"]["dropped"])
    write_rows(made.store, made.folder / "again.parquet")
    rows = pq.read_table(made.folder / "again.parquet").to_pylist()
    gone = [row for row in rows if row["uid"] in GONE]
    assert [{k: v for k, v in row.items() if v} for row in gone] == [
        {"uid": row["uid"], "drop_stage": "plan", "drop_reason": "forgotten"} for row in gone
    ]
    assert len(rows) == 40


def test_the_journal_says_when_and_how_many_and_not_what(made: Made) -> None:
    forget(made.store, WANTED, made.copies, sure=True)
    record = made.store.read_json("runs/run-0002.json")
    assert record is not None
    assert {k: record["forgot"][k] for k in ("rows", "kept")} == {"rows": 6, "kept": 3}
    assert record["started_at"] - 5 < record["forgot"]["at"] < record["finished_at"]
    assert record["command"] == "pairmill forget"
    assert "6 rows forgotten" in (made.folder / "run/report.html").read_text()


def test_tombstones_say_nothing_of_what_they_were_made_from(made: Made) -> None:
    sha = (
        all_rows(made.store, "images").filter(pc.equal(all_rows(made.store, "images")["uid"], UID))["sha256"][0].as_py()
    )
    forget(made.store, merged([WANTED, request(sha256=[sha])]), sure=True)
    found = Tombstones.read(made.store)
    assert traces([made.folder / "run"], {sha.encode(), *(url.encode() for url in URLS), b"c.example"}) == {}
    assert found.covers_url(URLS[0].replace("http://a.example", "HTTP://A.example:80"))
    assert found.covers_url("http://c.example/whatever")
    assert not found.covers_url("http://www.c.example/whatever")
    assert found.covers_picture(sha)
    assert not found.covers_url(URL.format(4))
    assert not found.work


# What stays


def test_the_rest_is_as_it_was(made: Made) -> None:
    before = state(made.folder)
    tables = {name: all_rows(made.store, name) for name in (PLAN, *TABLES)}
    tables |= {name: all_rows(made.store, name) for name in ("columns/recaption", "columns/translate", PAIRS)}
    whole = samples(made.folder / "tars")
    parquet = pq.read_table(sorted((made.folder / "parquet").glob("*.parquet")))
    forget(made.store, WANTED, made.copies, sure=True)
    after = state(made.folder)
    shards = {shard for shard in range(6) if set(made.store.load(PLAN, shard, ["uid"])["uid"].to_pylist()) & GONE}
    assert 0 < len(shards) < 6
    for name, was in before.items():
        folder, _, number = name.removesuffix(".parquet").rpartition("/shard-")
        if name.endswith(".parquet") and folder.startswith("run/") and int(number) not in shards:
            assert after[name] == was  # not even written again
    for name, rows in tables.items():
        now = all_rows(made.store, name)
        assert now.schema == rows.schema
        assert others(now).equals(others(rows))
        assert len(now) == len(rows) - (3 if name == PAIRS else 0)
    assert samples(made.folder / "tars") == {uid: files for uid, files in whole.items() if uid not in GONE}
    now = pq.read_table(sorted((made.folder / "parquet").glob("*.parquet")))
    assert now.equals(others(parquet))
    sizes = json.loads((made.folder / "tars/sizes.json").read_text())
    assert sum(sizes.values()) == len(whole) - 3
    for name, size in sizes.items():
        with tarfile.open(made.folder / "tars" / name) as tar:
            assert sum(member.name.endswith(".json") for member in tar) == size


def test_nothing_becomes_stale_but_the_selection_which_looks_at_all_rows(tmp_path: Path) -> None:
    made = make(tmp_path / "made", recaption=False, translate=False)
    give_keys(made.store)
    here = Place(made.store)
    whole = here.wanted_parts()
    touched = {s for s in range(6) if set(made.store.load(PLAN, s, ["uid"])["uid"].to_pylist()) & GONE}
    before = state(made.folder / "run/pairs")
    forget(made.store, WANTED, sure=True)
    assert not outstanding(made.store, here.tables.of("collect"), here.plan.shard_numbers(), [PLAN])
    now = Place(made.store).wanted_parts()
    assert {n: part.shards for n, part in now.items()} == {n: part.shards for n, part in whole.items()}
    assert {n: part.key for n, part in now.items()} == {n: entry.key for n, entry in made.store.index(PAIRS).items()}
    upstream = here.tables.named(here.tables.selection).upstream
    contents = {name: {s: e.content for s, e in made.store.index(name).items()} for name in upstream}
    [*work] = outstanding(made.store, [here.tables.selected(contents)], range(6), upstream)
    assert [one.shard for one in work] == [*range(6)]
    # A part with none of the rows gets another manifest where a shard of it changed, and keeps its file.
    uids = {n: set(made.store.load(PAIRS, n, ["uid"])["uid"].to_pylist()) for n in now}
    after = state(made.folder / "run/pairs")
    rewritten = {n for n in now if after[f"part-{n:06d}.parquet"] != before[f"part-{n:06d}.parquet"]}
    assert rewritten == {n for n in now if len(uids[n]) < before_rows(before, n)}
    assert {n for n, part in now.items() if touched & set(part.shards)} == {
        n for n in now if now[n].key != whole[n].key
    }


def before_rows(files: dict[str, tuple[bytes, int]], part: int) -> int:
    return int(pq.read_metadata(pa.BufferReader(files[f"part-{part:06d}.parquet"][0])).num_rows)


def give_keys(store: Store) -> None:
    """Key every shard of the run as a job would."""
    here = Place(store)
    shards = here.plan.shard_numbers()
    contents = {name: {s: e.content for s, e in store.index(name).items()} for name in (PLAN, *TABLES)}
    for table in here.tables.all:
        if table.name == here.tables.selection:
            table = here.tables.selected(contents)
        for shard in shards:
            rekey(store, table.name, shard, table.key({name: contents[name][shard] for name in table.upstream}))
    for number, part in here.wanted_parts().items():
        rekey(store, PAIRS, number, part.key)


def rekey(store: Store, table: str, shard: int, key: str) -> None:
    entry = store.entry(table, shard)
    assert entry is not None
    manifest = store.manifest(table, shard, entry) or {}
    store.write_manifest(table, shard, {**manifest, "key": key}, "test")
    store.retract(table, shard, keep=Entry(key, entry.content))


def test_other_rows_with_the_picture_are_counted_and_stay(made: Made) -> None:
    kept = next(u for u in sorted(GONE) if u in all_rows(made.store, PAIRS)["uid"].to_pylist() and "ok" not in u)
    same = [row_uid(f"http://c.example/same-x/{n}", f"one of three, {n}") for n in range(3)]
    [survivor] = set(same) & set(all_rows(made.store, PAIRS)["uid"].to_pylist())
    assert kept
    done = forget(made.store, request(uid=[survivor]), sure=True)
    assert (done["rows"], done["same_picture"], len(done["sha256s"])) == (1, 2, 1)
    assert any(f"--sha256 {done['sha256s'][0]}" in line for line in lines(done))
    reasons = {
        r["uid"]: r["reason"] for r in all_rows(made.store, "selections/default").to_pylist() if r["uid"] in same
    }
    assert reasons == {uid: "forgotten" if uid == survivor else "duplicate_image" for uid in same}
    assert build_report(made.store)["complete"]
    done = forget(made.store, request(sha256=done["sha256s"]), sure=True)
    assert (done["rows"], done["rows_kept"], done["same_picture"]) == (2, 0, 0)
    assert build_report(made.store)["stages"][0]["dropped"]["forgotten"] == 3


def test_tables_that_the_recipe_does_not_name_are_cleaned_too(made: Made) -> None:
    store, numbers = made.store, range(6)
    for shard in numbers:
        rows = store.load(PLAN, shard)
        uids = rows["uid"].to_pylist()
        own = pa.table(
            {
                "uid": uids,
                "tags": pa.array([[{"word": f"tag of {uid}", "at": [1, 2]}] for uid in uids]),
                "vector": pa.array([[0.5, 1.5]] * len(uids), pa.list_(pa.float32(), 2)),
                "blob": pa.array([f"blob of {uid}".encode() for uid in uids], pa.large_binary()),
            }
        )
        store.commit("columns/mine", shard, "0" * 16, own, {"stages": {"mine": {"rows_in": 1, "rows_kept": 1}}})
    beside(store)
    forget(store, WANTED, sure=True)
    now = all_rows(store, "columns/mine")
    mine = now.filter(pc.is_in(now["uid"], pa.array(sorted(GONE))))
    assert [{k: v for k, v in row.items() if v is not None} for row in mine.to_pylist()] == [
        {"uid": uid} for uid in mine["uid"].to_pylist()
    ]
    assert others(now)["tags"].null_count == 0
    chosen = all_rows(store, "selections/other")
    assert {r["reason"] for r in chosen.to_pylist() if r["uid"] in GONE} == {"forgotten"}
    report = build_report(store, selection="other")  # every count of it follows from its rows
    assert report["stages"][0]["dropped"]["forgotten"] == 6
    assert report["rows_kept"] == sum(chosen["keep"].to_pylist())
    assert traces([made.folder / "run"], {f"tag of {uid}".encode() for uid in GONE}) == {}


def beside(store: Store) -> None:
    """Another selection, with filters of its own, as a sweep makes it."""
    tables = Tables(Place(store).flow, selection="other", beside=True, keyed=False)
    for shard in range(6):
        rows = store.load(PLAN, shard)
        images, filtered = (store.load(name, shard) for name in ("images", "columns/filter"))
        columns = {n: t[n] for t in (images, filtered) for n in t.schema.names if n != "uid"}
        private = {"_shard": pa.repeat(pa.scalar(shard, pa.int32()), len(rows))}
        for name in (PLAN, "images", "columns/policy"):
            private[f"_content_{name}"] = pa.repeat(pa.scalar("0"), len(rows))
        rows = pa.table({**{n: rows[n] for n in rows.schema.names}, **columns, **private})
        reason = rows["drop_reason"]
        rows = rows.append_column("keep", pc.is_null(reason)).append_column("reason", reason)
        commit_shard(store, [tables.named("columns/filter-other"), tables.named("selections/other")], rows, run=1)


def test_what_killed_jobs_left_is_cleaned_too(made: Made, needles: set[bytes]) -> None:
    store, run = made.store, made.folder / "run"
    page = run / "images" / ".0123.partial"
    shutil.copy(run / "images/shard-000000.parquet", page)
    shutil.copy(run / "report.html", run / ".4567.partial")
    # A plan that was killed while it was extended; a part that was not committed.
    store.write_table(shard_file(PLAN, 6), store.load(PLAN, 0))
    store.write_table(shard_file(PAIRS, 9), all_rows(store, PAIRS))
    store.retract("columns/filter", 1)
    write_record(store, 2, finished=False)
    with store.scratch("plan") as scratch:
        shutil.copy(run / "plan/shard-000000.parquet", scratch / "0.arrow")
        forget(store, WANTED, made.copies, sure=True)
        assert not scratch.exists()
        scratch.mkdir()
    assert traces([made.folder], needles) == {}
    assert not page.exists()
    assert sorted(store.index(PAIRS)) == store_parts(store) == [0, 1]


def test_a_damaged_run_is_cleaned_too(made: Made, caplog: pytest.LogCaptureFixture) -> None:
    kept = made.store.load(PAIRS, 1).slice(1)
    made.store.commit(PAIRS, 1, "0" * 16, kept, {}, row_group_rows=4)
    forget(made.store, WANTED, sure=True)
    assert "the report cannot be built: pairs part 1" in caplog.text
    assert not Tombstones.read(made.store).work
    assert not (made.folder / "run/report.html").exists()


def store_parts(store: Store) -> list[int]:
    return sorted(Place(store).part_numbers())


def test_an_unfinished_run_is_cleaned_and_stays_unfinished(tmp_path: Path) -> None:
    store = make_run(tmp_path, upto="filter", shards_upto=3)
    needles = of_rows(tmp_path / "run", GONE)
    done = forget(store, WANTED, sure=True)
    assert (done["rows"], done["rows_kept"]) == (6, 0)
    assert traces([tmp_path / "run"], needles) == {}
    report = build_report(store)
    assert not report["complete"]
    assert report["stages"][0]["dropped"]["forgotten"] == 6
    assert not Path(store.path("report.json")).exists()
    # What is not done yet is done as if the rows had never lived.
    rows = store.load(PLAN, 5)
    images = store.load("images", 5)
    commit_step(store, "filter", 5, set_columns(rows, {name: images[name] for name in images.schema.names}))
    assert build_report(store)["stages"][0]["dropped"]["forgotten"] == 6
    assert traces([tmp_path / "run"], needles) == {}


# How it is asked for


def test_it_says_what_it_would_do_and_changes_nothing(made: Made) -> None:
    before = state(made.folder)
    done = forget(made.store, WANTED, made.copies)
    after = state(made.folder)
    assert {k: v for k, v in after.items() if not k.endswith(".lock")} == {
        k: v for k, v in before.items() if not k.endswith(".lock")
    }
    assert not done["done"]
    assert (done["rows"], done["rows_kept"], done["rules"]) == (6, 3, 4)
    assert {Path(c["path"]).name for c in done["copies"]} >= {"rows.parquet", "00000.tar", "00000.parquet"}
    names = [PLAN, *TABLES, "columns/recaption", "columns/translate"]
    shards = {s for s in range(6) if set(made.store.load(PLAN, s, ["uid"])["uid"].to_pylist()) & GONE}
    files = [Path(made.store.path(shard_file(name, s))) for name in names for s in shards]
    held = {n for n in store_parts(made.store) if set(made.store.load(PAIRS, n, ["uid"])["uid"].to_pylist()) & GONE}
    files += [Path(made.store.path(shard_file(PAIRS, n))) for n in held]
    files += [Path(c["path"]) for c in done["copies"]]
    assert done["bytes"] == sum(f.stat().st_size for f in files)
    assert (done["shards"], done["parts"]) == (len(shards), len(held))


@pytest.mark.parametrize(
    ("wanted", "paths"),
    [
        (request(url=[" HTTP://A.Example:80/ok/3#top"]), {"/ok/3"}),
        (request(host=["B.example."]), None),
        (request(host=["*.example"]), None),
        (request(host=["*.b.example"]), set()),
        (request(url=["http://elsewhere.example/"]), set()),
    ],
)
def test_rows_are_found_by_what_they_are(made: Made, wanted: Request, paths: set[str] | None) -> None:
    found = preview(made.store, wanted).found
    rows = all_rows(made.store, PLAN).to_pylist()
    host = {"B.example.": "b.example", "*.example": ""}.get
    if paths is None:
        [given] = wanted.hosts
        asked = [r for r in rows if (host("B.example.") or "") in r["url"]] if not given.startswith(".") else rows
    else:
        asked = [r for r in rows if r["url"].removeprefix("http://a.example") in paths]
    assert found.rows == len(asked)
    assert set(found.places["digest"].to_pylist()) == {r["uid"] for r in asked}


def test_a_row_is_found_by_where_its_redirects_led(tmp_path: Path) -> None:
    store = make_run(tmp_path)
    uid = store.load("images", 0, ["uid"])["uid"][0].as_py()
    rows = store.load("images", 0)
    urls = ["http://moved.example/x", *rows["final_url"].to_pylist()[1:]]
    at = rows.schema.get_field_index("final_url")
    entry = store.entry("images", 0)
    manifest = store.manifest("images", 0, entry) if entry else None
    assert manifest
    facts = {k: v for k, v in manifest.items() if k not in ("key", "content", "rows", "bytes", "shard")}
    store.commit("images", 0, "0" * 16, rows.set_column(at, "final_url", pa.array(urls)), facts)
    for wanted in (request(url=["http://moved.example/x"]), request(host=["moved.example"])):
        assert preview(store, wanted).found.places["digest"].to_pylist() == [uid]
    forget(store, request(host=["moved.example"]), sure=True)
    assert traces([tmp_path / "run"], {b"moved.example"}) == {}


def test_other_rows_of_the_url_are_counted_and_stay(tmp_path: Path) -> None:
    texts = ("a red ball", "a blue ball", "a red ball")
    store = make_run(tmp_path, [{"url": f"http://a.example/ok/1#{n}", "text": text} for n, text in enumerate(texts)])
    uid = row_uid("http://a.example/ok/1", "a red ball")
    done = forget(store, request(uid=[uid]), sure=True)
    assert (done["rows"], done["same_url"]) == (2, 1)  # one of them is a duplicate_input of the other
    assert any("1 other row of the same URLs stay" in line for line in lines(done))
    assert forget(store, request(url=["http://a.example/ok/1"]))["rows"] == 1


def test_a_file_of_what_is_to_go(tmp_path: Path) -> None:
    listed = tmp_path / "takedown.txt"
    listed.write_text(
        f"\ufeff# asked for on Monday\n{URLS[0]}\n\n  {UID.upper()}\nc.example\n*.d.example\n{'a' * 64}\n"
    )
    assert read_request(listed) == Request(
        frozenset({UID}), frozenset({URLS[0]}), frozenset({"c.example", ".d.example"}), frozenset({"a" * 64})
    )
    with pytest.raises(InputError, match="--from must name a text file"):
        read_request(tmp_path / "none.txt")


@pytest.mark.parametrize(
    ("given", "rule"),
    [
        ({"uid": ["123"]}, "32 hex digits"),
        ({"sha256": ["f" * 63]}, "64 hex digits"),
        ({"url": ["a.example/ok"]}, "--url must be a URL"),
        ({"host": ["http://a.example"]}, "--host must be the name of a host"),
        ({"host": ["a.example/ok"]}, "--host must be the name of a host"),
        ({"host": ["*"]}, "--host must be the name of a host"),
    ],
)
def test_what_cannot_be_meant_is_refused(given: dict[str, list[str]], rule: str) -> None:
    with pytest.raises(UserError, match=rule.replace("*", r"\*")):
        request(**given)


def test_names_of_hosts_are_compared_as_they_are_looked_up(tmp_path: Path) -> None:
    rows = [
        {"url": f"http://{host}/ok/1", "text": "a red ball"} for host in ("bücher.example", "xn--bcher-kva.example")
    ]
    store = make_run(tmp_path, [*rows, {"url": "http://bucher.example/ok/1", "text": "a red ball"}], upto="plan")
    for host in ("bücher.example", "BÜCHER.example", "xn--bcher-kva.example"):
        assert preview(store, request(host=[host])).found.rows == 2
    assert preview(store, request(host=["*.example"])).found.rows == 3


def test_files_that_are_not_of_the_run_are_named_and_left_alone(made: Made) -> None:
    (made.folder / "run/notes.txt").write_text(URLS[0])
    text = made.store.read_text("recipe.yaml")
    assert text
    made.store.write_bytes("recipe.yaml", f"{text}\n# {URLS[0]}\n".encode())
    done = forget(made.store, WANTED)
    assert (done["not_looked_into"], done["named_in"]) == (["notes.txt"], ["recipe.yaml"])
    said = "\n".join(lines(done))
    assert "notes.txt" in said
    assert "recipe.yaml" in said


def test_a_copy_that_cannot_be_cleaned_is_refused_before_anything_is(made: Made) -> None:
    pq.write_table(pa.table({"url": [URLS[0]]}), made.folder / "own.parquet")
    before = state(made.folder / "run")
    for place, rule in (
        (made.folder / "own.parquet", "must have its uid"),
        (made.folder / "none", "must name an export"),
    ):
        with pytest.raises(UserError, match=rule):
            forget(made.store, WANTED, [place], sure=True)
    assert state(made.folder / "run").keys() == before.keys()


def test_a_copy_may_be_named_later(made: Made) -> None:
    forget(made.store, WANTED, sure=True)
    needles = of_rows(made.folder / "parquet", GONE)
    assert needles
    done = forget(made.store, Request(), made.copies, sure=True)
    assert (done["rows"], len(done["copies"])) == (0, 5)
    assert traces([made.folder], needles) == {}
    assert not forget(made.store, WANTED, made.copies, sure=True)["copies"]


def test_asked_again_there_is_nothing_to_do(made: Made) -> None:
    forget(made.store, WANTED, made.copies, sure=True)
    before = state(made.folder)
    done = forget(made.store, WANTED, made.copies, sure=True)
    assert (done["rows"], done["rules"], done["already_forgotten"], done["done"]) == (0, 0, 1, True)
    assert {k: v for k, v in state(made.folder).items() if not k.endswith(".lock")} == {
        k: v for k, v in before.items() if not k.endswith(".lock")
    }


def test_a_run_in_use_is_left_alone(made: Made) -> None:
    before = state(made.folder / "run")
    ready, signal = os.pipe()
    child = os.fork()
    if not child:
        with made.store.locked():
            os.write(signal, b".")
            time.sleep(600)
        os._exit(0)
    try:
        assert os.read(ready, 1) == b"."
        with pytest.raises(RunDirError, match="one job at a time"):
            forget(made.store, WANTED, sure=True)
        assert state(made.folder / "run").keys() == {*before, ".lock"}
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)


# What does not come back


def test_an_extension_does_not_bring_them_back(made: Made) -> None:
    forget(made.store, WANTED, sure=True)
    rows = [*some_rows(), {"url": URLS[0], "text": "quite another text", "id": 1}]
    rows += [{"url": "http://c.example:80/new", "text": "the same host", "id": 2}]
    rows += [{"url": URL.format(5), "text": "the row was asked for, not its URL", "id": 3}]
    listing = made.folder / "more.jsonl"
    listing.write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = InputConfig(path=str(listing), format="jsonl")
    planned, _ = extend(made.store, [str(listing)], given, ShardsConfig(rows_per_shard=7))
    assert planned.rows == 40 + 43
    new = pa.concat_tables([made.store.load(PLAN, s) for s in planned.inputs[1].shard_numbers()])
    by_index = {row["index"] - 40: row for row in new.to_pylist()}
    blank = {"url": "", "alt": "", "input": None, "drop_stage": "plan", "drop_reason": "forgotten"}
    forgotten = {n for n, row in by_index.items() if {k: row[k] for k in blank} == blank}
    expected = {n for n, row in enumerate(rows) if row_uid(row["url"], row["text"]) in GONE} | {40, 41}
    assert forgotten == expected
    assert by_index[42]["url"] == URL.format(5)
    assert {row["drop_reason"] for n, row in by_index.items() if n not in expected} == {None, "duplicate_input"}
    assert traces([made.folder / "run"], {*(u.encode() for u in URLS), b"c.example", b"quite another"}) == {}


# Killed


POINTS = [
    "forget.tombstones.before_rename",
    "forget.tombstones.after_rename",
    "forget.reports_removed",
    "rewrite.selections/default.data.after_rename",
    "rewrite.images.manifest.before_write",
    "forget.shard_rewritten",
    "commit.pairs.data.before_rename",
    "commit.pairs.manifest.before_write",
    "forget.parts_rewritten",
    "forget.copy",
    "forget.copies_rewritten",
    "forget.record.after_rename",
    "forget.done.before_rename",
    "forget.done.after_rename",
]


@pytest.fixture(scope="module")
def expected(original: Made, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("expected") / "made"
    shutil.copytree(original.folder, folder)
    made = Made(folder, Store(str(folder / "run")))
    forget(made.store, WANTED, made.copies, sure=True)
    return ended(made)


def ended(made: Made) -> dict[str, Any]:
    """All that a forgetting ends with, but for the time of day."""
    found: dict[str, Any] = {}
    for name, (data, _) in state(made.folder).items():
        if name == "run/forgotten.parquet":
            found[name] = Tombstones.read(made.store).table.drop_columns(["at"]).to_pylist()
        elif name == "run/report.json":
            found[name] = {k: v for k, v in json.loads(data).items() if k not in ("run_dir", "runs")}
        elif name.startswith("run/runs/"):
            found[name] = {k: v for k, v in json.loads(data).get("forgot", {}).items() if k != "at"}
        elif name != "run/report.html" and not name.endswith(".lock"):
            found[name] = data
    return found


@pytest.mark.slow
@pytest.mark.parametrize("point", POINTS)
def test_killed_anywhere_it_ends_the_same(
    made: Made, needles: set[bytes], expected: dict[str, Any], tmp_path: Path, point: str
) -> None:
    killed(made, tmp_path, point)
    if Tombstones.read(made.store).work:
        with pytest.raises(RunDirError, match="must be completed before"):
            refuse_pending(made.store)
    forget(made.store, WANTED, made.copies, sure=True)
    assert ended(made) == expected
    assert (made.folder / "run/report.html").exists()
    assert traces([made.folder], needles) == {}
    assert build_report(made.store)["complete"]


def test_a_job_completes_what_was_cut_short(made: Made, expected: dict[str, Any], tmp_path: Path) -> None:
    killed(made, tmp_path, "forget.shard_rewritten")
    complete_pending(made.store)
    assert ended(made) == expected
    complete_pending(made.store)  # nothing to do
    assert ended(made) == expected


def test_another_request_completes_the_first(made: Made, needles: set[bytes], tmp_path: Path) -> None:
    killed(made, tmp_path, "forget.reports_removed")
    done = forget(made.store, request(url=[URL.format(9)]))
    assert done["completed"] == 6
    assert (done["rows"], done["done"]) == (1, False)
    assert traces([made.folder], needles) == {}


def killed(made: Made, folder: Path, point: str) -> None:
    """Forget in a process of its own, which is killed at a fault point."""
    child = os.fork()
    if not child:
        faults._armed = faults._parse(f"{point}:kill@1", str(folder))
        forget(made.store, WANTED, made.copies, sure=True)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -9


# Elsewhere


def test_on_a_store_without_renames_and_locks(made: Made, needles: set[bytes]) -> None:
    """An object store as Arrow shows it: a put is whole, folders are made by names, and there is no lock."""
    store = made.store
    store._fs, store._local = pafs.PyFileSystem(pafs.FSSpecHandler(LocalFileSystem(auto_mkdir=True))), False
    done = forget(store, WANTED, made.copies, sure=True)
    assert done["rows"] == 6
    assert traces([made.folder], needles) == {}
    assert build_report(store)["complete"]


def test_a_plan_alone_can_be_cleaned(tmp_path: Path) -> None:
    store = make_run(tmp_path, upto="plan")
    begin(store, preview(store, WANTED))
    complete_pending(store)
    rows = all_rows(store, PLAN)
    assert pc.sum(pc.equal(rows["drop_reason"], "forgotten")).as_py() == 6
    assert open_plan(store).rows == 40


@pytest.fixture(autouse=True)
def own_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    yield
