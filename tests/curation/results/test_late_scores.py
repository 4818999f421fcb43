"""Scores of texts that models write, in the report: of the rows that texts were written for, and of no others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import yaml
from run_fixture import make_run
from score_tables import add_table
from selected_run import select
from tiny_encoders import VIT

from curation.flow import Tables, flow_of
from curation.results.report import build_report
from curation.schema import DROPS, add_seconds, set_columns
from curation.shards import commit_shard
from pairmill.recipe_file import run_recipe
from pairmill.recipe_file import write_recipe as write_run_recipe
from pairmill.store import Store


def scored_run(folder: Path) -> tuple[Store, int]:
    """A run whose texts have the score 0.75, unused ones of an earlier recipe 0.25; and how many rows have texts."""
    store = make_run(folder, upto="recaption", translate=False)
    embed = {"clip": {"model": str(VIT), "pretrained": str(VIT)}}
    recipe = {**run_recipe(store), "recaption": {"model": "m", "enabled": True}}
    write_run_recipe(store, yaml.safe_dump(recipe))
    adds = flow_of({**recipe, "embed": embed}).named("embed-clip").adds
    add_table(
        store,
        {"embed": embed},
        "embed-clip",
        lambda plan, alive: {column.name: pa.nulls(len(plan), column.type) for column in adds},
    )
    recipe = dict(run_recipe(store))
    tables = Tables(flow_of(recipe), selection="default", keyed=False)
    table = tables.named("columns/embed_texts-clip")
    written = 0
    for shard in sorted(store.index("plan")):
        drops = store.load("columns/recaption", shard, ["uid", *DROPS])
        live = np.asarray(drops["drop_reason"].is_null())
        written += int(live.sum())
        columns: dict[str, Any] = {name: pa.nulls(len(drops)) for name in table.columns if name not in DROPS}
        columns["score_clip_recaption"] = pa.array(np.where(live, 0.75, 0.25), pa.float32())
        columns["_shard"] = pa.repeat(pa.scalar(shard, pa.int32()), len(drops))
        one = replace(table, upstream=(), makers=())
        commit_shard(store, [one], add_seconds(set_columns(drops, columns), "embed_texts-clip", 0.1), 1)
    return store, written


def test_unused_scores_of_an_earlier_recipe_do_not_count(tmp_path: Path) -> None:
    store, written = scored_run(tmp_path)
    select(store, {"fits": {"where": "score_clip_recaption > 0.5"}})
    report = build_report(store)
    [score] = [one for one in report["scores"] if one["name"] == "score_clip_recaption"]
    assert (score["rows"], score["missing"], score["min"]) == (written, 0, 0.75)
    [threshold] = report["thresholds"]
    assert threshold["passing"]["rows"] == written and threshold["failing"]["rows"] == 0
