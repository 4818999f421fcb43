"""Parquet with an image and one or more texts a row: our own `pairs/`, and other people's files.

A piece is a row group.  Rows are counted from the footers; no data is read for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pairmill.config import digest
from pairmill.damage import of_content, one_line
from pairmill.errors import IntegrityError, RecipeError, nearest
from pairmill.sealed_parquet import read_footer
from pairmill.uris import Found
from training.data import asked_columns, column_forms
from training.data.row_groups import RowGroups
from training.data.sample import samples
from training.data.text_scores import columns_of, with_scores

#: The usual names, most specific first: ours, Hugging Face's, img2dataset's.
IMAGE_COLUMNS = ("image", "jpg", "jpeg", "png", "webp", "image_bytes", "bytes")
TEXT_COLUMNS = ("texts", "captions", "caption", "text", "alt", "TEXT")
LABEL_COLUMNS = ("label", "cls")

_FOOTER_THREADS = 16


class ParquetSource:
    """Row groups of Parquet files that all have the columns of the first."""

    left_out: Mapping[str, int] = {}

    def __init__(
        self,
        found: Found,
        *,
        name: str,
        image_column: str | None = None,
        text_column: str | None = None,
        contents: Sequence[str] | None = None,
        evaluated: bool = False,
        scored_by: Sequence[str] = (),
        asked: Mapping[str, str] = {},
    ) -> None:
        """contents: digest of each file, where they are known (committed parts); else sizes stand for them.
        evaluated: the rows may have a class by number in place of texts, in the text column or one of LABEL_COLUMNS.
        scored_by: dual encoders whose scores are read too (`training.data.text_scores`).
        asked: what the columns that an objective asks for are called (`training.data.asked_columns`).

        Raises RecipeError if a file is not Parquet or lacks image, text, a score or a column, ValueError without any
        file.
        """
        if not found.paths:
            raise ValueError(f"a source must have files: {name}")
        self.name = name
        self._filesystem, self._paths, self._names = found.filesystem, found.paths, found.names
        with ThreadPoolExecutor(_FOOTER_THREADS) as pool:
            footers = list(pool.map(self._footer, found.paths))
        schemas = [footer.schema.to_arrow_schema() for footer in footers]
        schema = _known(schemas)
        self._image = _column(schema, image_column, IMAGE_COLUMNS, "image", column_forms.is_image, name)
        self._label = _label_column(schema, text_column) if evaluated else None
        self.labelled = self._label is not None
        self._text: str | None = None
        if not self.labelled or (text_column is None and any(c in schema.names for c in TEXT_COLUMNS)):
            self._text = _column(schema, text_column, TEXT_COLUMNS, "text", column_forms.is_text, name)
        extra = [c for c in _EXTRA if c in schema.names]
        self._scores = columns_of(schema, scored_by, dataset=name)
        self._asked = dict(asked)
        asked_columns.columns_of(schema, asked, dataset=name)
        self._columns = [self._image, *filter(None, (self._text, self._label)), *extra, *self._scores.values()]
        self._columns = list(dict.fromkeys([*self._columns, *asked.values()]))
        fits = dict(_EXTRA) | {self._image: (column_forms.is_image, _TYPES["image"])}
        if self._text is not None:
            fits[self._text] = column_forms.is_text, _TYPES["text"]
        for path, own in zip(found.paths, schemas, strict=True):
            missing = set(self._columns) - set(own.names)
            if missing:
                raise RecipeError(
                    "every Parquet file of a dataset must have the columns of the first",
                    value=f"{path} lacks {', '.join(sorted(missing))}",
                    fix="give data.path a folder or glob with files of one dataset only",
                )
            for column, (kind, what) in fits.items():
                if column in self._columns:
                    _check_type(own, column, kind, what, path)
            there = {of: column for of, column in asked.items() if not column_forms.is_void(own.field(column).type)}
            asked_columns.columns_of(own, there, dataset=path)
        self._numbers: tuple[str, ...] = ()
        self._groups = RowGroups(found.filesystem, self._columns)
        groups = [
            (f, g, footer.row_group(g).num_rows)
            for f, footer in enumerate(footers)
            for g in range(footer.num_row_groups)
        ]
        table = np.array([group for group in groups if group[2] > 0], np.int64).reshape(-1, 3)
        self._file, self._group, self.rows = table[:, 0], table[:, 1], np.ascontiguousarray(table[:, 2])
        self.pieces = len(self.rows)
        facts = contents if contents is not None else found.sizes
        self.fingerprint = digest(
            [[*file] for file in zip(found.names, facts, [footer.num_rows for footer in footers], strict=True)]
        )

    def read(self, piece: int, start: int = 0, stop: int | None = None) -> pa.Table:
        """Rows [start, stop) of a row group as SAMPLE columns.  Raises IntegrityError if the file lost the group."""
        at, group = int(self._file[piece]), int(self._group[piece])
        try:
            rows = self._groups.read(self._paths[at], group, start, stop)
        except IndexError as error:
            raise IntegrityError(
                f"{self.name} must hold the rows that were counted when the run began: {self._names[at]} has "
                f"{error} row groups, and row group {group} is missing; restore its files, or begin another run"
            ) from None
        first = int(self.rows[(self._file == at) & (self._group < group)].sum()) + start
        uids = column_forms.uids(rows["uid"]) if "uid" in self._columns else [None] * len(rows)
        named = [uid or f"{self._names[at]}/{group}/{start + row}" for row, uid in enumerate(uids)]
        texts: list[object] = [None] * len(rows)
        wrong: list[str | None] = [None] * len(rows)
        if self._text is not None:
            texts, wrong = (
                map(list, zip(*column_forms.values(rows[self._text]), strict=True)) if len(rows) else ([], [])
            )
        texts = [column_forms.listed(text) for text in texts]
        if self._scores:
            numbers = {name: rows[column].to_pylist() for name, column in self._scores.items()}
            texts = [with_scores(one, {name: numbers[name][at] for name in numbers}) for at, one in enumerate(texts)]
        values = {of: column_forms.stored(rows[column]).to_pylist() for of, column in self._asked.items()}
        found = asked_columns.asked_of(values, texts)
        labels = rows[self._label].to_pylist() if self._label is not None else None
        return samples(
            named,
            column_forms.image_bytes(rows[self._image]),
            found.texts,
            self._group_ids(rows),
            labels,
            found.weights,
            found.tags,
            places=[f"{self._names[at]}, row {first + row}" for row in range(len(rows))],
            wrong=[one or other for one, other in zip(wrong, found.wrong, strict=True)],
        )

    def number_by(self, columns: Sequence[str]) -> None:
        """Have these columns given by `numbers`.  Raises RecipeError if a file lacks one."""
        with ThreadPoolExecutor(_FOOTER_THREADS) as pool:
            footers = list(pool.map(self._footer, self._paths))
        for path, footer in zip(self._paths, footers, strict=True):
            column_forms.require_numbers(footer.schema.to_arrow_schema(), columns, path)
        self._numbers = tuple(columns)

    def numbers(self, piece: int, start: int, stop: int) -> NDArray[np.int64]:
        """Rows [start, stop) of a row group, [rows, columns].  Holds the columns of the group while it reads."""
        columns = RowGroups(self._filesystem, self._numbers, whole=True)
        rows = columns.read(self._paths[int(self._file[piece])], int(self._group[piece]), start, stop)
        return column_forms.number_table(rows, self._numbers)

    def _group_ids(self, rows: pa.Table) -> NDArray[np.int64]:
        if "group_id" in self._columns:
            return column_forms.groups(rows["group_id"])
        return column_forms.digests(rows["sha256"]) if "sha256" in self._columns else np.full(len(rows), -1, np.int64)

    def _footer(self, path: str) -> pq.FileMetaData:
        try:
            with self._filesystem.open_input_file(path) as stream:
                return read_footer(stream)
        except Exception as error:
            if not of_content(error, local=True):
                raise
            raise RecipeError(
                "every .parquet file of data.path must be readable",
                value=f"{path}: {one_line(error)}",
                fix="repair or remove the file; of a curated run, `pairmill verify` names what is damaged",
            ) from None


def _known(schemas: Sequence[pa.Schema]) -> pa.Schema:
    """The columns of the first file, each with its type in the first file that has a value of it."""
    fields = []
    for field in schemas[0]:
        typed = (schema.field(field.name) for schema in schemas if field.name in schema.names)
        fields.append(next((one for one in typed if not column_forms.is_void(one.type)), field))
    return pa.schema(fields)


def _column(
    schema: pa.Schema,
    wanted: str | None,
    usual: Sequence[str],
    what: str,
    fits: Callable[[pa.DataType], bool],
    name: str,
) -> str:
    """The column to read: the one asked for, or the first of the usual names that there is."""
    if wanted is not None:
        usual = (wanted,)
    for column in usual:
        if column in schema.names and fits(schema.field(column).type):
            return column
    there = [column for column in usual if column in schema.names]
    fitting = [field.name for field in schema if fits(field.type)]
    fix = f"name one of {', '.join(fitting)}" if fitting else f"give data with such a column: of {name}, none is"
    if 0 < len(close := nearest(wanted or what, fitting).split(", ")) < len(fitting):
        fix += f"; perhaps you mean {', '.join(close)}"
    raise RecipeError(
        f"data.{what}_column must name a column of {_TYPES[what]}",
        value=f"{there[0]} ({schema.field(there[0]).type}) of {name}" if there else f"{wanted or 'null'}, in {name}",
        fix=fix,
    )


def _label_column(schema: pa.Schema, wanted: str | None) -> str | None:
    """The column of class numbers; None if there is none."""
    for column in (wanted,) if wanted is not None else LABEL_COLUMNS:
        if column in schema.names and pa.types.is_integer(schema.field(column).type):
            return column
    return None


_TYPES = {
    "image": "encoded images: bytes, or a struct with a field `bytes` of them",
    "text": "texts: a string, a list of strings, or a list of structs of strings with a field `text`",
}

#: Columns that are read where they are there, what their type must be, and in words.
_EXTRA: Mapping[str, tuple[Callable[[pa.DataType], bool], str]] = {
    "uid": (column_forms.is_uid, "texts, bytes or integers, which name the rows"),
    "group_id": (column_forms.is_group, "integers: rows of one number show the same image"),
    "sha256": (column_forms.is_digest, "hex texts or bytes"),
}


def _check_type(schema: pa.Schema, column: str, fits: Callable[[pa.DataType], bool], what: str, path: str) -> None:
    kind = schema.field(column).type
    if not fits(kind) and not column_forms.is_void(kind):
        raise RecipeError(
            f"the column {column} of a dataset must hold {what}",
            value=f"{kind}, in {path}",
            fix="write the column anew with such a type, or rename it if it is for something else",
        )
