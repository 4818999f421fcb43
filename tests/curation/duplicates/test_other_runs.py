"""Duplicates of rows of other runs: such a row is better than any of this run, whatever their scores and ranks."""

from __future__ import annotations

import math
import sys
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation.duplicates.deduplicate import find_members
from curation.duplicates.edges import ENDPOINT
from curation.duplicates.equal_values import EqualValues
from curation.duplicates.kinds import DeduplicateConfig, Indices
from curation.duplicates.other_runs import (
    OtherRunConfig,
    best_elsewhere,
    named_for,
    of_other_runs,
    own_uids,
    reasons_elsewhere,
)
from curation.selections.config import Section
from curation.selections.steps import Rules
from pairmill.errors import RecipeError

ROWS = pa.schema([*ENDPOINT, ("host", pa.string()), ("taste", pa.float64())])
SCORES = st.sampled_from([None, -math.inf, 0.0, 1.0, sys.float_info.max, math.inf, math.nan])


class Hosts(EqualValues):
    """Rows of one host."""

    name, strength = "hosts", 5
    reads = ("host",)
    columns = pa.schema([("host", pa.string())])


class Tasty(Hosts):
    """Rows of one host, of which the tastiest stays."""

    name = "tasty"
    reads = ("host", "taste")
    columns = pa.schema([("host", pa.string()), ("taste", pa.float64())])
    ranks = True

    def rank(self, rows: pa.Table) -> pa.Array:
        return rows["taste"].combine_chunks()

    def keys(self, rows: pa.Table) -> pa.Table:
        return Hosts(self.config).keys(rows)

    def edges(self, rows: pa.Table) -> tuple[Indices, Indices]:
        return Hosts(self.config).edges(rows)


def table(rows: list[tuple[str, int, str, float | None]]) -> pa.Table:
    """(run, number, host, score or taste) of each."""
    made = [
        {
            "uid": f"{number:032x}",
            "shard": at % 3,
            "row": at,
            "score": score,
            "host": host,
            "taste": score,
        }
        for at, (_, number, host, score) in enumerate(rows)
    ]
    found = pa.Table.from_pylist(made, schema=ROWS)
    uids = [
        named_for(run, pa.chunked_array([[uid]]))[0].as_py() if run else uid
        for (run, *_), uid in zip(rows, found["uid"].to_pylist(), strict=True)
    ]
    return found.set_column(0, "uid", pa.array(uids, pa.string()))


@given(
    st.lists(
        st.tuples(st.sampled_from(["", "", "first", "9"]), st.integers(0, 9), st.sampled_from("abcd"), SCORES),
        max_size=24,
        unique_by=lambda row: row[:2],
    ),
    st.sampled_from(["Hosts", "Tasty"]),
)
def test_no_row_stays_that_another_run_has(rows: list[tuple[str, int, str, float | None]], kind: str) -> None:
    config = DeduplicateConfig(kinds=[f"{__name__}:{kind}"], score="taste")
    found = reasons_elsewhere(find_members(table(rows), config=config))
    reason = dict(zip(found["row"].to_pylist(), found["reason"].to_pylist(), strict=True))
    elsewhere = {host for run, _, host, _ in rows if run}
    for at, (run, _, host, _) in enumerate(rows):
        if not run and host in elsewhere:
            assert reason[at] == f"{kind.lower()}_elsewhere"
        elif not run:
            assert reason.get(at) in (None, kind.lower())
    for host in {host for run, _, host, _ in rows if not run} - elsewhere:
        here = [at for at, (_, _, other, _) in enumerate(rows) if other == host]
        assert sum(reason.get(at) is None for at in here) == 1


def test_among_rows_of_this_run_nothing_changes() -> None:
    scores = [None, 1.0, math.nan, -math.inf, 3.0]
    rows = table([("", n, "a", score) for n, score in enumerate(scores)])
    before, after = rows["score"].to_pylist(), best_elsewhere(rows)["score"].to_pylist()
    assert repr(before) == repr(after)


def test_uids_of_two_runs_are_told_apart_and_found_again() -> None:
    uids = pa.chunked_array([["0" * 32, "f" * 32]])
    first, second = named_for("first", uids), named_for("second-1", uids)
    assert not {*first.to_pylist()} & {*second.to_pylist(), *uids.to_pylist()}
    assert own_uids(first).equals(uids) and own_uids(uids).equals(uids)
    assert pc.all(of_other_runs(second)).as_py() and not pc.any(of_other_runs(uids)).as_py()


def selection(**keys: Any) -> Rules:
    return Rules("a", Section.checked({"selections": {"a": keys}}).selections["a"])


def test_a_path_alone_is_the_run() -> None:
    short, long = selection(dedup=["exact"], against={"one": "runs/one"}), {"run": "runs/one", "selection": "default"}
    assert short.config.against == {"one": OtherRunConfig(**long)}
    assert short.config == selection(dedup=["exact"], against={"one": long}).config
    assert {"duplicate_pair_elsewhere", "duplicate_image_elsewhere", "duplicate_image"} <= {*short.own_reasons}
    assert not any(reason.endswith("_elsewhere") for reason in selection(dedup=["exact"]).own_reasons)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"against": {"one": "runs/one"}}, "must say by dedup what counts as a duplicate"),
        ({"against": {"one": "runs/one"}, "dedup": ["exact"], "keep": "all"}, "must keep the best of each family"),
        ({"against": {"a:b": "runs/one"}, "dedup": ["exact"]}, "a name in against must be of letters"),
        ({"against": {"one": {"path": "runs/one"}}, "dedup": ["exact"]}, "run"),
    ],
)
def test_what_cannot_be_compared_is_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        selection(**keys)
