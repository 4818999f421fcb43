"""How rows are asked for and found, and that they do not come back."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
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
    state,
    store_parts,
)
from run_fixture import make_run, some_rows
from traces import traces

from curation.forget.request import Request, merged, read_request, request
from curation.forget.takedown import preview
from curation.identity import row_uid
from curation.inputs import InputConfig
from curation.plan import ShardsConfig, extend
from curation.table import PLAN
from pairmill.errors import InputError, UserError
from pairmill.layout import PAIRS
from pairmill.recipe_file import write_recipe
from pairmill.store import shard_file
from pipelines.forget import forget, lines


def test_it_says_what_it_would_do_and_changes_nothing(made: Made) -> None:
    before = state(made.folder)
    done = forget(made.store, WANTED, made.copies)
    after = state(made.folder)
    assert after == before
    assert not done["done"]
    assert (done["rows"], done["rows_kept"], done["rules"]) == (6, 3, 4)
    assert {Path(c["path"]).name for c in done["copies"]} >= {"rows.parquet", "00000.tar", "00000.parquet"}
    names = [PLAN, *TABLES, "columns/recaption", "columns/translate", "columns/gate"]
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
        ({"host": ["*."]}, "--host must be the name of a host"),
        ({"host": ["images"]}, "--host must be the name of a host"),
        ({"host": ["a..example"]}, "--host must be the name of a host"),
        ({"host": ["[::1"]}, "--host must be the name of a host"),
        ({"host": ["16909060"]}, "--host must be the name of a host"),
        ({"host": [UID[1:]]}, "--host must be the name of a host"),
    ],
)
def test_what_cannot_be_meant_is_refused(given: dict[str, list[str]], rule: str) -> None:
    with pytest.raises(UserError, match=rule.replace("*", r"\*")):
        request(**given)


@pytest.mark.parametrize(
    ("line", "host"),
    [
        ("a.example", "a.example"),
        ("images.", "images"),
        ("localhost", "localhost"),
        ("[::1]", "::1"),
        ("*.example", ".example"),
        ("bücher。example", "xn--bcher-kva.example"),
    ],
)
def test_a_line_may_name_a_host(tmp_path: Path, line: str, host: str) -> None:
    (tmp_path / "takedown.txt").write_text(f"{line}\r\n")
    assert read_request(tmp_path / "takedown.txt") == request(host=[line]) == Request(hosts=frozenset({host}))


@pytest.mark.parametrize("line", [UID[1:], UID + "0", "a" * 63, "a" * 65, "images", "a.example/1", "a b.example"])
def test_a_line_that_cannot_be_meant_is_refused_by_its_number(tmp_path: Path, line: str) -> None:
    listed = tmp_path / "takedown.txt"
    listed.write_text(f"# asked for\n{UID}\n\n  {line}\nc.example\n")
    with pytest.raises(InputError, match="every line of --from must be") as refused:
        read_request(listed)
    assert refused.value.value == f"line 4 of {listed}: {line}"


def test_an_empty_file_asks_for_nothing(tmp_path: Path) -> None:
    (tmp_path / "takedown.txt").write_text("# nothing yet\n\n")
    assert not read_request(tmp_path / "takedown.txt")
    assert not merged([])


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
    write_recipe(made.store, f"{text}\n# {URLS[0]}\n")
    done = forget(made.store, WANTED)
    assert (done["not_looked_into"], done["named_in"]) == (["notes.txt"], ["recipe.yaml", "recipe-copy.yaml"])
    said = "\n".join(lines(done))
    assert "notes.txt" in said
    assert "recipe.yaml" in said


def test_files_between_those_of_a_table_are_named_too(made: Made) -> None:
    assert forget(made.store, WANTED)["not_looked_into"] == []
    own = [
        *("columns/notes.csv", "images/shard-000000 (copy).parquet", "images/shard-000099.parquet"),
        *("pairs/old", "pairs/shard-000000.parquet", "runs/list.txt", "selections/default/.hidden"),
    ]
    for name in own:
        (made.folder / "run" / name).write_text(URLS[0])
    assert sorted(forget(made.store, WANTED)["not_looked_into"]) == sorted(own)


def test_asked_again_there_is_nothing_to_do(made: Made) -> None:
    forget(made.store, WANTED, made.copies, sure=True)
    before = state(made.folder)
    done = forget(made.store, WANTED, made.copies, sure=True)
    assert (done["rows"], done["rules"], done["already_forgotten"], done["done"]) == (0, 0, 1, True)
    assert state(made.folder) == before


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
