"""Read a bundle: pieces from disk, images to pixels, texts to tokens.

Shapes: N rows of the bundle, H and W pixels, K text slots.  A row whose image or texts cannot be used stays, as zeros
with the reason why, so that batches have static shapes and nothing is lost uncounted.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pairmill.errors import IntegrityError
from pairmill.faults import fault_point
from pairmill.registry import NamedConfig
from training.data.asked_columns import NOISE, TAGS, UNKNOWN, WEIGHT, noise_of, tags_of
from training.data.config import Slot
from training.data.cursor import BundleSpec, Span
from training.data.sample import Numbered, Source, hex_id, sample_id
from training.data.strong_views import CROP_BOXES, CROPS, IMAGE_CROPS, PlacedCrops, StrongTransform
from training.data.text_transforms import TEXT_TRANSFORMS, Text
from training.data.texts import TextChooser, edited, kind_code, language_code, row_generator, row_texts, text_group
from training.data.weighted import WeightedSource

#: Why a row is not valid, by code: 0 is a valid row, the last is not a row but padding of the batch.
STATUSES = ("valid", "missing_image", "corrupt_image", "no_text", "empty_text", "bad_row", "padding")
VALID, MISSING_IMAGE, CORRUPT_IMAGE, NO_TEXT, EMPTY_TEXT, BAD_ROW, PADDING = range(len(STATUSES))

#: Problems of a bundle's rows that are told one by one.
_TOLD = 50

#: The metadata of a bundle's table that holds its problems.
_PROBLEMS = b"problems"

#: The columns of a bundle's table without those, and without the image.
_PLAIN = ("tokens", "kind", "language", "status", "sample_id", "group_id")

#: What the names of what was asked for begin with in a bundle's table.
_ASKED = "asked."

#: Purposes of a row's random numbers.
_TEXTS, _CROP, _VIEWS, _PLACED, _VIEW_TEXTS = range(5)

#: The images of the need `views` among what a bundle's rows are asked for, uint8 [N, V, H, W, 3].
IMAGE_VIEWS = "image_views"

#: Texts to unpadded token ids, start and end tokens included, truncated to the model's context length.
Tokenize = Callable[[list[str]], Sequence[Sequence[int] | NDArray[np.int32]]]


class Transform(Protocol):
    """Encoded bytes to uint8 [height, width, 3], or None if they cannot be decoded."""

    height: int
    width: int

    def __call__(self, data: bytes, rng: np.random.Generator) -> NDArray[np.uint8] | None:
        """`rng` is the row's own."""
        ...


class Layout(NamedTuple):
    """Which of a row's texts are which: K, then V, then N of them."""

    slots: int
    views: int = 0
    negatives: int = 0


class Views(NamedTuple):
    """How further views are made, for the need `views`."""

    number: int  #: V
    transform: Transform
    texts: tuple[NamedConfig, ...] = ()  #: transforms of the text of each view


class Bundle(NamedTuple):
    """N decoded rows in the order they are consumed.

    images:    uint8 [N, H, W, 3]; zeros where the row is not valid.
    ids:       int32 [tokens]; those of row n, slot k are ids[offsets[n*K + k] : offsets[n*K + k + 1]], none if the
               slot is empty.
    offsets:   int64 [N*K + 1].
               With views and negatives, K is that of all texts here: see `Layout`.
    kind:      int8 [N, K], `texts.kind_code`.
    language:  int16 [N, K], `texts.language_code`.
    status:    int8 [N], a code of STATUSES.
    sample_id, group_id: int64 [N]; group_id -1 is unknown.
    problems:  rows, by file and row, and what of them cannot be used; the first ones.
    asked:     [N, …] each, the columns of `asked_columns.COLUMNS` that the reader asks for, and IMAGE_VIEWS,
               IMAGE_CROPS, CROP_BOXES.
    """

    images: NDArray[np.uint8]
    ids: NDArray[np.int32]
    offsets: NDArray[np.int64]
    kind: NDArray[np.int8]
    language: NDArray[np.int16]
    status: NDArray[np.int8]
    sample_id: NDArray[np.int64]
    group_id: NDArray[np.int64]
    problems: tuple[str, ...] = ()
    asked: Mapping[str, NDArray[Any]] = {}


