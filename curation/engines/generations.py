"""Finished generations, one object each, in a folder or an object store that any number of runs may share.

    CACHE/AA/BB/DIGEST-KEY.json         a text that an engine wrote, as it wrote it
    CACHE/AA/BB/DIGEST-KEY-WORK.json    the same, of a shard whose text must be its own (`asking`)
    CACHE/begun/AA/CALL.json            a call that has begun and not ended (`asking`)

DIGEST (BLAKE2b-128) is that of what the text is made from: the picture's bytes, or the source text.  AA and BB are its
first digits, so one listing finds all generations of a picture, as `pairmill forget` does.  KEY is the digest of
everything else that decides the text.  An object is written whole and not changed: writers need no lock, and whoever
writes the same once more does no harm.  Nothing here grows in memory with the rows, and no index can be lost.

An object that is damaged, or not ours, counts as missing and is written again.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import pyarrow as pa

from curation.engines import Generated
from pairmill.checked_json import checked, read_as, require_check, validated, write_checked
from pairmill.config import bytes_digest, digest
from pairmill.damage import DamagedError, undamaged
from pairmill.errors import JobError, UserError
from pairmill.faults import fault_point
from pairmill.redaction import redact
from pairmill.store import Store

#: Requests to the store at once: of an object store that answers in 30 ms, a thousand a second.
IN_FLIGHT = 32

_ABOUT = "README.md"
_ABOUT_TEXT = """Texts that models wrote, kept by pairmill so that none is paid for twice.  The tables of a run hold
what it took from here.  Delete the folder to have texts written again.
"""
_WHAT = "generation"


class Name(NamedTuple):
    """What a text is made from (digest), and everything else that decides it (key): hex digests."""

    digest: str
    key: str

    def path(self, work: Work | None = None) -> str:
        """The object's path in the cache; work: of that shard alone."""
        return f"{_folder(self.digest)}/{self}{'' if work is None else f'-{digest(work)}'}.json"

    def __str__(self) -> str:
        return f"{self.digest}-{self.key}"


class Work(NamedTuple):
    """What a text is made for: a shard of a plan (digest)."""

    plan: str
    shard: int

    def is_beside(self, other: Work) -> bool:
        """Whether both are shards of one plan, and different ones."""
        return self.plan == other.plan and self.shard != other.shard


class Place(NamedTuple):
    """Where a text is, or is to be kept.  damaged: something else is there."""

    path: str
    answer: Generated | None = None
    damaged: bool = False


class Begun(NamedTuple):
    """A call that has begun, and what is known of its requests, by their positions (`begun_calls`).

    new: those that no one had answered when it began.  failed: those of them that the engine failed for.
    fatal: those that its process died of.  suspects: those of which it died in an earlier job.
    job: that worked on it last.
    at, deaths: how often a process died at the batch that begins there.  alone: the one that is asked for alone; -1.
    """

    new: list[int]
    failed: list[int]
    fatal: list[int]
    suspects: list[int]
    job: str | None
    at: int
    deaths: int
    alone: int


class _Kept(NamedTuple):
    """The content of an object.  of: its name.  plan, shard: what it was made for, if that counts."""

    of: str
    text: str
    score: float | None
    cut: bool
    tokens: int | None
    plan: str | None = None
    shard: int | None = None


