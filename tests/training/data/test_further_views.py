"""More views of a row and texts that do not fit it: from the data to a batch, and what is done to a picture."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from small_datasets import jpeg, picture, tokenizer, uid

from pairmill.errors import RecipeError
from pairmill.layout import NEGATIVE
from training.data.augment import TrainTransform
from training.data.batches import Batch
from training.data.bundle import IMAGE_VIEWS, Layout, Reader, Views, from_table, to_table
from training.data.config import DataConfig, ViewsConfig
from training.data.cursor import make_plan, single_pass
from training.data.sample import sample_id
from training.data.source import open_source, open_sources
from training.data.stream import batches
from training.data.strong_views import StrongTransform, changed
from training.evaluate.evaluated_rows import rows_of
from training.model import to_device

SIZE, N = 16, 12


def texts_of(row: int) -> list[dict[str, str | None]]:
    """Row 3 has no alt text, row 5 one negative, row 6 none; all have two long ones."""
    found: list[dict[str, str | None]] = [{"text": f"alt {row}", "kind": "alt", "language": None}] if row != 3 else []
    found += [{"text": f"long {row} {at}", "kind": "long", "language": None} for at in "ab"]
    negatives = {5: "x", 6: ""}.get(row, "wxy")
    return found + [{"text": f"wrong {row} {at}", "kind": NEGATIVE, "language": None} for at in negatives]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("data") / "a.parquet"
    columns = {
        "uid": [uid(row) for row in range(N)],
        "image": [jpeg(row) if row != 7 else b"broken" for row in range(N)],
        "texts": [texts_of(row) for row in range(N)],
    }
    pq.write_table(pa.table(columns), file)
    return str(file)


def reader_of(config: DataConfig, *, views: bool = False, negatives: bool = False) -> Reader:
    return Reader(
        tuple(open_sources(config)),
        TrainTransform(SIZE),
        config.text_slots(),
        tokenizer(),
        5,
        views=Views(config.views.number, StrongTransform(SIZE, config.views), config.views.transforms)
        if views
        else None,
        negatives=config.negative_slots() if negatives else (),
    )


def used(path: str, **keys: Any) -> DataConfig:
    keys = {"texts": [[{"kind": "alt"}], [{"kind": "long"}]], "batch_size": 4, "lanes": 2, "bundle_rows": 5} | keys
    return DataConfig.checked({"path": path, **keys})


def some(config: DataConfig, number: int, *, start: int = 0, **needs: bool) -> tuple[list[Batch], Layout]:
    reader = reader_of(config, **needs)
    plan = make_plan(config, reader.sources, seed=1)
    with batches(plan, reader, config, start_batch=start, with_ray=False) as made:
        return list(itertools.islice(made, number)), reader.layout


def words(tokens: np.ndarray[Any, Any]) -> str:
    """The text of `small_datasets.tokenizer`'s tokens, of characters that have ids of their own."""
    known = {3 + ord(c) % 90: c for c in "abcdefghijklmnopqrstuvwxy 0123456789"}
    return "".join(known[int(token)] for token in tokens if int(token) > 2)


def test_what_is_trained_on_anyway_stays_as_it_is(path: str) -> None:
    plain, _ = some(used(path), 6)
    more, layout = some(used(path, views={"number": 2}), 6, views=True, negatives=True)
    assert layout == (2, 2, 1)
    for one, other in zip(plain, more, strict=True):
        length = one.tokens_BKL.shape[2]
        for name in ("images_BHWC", "row_valid_B", "sample_id_B", "group_id_B"):
            assert np.array_equal(getattr(one, name), getattr(other, name)), name
        assert np.array_equal(one.tokens_BKL, other.tokens_BKL[:, :2, :length])
        assert np.array_equal(one.kind_BK, other.kind_BK[:, :2]) and not one.asked


def test_views_are_other_pictures_and_other_draws(path: str) -> None:
    config = used(path, texts=[{"kind": "long"}], views={"number": 2})
    found, layout = some(config, 6, views=True)
    for batch in found:
        rows = to_device(batch, torch.device("cpu"), layout)
        assert rows.further is not None and rows.tokens_BKL.shape[1] == 1
        assert rows.further.images_BVHWC.shape == (4, 2, SIZE, SIZE, 3) and rows.further.negatives_BNL.shape[1] == 0
        for at in range(4):
            images = [rows.images_BHWC[at], *rows.further.images_BVHWC[at]]
            if not batch.row_valid_B[at]:
                assert not any(bool(image.any()) for image in images)
                continue
            assert len({image.numpy().tobytes() for image in images}) == 3
            drawn = [words(rows.tokens_BKL[at, 0].numpy()), *map(words, rows.further.views_BVL[at].numpy())]
            assert len(set(drawn)) == 2 and drawn[0] != drawn[1], "two texts, and the second draw is the other one"


def test_a_row_without_a_text_in_the_first_slot_has_a_view_of_another(path: str) -> None:
    found, layout = some(used(path), 6, views=True)
    seen = 0
    for batch in found:
        for at in np.flatnonzero(batch.sample_id_B == sample_id(uid(3))):
            assert not batch.text_mask_BK[at, 0] and batch.text_mask_BK[at, 1]
            assert np.array_equal(batch.tokens_BKL[at, 2], batch.tokens_BKL[at, 1])
            seen += 1
    assert seen and layout == (2, 1, 0)


