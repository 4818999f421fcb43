"""Where every row of every global batch comes from: pure arithmetic over row counts, and the number of batches taken.

    dataset, epoch   a seeded permutation of its pieces, laid end to end: a stream of N rows
    lane v of V      rows [v*N//V, v*N//V + N//V) of the stream; the few that are left over differ in every epoch
    bundle           about `bundle_rows` consecutive rows of a lane, permuted; cut at a piece's end where one is near;
                     with data.cluster_by, whole batches of all lanes alike
    global batch     the next batch_size / V rows of every lane

A batch is therefore the same over any number of workers: worker r of W reads lanes r, r + W, …  Position p of a lane
belongs to one of the datasets by a fixed pattern of their weights, each dataset starts its next epoch by itself, and
a checkpoint keeps nothing but the number of global batches consumed.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from pairmill.config import digest
from pairmill.errors import IntegrityError, RecipeError
from training.data.batch_policy import BatchPolicy, of_one_cluster, of_whole_groups
from training.data.config import DataConfig
from training.data.sample import Source

Ints = NDArray[np.int64]

#: Positions of the pattern of several datasets: weights are rounded to this share.
_PATTERN = 10_000

#: A bundle is cut at the end of a piece if one is within this share of `bundle_rows`: the piece is read once then.
_SNAP = 4


@dataclass(frozen=True)
class Span:
    """Rows [start, stop) of a piece."""

    piece: int
    start: int
    stop: int


@dataclass(frozen=True)
class BundleSpec:
    """A bundle to read: plain data.

    number: of the bundle in its (dataset, epoch, lane).
    skip:   rows, in the permuted order, that were consumed before the run was resumed.
    first:  position of the lane at which its first row (after `skip`) is consumed.
    seed:   null: rows stay in order.
    policy: which of its rows share a batch; null: chance.
    share:  rows of a global batch that come from a lane.
    offset: of those of its first batch, how many come from the bundle before.
    window: with `cluster_by`, the spans of all lanes; with `keep_together`, those of this one.
    """

    dataset: int
    epoch: int
    lane: int
    number: int
    spans: tuple[Span, ...]
    skip: int
    first: int
    seed: int | None
    policy: BatchPolicy | None = None
    share: int = 0
    offset: int = 0
    window: tuple[tuple[Span, ...], ...] = ()

    @property
    def rows(self) -> int:
        """Rows that are still to be consumed."""
        return sum(span.stop - span.start for span in self.spans) - self.skip

    def order(self, numbers: Sequence[Ints] = ()) -> Ints:
        """int64 [rows]: positions, in the rows of all spans laid end to end, in the order they are consumed.

        numbers: [R, C], those of `policy` in the rows of each entry of `window`.
        """
        total = self.rows + self.skip
        common = own = None
        if self.seed is not None:
            own = _generator(self.seed, self.dataset, self.epoch, self.lane + 1, self.number)
            # Lane 0 of the generators is of no lane; its first number has ordered the pieces.
            common = _generator(self.seed, self.dataset, self.epoch, 0, self.number + 1)
        if self.policy is not None and self.policy.groups:
            return of_whole_groups(numbers[0], self.share, own, offset=self.offset)[self.skip :]
        if self.policy is not None:
            return of_one_cluster(numbers, self.lane, self.share, common, own)[self.skip :]
        return np.arange(self.skip, total) if own is None else own.permutation(total)[self.skip :]


# Compared and hashed by identity: the row counts can be millions.
@dataclass(frozen=True, eq=False)
class ReadingPlan:
    """The whole stream of batches.

    datasets:     (rows of each piece, weight) of each dataset.
    lanes:        V; divides batch_size.
    batch_size:   rows of a global batch.
    fingerprints: of the datasets' content, part of the plan's own.
    policy:       which rows share a batch; null: chance.
    Raises IntegrityError if lanes do not divide the batch, a lane has no rows of a dataset, or a policy has several.
    """

    datasets: tuple[tuple[Sequence[int] | Ints, float], ...]
    seed: int
    lanes: int
    batch_size: int
    bundle_rows: int
    shuffle: bool = True
    fingerprints: tuple[str, ...] = ()
    policy: BatchPolicy | None = None

    def __post_init__(self) -> None:
        if self.batch_size % self.lanes:
            raise IntegrityError(f"the lanes of a plan must divide its batch: {self.lanes} of {self.batch_size}")
        if empty := [d for d in range(len(self.datasets)) if self.lane_rows(d) < 1]:
            raise IntegrityError(f"every lane of a plan must have rows of every dataset: none of dataset {empty[0]}")
        if self.policy is not None and len(self.datasets) > 1:
            raise IntegrityError(f"a batch policy must be of one dataset: {len(self.datasets)}")

    @property
    def share(self) -> int:
        """Rows of a global batch that come from one lane."""
        return self.batch_size // self.lanes

    def lane_rows(self, dataset: int) -> int:
        """Rows of a dataset that a lane consumes in an epoch; those of a single dataset are whole batches."""
        rows = self._totals[dataset] // self.lanes
        return rows - rows % self.share if len(self.datasets) == 1 else rows

    @property
    def steps_per_epoch(self) -> int:
        """Global batches that take as many rows as all datasets hold: an epoch exactly where there is one dataset."""
        return max(1, sum(map(self.lane_rows, range(len(self.datasets)))) // self.share)

    @cached_property
    def fingerprint(self) -> str:
        """Hex digest of all that decides which rows a batch holds."""
        rows = [[np.asarray(rows, np.int64).tolist(), weight] for rows, weight in self.datasets]
        found = [rows, self.seed, self.lanes, self.batch_size, self.bundle_rows, self.shuffle, self.fingerprints]
        return digest(found if self.policy is None else [*found, self.policy])

    @cached_property
    def _totals(self) -> list[int]:
        return [int(np.sum(rows)) for rows, _ in self.datasets]

    @cached_property
    def pattern(self) -> Ints:
        """The dataset of each position of a lane, repeated without end; every prefix is close to the weights."""
        weights = np.array([weight for _, weight in self.datasets])
        length = 1 if len(weights) == 1 else _PATTERN
        exact = weights / weights.sum() * length
        quotas = np.maximum(1, np.floor(exact)).astype(np.int64)
        while quotas.sum() != length:
            error = exact - quotas
            quotas[np.argmax(error) if quotas.sum() < length else np.argmin(np.where(quotas > 1, error, np.inf))] += (
                1 if quotas.sum() < length else -1
            )
        # Dataset d's j-th row is due at (j + 1/2) / quota of the period.
        due = np.concatenate([(np.arange(quota) + 0.5) / quota for quota in quotas])
        owner = np.repeat(np.arange(len(quotas)), quotas)
        return owner[np.argsort(due, kind="stable")]

    @cached_property
    def _places(self) -> list[Ints]:
        return [np.flatnonzero(self.pattern == dataset) for dataset in range(len(self.datasets))]

    def datasets_at(self, lane: int, start: int, stop: int) -> Ints:
        """int64 [stop - start]: the dataset of each of these positions of a lane."""
        return self.pattern[(self._phase(lane) + np.arange(start, stop)) % len(self.pattern)]

    def consumed(self, dataset: int, lane: int, position: int) -> int:
        """Rows of a dataset that a lane consumes before `position`."""
        phase = self._phase(lane)
        return self._before(dataset, phase + position) - self._before(dataset, phase)

    def position(self, dataset: int, lane: int, row: int) -> int:
        """The position of a lane at which it consumes the row-th row of a dataset: the inverse of `consumed`."""
        phase, places = self._phase(lane), self._places[dataset]
        cycle, place = divmod(row + self._before(dataset, phase), len(places))
        return cycle * len(self.pattern) + int(places[place]) - phase

    def _before(self, dataset: int, position: int) -> int:
        cycle, rest = divmod(position, len(self.pattern))
        places = self._places[dataset]
        return cycle * len(places) + int(np.searchsorted(places, rest))

    def _phase(self, lane: int) -> int:
        # Lanes are at different places of the pattern, so that every batch is mixed, not only many of them together.
        return lane * len(self.pattern) // self.lanes


def fitting_lanes(batch_size: int, lanes: int) -> int:
    """The largest number of lanes up to `lanes` that divides the batch."""
    return next(n for n in range(min(lanes, batch_size), 0, -1) if batch_size % n == 0)


def make_plan(config: DataConfig, sources: Sequence[Source], *, seed: int, workers: int = 1) -> ReadingPlan:
    """The plan of a recipe's datasets.

    Raises RecipeError if there are fewer rows than a global batch, or fewer lanes than workers.
    """
    lanes = fitting_lanes(config.batch_size, config.lanes)
    if lanes < workers:
        raise RecipeError(
            "every worker must read at least one lane, so compute.workers must be at most the lanes of data",
            value=f"{workers} workers, {lanes} lanes (data.lanes {config.lanes}, lowered to divide data.batch_size "
            f"{config.batch_size})",
            fix="raise data.lanes (this changes the order of the data), or choose a batch_size with more divisors",
        )
    for source in sources:
        rows, least = int(source.rows.sum()), config.batch_size if len(sources) == 1 else lanes
        if rows < least:
            raise RecipeError(
                f"a dataset must have at least {'one global batch' if len(sources) == 1 else 'one row for each lane'}",
                value=f"{rows} rows in {source.name}, {least} needed",
                fix="lower data.batch_size" if len(sources) == 1 else "lower data.lanes, or leave the dataset out",
            )
    return ReadingPlan(
        tuple((source.rows, one.weight) for source, one in zip(sources, config.mixture(), strict=True)),
        seed=seed,
        lanes=lanes,
        batch_size=config.batch_size,
        bundle_rows=config.bundle_rows,
        shuffle=config.shuffle,
        fingerprints=tuple(source.fingerprint for source in sources),
        policy=config.batch_policy(),
    )


def lanes_of(plan: ReadingPlan, rank: int, world: int) -> range:
    """The lanes that a worker reads."""
    return range(rank, plan.lanes, world)


def local_rows(plan: ReadingPlan, world: int) -> int:
    """Rows of a batch on each worker, padding included: the most that a worker has."""
    return -(-plan.lanes // world) * plan.share


def bundles(plan: ReadingPlan, lane: int, start_batch: int = 0) -> Iterator[BundleSpec]:
    """The bundles of a lane from a global batch on, without end, in the order their first rows are consumed."""
    streams = [_bundles(plan, dataset, lane, start_batch) for dataset in range(len(plan.datasets))]
    return heapq.merge(*streams, key=lambda spec: spec.first)


def rank_bundles(plan: ReadingPlan, rank: int, world: int, start_batch: int = 0) -> Iterator[BundleSpec]:
    """The bundles of all lanes of a worker, in the order in which their first rows are consumed."""
    streams = [bundles(plan, lane, start_batch) for lane in lanes_of(plan, rank, world)]
    return heapq.merge(*streams, key=lambda spec: (spec.first, spec.lane))


def single_pass(rows: Sequence[int] | Ints, bundle_rows: int) -> Iterator[BundleSpec]:
    """Every row of one dataset once and in order, for evaluation."""
    total = int(np.sum(rows))
    ends = np.cumsum(rows)
    order = np.arange(len(ends))
    for number, start in enumerate(range(0, total, bundle_rows)):
        spans = _spans(order, ends, start, min(total, start + bundle_rows))
        yield BundleSpec(0, 0, 0, number, spans, skip=0, first=start, seed=None)


def _bundles(plan: ReadingPlan, dataset: int, lane: int, start_batch: int) -> Iterator[BundleSpec]:
    length = plan.lane_rows(dataset)
    consumed = plan.consumed(dataset, lane, start_batch * plan.share)
    for epoch in itertools.count(consumed // length):
        done = max(0, consumed - epoch * length)
        order, ends = _stream(plan, dataset, epoch)
        starts = [lane * plan._totals[dataset] // plan.lanes for lane in range(plan.lanes)]
        start = starts[lane]
        if plan.policy is None or plan.policy.groups:
            cuts = _cuts(ends - start, length, plan.bundle_rows, lane, plan.lanes)
        else:
            cuts = _whole_batches(length, plan.bundle_rows, plan.share)
        for number in range(int(np.searchsorted(cuts, done, "right")) - 1, len(cuts) - 1):
            begin, end = int(cuts[number]), int(cuts[number + 1])
            skip = max(0, done - begin)
            window = [] if plan.policy is None else [start] if plan.policy.groups else starts
            yield BundleSpec(
                dataset,
                epoch,
                lane,
                number,
                _spans(order, ends, start + begin, start + end),
                skip,
                plan.position(dataset, lane, epoch * length + begin + skip),
                plan.seed if plan.shuffle else None,
                plan.policy,
                plan.share,
                begin % plan.share,
                tuple(_spans(order, ends, one + begin, one + end) for one in window),
            )


def _cuts(piece_ends: Ints, length: int, bundle_rows: int, lane: int, lanes: int) -> Ints:
    """Where a lane of `length` rows is cut into bundles: [0, …, length].  piece_ends: relative to the lane's start."""
    # Lanes are cut at different places, so that not all of a worker's bundles are needed at the same step.
    first = bundle_rows * (lane + 1) // lanes
    regular = np.arange(max(1, first), length, bundle_rows, dtype=np.int64)
    after = np.searchsorted(piece_ends, regular)
    candidates = piece_ends[np.stack([np.maximum(after - 1, 0), np.minimum(after, len(piece_ends) - 1)])]
    nearest = np.where(np.abs(candidates[0] - regular) <= np.abs(candidates[1] - regular), *candidates)
    snapped = np.where(np.abs(nearest - regular) <= bundle_rows // _SNAP, nearest, regular)
    inside = snapped[(snapped > 0) & (snapped < length)]
    return np.unique(np.concatenate([[0], inside, [length]]))


def _whole_batches(length: int, bundle_rows: int, share: int) -> Ints:
    """As `_cuts`, the same for all lanes, each bundle with all rows that the lane gives to a batch."""
    step = max(1, bundle_rows // share) * share
    return np.array([*range(0, length, step), length], np.int64)


def _spans(order: Ints, ends: Ints, start: int, stop: int) -> tuple[Span, ...]:
    """Rows [start, stop) of a stream as rows of its pieces."""
    spans = []
    for at in range(int(np.searchsorted(ends, start, "right")), int(np.searchsorted(ends, stop, "left")) + 1):
        begin = int(ends[at - 1]) if at else 0
        spans.append(Span(int(order[at]), max(start, begin) - begin, min(stop, int(ends[at])) - begin))
    return tuple(span for span in spans if span.stop > span.start)


@lru_cache(maxsize=16)  # the lanes of a worker read the same streams at about the same time
def _stream(plan: ReadingPlan, dataset: int, epoch: int) -> tuple[Ints, Ints]:
    """The pieces of an epoch in order, and where each ends in the stream."""
    rows = np.asarray(plan.datasets[dataset][0], np.int64)
    order = np.arange(len(rows))
    if plan.shuffle:
        order = _generator(plan.seed, dataset, epoch, 0, 0).permutation(len(rows))
    return order, np.cumsum(rows[order])


def _generator(*words: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(words)))
