"""Cut the input list into shards, once: the same rows in a seeded order, on any machine and with any memory.

adds:  uid, index (int64, position in the input), url, alt, input, drop_stage, drop_reason
drops: forgotten, duplicate_input

The content of its lists identifies a run, not their place.  `extend` adds lists after the first one: their rows get
shards of their own with the next numbers, and no existing shard is touched.  A plan shard is committed like that of any
table; `plan/plan.json`, written last, is the commit of the plan, and shards that it does not list do not count.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.fs as pafs
from pydantic import Field

from curation.forget.tombstones import Tombstones
from curation.input_column import merged_fields
from curation.inputs import InputConfig, NoInputFiles, extra_fields, find_files, sound_files
from curation.inputs.files import InputFile
from curation.listing import ListFile, PlannedList, check_unchanged, place, record
from curation.plan_file import Plan, read_plan, restore_plan, write_plan
from curation.stage import Column, Stage
from curation.table import PLAN
from curation.visiting import PLAN_REASONS, KnownUids, cut, visited
from pairmill.config import Config, digest
from pairmill.errors import InputError, RunDirError
from pairmill.layout import PLAN_JSON, RECIPE_COPY, RECIPE_FILE
from pairmill.pending import FORGOTTEN_COPY, FORGOTTEN_FILE
from pairmill.store import Store, shard_file, shard_key

logger = logging.getLogger("pairmill")

_READERS = 8
_NAMED = 3

#: The name of a shard's data.
_SHARD = re.compile(r"shard-([0-9]+)\.parquet")


class ShardsConfig(Config):
    """How the input is cut into units of work, retry and commit."""

    rows_per_shard: int = Field(2000, ge=1, le=100_000, description="rows of a shard")
    seed: int = Field(0, ge=0, description="seed of the order in which rows are visited")


class Planned(Stage):
    """Give every row its uid and its place; keep the first in input order of rows with equal URL and text."""

    name, segment, section, table, pool = "plan", "plan", "shards", PLAN, None
    adds = (
        Column("uid", pa.string(), "128-bit BLAKE2b of the canonical URL and the raw alt text", carried=True),
        Column("index", pa.int64(), "position in the input"),
        Column("url", pa.string(), "where the image was found", carried=True),
        Column("alt", pa.string(), "the alt text as it was found", carried=True),
    )
    drops = PLAN_REASONS
    Config = ShardsConfig


def plan(store: Store, inputs: InputConfig, shards: ShardsConfig) -> Plan:
    """The plan of this run directory: the existing one if the list at `inputs` is part of it, else a new one.

    A planned run does not need its list any more, in whole or in part.
    Raises InputError for an input that cannot be read, RunDirError if the directory holds another list's plan, or a run
    without one.
    """
    there = read_plan(store)
    if there is None:
        _refuse_other_runs(store)
        new = _Seen(find_files(inputs), [], [])
        with store.locked():
            there = read_plan(store)
            if there is None:
                return _append(store, None, new, [inputs.path], inputs, shards)
    _check_cut(store, there, shards)
    try:
        files = find_files(inputs)
    except NoInputFiles:
        # The list is gone, or its path is misspelt.
        if PurePosixPath(inputs.path).name not in {PurePosixPath(p).name for one in there.inputs for p in one.given}:
            raise
        logger.warning("no input file at %s any more: resuming with the planned rows", inputs.path)
        return there
    _check_list(store, there, files, inputs)
    return there


def extend(store: Store, paths: Sequence[str], inputs: InputConfig, shards: ShardsConfig) -> tuple[Plan, list[str]]:
    """Add the lists at `paths`, read as `inputs` says (except its path), to the run; the plan, and the files added.

    Files whose content is part of the run already are left out, so that repeating the call adds nothing.
    Raises InputError for a list that cannot be read, RunDirError if the run is not planned or in use.
    """
    with store.locked():
        there = open_plan(store, shards)
        restore_plan(store, there)
        found: dict[str, InputFile] = {}
        for path in paths:
            for file in find_files(inputs.model_copy(update={"path": path})):
                found.setdefault(place(file), file)
        seen = _seen(there, list(found.values()), inputs)
        if seen.known:
            logger.warning("%d of %d files are part of the run already and were left out", len(seen.known), len(found))
        if not seen.new:
            return there, []
        return _append(store, there, seen, list(paths), inputs, shards), [file.path for file in seen.new]


def open_plan(store: Store, shards: ShardsConfig | None = None) -> Plan:
    """The plan of a run that its directory identifies; the lists are not needed.

    Raises RunDirError if there is none, or if its rows are not cut as `shards` says.
    """
    there = read_plan(store)
    if there is None:
        raise RunDirError(
            "the run directory must hold plan/plan.json", value=store.uri, fix="check the path, or start the run first"
        )
    if shards is not None:
        _check_cut(store, there, shards)
    return there


def input_type(store: Store, listed: PlannedList) -> pa.StructType | None:
    """The type of `input` in a list's shards (None: they have none); that of the last list is the whole run's."""
    schema = store.schema(shard_file(PLAN, listed.first_shard))
    return schema.field("input").type if "input" in schema.names else None


class _Seen(NamedTuple):
    """Some files: those that are not part of a run, those that are, and all that were read."""

    new: list[InputFile]
    known: list[ListFile]
    read: list[ListFile]


def _seen(there: Plan, files: Sequence[InputFile], inputs: InputConfig) -> _Seen:
    sizes = {one.size for one in _files_of(there)}
    # A file with a new size is a new file; it need not be read.
    alike = [file for file in files if file.size in sizes]
    read = record(alike, _files_of(there))
    known_as = {_read_as(file, listed) for listed in there.inputs for file in (*listed.files, *listed.skipped)}
    known = [one for one in read if _read_as(one, inputs) in known_as]
    places = {one.place for one in known}
    return _Seen([file for file in files if place(file) not in places], known, read)


def _append(
    store: Store, before: Plan | None, seen: _Seen, given: list[str], inputs: InputConfig, shards: ShardsConfig
) -> Plan:
    """Plan the rows of the new files after those of the run, and commit the plan."""
    files, bad = sound_files(seen.new, inputs)
    lists = before.inputs if before else []
    first, start = (before.shards, before.rows) if before else (0, 0)
    extra = extra_fields(files, inputs)
    if before and (whole := input_type(store, before.inputs[-1])) is not None:
        extra = merged_fields(whole, extra)
    left_out = {reason: n for reason, n in sum((file.left_out for file in files), Counter()).items() if n}
    if left_out:
        logger.warning("left out of the tars of the list, by reason: %s", left_out)
    # After the columns, which reveal a wrong recipe: this reads every byte.
    recorded = record(files, seen.read)
    skipped = record(bad, seen.read)
    key = shard_key([shards.identity(), str(extra)], [f"{one.kind} {one.content}" for one in recorded])
    fingerprint = hashlib.blake2b(digest_size=8)
    rows, behind = 0, first
    with (
        store.scratch("plan") as scratch,
        ThreadPoolExecutor(_READERS) as pool,
    ):
        planned = KnownUids(store, [one.shard_numbers() for one in lists], shards.seed, pool)
        pieces = visited(
            files,
            inputs,
            extra,
            seed=shards.seed,
            start=start,
            planned=planned,
            forgotten=Tombstones.read(store),
            scratch=scratch,
        )
        for number, table in enumerate(cut(pieces, shards.rows_per_shard), start=first):
            rows, behind = rows + len(table), number + 1
            entry = store.commit(PLAN, number, key, table, {"list": len(lists)})
            fingerprint.update(entry.content.encode())
    check_unchanged(files, recorded)
    if not rows:
        raise InputError("input.path must lead to at least one row", value=", ".join(given), fix="check the list")
    remove_unplanned(store, behind)
    added = PlannedList(
        given=given,
        url_column=inputs.url_column,
        text_column=inputs.text_column,
        files=recorded,
        rows=rows,
        first_shard=first,
        shards=behind - first,
        fingerprint=fingerprint.hexdigest(),
        quoting=inputs.quoting,
        skipped=skipped,
        left_out=left_out,
    )
    cut_digest = digest(shards.identity())
    made = Plan(
        fingerprint=digest([cut_digest, *(one.fingerprint for one in (*lists, added))]),
        rows=start + rows,
        shards=behind,
        cut=cut_digest,
        inputs=[*lists, added],
        forgotten=before.forgotten if before else [],
    )
    write_plan(store, made, "extend.commit" if before else "plan.commit")
    store.sweep(PLAN)
    return made


def remove_unplanned(store: Store, shard: int) -> None:
    """Remove the shards from this one on that a killed planning left without a commit.

    They are found by listings, since a removal that was killed leaves gaps between them.
    """
    named = (_SHARD.fullmatch(name) for name in store.names(PLAN))
    numbers = {*(int(name[1]) for name in named if name), *store.index(PLAN)}
    for number in sorted(number for number in numbers if number >= shard):
        store.remove_shard(PLAN, number)


def _refuse_other_runs(store: Store) -> None:
    """Raise RunDirError for a directory that holds a run although nothing is planned there: its recipe would be lost.

    A curation writes its recipe after its plan.  A recipe alone may be one that somebody wrote there.
    """
    if not any(store.exists(name) for name in (RECIPE_FILE, RECIPE_COPY, FORGOTTEN_FILE, FORGOTTEN_COPY)):
        return
    there = store.filesystem.get_file_info(pafs.FileSelector(store.path("").rstrip("/")))
    names = sorted(info.base_name for info in there if not info.base_name.startswith("."))
    if others := [name for name in names if name not in (RECIPE_FILE, PLAN)]:
        raise RunDirError(
            f"run_dir must be new, or hold a curation with its {PLAN_JSON}",
            value=f"{store.uri} holds {RECIPE_FILE} and {others[0]}: another run, or one that lost its plan",
            fix="give another run_dir, or restore the plan from a copy",
        )


def _check_cut(store: Store, there: Plan, shards: ShardsConfig) -> None:
    if there.cut != digest(shards.identity()):
        raise RunDirError(
            "shards.* must be as they were when the run directory was planned",
            value=f"{store.uri} was planned from {_named(there.files)}, with other shards.*",
            fix="set shards.* back, or give another run_dir",
        )


def _check_list(store: Store, there: Plan, files: Sequence[InputFile], inputs: InputConfig) -> None:
    """Raises RunDirError if one of `files` is not part of the run."""
    seen = _seen(there, files, inputs)
    contents = {one.content for one in seen.read}
    if seen.new and len(seen.read) == len(files) and contents <= {one.content for one in _files_of(there)}:
        raise RunDirError(
            "input.format, quoting, url_column and text_column must be as they were when the list was planned",
            value=f"one of them has changed since {store.uri} was planned",
            fix="set them back, or give another run_dir",
        )
    if seen.new:
        raise RunDirError(
            "input.path must lead to the files that the run directory was planned from",
            value=f"{store.uri} was planned from {_named(there.files)}; "
            f"new or changed since: {_named([file.path for file in seen.new])}",
            fix=f"add their rows with `pairmill extend {store.uri} {inputs.path}`, or give another run_dir",
        )
    if gone := {one.content for one in there.inputs[0].files} - contents:
        logger.warning("%d input files of the run are not at %s any more; their rows stay", len(gone), inputs.path)


def _files_of(there: Plan) -> Iterator[ListFile]:
    return (file for listed in there.inputs for file in (*listed.files, *listed.skipped))


def _read_as(file: ListFile, columns: PlannedList | InputConfig) -> tuple[Any, ...]:
    """What determines a file's rows; a plain list of URLs has no columns."""
    named = () if file.kind == "txt" else (columns.url_column, columns.text_column)
    quoting = (columns.quoting,) if file.kind in ("csv", "tsv") else ()
    return (file.content, file.kind, *named, *quoting)


def _named(places: Sequence[str]) -> str:
    more = len(places) - _NAMED
    return ", ".join(places[:_NAMED]) + (f" and {more} more" if more > 0 else "")
