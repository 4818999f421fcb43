"""What a forgotten row looks like: its uid and its place, and nothing else that was known of it.

Each file gives its own columns, so those of a user's stages, of inactive stages and of every selection are blanked
too.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation.schema import DROPS, FORGOTTEN, set_columns
from curation.table import PLAN
from pairmill.layout import SELECTIONS

#: The stage that drops a forgotten row.
_STAGE = "plan"


def blanked(rows: pa.Table, mask: pa.Array) -> pa.Table:
    """Planned rows, those of `mask` without URL, text and the list's own columns, dropped by the plan as forgotten."""
    rows = set_columns(rows, {name: pc.if_else(mask, "", rows[name]) for name in ("url", "alt")})
    return _dropped(_nulled(rows, mask, ["input"]), mask)


def change_of(table: str, uids: Collection[str]) -> Callable[[pa.Table], pa.Table]:
    """The change to the rows of a table (by its name in the store) when the rows with these uids are forgotten."""
    asked = pa.array(sorted(uids), pa.string())

    def change(rows: pa.Table) -> pa.Table:
        mask = pc.is_in(rows["uid"], asked).combine_chunks()
        if table == PLAN:
            return blanked(rows, mask)
        if table.startswith(f"{SELECTIONS}/"):
            keep, reason = pc.if_else(mask, False, rows["keep"]), pc.if_else(mask, FORGOTTEN, rows["reason"])
            rows = _nulled(rows, mask, [name for name in rows.schema.names if name != "uid"])
            return set_columns(rows, {"keep": keep, "reason": reason})
        return _dropped(_nulled(rows, mask, [name for name in rows.schema.names if name != "uid"]), mask)

    return change


def _dropped(rows: pa.Table, mask: pa.Array) -> pa.Table:
    values = {name: value for name, value in zip(DROPS, (_STAGE, FORGOTTEN), strict=True) if name in rows.schema.names}
    return set_columns(rows, {name: pc.if_else(mask, value, rows[name]) for name, value in values.items()})


def _nulled(rows: pa.Table, mask: pa.Array, names: Iterable[str]) -> pa.Table:
    """The rows, null where `mask` is true in those of the columns that exist."""
    places = pa.array(np.arange(len(rows)), mask=np.asarray(mask))
    return set_columns(rows, {name: rows[name].take(places) for name in names if name in rows.schema.names})
