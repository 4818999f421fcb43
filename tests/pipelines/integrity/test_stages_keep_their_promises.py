"""What a stage returns is held against what it declares: a user's own stage cannot lose a row either."""

from __future__ import annotations

import math
from typing import ClassVar

import pyarrow as pa
import pytest

from curation.schema import set_columns
from curation.stage import Column, Stage, StageConfig
from pairmill.errors import IntegrityError
from pipelines.stages.row_stage import check_work, without_dropped


class Careless(Stage):
    """Breaks one promise, by name."""

    name, segment = "careless", "score"
    adds = (Column("number", pa.int32()),)
    drops = ("odd",)
    broken: ClassVar[str] = ""

    def __call__(self, rows: pa.Table) -> pa.Table:
        numbers = pa.array(range(len(rows)), pa.int64() if self.broken == "type" else pa.int32())
        made = set_columns(rows, {} if self.broken == "column" else {"number": numbers})
        if self.broken == "nothing":
            return None  # type: ignore[return-value]
        if self.broken == "twice":
            return made.append_column("number", numbers)
        if self.broken == "lost":
            return made.drop_columns(["score"])
        if self.broken == "undeclared":
            return made.append_column("more", numbers)
        if self.broken == "value":
            return set_columns(made, {"score": pa.array([math.nan, 0.5])})
        if self.broken == "pixels":
            return set_columns(made, {"image": pa.array([b"1", b"3"])})
        if self.broken == "column type":
            return set_columns(made, {"image": made["image"].cast(pa.large_binary())})
        if self.broken == "shard":
            return set_columns(made, {"_shard": pa.array([2, 2])})
        if self.broken == "rows":
            return made.slice(1)
        if self.broken == "order":
            return made.take(pa.array([1, 0]))
        if self.broken == "revived":
            return set_columns(made, {"drop_reason": pa.nulls(len(rows), pa.string())})
        if self.broken == "moved":
            return set_columns(made, {"drop_stage": pa.array([None, "careless"])})
        if self.broken == "reason":
            return set_columns(made, {"drop_reason": pa.array(["even", "nsfw"])})
        if self.broken == "stage":
            return set_columns(
                made, {"drop_reason": pa.array(["odd", "nsfw"]), "drop_stage": pa.array(["another", "filter"])}
            )
        return made


DROPPED = pa.array([None, "filter"], pa.string())
ROWS = pa.table(
    {
        "uid": ["a", "b"],
        "image": [b"1", b"2"],
        "score": [math.nan, 0.25],
        "_shard": [1, 1],
        "drop_stage": DROPPED,
        "drop_reason": pa.array([None, "nsfw"], pa.string()),
    }
)


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        ("nothing", r"must return a pyarrow\.Table; found: NoneType"),
        ("twice", "must return each column once; found twice: number"),
        ("lost", "must return the columns it was given; missing: score"),
        ("undeclared", "must declare the columns that it adds; found: more"),
        ("value", "must leave columns that it does not add as they are; changed: score"),
        ("pixels", "must leave columns that it does not add as they are; changed: image"),
        ("column type", "must leave columns that it does not add as they are; changed: image"),
        ("shard", "must leave columns that it does not add as they are; changed: _shard"),
        ("rows", "must return the rows it was given"),
        ("order", "must return the rows it was given"),
        ("type", r"must add the column number of type int32.*found: int64"),
        ("column", r"must add the column number.*found: no such column"),
        ("revived", "the drop_reason of rows that were dropped before it"),
        ("moved", "the drop_stage of rows that were dropped before it"),
        ("reason", r"must drop rows .*reasons that it declares.*found: even"),
        ("stage", r"must drop rows .*reasons that it declares.*found: another"),
    ],
)
def test_what_a_stage_promised_is_held_against_what_it_did(
    monkeypatch: pytest.MonkeyPatch, broken: str, says: str
) -> None:
    stage = Careless(StageConfig(name="careless"))
    check_work(stage, ROWS, stage(ROWS))
    monkeypatch.setattr(Careless, "broken", broken)
    with pytest.raises(IntegrityError, match=says):
        check_work(stage, ROWS, stage(ROWS))


def test_columns_that_were_copied_or_cut_otherwise_are_unchanged() -> None:
    stage = Careless(StageConfig(name="careless"))
    copied = ROWS.take(pa.array([0, 1]))
    check_work(stage, ROWS, stage(copied))
    check_work(stage, ROWS, stage(pa.concat_tables([copied.slice(0, 1), copied.slice(1)])))


class Thorough(Careless):
    """Fills every row, and drops none."""

    drops = ()


def test_a_stage_without_drops_that_fills_every_row_keeps_nothing_of_dropped_rows() -> None:
    stage = Thorough(StageConfig(name="thorough"))
    assert without_dropped(stage, stage(ROWS))["number"].to_pylist() == [0, None]
    kept = Careless(StageConfig(name="careless"))
    assert without_dropped(kept, kept(ROWS))["number"].to_pylist() == [0, 1]


class Contradictory(Thorough):
    """Says that it worked on what has no result."""

    def left_alone(self, rows: pa.Table) -> pa.Array:
        return pa.array([False] * len(rows))


def test_left_alone_and_the_columns_must_agree() -> None:
    stage = Contradictory(StageConfig(name="contradictory"))
    with pytest.raises(IntegrityError, match="`left_alone` of stage careless must be true"):
        without_dropped(stage, stage(ROWS))


def test_a_reason_that_it_does_not_declare_is_refused_at_once() -> None:
    stage = Careless(StageConfig(name="careless"))
    with pytest.raises(IntegrityError, match=r"(?=.*careless)(?=.*even)(?=.*odd)"):
        stage.drop(ROWS, even=pa.array([True, False]))
