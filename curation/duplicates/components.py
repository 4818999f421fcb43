"""Connected components of a graph that is divided into partitions, none of which sees the whole.

A node is a number (int64).  Its home is one partition, which keeps the node's parent: a smaller node of the same
component, or the node itself.  In every round each partition does the same (`step`):

- edges: it reduces the edges that it was sent, with its own nodes merged into their parents, to stars around their
  smallest nodes.  A star's ray goes to the home of its outer node, which does the same with it.
- requests: it asks the homes of its parents for their parents, each of them once, however many nodes have that parent.
- answers: it replaces its parents by their parents, so that paths halve in every round (pointer jumping).

The graph is connected as before after each step, a parent only ever becomes smaller, and when no partition has
anything left to say every parent is the smallest node of its component.  So the result depends neither on the order of
the edges nor on how nodes are divided.  This is label propagation with shortcuts (Stergiou, Rughwani and
Tsioutsiouliklis 2018, "Shortcutting Label Propagation for Distributed Connected Components"), with whole partitions in
the place of single vertices: what one partition can connect by itself takes no round.

Why not large-star and small-star (Kiveris et al. 2014, "Connected Components in MapReduce and Beyond"), or trees merged
pairwise: the former sends every neighbour of a node to one place, so that a family of ten million copies is one task;
in the latter the last merge sees every node.  Here a partition sends at most one edge per node, and one request per
parent, to each other partition; memory is that of a partition's nodes and of what it is sent about them.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from curation.duplicates.edges import stars
from curation.duplicates.kinds import Indices

# 2^64 divided by the golden ratio (Knuth, The Art of Computer Programming 3, 6.4).
_SPREAD = np.uint64(0x9E3779B97F4A7C15)

#: Most boxes into which a partition sorts what it sends.  Where there are more partitions, several share a box, so
#: that the number of boxes grows as that of partitions, and not as its square.
MOST_BOXES = 16

EDGE, REQUEST, ANSWER = 0, 1, 2

#: What partitions send each other.  EDGE: `node` and `other` are connected, and `other` is smaller.  REQUEST: partition
#: `asker` asks for the parent of `node`.  ANSWER: `other` is the parent of `node`.
MESSAGES = pa.schema(
    [
        ("to", pa.int32()),  # a partition
        ("what", pa.int8()),
        ("node", pa.int64()),
        ("other", pa.int64()),
        ("asker", pa.int32()),
    ]
)


class Part(NamedTuple):
    """The nodes at home in a partition, ascending, and the parent of each, int64 [n] both; and which of the parents
    are not at home here, ascending.  A parent that is at home has none of its own.
    """

    node: Indices
    parent: Indices
    foreign: Indices

    @classmethod
    def unconnected(cls, node: Indices) -> Part:
        """Nodes that are their own parents.  node: ascending."""
        return cls(node, node, np.empty(0, np.int64))


class Sent(NamedTuple):
    """How many messages of each sort a step sent."""

    edges: int
    requests: int
    answers: int


def place(shard: Indices, row: Indices) -> Indices:
    """The node that stands for a row of a shard."""
    return shard.astype(np.int64) << 32 | row.astype(np.int64)


def home(node: Indices, partitions: int) -> Indices:
    """The partition that keeps each node, [n]: the same for all rows of a shard."""
    return home_of_shards(node >> 32, partitions)


def home_of_shards(shard: Indices, partitions: int) -> Indices:
    """The partition of each shard's rows, [n]."""
    spread = shard.astype(np.uint64) * _SPREAD >> np.uint64(32)
    return (spread % np.uint64(partitions)).astype(np.int64)


def star(a: Indices, b: Indices) -> tuple[Indices, Indices]:
    """The same components as edges (node, smallest node of its component), one for every node but the smallest."""
    from scipy.sparse import coo_array  # not needed to read a recipe, and slow to import
    from scipy.sparse.csgraph import connected_components

    nodes, ends = np.unique(np.concatenate([a, b]), return_inverse=True)
    if not len(nodes):
        return nodes, nodes
    one, other = ends.reshape(2, -1)
    graph = coo_array((np.ones(len(one), np.int8), (one, other)), shape=(len(nodes), len(nodes)))
    smallest, outer = stars(connected_components(graph, directed=False)[1])
    return nodes[outer], nodes[smallest]


