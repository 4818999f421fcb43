"""Damaged files of a curated run: found, kept aside, and made again.

A file is damaged if it is not what was committed: cut off, of zero bytes, with a bit that has changed, another shard's,
or gone.  It is moved to `RUN/damaged/` and its commit is taken back, so that the next job makes exactly its rows again,
from the tables before it.  Nobody but the list's files can give the rows of the plan again, and nobody but the web the
pixels: the first needs the lists as they were (`curation.replan`), and the second waits for consent.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

from curation.code import CODE_FILE, read_code_log
from curation.common_texts import mark_file, read_mark
from curation.erase import NOTES, read_note
from curation.flow import Tables, flow_of
from curation.forget.tombstones import Tombstones
from curation.plan_file import read_plan, read_plan_file, restore_plan
from curation.table import COLUMNS, IMAGES, PLAN, tables_there
from pairmill.aside import keep_aside
from pairmill.config import bytes_digest
from pairmill.damage import DamagedError, damaged
from pairmill.errors import UserError
from pairmill.layout import ASIDE, PAIRS, PLAN_COPY, PLAN_JSON, RECIPE_COPY, RECIPE_FILE, REFERENCES
from pairmill.pending import FORGOTTEN_COPY, FORGOTTEN_FILE, damaged_forgotten, restore_forgotten
from pairmill.recipe_file import read_recipe_file, recipe_text, restore_recipe, run_recipe
from pairmill.run_records import JOURNAL, ended_well, last_job, read_record, read_records, record_file, record_numbers
from pairmill.store import MANIFESTS, Entry, Store, manifest_file, shard_file

_DATA = re.compile(r"(?P<table>.+)/(?:shard|part)-(?P<shard>[0-9]{6,})\.parquet")
_COMMIT = re.compile(
    rf"(?:(?P<table>.+)/{MANIFESTS}|{MANIFESTS}/(?P<product>{PAIRS}))"
    r"/[0-9]+/shard-(?P<shard>[0-9]{6,})-[0-9a-z]+-[0-9a-z]+\.json"
)
#: What is wrong with a shard whose data may be there: the next job takes them over.
NO_COMMIT = "it has no commit"
#: Files that a run has twice.
_TWICE = ((PLAN_JSON, PLAN_COPY), (RECIPE_FILE, RECIPE_COPY), (FORGOTTEN_FILE, FORGOTTEN_COPY))
_THE_OTHER = {one: other for pair in _TWICE for one, other in (pair, pair[::-1])}
#: Of two that are both lost: what is left to do.
_BOTH = {
    PLAN_JSON: "nothing else says which lists and shards the run has: restore it, or its copy, from a copy of yours",
    RECIPE_FILE: "nothing else holds it: `pairmill curate RECIPE` makes its recipe the run's",
}
#: Made from the rest, without a digest: what a whole one ends with.
DERIVED = {"report.json": b"}", "report.html": b"</html>"}
#: A note of `curation.erase`: what a shard is being rewritten to.
_NOTE = re.compile(rf"{NOTES}/(?P<shard>[0-9]{{6,}})-(?P<table>.+)\.json")
#: The mark of a finished table (`curation.common_texts`).
_MARK = re.compile(r"columns/[^/]+/plan\.json")
_READERS = 4


class Finding(NamedTuple):
    """A damaged file of a run.

    name: its path within the run.  why: what is wrong with it.  remedy: how it is made again.
    """

    name: str
    why: str
    remedy: str


def remedy(name: str) -> str:
    """How a file of a run is made again once it is kept aside."""
    if name in (PLAN_JSON, PLAN_COPY):
        return f"{_THE_OTHER[name]} counts and is written in its place"
    if name in (RECIPE_FILE, RECIPE_COPY):
        return f"{_THE_OTHER[name]} counts and is written in its place; `pairmill curate RECIPE` makes an edit count"
    if name in (FORGOTTEN_FILE, FORGOTTEN_COPY):
        return f"{_THE_OTHER[name]} counts if it is whole, and is written in its place; else restore it from a copy"
    if name.startswith(f"{PLAN}/"):
        return "the next `pairmill curate` plans it again from the lists; if they have changed, restore it from a copy"
    if name == f"{IMAGES}/{name.rpartition('/')[2]}":
        return "its pictures are fetched again, with --yes only"
    if name == CODE_FILE:
        return "the code behind rows made so far is not known any more"
    if name.startswith(f"{JOURNAL}/"):
        return "the report goes without that invocation"
    if name in DERIVED:
        return "`pairmill report RUN` makes it again"
    return "the next `pairmill curate` makes it again"


def heal(store: Store, error: DamagedError, *, yes: bool, replan: Callable[[int], bool] = lambda shard: False) -> str:
    """Keep a damaged file aside and take its commit back; says what was done, for the log.

    yes: the pixels of a damaged shard may be fetched again.  replan: makes a shard of the plan again, if it can.
    The caller must hold the run's lock.
    Raises `error` for a file that only the user can restore, or of another run; UserError for pixels without `yes`.
    """
    name = error.path.removeprefix(store.path(""))
    if name == error.path:
        raise error
    if name in _THE_OTHER:
        return _restored(store, name, error)
    if error.why == NO_COMMIT:
        return f"{name} has no commit: the next job takes it over"
    data, commit = _DATA.fullmatch(name), _COMMIT.fullmatch(name)
    of_plan = next((found for found in (data, commit) if found is not None and found["table"] == PLAN), None)
    if of_plan is not None and replan(int(of_plan["shard"])):
        return f"{name} was damaged or gone ({error.why}), and was planned again from the lists"
    note = _NOTE.fullmatch(name)
    whole = name == CODE_FILE or name in DERIVED or name.startswith(f"{JOURNAL}/")
    known = whole or data or commit or note or _MARK.fullmatch(name)
    if name.startswith(f"{PLAN}/") or not known or (note is not None and note["table"] == PLAN):
        raise error
    if data is not None and data["table"] == IMAGES and not yes:
        raise UserError(
            "the pictures of a damaged shard must have your consent (--yes) to be fetched again",
            value=str(error.value),
            fix="restore the file from a copy, or give --yes: it is kept in damaged/, and its rows are fetched again",
        )
    if note is not None:
        table = note["table"].replace(".", "/", 1)
        store.retract(table, int(note["shard"]))  # its data are there, old or new, and are taken over
        kept = store.set_aside(name, ASIDE)
        return f"{name} is damaged and kept as {kept} ({error.why}): shard {note['shard']} of {table} is made again"
    found = data or commit
    kept = store.set_aside(name, ASIDE) if store.holds(name) else ""
    if found is not None:
        store.retract(found["table"] or PAIRS, int(found["shard"]))
    state = f"is damaged and kept as {kept}" if kept else "is gone"
    return f"{name} {state} ({error.why})" + (": it is made again" if found else "")


def set_records_aside(store: Store) -> None:
    """Keep damaged records of invocations aside, with a warning: the report goes without them.

    The caller must hold the run's lock.
    """
    for number in record_numbers(store):
        try:
            read_record(store, number)
        except DamagedError as error:
            keep_aside(store, record_file(number), error, "the report goes without that invocation")


def _restored(store: Store, name: str, error: DamagedError) -> str:
    """Write the second one of a file in its place; raises `error` if that is damaged too."""
    if name in (PLAN_JSON, PLAN_COPY):
        plan = read_plan(store)
        if plan is None:
            raise error
        restore_plan(store, plan)
    elif name in (FORGOTTEN_FILE, FORGOTTEN_COPY):
        restore_forgotten(store)
    else:
        if recipe_text(store) is None:
            raise error
        restore_recipe(store)
    return f"{name} was edited, damaged or gone ({error.why}): {_THE_OTHER[name]} is written in its place"


class Examined(NamedTuple):
    """What was read of a run.  files, bytes: how many.  damaged: in the order of the tables."""

    files: int
    bytes: int
    damaged: list[Finding]


def examine(store: Store) -> Examined:
    """Compare every file of a run with what was committed.  Reads all bytes; memory holds a few shards at a time.

    Of the reports, which have no digest, only whether they are whole.
    """
    read: list[int] = []
    wrong = list(_damages(store, read))
    names = {name for name, _ in wrong}
    both = {
        name: told for one, told in _BOTH.items() if {one, _THE_OTHER[one]} <= names for name in (one, _THE_OTHER[one])
    }
    found = [
        Finding(
            name,
            why,
            "the next `pairmill curate` commits it again" if why == NO_COMMIT else both.get(name) or remedy(name),
        )
        for name, why in wrong
    ]
    return Examined(len(read), sum(read), found)


def _damages(store: Store, read: list[int]) -> Iterator[tuple[str, str]]:
    """Name and fault of each damaged file.  read: gets the bytes of each shard that was read."""
    plan = None
    for name in (PLAN_JSON, PLAN_COPY):
        try:
            there = read_plan_file(store, name)
            plan = plan or there
            if there is None:
                yield name, "it is gone"
        except DamagedError as error:
            yield name, error.why
    yield from _of_recipe_files(store)
    forgotten = [(one.path.removeprefix(store.path("")), one.why) for one in damaged_forgotten(store)]
    yield from forgotten
    for name, reads in _records(store):
        try:
            if not (forgotten and name == FORGOTTEN_FILE):
                reads()
        except DamagedError as error:
            yield name, error.why
    settled = _ended_well(store)
    expected = _of_recipe(store) if settled else set()
    for table in (*tables_there(store), *(f"{REFERENCES}/{name}" for name in store.folders(REFERENCES))):
        index = store.index(table)
        if table == PLAN and plan is not None:
            for shard in sorted(set(plan.shard_numbers()) - index.keys()):
                yield shard_file(PLAN, shard), f"it has no commit in {MANIFESTS}/"
        if settled and table != PLAN:
            data = {f"{table}/{file}" for file in store.sizes(table) if _DATA.fullmatch(f"{table}/{file}")}
            if plan is not None and table in expected:
                data |= {shard_file(table, shard) for shard in plan.shard_numbers()}
            for name in sorted(data - {shard_file(table, shard) for shard in index}):
                yield name, NO_COMMIT
        with ThreadPoolExecutor(_READERS) as pool:
            for size, found in pool.map(partial(_checked, store, table), sorted(index.items())):
                read.append(size)
                yield from found
    yield from _of_reports(store)


def _records(store: Store) -> Iterator[tuple[str, Callable[[], object]]]:
    """Each record of a run that is one file, and what reads it."""
    yield CODE_FILE, partial(read_code_log, store)
    yield FORGOTTEN_FILE, partial(Tombstones.read, store)
    for name in (f"{NOTES}/{note}" for note in store.names(NOTES)):
        yield name, partial(read_note, store, name)
    for number in record_numbers(store):
        yield record_file(number), partial(read_record, store, number)
    for name in map(mark_file, tables_there(store, COLUMNS)):
        yield name, partial(read_mark, store, name)


def _of_recipe_files(store: Store) -> Iterator[tuple[str, str]]:
    """Name and fault of those files of the recipe that do not hold it."""
    try:
        text = recipe_text(store)
    except DamagedError:
        text = ""
    for name in (RECIPE_FILE, RECIPE_COPY) if text is not None else ():
        try:
            there = read_recipe_file(store, name)
        except DamagedError as error:
            yield name, error.why
        else:
            if there is None:
                yield name, "it is gone"
            elif there != text:
                yield name, "it holds another recipe than the run's"


def _of_reports(store: Store) -> Iterator[tuple[str, str]]:
    """Name and fault of each report that is not whole."""
    for name, end in DERIVED.items():
        if store.exists(name) and not store.read_bytes(name).rstrip().endswith(end):
            yield name, "it is cut off"
            continue
        try:
            if name.endswith(".json") and store.exists(name) and not isinstance(store.read_json(name), dict):
                yield name, "it is no JSON object"
        except DamagedError as error:
            yield name, error.why


def _of_recipe(store: Store) -> set[str]:
    """The tables of the run's recipe; others, of an earlier one, may lack shards that were added since."""
    try:
        flow = flow_of(run_recipe(store))
        tables = Tables(flow, selection=flow.selecting.selection, keyed=False)
    except UserError:  # of a recipe that is damaged, or names code that is not here
        return set()
    return {table.name for table in tables.all}


