import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation.schema import DROP_REASONS, INSPECT_STATUSES, RETRYABLE, Stage, Status, count_drops, drop

NOTHING = pa.nulls(4, pa.string())


def rows() -> pa.Table:
    return pa.table({"uid": list("abcd"), "drop_stage": NOTHING, "drop_reason": NOTHING})


def test_the_first_reason_wins_and_null_is_no_reason() -> None:
    masks = {"image_too_small": pa.array([True, None, False, False]), "nsfw": pa.array([True, True, False, None])}
    dropped = drop(rows(), Stage.FILTER, masks)
    assert dropped["drop_reason"].to_pylist() == ["image_too_small", "nsfw", None, None]
    assert dropped["drop_stage"].to_pylist() == ["filter", "filter", None, None]


def test_a_row_is_dropped_once() -> None:
    first = drop(rows(), Stage.INSPECT, {"decode_error": pa.array([True, False, False, False])})
    second = drop(first, Stage.FILTER, {"nsfw": pa.array([True, True, False, False])})
    assert second["drop_reason"].to_pylist() == ["decode_error", "nsfw", None, None]
    assert second["drop_stage"].to_pylist() == ["inspect", "filter", None, None]


def test_an_unknown_reason_is_our_bug() -> None:
    with pytest.raises(AssertionError, match="nsfw"):
        drop(rows(), Stage.INSPECT, {"nsfw": pa.array([True] * 4)})


def test_every_failure_is_a_drop_reason_of_one_stage() -> None:
    failures = {s.value for s in Status} - {"success"}
    download, inspect = set(DROP_REASONS[Stage.DOWNLOAD]), set(DROP_REASONS[Stage.INSPECT])
    assert download | inspect == failures
    assert not download & inspect
    assert not RETRYABLE & INSPECT_STATUSES


_STAGES = [Stage.DOWNLOAD, Stage.INSPECT, Stage.FILTER]


@given(st.lists(st.sampled_from([None, *((s, r) for s in _STAGES for r in DROP_REASONS[s][:3])]), max_size=50))
def test_counts_close_over_any_drops(drops: list[tuple[Stage, str] | None]) -> None:
    table = pa.table(
        {
            "drop_stage": pa.array([d and d[0].value for d in drops], pa.string()),
            "drop_reason": pa.array([d and d[1] for d in drops], pa.string()),
        }
    )
    counted = count_drops(table, _STAGES)
    rows_in = len(drops)
    for stage in _STAGES:
        counts = dict(counted[stage.value])
        assert counts.pop("rows_in") == rows_in
        kept = counts.pop("rows_kept")
        assert kept == rows_in - sum(counts.values())
        rows_in = kept
    assert rows_in == drops.count(None)
