"""The items of an evaluation set: pictures with or without captions, in a folder, Parquet files or webdataset tars.

A set is cut into pieces, of which each is read, fingerprinted and kept by itself: a file of rows, or up to
`_FILES` pictures of a folder.  An item is named by its place in the set (`val/0001.jpg`, `part-0.parquet#12`,
`shard-0.tar/0001`).

Nothing is passed over in silence.  What cannot be read is an item too, without a picture and with its error; so is a
file of rows that breaks off.  Files that hold neither pictures nor captions are counted (`Piece.others`).  As
everywhere, files and folders whose names begin with . or _ are no part of a folder.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from curation.images.header import sniff
from pairmill import tars
from pairmill.bounded_tar import BoundedTar
from pairmill.config import digest, file_stamp
from pairmill.errors import RecipeError
from pairmill.outside_text import storable
from pairmill.uris import find

#: Pictures of a folder in one piece.
_FILES = 1000
#: Rows of a Parquet file that are read at once.
_ROWS = 64
#: Bytes by which a file without a known ending is known for a picture.
_HEAD = 4096

_TARS = (".tar", ".tar.gz", ".tgz")
_JSON_TEXTS = ("texts", "captions", "caption", "text")
_KINDS = {
    **dict.fromkeys(tars.IMAGE_ENDINGS, "image"),
    **dict.fromkeys(tars.TEXT_ENDINGS, "text"),
    "json": "json",
}

#: Usual names of columns, in the order in which they are looked for.
IMAGE_COLUMNS = ("image", "jpg", "jpeg", "png", "webp", "img", "image_bytes", "bytes")
TEXT_COLUMNS = ("captions", "caption", "texts", "text", "txt", "sentences", "alt_text")


class Item(NamedTuple):
    """One of an evaluation set.

    image: encoded; None without one.  status, error: why it is missing, "" where the set has none there.
    """

    name: str
    image: bytes | None
    captions: tuple[str, ...] = ()
    status: str = ""
    error: str = ""


#: The statuses of an item without a picture, beside those of `curation.schema.Status`.
NO_PICTURE, UNREADABLE_FILE = "no_picture", "unreadable_file"


class _File(NamedTuple):
    name: str
    path: str
    size: int
    modified_ns: int | None
    #: Path, size and time of the file of its captions.
    caption: tuple[str, int, int | None] | None = None


class Piece(NamedTuple):
    """A part of a set.  kind: files (pictures, each with the path of its caption), parquet or tar (of one file).

    others: ending -> how many further files of the folder hold nothing that is compared; of the first piece alone.
    """

    kind: str
    files: tuple[_File, ...]
    others: tuple[tuple[str, int], ...] = ()


class EvaluationSet(NamedTuple):
    """Where a set is, and its columns if it is of Parquet; None: those of the usual names."""

    filesystem: pafs.FileSystem
    pieces: tuple[Piece, ...]
    image_column: str | None = None
    text_column: str | None = None

    def content(self, number: int) -> str:
        """Hex digest of what a piece is made of: the bytes of local files, size and time of others."""
        piece = self.pieces[number]
        local = isinstance(self.filesystem, pafs.LocalFileSystem)
        names = {file.name: [*_contents(file, local)] for file in piece.files}
        return digest([piece.kind, names, self.image_column, self.text_column])

    def items(self, number: int) -> Iterator[Item]:
        """The items of a piece, in the order of their files.  Raises RecipeError for a file without the columns."""
        piece = self.pieces[number]
        if piece.kind == "files":
            for file in piece.files:
                yield self._picture(file)
            return
        (file,) = piece.files
        read = self._rows if piece.kind == "parquet" else self._members
        try:
            yield from read(file)
        except (pa.ArrowException, OSError, EOFError, tarfile.TarError) as error:
            yield Item(file.name, None, (), UNREADABLE_FILE, _said(error))

    def check(self) -> None:
        """Raise RecipeError for a Parquet file that lacks the columns."""
        for piece in self.pieces:
            if piece.kind == "parquet":
                try:
                    with self.filesystem.open_input_file(piece.files[0].path) as stream:
                        self._columns(pq.ParquetFile(stream).schema_arrow, piece.files[0].name)
                except (pa.ArrowException, OSError):
                    continue  # it will be an item with its error

    def _picture(self, file: _File) -> Item:
        captions: tuple[str, ...] = ()
        try:
            if file.caption is not None:
                captions = _lines(self._bytes(file.caption[0]).decode("utf-8", "replace"))
            return Item(file.name, self._bytes(file.path), captions)
        except OSError as error:
            return Item(file.name, None, captions, UNREADABLE_FILE, _said(error))

    def _bytes(self, path: str) -> bytes:
        with self.filesystem.open_input_file(path) as stream:
            return bytes(stream.read())

    def _columns(self, schema: pa.Schema, name: str) -> tuple[str | None, str | None]:
        """The columns of pictures and of captions."""
        found = []
        for key, given, usual, fits, what in (
            ("image_column", self.image_column, IMAGE_COLUMNS, _holds_pictures, "encoded pictures"),
            ("text_column", self.text_column, TEXT_COLUMNS, _holds_texts, "texts"),
        ):
            fitting = [one.name for one in schema if fits(one.type)]
            if given is not None and given not in schema.names:
                raise RecipeError(
                    f"{key} of an evaluation set must be a column of its Parquet files",
                    value=f"{given}; {name} has {', '.join(schema.names)}",
                    fix="name another column, or leave it out",
                )
            if given is not None and given not in fitting:
                raise RecipeError(
                    f"{key} of an evaluation set must be a column of {what}",
                    value=f"{given}, which is {schema.field(given).type} in {name}",
                    fix=f"name another column: {', '.join(fitting)}"
                    if fitting
                    else "leave it out, or convert the file",
                )
            found.append(given or next((one for one in usual if one in fitting), None))
        if found == [None, None]:
            raise RecipeError(
                "an evaluation set of Parquet files must have pictures or captions",
                value=f"{name} has {', '.join(schema.names)}",
                fix="set image_column or text_column",
            )
        return found[0], found[1]

    def _rows(self, file: _File) -> Iterator[Item]:
        with self.filesystem.open_input_file(file.path) as stream:
            parquet = pq.ParquetFile(stream)
            image, text = self._columns(parquet.schema_arrow, file.name)
            number = 0
            for batch in parquet.iter_batches(_ROWS, columns=[one for one in (image, text) if one], use_threads=False):
                for row in batch.to_pylist():
                    name, captions = f"{file.name}#{number}", _texts(row[text]) if text else ()
                    number += 1
                    data = _encoded(row[image]) if image else None
                    missing = NO_PICTURE if image and data is None else ""
                    yield Item(name, data, captions, missing, f"{image} is empty" if missing else "")

    def _members(self, file: _File) -> Iterator[Item]:
        left_out: Counter[str] = Counter()
        packed = "gzip" if not file.path.lower().endswith(".tar") else None
        with self.filesystem.open_input_stream(file.path, compression=packed) as stream:
            tar = _Tar.open(fileobj=stream, mode="r|")

            def load(member: tarfile.TarInfo) -> bytes:
                inner = tar.extractfile(member)
                return b"" if inner is None else inner.read()

            for key, files in tars.samples(tar, _KINDS, load, lambda kinds: bool(set(kinds)), left_out):
                captions = _lines(files["text"].decode("utf-8", "replace")) if "text" in files else ()
                if not captions and "json" in files:
                    captions = _of_json(files["json"])
                yield Item(f"{file.name}/{key}", files.get("image"), captions)


class _Tar(BoundedTar):
    #: Pictures are larger than texts.
    largest_member = 2**28


def evaluation_set(path: str, image_column: str | None = None, text_column: str | None = None) -> EvaluationSet:
    """The set at a local path, an address or a pattern.  Raises RecipeError if there is nothing to compare with."""
    found = find(path)
    files = [_File(*one) for one in zip(found.names, found.paths, found.sizes, found.modified_ns, strict=True)]
    by_name = {file.name: file for file in files}
    pieces, pictures, captions = [], [], set()
    others: Counter[str] = Counter()
    for file in files:
        ending = file.name.rpartition("/")[2].rpartition(".")[2].lower() if "." in file.name else ""
        if file.name.lower().endswith(".parquet"):
            pieces.append(Piece("parquet", (file,)))
        elif file.name.lower().endswith(_TARS):
            pieces.append(Piece("tar", (file,)))
        elif ending in tars.IMAGE_ENDINGS or _is_picture(found.filesystem, file, ending):
            folder, slash, name = file.name.rpartition("/")
            caption = by_name.get(f"{folder}{slash}{name.rpartition('.')[0] or name}.txt")
            captions.add(caption and caption.name)
            pictures.append(file._replace(caption=caption and caption[1:4]))
        else:
            others[ending] += 1
    others["txt"] -= len(captions - {None})
    pieces += [Piece("files", tuple(pictures[at : at + _FILES])) for at in range(0, len(pictures), _FILES)]
    if not pieces:
        raise RecipeError(
            "path of an evaluation set must lead to pictures, Parquet files or tars",
            value=f"{path}: {len(files)} files, none of them such",
            fix="correct the path",
        )
    left = tuple(sorted((ending, count) for ending, count in others.items() if count))
    pieces[0] = pieces[0]._replace(others=left)
    return EvaluationSet(found.filesystem, tuple(pieces), image_column, text_column)


def _is_picture(filesystem: pafs.FileSystem, file: _File, ending: str) -> bool:
    """Whether a file without a known ending holds a picture."""
    if ending in ("txt", "json", "jsonl", "csv", "tsv", "md", "html"):
        return False
    try:
        with filesystem.open_input_stream(file.path) as stream:
            return sniff(bytes(stream.read(_HEAD))) is not None
    except OSError:
        return True  # it is named as what cannot be read


def _contents(file: _File, local: bool) -> Iterator[object]:
    """What stands for the bytes of a file and of its caption."""
    if not local:
        yield from (file.size, file.modified_ns, *(file.caption or ())[1:])
        return
    for path in (file.path, *(file.caption or ())[:1]):
        try:
            yield _digest_of(path, file_stamp(Path(path)))
        except OSError as error:
            yield _said(error)


@lru_cache(maxsize=1 << 17)
def _digest_of(path: str, stamp: tuple[int, ...]) -> str:
    with open(path, "rb") as stream:
        whole = hashlib.sha256()
        while chunk := stream.read(1 << 20):
            whole.update(chunk)
        return whole.hexdigest()


def _holds_pictures(kind: pa.DataType) -> bool:
    """Whether a column of this type may be one of pictures: bytes, or Hugging Face's struct."""
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and _holds_pictures(kind.field("bytes").type)
    binary = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary, pa.types.is_binary_view)
    return pa.types.is_null(kind) or any(check(kind) for check in binary)


