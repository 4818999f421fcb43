"""The shard store: a run directory in which every table is committed shard by shard, and a commit is all or nothing.

    RUN/plan/shard-000012.parquet                        the input, cut once
    RUN/images/shard-000012.parquet                      encoded pixels and measurements, written once
    RUN/columns/<stage>/shard-000012.parquet             narrow, row-aligned with images
    RUN/selections/<name>/shard-000012.parquet           uid, keep, reason
    RUN/pairs/part-000003.parquet                        the product
    RUN/<table>/_manifest/0000/shard-000012-<key>-<content>.json     the commit
    RUN/_manifest/pairs/0000/shard-000003-<key>-<content>.json       that of a part: pairs/ holds nothing but parts

A shard is committed once its manifest is there.  The manifest's name says what the shard was made from (`key`: the
stage's configuration, model revisions and the content of the tables it read) and what it holds (`content`), so one
listing of a folder shows a resuming run what is done, and a shard whose inputs did not change is never made again.
"""

from __future__ import annotations

import contextlib
import copy
import fcntl
import json
import os
import re
import shutil
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, NamedTuple

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from pairmill.atomic import whole_file
from pairmill.checked_json import checked, require_check
from pairmill.config import digest
from pairmill.damage import damaged, undamaged
from pairmill.errors import RunDirError
from pairmill.faults import fault_point
from pairmill.layout import PAIRS
from pairmill.sealed_parquet import open_sealed
from pairmill.table_files import content_digest, data_facts, parquet_bytes
from pairmill.uris import absolute, filesystem_of

#: The folder of a table that holds its commits.
MANIFESTS = "_manifest"

#: Shards whose manifests share a folder, so that the listing a commit needs does not grow with the run.
_MANIFESTS_PER_FOLDER = 1000

#: The name of a manifest: shard, key, content.
_MANIFEST = re.compile(r"shard-([0-9]{6,})-([0-9a-z]+)-([0-9a-z]+)\.json")

#: What every manifest says, and its type.
_OF_EVERY_SHARD = {"shard": int, "rows": int, "bytes": int, "file": str, "key": str, "content": str}


class Entry(NamedTuple):
    """A committed shard: what it was made from, and what it holds (hex digests)."""

    key: str
    content: str


