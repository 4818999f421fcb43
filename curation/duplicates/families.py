"""Families of duplicates, over partitions that each know only a part of the rows: `curation.duplicates.components`,
once for each kind with all stronger ones, and then the best row of every family.

    edges of a partition -> scattered -> home
                               └-> step, step, … for the strongest kind; then the next kind's edges are added, …
    home, parents of every kind -> bests -> chosen -> members

All are pure functions of tables; `families` is the loop around them, and says with `Tasks` what it wants done where.
The loop itself holds nothing but references and counts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation.duplicates.components import (
    MESSAGES,
    Part,
    Sent,
    boxed,
    boxes_of,
    edge_messages,
    home,
    place,
    step,
    unboxed,
)
from curation.duplicates.edges import EDGES, ENDPOINT, combined
from curation.duplicates.kinds import Indices, Kind
from pairmill.faults import fault_point

#: Every row that has duplicates.  `reason` is null for the best row of a family, which stays; `survivor` is the uid of
#: that row, for itself too.
MEMBERS = pa.schema(
    [
        ("uid", pa.string()),
        ("shard", pa.int32()),
        ("row", pa.int32()),
        ("reason", pa.string()),
        ("survivor", pa.string()),
    ]
)

#: Edges of a partition of the components: about 100 MB with what belongs to their rows.
PARTITION_EDGES = 1_000_000

_HOME = pa.schema([("to", pa.int32()), ("node", pa.int64()), *ENDPOINT])

#: The best row that a partition (`asker`) knows of the component with the smallest node `root`, over the edges of kind
#: `kind` and all stronger ones, and how many rows of it there are.
_BEST = pa.schema(
    [
        ("to", pa.int32()),
        ("asker", pa.int32()),
        ("kind", pa.int8()),
        ("root", pa.int64()),
        ("rows", pa.int64()),
        ("node", pa.int64()),
        ("score", pa.float64()),
        ("uid", pa.string()),
    ]
)


class Tasks(Protocol):
    """Where the functions run: in this process (`InProcess`), or as tasks of Ray.

    Results are references, which may be arguments of later calls and are resolved there.
    """

    def call(self, function: Callable[..., Any], *args: Any, returns: int) -> list[Any]:
        """References to the so many results of function(*args), a sequence."""

    def values(self, references: Sequence[Any]) -> list[Any]:
        """The results themselves; for small ones."""


class InProcess:
    """Each call at once, here: a reference is the result."""

    def call(self, function: Callable[..., Any], *args: Any, returns: int) -> list[Any]:
        """The results."""
        return list(function(*args))

    def values(self, references: Sequence[Any]) -> list[Any]:
        """The same."""
        return list(references)


def families(edges: Sequence[Any], kinds: Sequence[Kind], partitions: int, tasks: Tasks) -> list[Any]:
    """References to a table of each partition, schema `MEMBERS`, ordered by shard and row.

    edges: references to tables of schema `EDGES`, which may be in any order and divided in any way.
    kinds: strongest first.
    All rows of a shard are in partition `home_of_shards`.
    """
    boxes = boxes_of(partitions)
    scattered = [
        tasks.call(_scattered, one, len(kinds), partitions, returns=(1 + len(kinds)) * boxes + 1) for one in edges
    ]
    sizes = np.array(tasks.values([one[-1] for one in scattered]), np.int64).reshape(len(edges), len(kinds)).sum(0)

    def to(at: int, sent: Sequence[Sequence[Any]], first: int = 0) -> list[Any]:
        return [one[first + at % boxes] for one in sent]

    begun = [tasks.call(_home, at, *to(at, scattered), returns=2) for at in range(partitions)]
    homes, parts = [one[0] for one in begun], [one[1] for one in begun]
    del begun
    parents: list[list[Any]] = []
    for kind in range(len(kinds)):
        if sizes[kind]:
            received = [to(at, scattered, (1 + kind) * boxes) for at in range(partitions)]
            parts = _connected(parts, received, partitions, tasks)
        parents.append(parts)
    del scattered
    by_partition = [[parents[kind][at] for kind in range(len(kinds))] for at in range(partitions)]
    found = [
        tasks.call(_bests, at, partitions, homes[at], *by_partition[at], returns=boxes) for at in range(partitions)
    ]
    chosen = [tasks.call(_chosen, at, partitions, *to(at, found), returns=boxes) for at in range(partitions)]
    names = [kind.name for kind in kinds]
    return [
        tasks.call(_members, at, names, homes[at], len(kinds), *by_partition[at], *to(at, chosen), returns=1)[0]
        for at in range(partitions)
    ]


def _connected(parts: list[Any], received: list[list[Any]], partitions: int, tasks: Tasks) -> list[Any]:
    """Rounds of `step` until no partition has news.  received: boxes for each partition."""
    boxes = boxes_of(partitions)
    quiet = False
    while True:
        done = [
            tasks.call(_step, at, partitions, parts[at], *received[at], returns=2 + boxes) for at in range(partitions)
        ]
        parts = [one[0] for one in done]
        sent = Sent(*np.array(tasks.values([one[1] for one in done]), np.int64).sum(0).tolist())
        # Requests are asked in one round and answered in the next.
        if not (sent.edges or sent.answers) and (quiet or not sent.requests):
            return parts
        quiet = not (sent.edges or sent.answers)
        received = [[one[2 + at % boxes] for one in done] for at in range(partitions)]


def _scattered(edges: pa.Table, kinds: int, partitions: int) -> list[Any]:
    """The boxes of the rows that have edges, those of the edges of each kind, and how many edges of each there are."""
    fault_point("barrier.components")
    if not edges.num_columns:  # a block of Ray Data without rows
        edges = EDGES.empty_table()
    a, b = (place(edges[f"{end}_shard"].to_numpy(), edges[f"{end}_row"].to_numpy()) for end in "ab")
    ends = pa.concat_tables(
        [edges.select([f"{end}_{name}" for name in ENDPOINT.names]).rename_columns(ENDPOINT.names) for end in "ab"]
    )
    nodes, first = np.unique(np.concatenate([a, b]), return_index=True)
    rows = ends.take(pa.array(first))
    to = pa.array(home(nodes, partitions).astype(np.int32))
    rows = pa.table([to, pa.array(nodes), *rows.columns], schema=_HOME)
    code = edges["kind"].to_numpy()
    messages = [edge_messages(a[code == kind], b[code == kind], partitions) for kind in range(kinds)]
    boxes = [box for table in (rows, *messages) for box in boxed(table, partitions)]
    return [*boxes, [len(table) for table in messages]]


def _home(at: int, *boxes: pa.Table) -> tuple[pa.Table, Part]:
    """The rows of a partition that have edges, by node, and their parents before there are any edges."""
    rows = unboxed(boxes, at, _HOME.empty_table())
    node, first = np.unique(rows["node"].to_numpy(), return_index=True)
    return rows.take(pa.array(first)).drop_columns(["to"]).combine_chunks(), Part.unconnected(node)


def _step(at: int, partitions: int, part: Part, *boxes: pa.Table) -> list[Any]:
    fault_point("barrier.components")
    after, messages, sent = step(Part(*part), unboxed(boxes, at, MESSAGES.empty_table()), at=at, partitions=partitions)
    return [after, sent, *boxed(messages, partitions)]


def _bests(at: int, partitions: int, rows: pa.Table, *parts: Part) -> list[pa.Table]:
    """For each kind and component, the best row here, on its way to the home of the component's smallest node."""
    fault_point("barrier.families")
    rank, order = _ranked(rows)
    found = [_BEST.empty_table()]
    for kind, (_, parent, _) in enumerate(parts):
        root, component, size = np.unique(parent, return_inverse=True, return_counts=True)
        best = np.full(len(root), len(rank), np.int64)
        np.minimum.at(best, component.reshape(-1), rank)
        best_row = rows.take(pa.array(order[best]))
        columns = {
            "to": home(root, partitions),
            "asker": np.full(len(root), at),
            "kind": np.full(len(root), kind),
            "root": root,
            "rows": size,
        }
        columns |= {name: best_row[name] for name in ("node", "score", "uid")}
        found.append(pa.table(columns).cast(_BEST))
    return boxed(pa.concat_tables(found), partitions)


