"""The need `view_tokens`: two crops of a row's image, and where they lie in it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest
import simplejpeg
import torch
from small_datasets import jpeg, tokenizer, write_parquet

from training.data.augment import TrainTransform
from training.data.batches import Batch
from training.data.bundle import Reader, from_table, to_table
from training.data.config import DataConfig, ViewsConfig
from training.data.cursor import make_plan, single_pass
from training.data.source import open_sources
from training.data.stream import batches
from training.data.strong_views import CROP_BOXES, IMAGE_CROPS, StrongTransform
from training.model import to_device

SIZE, N, BROKEN = 16, 12, 7
#: Crops that are moved and mirrored only.
PLAIN = ViewsConfig(scale=(0.2, 0.6), jitter_p=0, grey_p=0, blur_p=0)
#: By a header and a reduced decoding, and by Pillow.
ENCODED: dict[str, Callable[[Any], bytes]] = {
    "jpeg": lambda pixels: simplejpeg.encode_jpeg(pixels, 95, "RGB", "444"),
    "png": lambda pixels: cv2.imencode(".png", pixels[..., ::-1])[1].tobytes(),
}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_parquet(tmp_path_factory.mktemp("data") / "a.parquet", N, spoil={BROKEN: b"broken"}))


def some(path: str, number: int, *, start: int = 0, placed: bool = True) -> list[Batch]:
    config = DataConfig.checked({"path": path, "batch_size": 4, "lanes": 2, "bundle_rows": 5})
    reader = reader_of(config, placed=placed)
    plan = make_plan(config, reader.sources, seed=1)
    with batches(plan, reader, config, start_batch=start, with_ray=False) as made:
        return list(itertools.islice(made, number))


def reader_of(config: DataConfig, *, placed: bool = True) -> Reader:
    sources, transform = tuple(open_sources(config)), TrainTransform(SIZE)
    return Reader(
        sources, transform, config.text_slots(), tokenizer(), 5, placed=StrongTransform(SIZE, PLAIN) if placed else None
    )


@pytest.mark.parametrize("kind", ENCODED)
@pytest.mark.parametrize("mirror", [0.0, 1.0])
def test_a_box_says_what_a_crop_shows(kind: str, mirror: float) -> None:
    # A gradient: the colour of a pixel is its place, from left to right in red and from top to bottom in green.
    height, width = 60, 90
    across, down = np.meshgrid(np.linspace(0, 240, width), np.linspace(0, 240, height))
    pixels = np.stack([across, down, np.full_like(across, 128)], 2).round().astype(np.uint8)
    transform = StrongTransform(32, PLAIN.model_copy(update={"mirror_p": mirror}))
    encoded = ENCODED[kind](pixels)
    rng = np.random.default_rng(2)
    for _ in range(5):
        view = transform.placed(encoded, rng)
        assert view is not None
        left, top, right, bottom = view.box
        assert (right < left) == bool(mirror) and top < bottom
        # Centre of the i-th column of 32: the box's begin and a step, which is negative where it is mirrored.
        at = (np.arange(32) + 0.5) / 32
        columns = (left + at * (right - left) - 0.5) / (width - 1) * 240
        rows = (top + at * (bottom - top) - 0.5) / (height - 1) * 240
        assert np.abs(view.pixels[..., 0].mean(0) - columns)[2:-2].max() < 4
        assert np.abs(view.pixels[..., 1].mean(1) - rows)[2:-2].max() < 4


def test_a_view_with_its_place_is_the_view() -> None:
    transform = StrongTransform(SIZE, ViewsConfig())
    plain, placed = (np.random.default_rng(9) for _ in range(2))
    for row in range(4):
        view = transform.placed(jpeg(row), placed)
        assert view is not None and np.array_equal(transform(jpeg(row), plain), view.pixels)
    assert transform.placed(b"broken", placed) is None


def test_a_batch_has_two_crops_of_each_row_and_all_else_as_it_was(path: str) -> None:
    boxes = set()
    for plain, more in zip(some(path, 6, placed=False), some(path, 6), strict=True):
        for name in ("images_BHWC", "tokens_BKL", "row_valid_B", "sample_id_B"):
            assert np.array_equal(getattr(plain, name), getattr(more, name)), name
        assert not plain.asked and to_device(plain, torch.device("cpu")).crops is None
        rows = to_device(more, torch.device("cpu"))
        assert rows.crops is not None and rows.crops.images_BVHWC.shape == (4, 2, SIZE, SIZE, 3)
        for at, valid in enumerate(more.row_valid_B):
            images, both = rows.crops.images_BVHWC[at], rows.crops.boxes_BV4[at]
            assert both.any() == images.any() == bool(valid)
            if valid:
                assert not torch.equal(both[0], both[1]) and not torch.equal(images[0], images[1])
                # Pictures of 40 × 48.
                assert ((both[:, [0, 2]] >= 0) & (both[:, [0, 2]] <= 48)).all() and both[:, 3].max() <= 40
                boxes.add(tuple(both.flatten().tolist()))
    # Each epoch draws anew: more boxes than rows.
    assert len(boxes) > N
    assert rows.crops is not None
    part = rows.part(slice(1, 3)).crops
    assert part is not None and torch.equal(part.boxes_BV4, rows.crops.boxes_BV4[1:3])


def test_resuming_gives_the_same_crops_bit_for_bit(path: str) -> None:
    for one, other in zip(some(path, 6)[4:], some(path, 2, start=4), strict=True):
        for name in (IMAGE_CROPS, CROP_BOXES):
            assert one.asked[name].any() and np.array_equal(one.asked[name], other.asked[name])


def test_they_travel_as_a_table(path: str) -> None:
    reader = reader_of(DataConfig.checked({"path": path}))
    [spec] = single_pass(reader.sources[0].rows, 100)
    bundle = reader(spec)
    back = from_table(to_table(bundle), SIZE, SIZE)
    for name in (IMAGE_CROPS, CROP_BOXES):
        assert np.array_equal(back.asked[name], bundle.asked[name])
    assert np.shares_memory(back.asked[IMAGE_CROPS], bundle.asked[IMAGE_CROPS])
    assert reader.bytes_per_row() > 3 * 3 * SIZE**2
