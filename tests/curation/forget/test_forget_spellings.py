"""A forgotten URL, host or row is forgotten in every spelling: in the run, in a longer list, and behind a redirect."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest
from run_fixture import make_run
from traces import traces

from curation.forget.request import Request, request
from curation.forget.takedown import preview
from curation.identity import row_uid
from curation.inputs import InputConfig
from curation.plan import ShardsConfig, extend
from curation.table import PLAN
from pairmill.store import Store
from pipelines.forget import forget

TEXT = "a red ball"
#: The fetcher makes the same request of all of these.  uids tell them apart, but for the last two.
SPELLINGS = [
    "http://bücher.example/~a/b.jpg?q=%C3%BC",
    "HTTP://BÜCHER.example:80/~a/b.jpg?q=%C3%BC#top",
    "http://xn--bcher-kva.example/~a/b.jpg?q=%C3%BC",
    "http://xn--bcher-kva.example./~a/b.jpg?q=%C3%BC",
    "http://ｂücher.example/~a/b.jpg?q=%C3%BC",
    "http://bücher.example/%7Ea/b.jpg?q=%C3%BC",
    "http://bücher.example/%7ea/%62.jpg?q=%c3%bc",
    "http://bücher.example/~a/b.jpg?q=ü",
    "http://bücher.example/./~a/b.jpg?q=%C3%BC",
    "http://bücher.example/~a/x/../b.jpg?q=%C3%BC",
    "http://b\tücher.example/~a/b.jpg?q=%C3%BC",
    "\u00a0http://bücher.example/~a/b.jpg?q=%C3%BC",
]
ASCII = ["http://a.example/1", "http://a.example./%31", "http://ａ.example/1?", "http://A.Example:/./1"]
ADDRESS = ["http://127.0.0.1/1", "http://0x7f000001/1", "http://127.1/1"]
#: Other pictures.
OTHERS = ["https://a.example/1", "http://a.example/1/", "http://a.example:81/1", "http://www.a.example/1"]


def planned(folder: Path, urls: list[str]) -> Store:
    return make_run(folder, [{"url": url, "text": TEXT} for url in urls], upto="plan")


def extended(store: Store, folder: Path, rows: list[tuple[str, str]]) -> list[str | None]:
    """What becomes of each row of another list, by drop_reason."""
    listing = folder / "more.jsonl"
    listing.write_text("".join(json.dumps({"url": url, "text": text}) + "\n" for url, text in rows))
    given = InputConfig(path=str(listing), format="jsonl")
    made, _ = extend(store, [str(listing)], given, ShardsConfig(rows_per_shard=7))
    new = pa.concat_tables([store.load(PLAN, shard) for shard in made.inputs[-1].shard_numbers()])
    return [row["drop_reason"] for row in new.sort_by("index").to_pylist()]


@pytest.mark.parametrize("spellings", [SPELLINGS, ASCII, ADDRESS])
def test_a_url_is_found_in_every_spelling_by_any(tmp_path: Path, spellings: list[str]) -> None:
    store = planned(tmp_path, [*spellings, *OTHERS])
    for url in spellings:
        assert preview(store, request(url=[url])).found.rows == len(spellings)


HOSTS = {
    **dict.fromkeys(("BÜCHER.example.", "xn--bcher-kva.example", "*.EXAMPLE."), SPELLINGS),
    **dict.fromkeys(("ａ.example", "a.example."), ASCII),
    **dict.fromkeys(("0x7f.1", "127.0.0.1"), ADDRESS),
}


@pytest.mark.parametrize(("host", "spellings"), HOSTS.items())
def test_a_host_is_found_in_every_spelling_by_any(tmp_path: Path, host: str, spellings: list[str]) -> None:
    store = planned(tmp_path, [*spellings, "http://elsewhere.test/1"])
    assert preview(store, request(host=[host])).found.rows == len(spellings)


@pytest.mark.parametrize("spellings", [SPELLINGS, ASCII])
@pytest.mark.parametrize("by", ["url", "host", "uid"])
def test_no_spelling_comes_back(tmp_path: Path, spellings: list[str], by: str) -> None:
    first = spellings[0]
    store = planned(tmp_path, [first, "http://elsewhere.test/1"])
    host = first.split("/")[2]
    asked = {"url": request(url=[first]), "host": request(host=[host]), "uid": request(uid=[row_uid(first, TEXT)])}
    assert forget(store, asked[by], sure=True)["rows"] == 1
    rows = [(url, TEXT) for url in spellings] + [(spellings[1], "another text"), ("http://elsewhere.test/2", TEXT)]
    found = extended(store, tmp_path, rows)
    another = None if by == "uid" else "forgotten"
    assert found == ["forgotten"] * len(spellings) + [another, None]
    # The new list is its owner's; nothing of it is in the run.
    if by != "uid":
        assert traces([tmp_path / "run"], {url.encode() for url in spellings}) == {}


def test_others_do_come(tmp_path: Path) -> None:
    store = planned(tmp_path, ["http://a.example/1", "http://elsewhere.test/1"])
    forget(store, request(url=["http://a.example/1"]), sure=True)
    assert extended(store, tmp_path, [(url, TEXT) for url in OTHERS]) == [None] * len(OTHERS)


def test_a_row_goes_with_its_other_spellings_and_not_with_other_texts(tmp_path: Path) -> None:
    """Asked for by its uid, a row is its request and its text."""
    rows = [*((url, TEXT) for url in ASCII), (ASCII[0], "another text"), (ASCII[1], "another text"), (OTHERS[0], TEXT)]
    store = make_run(tmp_path, [{"url": url, "text": text} for url, text in rows], upto="plan")
    done = forget(store, request(uid=[row_uid(ASCII[2], TEXT)]), sure=True)
    assert (done["rows"], done["same_url"]) == (len(ASCII), 2)
    left = pa.concat_tables([store.load(PLAN, shard) for shard in store.index(PLAN)]).to_pylist()
    assert {(row["url"], row["alt"]) for row in left if row["drop_reason"] != "forgotten"} == set(rows[len(ASCII) :])


def test_a_request_holds_urls_and_hosts_in_one_spelling() -> None:
    assert request(url=ASCII, host=["A.example.", "ａ.example", "*.A.example"]) == Request(
        urls=frozenset({"http://a.example/1"}), hosts=frozenset({"a.example", ".a.example"})
    )
