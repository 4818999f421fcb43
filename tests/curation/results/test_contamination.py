"""Matches with evaluation sets in the report, and clusters of a head's column, as the tables have them."""

from __future__ import annotations

import io
from collections import Counter, defaultdict
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from compared_stage import MATCH
from PIL import Image
from run_fixture import make_run, write_record
from score_tables import add_table

from curation.results.contamination import SHOWN
from curation.results.report import write_report
from pairmill.store import Store

KINDS = ("same_image", "near_image", "caption")
ITEM = "flowers/<i>{}</i>.png"


def matches_of(number: int) -> list[dict[str, Any]] | None:
    """Of the row of a number: some match by several kinds, and some several items by one."""
    rng = np.random.default_rng(number)
    if number % 3:
        return None
    return [
        {"kind": kind, "item": ITEM.format(int(rng.integers(9))), "similarity": float(np.float32(rng.random()))}
        for kind in KINDS[number % 2 :]
        for _ in range(int(rng.integers(1, 4)))
    ]


def number_of(url: str) -> int:
    return int(url.rpartition("/")[2])


def picture() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (9, 9), "red").save(file, "WEBP")
    return file.getvalue()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Store:
    listed = [
        {"url": f"http://a.example/{'timeout' if n % 7 == 0 else 'ok'}/{n}", "text": f"a flower {n}"} for n in range(90)
    ]
    store = make_run(tmp_path_factory.mktemp("compared"), listed, rows_per_shard=17, recaption=False, translate=False)

    def compared(plan: pa.Table, mask: np.ndarray[Any, np.dtype[np.bool_]]) -> dict[str, Any]:
        numbers = [number_of(url) for url in plan["url"].to_pylist()]
        found = [matches_of(n) if alive else None for n, alive in zip(numbers, mask, strict=True)]
        strongest = [None if one is None else one[0]["kind"] for one in found]
        return {
            "contaminated_flowers": pa.array(strongest, pa.string()),
            "matches_flowers": pa.array(found, pa.list_(MATCH)),
        }

    def concepts(plan: pa.Table, mask: np.ndarray[Any, np.dtype[np.bool_]]) -> dict[str, Any]:
        numbers = [number_of(url) for url in plan["url"].to_pylist()]
        of = [int(n**0.5) if alive else None for n, alive in zip(numbers, mask, strict=True)]
        counts = pa.array([None if one is None else one % 3 for one in of], pa.int32())
        return {"about": pa.array(of, pa.int32()), "about_faces": counts}

    add_table(store, {"score": {"about": {"name": "compared_stage:Concepts"}}}, "score-about", concepts)
    add_table(store, {"stages": ["compared_stage:Compared"]}, "compared", compared)
    for piece in range(2):
        items = [ITEM.format(n) for n in range(9) if n % 2 == piece and n != 4]
        rows = {
            "item": items,
            "captions": [[f"caption of {item}", "another"] for item in items],
            "thumbnail": pa.array([picture() for _ in items], pa.binary()),
        }
        store.commit("references/flowers", piece, "k", pa.table(rows), {})
    return store


@pytest.fixture(scope="module")
def report(run: Store) -> dict[str, Any]:
    return write_report(run)


def alive(run: Store) -> dict[str, int]:
    """uid -> number of the rows that no stage dropped."""
    found = {}
    for shard in sorted(run.index("plan")):
        plan, drops = run.load("plan", shard).to_pylist(), run.load("columns/filter", shard).to_pylist()
        found |= {p["uid"]: number_of(p["url"]) for p, d in zip(plan, drops, strict=True) if d["drop_reason"] is None}
    return found


def test_matches_are_counted_by_kind_and_the_least_alike_are_shown(run: Store, report: dict[str, Any]) -> None:
    [found] = report["contamination"]
    numbers = alive(run)
    least: dict[str, list[tuple[float, str, str]]] = defaultdict(list)
    strongest: Counter[str] = Counter()
    for uid, number in numbers.items():
        matches = matches_of(number) or []
        strongest.update(match["kind"] for match in matches[:1])
        for kind in {match["kind"] for match in matches}:
            of_kind = [match for match in matches if match["kind"] == kind]
            worst = min(of_kind, key=lambda match: (match["similarity"], match["item"]))
            least[kind].append((worst["similarity"], uid, worst["item"]))
    assert (found["set"], found["compared"], found["rows"]) == ("flowers", len(numbers), strongest.total())
    assert {one["kind"]: (one["rows"], one["strongest"]) for one in found["kinds"]} == {
        kind: (len(rows), strongest[kind]) for kind, rows in least.items()
    }
    for one in found["kinds"]:
        shown = [(pair["row"]["uid"], pair["item"]) for pair in one["pairs"]]
        assert shown == [(uid, item) for _, uid, item in sorted(least[one["kind"]])[:SHOWN]]
        for pair in one["pairs"]:
            known = pair["item"] != ITEM.format(4)
            assert pair["captions"] == ([f"caption of {pair['item']}", "another"] if known else [])


def test_the_page_shows_both_pictures_and_no_markup_of_a_set(run: Store, report: dict[str, Any]) -> None:
    page = run.read_text("report.html") or ""
    pairs = [pair for kind in report["contamination"][0]["kinds"] for pair in kind["pairs"]]
    assert page.count('class="couple"') == len(pairs)
    known = [pair for pair in pairs if pair["item"] != ITEM.format(4)]
    shown = page[page.index("Matches with evaluation sets") : page.index("What the pictures are of")]
    assert shown.count("<img") == len(pairs) + len(known) and len(known) < len(pairs)
    assert "<i>3</i>" not in page and "&lt;i&gt;3&lt;/i&gt;" in page
    assert "thumbnail" not in (run.read_text("report.json") or "")


def test_a_column_that_names_clusters_is_shown_by_size_and_is_no_score(run: Store, report: dict[str, Any]) -> None:
    numbers = alive(run)
    expected = Counter(int(number**0.5) for number in numbers.values())
    [found] = report["clusters"]
    assert (found["column"], found["rows"], found["groups"]) == ("about", len(numbers), len(expected))
    assert [(one["name"], one["rows"]) for one in found["clusters"]] == sorted(
        expected.items(), key=lambda one: (-one[1], str(one[0]))
    )
    for one in found["clusters"]:
        here = sorted(uid for uid, number in numbers.items() if int(number**0.5) == one["name"])
        assert [row["uid"] for row in one["shown"]] == here[:6] and one["kept"] == one["rows"]
    assert [score["name"] for score in report["scores"]] == ["about_faces"]


def test_a_set_that_was_not_compared_yet_is_left_out(run: Store) -> None:
    for shard in sorted(run.index("plan")):
        run.remove_shard("columns/compared", shard)
    write_record(run, run=2, finished=False)
    report = write_report(run)
    assert report["contamination"] == [] and not report["complete"]
    assert "Matches with evaluation sets" not in (run.read_text("report.html") or "")
