"""Duplicates of rows of other runs: which runs take part, and how their rows rank among those of this one.

A row of another run takes part as any row does, and is better than every row of this run.  So a family with one of
them keeps no row of this run.  The reason of a row whose family has its best row elsewhere is `KIND_elsewhere`, KIND
the kind that joins it to a better row, there or here; what stays instead is NAME:UID, of the row of the run NAME.
"""

from __future__ import annotations

import sys
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BeforeValidator, Field, field_validator

from curation.schema import set_columns
from pairmill.config import Config
from pairmill.uris import absolute_in_recipe

#: What the reasons of rows that go for a row of another run end in.
ELSEWHERE = "_elsewhere"

#: What stands between the name of a run and the uid of its row; no uid of this run has it.
_OF = ":"


class OtherRunConfig(Config):
    """A curated run whose rows are not to be had twice."""

    run: str = Field(min_length=1, description="its run directory, a local path or an address")
    selection: str = Field("default", description="which of its rows count: a selection of that run")

    @field_validator("run")
    @classmethod
    def _a_place(cls, value: str) -> str:
        absolute_in_recipe(value, "against of a selection", "name run directories that can be reached")
        return value


def _mapping(value: Any) -> Any:
    return {"run": value} if isinstance(value, str) else value


#: A run as a recipe may give it: a path alone is its `run`.
OtherRun = Annotated[OtherRunConfig, BeforeValidator(_mapping, json_schema_input_type=str | OtherRunConfig)]


def named_for(name: str, uids: pa.ChunkedArray) -> pa.ChunkedArray:
    """The uids of rows of the other run of this name, which are unlike any of this run."""
    return pc.binary_join_element_wise(name, uids, _OF)


def of_other_runs(uids: pa.ChunkedArray) -> pa.ChunkedArray:
    """Mask of the uids that `named_for` made."""
    return pc.match_substring(uids, _OF)


def own_uids(uids: pa.ChunkedArray) -> pa.ChunkedArray:
    """The uids that the rows have in their own runs."""
    return pc.replace_substring_regex(uids, rf"^.*{_OF}", "")


def best_elsewhere(rows: pa.Table) -> pa.Table:
    """The rows with a `score` (float64) by which one of another run is better than any of this run.

    rows: uid and score.  Among several of other runs the uid decides, as anywhere.  An infinite score of this run
    counts as the largest number.
    """
    score = pc.if_else(pc.equal(rows["score"], float("inf")), sys.float_info.max, rows["score"])
    return set_columns(rows, {"score": pc.if_else(of_other_runs(rows["uid"]), float("inf"), score)})


def reasons_elsewhere(losers: pa.Table) -> pa.Table:
    """The rows that have duplicates, their reason that of `ELSEWHERE` where a row of another run stays.

    losers: reason, and survivor, the uid of the row that stays.
    """
    elsewhere = pc.binary_join_element_wise(losers["reason"], ELSEWHERE, "")
    return set_columns(losers, {"reason": pc.if_else(of_other_runs(losers["survivor"]), elsewhere, losers["reason"])})
