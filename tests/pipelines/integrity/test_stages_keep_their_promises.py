"""What a stage returns is held against what it declares: a user's own stage cannot lose a row either."""

from __future__ import annotations

from typing import ClassVar

import pyarrow as pa
import pytest

from curation.schema import set_columns
from curation.stage import Column, Stage, StageConfig
from pairmill.errors import IntegrityError
from pipelines.stages.row_stage import check_work


class Careless(Stage):
    """Breaks one promise, by name."""

    name, segment = "careless", "score"
    adds = (Column("number", pa.int32()),)
    drops = ("odd",)
    broken: ClassVar[str] = ""

    def __call__(self, rows: pa.Table) -> pa.Table:
        numbers = pa.array(range(len(rows)), pa.int64() if self.broken == "type" else pa.int32())
        made = set_columns(rows, {} if self.broken == "column" else {"number": numbers})
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
ROWS = pa.table({"uid": ["a", "b"], "drop_stage": DROPPED, "drop_reason": pa.array([None, "nsfw"], pa.string())})


@pytest.mark.parametrize(
    ("broken", "says"),
    [
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


def test_a_reason_that_it_does_not_declare_is_refused_at_once() -> None:
    stage = Careless(StageConfig(name="careless"))
    with pytest.raises(IntegrityError, match=r"(?=.*careless)(?=.*even)(?=.*odd)"):
        stage.drop(ROWS, even=pa.array([True, False]))
