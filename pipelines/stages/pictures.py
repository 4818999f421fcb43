"""Work on existing pictures: fetch them again, or erase them."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from curation.download import without_pictures
from curation.erase import rewrite_shard
from curation.policy import Policy
from curation.schema import set_columns
from curation.shards import Work, read_shard
from curation.table import PLAN, Table
from pairmill.store import Store
from pipelines.stages.row_stage import ActorStage, RowStage


class RetryStage(ActorStage):
    """Fetch again the rows of committed shards that may succeed now, and put the shard together again."""

    def __call__(self, rows: pa.Table) -> pa.Table:
        began = self._reporter.begin()
        again = retriable(self._setting.tables.flow.of(Policy), rows)
        return self._again(rows.drop_columns([f"_content_{self._table}"]), again, began)


class ErasingStage(RowStage):
    """Runs the policy; pictures that it forbids keeping are erased from images/ before its verdict is committed."""

    def __call__(self, rows: pa.Table) -> pa.Table:
        policy = self._setting.tables.flow.of(Policy)
        if f"_content_{self._table}" not in rows.schema.names and pc.any(policy.must_go(rows)).as_py():
            rows = self._erased(policy, rows)
        return super().__call__(rows)

    def _erased(self, policy: Policy, rows: pa.Table) -> pa.Table:
        images, content = self._setting.images, f"_content_{self._setting.images.name}"
        if content in rows.schema.names:
            # Only this table: what is made from it must see that the rows are dropped.
            shard = rows["_shard"][0].as_py()
            made = rewrite_shard(
                self._setting.store,
                [images],
                shard,
                {images.name: lambda found: without_pictures(found, policy.must_go(found))},
            )
            rows = set_columns(rows, {content: pa.repeat(pa.scalar(made[images.name].content), len(rows))})
        return without_pictures(rows, policy.must_go(rows))


class ForRetry:
    """Reads the rest of a shard of images/ if one of its rows must be fetched again; else none of its rows."""

    def __init__(self, store: Store, images: Table, policy: Policy) -> None:
        self._store, self._images, self._policy = store, images, policy

    @property
    def reads(self) -> tuple[str, ...]:
        """The columns that decide it."""
        return (*self._policy.reads, *self._policy.reads_for_retry)

    def __call__(self, rows: pa.Table) -> pa.Table:
        if not pc.any(retriable(self._policy, rows)).as_py():
            return rows.slice(0, 0)
        shard = rows["_shard"][0].as_py()
        fresh = {name: rows[f"_content_{name}"][0].as_py() for name in (PLAN, self._images.name)}
        return read_shard(self._store, Work(shard, fresh), {self._images.name: self._images.columns})


def retriable(policy: Policy, rows: pa.Table) -> pa.Array:
    """Mask of the rows that a retry fetches."""
    masks = policy.retriable(rows)
    return pc.or_(pc.or_(masks["passing"], masks["allowed"]), masks["earlier"]).combine_chunks()
