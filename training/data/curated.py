"""A run directory of `pairmill curate`: its packed pairs, or any of its selections over the pixels it downloaded.

    selection: null    pairs/part-*.parquet, by row groups
    selection: NAME    images + columns/* of the rows that selections/NAME keeps; a piece is a shard's kept rows

A selection needs no packing: training on it writes no pixel again.  Rows are counted from footers and manifests.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
from numpy.typing import NDArray

from pairmill.config import digest
from pairmill.errors import IntegrityError, RecipeError, nearest
from pairmill.layout import (
    FILTER_TABLE,
    GATE,
    GATE_TABLE,
    GROUP_ID,
    PAIRS,
    SELECTIONS,
    TEXT_SOURCES,
    filter_table,
    kept_rows,
    of_row_texts,
    row_texts,
    score_column,
    score_table,
    select_stage,
    text_scores_column,
    text_scores_table,
)
from pairmill.pending import refuse_pending
from pairmill.recipe_file import run_recipe
from pairmill.store import Entry, Store, shard_file
from pairmill.uris import Found, filesystem_of
from training.data import asked_columns, column_forms
from training.data.parquet import ParquetSource
from training.data.sample import group_ids, samples
from training.data.text_scores import no_scores, with_scores

#: What is read of each table beside the selection; the last three may be missing.  A selection made by its own filters
#: has their table in place of the run's.
_READS: Mapping[str, tuple[str, ...]] = {
    "images": ("image", "sha256"),
    FILTER_TABLE: ("caption", "language"),
    "columns/recaption": ("recaptions",),
    "columns/translate": ("translations",),
    GATE_TABLE: (GATE,),
}


def is_run_directory(path: str) -> bool:
    """Whether a folder is laid out as a run directory with something to train on."""
    filesystem, root = filesystem_of(path)
    infos = filesystem.get_file_info([f"{root}/{PAIRS}", f"{root}/{SELECTIONS}"])
    return any(info.type == pafs.FileType.Directory for info in infos)


def open_pairs(path: str, scored_by: Sequence[str] = (), asked: Mapping[str, str] = {}) -> ParquetSource:
    """The packed pairs of a run directory.  scored_by, asked: as for `ParquetSource`.

    Raises RecipeError if nothing is packed yet, or a score or column is missing, RunDirError while rows are being
    taken out.
    """
    store = Store(path)
    refuse_pending(store)
    index = store.index(PAIRS)
    if not index:
        raise RecipeError(
            "data.path must lead to a run directory with packed pairs, or data.selection must name a selection of it",
            value=path,
            fix=f"let `pairmill curate` finish, or choose a selection: {', '.join(_selections(path)) or 'none yet'}",
        )
    parts = sorted(index)
    paths = tuple(store.path(shard_file(PAIRS, part)) for part in parts)
    names = tuple(shard_file(PAIRS, part) for part in parts)
    found = Found(store.filesystem, paths, names, (0,) * len(parts))
    contents = [index[part].content for part in parts]
    return ParquetSource(
        found,
        name=path,
        image_column="image",
        text_column="texts",
        contents=contents,
        scored_by=scored_by,
        asked=asked,
    )


class SelectionSource:
    """The rows of a run that a selection keeps, read from the tables where they are."""

    labelled = False
    left_out: Mapping[str, int] = {}

    def __init__(self, path: str, selection: str, scored_by: Sequence[str] = (), asked: Mapping[str, str] = {}) -> None:
        """scored_by, asked: as for `ParquetSource`; a column may be of the selection or of any table in `columns/`.

        Raises RecipeError if there is no such selection, the run does not have the tables it needs yet, or its faces
        are to be blurred, and RunDirError while rows are being taken out.
        """
        self.name = f"{path} (selection {selection})"
        self._path, self._store = path, Store(path)
        refuse_pending(self._store)
        _refuse_blurred(self._store, path)
        self._selection = f"{SELECTIONS}/{selection}"
        manifests = self._store.manifests(self._selection)
        if not manifests:
            known = _selections(path)
            raise RecipeError(
                "data.selection must name a selection of the run directory",
                value=f"{selection}, in {path}",
                fix=f"perhaps you mean: {nearest(selection, known)}"
                if known
                else "let the run finish: it has none yet",
            )
        own = filter_table(selection)
        filters = own if self._store.index(own) else FILTER_TABLE
        self._reads = {filters if name == FILTER_TABLE else name: columns for name, columns in _READS.items()}
        if not _is_gated(self._store):
            del self._reads[GATE_TABLE]
        self._scored_by = tuple(scored_by)
        for name in self._scored_by:
            self._reads |= self._of_scores(name, selection)
        self._asked, self._own = dict(asked), list[str]()
        #: Column of integers -> the table that it is read from.
        self._numbered: dict[str, str] = {}
        needed = list(self._reads)[:2] + [table for table in map(self._table_of, asked, asked.values()) if table]
        indexes = {name: self._store.index(name) for name in self._reads}
        # A shard without verdicts beside shards with them would bring back what gates refuse.
        needed += [GATE_TABLE] if indexes.get(GATE_TABLE) else []
        self._check(indexes, [int(m["shard"]) for m in manifests], needed)
        #: Column -> its sum over the rows kept of each shard.
        self._sums = {int(m["shard"]): _sums(m) for m in manifests}
        kept = [(int(m["shard"]), kept_rows(m)) for m in manifests]
        kept = [(shard, rows) for shard, rows in kept if rows]
        self._shards = np.array([shard for shard, _ in kept], np.int64)
        self.rows = np.array([rows for _, rows in kept], np.int64)
        self.pieces = len(kept)
        self._tables = {
            name: np.array([shard in index for shard, _ in kept], np.bool_) for name, index in indexes.items()
        }
        self.fingerprint = digest(
            [
                [m["content"] for m in manifests],
                *[[_content(index, shard) for shard, _ in kept] for _, index in sorted(indexes.items())],
            ]
        )

    def read(self, piece: int, start: int = 0, stop: int | None = None) -> pa.Table:
        """Rows [start, stop) of the rows kept of a shard, as SAMPLE columns."""
        shard = int(self._shards[piece])
        grouped = GROUP_ID in self._store.schema(shard_file(self._selection, shard)).names
        chosen = self._store.load(self._selection, shard, ["uid", "keep", *([GROUP_ID] if grouped else []), *self._own])
        kept = pc.indices_nonzero(chosen["keep"]).slice(start, None if stop is None else stop - start)
        rows = chosen.drop_columns(["keep"]).take(kept)
        for name, there in self._tables.items():
            if there[piece]:
                loaded = self._store.load(name, shard, ["uid", *self._reads[name]]).take(kept)
                if not loaded["uid"].equals(rows["uid"]):
                    raise _other_rows(name, self._selection, shard)
                for column in self._reads[name]:
                    rows = rows.append_column(column, loaded[column])
        sources = rows.select([name for name in TEXT_SOURCES if name in rows.schema.names]).to_pylist()
        texts: list[Any] = [row_texts(row) for row in sources]
        if self._scored_by:
            numbers = [self._scores(rows, name, sources) for name in self._scored_by]
            scores = [dict(zip(self._scored_by, row, strict=True)) for row in zip(*numbers, strict=True)]
            texts = [with_scores(row, found) for row, found in zip(texts, scores, strict=True)]
        ids = column_forms.groups(rows[GROUP_ID]) if grouped else group_ids(rows["sha256"].to_pylist())
        found = asked_columns.asked_of({of: rows[column].to_pylist() for of, column in self._asked.items()}, texts)
        return samples(
            rows["uid"].to_pylist(),
            rows["image"],
            found.texts,
            ids,
            weights=found.weights,
            tags=found.tags,
            wrong=found.wrong,
        )

    def number_by(self, columns: Sequence[str]) -> None:
        """Have these columns given by `numbers`, of the selection or of any table in `columns/`.

        Raises RecipeError if no table has one for every shard.
        """
        shards = self._shards.tolist()
        contents = []
        for column in columns:
            known: list[str] = []
            for table in [self._selection, *self._reads, *self._others()]:
                index = self._store.index(table)
                if any(shard not in index for shard in shards):
                    continue
                schema = self._store.schema(shard_file(table, shards[0]))
                known += [field.name for field in schema if column_forms.is_group(field.type)]
                if column in known:
                    break
            else:
                raise column_forms.no_numbers(column, self.name, sorted(set(known)))
            self._numbered[column] = table
            contents.append([column, [_content(index, shard) for shard in shards]])
        self.fingerprint = digest([self.fingerprint, contents])

    def numbers(self, piece: int, start: int, stop: int) -> NDArray[np.int64]:
        """Rows [start, stop) of the rows kept of a shard, [rows, columns]."""
        shard = int(self._shards[piece])
        chosen = self._store.load(self._selection, shard, ["uid", "keep"])
        kept = pc.indices_nonzero(chosen["keep"]).slice(start, stop - start)
        found = {}
        for column, table in self._numbered.items():
            rows = self._store.load(table, shard, ["uid", column])
            if not rows["uid"].equals(chosen["uid"]):
                raise _other_rows(table, self._selection, shard)
            found[column] = rows[column].take(kept)
        return column_forms.number_table(found, list(found))

    def _table_of(self, name: str, column: str) -> str | None:
        """Have a column read that is asked for; its table, None if that is the selection.

        Raises RecipeError if no table has it, in a form that fits.
        """
        known: list[str] = []
        for table in [self._selection, *self._reads, *self._others()]:
            shards = self._store.index(table)
            if not shards:
                continue
            schema = self._store.schema(shard_file(table, min(shards)))
            fitting = [field.name for field in schema if asked_columns.fits(name, field.type)]
            known += fitting
            if column not in fitting:
                continue
            if table == self._selection:
                self._own = list(dict.fromkeys([*self._own, column]))
                return None
            self._reads[table] = tuple(dict.fromkeys([*self._reads.get(table, ()), column]))
            return table
        raise asked_columns.no_column(name, column, self.name, sorted(set(known)))

    def _others(self) -> list[str]:
        """The tables of columns that are not of another selection; those of this one first."""
        selection = PurePosixPath(self._selection).name
        behind = tuple(f"-{other}" for other in _selections(self._path) if other != selection)
        found = [t for t in _folders(self._path, "columns") if not t.endswith(behind)]
        tables = [f"columns/{t}" for t in sorted(found, key=lambda t: (not t.endswith(f"-{selection}"), t))]
        return [table for table in tables if table not in self._reads]

    def _of_scores(self, name: str, selection: str) -> dict[str, tuple[str, ...]]:
        """The tables of an encoder's scores; one of captions must be there.  Raises RecipeError if there is none."""
        # A selection made by its own filters has its own table.
        found = next(filter(self._store.index, (f"{score_table(name)}-{selection}", score_table(name))), None)
        if found is None:
            raise no_scores(name, self.name)
        return {found: (score_column(name),), text_scores_table(name): (text_scores_column(name),)}

    @staticmethod
    def _scores(rows: pa.Table, name: str, sources: Sequence[Mapping[str, Any]]) -> list[Any]:
        """For each row, the scores of its texts, or that of its caption, where no model wrote any for it.

        sources: what the texts of each row are made from.
        """
        captions, texts = (
            rows[column].to_pylist() if column in rows.schema.names else [None] * len(rows)
            for column in (score_column(name), text_scores_column(name))
        )
        texts = [of_row_texts(row, scores) for row, scores in zip(sources, texts, strict=True)]
        return [caption if of_texts is None else of_texts for caption, of_texts in zip(captions, texts, strict=True)]

    def weights(self, column: str) -> NDArray[np.float64]:
        """The sum of a column of weights over the rows of each piece, [pieces], without reading it.

        Raises RecipeError if the selection has no such column.
        """
        sums = [self._sums[shard] for shard in self._shards.tolist()]
        if any(column not in found for found in sums):
            known = sorted(set().union(*sums))
            raise RecipeError(
                "data.weight must name a column of weights of the selection",
                value=f"{column}, in {self.name}",
                fix=f"perhaps you mean: {nearest(column, known)}"
                if known
                else "give the selection a weight in the curation recipe, or set null",
            )
        return np.array([found[column] for found in sums], np.float64)

    def row_weights(self, piece: int, column: str) -> NDArray[np.float64]:
        """A column of weights of the rows of a piece, [rows]."""
        chosen = self._store.load(self._selection, int(self._shards[piece]), ["keep", column])
        return np.asarray(chosen[column].filter(chosen["keep"]), np.float64)

    def _check(self, indexes: Mapping[str, Mapping[int, Entry]], shards: list[int], needed: Sequence[str]) -> None:
        for name in needed:
            missing = [shard for shard in shards if shard not in indexes[name]]
            if missing:
                raise RecipeError(
                    f"every shard of the selection must have a committed {name} table",
                    value=f"{len(missing)} of {len(shards)} shards of {self.name} lack it",
                    fix="run `pairmill curate` again: it makes what is missing",
                )