@dataclass(frozen=True)
class Reader:
    """All that reading needs besides the spec: picklable, the same in every process.

    slots: K.  seed: of the run; crops and text draws depend on it, on the row and on the epoch.  group: `data.group`.
    columns: of the names of `asked_columns.COLUMNS`, those to read; the sources were opened with them.
    views, negatives: for the needs of these names; None or empty: not needed.  placed: for the need `view_tokens`.
    """

    sources: Sequence[Source]
    transform: Transform
    slots: tuple[Slot, ...]
    tokenize: Tokenize
    seed: int
    group: str = "image"
    columns: tuple[str, ...] = ()
    views: Views | None = None
    negatives: tuple[Slot, ...] = ()
    placed: StrongTransform | None = None

    @property
    def layout(self) -> Layout:
        """Which texts its bundles have."""
        return Layout(len(self.slots), self.views.number if self.views is not None else 0, len(self.negatives))

    def bytes_per_row(self) -> int:
        """Bytes of a decoded row, about."""
        pixels = self.transform.height * self.transform.width * 3
        images = 1 + self.layout.views + (CROPS if self.placed is not None else 0)
        return pixels * images + 512 * sum(self.layout)

    def __call__(self, spec: BundleSpec) -> Bundle:
        """Read a bundle."""
        return read_bundle(spec, self)


def read_bundle(spec: BundleSpec, reader: Reader) -> Bundle:
    """The rows of a bundle, in their order.

    Raises OSError if a file cannot be read, IntegrityError if it does not hold the rows that were counted.
    """
    fault_point("train.read_bundle")
    source = reader.sources[spec.dataset]
    rows = pa.concat_tables([_read(source, span, spec, reader.seed) for span in spec.spans])
    order = spec.order(_numbers(source, spec))
    if len(rows) != spec.rows + spec.skip:
        raise IntegrityError(
            f"{source.name} must hold the rows that were counted when the run began: {len(rows)} in place of "
            f"{spec.rows + spec.skip}; restore its files, or start another run"
        )
    rows = rows.select(["uid", "texts", "scores", "group_id", "image", "problem", "weight", "tags"])
    uids, all_texts, all_scores = (rows[name].to_pylist() for name in ("uid", "texts", "scores"))
    image_column, problems = rows["image"], rows["problem"].to_pylist()
    groups = np.asarray(rows["group_id"].to_numpy(), np.int64)[order]

    n, k, layout = len(order), len(reader.slots), reader.layout
    images = np.zeros((n, reader.transform.height, reader.transform.width, 3), np.uint8)
    views = np.zeros((n, layout.views, *images.shape[1:]), np.uint8)
    crops = PlacedCrops(n, reader.placed)
    status = np.zeros(n, np.int8)
    sample_ids = np.array([sample_id(uids[at]) for at in order], np.int64)
    # Of equal slots each draws another text, so a view of the first slot is another one while there is any.
    choose = TextChooser((*reader.slots, *reader.slots[:1] * layout.views, *reader.negatives))
    edits = [TEXT_TRANSFORMS.get(one.name)(one) for one in reader.views.texts] if reader.views is not None else []
    chosen: list[list[Text | None]] = []
    for row, at in enumerate(order.tolist()):
        identity = int(sample_ids[row])
        texts = row_texts(all_texts[at], all_scores[at])
        picked = choose(texts, row_generator(reader.seed, identity, spec.epoch, _TEXTS))
        picked[k + layout.views :] = _once(picked[k + layout.views :])
        if not any(picked[:k]):
            empty = EMPTY_TEXT if all_texts[at] and not texts else NO_TEXT
            status[row] = BAD_ROW if problems[at] and not texts else empty
        else:
            crop = row_generator(reader.seed, identity, spec.epoch, _CROP)
            image = image_column[at].as_py()
            status[row] = _fill(images[row], image, reader.transform, crop)
            if status[row] == VALID and reader.views is not None:
                draw = row_generator(reader.seed, identity, spec.epoch, _VIEWS)
                for view in views[row]:
                    _fill(view, image, reader.views.transform, draw)
                some = next(filter(None, picked))  # the first slot may have none
                draw = row_generator(reader.seed, identity, spec.epoch, _VIEW_TEXTS)
                picked[k : k + layout.views] = [
                    edited(one or some, edits, draw) for one in picked[k : k + layout.views]
                ]
            if status[row] == VALID:
                crops.fill(row, image, row_generator(reader.seed, identity, spec.epoch, _PLACED))
            if status[row] == VALID and groups[row] < 0 and reader.group == "image":
                groups[row] = hex_id(hashlib.sha256(image).hexdigest())
        chosen.append(picked if status[row] == VALID else [None] * sum(layout))
    ids, offsets = _tokens([text for picked in chosen for text in picked], reader.tokenize)
    if reader.group == "text":
        groups = np.array([text_group(picked[0]) for picked in chosen], np.int64)
    # Some tokenizers have no start and end tokens, and give no ids for some texts.
    there = np.diff(offsets).reshape(n, sum(layout)) > 0
    wordless = (status == VALID) & ~there[:, :k].any(1)
    status[wordless], images[wordless], views[wordless] = EMPTY_TEXT, 0, 0
    crops.clear(wordless)
    kinds = [[kind_code(text.kind if text else None) for text in picked] for picked in chosen]
    languages = [[language_code(text.language if text else None) for text in picked] for picked in chosen]
    return Bundle(
        images,
        ids,
        offsets,
        kind=np.where(there, np.array(kinds, np.int8), np.int8(-1)),
        language=np.where(there, np.array(languages, np.int16), np.int16(-1)),
        status=status,
        sample_id=sample_ids,
        group_id=groups,
        problems=tuple(problem for at in order if (problem := problems[at]))[:_TOLD],
        asked={
            **_asked(reader.columns, rows, order, [picked[:k] for picked in chosen]),
            **({IMAGE_VIEWS: views} if layout.views else {}),
            **crops.asked,
        },
    )


