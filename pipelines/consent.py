"""Ask before expensive work is repeated: what a recipe would fetch or compute again, and the question.

A stage that fetches or holds a model (`Stage.expensive`) asks if it would repeat more results than it adds.  The tables
show how many those are, and the manifests of earlier work how long they take.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from curation.download import Download
from curation.flow import Tables
from curation.images.stage import Inspect
from curation.plan_file import Plan
from curation.reuse import finished, restored, to_be_made, was_there
from curation.schema import live
from curation.stage import Stage
from pairmill.errors import RecipeError, UserError
from pairmill.layout import RECIPE_COPY, RECIPE_FILE
from pairmill.recipe_file import keep_foreign, write_recipe
from pairmill.store import Entry, Store

#: The most manifests from which the time of a model's work is estimated.
_SAMPLE = 200


class ConsentError(UserError):
    """Expensive work would be repeated without the user's consent."""


class Again(NamedTuple):
    """Expensive work that would be done.

    again: existing results that would be made again.  new: rows that have none yet.
    bytes: about how many would be fetched; 0 if it is no fetch.  seconds: about how many of one worker; 0 if unknown.
    then: stages whose results follow from these.
    """

    stage: str
    again: int
    new: int
    bytes: int = 0
    seconds: float = 0.0
    then: tuple[str, ...] = ()


def ask(found: Again | None, *, yes: bool) -> None:
    """Raise ConsentError for work that repeats more than it adds, unless `yes`."""
    if found is None or yes or found.again <= found.new:
        return
    much = f", {_size(found.bytes)}" if found.bytes else ""
    long = f", about {_spelled(found.seconds)} of one worker" if found.seconds else ""
    then = f"; {' and '.join(found.then)} would follow" if found.then else ""
    stays = "what cannot be fetched again stays as it is" if found.bytes else "the results so far are replaced"
    raise ConsentError(
        f"{found.stage} must have your consent (--yes) to repeat more work than it adds",
        value=f"{found.again:,} results would be made again{much}{long}, and {found.new:,} are new{then}",
        fix=f"give --yes ({stays}), or set back the keys that changed since",
    )


def refuse_to_fetch(store: Store, shards: int) -> None:
    """Raise RecipeError if shards lack their images, for a recipe that must not fetch.  shards: how many."""
    if shards:
        raise RecipeError(
            "download.enabled must be true where images are missing",
            value=f"false, and {shards} shards of {store.uri} lack images or have those of another recipe",
            fix="set download.enabled: true, or give the run_dir of a run that has them",
        )


class Acceptance:
    """Makes a recipe the run's when its first work begins; a refusal after that brings the old one back."""

    def __init__(self, store: Store, recipe: str) -> None:
        """recipe: its YAML text.  Nothing is written yet."""
        self._store, self._recipe = store, recipe
        self._before: dict[str, bytes] = {}
        self._kept: list[str] = []
        self._accepted = False

    def accept(self) -> None:
        """Write the recipe, the first time."""
        if not self._accepted:
            there = [*filter(self._store.exists, (RECIPE_FILE, RECIPE_COPY))]
            self._before = {name: self._store.read_bytes(name) for name in there}
            self._kept = keep_foreign(self._store)
            write_recipe(self._store, self._recipe)
            self._accepted = True

    def withdraw(self) -> None:
        """Leave the run with the recipe that it had before."""
        if not self._accepted:
            return
        for kept in self._kept:
            self._store.remove(kept)
        for name in (RECIPE_FILE, RECIPE_COPY):
            if name in self._before:
                self._store.write_bytes(name, self._before[name])
            else:
                self._store.remove(name)
        self._accepted = False


