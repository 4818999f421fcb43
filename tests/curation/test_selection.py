import pyarrow as pa

from curation.selection import apply_selection, selection_rows

ROWS = pa.table(
    {
        "uid": ["a", "b", "c"],
        "image": [b"1", b"2", b"3"],
        "drop_stage": pa.array([None, "filter", None], pa.string()),
        "drop_reason": pa.array([None, "nsfw", None], pa.string()),
    }
)
MEMBERS = pa.table(
    {
        "row": pa.array([0, 2], pa.int32()),
        "reason": pa.array([None, "near_duplicate_image"]),
        "survivor": ["a", "a"],
    }
)


def test_a_selection_says_of_every_row_whether_it_stays() -> None:
    assert selection_rows(ROWS, MEMBERS).to_pylist() == [
        {"uid": "a", "keep": True, "reason": None, "duplicate_group": "a"},
        {"uid": "b", "keep": False, "reason": "nsfw", "duplicate_group": None},
        {"uid": "c", "keep": False, "reason": "near_duplicate_image", "duplicate_group": "a"},
    ]


def test_applied_it_drops_the_losers_and_lets_go_of_their_pixels() -> None:
    selected = selection_rows(ROWS, MEMBERS)
    rows = ROWS.append_column("keep", selected["keep"]).append_column("reason", selected["reason"])
    applied = apply_selection(rows, "deduplicate", ["near_duplicate_image"])
    assert applied["drop_stage"].to_pylist() == [None, "filter", "deduplicate"]
    assert applied["drop_reason"].to_pylist() == [None, "nsfw", "near_duplicate_image"]
    assert applied["image"].to_pylist() == [b"1", None, None]
