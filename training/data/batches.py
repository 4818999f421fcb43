"""Bundles to the batches of one worker, without Ray.

`read_here` reads a worker's bundles in this process, one after the other; `stream.read_with_ray` does it ahead, in
parallel, on the cluster.  Both yield the same bundles, from which `assemble` makes the same batches.

Shapes: B rows on this worker (padding included), H and W pixels, K text slots (with views and negatives, all of
`bundle.Layout`), L tokens of the batch's longest text.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pairmill.errors import IntegrityError
from training.data.asked_columns import NOISE, UNKNOWN
from training.data.bundle import PADDING, STATUSES, VALID, Bundle, Reader
from training.data.cursor import BundleSpec, ReadingPlan, lanes_of, local_rows, rank_bundles, single_pass
from training.data.step_texts import ALL_TEXTS, StepTexts


class Batch(NamedTuple):
    """One worker's part of a global batch.

    images_BHWC:   uint8, not normalised; zeros in rows that are not valid.
    tokens_BKL:    int64, padded with the tokenizer's pad id.
    text_mask_BK:  bool, the slot holds a text.
    kind_BK:       int8, `texts.kind_code`; -1 where there is no text or its kind is unknown.
    language_BK:   int16, `texts.language_code`; -1 likewise.
    row_valid_B:   bool, the row has an image and a text.
    sample_id_B:   int64, names the row; -1 in padding.
    group_id_B:    int64, rows with equal ids are no negatives of each other; -1: unknown.
    skipped:       rows of this part that are not valid, by reason (padding does not count).
    problems:      of the bundles that begin here, `Bundle.problems`.
    asked:         [B, …] each, `Bundle.asked`; in padding, `asked_columns.UNKNOWN`, and views of zeros.
    dataset_B:     int64, number of the row's dataset in `data.datasets`; 0 in padding; None: unknown.
    """

    images_BHWC: NDArray[np.uint8]
    tokens_BKL: NDArray[np.int64]
    text_mask_BK: NDArray[np.bool_]
    kind_BK: NDArray[np.int8]
    language_BK: NDArray[np.int16]
    row_valid_B: NDArray[np.bool_]
    sample_id_B: NDArray[np.int64]
    group_id_B: NDArray[np.int64]
    skipped: dict[str, int]
    problems: tuple[str, ...] = ()
    asked: Mapping[str, NDArray[Any]] = {}
    dataset_B: NDArray[np.int64] | None = None


class _Rows(NamedTuple):
    """Consecutive rows of a bundle and the rows of the batch that they become."""

    at: NDArray[np.int64]
    bundle: Bundle
    start: int
    dataset: int


def read_here(
    plan: ReadingPlan, reader: Reader, *, rank: int = 0, world: int = 1, start_batch: int = 0
) -> Iterator[tuple[BundleSpec, Bundle]]:
    """A worker's bundles in the order they are needed, read in this process."""
    for spec in rank_bundles(plan, rank, world, start_batch):
        yield spec, reader(spec)


def every_row(reader: Reader, bundle_rows: int = 1024) -> Iterator[Bundle]:
    """All rows of the reader's first source, once and in order: for evaluation."""
    for spec in single_pass(reader.sources[0].rows, bundle_rows):
        yield reader(spec)