def _asked(
    columns: Sequence[str], rows: pa.Table, order: NDArray[np.int64], chosen: Sequence[Sequence[Text | None]]
) -> dict[str, NDArray[Any]]:
    """The columns that are asked for, of rows in their order, with their chosen texts."""
    made: dict[str, Callable[[], NDArray[Any]]] = {
        NOISE: lambda: np.array(
            [[noise_of(text.scores) if text else UNKNOWN[NOISE] for text in picked] for picked in chosen], np.float32
        ),
        WEIGHT: lambda: np.asarray(
            rows["weight"].combine_chunks().fill_null(UNKNOWN[WEIGHT]).to_numpy(zero_copy_only=False), np.float32
        )[order],
        TAGS: lambda: np.stack([tags_of(tags) for tags in rows["tags"].to_pylist()])[order],
    }
    return {name: made[name]() for name in columns}


def _read(source: Source, span: Span, spec: BundleSpec, seed: int) -> pa.Table:
    """The rows of a span; of a source that is drawn by weights, those of the epoch."""
    if isinstance(source, WeightedSource):
        words = None if spec.seed is None else (seed, spec.dataset, spec.epoch)
        return source.drawn(span.piece, span.start, span.stop, words=words)
    return source.read(span.piece, span.start, span.stop)


def _numbers(source: Source, spec: BundleSpec) -> list[NDArray[np.int64]]:
    """What the batch policy goes by, of the rows of its window."""
    if not isinstance(source, Numbered):
        if spec.window:
            raise IntegrityError(f"a batch policy must have a source with its columns: {source.name}")
        return []
    return [
        np.concatenate([source.numbers(span.piece, span.start, span.stop) for span in spans]) for spans in spec.window
    ]


def _once(texts: Sequence[Text | None]) -> list[Text | None]:
    """Each text the first time only: a row with fewer of them than slots would have some count twice."""
    return [text if text is not None and text not in texts[:at] else None for at, text in enumerate(texts)]


def _fill(into: NDArray[np.uint8], data: bytes | None, transform: Transform, rng: np.random.Generator) -> int:
    if not data:
        return MISSING_IMAGE
    pixels = transform(data, rng)
    if pixels is None:
        return CORRUPT_IMAGE
    into[:] = pixels
    return VALID


