"""Rows that match an evaluation set: how many by kind, and the least alike of each kind beside what they match.

reads: contaminated_NAME (kind), matches_NAME (kind, item, similarity); references/NAME (item, captions, thumbnail)

All matches are in the column `matches_NAME`.  The least alike are shown, as they are the ones to doubt.
"""

from __future__ import annotations

import base64
import heapq
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation.flow import Flow
from curation.results.data import Pick
from curation.results.outcome import Outcome, Run
from curation.results.shown_rows import alive_before
from curation.results.thumbnails import place, with_faces
from pairmill.layout import REFERENCES
from pairmill.store import Store

#: Pairs shown of each kind, evaluation sets, and characters of a caption.
SHOWN, MOST_SETS, _CHARACTERS = 8, 12, 200

#: Kinds of matches whose row and item are one picture.
_SAME_PICTURE = frozenset({"same_image", "near_image"})

#: How the columns of a set begin.
_STRONGEST, _MATCHES = "contaminated_", "matches_"


class Match(NamedTuple):
    """A row and the item it is least like, of those that it matches by one kind; the least alike are the smallest."""

    similarity: float
    pick: Pick
    item: str


class ContaminationTally:
    """The matches of a run with each of its evaluation sets."""

    def __init__(self, run: Run) -> None:
        self._flow = run.tables.flow
        self._sets = {name: _Set() for name in evaluation_sets(self._flow)[:MOST_SETS]}
        self.columns = [f"{part}{name}" for name in self._sets for part in (_STRONGEST, _MATCHES)]

    def add(self, outcome: Outcome) -> None:
        """Count one shard, as far as it is processed."""
        rows = outcome.rows
        for name, found in self._sets.items():
            if f"{_MATCHES}{name}" in rows.schema.names:
                found.add(outcome.shard, rows, name, alive_before(self._flow, rows))

    def picks(self) -> list[Pick]:
        """The rows that are shown."""
        return [match.pick for one in self._sets.values() for some in one.least.values() for match in some]

    def data(self, store: Store, shown: Mapping[Pick, Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Plain data, a line for each set that was compared.  shown: what is shown of each of `picks`."""
        return [
            {
                "set": name,
                "compared": one.compared,
                "rows": one.kinds.total(),
                "kinds": _of_kinds(store, name, one, shown),
            }
            for name, one in self._sets.items()
            if one.compared
        ]


class _Set:
    def __init__(self) -> None:
        self.compared = 0
        self.kinds: Counter[str] = Counter()  # the strongest of each row
        self.matched: Counter[str] = Counter()  # rows that match by a kind, whatever else they match by
        self.least: dict[str, list[Match]] = {}

    def add(self, shard: int, rows: pa.Table, name: str, alive: np.ndarray[Any, np.dtype[np.bool_]]) -> None:
        strongest, matches = rows[f"{_STRONGEST}{name}"], rows[f"{_MATCHES}{name}"]
        self.compared += int(alive.sum())
        here = alive & np.asarray(pc.is_valid(strongest), np.bool_)
        self.kinds.update(strongest.filter(pa.array(here)).to_pylist())
        found: dict[str, list[Match]] = {}
        for at in np.flatnonzero(here).tolist():
            least: dict[str, Match] = {}
            for one in matches[at].as_py() or ():
                match = Match(float(one["similarity"]), Pick(rows["uid"][at].as_py(), shard, at), one["item"])
                least[one["kind"]] = min(match, least.get(one["kind"], match))
            for kind, match in least.items():
                found.setdefault(kind, []).append(match)
        for kind, some in found.items():
            self.matched[kind] += len(some)
            self.least[kind] = heapq.nsmallest(SHOWN, [*self.least.get(kind, ()), *some])


def evaluation_sets(flow: Flow) -> list[str]:
    """The names of the evaluation sets that a run is compared with, in flow order."""
    names = [name.removeprefix(_MATCHES) for name in flow.columns if name.startswith(_MATCHES)]
    return [name for name in names if f"{_STRONGEST}{name}" in flow.columns]


def _of_kinds(store: Store, name: str, found: _Set, shown: Mapping[Pick, Mapping[str, Any]]) -> list[dict[str, Any]]:
    captions = {
        item: texts for item, texts, _ in _items(store, name, [m.item for s in found.least.values() for m in s])
    }
    return [
        {
            **{"kind": kind, "rows": rows, "strongest": found.kinds[kind]},
            "pairs": [
                {
                    "row": shown[match.pick],
                    "similarity": float(f"{match.similarity:.4g}"),
                    "item": match.item,
                    "captions": [text[:_CHARACTERS] for text in captions.get(match.item, ())][:3],
                }
                for match in found.least[kind]
            ],
        }
        for kind, rows in sorted(found.matched.items(), key=lambda one: (-one[1], one[0]))
    ]


def reference_pictures(
    store: Store, report: Mapping[str, Any], pictures: Mapping[str, str], left: int
) -> dict[str, str]:
    """The small pictures of the items that a report shows, as data URIs, by `NAME/item`.

    An item shows what the row beside it shows, in the clear: beside a row without a thumbnail, as one that is withheld,
    it has none either, and then nowhere.  Where faces are blurred, an item has one only beside rows of the same picture
    in which no face was found.
    pictures: the thumbnails of the page's rows.  left: characters that the page may still have.
    """
    uses: Counter[str] = Counter()
    hidden = set()
    for one in report["contamination"]:
        pairs = [(kind["kind"], pair) for kind in one["kinds"] for pair in kind["pairs"]]
        faces = with_faces(store, [pair["row"] for _, pair in pairs])
        for kind, pair in pairs:
            uses[name := f"{one['set']}/{pair['item']}"] += 1
            at = place(pair["row"])
            clear = faces is None or (kind in _SAME_PICTURE and at not in faces)
            if at not in pictures or not clear:
                hidden.add(name)
    found = {}
    for one in report["contamination"]:
        shown = {f"{one['set']}/{pair['item']}": pair["item"] for kind in one["kinds"] for pair in kind["pairs"]}
        wanted = [item for name, item in shown.items() if name not in hidden]
        for item, _, picture in _items(store, one["set"], wanted, pictures=True):
            if picture is not None:
                found[f"{one['set']}/{item}"] = "data:image/webp;base64," + base64.b64encode(picture).decode()
    # In the order of the page.
    return {name: found[name] for name in uses if name in found and (left := left - uses[name] * len(found[name])) >= 0}


def _items(
    store: Store, name: str, items: Iterable[str], *, pictures: bool = False
) -> Iterator[tuple[str, list[str], bytes | None]]:
    """Name, captions and, if asked for, picture of some items of a set."""
    wanted = pa.array(sorted(set(items)), pa.string())
    table = f"{REFERENCES}/{name}"
    for number in sorted(store.index(table)) if len(wanted) else ():
        here = pc.is_in(store.load(table, number, ["item"])["item"], value_set=wanted)
        if not pc.any(here, min_count=0).as_py():
            continue
        rows = store.load(table, number, ["item", "captions", *(["thumbnail"] if pictures else [])]).filter(here)
        for row in rows.to_pylist():
            yield row["item"], row["captions"] or [], row.get("thumbnail")
