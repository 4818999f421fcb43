"""An engine whose process dies of a request: that request fails, and nothing else is lost."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from neighbourly import Neighbourly
from test_asking import captioner, planned, table

from curation.engines import Answered, Failure, Generated
from curation.engines.begun_calls import FATAL
from curation.engines.model_files import PROJECT_ROOT
from curation.recaption import Recaption
from curation.stage import Runtime


class Deadly(Neighbourly):
    """Its process dies as soon as it computes one of some requests."""

    deadly: Sequence[str] = ()

    def _written(self, lines: list[str], batches: list[list[int]], answered: Answered) -> list[Generated | Failure]:
        made: dict[int, Generated | Failure] = {}
        for batch in batches:
            if {lines[at] for at in batch} & {*self.deadly}:
                os.kill(os.getpid(), signal.SIGKILL)

            def report(places: Sequence[int], answers: Sequence[Generated | Failure], own: list[int] = batch) -> None:
                there = [own[place] for place in places]
                made.update(zip(there, answers, strict=True))
                answered(there, answers)

            super()._written([lines[at] for at in batch], [list(range(len(batch)))], report)
        return [made[at] for at in range(len(lines))]


@pytest.fixture(autouse=True)
def at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PROJECT_ROOT)


class Job:
    """A run whose worker is started again whenever it dies, each time in a process of its own."""

    def __init__(self, folder: Path, deadly: Sequence[str]) -> None:
        self.engine, self.folder = Deadly(folder / "paid"), folder
        self.engine.deadly = deadly
        self.store, self.out = planned(folder / "run"), folder / "out.parquet"

    def started(self, job: str, rows: pa.Table) -> bool:
        """Start a worker of a job; whether it lives until the rows are done."""
        child = os.fork()
        if not child:
            code = 1
            try:
                stage: Recaption = captioner(self.engine, None)
                stage.setup(Runtime(self.store, job=job))
                pq.write_table(stage(rows), self.out)
                code = 0
            finally:
                os._exit(code)
        ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert ended in (0, -signal.SIGKILL)
        return ended == 0

    def deaths(self, jobs: Iterator[str], rows: pa.Table, most: int) -> int:
        """How often a worker dies before one gets through; one more than `most` if none does."""
        return next((number for number in range(most + 1) if self.started(next(jobs), rows)), most + 1)


def same() -> Iterator[str]:
    while True:
        yield "one"


def test_the_request_that_kills_is_found_and_fails_alone(tmp_path: Path) -> None:
    rows = table(range(10, 20))
    plain = captioner(Neighbourly(tmp_path / "plain"), None)(rows)
    job = Job(tmp_path, ["one 13"])
    # The first one takes the batch before along, which was not kept yet.
    assert job.deaths(same(), rows, 9) in (3, 4)
    out = pq.read_table(job.out)
    assert out["recaption_error"].to_pylist() == [None] * 3 + [f"one: {FATAL}"] + [None] * 6
    assert out["recaption_status"].to_pylist() == ["success"] * 10  # the other prompts of that row have their texts

    def texts(found: pa.Table) -> list[list[str]]:
        return [[text["text"] for text in row] for row in found["recaptions"].to_pylist()]

    expected = texts(plain)
    del expected[3][0]
    assert texts(out) == expected
    # No other batch was computed alone, so its scores are those of a run without a death.
    assert out["recaptions"].slice(6).equals(plain["recaptions"].slice(6))
    # The shard was not committed yet, and does not die of that request again.
    assert job.started("one", rows)
    assert pq.read_table(job.out).equals(out)


def test_another_job_asks_once_more_and_last(tmp_path: Path) -> None:
    rows = table(range(10, 20))
    job = Job(tmp_path, ["one 13"])
    job.deaths(same(), rows, 9)
    assert job.deaths(iter(["next"] * 9), rows, 9) == 1
    assert pq.read_table(job.out)["recaption_error"].null_count == 9
    job.engine.deadly = ()
    before = len(job.engine.paid())
    assert job.started("the last", rows)
    assert job.engine.paid()[before:] == ["one 13"]
    assert pq.read_table(job.out)["recaption_error"].null_count == 10
    assert not list((tmp_path / "run").rglob("begun/*/*.json"))


def test_two_of_one_batch_and_one_of_another_are_found(tmp_path: Path) -> None:
    rows = table(range(10, 20))
    job = Job(tmp_path, ["one 11", "one 12", "three 18"])
    assert job.deaths(same(), rows, 9) in (7, 8, 9)
    lost = [at for at, error in enumerate(pq.read_table(job.out)["recaption_error"].to_pylist()) if error is not None]
    assert lost == [1, 2, 8]


def test_jobs_that_are_stopped_and_run_again_have_the_batches_they_had(tmp_path: Path) -> None:
    rows = table(range(10, 20))
    plain = captioner(Neighbourly(tmp_path / "plain"), None)(rows)
    job = Job(tmp_path, ["one 13"])
    assert job.deaths((f"job {number}" for number in count()), rows, 5) == 6
    job.engine.deadly = ()
    assert job.started("the last", rows)
    assert pq.read_table(job.out)["recaptions"].equals(plain["recaptions"])


def test_what_is_found_is_remembered_by_the_next_job(tmp_path: Path) -> None:
    rows = table(range(10, 20))
    job = Job(tmp_path, ["one 11", "one 13"])
    assert job.deaths(same(), rows, 2) == 3  # it gives up
    assert job.deaths(iter(["next"] * 9), rows, 9) <= 4
    assert pq.read_table(job.out)["recaption_error"].null_count == 8