class Generations:
    """A cache of generations."""

    def __init__(self, place: str | Store) -> None:
        """place: a folder or an address.  Raises UserError for anything else."""
        self._store = place if isinstance(place, Store) else Store(place)

    def open(self) -> None:
        """Raise UserError unless the cache can be written."""
        try:
            self._store.write_bytes(_ABOUT, _ABOUT_TEXT.encode(), "generation.about")
        except (OSError, pa.ArrowException) as error:
            raise UserError(
                "the cache of generations must be a folder that can be written, or an address in a bucket that can",
                value=f"{redact(self._store.uri)}: {redact(str(error))}",
                fix="correct `cache` of the recipe's section, its permissions or the credentials",
            ) from error

    def look_up(self, names: Sequence[Name], work: Work | None, pool: Executor) -> list[Place]:
        """Where the text of each name is.

        work: what the texts are for; those of other shards of the same plan do not count.  None: all count.
        """
        with self._reached():
            return list(pool.map(partial(self._find, work=work), names))

    def _find(self, name: Name, work: Work | None) -> Place:
        place, made_for = self._read(name, name.path())
        if work is None or made_for is None or not made_for.is_beside(work):
            return place
        return self._read(name, name.path(work))[0]

    def _read(self, name: Name, path: str) -> tuple[Place, Work | None]:
        try:
            data = self._store.read_bytes(path)
        except FileNotFoundError:
            return Place(path), None
        except OSError:
            if not self._store.is_local:
                raise
            return Place(path, damaged=True), None  # a folder, a bad sector
        try:
            with undamaged(path, local=True):
                found = json.loads(data)
            kept = validated(path, require_check(path, found, _WHAT), _WHAT, _Kept)
        except DamagedError:
            return Place(path, damaged=True), None
        if kept.of != str(name):
            return Place(path, damaged=True), None
        made_for = None if kept.plan is None or kept.shard is None else Work(kept.plan, kept.shard)
        return Place(path, Generated(kept.text, kept.score, kept.cut, kept.tokens)), made_for

    def keep(self, name: Name, place: Place, answer: Generated, work: Work | None) -> None:
        """Keep a text.  place: what `look_up` found.  work: as there."""
        path = place.path
        with self._reached():
            # Another shard may have been quicker.  If both write at this moment, one text is lost, and its shard would
            # have it written again if it were killed before its commit.  A bucket lists if asked whether an object
            # exists, and does not if it is read.
            if work is not None and not place.damaged and self._read(name, path)[0].answer is not None:
                path = name.path(work)
            kept = _Kept(str(name), answer.text, answer.score, answer.cut, answer.tokens, *(work or ()))
            data = json.dumps(checked(kept._asdict()), ensure_ascii=False).encode()
            # A folder in its place cannot be replaced, and is no reason to lose the shard.
            with contextlib.suppress(IsADirectoryError):
                self._store.write_bytes(path, data, "generation")

    # Calls that have begun

    def begin(self, call: str, begun: Begun) -> None:
        """Record a call, or more of it."""
        with self._reached():
            write_checked(self._store, _call_file(call), begun._asdict(), "generation.begun")

    def begun(self, call: str) -> Begun | None:
        """What `begin` recorded of a call that has not ended."""
        with self._reached():
            try:
                return read_as(self._store, _call_file(call), "call", Begun)
            except DamagedError:
                return None

    def end(self, call: str) -> None:
        """A call has ended, and what it made is kept."""
        with self._reached():
            self._store.remove(_call_file(call))

    # Forgetting

    @property
    def uri(self) -> str:
        """Where the cache is."""
        return self._store.uri

    def held(self, digests: Iterable[str]) -> list[Generated]:
        """All generations that were made from these."""
        with self._reached(), ThreadPoolExecutor(IN_FLIGHT) as pool:
            places = [place for place, _ in pool.map(lambda found: self._read(*found), self._made_from(digests, pool))]
        return [place.answer for place in places if place.answer]

    def forget(self, digests: Iterable[str]) -> None:
        """Delete all generations that were made from these."""
        with self._reached(), ThreadPoolExecutor(IN_FLIGHT) as pool:
            list(pool.map(lambda found: self._remove(found[1]), self._made_from(digests, pool)))

    def _remove(self, path: str) -> None:
        fault_point("forget.generation")
        self._store.remove(path)

    def _made_from(self, digests: Iterable[str], pool: Executor) -> list[tuple[Name, str]]:
        """The names and paths of all generations that were made from these."""
        wanted = set(digests)
        folders = sorted({_folder(one) for one in wanted})
        found = []
        for folder, files in zip(folders, pool.map(self._store.names, folders), strict=True):
            for file in files:
                made, _, key = file.removesuffix(".json").partition("-")
                if made in wanted:
                    found.append((Name(made, key.partition("-")[0]), f"{folder}/{file}"))
        return found

    @contextlib.contextmanager
    def _reached(self) -> Iterator[None]:
        try:
            yield
        except (OSError, pa.ArrowException) as error:
            raise JobError(
                f"the cache of generations {redact(self._store.uri)} must stay reachable: {redact(str(error))}\n"
                "Check disk space, network and credentials, then run the job again: it resumes with what was kept."
            ) from error


def made_from(source: bytes | str) -> str:
    """The digest of a picture's bytes, or of a text."""
    return bytes_digest(source if isinstance(source, bytes) else source.encode("utf-8", "surrogatepass"))


def _folder(made: str) -> str:
    return f"{made[:2]}/{made[2:4]}"


def _call_file(call: str) -> str:
    return f"begun/{call[:2]}/{call}.json"
