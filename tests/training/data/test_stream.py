import itertools
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from small_datasets import reader_of, write_parquet

from pairmill.errors import InputError, JobError
from training.data.batches import Batch
from training.data.bundle import Reader
from training.data.config import DataConfig
from training.data.cursor import ReadingPlan, make_plan, rank_bundles
from training.data.source import open_sources
from training.data.stream import batches, read_with_ray


def small(root: Path, **changed: object) -> tuple[ReadingPlan, Reader, DataConfig]:
    path = str(write_parquet(root / "x.parquet", 90))
    config = DataConfig.model_validate(
        {"path": path, "batch_size": 12, "lanes": 6, "bundle_rows": 8, "reader_cpus": 0.25} | changed
    )
    sources = open_sources(config)
    return make_plan(config, sources, seed=1), reader_of(sources), config


def first(made: Iterator[Batch], n: int) -> list[Batch]:
    return list(itertools.islice(made, n))


#: Fields of a batch that are arrays, whatever they are.
ARRAYS = [name for name in Batch._fields if name.endswith(("_B", "_BK", "_BKL", "_BHWC"))]


def same(one: Batch, other: Batch) -> bool:
    arrays, others = ([getattr(batch, name) for name in ARRAYS] for batch in (one, other))
    return one.skipped == other.skipped and all(
        a.dtype == b.dtype and np.array_equal(a, b) for a, b in zip(arrays, others, strict=True)
    )


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_ray_reads_the_same_batches_bit_for_bit_over_any_number_of_workers(tmp_path: Path) -> None:
    plan, reader, config = small(tmp_path)
    for world, start in ((1, 0), (2, 3), (3, 8)):
        for rank in range(world):
            where = {"rank": rank, "world": world, "start_batch": start}
            with (
                batches(plan, reader, config, **where) as there,
                batches(plan, reader, config, **where, with_ray=False) as here,
            ):
                for one, other in zip(first(there, 4), first(here, 4), strict=True):
                    assert same(one, other) and one.row_valid_B.any()


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_readers_do_not_run_away(tmp_path: Path) -> None:
    plan, reader, config = small(tmp_path, look_ahead=3)
    counter = tmp_path / "reads"
    counter.touch()
    tokenize = reader.tokenize

    def counted(texts: list[str]) -> object:
        with counter.open("a") as stream:
            stream.write(".")
        return tokenize(texts)

    watched = Reader(reader.sources, reader.transform, reader.slots, counted, reader.seed)  # type: ignore[arg-type]
    stream = read_with_ray(rank_bundles(plan, 0, 1), watched, config)
    specs = [next(stream)[0] for _ in range(20)]
    assert len({(spec.lane, spec.epoch, spec.number) for spec in specs}) == 20
    time.sleep(1.5)
    read = counter.stat().st_size
    stream.close()
    assert 20 <= read <= 22


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_what_a_reader_raises_for_the_user_arrives_as_it_was(tmp_path: Path) -> None:
    plan, reader, config = small(tmp_path)

    def broken(texts: list[str]) -> list[list[int]]:
        raise InputError("rule", value="value", fix="fix")

    with (
        batches(plan, Reader(reader.sources, reader.transform, reader.slots, broken, 1), config) as made,
        pytest.raises(InputError) as raised,
    ):
        next(made)
    assert type(raised.value) is InputError and raised.value.fix == "fix"


@pytest.mark.slow
def test_a_silent_reader_fails_the_step_and_says_where(tmp_path: Path) -> None:
    plan, reader, config = small(tmp_path, timeout_s=0.3)
    stuck = threading.Event()

    def tokenize(texts: list[str]) -> list[list[int]]:
        stuck.wait(20)
        return reader.tokenize(texts)  # type: ignore[return-value]

    silent = Reader(reader.sources, reader.transform, reader.slots, tokenize, 1)
    made = batches(plan, silent, config, with_ray=False)
    threading.Timer(2.0, stuck.set).start()
    with pytest.raises(JobError, match=r"bundle 0 of lane 0, dataset 0, epoch 0"):
        next(made)
    assert 0.3 <= made.waited_s < 15


def test_a_slow_reader_that_still_reads_is_waited_for(tmp_path: Path) -> None:
    plan, reader, config = small(tmp_path, timeout_s=0.5)

    def tokenize(texts: list[str]) -> list[list[int]]:
        time.sleep(0.15)
        return reader.tokenize(texts)  # type: ignore[return-value]

    slow = Reader(reader.sources, reader.transform, reader.slots, tokenize, 1)
    with batches(plan, slow, config, with_ray=False) as made:
        assert next(made).row_valid_B.all()  # six lanes, 0.9 s, but never 0.5 s of silence
        assert made.waited_s > 0.5


def test_any_other_error_of_a_reader_arrives_and_ends_the_thread(tmp_path: Path) -> None:
    plan, reader, config = small(tmp_path)
    (tmp_path / "x.parquet").unlink()
    made = batches(plan, reader, config, with_ray=False)
    with pytest.raises(FileNotFoundError):
        next(made)
    assert not any(thread.name == "batches" and thread.is_alive() for thread in threading.enumerate())
