"""A stage whose results are kept says which of them are outdated: else old results would stand for new rows."""

from __future__ import annotations

import pyarrow as pa
import pytest

from curation.flow import flow_of
from curation.reuse import to_be_made
from curation.stage import Column, Stage, StageConfig
from pairmill.errors import IntegrityError


class Fetches(Stage):
    """Keeps what it fetched, and says nothing on what is outdated."""

    name, segment, pool = "fetches", "score", "fetch"
    adds = (Column("fetched", pa.int32()),)


def test_a_stage_that_does_not_say_it_is_stopped() -> None:
    nothing = pa.nulls(1, pa.string())
    rows = pa.table({"uid": ["a"], "fetched": pa.array([1], pa.int32()), "drop_stage": nothing, "drop_reason": nothing})
    stage = Fetches(StageConfig(name="fetches"))
    with pytest.raises(IntegrityError, match=r"stage fetches must .* outdated"):
        to_be_made(stage, rows, "digest")


def test_every_stage_of_ours_that_fetches_or_holds_a_model_says_it() -> None:
    flow = flow_of({name: {"model": "m", "enabled": True} for name in ("recaption", "translate")})
    kept = [stage for stage in flow.stages if stage.pool in ("fetch", "model")]
    assert [stage.name for stage in kept] == ["download", "recaption", "translate"]
    for stage in kept:
        assert stage.made_from is not None or type(stage).outdated is not Stage.outdated, stage.name
