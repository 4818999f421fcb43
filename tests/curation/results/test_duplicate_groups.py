"""Families of duplicates against counting by hand, in this process and by way of files."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from compared_stage import MATCH
from run_fixture import make_run
from score_tables import add_table
from selected_run import select

from curation.results import duplicate_groups as module
from curation.results.data import Pick
from curation.results.duplicate_groups import KEPT, LARGEST, SHOWN, GroupTally
from curation.results.insights import Insights
from curation.results.outcome import Run, open_run, read_outcome
from curation.schema import set_columns
from pairmill.damage import DamagedError
from pairmill.store import Store

KINDS = ("duplicate_pair", "duplicate_image", "near_duplicate_image")


def run_with_families(folder: Path, seed: int = 0, rows: int = 400) -> Run:
    """A run whose selection `default` has families of all sizes, divided over shards of 37 rows by chance."""
    made = [{"url": f"http://a.example/ok/{n}", "text": f"a ball, {n}"} for n in range(rows)]
    store = make_run(folder, made, upto="select", rows_per_shard=37, recaption=False, translate=False)
    rng = np.random.default_rng(seed)
    uids = [uid for shard in sorted(store.index("plan")) for uid in store.load("plan", shard)["uid"].to_pylist()]
    order = rng.permutation(len(uids))
    group: dict[str, str | None] = dict.fromkeys(uids)
    reason: dict[str, str | None] = dict.fromkeys(uids)
    at = 0
    for size in [60, 33, 33, 12, *rng.integers(2, 6, 40).tolist()]:
        family = sorted(uids[n] for n in order[at : at + size])
        at += size
        if not family:
            break
        for uid in family:
            group[uid] = family[0]
            if uid != family[0]:
                reason[uid] = str(rng.choice(KINDS))
                # A row that stays in its group, and one that another rule leaves out then.
                reason[uid] = {0: None, 1: "quota"}.get(int(rng.integers(12)), reason[uid])
    for shard in sorted(store.index("plan")):
        rows_here = store.load("selections/default", shard)
        here = rows_here["uid"].to_pylist()
        reasons = pa.array([reason[uid] for uid in here], pa.string())
        changed = pa.table(
            {
                "group_id": pa.nulls(len(here), pa.int64()),
                "uid": rows_here["uid"],
                "keep": reasons.is_null(),
                "reason": reasons,
                "duplicate_group": pa.array([group[uid] for uid in here], pa.string()),
            }
        )
        entry = store.entry("selections/default", shard)
        assert entry is not None
        manifest = store.manifest("selections/default", shard, entry) or {}
        store.commit("selections/default", shard, entry.key, changed, manifest)
    return open_run(store)


def rows_of(store: Store) -> list[dict[str, Any]]:
    found = []
    for shard in sorted(store.index("plan")):
        rows = store.load("selections/default", shard).to_pylist()
        found += [{**row, "at": Pick(row["uid"], shard, at)} for at, row in enumerate(rows)]
    return found


def by_hand(store: Store) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Kind -> family -> the rows that its best row stands for."""
    found: dict[str, dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for row in rows_of(store):
        if row["duplicate_group"] not in (None, row["uid"]):
            kind = row["reason"] if row["reason"] in KINDS else KEPT
            found[kind][row["duplicate_group"]].append(row)
    return found


def tally(run: Run) -> GroupTally:
    made = GroupTally(run)
    for shard in run.plan.shard_numbers():
        made.add(shard, run.store.load("plan", shard)["uid"])
    return made


@pytest.mark.parametrize("rows", [1 << 20, 50])
def test_families_are_counted_by_kind_and_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    monkeypatch.setattr(module, "_ROWS", rows)
    run = run_with_families(tmp_path)
    found, expected = tally(run).families(), by_hand(run.store)
    assert {kind for _, kind in found} == {*KINDS, KEPT} == set(expected)
    for (selection, kind), one in found.items():
        sizes = {uid: 1 + len(rows) for uid, rows in expected[kind].items()}
        assert selection == "default"
        assert (one["groups"], one["rows"]) == (len(sizes), sum(sizes.values()) - len(sizes))
        assert _within(one["sizes"], sizes.values())
        largest = sorted(sizes.items(), key=lambda item: (-item[1], item[0]))[:LARGEST]
        assert [(family.uid, family.size) for family in one["largest"]] == largest


def _within(words: dict[str, int], sizes: Any) -> bool:
    """Whether families are counted in the lines that their sizes belong to."""
    left = Counter(sizes)
    for word, number in words.items():
        low, _, high = word.partition("-")
        last = int(high) if high else int(low) if "-" not in word else max(left, default=0)
        here = [size for size in left if int(low) <= size <= last]
        if sum(left.pop(size) for size in here) != number:
            return False
    return not left


def test_the_best_row_comes_first_and_then_those_of_smallest_uid(tmp_path: Path) -> None:
    run = run_with_families(tmp_path)
    made, expected = tally(run), by_hand(run.store)
    families = [family for one in made.families().values() for family in one["largest"]]
    places = {row["uid"]: row["at"] for row in rows_of(run.store)}
    for family, picks in made.members(families, list(run.plan.shard_numbers())).items():
        others = sorted(row["at"] for row in expected[family.kind][family.uid])
        assert picks == [places[family.uid], *others][:SHOWN]


SECTIONS: dict[str, Any] = {
    "families": {"dedup": ["exact"], "keep": "all"},
    "thinned": {"dedup": ["exact"]},
    "few": {"where": "width > 0"},
    # What matches a set is left out of a group that stays, and of nothing else.
    "good": {"from": "families", "decontaminate": "flowers"},
    # It takes the families of `thinned` over, but not for which kind a row was left out.
    "both": {"from": "thinned & few", "decontaminate": "flowers"},
}


@pytest.mark.parametrize(("packed", "expected"), [("good", KEPT), ("both", None)])
def test_what_matches_an_evaluation_set_is_no_kind_of_duplicate(
    tmp_path: Path, packed: str, expected: str | None
) -> None:
    listed = [{"url": f"http://a.example/same-{n // 3}/{n}", "text": "a ball"} for n in range(45)]
    store = make_run(tmp_path, listed, upto="select", rows_per_shard=11, recaption=False, translate=False)

    def compared(plan: pa.Table, alive: Any) -> dict[str, Any]:
        found = [[{"kind": "caption", "item": "x", "similarity": 1.0}] if at % 2 else None for at in range(len(plan))]
        return {"matches_flowers": pa.array(found, pa.list_(MATCH))}

    add_table(store, {"stages": ["compared_stage:Compared"]}, "compared", compared)
    select(store, SECTIONS, packed)
    rows = [row for shard in store.index("plan") for row in store.load(f"selections/{packed}", shard).to_pylist()]
    losers = [row for row in rows if row["duplicate_group"] not in (None, row["uid"])]
    assert {row["reason"] for row in losers} & {"contaminated_flowers", "not_selected"}
    found = {kind: one for (name, kind), one in tally(open_run(store, packed)).families().items() if name == packed}
    assert set(found) == {expected} - {None}
    if expected:
        assert found[expected]["rows"] == len(losers)


def test_the_best_row_of_a_family_may_be_one_of_another_run(tmp_path: Path) -> None:
    listed = [{"url": f"http://a.example/same-{n // 3}/{n}", "text": "a ball"} for n in range(12)]
    store = make_run(tmp_path, listed, upto="select", rows_per_shard=12, recaption=False, translate=False)
    select(store, {"new": {"dedup": ["exact"], "against": {"first": "elsewhere"}}})
    rows = store.load("selections/new", 0)
    # The first run has the URL and caption of the first row here, and a row that is like another three.
    uids = sorted(rows["uid"].to_pylist())
    group = {uid: f"first:{uids[0] if at < 3 else 'f' * 32}" for at, uid in enumerate(uids[:6])}
    columns = {
        "keep": pa.array([uid not in group for uid in rows["uid"].to_pylist()]),
        "reason": pa.array(["duplicate_image_elsewhere" if u in group else None for u in rows["uid"].to_pylist()]),
        "duplicate_group": pa.array([group.get(uid) for uid in rows["uid"].to_pylist()], pa.string()),
    }
    entry = store.entry("selections/new", 0)
    assert entry is not None
    manifest = store.manifest("selections/new", 0, entry) or {}
    store.commit("selections/new", 0, entry.key, set_columns(rows, columns), manifest)
    run = open_run(store)
    made = tally(run)
    found = made.families()["new", "duplicate_image_elsewhere"]
    assert (found["groups"], found["rows"], found["sizes"]["4"]) == (2, 6, 2)
    members = made.members(found["largest"], [0])
    assert {family.uid: [pick.uid for pick in picks] for family, picks in members.items()} == {
        uids[0]: uids[:3],
        "f" * 32: uids[3:6],
    }
    assert not any(family.here for family in members)
    insights = Insights(run)
    insights.add(read_outcome(run, 0, insights.columns))
    [kind] = [one for one in insights.data()["duplicates"] if one["kind"] == "duplicate_image_elsewhere"]
    assert not any(row["best"] for family in kind["largest"] for row in family["shown"])
    assert {family["uid"] for family in kind["largest"]} == {None}


def test_a_selection_of_other_rows_is_damaged(tmp_path: Path) -> None:
    run = run_with_families(tmp_path)
    with pytest.raises(DamagedError, match="other rows than the plan"):
        GroupTally(run).add(0, run.store.load("plan", 1)["uid"])


def test_a_run_that_has_not_come_to_its_selection_has_no_families(tmp_path: Path) -> None:
    run = open_run(make_run(tmp_path, upto="filter"))
    assert tally(run).families() == {}
