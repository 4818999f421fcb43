import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_datasets import ANY_TEXT, jpeg, reader_of, uid, write_parquet

from training.data.batches import Batch, assemble, every_row, read_here
from training.data.bundle import (
    CORRUPT_IMAGE,
    EMPTY_TEXT,
    MISSING_IMAGE,
    NO_TEXT,
    VALID,
    Reader,
    from_table,
    read_bundle,
    to_table,
)
from training.data.config import DataConfig, TextSelector
from training.data.cursor import ReadingPlan, make_plan, rank_bundles, single_pass
from training.data.sample import Source, sample_id
from training.data.source import open_source, open_sources

LONG_THEN_CHINESE = ((TextSelector(kind="long", transforms=("sentences",)),), (TextSelector(language="zh"),))


def two_datasets(root: Path) -> tuple[ReadingPlan, list[Source]]:
    paths = [str(write_parquet(root / "a.parquet", 60)), str(write_parquet(root / "b.parquet", 37, first=1000))]
    datasets = [{"path": paths[0], "weight": 2}, {"path": paths[1], "weight": 1}]
    config = DataConfig.model_validate({"datasets": datasets, "batch_size": 12, "lanes": 6, "bundle_rows": 7})
    sources = open_sources(config)
    return make_plan(config, sources, seed=3), sources


def run(
    plan: ReadingPlan, sources: list[Source], n: int, *, rank: int = 0, world: int = 1, start: int = 0
) -> list[Batch]:
    reader = reader_of(sources, slots=LONG_THEN_CHINESE)
    stream = read_here(plan, reader, rank=rank, world=world, start_batch=start)
    made = assemble(stream, plan, rank=rank, world=world, start_batch=start, pad_id=0)
    return list(itertools.islice(made, n))


def rows(batches: list[Batch]) -> dict[int, tuple[bytes, ...]]:
    """What each valid row of these parts of one global batch is, whatever their order and padding."""
    found = {}
    for b in batches:
        for i in np.flatnonzero(b.row_valid_B):
            tokens = tuple(b.tokens_BKL[i, k][b.tokens_BKL[i, k] > 0].tobytes() for k in range(b.tokens_BKL.shape[1]))
            found[int(b.sample_id_B[i])] = (b.images_BHWC[i].tobytes(), b.kind_BK[i].tobytes(), *tokens)
    return found


