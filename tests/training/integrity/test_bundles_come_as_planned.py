"""A batch is made of the bundles that the plan says, in its order, each whole."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from small_datasets import reader_of, write_parquet

from pairmill.errors import IntegrityError
from training.data.batches import assemble, read_here
from training.data.bundle import Bundle, from_table, to_table
from training.data.cursor import BundleSpec, ReadingPlan, rank_bundles
from training.data.source import open_source
from training.data.stream import _Progress

Stream = Iterator[tuple[BundleSpec, Bundle]]


@pytest.fixture
def planned(tmp_path: Path) -> tuple[ReadingPlan, Stream]:
    """A plan over four lanes, and its bundles as they are read."""
    source = open_source(str(write_parquet(tmp_path / "x.parquet", 60)))
    plan = ReadingPlan(((source.rows, 1.0),), seed=3, lanes=4, batch_size=8, bundle_rows=6)
    return plan, read_here(plan, reader_of([source]))


def test_bundles_in_another_order_stop_the_run(planned: tuple[ReadingPlan, Stream]) -> None:
    plan, stream = planned
    first, second = next(stream), next(stream)
    progress = _Progress(iter([second, first]), rank_bundles(plan, 0, 1))
    with pytest.raises(IntegrityError, match="bundles must come in the planned order"):
        next(assemble(progress, plan))


def test_bundles_of_another_worker_stop_the_run(planned: tuple[ReadingPlan, Stream]) -> None:
    plan, stream = planned
    progress = _Progress(stream, rank_bundles(plan, 1, 2))
    with pytest.raises(IntegrityError, match="bundles must come in the planned order"):
        next(assemble(progress, plan, rank=1, world=2))


def test_bundles_of_a_place_further_on_stop_the_run(planned: tuple[ReadingPlan, Stream]) -> None:
    plan, stream = planned
    progress = _Progress(stream, rank_bundles(plan, 0, 1, start_batch=5))
    with pytest.raises(IntegrityError, match="bundles must come in the planned order"):
        next(assemble(progress, plan, start_batch=5))


def test_a_bundle_without_a_row_of_its_spec_stops_the_run(planned: tuple[ReadingPlan, Stream]) -> None:
    plan, stream = planned
    spec, bundle = next(found for found in stream if found[0].rows > 1)
    short = from_table(to_table(bundle).slice(1), *bundle.images.shape[1:3])
    with pytest.raises(IntegrityError, match=f"rows of its spec: {spec.rows - 1}, not {spec.rows}"):
        next(assemble(iter([(spec, short)]), plan))


def test_a_bundle_in_two_blocks_is_not_taken_for_its_first(planned: tuple[ReadingPlan, Stream]) -> None:
    _, stream = planned
    (_, one), (_, other) = next(stream), next(stream)
    with pytest.raises(IntegrityError, match="a bundle must be one block: 2"):
        from_table(pa.concat_tables([to_table(one), to_table(other)]), *one.images.shape[1:3])
