"""Rewrite committed shards in place, to remove what must go: pixels, URLs, texts.

    note -> data -> new manifest -> old manifest gone -> note gone

A shard always has a commit on the way, because a shard without one is processed again: its URLs would be fetched.
Tables made from the shard that were up to date stay so: they are keyed by the shard's new content.  Tables are
rewritten from the last to the first, so that a killed rewriting finds the same work or none when it is repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, field_validator

from curation.schema import DROPS, count_drops
from curation.table import Table
from pairmill.checked_json import read_as, write_as
from pairmill.config import Config, bytes_digest
from pairmill.errors import IntegrityError
from pairmill.store import Entry, Store, shard_file
from pairmill.table_files import content_digest, data_facts, parquet_bytes

#: The rows of a committed shard to the same rows in the same order without what must go.  It must be idempotent.
Change = Callable[[pa.Table], pa.Table]

#: Notes of started rewritings: which manifest belongs to which data.
NOTES = "rewriting"

_WHAT = "note of a rewriting"


class Note(Config):
    """What a table's shard is being rewritten to.  file: digest of its data; None if they stay."""

    table: str
    shard: int = Field(ge=0)
    manifest: dict[str, Any]
    file: str | None

    @field_validator("manifest")
    @classmethod
    def _is_manifest(cls, found: dict[str, Any]) -> dict[str, Any]:
        if not all(isinstance(found.get(key), str) for key in ("key", "content")):
            raise ValueError("it must have a key and a content")
        return found


class _Step(NamedTuple):
    """What a table's shard becomes.  rows: None if its data stays and only its key changes."""

    table: Table
    manifest: dict[str, Any]
    rows: pa.Table | None


def rewrite_shard(store: Store, tables: Sequence[Table], shard: int, changes: Mapping[str, Change]) -> dict[str, Entry]:
    """Rewrite a shard of the tables that `changes` names (table -> change); returns its commits by table.

    tables: every table that may be made from those that change, each after those that it is made from (`Tables.all`,
    with a `Table` for the plan in front if that changes too).  A table that was up to date stays so; a stale one stays
    stale.  Data without a commit are rewritten too.

    Wherever it is killed, repeating the call completes it; `finish_rewrites` must run before anything else is done with
    the run.  Raises IntegrityError for a change that loses or moves rows.
    """
    finish_rewrites(store, shard)
    before: dict[str, str] = {}
    after: dict[str, Entry] = {}
    steps: list[_Step] = []
    known: pa.Table | None = None
    for table in tables:
        rows = _changed(store, table, shard, changes.get(table.name))
        entry = store.entry(table.name, shard)
        if entry is None:
            if rows is not None:
                store.write_table(shard_file(table.name, shard), rows, f"rewrite.{table.name}.data")
            continue
        contents = {name: made.content for name, made in after.items()}
        key = entry.key
        if all(name in before for name in table.upstream) and entry.key in (table.key(before), table.key(contents)):
            key = table.key(contents)
        before[table.name] = entry.content
        content = entry.content if rows is None else content_digest(rows, table.volatile)
        after[table.name] = Entry(key, content)
        drops = _drops(store, table, shard, rows, known)
        if rows is not None or after[table.name] != entry:
            manifest = _manifest(store, table, shard, entry, after[table.name], drops)
            if rows is not None:
                manifest["facts"] = {stage.name: stage.facts(rows) for stage in table.makers}
            steps.append(_Step(table, manifest, rows))
        known = drops
    for step in reversed(steps):
        _replace(store, step, shard)
    return after


def finish_rewrites(store: Store, shard: int | None = None) -> None:
    """Complete or undo killed rewritings of one shard or of the whole run.

    Costs a listing of a folder that is usually empty or missing.
    """
    for name in store.names(NOTES):
        if name.endswith(".json") and (shard is None or name.startswith(f"{shard:06d}-")):
            _finish(store, f"{NOTES}/{name}")


def _changed(store: Store, table: Table, shard: int, change: Change | None) -> pa.Table | None:
    """The rows after a change; None if nothing changes."""
    if change is None or not store.exists(shard_file(table.name, shard)):
        return None
    rows = store.load(table.name, shard)
    made = change(rows)
    if len(made) != len(rows) or made.schema.names != rows.schema.names:
        raise IntegrityError(f"{table.name} shard {shard}: rewriting must keep its rows and columns")
    return None if made.equals(rows) else made


def _drops(store: Store, table: Table, shard: int, rows: pa.Table | None, known: pa.Table | None) -> pa.Table | None:
    """drop_stage and drop_reason after a table, from its rows and those of the tables before it."""
    if not table.drops:
        return known
    if set(DROPS) <= set(table.columns):
        return (store.load(table.name, shard, list(DROPS)) if rows is None else rows).select(DROPS)
    if known is None:
        return None
    reason = (store.load(table.name, shard, ["reason"]) if rows is None else rows)["reason"]
    newly = pc.and_(pc.is_null(known["drop_reason"]), pc.is_valid(reason))
    return pa.table({"drop_stage": pc.if_else(newly, table.stages[-1], known["drop_stage"]), "drop_reason": reason})


def _manifest(store: Store, table: Table, shard: int, old: Entry, new: Entry, drops: pa.Table | None) -> dict[str, Any]:
    """The shard's manifest with its new key and content, and its drops counted again."""
    found = store.manifest(table.name, shard, old) or {}
    if "stages" in found and drops is not None:
        found["stages"] = count_drops(drops, table.stages, table.before)
    return {**found, "shard": shard, **new._asdict()}


def _replace(store: Store, step: _Step, shard: int) -> None:
    """Replace the old data and manifest by the new."""
    name, manifest = step.table.name, step.manifest
    note = f"{NOTES}/{shard:06d}-{name.replace('/', '.')}.json"
    data = None if step.rows is None else parquet_bytes(step.rows)
    if data is not None:
        manifest |= data_facts(data)
    file = None if data is None else manifest["file"]
    noted = {"table": name, "shard": shard, "manifest": manifest, "file": file}
    write_as(store, note, noted, _WHAT, Note, "rewrite.note")
    if data is not None:
        store.write_bytes(shard_file(name, shard), data, f"rewrite.{name}.data")
    _finish(store, note)


def _finish(store: Store, note: str) -> None:
    """Commit what a note announces, if its data exist; then remove the note."""
    noted = read_note(store, note)
    if noted is not None:
        table, shard, manifest = noted.table, noted.shard, noted.manifest
        if noted.file in (None, _file_digest(store, shard_file(table, shard))):
            store.write_manifest(table, shard, manifest, f"rewrite.{table}.manifest")
            store.retract(table, shard, keep=Entry(manifest["key"], manifest["content"]))
        store.remove(note)


def read_note(store: Store, name: str) -> Note | None:
    """A note; None if there is none of this name.  Raises DamagedError."""
    return read_as(store, name, _WHAT, Note)


def _file_digest(store: Store, name: str) -> str | None:
    """The digest of a data file; empty if it is gone, as its commit will tell."""
    try:
        return bytes_digest(store.read_bytes(name))
    except FileNotFoundError:
        return ""