def edge_messages(a: Indices, b: Indices, partitions: int) -> pa.Table:
    """The edges, reduced to stars, on their way home; schema `MESSAGES`."""
    node, smallest = star(a, b)
    return _messages(EDGE, home(node, partitions), node, smallest)


def step(part: Part, messages: pa.Table, *, at: int, partitions: int) -> tuple[Part, pa.Table, Sent]:
    """One round of partition `at`: its nodes after the messages that it received, and the messages that it sends."""
    node, parent, foreign = part
    edges, requests, answers = (_columns(messages, what) for what in (EDGE, REQUEST, ANSWER))
    child = upper = np.empty(0, np.int64)
    if len(edges[0]) or len(answers[0]):
        asked_for = np.isin(answers[0], foreign)
        told = answers[0][asked_for]
        # All that is connected here already counts as its smallest node.
        child, upper = star(
            np.concatenate([_parents(part, edges[0]), told]),
            np.concatenate([_parents(part, edges[1]), _parents(part, answers[1][asked_for])]),
        )
        parent = _replaced(parent, child, upper)
        foreign = np.unique(np.concatenate([_replaced(foreign, child, upper), upper]))
        foreign = foreign[home(foreign, partitions) != at]
        # A home knows what it told us.
        outside = (home(child, partitions) != at) & ~np.isin(child, told)
        child, upper = child[outside], upper[outside]
    asked, _, asker = requests
    grand = parent[np.searchsorted(node, asked)]
    news = grand != asked
    sent = pa.concat_tables(
        [
            _messages(EDGE, home(child, partitions), child, upper),
            _messages(REQUEST, home(foreign, partitions), foreign, foreign, asker=at),
            _messages(ANSWER, asker[news], asked[news], grand[news]),
        ]
    )
    return Part(node, parent, foreign), sent, Sent(len(child), len(foreign), int(news.sum()))


def boxed(messages: pa.Table, partitions: int) -> list[pa.Table]:
    """What a partition sends (with a column `to`), sorted into min(partitions, MOST_BOXES) boxes."""
    boxes = boxes_of(partitions)
    to = messages["to"].to_numpy() % boxes
    messages = messages.take(pa.array(np.argsort(to, kind="stable")))
    ends = np.searchsorted(np.sort(to), np.arange(boxes + 1))
    return [messages.slice(begin, end - begin) for begin, end in pairwise(ends)]


def boxes_of(partitions: int) -> int:
    """How many boxes `boxed` makes."""
    return min(partitions, MOST_BOXES)


def unboxed(boxes: Sequence[pa.Table], at: int, empty: pa.Table) -> pa.Table:
    """The messages to partition `at` of all boxes that may hold some; without any, `empty`."""
    messages = pa.concat_tables([empty, *boxes])
    return messages.filter(pa.array(messages["to"].to_numpy() == at))


def _messages(what: int, to: Indices, node: Indices, other: Indices, asker: int = -1) -> pa.Table:
    n = len(node)
    columns = (to.astype(np.int32), np.full(n, what, np.int8), node, other, np.full(n, asker, np.int32))
    return pa.table(list(columns), schema=MESSAGES)


def _columns(messages: pa.Table, what: int) -> tuple[Indices, Indices, Indices]:
    chosen = messages.filter(pa.array(messages["what"].to_numpy() == what))
    node, other, asker = (chosen[name].to_numpy() for name in ("node", "other", "asker"))
    return node, other, asker.astype(np.int64)


def _parents(part: Part, nodes: Indices) -> Indices:
    """The parents of the nodes that are at home; the others as they are."""
    if not len(part.node):
        return nodes
    found = np.minimum(np.searchsorted(part.node, nodes), len(part.node) - 1)
    parents: Indices = np.where(part.node[found] == nodes, part.parent[found], nodes)
    return parents


def _replaced(values: Indices, old: Indices, new: Indices) -> Indices:
    """The values, those that are in `old` replaced by the same place of `new`."""
    if not len(old) or not len(values):
        return values
    order = np.argsort(old)
    old, new = old[order], new[order]
    found = np.minimum(np.searchsorted(old, values), len(old) - 1)
    replaced: Indices = np.where(old[found] == values, new[found], values)
    return replaced