def test_negatives_are_those_of_the_row_and_no_positives(path: str) -> None:
    config = used(path, texts=[{"kind": "any"}], negatives={"number": 2})
    found, layout = some(config, 9, negatives=True)
    numbers: dict[int, set[int]] = {}
    for batch in found:
        rows = to_device(batch, torch.device("cpu"), layout)
        further = rows.further
        assert further is not None and further.views_BVL.shape[1] == 0
        for at in np.flatnonzero(batch.row_valid_B).tolist():
            row = next(row for row in range(N) if sample_id(uid(row)) == batch.sample_id_B[at])
            assert not words(rows.tokens_BKL[at, 0].numpy()).startswith("wrong")
            drawn = [words(tokens) for tokens in further.negatives_BNL[at][further.negative_mask_BN[at]].numpy()]
            numbers.setdefault(row, set()).add(len(drawn))
            assert len(set(drawn)) == len(drawn) and all(text.startswith(f"wrong {row} ") for text in drawn)
        assert not further.negative_mask_BN[~torch.from_numpy(batch.row_valid_B)].any()
    assert numbers.pop(5) == {1} and numbers.pop(6) == {0} and set.union(*numbers.values()) == {2}


def test_resuming_gives_the_same_views_bit_for_bit(path: str) -> None:
    whole, _ = some(used(path), 6, views=True, negatives=True)
    rest, _ = some(used(path), 2, start=4, views=True, negatives=True)
    for one, other in zip(whole[4:], rest, strict=True):
        assert np.array_equal(one.asked[IMAGE_VIEWS], other.asked[IMAGE_VIEWS])
        assert np.array_equal(one.tokens_BKL, other.tokens_BKL)
    assert not np.array_equal(whole[0].asked[IMAGE_VIEWS], whole[3].asked[IMAGE_VIEWS])


def test_they_travel_as_a_table_without_copying_pixels(path: str) -> None:
    reader = reader_of(used(path, views={"number": 2}), views=True, negatives=True)
    [spec] = single_pass(reader.sources[0].rows, 100)
    bundle = reader(spec)
    back = from_table(to_table(bundle), SIZE, SIZE)
    for name in ("ids", "offsets", "kind", "language"):
        assert np.array_equal(getattr(bundle, name), getattr(back, name)), name
    assert np.array_equal(back.asked[IMAGE_VIEWS], bundle.asked[IMAGE_VIEWS])
    assert np.shares_memory(back.asked[IMAGE_VIEWS], bundle.asked[IMAGE_VIEWS])
    part = from_table(to_table(bundle).slice(3, 4), SIZE, SIZE)
    assert np.array_equal(part.asked[IMAGE_VIEWS], bundle.asked[IMAGE_VIEWS][3:7])


def test_an_evaluation_takes_no_negative_for_a_text_of_its_picture(path: str) -> None:
    rows = list(rows_of(open_source(path).read(0)))
    assert {text.kind for row in rows for text in row.texts} == {"alt", "long"}


NOTHING = ViewsConfig(mirror_p=0, jitter_p=0, grey_p=0, blur_p=0)


def test_each_change_of_a_picture_is_what_it_says() -> None:
    pixels, rng = picture(3), np.random.default_rng(0)
    assert np.array_equal(changed(pixels, NOTHING, rng)[0], pixels)
    mirrored = changed(pixels, NOTHING.model_copy(update={"mirror_p": 1.0}), rng)[0]
    assert np.array_equal(mirrored, pixels[:, ::-1])
    grey = changed(pixels, NOTHING.model_copy(update={"grey_p": 1.0}), rng)[0]
    red, green, blue = (pixels[..., at].astype(float) for at in range(3))
    expected = np.rint(0.299 * red + 0.587 * green + 0.114 * blue)
    assert all(np.abs(grey[..., at] - expected).max() <= 1 for at in range(3))
    blurred = changed(pixels, NOTHING.model_copy(update={"blur_p": 1.0}), rng)[0]
    assert np.abs(np.diff(blurred.astype(int), axis=0)).sum() < np.abs(np.diff(pixels.astype(int), axis=0)).sum()
    still = changed(pixels, NOTHING.model_copy(update={"jitter_p": 1.0, "jitter": 0.0}), rng)[0]
    assert np.abs(still.astype(int) - pixels.astype(int)).max() <= 1
    jittered = changed(pixels, NOTHING.model_copy(update={"jitter_p": 1.0}), rng)[0]
    assert np.abs(jittered.astype(int) - pixels.astype(int)).mean() > 2


def test_wrong_keys_are_refused_by_their_names() -> None:
    with pytest.raises(RecipeError, match=r"data\.views\.scale must be a range"):
        used("x", views={"scale": [0.5, 0.2]})
    with pytest.raises(RecipeError, match="kind must be a kind of text"):
        used("x", negatives={"texts": [{"kind": "negatve"}]})
