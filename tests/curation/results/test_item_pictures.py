"""Pictures of evaluation items: beside a row whose picture must not be seen there is none, as it may be the same."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from compared_stage import MATCH
from PIL import Image
from run_fixture import make_run
from score_tables import add_table
from selected_run import select

from curation.heads.boxes import BOXES
from curation.results import report as report_module
from curation.results import thumbnails
from curation.results.contamination import reference_pictures
from curation.results.report import write_report
from curation.results.thumbnails import characters_left
from pairmill.recipe_file import run_recipe
from pairmill.store import Store

#: Row -> (kind, item) of its matches.  Row 0 is unsafe, and its item is also beside row 1, which is not.
MATCHES: dict[int, list[tuple[str, str]]] = {
    0: [("same_image", "both")],
    1: [("same_image", "both"), ("same_image", "own")],
    2: [("near_image", "alike")],
    3: [("caption", "said")],
    4: [("embedding", "close")],
}
FACE = {"left": 0.0, "top": 0.0, "right": 0.5, "bottom": 1.0, "score": 1.0}


def picture(item: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (9, 9), (hash_of(item), 20, 90)).save(file, "WEBP")
    return file.getvalue()


def hash_of(item: str) -> int:
    return sum(item.encode()) % 256


@pytest.fixture
def run(tmp_path: Path) -> Store:
    listed = [
        {"url": f"http://a.example/ok/{n}", "text": f"a flower {n}", "punsafe": 0.9 if n == 0 else 0.1}
        for n in range(5)
    ]
    store = make_run(tmp_path, listed, upto="select", rows_per_shard=9, recaption=False, translate=False)

    def compared(plan: pa.Table, alive: Any) -> dict[str, Any]:
        numbers = [int(url.rpartition("/")[2]) for url in plan["url"].to_pylist()]
        found = [[{"kind": k, "item": i, "similarity": 0.5 + n / 9} for k, i in MATCHES[n]] for n in numbers]
        return {
            "contaminated_flowers": pa.array([one[0]["kind"] for one in found], pa.string()),
            "matches_flowers": pa.array(found, pa.list_(MATCH)),
        }

    add_table(store, {"stages": ["compared_stage:Compared"]}, "compared", compared)
    select(store, {"safe": {"where": "punsafe < 0.5"}})
    items = sorted({item for some in MATCHES.values() for _, item in some})
    rows = {
        "item": items,
        "captions": pa.array([[] for _ in items], pa.list_(pa.string())),
        "thumbnail": pa.array([picture(item) for item in items], pa.binary()),
    }
    store.commit("references/flowers", 0, "k", pa.table(rows), {})
    return store


def couples(store: Store) -> set[tuple[int, str, bool, bool]]:
    """Of each match that the page shows: row, item, and whether there is a picture of the row and of the item."""
    page = store.read_text("report.html") or ""
    shown = page[page.index("Matches with evaluation sets") :]
    found = set()
    for part in shown.split('class="couple"')[1:]:
        row, item = (one.partition("</figure>")[0] for one in part.split("<figure")[1:3])
        number = re.search(r"a flower (\d)", row)
        name = re.search(r'title="(\w+)"', item)
        assert number and name
        found.add((int(number[1]), name[1], "<img" in row, "<img" in item))
    return found


def test_beside_a_row_that_is_withheld_there_is_no_picture_of_its_item_anywhere(run: Store) -> None:
    write_report(run)
    assert couples(run) == {
        *((0, "both", False, False), (1, "both", True, False)),
        # Row 1 is shown beside the item that it is least like.
        *((2, "alike", True, True), (3, "said", True, True), (4, "close", True, True)),
    }
    page = run.read_text("report.html") or ""
    assert page[page.index("Matches with evaluation sets") :].count(">withheld<") == 2


def test_where_faces_are_blurred_an_item_is_shown_beside_the_same_picture_without_a_face(run: Store) -> None:
    def report_with(faces: dict[int, Any]) -> set[tuple[int, str, bool, bool]]:
        def boxes(plan: pa.Table, alive: Any) -> dict[str, Any]:
            found = [faces.get(int(url.rpartition("/")[2]), []) for url in plan["url"].to_pylist()]
            return {"face_boxes": pa.array(found, BOXES)}

        run.remove_shard("columns/score-face", 0)
        pack = {**run_recipe(run)["pack"], "blur_faces": "face"}
        add_table(run, {"score": {"face": {"name": "faces"}}, "pack": pack}, "score-face", boxes)
        write_report(run)
        return {one for one in couples(run) if one[0] >= 2}

    # Not even beside a row without a face where picture and item may be different.
    other = {(3, "said", True, False), (4, "close", True, False)}
    assert report_with({}) == {(2, "alike", True, True), *other}
    assert report_with({2: [FACE]}) == {(2, "alike", True, False), *other}
    assert report_with({2: None}) == {(2, "alike", False, False), *other}


def test_pictures_of_items_count_in_the_bound_of_a_page(run: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    report = write_report(run)
    pairs = [pair for kind in report["contamination"][0]["kinds"] for pair in kind["pairs"]]
    rows = [pair["row"] for pair in pairs]
    pictures = thumbnails.thumbnails(run, rows)
    whole = reference_pictures(run, report, pictures, characters_left(rows, pictures))
    assert set(whole) == {"flowers/alike", "flowers/said", "flowers/close"}
    total = sum(map(len, whole.values()))
    some = reference_pictures(run, report, pictures, total - 1)
    assert list(some) == [name for name in whole if name in some] and len(some) == len(whole) - 1
    assert reference_pictures(run, report, {}, total) == {}
    used = sum(len(pictures[thumbnails.place(row)]) for row in rows if not row["withheld"])
    assert characters_left(rows, pictures) == thumbnails.MOST_CHARACTERS - used
    # The page as a whole holds to it: with room for the rows' pictures alone, no item has one.
    asked = []

    def spied(entries: Any, there: Any) -> int:
        asked.append(thumbnails.MOST_CHARACTERS - characters_left(entries, there))
        return characters_left(entries, there)

    monkeypatch.setattr(report_module, "characters_left", spied)
    write_report(run)
    for room, items in ((0, 0), (len(next(iter(whole.values()))), 1), (total, 3)):
        monkeypatch.setattr(thumbnails, "MOST_CHARACTERS", asked[0] + room)
        write_report(run)
        shown = couples(run)
        assert sum(row for _, _, row, _ in shown) == 4 and sum(item for *_, item in shown) == items
