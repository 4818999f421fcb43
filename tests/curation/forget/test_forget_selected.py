"""What selections and the report say of groups and families of rows goes with the rows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from forgotten_run import all_rows
from selected_run import selected_run
from traces import traces

from curation.forget.request import request
from curation.forget.takedown import preview
from curation.results.report import write_report
from curation.selections.selected_tables import facts_in
from pairmill.store import Store
from pipelines.forget import forget

HOST = "h1.example"
SELECTIONS = {
    "best": {"where": "input.x > quantile(input.x, 0.2, by=host(url)) and input.x > quantile(input.x, 0.1)"},
    "first": {"top": {"by": "input.x", "per": "host", "rows": 5}},
    "families": {"dedup": ["exact"], "keep": "all"},
    "fair": {"weight": {"of": "language", "per": "host(url)"}},
}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    rows = [
        {"url": f"http://h{n % 4}.example/{'ok' if n % 3 else 'same-x'}/{n}", "text": f"a ball {n}", "x": n}
        for n in range(40)
    ]
    found = selected_run(tmp_path, SELECTIONS, "best", rows)
    write_report(found, selection="best")
    (tmp_path / "input.jsonl").unlink()
    return found


def test_no_group_of_a_selection_names_what_is_gone(store: Store, tmp_path: Path) -> None:
    assert any("selections/best" in name for names in traces([tmp_path], {HOST.encode()}).values() for name in names)
    forget(store, request(host=[HOST]), [], sure=True)
    assert traces([tmp_path], {HOST.encode()}) == {}
    where = facts_in(store, "best")["where"]["values"]
    assert sorted(len(one["of"]) for one in where.values()) == [0, 1], "that of all rows names none"


def test_a_best_row_that_is_gone_is_not_in_the_report(store: Store) -> None:
    rows = all_rows(store, "selections/families")
    best = {uid for uid in rows["duplicate_group"].to_pylist() if uid is not None}
    forget(store, request(uid=sorted(best)), [], sure=True)
    text = store.read_text("report.json") or ""
    assert not [uid for uid in best if uid in text]
    kinds = json.loads(text)["duplicates"]
    assert any(kind["largest"] for kind in kinds) and all(f["uid"] is None for k in kinds for f in k["largest"])


def test_what_is_kept_of_evaluation_sets_belongs_to_the_run(store: Store) -> None:
    store.write_bytes("references/coco/shard-000000.parquet", b"x")
    assert preview(store, request(host=[HOST])).strays == ()
