"""Quotas, quantiles and the best rows over one, two and three nodes, and with workers killed: always the same rows."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import cuts_job
import pytest
from nodes_job import printed_by

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def over_nodes(folder: Path, nodes: int, rule: str, faults: str = "") -> list[str]:
    """What a process finds that starts a cluster of its own."""
    found: list[str] = printed_by(cuts_job.__file__, str(nodes), rule, folder=folder, faults=faults)
    return found


@pytest.fixture(scope="module")
def expected() -> dict[str, list[str]]:
    """The rows that stay, by sorting each group by score, then uid."""
    everything = [row for shard in range(cuts_job.SHARDS) for row in cuts_job.rows(shard).to_pylist()]
    limits = {
        "quota": lambda size: 40,
        "quantile by language": lambda size: -(-7 * size // 10),
        "top": lambda size: 500,
    }
    found = {}
    for name, last in limits.items():
        groups: dict[Any, list[dict[str, Any]]] = defaultdict(list)
        for row in everything:
            groups[None if name == "top" else row["language"]].append(row)
        stays = set()
        for members in groups.values():
            ordered = sorted(members, key=lambda row: (-row["score"], row["uid"]))
            stays |= {row["uid"] for row in ordered[: last(len(members))]}
        found[name] = [row["uid"] for row in everything if row["uid"] in stays]
    return found


@pytest.mark.parametrize(("nodes", "rule"), [(1, "top"), (2, "quantile by language"), (3, "quota")])
def test_any_number_of_nodes_keeps_the_same_rows(
    nodes: int, rule: str, tmp_path: Path, expected: dict[str, list[str]]
) -> None:
    found = over_nodes(tmp_path, nodes, rule)
    assert found == expected[rule]
    assert 300 < len(found) < cuts_job.SHARDS * cuts_job.ROWS


def test_workers_that_are_killed_change_nothing(tmp_path: Path, expected: dict[str, list[str]]) -> None:
    # While a shard is read, and while rows that were brought together are looked at, early and late.
    faults = "barrier.pass:kill@3;barrier.pass:kill@130;barrier.cuts:kill@1;barrier.cuts:kill@6"
    assert over_nodes(tmp_path, 2, "quota", faults) == expected["quota"]
    assert (tmp_path / "barrier.pass.passes").stat().st_size > 130
    assert (tmp_path / "barrier.cuts.passes").stat().st_size > 6
