"""Rows that the report shows as a picture with its caption and little else: of thresholds, duplicates and clusters."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from curation.filters.stage import input_columns
from curation.flow import Flow
from curation.results.data import Pick
from curation.results.outcome import Outcome, Run, read_outcome
from curation.results.withheld import Withheld
from curation.schema import set_columns
from curation.table import PLAN
from pairmill.redaction import redact
from pairmill.store import shard_file

#: Shards of a run whose pictures are shown beside thresholds, evenly chosen: a shard's pictures are read as a whole.
MOST_SHARDS = 64

#: Pixels of the longer side of such a picture.
SIDE = 160

_CHARACTERS = 200
_PLANNED = ("uid", "url", "alt")


def columns_to_read(run: Run, names: Iterable[str]) -> list[str]:
    """What `read_outcome` must be asked for so that `with_own` gives these columns, by their names in expressions."""
    own = run.store.schema(shard_file(PLAN, next(iter(run.plan.shard_numbers())))).names if run.plan.shards else []
    found = dict.fromkeys(name for name in names if name in run.tables.flow.owners or name in _PLANNED)
    if "input" in own and any(name not in found for name in names):
        found["input"] = None
    return list(found)


def with_own(rows: pa.Table) -> pa.Table:
    """The rows, with the list's own columns as expressions name them."""
    return set_columns(rows, input_columns(rows))


def alive_before(flow: Flow, rows: pa.Table) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """The rows that no stage before the selection dropped, [rows]."""
    before = {*flow.before(flow.selecting.name)}
    return np.array([stage not in before for stage in rows["drop_stage"].to_pylist()], np.bool_)


def pictured(run: Run) -> Collection[int]:
    """The shards from which rows are shown beside thresholds; all of a run that has few."""
    numbers = list(run.plan.shard_numbers())
    step = max(1.0, len(numbers) / MOST_SHARDS)
    return {numbers[int(at * step)] for at in range(min(len(numbers), MOST_SHARDS))}


def read_shown(run: Run, picks: Iterable[Pick], withheld: Withheld) -> dict[Pick, dict[str, Any]]:
    """What is shown of some rows: plain data."""
    wanted: dict[int, list[Pick]] = {}
    for pick in dict.fromkeys(picks):
        wanted.setdefault(pick.shard, []).append(pick)
    columns = columns_to_read(run, [*withheld.columns, "url", "alt", "width", "height", "caption", "language"])
    found = {}
    for shard, here in sorted(wanted.items()):
        outcome: Outcome = read_outcome(run, shard, columns)
        rows = with_own(outcome.rows.take(pa.array([pick.row for pick in here])))
        hidden = withheld.mask(rows).tolist()
        for pick, row, unsafe in zip(here, rows.to_pylist(), hidden, strict=True):
            found[pick] = _entry(pick, row, unsafe)
    return found


def _entry(pick: Pick, row: Mapping[str, Any], unsafe: bool) -> dict[str, Any]:
    text = row.get("caption") or row["alt"] or ""
    return {
        **pick._asdict(),
        "text": text if len(text) <= _CHARACTERS else text[: _CHARACTERS - 1] + "…",
        "url": redact(row["url"])[:_CHARACTERS],
        **{name: row.get(name) for name in ("language", "width", "height", "drop_stage", "drop_reason")},
        "withheld": unsafe,
        "side": SIDE,
    }
