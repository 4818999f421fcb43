"""A user's own stage, checked before anything is written: it must fit the recipe, the store and the report.

Declarations of ours are covered by tests.  A user's would fail in a worker, or after hours in the report.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation.schema import COUNTS, DROPS, NAME, NAME_RULE
from curation.stage import SEGMENTS, Column, Segment, Stage, default_table
from curation.stages import CHOSEN_STAGES, STAGES
from pairmill.config import digest
from pairmill.errors import RecipeError, UserError
from pairmill.registry import ChosenBy
from pairmill.table_files import parquet_bytes

#: Segments whose stages run row by row, each with a table.
STREAMED: tuple[Segment, ...] = ("collect", "score", "rewrite")

#: The reason of rows that a stage failed on, with `on_error: drop`.
FAILED = "failed"

_OWN_REASONS = "have drop reasons of its own, each once"

#: Columns of every table or of the product, and beginnings and ends of columns that stages of ours add by a rule.
_RESERVED = (*DROPS, "input")
RESERVED_ENDS = ("_made_from", "_verdict")
RESERVED_BEGINNINGS = ("would_drop_",)


def own_stage(given: Any) -> Stage:
    """The stage that an entry of `stages` names, under its configuration.

    given: plain data or a configuration.  Raises RecipeError for an entry or a declaration that cannot work.
    """
    config = ChosenBy(CHOSEN_STAGES).parse(given)
    kind = CHOSEN_STAGES.get(config.name)
    _check_kind(kind)
    try:
        stage = kind(config)
    except UserError:
        raise
    except Exception as error:  # a user's code
        raise _refused(
            kind, "be made from its configuration alone", f"{type(error).__name__}: {error}", "correct its __init__"
        ) from error
    _check_columns(stage)
    _check_reasons(stage)
    if getattr(config, "on_error", "fail") == "drop":
        stage.drops = (*stage.drops, FAILED)
    try:
        digest(stage.identity())
    except UserError:
        raise
    except Exception as error:  # as above
        raise _refused(
            kind, "have an identity of plain JSON data", f"{type(error).__name__}: {error}", "correct its `identity`"
        ) from error
    return stage


def _check_kind(kind: type[Stage]) -> None:
    for attribute in ("name", "segment"):
        if not isinstance(getattr(kind, attribute, None), str):
            raise _refused(kind, f"declare `{attribute}`", getattr(kind, attribute, "nothing"), f"set {attribute}")
    if not NAME.fullmatch(kind.name):
        raise _refused(kind, f"have a name of {NAME_RULE}", repr(kind.name), "rename it")
    if kind.name in STAGES.names:
        raise _refused(kind, "have another name than the stages of every recipe", kind.name, "rename it")
    if kind.segment not in STREAMED:
        raise _refused(kind, f"have one of the segments {', '.join(STREAMED)}", kind.segment, "choose one of them")
    if kind.pool not in ("tasks", "model"):
        raise _refused(kind, "have the pool tasks or model", kind.pool, "choose one of them")
    if kind.within:
        raise _refused(
            kind, "have workers of its own", f"within = {kind.within}", "leave `within` out, and set `after`"
        )
    ours = {default_table(STAGES.get(name)) for name in STAGES.names}
    if kind.table and (kind.table in ours or not re.fullmatch(rf"columns/{NAME.pattern}", kind.table)):
        raise _refused(kind, "have a table columns/NAME of its own", kind.table, "leave `table` out")
    if isinstance(kind.shards_at_once, bool) or not isinstance(kind.shards_at_once, int) or kind.shards_at_once < 1:
        raise _refused(kind, "work on 1 or more shards at once", kind.shards_at_once, "correct `shards_at_once`")
    if kind.__call__ is Stage.__call__:
        raise _refused(kind, "define __call__", "no such method", "write def __call__(self, rows): …")


def _check_columns(stage: Stage) -> None:
    for attribute in ("reads", "optional", "looks_at"):
        _check_names(stage, attribute, getattr(stage, attribute))
    if not isinstance(stage.adds, list | tuple) or not all(isinstance(column, Column) for column in stage.adds):
        raise _refused(stage, "declare `adds` as a tuple of Column", repr(stage.adds), "write adds = (Column(…),)")
    ours = {column.name for name in STAGES.names for column in STAGES.get(name).adds} | set(_RESERVED)
    for column in stage.adds:
        if not (isinstance(column.name, str) and NAME.fullmatch(column.name)):
            raise _refused(stage, f"add columns with names of {NAME_RULE}", repr(column.name), "rename the column")
        if not isinstance(column.type, pa.DataType):
            raise _refused(stage, f"give {column.name} a type of pyarrow", repr(column.type), "write pa.float32(), …")
        if (kept := _stored(column.type)) != column.type:
            raise _refused(
                stage,
                f"give {column.name} a type that a Parquet file keeps",
                f"{column.type}, which {f'becomes {kept}' if kept else 'cannot be stored'}",
                f"declare it as {kept}" if kept else "choose another type, such as a list or a struct of numbers",
            )
        reserved = column.name.startswith(RESERVED_BEGINNINGS) or column.name.endswith(RESERVED_ENDS)
        if column.name in ours or reserved:
            raise RecipeError(
                "every column must be added by one stage only",
                value=f"{stage.name} adds {column.name}, a name that pairmill uses itself",
                fix="give the column another name",
            )
    if not stage.adds and not stage.drops:
        raise _refused(stage, "add columns or drop rows", "adds and drops are empty", "declare them")


def _stored(kind: pa.DataType) -> pa.DataType | None:
    """What a type becomes when its values are dropped, taken and stored as all tables are; None if they cannot be."""
    empty = pa.nulls(0, kind)
    try:
        pc.if_else(pa.array([], pa.bool_()), empty, pa.scalar(None, kind))
        empty.take(pa.array([], pa.int64()))
        written = parquet_bytes(pa.table({"column": empty}))
    except pa.ArrowException:
        return None
    found: pa.DataType = pq.read_schema(pa.BufferReader(written)).field("column").type
    return found


def _check_reasons(stage: Stage) -> None:
    _check_names(stage, "drops", stage.drops)
    ours = {reason for name in STAGES.names for reason in STAGES.get(name).drops}
    for reason in stage.drops:
        if not NAME.fullmatch(reason):
            raise _refused(stage, f"have drop reasons of {NAME_RULE}", repr(reason), "rename the reason")
        if reason in (*ours, *COUNTS) or stage.drops.count(reason) > 1:
            raise _refused(stage, _OWN_REASONS, reason, "rename the reason")


def _check_names(stage: Stage, attribute: str, names: object) -> None:
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise _refused(
            stage, f"declare `{attribute}` as a tuple of names", repr(names), f'write {attribute} = ("name",)'
        )


def check_places(stages: Sequence[Stage]) -> None:
    """Raise RecipeError for stages that could not run in this order: that of the segments, each table in one piece."""
    counted = {table for stage in stages if stage.name in STAGES.names for table in stage.counted}
    tables: list[str] = []
    names: list[str] = []
    reasons: set[str] = set()
    rank = 0
    for stage in stages:
        if SEGMENTS.index(stage.segment) < rank:
            raise _refused(
                stage, "follow a stage of its own segment", f"after = {stage.after}", "correct `after` or `segment`"
            )
        rank = SEGMENTS.index(stage.segment)
        table = stage.table_name
        if table in tables[:-1]:
            raise RecipeError(
                f"no stage must come between those that fill {table}",
                value=f"{names[-1]} comes before {stage.name}",
                fix=f"set the `after` of {names[-1]} to {stage.name}",
            )
        if table not in tables:
            tables.append(table)
        for name in stage.looks_at:
            if name not in names:
                raise _refused(stage, "look at stages before it only", name, "correct `looks_at`")
        for name in stage.counted:
            if name not in counted:
                raise _refused(stage, "count on tables that the recipe makes", name, "leave `counted` out")
        if stage.name not in STAGES.names:
            if twice := reasons & set(stage.drops):
                raise _refused(stage, _OWN_REASONS, min(twice), "rename the reason")
            reasons |= set(stage.drops)
        names.append(stage.name)


def _refused(stage: Stage | type[Stage], rule: str, value: object, fix: str) -> RecipeError:
    kind = stage if isinstance(stage, type) else type(stage)
    return RecipeError(f"the stage {kind.__module__}:{kind.__qualname__} must {rule}", value=value, fix=fix)
