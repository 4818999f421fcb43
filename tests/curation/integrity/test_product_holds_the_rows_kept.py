"""`pairs/` holds the rows that the run kept, all of them and no others."""

from __future__ import annotations

import pyarrow as pa
import pytest
from damage import RunUpto, rewrite, swap, without

from curation.results.report import build_report
from curation.schema import set_columns
from pairmill.errors import IntegrityError
from pairmill.layout import PAIRS


def test_a_part_whose_file_lost_a_row_is_noticed(run_upto: RunUpto) -> None:
    store = run_upto("pack")
    rewrite(store, PAIRS, 1, without(0))
    with pytest.raises(IntegrityError, match=r"pairs part 1.* manifest"):
        build_report(store)


def test_a_part_that_was_committed_without_a_row_is_noticed(run_upto: RunUpto) -> None:
    store = run_upto("pack")
    store.commit(PAIRS, 1, "k", without(0)(store.load(PAIRS, 1)), {})
    with pytest.raises(IntegrityError, match=r"pairs part 1.* rows that its shards"):
        build_report(store)


def test_a_part_that_holds_a_row_of_another_run_is_noticed(run_upto: RunUpto) -> None:
    store = run_upto("pack")
    rows = store.load(PAIRS, 1)
    foreign = pa.array([rows["uid"][0].as_py()[::-1], *rows["uid"].to_pylist()[1:]])
    store.commit(PAIRS, 1, "k", set_columns(rows, {"uid": foreign}), {})
    with pytest.raises(IntegrityError, match=r"pairs part 1.* rows that its shards"):
        build_report(store)


def test_parts_that_have_each_other_s_files_are_noticed(run_upto: RunUpto) -> None:
    store = run_upto("pack")
    swap(store, PAIRS, 0, 1)
    with pytest.raises(IntegrityError, match="pairs part 0"):
        build_report(store)
