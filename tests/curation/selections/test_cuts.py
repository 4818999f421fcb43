"""Cuts: the k-th row of each group, against sorting everything, by every way that leads to it."""

from __future__ import annotations

import hashlib
import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts import LocalPasses, layouts, reader

from curation.selections.cuts import Limits, find_cuts, kept_by
from curation.selections.ranking import falling, measured, ranked, rising, value_of

#: What makes `find_cuts` sort in one place, bring groups together, and count by bits.
LIMITS = {
    "one place": Limits(),
    "brought together": Limits(rows=400),
    "by bits": Limits(rows=20),
    "few bits at a time": Limits(rows=3, buckets=16),
}


def uid(number: int) -> str:
    return hashlib.md5(str(number).encode(), usedforsecurity=False).hexdigest()


def table(scores: list[float | None], groups: list[str | None]) -> pa.Table:
    return pa.table(
        {
            "uid": pa.array([uid(n) for n in range(len(scores))], pa.string()),
            "score": pa.array(scores, pa.float64()),
            "group": pa.array(groups, pa.string()),
        }
    )


def some_rows(number: int = 1200, seed: int = 0) -> pa.Table:
    """Scores of which many are equal, missing or odd; two large groups, a group without a name and many small ones."""
    rng = np.random.default_rng(seed)
    odd: list[Any] = [None, math.nan, -math.nan, math.inf, -math.inf, 0.0, -0.0, 5e-324, -5e-324, 1e308]
    scores = [
        odd[int(rng.integers(len(odd)))] if rng.random() < 0.2 else float(np.round(rng.normal(), 1))
        for _ in range(number)
    ]
    names = ["en"] * 40 + ["zh"] * 20 + [None] * 2 + [f"host{n}" for n in range(20)]
    return table(scores, [names[int(n)] for n in rng.integers(0, len(names), number)])


def kept_naively(rows: pa.Table, most: dict[str | None, int]) -> set[str]:
    """uids of the rows that stay: of each group the first by (score descending, uid), null and NaN after all others."""
    found: set[str] = set()
    listed = rows.to_pylist()
    for group in {row["group"] for row in listed}:
        mine = [row for row in listed if row["group"] == group]
        missing = [row for row in mine if row["score"] is None or math.isnan(row["score"])]
        there = [row for row in mine if row["score"] is not None and not math.isnan(row["score"])]
        order = sorted(there, key=lambda row: (-row["score"], row["uid"])) + sorted(missing, key=lambda r: r["uid"])
        found |= {row["uid"] for row in order[: most[group]]}
    return found


@pytest.mark.parametrize("way", LIMITS)
@pytest.mark.parametrize("most", [1, 7, 150])
def test_the_best_of_each_group_stay_in_every_layout(way: str, most: int) -> None:
    rows = some_rows()
    wanted = kept_naively(rows, dict.fromkeys(rows["group"].to_pylist(), most))
    found = []
    for shards in layouts(rows):
        tables = [ranked(shard["group"], shard["score"], shard["uid"]) for shard in shards]
        cuts = find_cuts(
            LocalPasses(len(shards)),
            reader(tables),
            lambda size, total: np.minimum(size, most),
            rows=len(rows),
            limits=LIMITS[way],
        )
        found.append(cuts)
        kept = {
            uid
            for shard, one in zip(shards, tables, strict=True)
            for uid in shard["uid"].filter(pa.array(kept_by(one, cuts))).to_pylist()
        }
        assert kept == wanted
    assert all(cuts.equals(found[0]) for cuts in found)


@pytest.mark.parametrize("way", LIMITS)
@pytest.mark.parametrize("share", [0.0, 0.1, 0.7, 1.0])
def test_a_cut_is_at_numpy_s_inverted_cdf(way: str, share: float) -> None:
    rows = some_rows(800, seed=3)
    for shards in layouts(rows, 4):
        tables = [measured(shard["group"], shard["score"]) for shard in shards]
        cuts = find_cuts(
            LocalPasses(len(shards)),
            reader(tables),
            lambda size, total: np.clip(np.ceil(size * share - 1), 0, size - 1).astype(np.int64) + 1,
            rows=len(rows),
            words=1,
            limits=LIMITS[way],
            always=True,
        )
        got = dict(zip(cuts["group"].to_pylist(), value_of(cuts["score"].to_numpy()).tolist(), strict=True))
        for group in set(rows["group"].to_pylist()):
            values = [r["score"] for r in rows.to_pylist() if r["group"] == group and r["score"] is not None]
            there = [value for value in values if not math.isnan(value)]
            assert got[group] == np.quantile(there, share, method="inverted_cdf")


def test_a_place_holds_no_more_rows_than_it_may() -> None:
    rows = table([float(n % 1000) for n in range(5000)], ["en" if n % 5 else f"h{n % 400}" for n in range(5000)])
    tables = [ranked(rows["group"], rows["score"], rows["uid"]).slice(at, 500) for at in range(0, 5000, 500)]
    most = 0

    class Watched(LocalPasses):
        def collected(self, read: Any, apply: Any, schema: pa.Schema) -> pa.Table:
            nonlocal most
            most = max(most, sum(len(read(shard)) for shard in range(10)))
            return super().collected(read, apply, schema)

    find_cuts(Watched(10), reader(tables), lambda size, _: np.minimum(size, 900), rows=5000, limits=Limits(rows=300))
    assert 0 < most <= 300


numbers = st.floats() | st.sampled_from([0.0, -0.0, 1.0, math.inf, -math.inf, math.nan])


@given(st.lists(st.none() | numbers, min_size=2, max_size=30))
@settings(max_examples=200, deadline=None)
def test_words_have_the_order_of_the_numbers(values: list[float | None]) -> None:
    column = pa.chunked_array([pa.array(values, pa.float64())])
    up, down = rising(column).tolist(), falling(column).tolist()
    missing = [value is None or math.isnan(value) for value in values]
    for a in range(len(values)):
        for b in range(len(values)):
            if missing[a] or missing[b]:
                assert (up[a] < up[b]) == (down[a] < down[b]) == (missing[b] and not missing[a])
            else:
                assert (up[a] < up[b]) == (values[a] < values[b]) == (down[b] < down[a])  # type: ignore[operator]
                assert (up[a] == up[b]) == (values[a] == values[b]) == (down[a] == down[b])
    back = value_of(rising(column))
    assert all(missing[n] or back[n] == values[n] for n in range(len(values)))


@pytest.mark.parametrize("groups", [["a"] * 300 + ["b"] * 200, [""] * 500, ["a"] * 300 + ["b"] * 190 + ["c"] * 10])
def test_no_rows_are_brought_together_where_every_group_is_large(groups: list[str | None]) -> None:
    class NeverEmpty(LocalPasses):
        """As Ray Data's shuffle, which fails on no rows at all."""

        def shuffled(self, read: Any, apply: Any, schema: pa.Schema) -> pa.Table:
            assert sum(len(read(shard)) for shard in range(4))
            return super().shuffled(read, apply, schema)

    rows = table([float(n * 37 % 101) for n in range(len(groups))], groups)
    ranks = ranked(rows["group"], rows["score"], rows["uid"])
    parts = [ranks.slice(125 * n, 125) for n in range(4)]
    found, expected = (
        find_cuts(passes, parts.__getitem__, lambda size, _: size // 3, rows=10_000, limits=limits)
        for passes, limits in ((NeverEmpty(4), Limits(rows=60, buckets=512)), (LocalPasses(4), Limits()))
    )
    assert found.equals(expected) and len(found) == len(set(groups))
