"""Selections of a recipe in the run of `run_fixture`, made in this process by the real rules, keys and commits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import yaml
from run_fixture import commit_pairs, make_run, write_record

from curation.duplicates.deduplicate import find_members, scores
from curation.filters.stage import input_columns
from curation.flow import Tables, flow_of
from curation.pack import PackConfig
from curation.schema import add_seconds, set_columns
from curation.selection import apply_selection
from curation.selections.late import without_unused
from curation.selections.selected_tables import over_all, selected_table
from curation.selections.stage import selected
from curation.selections.steps import Rules, ShardRows
from curation.selections.whole_run import find
from curation.shards import Work, commit_shard, outstanding, read_shard
from curation.table import Table
from pairmill.layout import SELECTIONS
from pairmill.recipe_file import run_recipe
from pairmill.recipe_file import write_recipe as write_run_recipe
from pairmill.store import Store


class StorePasses:
    """`Passes` over the shards of a run, in this process."""

    def __init__(self, shards: Sequence[int]) -> None:
        self._shards = shards

    def collected(self, read: Any, apply: Any, schema: pa.Schema) -> pa.Table:
        found: pa.Table = apply(pa.concat_tables([schema.empty_table(), *map(read, self._shards)]))
        return found

    def shuffled(self, read: Any, apply: Any, schema: pa.Schema) -> pa.Table:
        found: pa.Table = apply(pa.concat_tables([read(shard) for shard in self._shards]).drop_columns(["key"]))
        return found


def selected_run(
    folder: Path,
    selections: Mapping[str, Any],
    packed: str | None = None,
    rows: Sequence[Mapping[str, Any]] | None = None,
    rows_per_shard: int = 7,
) -> Store:
    """`make_run` with these selections in its recipe; it is packed from one of them, without captions of models."""
    given = {"rows_per_shard": rows_per_shard, "recaption": False, "translate": False}
    store = make_run(folder, rows, upto="select", **given)
    select(store, selections, packed)
    recipe = run_recipe(store)
    flow = flow_of(recipe)
    tables = Tables(flow, selection=packed or "default", keyed=False)
    rows = {}
    for shard in sorted(store.index("plan")):
        reads = tables.reads(("image", "caption", "language", *flow.carried), "pack")
        found = read_shard(store, Work(shard, dict.fromkeys(reads, "")), reads)
        made_by = flow.selecting
        rows[shard] = apply_selection(found, made_by.name, made_by.drops, flow.after(made_by.name))
    commit_pairs(store, rows, PackConfig(rows_per_part=9, row_group_rows=4), tables.selection, flow.carried)
    write_record(store, finished=True)
    return store


def select(store: Store, selections: Mapping[str, Any], packed: str | None = None) -> dict[str, list[int]]:
    """Put selections into the run's recipe and make what is missing or stale of them; name -> the shards made."""
    recipe = dict(run_recipe(store))
    recipe |= {"selections": dict(selections), "pack": {**recipe.get("pack", {}), "selection": packed}}
    write_run_recipe(store, yaml.safe_dump(recipe))
    return {rules.name: make(store, recipe, rules) for rules in flow_of(recipe).rules}


def make(store: Store, recipe: Mapping[str, Any], rules: Rules) -> list[int]:
    """Make one selection where it is missing or stale; the shards that were made."""
    shards = sorted(store.index("plan"))
    made = selected_table(Tables(flow_of(recipe, "default"), selection="default", keyed=False), rules)
    given = made.table.upstream
    contents = {name: {n: entry.content for n, entry in store.index(name).items()} for name in given}
    table: Table = over_all(made.table, contents) if rules.of_all else made.table

    def load(shard: int) -> ShardRows:
        return as_given(read_shard(store, Work(shard, dict.fromkeys(made.reads, "")), made.reads), shard)

    def as_given(rows: pa.Table, shard: int) -> ShardRows:
        bases = {name: store.load(f"{SELECTIONS}/{name}", shard) for name in rules.bases}
        rows = without_unused(store, made.later, shard, rows)
        return ShardRows(shard, set_columns(rows, input_columns(rows)), bases)

    def losers(among: Callable[[int], Any]) -> Callable[[int], pa.Table]:
        here = []
        for shard in shards:
            rows = load(shard).rows
            places = {"shard": rows["_shard"], "row": pa.array(range(len(rows)), pa.int32())}
            here.append(set_columns(rows, {**places, "score": scores(rows, rules.config.score)}))
            here[-1] = here[-1].select(["uid", "shard", "row", "score", "sha256", "caption"])
            here[-1] = here[-1].filter(pa.array(np.asarray(among(shard))))
        lost = find_members(pa.concat_tables(here), config=rules.config.duplicates)
        return lambda shard: lost.filter(pc.equal(lost["shard"], shard))

    work = outstanding(store, [table], shards, given)
    found = find(rules, StorePasses(shards), load, losers, rows=10_000)
    for one in work:
        rows = read_shard(store, one, made.reads)
        rows = selected(made.stage, rows, as_given(rows, one.shard), found)
        commit_shard(store, [table], add_seconds(rows, "select", 0.01), 1)
    return [one.shard for one in work]
