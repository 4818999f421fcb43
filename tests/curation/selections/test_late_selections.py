"""Selections that read what models write are made after the texts; the packed one decides which rows have any."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from run_fixture import make_run
from selected_run import select
from tiny_encoders import VIT

from curation.flow import Flow, flow_of
from curation.results.outcome import open_run, read_outcome
from curation.schema import set_columns
from pairmill.errors import RecipeError
from pairmill.store import Store
from pipelines.doctor import project_root

MODELS = project_root() / "samples" / "models"
SECTIONS: dict[str, Any] = {
    "embed": {"clip": {"model": str(VIT), "pretrained": str(VIT)}},
    "recaption": {"model": str(MODELS / "captioner")},
}


def flow_with(selections: Mapping[str, Any], packed: str | None = None, through: str | None = None) -> Flow:
    return flow_of({**SECTIONS, "selections": selections, "pack": {"selection": packed}}, through)


FITS = {"from": "early", "where": "score_clip_recaption > 0.3"}
EARLY = {"where": "score_clip > 0.2"}
PLANNED = pa.schema([("uid", pa.string()), ("url", pa.string()), ("alt", pa.string())])


def test_what_reads_scores_of_written_texts_comes_last_with_all_that_is_made_from_it() -> None:
    selections = {"fits": FITS, "a": "fits | early", "early": EARLY, "best": {"top": {"by": "score_clip", "rows": 3}}}
    flow = flow_with(selections, packed="early")
    assert flow.late == {"fits", "a"}
    flow.check(PLANNED)
    assert not flow_with({"early": EARLY}).late


@pytest.mark.parametrize(
    ("selections", "packed", "found"),
    [
        (
            {"fits": {**FITS, "from": "all"}},
            "fits",
            "reads score_clip_recaption, which embed_texts-clip",
        ),
        (
            {"fits": FITS, "early": EARLY, "mix": "early & fits"},
            "mix",
            "mix: selections.fits reads score_clip",
        ),
        ({"made": {"where": "recaption_status == 'success'"}}, "made", "recaption_status, which recaption makes later"),
    ],
)
def test_the_packed_selection_cannot_read_texts_that_are_written_for_its_rows(
    selections: dict[str, Any], packed: str, found: str
) -> None:
    with pytest.raises(RecipeError, match=r"pack\.selection must read columns that are there before") as error:
        flow_with(selections, packed)
    assert found in str(error.value)
    flow_with(selections)
    assert flow_with(selections, packed="early" if "early" in selections else None, through=packed).late


@pytest.mark.parametrize(
    ("where", "found"),
    [
        ("score_clip_recaptions > 0.3", "score_clip_recaption"),
        ("score_clip_texts > 0.3", "score_clip_texts"),
        ("texts == 'a'", "texts"),
    ],
)
def test_a_rule_that_fits_no_column_is_refused_as_any_other(where: str, found: str) -> None:
    with pytest.raises(RecipeError, match=found):
        flow_with({"fits": {"where": where}}).check(PLANNED)


def kept(store: Store, name: str) -> Iterator[tuple[str, bool, str | None]]:
    for shard in sorted(store.index("plan")):
        for row in store.load(f"selections/{name}", shard).to_pylist():
            yield row["uid"], row["keep"], row["reason"]


def test_every_row_is_accounted_for_and_results_of_an_earlier_recipe_do_not_count(tmp_path: Path) -> None:
    store = make_run(tmp_path, upto="translate")
    live = set()
    for shard in sorted(store.index("plan")):
        made = store.load("columns/recaption", shard)
        live |= {row["uid"] for row in made.to_pylist() if row["drop_reason"] is None}
        # Rows that an earlier recipe kept have texts, unused.
        said = set_columns(made, {"recaption_status": pa.array(["success"] * len(made))})
        store.commit("columns/recaption", shard, store.index("columns/recaption")[shard].key, said, {})
    selections = {
        "written": {"where": "recaption_status == 'success'"},
        "half": {"from": "written", "top": {"by": "random(1)", "share": 0.5}},
    }
    shards = sorted(store.index("plan"))
    assert select(store, selections) == {"half": shards, "written": shards}
    assert {uid for uid, keep, _ in kept(store, "written") if keep} == live
    assert {reason for _, keep, reason in kept(store, "written") if keep} == {None}
    dropped = [reason for uid, keep, reason in kept(store, "written") if not keep]
    assert None not in dropped and "where" in dropped and "timeout" in dropped
    assert sum(keep for _, keep, _ in kept(store, "half")) == -(-len(live) // 2)
    run = open_run(store, "written")
    for shard in shards:
        read_outcome(run, shard, ())
    assert not any(select(store, selections).values()), "nothing is made again"
    # New captions make it stale, and only what follows from it.
    again = store.load("columns/recaption", 0)
    none = set_columns(again, {"recaption_status": pa.array(["refusal"] * len(again))})
    store.commit("columns/recaption", 0, store.index("columns/recaption")[0].key, none, {})
    assert select(store, {**selections, "tall": {"where": "height > 1"}}) == {
        "half": shards,
        "tall": shards,
        "written": [0],
    }
