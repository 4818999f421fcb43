"""Components over partitions against a plain union-find: any graph, any number of partitions, few rounds."""

from __future__ import annotations

import itertools
import math
import random

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.duplicates.components import (
    MESSAGES,
    MOST_BOXES,
    Part,
    boxed,
    boxes_of,
    edge_messages,
    home,
    home_of_shards,
    place,
    star,
    step,
    unboxed,
)

Edges = list[tuple[int, int]]
SHARD = 1 << 32


def smallest_by_union_find(edges: Edges) -> dict[int, int]:
    """Node -> the smallest node of its component."""
    parent = {node: node for edge in edges for node in edge}

    def root(node: int) -> int:
        while parent[node] != node:
            node = parent[node]
        return node

    for one, other in edges:
        low, high = sorted((root(one), root(other)))
        parent[high] = low
    return {node: root(node) for node in parent}


def numbers(values: list[int]) -> npt.NDArray[np.int64]:
    return np.array(values, np.int64)


def connected(edges: Edges, partitions: int, seed: int = 0) -> tuple[dict[int, int], int]:
    """Node -> the smallest node of its component, and the rounds that it took; edges arrive in random pieces."""
    chance = random.Random(seed)
    edges = chance.sample(edges, len(edges))
    cuts = sorted(chance.choices(range(len(edges) + 1), k=2))
    pieces = [edges[: cuts[0]], edges[cuts[0] : cuts[1]], edges[cuts[1] :]]
    messages = [
        edge_messages(numbers([a for a, _ in piece]), numbers([b for _, b in piece]), partitions) for piece in pieces
    ]
    nodes = np.unique(numbers([node for edge in edges for node in edge]))
    homes = home(nodes, partitions)
    parts = [Part.unconnected(nodes[homes == at]) for at in range(partitions)]
    rounds, quiet = 0, 0
    while quiet < 2:
        boxes = [boxed(one, partitions) for one in messages]
        messages, news = [], 0
        for at in range(partitions):
            received = unboxed([one[at % boxes_of(partitions)] for one in boxes], at, MESSAGES.empty_table())
            parts[at], sent, counts = step(parts[at], received, at=at, partitions=partitions)
            messages.append(sent)
            news += counts.edges + counts.answers
        rounds, quiet = rounds + 1, 0 if news else quiet + 1
    return {
        node: up for part in parts for node, up in zip(part.node.tolist(), part.parent.tolist(), strict=True)
    }, rounds


nodes = st.builds(lambda shard, row: shard * SHARD + row, st.integers(0, 30), st.integers(0, 3))


@settings(max_examples=150)
@given(
    edges=st.lists(st.tuples(nodes, nodes), max_size=60),
    partitions=st.sampled_from([1, 2, 3, 7, MOST_BOXES, MOST_BOXES + 1, 3 * MOST_BOXES + 5]),
    seed=st.integers(0, 99),
)
def test_every_parent_is_the_smallest_node_of_its_component(edges: Edges, partitions: int, seed: int) -> None:
    assert connected(edges, partitions, seed)[0] == smallest_by_union_find(edges)


def shapes(n: int) -> dict[str, Edges]:
    """Connected graphs of n nodes, a node a shard, whose numbers say nothing about their place."""
    node = [shard * SHARD for shard in random.Random(n).sample(range(n), n)]
    ordered = sorted(node)
    return {
        "path": list(itertools.pairwise(node)),
        "ordered path": list(itertools.pairwise(ordered)),
        "star around the smallest": [(0, one) for one in node],
        "star around the largest": [(max(node), one) for one in node],
        "binary tree": [(node[at], node[(at - 1) // 2]) for at in range(1, n)],
        "comb": [(node[at], node[at - 2 if at % 2 else at - 1]) for at in range(2, n)] + [(node[0], node[1])],
    }


@pytest.mark.parametrize("shape", list(shapes(2)))
def test_rounds_grow_as_the_logarithm_of_the_longest_path(shape: str) -> None:
    n = 3000
    found, rounds = connected(shapes(n)[shape], 5)
    assert len(found) == n
    assert set(found.values()) == {0}
    assert rounds <= 3 * math.log2(n)


def test_a_star_of_many_rows_costs_a_message_for_each_partition_and_not_for_each_row() -> None:
    edges = shapes(3000)["star around the smallest"]
    nodes = np.unique(numbers([node for edge in edges for node in edge]))
    other = nodes[home(nodes, 4) == (home(nodes[:1], 4)[0] + 1) % 4]
    at = int(home(other[:1], 4)[0])
    _, sent, counts = step(Part.unconnected(other), edge_messages(other, np.zeros_like(other), 4), at=at, partitions=4)
    assert counts == (0, 1, 0)
    assert sent["node"].to_pylist() == [0]


def test_no_edges_and_edges_from_a_node_to_itself_are_no_trouble() -> None:
    assert connected([], 3)[0] == {}
    assert connected([(5, 5), (7, 7)], 3)[0] == {5: 5, 7: 7}


def test_a_star_has_an_edge_for_every_node_but_the_smallest() -> None:
    node, smallest = star(numbers([9, 3, 8, 20]), numbers([3, 4, 9, 21]))
    assert sorted(zip(node.tolist(), smallest.tolist(), strict=True)) == [(4, 3), (8, 3), (9, 3), (21, 20)]


def test_a_place_is_a_shard_and_a_row_and_lives_where_its_shard_does() -> None:
    shard, row = np.array([0, 1, 2**31 - 1], np.int32), np.array([2**31 - 1, 0, 5], np.int32)
    there = place(shard, row)
    assert (there >> 32).tolist() == shard.tolist()
    assert (there & (2**32 - 1)).tolist() == row.tolist()
    assert home(there, 11).tolist() == home_of_shards(shard.astype(np.int64), 11).tolist()


def test_shards_spread_evenly() -> None:
    counts = np.bincount(home_of_shards(np.arange(10_000), 10), minlength=10)
    assert counts.min() > 800
    assert counts.max() < 1200


def test_boxes_hold_every_message_once() -> None:
    messages = pa.table(
        {"to": np.arange(100, dtype=np.int32) % 37, "what": np.zeros(100, np.int8), "node": np.arange(100)}
    )
    boxes = boxed(messages, 37)
    assert len(boxes) == boxes_of(37) == MOST_BOXES
    found = [
        unboxed([boxes[at % MOST_BOXES]], at, messages.schema.empty_table())["node"].to_pylist() for at in range(37)
    ]
    assert found == [list(range(at, 100, 37)) for at in range(37)]
