"""Exports and other copies of the product: what --also may name, and what becomes of them."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from forgotten_run import (
    GONE,
    URLS,
    WANTED,
    Made,
    state,
)
from traces import of_rows, traces

from curation.forget.request import Request
from pairmill.errors import UserError
from pipelines.forget import forget


def test_a_copy_that_cannot_be_cleaned_is_refused_before_anything_is(made: Made) -> None:
    pq.write_table(pa.table({"url": [URLS[0]]}), made.folder / "own.parquet")
    before = state(made.folder / "run")
    for place, rule in (
        (made.folder / "own.parquet", "must have its uid"),
        (made.folder / "none", "must name an export"),
    ):
        with pytest.raises(UserError, match=rule):
            forget(made.store, WANTED, [place], sure=True)
    assert state(made.folder / "run").keys() == before.keys()


def test_a_copy_may_be_named_later(made: Made) -> None:
    forget(made.store, WANTED, sure=True)
    needles = of_rows(made.folder / "parquet", GONE)
    assert needles
    done = forget(made.store, Request(), made.copies, sure=True)
    assert (done["rows"], len(done["copies"])) == (0, 5)
    assert traces([made.folder], needles) == {}
    assert not forget(made.store, WANTED, made.copies, sure=True)["copies"]
