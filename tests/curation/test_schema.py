import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from curation.download import Download
from curation.filters.stage import Filter
from curation.images.stage import Inspect
from curation.schema import INSPECT_STATUSES, RETRYABLE, Status, count_drops, drop

NOTHING = pa.nulls(4, pa.string())


def rows() -> pa.Table:
    return pa.table({"uid": list("abcd"), "drop_stage": NOTHING, "drop_reason": NOTHING})


def test_the_first_reason_wins_and_null_is_no_reason() -> None:
    masks = {"image_too_small": pa.array([True, None, False, False]), "nsfw": pa.array([True, True, False, None])}
    dropped = drop(rows(), "filter", masks, Filter.drops)
    assert dropped["drop_reason"].to_pylist() == ["image_too_small", "nsfw", None, None]
    assert dropped["drop_stage"].to_pylist() == ["filter", "filter", None, None]


def test_a_row_is_dropped_once() -> None:
    first = drop(rows(), "inspect", {"decode_error": pa.array([True, False, False, False])}, Inspect.drops)
    second = drop(first, "filter", {"nsfw": pa.array([True, True, False, False])}, Filter.drops)
    assert second["drop_reason"].to_pylist() == ["decode_error", "nsfw", None, None]
    assert second["drop_stage"].to_pylist() == ["inspect", "filter", None, None]


def test_every_failure_is_a_drop_reason_of_one_stage() -> None:
    failures = {s.value for s in Status} - {"success"}
    download, inspect = set(Download.drops), set(Inspect.drops)
    assert download | inspect == failures
    assert not download & inspect
    assert not RETRYABLE & INSPECT_STATUSES


_STAGES = [Download, Inspect, Filter]
_NAMES = [stage.name for stage in _STAGES]


@given(st.lists(st.sampled_from([None, *((s.name, r) for s in _STAGES for r in s.drops[:3])]), max_size=50))
def test_counts_close_over_any_drops(drops: list[tuple[str, str] | None]) -> None:
    table = pa.table(
        {
            "drop_stage": pa.array([d and d[0] for d in drops], pa.string()),
            "drop_reason": pa.array([d and d[1] for d in drops], pa.string()),
        }
    )
    counted = count_drops(table, _NAMES)
    rows_in = len(drops)
    for stage in _NAMES:
        counts = dict(counted[stage])
        assert counts.pop("rows_in") == rows_in
        kept = counts.pop("rows_kept")
        assert kept == rows_in - sum(counts.values())
        rows_in = kept
    assert rows_in == drops.count(None)
