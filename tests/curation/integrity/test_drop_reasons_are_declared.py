"""A row is dropped for a reason that its stage declares: each reason is of one stage, and known to the report."""

from __future__ import annotations

import pyarrow as pa
import pytest

from curation.flow import flow_of
from curation.schema import drop
from pairmill.errors import IntegrityError

FLOW = flow_of({name: {"model": "m", "enabled": True} for name in ("recaption", "translate")})
NOTHING = pa.nulls(2, pa.string())
ROWS = pa.table({"uid": ["a", "b"], "drop_stage": NOTHING, "drop_reason": NOTHING})
MASK = pa.array([True, False])


@pytest.mark.parametrize("name", FLOW.order)
def test_no_stage_drops_for_an_unknown_reason(name: str) -> None:
    stage = FLOW.named(name)
    with pytest.raises(IntegrityError, match=f"no_such_reason.*{name}|{name}.*no_such_reason"):
        stage.drop(ROWS, no_such_reason=MASK)
    for reason in stage.drops:
        assert stage.drop(ROWS, **{reason: MASK})["drop_reason"].to_pylist() == [reason, None]


def test_nor_for_one_of_another_stage() -> None:
    with pytest.raises(IntegrityError, match=r"(?=.*inspect)(?=.*nsfw)(?=.*not_an_image)"):
        drop(ROWS, "inspect", {"nsfw": MASK}, FLOW.named("inspect").drops)


def test_a_reason_is_unknown_even_if_no_row_is_dropped_for_it() -> None:
    with pytest.raises(IntegrityError, match="nsfw"):
        drop(ROWS, "pack", {"nsfw": pa.array([False, False])}, ())
