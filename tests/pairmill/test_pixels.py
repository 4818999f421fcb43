from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from pairmill.pixels import decode_jpeg, largest_reduction, on_white


def picture(height: int, width: int) -> NDArray[np.uint8]:
    coarse = np.random.default_rng(height).integers(0, 256, (5, 5, 3), np.uint8)
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)


def test_the_largest_reduction_that_fits() -> None:
    assert [largest_reduction(lambda by, most=most: by <= most) for most in (1, 2, 3, 5, 9)] == [1, 2, 2, 4, 8]


@pytest.mark.parametrize("reduction", [1, 2, 4, 8])
@pytest.mark.parametrize(("height", "width"), [(64, 80), (65, 81), (7, 300), (1, 1)])
def test_a_reduced_jpeg_is_the_picture_in_small(height: int, width: int, reduction: int) -> None:
    pixels = picture(height, width)
    small = decode_jpeg(simplejpeg.encode_jpeg(pixels, 95, "RGB", "444"), (height, width), reduction)
    rows, columns = -(-height // reduction), -(-width // reduction)
    assert small.shape == (rows, columns, 3) and small.dtype == np.uint8
    # Independently: means of the blocks that each small pixel stands for, but for those that reach over the edge.
    whole = pixels[: height // reduction * reduction, : width // reduction * reduction].astype(float)
    blocks = whole.reshape(height // reduction, reduction, width // reduction, reduction, 3).mean((1, 3))
    error = small[: blocks.shape[0], : blocks.shape[1]] - blocks
    assert error.size == 0 or np.abs(error).mean() < 4


def test_cmyk_comes_as_stored() -> None:
    image = Image.fromarray(picture(40, 48)).convert("CMYK")
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=98)
    for reduction, shape in ((1, (40, 48, 4)), (4, (10, 12, 4))):
        assert decode_jpeg(stream.getvalue(), (40, 48), reduction, "CMYK").shape == shape
    # Pillow stores ink inverted, as Photoshop does.
    stored = decode_jpeg(stream.getvalue(), (40, 48), 1, "CMYK").astype(int)
    assert np.abs(255 - stored - np.asarray(image)).mean() < 3


def test_damage_is_an_error_and_not_grey() -> None:
    data = simplejpeg.encode_jpeg(picture(200, 200), 95, "RGB", "420")
    for reduction in (1, 4):
        with pytest.raises(ValueError):
            decode_jpeg(data[: len(data) // 2], (200, 200), reduction)


def test_transparency_is_laid_on_white() -> None:
    red = Image.new("RGBA", (3, 1), (200, 0, 0))
    red.putalpha(Image.fromarray(np.array([[0, 128, 255]], np.uint8)))
    half = 255 + (200 - 255) * 128 / 255, 255 * (1 - 128 / 255)
    expected = np.array([[[255, 255, 255], [half[0], half[1], half[1]], [200, 0, 0]]])
    for image in (red, Image.open(io.BytesIO(saved(red)))):
        assert np.abs(np.asarray(on_white(image)) - expected).max() <= 1
    grey = on_white(red.convert("LA"))
    assert grey.mode == "RGB" and grey.getpixel((0, 0)) == (255, 255, 255)
    keyed = Image.open(io.BytesIO(saved(Image.fromarray(np.array([[5, 6]], np.uint8)), transparency=5)))
    assert np.asarray(on_white(keyed)).tolist() == [[[255] * 3, [6] * 3]]


def test_sixteen_bits_keep_the_upper_eight() -> None:
    deep = Image.open(io.BytesIO(saved(Image.fromarray(np.array([[0, 255, 256, 40_000, 65_535]], np.uint16)))))
    assert deep.mode.startswith("I")
    assert np.asarray(on_white(deep))[0, :, 0].tolist() == [0, 0, 1, 40_000 >> 8, 255]


def saved(image: Image.Image, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG", **options)
    return stream.getvalue()


def test_opencv_keeps_to_one_core() -> None:
    assert cv2.getNumThreads() == 1
