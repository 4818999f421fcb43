"""The command `forget`: complete what was interrupted, report what would be done, and do it on request."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from curation.forget.request import Request
from curation.forget.takedown import Preview, begin, complete, preview
from curation.forget.tombstones import Tombstones
from pairmill.errors import UserError
from pairmill.store import Store

#: The most pictures named of those that other rows show too.
_NAMED = 3
#: The most files of a kind that are named on a line.
_LISTED = 10


def forget(store: Store, wanted: Request, also: Sequence[Path] = (), *, sure: bool = False) -> dict[str, Any]:
    """What was taken out of a run, or (if not `sure`) would be; as plain data.

    An interrupted call is completed first.  Otherwise, if not `sure`, the run is only read, and may be in use.
    Raises RunDirError if the run is in use or nothing is planned there, UserError if nothing is requested, for a copy
    that cannot be read, and (when all else is done) for one that could not be cleaned.
    """
    pending = bool(Tombstones.read(store).work)
    if not (wanted or also or pending):
        raise UserError(
            "forget must be given what to forget",
            value="no row, URL, host or picture, and no copy",
            fix="give --uid, --url, --host, --sha256, a file of these with --from, or a copy with --also",
        )
    with store.locked() if sure or pending else nullcontext():
        completed = complete(store) if sure or pending else None
        # What has just been found gone or unreadable is reported, and not tried again.
        tried = {*completed.gone, *completed.failed} if completed else set()
        planned = preview(store, wanted, [place for place in also if str(place.absolute()) not in tried])
        something = bool(planned.found.rows or planned.rules or planned.copies)
        done = None
        if sure and something:
            begin(store, planned)
            done = complete(store)
    ended = [one for one in (completed, done) if one is not None]
    if failed := [f"{copy} ({why})" for one in ended for copy, why in one.failed.items()]:
        raise UserError(
            "every copy that --also names, and every cache of generations, must be readable and writable",
            value=f"the rows are out of the run, but not out of {', '.join(failed)}",
            fix=f"delete or repair these copies; to clean one later: `pairmill forget {store.uri} --also COPY --yes`; "
            "a cache must be deleted",
        )
    return {
        "done": sure or not something,
        "completed": completed.rows if completed else None,
        "copies_gone": [copy for one in ended for copy in one.gone],
        **_as_data(planned),
    }


def _as_data(planned: Preview) -> dict[str, Any]:
    found = planned.found
    return {
        "rows": found.rows,
        "rows_kept": found.kept,
        "already_forgotten": found.already,
        "rules": planned.rules,
        "shards": len(planned.shards),
        "parts": len(planned.parts),
        "bytes": planned.bytes,
        "copies": [{"path": str(copy.path), "rows": copy.rows} for copy in planned.copies],
        "same_picture": found.same_picture,
        "sha256s": list(found.sha256s),
        "same_url": found.same_url,
        "lost": list(planned.lost) if found.rows else [],
        "recomputed": list(planned.unkeyed) if found.rows else [],
        "not_looked_into": list(planned.strays),
        "named_in": list(planned.mentions),
    }


def lines(done: dict[str, Any]) -> list[str]:
    """The same as lines of text."""
    shown = []
    if done["completed"] is not None:
        shown.append(f"completed what was interrupted: {_count(done['completed'], 'row')}")
    if done["copies_gone"]:
        shown.append(f"these copies are gone and were not cleaned: {', '.join(done['copies_gone'])}")
    if done["rows"] or done["copies"]:
        verb = "forgotten" if done["done"] else "would be forgotten"
        files = f"{_count(done['shards'], 'shard')}, {_count(done['parts'], 'part')}"
        files += f" and {_count(len(done['copies']), 'file')} of copies"
        kept, size = f"{done['rows_kept']:,} of pairs/", f"{done['bytes'] / 2**20:,.1f} MiB"
        shown.append(f"{_count(done['rows'], 'row')} {verb}, {kept}: {files} rewritten, {size}")
    elif done["completed"] is None:
        shown.append("no row was found that is still there")
    if done["rules"]:
        shown.append(f"{_count(done['rules'], 'tombstone')} for rows added later, too")
    if done["same_picture"]:
        named = " ".join(f"--sha256 {sha}" for sha in done["sha256s"][:_NAMED])
        more = " …" if len(done["sha256s"]) > _NAMED else ""
        shown.append(
            f"{_count(done['same_picture'], 'other row')} of the same pictures stay; the next curate may keep one "
            f"in place of a row that is gone.  To take them out too: {named}{more}"
        )
    if done["same_url"]:
        shown.append(f"{_count(done['same_url'], 'other row')} of the same URLs stay.  To take them out too: --url")
    for key, what in (
        ("lost", "the code of these is missing here, so what they made was found by the columns of its files"),
        ("recomputed", "what makes these is missing here, so the next curate makes the rewritten shards again"),
        ("named_in", "these files name a URL of the rows; change them by hand"),
        ("not_looked_into", "these are not part of the run, not finished, or of another kind, and were not searched"),
    ):
        if done[key]:
            unnamed = len(done[key]) - _LISTED
            shown.append(f"{what}: {', '.join(done[key][:_LISTED])}" + (f" and {unnamed} more" if unnamed > 0 else ""))
    return shown


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"