def _tokens(texts: Iterable[Text | None], tokenize: Tokenize) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Token ids of all slots laid end to end, and where each slot's begin."""
    slots = list(texts)
    there = [text.text for text in slots if text is not None]
    made = [np.asarray(ids, np.int32) for ids in (tokenize(there) if there else [])]
    if len(made) != len(there):
        raise IntegrityError(f"a tokenizer must answer each text: {len(made)} answers to {len(there)}")
    lengths = np.zeros(len(slots), np.int64)
    lengths[[at for at, text in enumerate(slots) if text is not None]] = [len(ids) for ids in made]
    return np.concatenate([np.zeros(0, np.int32), *made]), np.concatenate([[0], np.cumsum(lengths)])


def to_table(bundle: Bundle) -> pa.Table:
    """A bundle as an Arrow table of N rows that shares its memory, to travel through Ray's object store."""
    n, k = bundle.kind.shape
    pixels = pa.py_buffer(np.ascontiguousarray(bundle.images))
    width = int(np.prod(bundle.images.shape[1:]))
    slots = pa.ListArray.from_arrays(pa.array(bundle.offsets, pa.int32()), pa.array(bundle.ids, pa.int32()))
    return pa.table(
        {
            "image": pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), n, [None, pixels]),
            "tokens": pa.FixedSizeListArray.from_arrays(slots, k),
            "kind": pa.FixedSizeListArray.from_arrays(pa.array(bundle.kind.reshape(-1)), k),
            "language": pa.FixedSizeListArray.from_arrays(pa.array(bundle.language.reshape(-1)), k),
            "status": pa.array(bundle.status),
            "sample_id": pa.array(bundle.sample_id),
            "group_id": pa.array(bundle.group_id),
            **{f"{_ASKED}{name}": _rows_of(values) for name, values in bundle.asked.items()},
        }
    ).replace_schema_metadata({_PROBLEMS: json.dumps(bundle.problems)})


def _rows_of(values: NDArray[Any]) -> pa.Array:
    """[N] or [N, …] as a column of numbers or of lists."""
    flat = pa.array(np.ascontiguousarray(values).reshape(-1))
    return flat if values.ndim == 1 else pa.FixedSizeListArray.from_arrays(flat, int(np.prod(values.shape[1:])))


def from_table(table: pa.Table, height: int, width: int) -> Bundle:
    """The bundle of a table of `to_table`, without copying its pixels.  height, width: pixels of an image."""
    column = {name: table[name].combine_chunks() for name in _PLAIN}
    # Combining would copy the pixels even of a single chunk.
    if table["image"].num_chunks != 1:
        raise IntegrityError(f"a bundle must be one block: {table['image'].num_chunks}")
    image = table["image"].chunk(0)
    row = height * width * 3
    pixels = np.frombuffer(image.buffers()[1], np.uint8)[image.offset * row : (image.offset + len(image)) * row]
    slots = column["tokens"].flatten()
    n = len(table)

    def per_slot(name: str) -> NDArray[np.int16]:
        return np.asarray(column[name].flatten().to_numpy()).reshape(n, -1)

    offsets = np.asarray(slots.offsets.to_numpy(), np.int64)
    return Bundle(
        pixels.reshape(n, height, width, 3),
        np.asarray(slots.flatten().to_numpy(), np.int32),
        offsets - offsets[0],
        per_slot("kind").astype(np.int8),
        per_slot("language"),
        np.asarray(column["status"].to_numpy(), np.int8),
        np.asarray(column["sample_id"].to_numpy(), np.int64),
        np.asarray(column["group_id"].to_numpy(), np.int64),
        tuple(json.loads(table.schema.metadata[_PROBLEMS])),
        _asked_of(table, height, width),
    )


def _asked_of(table: pa.Table, height: int, width: int) -> dict[str, NDArray[Any]]:
    # Single blocks, as above: combining would copy pixels.
    found = {
        name.removeprefix(_ASKED): _values_of(table[name].chunk(0))
        for name in table.schema.names
        if name.startswith(_ASKED)
    }
    for name, shape in ((IMAGE_VIEWS, (height, width, 3)), (IMAGE_CROPS, (height, width, 3)), (CROP_BOXES, (4,))):
        if name in found:
            found[name] = found[name].reshape(len(table), -1, *shape)
    return found


def _values_of(column: pa.Array) -> NDArray[Any]:
    """The other way round from `_rows_of`."""
    if not pa.types.is_fixed_size_list(column.type):
        return np.asarray(column.to_numpy())
    return np.asarray(column.flatten().to_numpy()).reshape(len(column), -1)
