"""Rows that are forgotten: nothing of them is left anywhere, and the rest is as it was."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from forgotten_run import (
    GONE,
    TABLES,
    UID,
    URL,
    URLS,
    WANTED,
    Made,
    all_rows,
    make,
    others,
    samples,
    state,
)
from run_fixture import commit_step, make_run
from traces import of_rows, traces

from curation.flow import Tables
from curation.forget.place import Place
from curation.forget.request import merged, request
from curation.forget.takedown import begin, complete_pending, preview
from curation.forget.tombstones import Tombstones
from curation.identity import row_uid
from curation.plan import open_plan
from curation.results.report import build_report
from curation.results.rows import write_rows
from curation.results.thumbnails import thumbnails
from curation.schema import set_columns
from curation.shards import commit_shard, outstanding
from curation.table import PLAN
from pairmill.layout import PAIRS
from pairmill.store import Entry, Store
from pipelines.forget import forget, lines

pytestmark = pytest.mark.slow


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
        *("plan", "images", "columns", "selections", "forgotten.parquet", "forgotten-copy.parquet")
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
    assert {(r["reason"], r["duplicate_group"]) for r in chosen.to_pylist() if r["uid"] in GONE} == {
        ("forgotten", None)
    }
    assert all(r["duplicate_group"] == r["uid"] for r in chosen.to_pylist() if r["uid"] not in GONE)
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
        rows = rows.append_column("duplicate_group", rows["uid"])
        commit_shard(store, [tables.named("columns/filter-other"), tables.named("selections/other")], rows, run=1)


def test_a_damaged_run_is_cleaned_too(made: Made, caplog: pytest.LogCaptureFixture) -> None:
    kept = made.store.load(PAIRS, 1).slice(1)
    made.store.commit(PAIRS, 1, "0" * 16, kept, {}, row_group_rows=4)
    forget(made.store, WANTED, sure=True)
    assert "the report cannot be built: pairs part 1" in caplog.text
    assert not Tombstones.read(made.store).work
    assert not (made.folder / "run/report.html").exists()


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


def test_a_plan_alone_can_be_cleaned(tmp_path: Path) -> None:
    store = make_run(tmp_path, upto="plan")
    begin(store, preview(store, WANTED))
    complete_pending(store)
    rows = all_rows(store, PLAN)
    assert pc.sum(pc.equal(rows["drop_reason"], "forgotten")).as_py() == 6
    assert open_plan(store).rows == 40
