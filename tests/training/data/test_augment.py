import io
import math
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from small_datasets import jpeg, picture
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms import functional as tvf

from pairmill.towers import eval_transform
from pairmill.towers.eval_transform import EvalTransform, decode
from training.data.augment import TrainTransform, crop_box
from training.data.config import AugmentConfig


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def psnr(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    error = np.mean((one.astype(np.float64) - other.astype(np.float64)) ** 2)
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


@pytest.mark.parametrize(
    "asked", [{}, {"resize_mode": "squash", "interpolation": "bilinear"}, {"resize_mode": "longest", "fill_color": 9}]
)
@pytest.mark.parametrize(("height", "width"), [(40, 48), (97, 64), (64, 64), (33, 201), (300, 224)])
def test_evaluation_sees_what_open_clip_sees(height: int, width: int, asked: dict[str, Any]) -> None:
    data = jpeg(1, height, width, detail=12)
    theirs = open_clip.image_transform(64, is_train=False, mean=(0.0,) * 3, std=(1.0,) * 3, **asked)
    expected = (theirs(Image.open(io.BytesIO(data))) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    ours = EvalTransform(64, **asked)(data)
    assert ours is not None and ours.shape == (64, 64, 3)
    # Pillow's and simplejpeg's libjpeg-turbo may differ in version: a level or so.
    assert np.abs(ours.astype(int) - expected.astype(int)).max() <= 2 and psnr(ours, expected) > 45


@pytest.mark.parametrize(
    ("height", "width", "least"), [(240, 256, 35), (300, 420, 35), (900, 1200, 35), (200, 180, 35), (1500, 1400, 35)]
)
def test_a_training_crop_looks_like_torchvisions(height: int, width: int, least: float) -> None:
    """The same box, decoded in full and resized by Pillow as torchvision does it; least: dB."""
    data = jpeg(2, height, width, detail=40)
    size, config = 224, AugmentConfig()
    ours = TrainTransform(size, config)(data, np.random.default_rng(3))
    box = crop_box(height, width, config, np.random.default_rng(3))
    theirs = tvf.resized_crop(
        Image.open(io.BytesIO(data)).convert("RGB"), *box, [size, size], tvf.InterpolationMode.BICUBIC
    )
    assert ours is not None and psnr(ours, np.asarray(theirs)) > least


def test_crops_are_distributed_as_torchvisions() -> None:
    config = AugmentConfig(scale=(0.5, 1.0))
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    blank = torch.zeros(3, 90, 140)
    ours = np.array([crop_box(90, 140, config, rng) for _ in range(4000)])
    theirs = np.array(
        [RandomResizedCrop.get_params(blank, list(config.scale), list(config.ratio)) for _ in range(4000)]
    )
    # Two samples of 4,000: means within 5 standard errors, and the same range.
    error = np.sqrt(ours.var(0) / 4000 + theirs.var(0) / 4000)
    assert (np.abs(ours.mean(0) - theirs.mean(0)) < 5 * error).all()
    assert (np.abs(ours.std(0) - theirs.std(0)) < 0.1 * theirs.std(0)).all()
    assert (ours[:, 0] + ours[:, 2] <= 90).all() and (ours[:, 1] + ours[:, 3] <= 140).all()


@pytest.mark.parametrize(("height", "width"), [(10, 100), (100, 10), (50, 50)])
def test_an_impossible_crop_falls_back_as_torchvisions(height: int, width: int) -> None:
    # Scales above one never fit, in either; recipes cannot ask for them.
    config = AugmentConfig.model_construct(scale=(3.0, 3.0), ratio=(3 / 4, 4 / 3))
    theirs = RandomResizedCrop.get_params(torch.zeros(3, height, width), [3.0, 3.0], [3 / 4, 4 / 3])
    assert crop_box(height, width, config, np.random.default_rng(0)) == theirs


def test_a_crop_depends_on_its_generator_alone() -> None:
    transform, data = TrainTransform(32), jpeg(4, 80, 80)
    first, again, other = (transform(data, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first is not None and again is not None and other is not None
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_every_format_is_decoded_to_rgb_on_white() -> None:
    pixels = picture(5)
    image = Image.fromarray(pixels)
    for kind in ("PNG", "WEBP"):
        found = decode(encoded(image, kind, lossless=True))
        assert found is not None and np.array_equal(found, pixels)
    cmyk = decode(encoded(image.convert("CMYK"), "JPEG", quality=95))
    assert cmyk is not None and psnr(cmyk, pixels) > 30
    grey = decode(encoded(image.convert("L"), "JPEG", quality=95))
    assert grey is not None and grey.shape == pixels.shape
    palette = decode(encoded(image.convert("P"), "PNG"))
    assert palette is not None and psnr(palette, pixels) > 20
    clear = Image.new("RGBA", (8, 6), (200, 0, 0, 0))
    found = decode(encoded(clear, "PNG"))
    assert found is not None and found.shape == (6, 8, 3) and (found == 255).all()
    deep = decode(encoded(Image.fromarray(np.full((4, 4), 40_000, np.uint16)), "PNG"))
    assert deep is not None and (deep == 40_000 >> 8).all()


@pytest.mark.parametrize(
    "damaged",
    [b"", b"not an image", jpeg(6)[:200], b"\xff\xd8\xff\xd9", encoded(Image.fromarray(picture(6)), "PNG")[:90]],
)
def test_a_damaged_image_is_none(damaged: bytes) -> None:
    assert TrainTransform(16)(damaged, np.random.default_rng(0)) is None
    assert EvalTransform(16)(damaged) is None


def test_an_image_of_too_many_pixels_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eval_transform, "MAX_PIXELS", 40 * 48 - 1)
    assert EvalTransform(16)(jpeg(7)) is None
    assert EvalTransform(16)(encoded(Image.fromarray(picture(7)), "PNG")) is None
