"""Rows are forgotten while another process reads them: what it writes has none of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from forgotten_run import WANTED, Made, killed
from traces import traces

from curation.results import export, report, rows
from pairmill.errors import RunDirError
from pairmill.store import Store
from pipelines.forget import forget
from training.data.source import open_source

pytestmark = pytest.mark.slow


def once(made: Made) -> Callable[[], None]:
    """What forgets the rows when it is first called."""
    todo = [lambda: forget(made.store, WANTED, sure=True)]

    def call() -> None:
        if todo:
            todo.pop()()

    return call


def test_a_report_that_was_begun_before_shows_none_of_them(
    made: Made, needles: set[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    forgets, thumbnails = once(made), report.thumbnails

    def late(*given: Any) -> Any:
        shown = thumbnails(*given)
        forgets()
        return shown

    monkeypatch.setattr(report, "thumbnails", late)
    report.write_report(made.store)
    files = [made.folder / "run" / name for name in report.REPORTS]
    assert all(file.exists() for file in files)
    assert traces(files, needles) == {}


def test_a_report_is_not_written_while_a_killed_forgetting_waits(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    thumbnails = report.thumbnails

    def late(*given: Any) -> Any:
        shown = thumbnails(*given)
        killed(made, tmp_path, "forget.shard_rewritten")
        return shown

    monkeypatch.setattr(report, "thumbnails", late)
    with pytest.raises(RunDirError, match="must be completed before"):
        report.write_report(made.store)
    assert not any((made.folder / "run" / name).exists() for name in report.REPORTS)


def test_a_file_of_rows_that_was_begun_before_is_not_written(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    forgets, pieces = once(made), rows._pieces

    def late(run: Any) -> Iterator[Any]:
        yield from pieces(run)
        forgets()

    monkeypatch.setattr(rows, "_pieces", late)
    to = made.folder / "new" / "rows.parquet"
    with pytest.raises(RunDirError, match="no row must be forgotten while"):
        rows.write_rows(made.store, to)
    assert list(to.parent.iterdir()) == []
    assert rows.write_rows(made.store, to) == 40


@pytest.mark.parametrize("write", [export.export_webdataset, export.export_img2dataset])
def test_an_export_that_was_begun_before_is_removed(
    made: Made, monkeypatch: pytest.MonkeyPatch, write: Callable[..., list[Path]]
) -> None:
    forgets, pieces = once(made), export._pieces

    def late(store: Store, rows_per_shard: int) -> Iterator[Any]:
        for piece in pieces(store, rows_per_shard):
            yield piece
            if piece[0] == 1:  # the second file: the first is complete
                forgets()

    monkeypatch.setattr(export, "_pieces", late)
    to = made.folder / "new"
    with pytest.raises(RunDirError, match="no row must be forgotten while"):
        write(made.store, to, rows_per_shard=6)
    assert not to.exists()
    assert write(made.store, to, rows_per_shard=6)


@pytest.mark.parametrize("selection", [None, "default"])
def test_training_does_not_read_rows_that_remain_to_be_taken_out(
    made: Made, tmp_path: Path, selection: str | None
) -> None:
    assert open_source(made.store.uri, selection).pieces
    killed(made, tmp_path, "forget.tombstones.after_rename")
    with pytest.raises(RunDirError, match="must be completed before"):
        open_source(made.store.uri, selection)
