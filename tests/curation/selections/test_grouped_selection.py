"""Duplicates that stay, in groups (`keep: all`): recorded by selections, packed, exported, and read by training."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from brute import some_rows
from selected_run import selected_run

from curation.duplicates.deduplicate import find_members, scores
from curation.duplicates.kinds import DeduplicateConfig, kinds_of
from curation.duplicates.stage import Deduplicate
from curation.flow import flow_of
from curation.results.export import export_img2dataset, export_webdataset
from curation.schema import set_columns
from curation.selection import selection_rows
from curation.selections.config import Section
from pairmill.errors import RecipeError
from pairmill.store import Store
from training.data.source import open_source

SELECTIONS: dict[str, Any] = {
    "grouped": {"dedup": ["minhash"], "keep": "all"},
    "part": {"from": "grouped & ~few", "where": "input.id != 3"},
    "few": {"top": {"by": "input.id", "rows": 2}},
    "either": "grouped | few",
    "one": {"from": "part", "dedup": ["exact"]},
    "own": {"from": "grouped", "dedup": ["exact"], "keep": "all"},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return selected_run(tmp_path_factory.mktemp("grouped"), SELECTIONS, packed="part")


def loaded(store: Store, name: str) -> pa.Table:
    return pa.concat_tables([store.load(name, shard) for shard in sorted(store.index("plan"))])


def partition(ids: list[Any], names: list[str]) -> set[frozenset[str]]:
    """The sets of names that have one id."""
    found = defaultdict(set)
    for number, name in zip(ids, names, strict=True):
        found[number].add(name)
    return {frozenset(one) for one in found.values()}


def test_no_row_goes_and_families_are_those_that_would_be_thinned(run: Store) -> None:
    rows = loaded(run, "selections/grouped")
    alive = pc.is_null(rows["reason"])
    assert rows["keep"].equals(alive)
    assert set(rows["reason"].to_pylist()) & {"near_duplicate_text", "duplicate_image"} == set()
    kept = rows.filter(alive)
    assert kept["group_id"].null_count == 0
    assert rows.filter(pc.invert(alive))["group_id"].null_count == len(rows) - len(kept)
    # Rows of one family have its best row's number, others their own.
    for row in kept.to_pylist():
        best = row["duplicate_group"] or row["uid"]
        assert row["group_id"] == int(best[:16], 16) & (2**63 - 1)
    # By brute force: captions that share most of their letters, and pictures of equal bytes.
    captions, digests = loaded(run, "columns/filter")["caption"], loaded(run, "images")["sha256"]
    digest = dict(zip(rows["uid"].to_pylist(), digests.to_pylist(), strict=True))
    by_digest = defaultdict(set)
    for row in kept.to_pylist():
        by_digest[digest[row["uid"]]].add(row["group_id"])
    assert all(len(ids) == 1 for ids in by_digest.values())
    balls = {u for u, c in zip(rows["uid"].to_pylist(), captions.to_pylist(), strict=True) if c and "red ball" in c}
    of_balls = {row["group_id"] for row in kept.to_pylist() if row["uid"] in balls}
    assert len(of_balls) == 1


def test_selections_within_a_grouped_one_keep_its_groups(run: Store) -> None:
    whole, part = loaded(run, "selections/grouped"), loaded(run, "selections/part")
    # The list repeats a row, which has the same uid.
    known = {row["uid"]: row["group_id"] for row in whole.to_pylist() if row["keep"]}
    for row in part.to_pylist():
        assert row["group_id"] == (known[row["uid"]] if row["keep"] else None)
    assert part["duplicate_group"].equals(whole["duplicate_group"])
    # Further duplicates go or are groups of their own; a selection with other rows too has none.
    one = loaded(run, "selections/one")
    assert one["group_id"].drop_null().to_pylist() == [known[u] for u in one["uid"].filter(one["keep"]).to_pylist()]
    own = loaded(run, "selections/own")
    assert own["keep"].equals(whole["keep"]) and own["group_id"].null_count == whole["group_id"].null_count
    assert own["group_id"].filter(own["keep"]).to_pylist() != whole["group_id"].filter(whole["keep"]).to_pylist()
    assert "group_id" not in loaded(run, "selections/either").schema.names
    assert "group_id" not in loaded(run, "selections/default").schema.names


def test_training_reads_the_groups_of_a_selection_of_its_product_and_of_exports(run: Store, tmp_path: Path) -> None:
    part = loaded(run, "selections/part")
    kept = part.filter(part["keep"])
    expected = dict(zip(kept["uid"].to_pylist(), kept["group_id"].to_pylist(), strict=True))
    assert len(set(expected.values())) < len(expected)
    folder = run.uri
    export_webdataset(run, tmp_path / "tars")
    export_img2dataset(run, tmp_path / "parquet")
    for source in (
        open_source(folder, "part"),
        open_source(folder),
        open_source(str(tmp_path / "tars")),
        open_source(str(tmp_path / "parquet")),
    ):
        rows = pa.concat_tables([source.read(piece) for piece in range(source.pieces)])
        assert dict(zip(rows["uid"].to_pylist(), rows["group_id"].to_pylist(), strict=True)) == expected


def test_without_groups_rows_of_equal_bytes_are_still_no_negatives(run: Store) -> None:
    source = open_source(run.uri, "either")
    rows = pa.concat_tables([source.read(piece) for piece in range(source.pieces)])
    digests = dict(zip(*(loaded(run, "images")[name].to_pylist() for name in ("uid", "sha256")), strict=True))
    uids = rows["uid"].to_pylist()
    assert partition(rows["group_id"].to_pylist(), uids) == partition([digests[uid] for uid in uids], uids)


def test_the_deduplicate_section_may_keep_all_too() -> None:
    rows = some_rows(200)
    places = {"shard": pa.array([0] * len(rows), pa.int32()), "row": pa.array(range(len(rows)), pa.int32())}
    config = DeduplicateConfig(kinds=("duplicate_pair",), keep="all")
    assert [kind.name for kind in kinds_of(config)] == ["duplicate_pair", "duplicate_image"]
    compared = set_columns(rows, {**places, "score": scores(rows, "pixels")}).filter(pc.is_null(rows["drop_reason"]))
    chosen = selection_rows(rows, find_members(compared, config=config), keep="all")
    assert chosen["keep"].equals(pc.is_null(rows["drop_reason"]))
    live = [row | {"group": g} for row, g in zip(rows.to_pylist(), chosen["group_id"].to_pylist(), strict=True) if g]
    names = [row["uid"] for row in live]
    assert partition([row["group"] for row in live], names) == partition([row["sha256"] for row in live], names)


@pytest.mark.parametrize(("section", "grouped"), [({"keep": "all"}, True), ({"keep": "all", "enabled": False}, False)])
def test_the_product_has_groups_only_where_duplicates_stay(section: dict[str, Any], grouped: bool) -> None:
    flow = flow_of({"deduplicate": section})
    assert ("group_id" in flow.carried) == grouped
    assert flow.of(Deduplicate).keeps_all == grouped
    assert "group_id" not in flow_of({}).carried


def test_a_rule_for_families_must_be_known() -> None:
    with pytest.raises(RecipeError, match="keep"):
        DeduplicateConfig.checked({"keep": "none"}, at="deduplicate")


def test_groups_of_nothing_are_refused() -> None:
    with pytest.raises(RecipeError, match="keep: all must say by dedup"):
        Section.checked({"selections": {"a": {"keep": "all"}}})