def assemble(
    stream: Iterator[tuple[BundleSpec, Bundle]],
    plan: ReadingPlan,
    *,
    rank: int = 0,
    world: int = 1,
    start_batch: int = 0,
    pad_id: int = 0,
    length: int | None = None,
    texts: StepTexts = ALL_TEXTS,
) -> Iterator[Batch]:
    """The batches of a worker, without end, from global batch `start_batch` on.

    stream: bundles in the order of `rank_bundles(plan, rank, world, start_batch)`.
    length: tokens to pad to; None: the longest text of the batch, which is exact for towers that pool at end of text.
    texts:  what a step has of its rows' texts; those of a step that cuts them are padded to what it leaves, at most.
    """
    lanes, share = lanes_of(plan, rank, world), plan.share
    waiting: dict[tuple[int, int], deque[Bundle]] = {}
    current: dict[tuple[int, int], tuple[Bundle, int]] = {}

    def next_bundle(lane: int, dataset: int) -> Bundle:
        while not waiting.get((lane, dataset)):
            spec, bundle = next(stream)
            if len(bundle.status) != spec.rows:
                raise IntegrityError(f"a bundle must have the rows of its spec: {len(bundle.status)}, not {spec.rows}")
            waiting.setdefault((spec.lane, spec.dataset), deque()).append(bundle)
        return waiting[lane, dataset].popleft()

    def take(lane: int, dataset: int, at: NDArray[np.int64]) -> Iterator[_Rows]:
        """The next rows of a lane from one dataset, as the rows `at` of the batch."""
        while len(at):
            if (lane, dataset) not in current:
                current[lane, dataset] = next_bundle(lane, dataset), 0
            bundle, start = current.pop((lane, dataset))
            count = min(len(at), len(bundle.status) - start)
            yield _Rows(at[:count], bundle, start, dataset)
            if start + count < len(bundle.status):
                current[lane, dataset] = bundle, start + count
            at = at[count:]

    position = start_batch * share
    while True:
        rows: list[_Rows] = []
        for number, lane in enumerate(lanes):
            owner = plan.datasets_at(lane, position, position + share)
            for dataset in np.unique(owner).tolist():
                rows += take(lane, dataset, number * share + np.flatnonzero(owner == dataset))
        yield _batch(rows, local_rows(plan, world), pad_id, length, texts, position // share)
        position += share


def _batch(rows: Iterable[_Rows], size: int, pad_id: int, length: int | None, texts: StepTexts, step: int) -> Batch:
    rows = list(rows)
    first = rows[0].bundle
    slots = first.kind.shape[1]
    kept = texts.at(step, slots)
    lengths = np.zeros((size, slots), np.int64)
    for at, bundle, start, _ in rows:
        offsets = bundle.offsets[start * slots : (start + len(at)) * slots + 1]
        lengths[at] = np.diff(offsets).reshape(-1, slots)
    longest = int(lengths.max())
    if length is not None and longest > length:
        raise IntegrityError(f"a tokenizer must truncate to the context length: {longest} tokens, not {length}")
    if length is not None and kept.limit is not None:
        length = min(length, kept.limit)
    shown = kept.shortened(lengths[:, kept.slots])
    tokens = np.full((*shown.shape, length or max(1, int(shown.max()))), pad_id, np.int64)
    images = np.zeros((size, *first.images.shape[1:]), np.uint8)
    kind, language = np.full(shown.shape, -1, np.int8), np.full(shown.shape, -1, np.int16)
    status = np.full(size, PADDING, np.int8)
    sample_id, group_id = np.full(size, -1, np.int64), np.full(size, -1, np.int64)
    dataset_id = np.zeros(size, np.int64)
    asked = {
        name: np.full((size, *values.shape[1:]), UNKNOWN.get(name, 0), values.dtype)
        for name, values in first.asked.items()
    }
    for at, bundle, start, dataset in rows:
        part = slice(start, start + len(at))
        for name, values in asked.items():
            values[at] = bundle.asked[name][part]
        images[at], status[at] = bundle.images[part], bundle.status[part]
        dataset_id[at] = dataset
        kind[at], language[at] = bundle.kind[part][:, kept.slots], bundle.language[part][:, kept.slots]
        sample_id[at], group_id[at] = bundle.sample_id[part], bundle.group_id[part]
        begin, end = bundle.offsets[start * slots], bundle.offsets[(start + len(at)) * slots]
        filled = np.full((len(at), *tokens.shape[1:]), pad_id, np.int64)
        filled[np.arange(tokens.shape[2]) < shown[at][:, :, None]] = bundle.ids[begin:end][kept.tokens(lengths[at])]
        tokens[at] = filled
    counts = np.bincount(status, minlength=len(STATUSES)).tolist()
    return Batch(
        images_BHWC=images,
        tokens_BKL=tokens,
        text_mask_BK=shown > 0,
        kind_BK=kind,
        language_BK=language,
        row_valid_B=status == VALID,
        sample_id_B=sample_id,
        group_id_B=group_id,
        skipped={STATUSES[code]: n for code, n in enumerate(counts) if n and code not in (VALID, PADDING)},
        problems=tuple(problem for _, bundle, start, _ in rows if start == 0 for problem in bundle.problems),
        asked=asked if kept.drawn is None or NOISE not in asked else {**asked, NOISE: asked[NOISE][:, kept.drawn]},
        dataset_B=dataset_id,
    )
