"""Take rows out of a run, in two steps: report what would be done, then do it.

    preview      report what would go: rows, shards, parts, copies, bytes; nothing changes
    begin        write the tombstones, and with them the work to do
    complete     rewrite shards, parts, copies and reports; take what was made from the rows out of the caches of
                 generations; the journal records when and how many

Killed anywhere after `begin`, `complete` has the same result.  It runs before anything else is done with the run, so a
copy that is gone or cannot be read must not stop it: it is reported, and can be cleaned later.
Other rows keep what is known of them, and their part of the product.  The next `curate` decides which duplicate of a
forgotten row stays: a selection considers all rows.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from curation.dataset_card import CARD, write_card
from curation.erase import finish_rewrites, rewrite_shard
from curation.forget.blanking import change_of
from curation.forget.copies import Copy, NoCopy, clean_copies, find_copies, not_searched
from curation.forget.finding import Found, find
from curation.forget.place import Place
from curation.forget.request import Request
from curation.forget.tombstones import Tombstones
from curation.forget.written_texts import forget_generations
from curation.healing import require_sound
from curation.plan import remove_unplanned
from curation.results.report import REPORTS, write_report
from curation.selections.thresholds import without_groups
from curation.table import tables_there
from pairmill.damage import DamagedError
from pairmill.errors import IntegrityError, UserError
from pairmill.faults import fault_point
from pairmill.layout import PAIRS, PROBES, SELECTIONS
from pairmill.pending import restore_forgotten
from pairmill.run_records import read_records
from pairmill.store import Entry, Store, shard_file

logger = logging.getLogger("pairmill")

_WORKERS = 4


class Preview(NamedTuple):
    """What a request would do.

    rules:    number of new rules, which apply to rows added later.
    shards:   those with rows to remove.  parts: the same, with how many rows.  bytes: of all files to rewrite.
    copies:   files named by --also with rows to remove.
    unkeyed:  tables whose rewritten shards the next `curate` makes again, because a model, file or code is missing.
    lost:     import paths of the recipe that lead nowhere here; what they made is handled by its columns.
    strays:   files in the run directory that do not belong to the run, and in copies what is not searched; both are
              left alone.
    mentions: files of the run, other than tables, that name a URL of the rows.
    stones:   the tombstones as they would be.
    """

    found: Found
    rules: int
    shards: tuple[int, ...]
    parts: Mapping[int, int]
    bytes: int
    copies: tuple[Copy, ...]
    unkeyed: tuple[str, ...]
    lost: tuple[str, ...]
    strays: tuple[str, ...]
    mentions: tuple[str, ...]
    stones: Tombstones


class Completed(NamedTuple):
    """What was taken out.

    rows:   how many rows.
    gone:   copies that were named and are not there any more.
    failed: copies, and caches of generations, that could not be cleaned -> why.
    """

    rows: int
    gone: tuple[str, ...]
    failed: Mapping[str, str]


def preview(store: Store, wanted: Request, also: Sequence[Path] = (), *, at: int | None = None) -> Preview:
    """What forgetting `wanted` would do; nothing changes, and a job may work in the run meanwhile.

    also: exports and other copies of the product.  at: when, in seconds since the epoch.
    Raises RunDirError if nothing is planned, UserError for a copy that cannot be read.
    """
    here = Place(store)
    now = int(time.time()) if at is None else at
    found = find(store, wanted, here.plan.shard_numbers(), selection=here.tables.selection, at=now)
    before = Tombstones.read(store)
    ruled = before.with_rows(wanted.tombstones(now))
    stones = ruled.with_rows(found.places).with_rows(found.spellings)
    shards = tuple(sorted(set(found.places["shard"].to_pylist())))
    parts = _holding(here, frozenset(found.places["digest"].to_pylist()))
    copies = [copy for place in also for copy in find_copies(place, stones.uids)]
    stones.work = {
        "at": now,
        "rows": found.rows,
        "kept": found.kept,
        "also": [str(place.absolute()) for place in also],
        "reports": [name for name in REPORTS if found.rows and store.exists(name)],
    }
    files = here.files(shards, parts)
    strays, mentions = here.look_around(found.urls)
    strays = (*strays, *(str(file) for place in also for file in not_searched(place)))
    return Preview(
        found=found,
        rules=len(ruled.table) - len(before.table),
        shards=shards,
        parts=parts,
        bytes=sum(info.size for info in files) + sum(copy.bytes for copy in copies),
        copies=tuple(copies),
        unkeyed=here.unkeyed,
        lost=here.lost,
        strays=strays,
        mentions=mentions,
        stones=stones,
    )


def begin(store: Store, planned: Preview) -> None:
    """Write the tombstones: from here on the rows must go, even if the work is interrupted.

    The caller must hold the run's lock, since before `preview`.
    Raises DamagedError, and nothing is written, for a damaged file that the work would come to.
    """
    here = Place(store)
    planned.stones.work["parts"] = _parts(here, planned)
    _require_sound(here, planned)
    planned.stones.write(store, "forget.tombstones")


def _require_sound(here: Place, planned: Preview) -> None:
    """Raise DamagedError unless `complete` can read all that it will read."""
    read_records(here.store)
    chains = [here.own_tables(), *(chain for chain, _ in here.other_tables())]
    names = dict.fromkeys(table.name for chain in chains for table in chain)
    parts = {int(number) for number in planned.stones.work["parts"]}
    require_sound(here.store, {**dict.fromkeys(names, planned.shards), PAIRS: parts})


def complete_pending(store: Store) -> None:
    """`complete` for a job that is about to start.  Raises RunDirError if another one works in the run."""
    if not Tombstones.read(store).work:
        return
    with store.locked():
        done = complete(store)
    for copy in (*done.gone, *done.failed) if done else ():
        logger.warning("rows that were forgotten may still be in this copy, which --also named: %s", copy)


def complete(store: Store) -> Completed | None:
    """Do the work that the tombstones name; None if there is none.

    The caller must hold the run's lock.  Raises RunDirError if nothing is planned.
    """
    restore_forgotten(store)
    stones = Tombstones.read(store)
    work = stones.work
    if not work:
        return None
    here = Place(store)
    began = time.time()
    for name in work["reports"]:
        store.remove(name)
    # They name groups of rows, such as hosts; the command makes them again.
    for name in store.names(PROBES):
        store.remove(f"{PROBES}/{name}")
    fault_point("forget.reports_removed")
    store.sweep(".")
    store.clear_scratch()
    remove_unplanned(store, here.plan.shards)
    finish_rewrites(store)
    unreached = _rewrite_tables(here, stones)
    if work["rows"]:
        _forget_groups(store)
    fault_point("forget.tables_rewritten")
    _rewrite_parts(here, stones)
    if store.exists(CARD) and not here.lost:
        write_card(store, here.recipe, here.flow.carried)
    fault_point("forget.parts_rewritten")
    gone, failed = _clean(work["also"], stones.uids)
    failed |= unreached
    fault_point("forget.copies_rewritten")
    here.record({**work, "not_cleaned": sorted(gone + list(failed))}, began)
    if work["reports"]:
        _report(here)
    Tombstones(stones.table).write(store, "forget.done")
    return Completed(work["rows"], tuple(gone), failed)


def _clean(places: Sequence[str], uids: Collection[str]) -> tuple[list[str], dict[str, str]]:
    """Clean copies; which of them are gone, and why others could not be cleaned."""
    gone: list[str] = []
    failed: dict[str, str] = {}
    for place in places:
        try:
            clean_copies(Path(place), uids)
        except NoCopy:
            gone.append(place)
        except UserError as error:
            failed[place] = f"{error.rule}; {error.value}"
        except OSError as error:
            failed[place] = str(error)
    return gone, failed


def _report(here: Place) -> None:
    if here.lost:
        logger.warning("no report can be built without %s; the next job builds it", ", ".join(here.lost))
        return
    try:
        write_report(here.store, selection=here.selection)
    except (DamagedError, IntegrityError) as error:
        # The run was damaged before.  The rows are gone, which is what matters.
        logger.warning("the report cannot be built: %s", error)


def _rewrite_tables(here: Place, stones: Tombstones) -> dict[str, str]:
    """Take the rows out of the tables, and what was made from them out of the caches; which caches failed, and why."""
    pending, tables, beside = stones.pending, here.own_tables(), here.other_tables()
    caches = here.caches()
    unreached: dict[str, str] = {}

    def rewrite(shard: int) -> None:
        uids = pending.filter(pc.equal(pending["shard"], shard))["digest"].to_pylist()
        # Before the tables lose what says where to look.
        unreached.update(forget_generations(here.store, caches, shard, uids))
        rewrite_shard(here.store, tables, shard, {table.name: change_of(table.name, uids) for table in tables})
        # After the tables whose drops they count from.
        for others, changed in beside:
            rewrite_shard(here.store, others, shard, {name: change_of(name, uids) for name in changed})
        fault_point("forget.shard_rewritten")

    with ThreadPoolExecutor(_WORKERS) as pool:
        list(pool.map(rewrite, sorted(set(pending["shard"].to_pylist()))))
    return unreached


def _forget_groups(store: Store) -> None:
    """Take the names of groups of rows, such as hosts, out of what selections record of their thresholds.

    Which of them only forgotten rows had, nobody knows any more.  What makes a selection again records them again.
    """
    for table in tables_there(store, SELECTIONS):
        for shard, entry in store.index(table).items():
            try:
                manifest = store.manifest(table, shard, entry) or {}
            except DamagedError:
                continue  # the next job makes the shard again
            found = manifest.get("found", {})
            left = {stage: without_groups(facts) for stage, facts in found.items()}
            if left != found:
                store.write_manifest(table, shard, {**manifest, "found": left}, "forget.groups")


def _holding(here: Place, uids: Collection[str]) -> dict[int, int]:
    """The parts that hold rows with these uids: number -> how many rows."""
    if not uids:
        return {}
    asked = pa.array(sorted(uids), pa.string())

    def held(number: int) -> int:
        try:
            rows = here.store.load(PAIRS, number, ["uid"])
        except DamagedError:
            if here.store.exists(shard_file(PAIRS, number)):
                raise
            return 0  # a job that packs has just removed it
        return pc.sum(pc.is_in(rows["uid"], asked)).as_py() or 0

    numbers = here.part_numbers()
    with ThreadPoolExecutor(_WORKERS) as pool:
        return {number: rows for number, rows in zip(numbers, pool.map(held, numbers), strict=True) if rows}


def _parts(here: Place, planned: Preview) -> dict[str, dict[str, Any]]:
    """The parts that change: number -> its commit's key (None: not committed), `fresh`, and rows to remove."""
    if not planned.shards:
        return {}
    committed = here.store.index(PAIRS)
    wanted = here.wanted_parts()
    found: dict[str, dict[str, Any]] = {}
    for number in here.part_numbers():
        key, gone = committed[number].key if number in committed else None, planned.parts.get(number, 0)
        part = wanted.get(number)
        fresh = part is not None and part.key == key
        if gone or (part is not None and fresh and set(planned.shards) & set(part.shards)):
            found[str(number)] = {"key": key, "fresh": fresh, "rows": gone}
    return found


def _rewrite_parts(here: Place, stones: Tombstones) -> None:
    """Take the rows out of the parts; a part that was up to date is keyed by its shards' new content."""
    wanted = here.wanted_parts()
    asked = pa.array(sorted(set(stones.pending["digest"].to_pylist())), pa.string())
    for name, part in stones.work["parts"].items():
        number, key = int(name), part["key"]
        if part["fresh"] and number in wanted:
            key = wanted[number].key
        entry = here.store.entry(PAIRS, number)
        if key is None or not here.store.exists(shard_file(PAIRS, number)):
            here.store.remove_shard(PAIRS, number)  # left by a killed job and not used
        elif entry is None or part["rows"]:
            rows = here.store.load(PAIRS, number)
            left = rows.filter(pc.invert(pc.is_in(rows["uid"], asked)))
            if entry != (key, here.content(left)):
                here.commit_part(number, key, left)
        else:
            if entry.key != key:
                manifest = here.store.manifest(PAIRS, number, entry) or {}
                here.store.write_manifest(PAIRS, number, {**manifest, "key": key}, "forget.part")
            # Also if a killed call has come this far.
            here.store.retract(PAIRS, number, keep=Entry(key, entry.content))