def _other_rows(table: str, selection: str, shard: int) -> IntegrityError:
    return IntegrityError(f"{table} must have the rows of {selection}, in their order: shard {shard} has others")


def _is_gated(store: Store) -> bool:
    """Whether the run's recipe has gates; the table of one that had them before says nothing."""
    gate = run_recipe(store).get(GATE)
    return not isinstance(gate, Mapping) or gate.get("enabled") is not False


def _refuse_blurred(store: Store, path: str) -> None:
    """Raise RecipeError for a run whose product has blurred faces: the store's, which selections read, do not."""
    pack = run_recipe(store).get("pack")
    head = pack.get("blur_faces") if isinstance(pack, Mapping) else None
    if head is not None:
        raise RecipeError(
            "data.selection must be null for a run that blurs faces: they are blurred in its packed pairs only",
            value=f"pack.blur_faces: {head}, in the recipe of {path}",
            fix="set data.selection: null, to train on pairs/; pack.selection of the run's recipe says what they are",
        )


def _sums(manifest: Mapping[str, Any]) -> dict[str, float]:
    facts = manifest.get("facts", {}).get(select_stage(manifest["stages"]), {})
    return {name: float(value) for name, value in facts.items()}


def _content(index: Mapping[int, Entry], shard: int) -> str | None:
    return index[shard].content if shard in index else None


def _selections(path: str) -> list[str]:
    return _folders(path, SELECTIONS)


def _folders(path: str, within: str) -> list[str]:
    filesystem, root = filesystem_of(path)
    selector = pafs.FileSelector(f"{root}/{within}", allow_not_found=True)
    folders = [i.path for i in filesystem.get_file_info(selector) if i.type == pafs.FileType.Directory]
    return sorted(PurePosixPath(folder).name for folder in folders)