@pytest.mark.parametrize("world", [2, 3, 4])
def test_global_batches_are_the_same_over_any_number_of_workers(tmp_path: Path, world: int) -> None:
    plan, sources = two_datasets(tmp_path)
    alone = run(plan, sources, 12)
    workers = [run(plan, sources, 12, rank=rank, world=world) for rank in range(world)]
    for step, whole in enumerate(alone):
        parts = [worker[step] for worker in workers]
        assert rows(parts) == rows([whole]) and len(rows([whole])) == plan.batch_size
        assert {part.images_BHWC.shape[0] for part in parts} == {-(-plan.lanes // world) * plan.share}
        padding = sum((part.sample_id_B == -1).sum() for part in parts)
        assert padding == world * parts[0].sample_id_B.shape[0] - plan.batch_size
        assert not any(part.skipped for part in parts)
        dataset_of = [
            {int(i): int(d) for b in some for i, d in zip(b.sample_id_B, b.dataset_B, strict=True) if i >= 0}
            for some in (parts, [whole])
        ]
        assert dataset_of[0] == dataset_of[1] and set(dataset_of[1].values()) == {0, 1}
        second = {sample_id(uid(1000 + row)) for row in range(37)}
        assert all((dataset == 1) == (row in second) for row, dataset in dataset_of[1].items())


@pytest.mark.parametrize("start", [1, 5, 17])
def test_resuming_gives_the_same_batches_bit_for_bit(tmp_path: Path, start: int) -> None:
    plan, sources = two_datasets(tmp_path)
    whole = run(plan, sources, start + 4)
    for expected, found in zip(whole[start:], run(plan, sources, 4, start=start), strict=True):
        for one, other in zip(expected, found, strict=True):
            if isinstance(one, np.ndarray):
                assert np.array_equal(one, other) and one.dtype == other.dtype


def test_a_batch_says_what_it_holds(tmp_path: Path) -> None:
    source = open_source(str(write_parquet(tmp_path / "x.parquet", 20)))
    plan = ReadingPlan(((source.rows, 1.0),), seed=3, lanes=2, batch_size=8, bundle_rows=20)
    batch = run(plan, [source], 1)[0]
    assert batch.images_BHWC.shape == (8, 16, 16, 3) and batch.images_BHWC.dtype == np.uint8
    assert batch.tokens_BKL.dtype == np.int64 and batch.text_mask_BK.all() and batch.row_valid_B.all()
    assert set(batch.kind_BK[:, 0]) == {2} and set(batch.kind_BK[:, 1]) == {4}
    assert len(set(batch.language_BK[:, 1])) == 1 and batch.language_BK[0, 0] != batch.language_BK[0, 1]
    lengths = (batch.tokens_BKL > 0).sum(2)
    assert batch.tokens_BKL.shape[2] == lengths.max()  # padded to the longest text of the batch
    for i, k in itertools.product(range(8), range(2)):
        row = batch.tokens_BKL[i, k]
        assert row[0] == 1 and row[lengths[i, k] - 1] == 2 and (row[lengths[i, k] :] == 0).all()
    assert np.array_equal(batch.group_id_B, batch.sample_id_B)  # these rows' digests begin as their uids do


def test_rows_with_the_same_text_can_be_no_negatives_of_each_other(tmp_path: Path) -> None:
    texts = ["A dog ", "a  DOG", "a cat", "", "a dog"]
    images = [jpeg(row) for row in range(4)] + [b"none"]
    pq.write_table(pa.table({"image": images, "text": texts}), tmp_path / "x.parquet")
    source = open_source(str(tmp_path / "x.parquet"))
    spec = next(iter(single_pass(source.rows, 5)))
    by_text, by_image = (read_bundle(spec, replace(reader_of([source]), group=group)) for group in ("text", "image"))
    one, same, other, blank, broken = by_text.group_id.tolist()
    assert one == same >= 0 and other >= 0 and other != one
    assert blank == broken == -1, "rows that take no part"
    assert len(set(by_image.group_id[:3])) == 3 and (by_image.group_id[:3] >= 0).all(), "three pictures"
    assert by_image.group_id[3:].tolist() == [-1] * 2, "rows that take no part"


def test_text_is_padded_to_a_fixed_length_when_asked(tmp_path: Path) -> None:
    plan, sources = two_datasets(tmp_path)
    reader = reader_of(sources)
    batch = next(assemble(read_here(plan, reader), plan, length=77, pad_id=9))
    assert batch.tokens_BKL.shape == (12, 1, 77) and (batch.tokens_BKL[:, :, -1] == 9).all()


def test_epochs_crop_and_choose_anew(tmp_path: Path) -> None:
    source = open_source(str(write_parquet(tmp_path / "x.parquet", 8)))
    plan = ReadingPlan(((source.rows, 1.0),), seed=3, lanes=1, batch_size=8, bundle_rows=8)
    first, second = (rows([batch]) for batch in run(plan, [source], 2))
    # A small image has few crops and few sentences: some rows may draw the same again.
    assert first.keys() == second.keys() and sum(first[row] != second[row] for row in first) >= 5


def test_unusable_rows_stay_and_are_counted(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "x.parquet", 8, spoil={1: b"no picture", 2: None, 5: jpeg(5)[:300]})
    source = open_source(str(path))
    plan = ReadingPlan(((source.rows, 1.0),), seed=3, lanes=1, batch_size=8, bundle_rows=8)
    reader = reader_of([source])
    batch = next(assemble(read_here(plan, reader), plan))
    assert batch.skipped == {"corrupt_image": 2, "missing_image": 1}
    lost = ~batch.row_valid_B
    assert lost.sum() == 3 and not batch.images_BHWC[lost].any() and not batch.text_mask_BK[lost].any()
    assert (batch.tokens_BKL[lost] == 0).all() and batch.images_BHWC[~lost].any((1, 2, 3)).all()


def test_rows_without_text_say_why(tmp_path: Path) -> None:
    texts = [[], [{"text": " ", "kind": "alt"}], [{"text": "x", "kind": "short"}], [{"text": "y", "kind": "alt"}]]
    pq.write_table(pa.table({"image": [jpeg(0)] * 4, "texts": texts}), tmp_path / "x.parquet")
    source = open_source(str(tmp_path))
    reader = reader_of([source], slots=((TextSelector(kind="alt"),),))
    (bundle,) = every_row(reader)
    assert bundle.status.tolist() == [NO_TEXT, EMPTY_TEXT, NO_TEXT, VALID]
    assert not {MISSING_IMAGE, CORRUPT_IMAGE} & set(bundle.status.tolist())


def test_an_evaluation_sees_every_row_once(tmp_path: Path) -> None:
    source = open_source(str(write_parquet(tmp_path / "x.parquet", 23)))
    reader = reader_of([source])
    seen = [int(row) for bundle in every_row(reader, bundle_rows=5) for row in bundle.sample_id]
    uids = [uid for piece in range(source.pieces) for uid in source.read(piece)["uid"].to_pylist()]
    assert seen == [sample_id(uid) for uid in uids] and len(set(uids)) == 23


def test_a_bundle_survives_its_table_without_copying_pixels(tmp_path: Path) -> None:
    source = open_source(str(write_parquet(tmp_path / "x.parquet", 9, spoil={4: b""})))
    reader = reader_of([source], slots=(*LONG_THEN_CHINESE, ANY_TEXT))
    (spec,) = single_pass(source.rows, 9)
    bundle = read_bundle(spec, reader)
    table = to_table(bundle)
    back = from_table(table, 16, 16)
    for one, other in zip(bundle[:-2], back[:-2], strict=True):
        assert np.array_equal(one, other) and one.dtype == other.dtype
    assert np.shares_memory(back.images, bundle.images)
    part = from_table(table.slice(3, 4), 16, 16)
    assert np.array_equal(part.images, bundle.images[3:7]) and np.array_equal(part.sample_id, bundle.sample_id[3:7])
    ids = bundle.ids[bundle.offsets[9] : bundle.offsets[21]]
    assert np.array_equal(part.ids, ids)


def test_a_resumed_bundle_is_the_rest_of_the_whole_one(tmp_path: Path) -> None:
    source = open_source(str(write_parquet(tmp_path / "x.parquet", 40)))
    plan = ReadingPlan(((source.rows, 1.0),), seed=3, lanes=1, batch_size=4, bundle_rows=20)
    reader = reader_of([source])
    whole, rest = reader(next(rank_bundles(plan, 0, 1))), reader(next(rank_bundles(plan, 0, 1, start_batch=2)))
    assert np.array_equal(rest.images, whole.images[8:]) and np.array_equal(rest.sample_id, whole.sample_id[8:])


def test_a_text_without_tokens_is_no_text(tmp_path: Path) -> None:
    source = open_source(str(write_parquet(tmp_path / "x.parquet", 6)))
    reader = reader_of([source], slots=LONG_THEN_CHINESE)

    def only_ascii(texts: list[str]) -> list[list[int]]:
        return [[ord(c) for c in text if c.isascii() and c.isalpha()] for text in texts]

    deaf = Reader(reader.sources, reader.transform, reader.slots[1:], only_ascii, reader.seed)
    (bundle,) = every_row(deaf)
    assert set(bundle.status.tolist()) == {EMPTY_TEXT} and not bundle.images.any() and (bundle.kind == -1).all()
    half = Reader(reader.sources, reader.transform, reader.slots, only_ascii, reader.seed)
    (bundle,) = every_row(half)
    assert set(bundle.status.tolist()) == {VALID} and (bundle.kind[:, 0] == 2).all() and (bundle.kind[:, 1] == -1).all()