def _ended_well(store: Store) -> bool:
    """Whether the last job of a run ended well, so that every shard has a commit in every table."""
    try:
        return ended_well(last_job(read_records(store)))
    except DamagedError:
        return False


def _checked(store: Store, table: str, committed: tuple[int, Entry]) -> tuple[int, list[tuple[str, str]]]:
    """The bytes of a committed shard, and what is wrong with it: with its manifest, with its data."""
    shard, entry = committed
    name, commit = shard_file(table, shard), manifest_file(table, shard, entry)
    try:
        manifest = store.manifest(table, shard, entry)
    except (DamagedError, OSError) as error:
        return 0, [(commit, error.why if isinstance(error, DamagedError) else str(error))]
    if manifest is None:
        return 0, [(commit, "it is no manifest")]
    try:
        data = store.read_bytes(name)
    except FileNotFoundError:
        return 0, [(name, "it is gone")]
    except OSError as error:  # a folder, a link to itself, a bad sector
        return 0, [(name, str(error))]
    if bytes_digest(data) == manifest["file"]:
        return len(data), []
    if len(data) == manifest["bytes"]:
        return len(data), [(name, "its bytes are not those that were committed (same size)")]
    return len(data), [(name, f"it has {len(data):,} bytes, and {manifest['bytes']:,} were committed")]


