"""Families of duplicates over one, two and three nodes, and with a worker killed at every step: always the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import families_job
import pyarrow as pa
import pytest
from nodes_job import printed_by

from curation.duplicates.deduplicate import find_losers

pytestmark = [pytest.mark.ray, pytest.mark.slow]


class Found(NamedTuple):
    """Shard -> its rows with duplicates (`MEMBERS`), and what becomes of each of its rows."""

    members: dict[int, list[dict[str, Any]]]
    chosen: dict[int, list[dict[str, Any]]]


def over_nodes(folder: Path, nodes: int, faults: str = "") -> Found:
    """What a process finds that starts a cluster of its own."""
    made = printed_by(families_job.__file__, str(folder / "run"), str(nodes), folder=folder, faults=faults)
    return Found(*({int(shard): rows for shard, rows in made[name].items()} for name in Found._fields))


@pytest.fixture(scope="module")
def expected() -> list[dict[str, Any]]:
    """The losers, of all rows in one process."""
    shards = []
    for shard in range(families_job.SHARDS):
        rows = families_job.rows(shard)
        place = {"shard": [shard] * len(rows), "row": range(len(rows))}
        rows = rows.append_column("score", rows["original_width"].cast(pa.float64()))
        for name, values in place.items():
            rows = rows.append_column(name, pa.array(values, pa.int32()))
        shards.append(rows.filter(rows["drop_reason"].is_null()))
    return list(find_losers(pa.concat_tables(shards), config=families_job.CONFIG).to_pylist())


def check(made: Found, expected: list[dict[str, Any]]) -> None:
    found = made.members
    losers = [row for shard in sorted(found) for row in found[shard] if row["reason"]]
    assert losers == expected
    assert len(losers) > 200
    assert len({row["reason"] for row in losers}) == 5
    best = {row["uid"] for rows in found.values() for row in rows if row["reason"] is None}
    assert best == {row["survivor"] for row in losers}
    assert all(row["shard"] == shard for shard, rows in found.items() for row in rows)
    lost = {row["uid"]: row for row in losers}
    for shard in range(families_job.SHARDS):
        given = families_job.rows(shard).to_pylist()
        reasons = [row["drop_reason"] or lost.get(row["uid"], {}).get("reason") for row in given]
        groups = [row["uid"] if row["uid"] in best else lost.get(row["uid"], {}).get("survivor") for row in given]
        assert made.chosen[shard] == [
            {"uid": row["uid"], "keep": reason is None, "reason": reason, "duplicate_group": group}
            for row, reason, group in zip(given, reasons, groups, strict=True)
        ]


@pytest.mark.parametrize("nodes", [1, 2, 3])
def test_any_number_of_nodes_gives_the_same(nodes: int, tmp_path: Path, expected: list[dict[str, Any]]) -> None:
    check(over_nodes(tmp_path, nodes), expected)


@pytest.mark.parametrize(
    "faults",
    [
        # Each step once, and in edges and components in a later round too: while edges are sent home, and when the best
        # rows are found.
        "barrier.sample:kill@5;barrier.edges:kill@7;barrier.components:kill@2;barrier.components:kill@25;"
        "barrier.families:kill@1;barrier.select:kill@1",
        "barrier.fit:kill@1;barrier.edges:kill@30;barrier.components:kill@9;barrier.families:kill@3;"
        "barrier.select:kill@17",
    ],
    ids=["early", "late"],
)
def test_killed_workers_change_nothing(faults: str, tmp_path: Path, expected: list[dict[str, Any]]) -> None:
    check(over_nodes(tmp_path, 2, faults), expected)
    for fault in faults.split(";"):
        point, _, rest = fault.partition(":")
        assert (tmp_path / f"{point}.passes").stat().st_size > int(rest.partition("@")[2])
