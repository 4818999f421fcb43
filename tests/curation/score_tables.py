"""Tables of the segment `score` in the run of `run_fixture`, with what a test says of each row."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import yaml

from curation.flow import Tables, flow_of
from curation.schema import DROPS, add_seconds, live, set_columns
from curation.shards import commit_shard
from pairmill.recipe_file import run_recipe
from pairmill.recipe_file import write_recipe as write_run_recipe
from pairmill.store import Store

#: Rows of a shard's plan, and which of them are alive -> the columns of a stage.
Made = Callable[[pa.Table, np.ndarray[Any, np.dtype[np.bool_]]], Mapping[str, Any]]


def add_table(store: Store, sections: Mapping[str, Any], stage: str, made: Made) -> None:
    """Put sections into the run's recipe and commit the table of one of their stages; columns not made are null."""
    recipe = dict(run_recipe(store)) | dict(sections)
    write_run_recipe(store, yaml.safe_dump(recipe))
    flow = flow_of(recipe)
    tables = Tables(flow, selection="default", keyed=False)
    table = tables.named(tables.name_of(flow.named(stage)))
    for shard in sorted(store.index("plan")):
        plan, drops = store.load("plan", shard), store.load("columns/filter", shard, list(DROPS))
        columns: dict[str, Any] = {name: drops[name] for name in DROPS}
        columns |= {name: pa.nulls(len(plan), pa.float32()) for name in table.columns if name not in DROPS}
        columns |= made(plan, np.asarray(live(drops)))
        columns["_shard"] = pa.repeat(pa.scalar(shard, pa.int32()), len(plan))
        rows = add_seconds(set_columns(plan.select(["uid"]), columns), stage, 0.1)
        commit_shard(store, [replace(table, upstream=(), makers=())], rows, 1)
