"""What a run keeps of an evaluation set: a line for each item, in `references/NAME/`, a file for each piece of the set.

It is made once.  A piece is made again if the bytes of its files change, or what is kept of an item (the kinds of
matches, how pictures are stored, the model of an embedding).  It holds what is needed to show a match: the name of the
item, its captions and a small picture.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from curation.decontamination.evaluation_set import EvaluationSet, Item, named
from curation.decontamination.match_kinds import MatchKind, Pictured
from curation.images.config import ImageConfig
from curation.schema import Status
from pairmill.config import digest
from pairmill.layout import REFERENCES
from pairmill.own_code import Guard
from pairmill.registry import is_import_path
from pairmill.store import Store

if TYPE_CHECKING:
    from curation.embedding.stage import Embed
    from curation.images.inspect import Inspected

T = TypeVar("T")

#: What is kept of every item; the kinds of matches add their own columns.
REFERENCE = pa.schema(
    [
        ("item", pa.string()),  # its name in the set
        ("status", pa.string()),  # success, what is wrong with its picture, or null: it has captions alone
        ("error", pa.string()),
        ("sha256", pa.string()),  # of the picture's file, also of one that cannot be decoded
        ("phash", pa.uint64()),
        ("colours", pa.binary()),
        ("original_width", pa.int32()),
        ("original_height", pa.int32()),
        ("captions", pa.list_(pa.string())),
        ("thumbnail", pa.binary()),  # WebP, at most `THUMBNAIL` pixels wide and high
    ]
)

#: Longer side of the small pictures.
THUMBNAIL = 160
#: Raised when a correction of this code makes fingerprints differ.
_VERSION = 2  # 2: colours of 8 x 8 parts
#: Items whose pictures are held at a time.
_AT_A_TIME = 256


def reference_table(name: str) -> str:
    """The table of an evaluation set.  name: in the section `decontaminate`."""
    return f"{REFERENCES}/{name}"


def piece_key(given: EvaluationSet, number: int, identity: object) -> str:
    """What a piece's fingerprints are made from.  identity: plain data for what is kept of an item."""
    return digest([_VERSION, identity, given.content(number)])


def stale_pieces(store: Store, name: str, given: EvaluationSet, identity: object) -> list[int]:
    """The pieces that are missing or out of date; files of pieces that there are no more are removed."""
    committed = store.index(reference_table(name))
    for number in sorted(committed.keys() - set(range(len(given.pieces)))):
        store.remove_shard(reference_table(name), number)
    return [
        number
        for number in range(len(given.pieces))
        if number not in committed or committed[number].key != piece_key(given, number, identity)
    ]


def make_piece(
    store: Store,
    name: str,
    given: EvaluationSet,
    number: int,
    identity: object,
    kinds: Sequence[MatchKind],
    config: ImageConfig,
    models: Mapping[str, Embed],
) -> None:
    """Fingerprint a piece of a set and commit it.  models: loaded."""
    rows = fingerprints(given.items(number), kinds, config, models)
    facts = {"items": len(rows), "unread": unread_counts(rows), "others": dict(given.pieces[number].others)}
    store.commit(reference_table(name), number, piece_key(given, number, identity), rows, facts)


def fingerprints(
    items: Iterator[Item], kinds: Sequence[MatchKind], config: ImageConfig, models: Mapping[str, Embed]
) -> pa.Table:
    """What is kept of items, `REFERENCE` and the columns of the kinds.  config: of the run's own pictures."""
    schema = pa.schema([*REFERENCE, *(field for kind in kinds for field in kind.columns)])
    tables = [schema.empty_table()]
    while some := list(islice(items, _AT_A_TIME)):
        pictured = [Pictured(item, _inspected(item, config)) for item in some]
        columns: dict[str, list[Any]] = {name: [] for name in REFERENCE.names}
        for one in pictured:
            for column, value in _line(one).items():
                columns[column].append(value)
        table = pa.table(columns, schema=REFERENCE)
        for kind in kinds:
            made = called(kind, partial(kind.fingerprints, pictured, models))
            for field in kind.columns:
                table = table.append_column(field, made[field.name])
        tables.append(table)
    return pa.concat_tables(tables)