def require_sound(store: Store, shards: Mapping[str, Collection[int]]) -> None:
    """Raise DamagedError for the first damaged file of some shards, by table, or among the notes of rewritings.

    Data without a commit, which killed jobs leave, must at least be readable.
    """
    for note in store.names(NOTES):
        read_note(store, f"{NOTES}/{note}")
    for table, numbers in shards.items():
        index = store.index(table)
        for shard in sorted(numbers):
            name = shard_file(table, shard)
            if shard not in index and store.exists(name):
                store.read_table(name)
            elif shard in index:
                for wrong, why in _checked(store, table, (shard, index[shard]))[1]:
                    raise damaged(store.path(wrong), why)


def parts_of_another_size(store: Store, entries: dict[int, Entry]) -> list[DamagedError]:
    """Committed parts of the product that are gone or cut off, by a listing and their manifests."""
    sizes = store.sizes(PAIRS)
    wrong = []
    for manifest in store.manifests(PAIRS, entries):
        name = shard_file(PAIRS, int(manifest["shard"]))
        size = sizes.get(name.rpartition("/")[2])
        if size != manifest["bytes"]:
            why = "it is gone" if size is None else f"it has {size:,} bytes, and {manifest['bytes']:,} in its manifest"
            wrong.append(damaged(store.path(name), why))
    return wrong
