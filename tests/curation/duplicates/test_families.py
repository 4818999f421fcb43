"""The families of rows and their reasons: over any layout of edges and any number of partitions what one gives."""

from __future__ import annotations

import random

import numpy as np
import pyarrow as pa
import pytest

from curation.duplicates.components import home_of_shards
from curation.duplicates.edges import EDGES, ENDPOINT
from curation.duplicates.families import MEMBERS, InProcess, families
from curation.duplicates.kinds import DeduplicateConfig, kinds_of

KINDS = kinds_of(DeduplicateConfig())
ROWS = 900


def rows(seed: int) -> pa.Table:
    """Rows in a random order of uids, with ties, missing scores and no-numbers."""
    chance = random.Random(seed)
    scores = [chance.choice([None, float("nan"), -1.0, 0.0, 0.0, 3.5]) for _ in range(ROWS)]
    uids = [f"{chance.getrandbits(128):032x}" for _ in range(ROWS)]
    places = [(at // 20, at % 20) for at in range(ROWS)]
    columns = [uids, [shard for shard, _ in places], [row for _, row in places], scores]
    return pa.table([pa.array(c, f.type) for c, f in zip(columns, ENDPOINT, strict=True)], schema=ENDPOINT)


def edges(table: pa.Table, seed: int) -> pa.Table:
    """Random edges of three kinds, the weakest of them the most; some twice, some from a row to itself."""
    chance = np.random.default_rng(seed)
    kind = chance.choice(3, 500, p=[0.1, 0.3, 0.6])
    a, b = chance.integers(0, ROWS, (2, 500))
    kind, a, b = (np.concatenate([one, one[:50]]) for one in (kind, a, b))
    ends = [c for end in (a, b) for c in table.take(pa.array(end)).columns]
    return pa.table([pa.array(kind.astype(np.int8)), *ends], schema=EDGES)


def naive(table: pa.Table, linked: pa.Table) -> list[dict[str, object]]:
    """The definition: families grow kind by kind, and a row's reason is the first kind that gives it a better one."""
    place = {(row["shard"], row["row"]): at for at, row in enumerate(table.to_pylist())}
    family = {at: {at} for at in range(ROWS)}
    ends = linked.to_pylist()
    touched = {place[one[f"{end}_shard"], one[f"{end}_row"]] for one in ends for end in "ab"}

    def rank(at: int) -> tuple[int, float, str]:
        score = table["score"][at].as_py()
        # A score that is no number comes after all others, and a missing one after that.
        missing = 2 if score is None else int(score != score)
        return missing, 0.0 if missing else -score, table["uid"][at].as_py()

    reason: dict[int, str] = {}
    for kind, declared in enumerate(KINDS):
        for one in ends:
            if one["kind"] == kind:
                a, b = (place[one[f"{end}_shard"], one[f"{end}_row"]] for end in "ab")
                if family[a] is not family[b]:
                    family[a] |= family[b]
                    for member in family[b]:
                        family[member] = family[a]
        for at in touched:
            if min(family[at], key=rank) != at:
                reason.setdefault(at, declared.name)
    return [
        {**{name: table[name][at].as_py() for name in ("uid", "shard", "row")}}
        | {"reason": reason.get(at), "survivor": table["uid"][min(family[at], key=rank)].as_py()}
        for at in sorted(touched)
        if len(family[at]) > 1
    ]


@pytest.fixture(scope="module", params=range(3))
def seed(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.mark.parametrize("partitions", [1, 2, 3, 5, 8, 13, 16, 17, 40])
def test_any_layout_gives_the_families_of_the_definition(seed: int, partitions: int) -> None:
    table = rows(seed)
    linked = edges(table, seed)
    chance = random.Random(partitions)
    order = pa.array(chance.sample(range(len(linked)), len(linked)))
    cuts = sorted(chance.choices(range(len(linked) + 1), k=chance.randrange(6)))
    pieces = [linked.take(order).slice(i, j - i) for i, j in zip([0, *cuts], [*cuts, len(linked)], strict=True)]
    found = families(pieces, KINDS, partitions, InProcess())
    for at, one in enumerate(found):
        assert one.schema.equals(MEMBERS)
        shards = one["shard"].to_numpy()
        assert (home_of_shards(shards.astype(np.int64), partitions) == at).all()
        assert (np.diff(shards.astype(np.int64) << 32 | one["row"].to_numpy()) > 0).all()
    together = pa.concat_tables(found).sort_by([("shard", "ascending"), ("row", "ascending")])
    assert together.to_pylist() == naive(table, linked)


def test_the_best_row_of_a_family_is_its_member_too_and_a_row_without_others_is_in_none() -> None:
    table = rows(0)
    own = [pa.array([0, 0], pa.int8()), *table.slice(0, 2).columns, *table.take(pa.array([0, 2])).columns]
    found = families([pa.table(own, schema=EDGES)], KINDS, 1, InProcess())[0]
    assert sorted(found["row"].to_pylist()) == [1, 2]
    best = found.filter(pa.array([why is None for why in found["reason"].to_pylist()]))
    assert set(found["survivor"].to_pylist()) == set(best["uid"].to_pylist())
    assert len(best) == 1


def test_blocks_without_columns_and_kinds_without_edges_are_no_trouble() -> None:
    assert sum(map(len, families([pa.table({}), EDGES.empty_table()], KINDS, 3, InProcess()))) == 0
    assert sum(map(len, families([], KINDS, 2, InProcess()))) == 0
    assert sum(map(len, families([pa.table({})], (), 2, InProcess()))) == 0


class Counted(InProcess):
    """Also says how large the largest result was, and that all that it is asked for the value of is small."""

    largest = 0

    def call(self, function, *args, returns):  # type: ignore[no-untyped-def]
        results = super().call(function, *args, returns=returns)
        assert len(results) == returns
        self.largest = max(self.largest, *(len(one) for one in results if isinstance(one, pa.Table)))
        return results

    def values(self, references):  # type: ignore[no-untyped-def]
        assert all(len(one) <= max(3, len(KINDS)) for one in references)
        return super().values(references)


def test_one_family_of_all_rows_is_no_more_for_a_partition_than_its_share() -> None:
    n = 6000
    # A star: each row of its own shard.
    shard = np.arange(n, dtype=np.int32)
    uid = pa.array([f"{at:032x}" for at in range(n)])
    ends = [uid, pa.array(shard), pa.array(np.zeros(n, np.int32)), pa.array(np.zeros(n))]
    first = pa.table(ends, schema=ENDPOINT).take(pa.array(np.zeros(n - 1, np.int64)))
    others = pa.table(ends, schema=ENDPOINT).slice(1)
    linked = pa.table([pa.array(np.full(n - 1, 2, np.int8)), *first.columns, *others.columns], schema=EDGES)
    pieces = [linked.slice(at, 500) for at in range(0, n - 1, 500)]
    counted = Counted()
    found = families(pieces, KINDS, 10, counted)
    assert sum(map(len, found)) == n
    # A row has a line for each kind.
    assert counted.largest < 1.3 * len(KINDS) * n / 10