def fetch_again(store: Store, tables: Tables, plan: Plan, committed: Mapping[str, Mapping[int, Entry]]) -> Again | None:
    """The fetches of pictures that were made with other `image.*`; None if there are none.

    committed: the shards of images/ and of the tables that it is made from.
    """
    stage = tables.flow.of(Download)
    images = tables.named(tables.name_of(stage))

    def key(shard: int) -> str:
        return images.key({name: committed[name][shard].content for name in images.upstream})

    there = {shard: entry for shard, entry in committed[images.name].items() if shard in plan.shard_numbers()}
    stale = {shard: entry for shard, entry in sorted(there.items()) if entry.key != key(shard)}
    settings = tables.flow.of(Inspect).config.settings
    pictures = other = size = 0
    for manifest in store.manifests(images.name, stale):
        facts = manifest["facts"][stage.name]
        pictures += sum(facts["pictures"].values())
        other += sum(n for made_by, n in facts["pictures"].items() if made_by != settings)
        size += facts["bytes"]
    if not other:
        return None
    new = (plan.shards - len(there)) * plan.rows // plan.shards
    seconds = other * _seconds_a_row(store, images.name, stale, stage.name)
    then = tuple(s.name for s in tables.flow.stages if s.expensive and s.name != stage.name)
    return Again(stage.name, other, new, size * other // pictures, seconds, then)


class CountAgain:
    """Counts what the stages with models would repeat of each shard; one line per stage."""

    def __init__(self, stages: Sequence[Stage], tables: Tables, there: Mapping[str, Collection[int]]) -> None:
        """there: table -> the shards that it has, stale ones too."""
        self._there = there
        self._stages = [stage for stage in stages if stage.made_from is not None]
        self._tables = tables

    def __call__(self, rows: pa.Table) -> pa.Table:
        changed: dict[str, pa.ChunkedArray] = {}  # column -> mask of the rows whose value would change
        counts: list[dict[str, Any]] = []
        for stage in self._stages:
            name = self._tables.name_of(stage)
            if f"_content_{name}" in rows.schema.names:
                continue
            if was_there(name) not in rows.schema.names:
                # Results in a form that the stage cannot take over would be replaced all the same.
                lost = rows["_shard"][0].as_py() in self._there.get(name, ())
                again, new = sorted((0, pc.sum(live(rows)).as_py() or 0), reverse=lost)
            else:
                rows = restored(stage, rows)
                mask = to_be_made(stage, rows, self._tables.made_by[stage.name])
                for column in (*stage.reads, *stage.optional):
                    mask = pc.or_(mask, changed[column]) if column in changed else mask
                changed |= {column.name: mask for column in stage.adds}
                mask = pc.and_(mask, live(rows))
                again = pc.sum(pc.and_(mask, finished(stage, rows))).as_py() or 0
                new = (pc.sum(mask).as_py() or 0) - again
            counts.append({"stage": stage.name, "again": again, "new": new})
        return pa.Table.from_pylist(counts, _COUNTS)


_COUNTS = pa.schema([("stage", pa.string()), ("again", pa.int64()), ("new", pa.int64())])


def model_again(
    store: Store, tables: Tables, stage: Stage, counts: Iterable[Mapping[str, Any]], stale: Mapping[int, Entry]
) -> Again:
    """The work of one stage with a model.  counts: lines of `CountAgain`.  stale: their shards."""
    mine = [line for line in counts if line["stage"] == stage.name]
    again = sum(line["again"] for line in mine)
    seconds = again * _seconds_a_row(store, tables.name_of(stage), stale, stage.name) if again else 0.0
    return Again(stage.name, again, sum(line["new"] for line in mine), seconds=seconds)


def _seconds_a_row(store: Store, table: str, shards: Mapping[int, Entry], stage: str) -> float:
    """Mean seconds per row over some of these shards; 0 if nothing is known."""
    sample = dict(islice(shards.items(), _SAMPLE))
    done = [(m["seconds"][stage], m["worked"][stage].get("rows", 0)) for m in store.manifests(table, sample)]
    rows = sum(n for _, n in done)
    return sum(seconds for seconds, n in done if n) / rows if rows else 0.0


def _size(bytes_: int) -> str:
    unit, size = next(((unit, size) for unit, size in (("GB", 1e9), ("MB", 1e6)) if bytes_ >= size), ("kB", 1e3))
    return f"{bytes_ / size:,.1f} {unit}"


def _spelled(seconds: float) -> str:
    for unit, size in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.0f} {unit}"
    return f"{max(1, round(seconds))} s"