def _holds_texts(kind: pa.DataType) -> bool:
    """Whether a column of this type may be one of captions: a text, texts, or structs with a text."""
    if pa.types.is_struct(kind):
        return kind.get_field_index("text") >= 0 and _holds_texts(kind.field("text").type)
    if pa.types.is_dictionary(kind) or isinstance(kind, pa.ListType | pa.LargeListType | pa.FixedSizeListType):
        return _holds_texts(kind.value_type)
    texts = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    return pa.types.is_null(kind) or any(check(kind) for check in texts)


def _encoded(value: Any) -> bytes | None:
    """The bytes of a picture: as they are, or in Hugging Face's struct."""
    data = value.get("bytes") if isinstance(value, dict) else value
    return data if isinstance(data, bytes) and data else None


def _texts(value: Any) -> tuple[str, ...]:
    """The captions of a value: a text, texts, or structs with a text."""
    values = value if isinstance(value, list | tuple) else [value]
    found = [one.get("text") if isinstance(one, dict) else one for one in values]
    return tuple(storable(text.strip()) for text in found if isinstance(text, str) and text.strip())


def _lines(text: str) -> tuple[str, ...]:
    return _texts(text.splitlines())


def _of_json(data: bytes) -> tuple[str, ...]:
    try:
        facts = json.loads(data)
    except ValueError:
        return ()
    if not isinstance(facts, dict):
        return ()
    return next((found for key in _JSON_TEXTS if (found := _texts(facts.get(key)))), ())


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:500]


def named(items: Sequence[str], most: int = 5) -> str:
    """The first names of many, for messages."""
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(items[:most]) + more