class Store:
    """A run directory on a local disk or in an object store."""

    def __init__(self, uri: str) -> None:
        """uri: a local path (made absolute, `~` expanded) or s3://…, gs://….  Raises UserError for anything else."""
        self.uri = absolute(uri)
        self._fs, self._root = filesystem_of(self.uri)
        self._local = isinstance(self._fs, pafs.LocalFileSystem)

    def __reduce__(self) -> tuple[object, ...]:
        return Store, (self.uri,)

    @property
    def filesystem(self) -> pafs.FileSystem:
        """The file system that `path` belongs to."""
        return self._fs

    @property
    def is_local(self) -> bool:
        """Whether it is a folder of this machine."""
        return self._local

    def path(self, name: str) -> str:
        """The path of `name` in the file system."""
        return f"{self._root}/{name}"

    def within(self, folder: str) -> Store:
        """A folder of this store as a store of its own."""
        made = copy.copy(self)
        made._root = self.path(folder)
        place, mark, options = (self.uri, "", "") if self._local else self.uri.partition("?")
        made.uri = f"{place}/{folder}{mark}{options}"
        return made

    def uri_of(self, path: str) -> str:
        """The address of a path of this file system: with its scheme, if it is not local."""
        scheme, found, _ = self.uri.partition("://")
        return f"{scheme}://{path.lstrip('/')}" if found and not self._local else path

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold a local run directory exclusively until this process ends, however it ends; object stores have no locks.

        Raises RunDirError if another process works in it.
        """
        if not self._local:
            yield
            return
        with self._lock_file() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RunDirError(
                    "run_dir must be used by one job at a time, and another one is running in it",
                    value=self.uri,
                    fix="wait for the other job or stop it, or give another run_dir",
                ) from None
            yield

    def _lock_file(self) -> IO[str]:
        try:
            os.makedirs(self._root, exist_ok=True)
            return open(self.path(".lock"), "w", encoding="ascii")
        except OSError as error:
            raise RunDirError(
                "run_dir must be a folder that can be written", value=error, fix="correct run_dir or its permissions"
            ) from error

    def check_writable(self) -> None:
        """Raise RunDirError for a local run directory that cannot be made or written; nothing is written."""
        if not self._local:
            return
        place = Path(self._root)
        while not os.path.lexists(place) and place != place.parent:
            place = place.parent
        if not (place.is_dir() and os.access(place, os.W_OK | os.X_OK)):
            why = "cannot be written" if place.is_dir() else "is not a folder"
            raise RunDirError(
                "run_dir must be a folder that can be written",
                value=f"{self.uri}: {place} {why}",
                fix="correct run_dir or its permissions",
            )

    @contextlib.contextmanager
    def scratch(self, what: str) -> Iterator[Path]:
        """A folder on this machine's own disk for work on this run, removed afterwards."""
        with tempfile.TemporaryDirectory(prefix=f"pairmill-{what}-{self._scratch}-") as folder:
            yield Path(folder)

    def clear_scratch(self) -> None:
        """Remove scratch folders that killed processes left on this machine; the caller must hold the lock."""
        for folder in Path(tempfile.gettempdir()).glob(f"pairmill-*-{self._scratch}-*"):
            shutil.rmtree(folder, ignore_errors=True)

    @property
    def _scratch(self) -> str:
        return digest(self.uri)

    # Single files

    def write_bytes(self, name: str, data: bytes | memoryview, fault: str = "write") -> None:
        """Write a file so that it is there whole or not at all.

        Raises OSError (disk full, no permission), and leaves nothing behind then.
        """
        final = self.path(name)
        fault_point(f"{fault}.before_write")
        if not self._local:
            # An object appears when its upload completes, so a put is atomic already.
            with self._fs.open_output_stream(final) as stream:
                stream.write(data)
            return
        with whole_file(Path(final), fault=fault) as file:
            file.write(data)
        fault_point(f"{fault}.after_rename")

    def write_json(self, name: str, data: object, fault: str = "write") -> None:
        """Write plain data as JSON, all or nothing."""
        self.write_bytes(name, json.dumps(data, indent=1, ensure_ascii=False, sort_keys=True).encode(), fault)

    def exists(self, name: str) -> bool:
        """Whether there is a file of this name."""
        return bool(self._info(name).type == pafs.FileType.File)

    def _info(self, name: str) -> Any:
        return self._fs.get_file_info(self.path(name))

    def holds(self, name: str) -> bool:
        """Whether there is anything of this name, a folder too."""
        return bool(self._info(name).type != pafs.FileType.NotFound)

    def read_bytes(self, name: str) -> bytes:
        """The bytes of a file.  Raises FileNotFoundError."""
        with self._fs.open_input_stream(self.path(name)) as stream:
            return bytes(stream.read())

    def read_text(self, name: str) -> str | None:
        """The text of a file; None if there is no such file."""
        if self._fs.get_file_info(self.path(name)).type == pafs.FileType.NotFound:
            return None
        with undamaged(self.path(name), local=self._local), self._fs.open_input_stream(self.path(name)) as stream:
            return str(stream.read(), "utf-8")

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        self._delete(self.path(name))

    def read_json(self, name: str) -> Any | None:
        """The JSON data of a file; None if there is no such file."""
        text = self.read_text(name)
        with undamaged(self.path(name), local=self._local):
            return None if text is None else json.loads(text)

    def write_table(self, name: str, table: pa.Table, fault: str = "write", row_group_rows: int | None = None) -> int:
        """Write one parquet file, all or nothing, and return its size in bytes."""
        return self._write_table(name, table, fault, row_group_rows).nbytes

    def _write_table(self, name: str, table: pa.Table, fault: str, row_group_rows: int | None) -> memoryview:
        buffer = parquet_bytes(table, row_group_rows)
        self.write_bytes(name, buffer, fault)
        return buffer

    def read_table(self, name: str, columns: list[str] | None = None) -> pa.Table:
        """One parquet file, or some of its columns.  Raises DamagedError if it is gone or a bit has changed."""
        with self._opened(name) as file:
            return file.read(columns=columns, use_threads=False)

    def schema(self, name: str) -> pa.Schema:
        """The schema of one parquet file.  Raises what `read_table` raises."""
        with self._opened(name) as file:
            return file.schema_arrow

    def batches(self, name: str, rows: int) -> Iterator[pa.RecordBatch]:
        """One parquet file in batches of at most so many rows.  Raises what `read_table` raises."""
        with self._opened(name) as file:
            read = 0
            for batch in file.iter_batches(batch_size=rows, use_threads=False):
                read += len(batch)
                yield batch
            if read != file.metadata.num_rows:  # pyarrow passes over a page whose header has another type
                raise ValueError(f"{read:,} rows of {file.metadata.num_rows:,} can be read")

    @contextlib.contextmanager
    def _opened(self, name: str) -> Iterator[pq.ParquetFile]:
        """A parquet file that was committed: the commit says that it is there."""
        path = self.path(name)
        try:
            with undamaged(path, local=self._local), self._fs.open_input_file(path) as stream:
                yield open_sealed(stream)
        except FileNotFoundError as error:
            raise damaged(path, "it is gone") from error

    def set_aside(self, name: str, folder: str) -> str:
        """Move a file or a folder into a folder of the run, under a name that tells where it was; returns that name.

        Nothing that is there already is replaced.
        """
        number, target = 0, f"{folder}/{name.replace('/', '.')}"
        while self.holds(new := f"{target}.{number}" if number else target):
            number += 1
        self._fs.create_dir(self.path(folder), recursive=True)
        if self._local or self.exists(name):
            self._fs.move(self.path(name), self.path(new))
            return new
        # An object store has no folders to move.
        for info in self._fs.get_file_info(pafs.FileSelector(self.path(name), recursive=True)):
            if info.type == pafs.FileType.File:
                self._fs.move(info.path, self.path(new) + info.path.removeprefix(self.path(name)))
        return new

    def sizes(self, table: str) -> dict[str, int]:
        """The data files of a table and their sizes in bytes, by one listing."""
        found = self._fs.get_file_info(pafs.FileSelector(self.path(table), allow_not_found=True))
        return {info.base_name: info.size for info in found if info.base_name.endswith(".parquet")}

    # Committed shards

    def index(self, table: str) -> dict[int, Entry]:
        """Every committed shard of a table, by one listing."""
        selector = pafs.FileSelector(self.path(_manifests(table)), allow_not_found=True, recursive=True)
        found: dict[int, Entry] = {}
        for info in self._fs.get_file_info(selector):
            if name := _MANIFEST.fullmatch(info.base_name):  # else no manifest of ours
                found[int(name[1])] = Entry(name[2], name[3])
        return found

    def commit(
        self,
        table: str,
        shard: int,
        key: str,
        rows: pa.Table,
        facts: Mapping[str, object],
        row_group_rows: int | None = None,
        volatile: Collection[str] = (),
    ) -> Entry:
        """Commit one shard: its data, then its manifest.

        facts: more entries of the manifest.  volatile: columns that are not part of its content, see `content_digest`.

        Replaces an earlier commit of the shard.  Wherever it is killed, the shard is committed whole or not at all.
        """
        entry = Entry(key, content_digest(rows, volatile))
        self.retract(table, shard)
        data = self._write_table(shard_file(table, shard), rows, f"commit.{table}.data", row_group_rows)
        manifest = {**facts, "shard": shard, "rows": len(rows), **data_facts(data), **entry._asdict()}
        self.write_manifest(table, shard, manifest, f"commit.{table}.manifest")
        return entry

    def write_manifest(self, table: str, shard: int, manifest: Mapping[str, object], fault: str) -> None:
        """Write a manifest under the name that its key and content give it."""
        entry = Entry(str(manifest["key"]), str(manifest["content"]))
        data = json.dumps(checked(manifest), sort_keys=True).encode()
        self.write_bytes(manifest_file(table, shard, entry), data, fault)

    def retract(self, table: str, shard: int, keep: Entry | None = None) -> None:
        """Remove the commits of a shard except `keep` (its data stays until it is replaced)."""
        for name in self._manifest_names(table, shard):
            if keep is None or name != manifest_file(table, shard, keep).rpartition("/")[2]:
                self._delete(self.path(f"{_manifest_folder(table, shard)}/{name}"))

    def entry(self, table: str, shard: int) -> Entry | None:
        """One committed shard, by a listing of its folder; None if it is not committed."""
        names = self._manifest_names(table, shard)
        found = _MANIFEST.fullmatch(names[-1]) if names else None
        return None if found is None else Entry(found[2], found[3])

    def manifest(self, table: str, shard: int, entry: Entry) -> dict[str, Any] | None:
        """The manifest of one committed shard; None if there is none."""
        return next(iter(self.manifests(table, {shard: entry})), None)

    def _manifest_names(self, table: str, shard: int) -> list[str]:
        names = self.names(_manifest_folder(table, shard))
        return [name for name in names if (found := _MANIFEST.fullmatch(name)) and int(found[1]) == shard]

    def remove_shard(self, table: str, shard: int) -> None:
        """Remove the commit of a shard, and delete its data."""
        self.retract(table, shard)
        self._delete(self.path(shard_file(table, shard)))

    def manifests(self, table: str, index: Mapping[int, Entry] | None = None) -> list[dict[str, Any]]:
        """The manifests of committed shards of a table, by shard number.  index: which; None: all."""
        index = self.index(table) if index is None else index
        names = [manifest_file(table, shard, entry) for shard, entry in sorted(index.items())]
        with ThreadPoolExecutor(16) as pool:
            found = list(pool.map(self.read_json, names))
        made: list[dict[str, Any]] = []
        for name, manifest in zip(names, found, strict=True):
            if manifest is None and not self.exists(name):
                continue  # a job has just replaced it
            data = require_check(self.path(name), manifest, "manifest")
            if not all(isinstance(data.get(key), kind) for key, kind in _OF_EVERY_SHARD.items()):
                raise damaged(self.path(name), "it is no manifest")
            if name != manifest_file(table, data["shard"], Entry(data["key"], data["content"])):
                raise damaged(self.path(name), "it is that of another commit")
            made.append(data)
        return made

    def load(self, table: str, shard: int, columns: list[str] | None = None) -> pa.Table:
        """The rows of one committed shard, or some of their columns."""
        return self.read_table(shard_file(table, shard), columns)

    def sweep(self, table: str) -> None:
        """Remove the temporary files that killed writers left in a table's folders; an object store has none."""
        if not self._local:
            return
        for folder in {table, _manifests(table)}:
            selector = pafs.FileSelector(self.path(folder), allow_not_found=True, recursive=True)
            for info in self._fs.get_file_info(selector):
                if info.base_name.endswith(".partial"):
                    self._delete(info.path)

    def names(self, folder: str) -> list[str]:
        """The names of the files in a folder, sorted, without temporary ones; none if there is no such folder."""
        found = self._fs.get_file_info(pafs.FileSelector(self.path(folder), allow_not_found=True))
        return sorted(i.base_name for i in found if i.type == pafs.FileType.File and not i.base_name.startswith("."))

    def folders(self, folder: str) -> list[str]:
        """The names of the folders in a folder, sorted; none if there is no such folder."""
        found = self._fs.get_file_info(pafs.FileSelector(self.path(folder), allow_not_found=True))
        return sorted(i.base_name for i in found if i.type == pafs.FileType.Directory)

    def _delete(self, path: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._fs.delete_file(path)


def _manifest_folder(table: str, shard: int) -> str:
    return f"{_manifests(table)}/{shard // _MANIFESTS_PER_FOLDER:04d}"


def _manifests(table: str) -> str:
    """The folder of a table's commits.  Readers that take a folder for a dataset must find only parts in pairs/."""
    return f"{MANIFESTS}/{table}" if table == PAIRS else f"{table}/{MANIFESTS}"


def manifest_file(table: str, shard: int, entry: Entry) -> str:
    """The name of the commit of a shard."""
    return f"{_manifest_folder(table, shard)}/shard-{shard:06d}-{entry.key}-{entry.content}.json"


def shard_file(table: str, shard: int) -> str:
    """The name of a shard's data file (a shard of the product is called a part)."""
    return f"{table}/{'part' if table == PAIRS else 'shard'}-{shard:06d}.parquet"


def shard_key(identity: object, upstream: Iterable[str]) -> str:
    """The key of a shard: the identity of its stage (plain data) and the contents of the tables it is made from."""
    return digest([identity, list(upstream)])