def _inspected(item: Item, config: ImageConfig) -> Inspected:
    """What becomes of an item's picture; of one that it lacks, no status of a picture."""
    from curation.images.inspect import Inspected, inspect_image

    if item.image is None:
        return Inspected(Status.NOT_AN_IMAGE, item.error)
    return inspect_image(item.image, config, frozenset())


def _line(one: Pictured) -> dict[str, Any]:
    item, inspected = one
    there = inspected.status is Status.SUCCESS
    status = inspected.status.value if item.image is not None else item.status or None
    return {
        "item": item.name,
        "status": status,
        "error": inspected.error or None,
        "sha256": inspected.sha256 or None,
        "phash": inspected.phash if there else None,
        "colours": inspected.colours if there else None,
        "original_width": inspected.original_width or None,
        "original_height": inspected.original_height or None,
        "captions": list(item.captions),
        "thumbnail": _thumbnail(inspected.image) if there else None,
    }


def _thumbnail(image: bytes) -> bytes:
    from PIL import Image

    with Image.open(io.BytesIO(image)) as picture:
        small = picture.convert("RGB")
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    stream = io.BytesIO()
    small.save(stream, "WEBP", quality=80)
    return stream.getvalue()


def unread_counts(rows: pa.Table) -> dict[str, int]:
    """How many items have a picture that could not be read, by status."""
    return dict(Counter(one for one in rows["status"].to_pylist() if one not in (None, Status.SUCCESS.value)))


def report_unread(store: Store, name: str) -> str:
    """What of an evaluation set could not be compared in full, in words; '' if all could.

    The table has each by name: those whose status is neither null nor success.
    """
    rows = load_reference(store, name, ("item", "status"))
    broken = rows.filter(pc.fill_null(pc.not_equal(rows["status"], Status.SUCCESS.value), False))
    others = sum((Counter(one.get("others") or {}) for one in store.manifests(reference_table(name))), Counter[str]())
    said = []
    if len(broken):
        counts = ", ".join(
            f"{count} {status}" for status, count in sorted(Counter(broken["status"].to_pylist()).items())
        )
        said.append(
            f"{len(broken)} of {len(rows)} items could not be read ({counts}), and what a run has of them may stay: "
            f"{named(broken['item'].to_pylist())}"
        )
    if others:
        counts = ", ".join(
            f"{count} {f'.{ending}' if ending else 'without ending'}" for ending, count in others.items()
        )
        said.append(f"{sum(others.values())} files hold neither pictures nor captions ({counts})")
    return "; ".join(said)


def load_reference(store: Store, name: str, columns: Collection[str] | None = None) -> pa.Table:
    """The fingerprints of an evaluation set, in the order of its pieces.  Raises DamagedError."""
    table = reference_table(name)
    chosen = None if columns is None else list(columns)
    loaded = [store.load(table, number, chosen) for number in sorted(store.index(table))]
    return pa.concat_tables(loaded) if loaded else REFERENCE.empty_table()


def indexed(store: Store, name: str, kinds: Sequence[MatchKind], settings: str) -> tuple[list[str], list[Any]]:
    """The names of a set's items, and the index of each kind, made once per process.

    settings: digest of the kinds.
    """
    entries = tuple(sorted((number, entry.content) for number, entry in store.index(reference_table(name)).items()))
    key = (store.uri, name, entries, settings)
    if _INDEXES.get("key") != key:
        reference = load_reference(store, name)
        _INDEXES.update(key=key, names=reference["item"].to_pylist())
        _INDEXES["indexes"] = [called(kind, partial(kind.index, reference)) for kind in kinds]
    return _INDEXES["names"], _INDEXES["indexes"]


#: The last index that was asked for: one set is worked on at a time, and several would fill the memory.
_INDEXES: dict[str, Any] = {}


def called(kind: MatchKind, work: Callable[[], T]) -> T:
    """What a method of a kind returns; of one that is not ours within its time limit, or with a JobError."""
    if not is_import_path(kind.config.name):
        return work()
    return Guard(f"decontaminate.kinds: {kind.config.name}", kind.timeout_s).called(work)