def _chosen(at: int, partitions: int, *boxes: pa.Table) -> list[pa.Table]:
    """Of each component the best row of all partitions, on its way to every partition that has rows of it."""
    known = unboxed(boxes, at, _BEST.empty_table())
    component = combined(known["root"].to_numpy(), known["kind"].to_numpy())
    rank, order = _ranked(known)
    best = np.full(component.max(initial=-1) + 1, len(rank), np.int64)
    np.minimum.at(best, component, rank)
    rows = np.zeros(len(best), np.int64)
    np.add.at(rows, component, known["rows"].to_numpy())
    best_row = known.take(pa.array(order[best[component]]))
    columns = {name: known[name] for name in ("asker", "kind", "root")} | {"to": known["asker"]}
    columns |= {"rows": pa.array(rows[component])} | {name: best_row[name] for name in ("node", "score", "uid")}
    return boxed(pa.table(columns).select(_BEST.names), partitions)


def _members(at: int, names: Sequence[str], rows: pa.Table, kinds: int, *given: Any) -> list[pa.Table]:
    """The rows of a partition that have duplicates; schema `MEMBERS`."""
    parts, boxes = given[:kinds], given[kinds:]
    chosen = unboxed(boxes, at, _BEST.empty_table())
    reason = np.full(len(rows), -1)
    alone, survivor = np.ones(len(rows), np.bool_), rows["uid"]
    for kind, (node, parent, _) in enumerate(parts):
        best = chosen.filter(pc.equal(chosen["kind"], kind)).sort_by("root")
        at_root = np.searchsorted(best["root"].to_numpy(), parent)
        worse = best["node"].to_numpy()[at_root] != node
        reason[worse & (reason < 0)] = kind
        alone = best["rows"].to_numpy()[at_root] == 1
        survivor = best["uid"].take(pa.array(at_root))
    why = np.array([*names, None], dtype=object)[reason]  # -1: none
    found = rows.select(["uid", "shard", "row"]).append_column("reason", pa.array(why, pa.string()))
    # The components of the last kind are those of all edges.
    return [found.append_column("survivor", survivor).cast(MEMBERS).filter(pa.array(~alone))]


def _ranked(rows: pa.Table) -> tuple[Indices, Indices]:
    """The place of each row from best to worst, and the rows in that order, [n] both.

    Arrow puts a missing score after all others.
    """
    order = pc.sort_indices(rows, [("score", "descending"), ("uid", "ascending")]).to_numpy().astype(np.int64)
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    return rank, order
