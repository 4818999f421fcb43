from __future__ import annotations

import hashlib
import io
import itertools
import math
import os
import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import hostile_bodies as bodies
import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from img2dataset_needed import needs_img2dataset
from numpy.typing import NDArray
from PIL import Image, ImageCms

from curation.images.config import ImageConfig
from curation.images.decode import decode
from curation.images.header import read_header, sniff
from curation.images.inspect import Inspected, inspect_image
from curation.images.measure import entropy, grey_copy, perceptual_hash, sharpness
from curation.images.resize import scale_to, target_size
from curation.schema import Status

NOTHING_BLOCKED: frozenset[str] = frozenset()
MODES = ("no", "border", "keep_ratio", "keep_ratio_largest", "center_crop")
SAMPLES = Path(__file__).parents[3] / "samples" / "emoji" / "images"

#: Kept as it is and stored without loss, so that a test sees exactly what was decoded.
EXACT = ImageConfig(resize="no", format="png")


def inspect(data: bytes, config: ImageConfig = EXACT) -> Inspected:
    return inspect_image(data, config, NOTHING_BLOCKED)


def stored(inspected: Inspected) -> NDArray[np.uint8]:
    assert inspected.status is Status.SUCCESS, inspected.error
    return np.asarray(Image.open(io.BytesIO(inspected.image)).convert("RGB"))


def psnr(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    error = np.square(a.astype(np.float64) - b).mean()
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


# -- what comes in ---------------------------------------------------------------------------------------------------


def halves(left: object, right: object, mode: str) -> Image.Image:
    """16 x 8, its left half of one colour and its right half of another."""
    image = Image.new(mode, (16, 8), left)  # type: ignore[arg-type]
    image.paste(right, (8, 0, 16, 8))  # type: ignore[arg-type]
    return image


def palette() -> Image.Image:
    return halves((200, 30, 40), (20, 60, 220), "RGB").quantize(4)


def sixteen_bit(format: str = "PNG") -> bytes:
    ramp = np.repeat(np.array([[0x1234] * 8 + [0xFE00] * 8], np.uint16), 8, axis=0)
    return bodies.encoded(Image.fromarray(ramp), format)


def sixteen_bit_rgb() -> bytes:
    row = b"\0" + b"\x12\x34\x56\x78\x9a\xbc" * 8 + b"\xfe\x00\x00\xff\x80\x01" * 8
    return bodies.png(16, 8, rows=row * 8, depth=16)


def animated(format: str) -> bytes:
    first, second = halves("red", "blue", "RGB"), halves("green", "yellow", "RGB")
    options = {"save_all": True, "append_images": [second], "duration": 100}
    return bodies.encoded(first, format, **options, **({"lossless": True} if format == "WEBP" else {}))


RED, BLUE, WHITE, BLACK = (255, 0, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)

#: name -> (bytes, frames, colour of the left half, of the right half)
KINDS = {
    "jpeg": (bodies.encoded(halves(RED, BLUE, "RGB"), "JPEG", quality=100, subsampling=0), 1, RED, BLUE),
    "jpeg progressive": (bodies.encoded(halves(RED, BLUE, "RGB"), "JPEG", quality=100, progressive=True), 1, RED, BLUE),
    "jpeg grey": (bodies.encoded(halves(40, 200, "L"), "JPEG", quality=100), 1, (40,) * 3, (200,) * 3),
    # Inks of Adobe files are stored inverted: full magenta and yellow is red, full cyan and magenta blue.
    "jpeg cmyk": (
        bodies.encoded(halves((0, 255, 255, 0), (255, 255, 0, 0), "CMYK"), "JPEG", quality=100),
        1,
        RED,
        BLUE,
    ),
    "png rgb": (bodies.encoded(halves(RED, BLUE, "RGB"), "PNG"), 1, RED, BLUE),
    "png rgba": (bodies.encoded(halves((255, 0, 0, 255), (0, 0, 255, 0), "RGBA"), "PNG"), 1, RED, WHITE),
    "png half transparent": (
        bodies.encoded(halves((255, 0, 0, 127), (0, 0, 0, 255), "RGBA"), "PNG"),
        1,
        (255, 128, 128),
        BLACK,
    ),
    "png grey": (bodies.encoded(halves(40, 200, "L"), "PNG"), 1, (40,) * 3, (200,) * 3),
    "png grey alpha": (bodies.encoded(halves((40, 255), (200, 0), "LA"), "PNG"), 1, (40,) * 3, WHITE),
    "png one bit": (bodies.encoded(halves(0, 1, "1"), "PNG"), 1, BLACK, WHITE),
    "png palette": (bodies.encoded(palette(), "PNG"), 1, (200, 30, 40), (20, 60, 220)),
    "png colour key": (bodies.encoded(halves(RED, BLUE, "RGB"), "PNG", transparency=BLUE), 1, RED, WHITE),
    "png 16-bit grey": (sixteen_bit(), 1, (0x12,) * 3, (0xFE,) * 3),
    "png 16-bit rgb": (sixteen_bit_rgb(), 1, (0x12, 0x56, 0x9A), (0xFE, 0x00, 0x80)),
    "png animated": (animated("PNG"), 2, RED, BLUE),
    "gif": (bodies.encoded(palette(), "GIF"), 1, (200, 30, 40), (20, 60, 220)),
    "gif animated": (animated("GIF"), 2, RED, BLUE),
    "webp": (bodies.encoded(halves(RED, BLUE, "RGB"), "WEBP", lossless=True), 1, RED, BLUE),
    "webp alpha": (
        bodies.encoded(halves((255, 0, 0, 255), (0, 0, 255, 0), "RGBA"), "WEBP", lossless=True),
        1,
        RED,
        WHITE,
    ),
    "webp animated": (animated("WEBP"), 2, RED, BLUE),
}


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_and_mode_is_decoded_to_its_colours(name: str) -> None:
    data, frames, left, right = KINDS[name]
    found = inspect(data)
    pixels = stored(found).astype(int)
    tolerance = 12 if "jpeg" in name else 1
    assert np.abs(pixels[:, 1:6] - left).max() <= tolerance
    assert np.abs(pixels[:, 10:15] - right).max() <= tolerance
    assert found.format == name.split()[0]
    assert (found.frames, found.width, found.height) == (frames, 16, 8)
    assert (found.original_width, found.original_height) == (16, 8)


def test_a_gif_palette_entry_that_is_transparent_becomes_white() -> None:
    image = palette()
    found = inspect(bodies.encoded(image, "GIF", transparency=image.getpixel((12, 4))))
    assert tuple(stored(found)[4, 12]) == WHITE


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(orientation: int, kind: str) -> None:
    seen = np.zeros((24, 40, 3), np.uint8)  # as it is to be looked at: four corners that differ
    seen[:12, :20], seen[:12, 20:], seen[12:, :20] = RED, BLUE, WHITE
    undo = {
        1: seen,
        2: seen[:, ::-1],
        3: seen[::-1, ::-1],
        4: seen[::-1],
        5: seen.transpose(1, 0, 2),
        6: np.rot90(seen, 1),  # to be turned clockwise, so it is stored turned the other way
        7: np.rot90(seen, 2).transpose(1, 0, 2),
        8: np.rot90(seen, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = orientation, "a picture"
    best = {"quality": 100, "subsampling": 0}
    options = {"JPEG": best, "PNG": {}, "AVIF": {"quality": 100, "subsampling": "4:4:4"}}[kind]
    data = bodies.encoded(Image.fromarray(np.ascontiguousarray(undo)), kind, exif=exif, **options)
    found = inspect(data)
    assert (found.original_width, found.original_height) == (found.width, found.height) == (40, 24)
    assert np.abs(stored(found).astype(int) - seen).max() <= 12


def test_nothing_of_the_source_but_its_picture_is_stored() -> None:
    exif = Image.Exif()
    exif[0x010E] = "SECRET"
    data = bodies.encoded(bodies.photo(300, 300), "JPEG", exif=exif, comment=b"SECRET", xmp=b"SECRET")
    assert data.count(b"SECRET") == 3
    for format in ("jpg", "png", "webp"):
        image = inspect(data, ImageConfig(format=format)).image
        opened = Image.open(io.BytesIO(image))
        assert b"SECRET" not in image
        assert not set(opened.info) & {"exif", "comment", "xmp", "icc_profile"}


def test_a_colour_profile_is_converted_to_srgb() -> None:
    plain = halves((250, 10, 10), (10, 10, 250), "RGB")
    profile = _profile_with_swapped_red_and_green()
    for kind, options in (("PNG", {}), ("WEBP", {"lossless": True}), ("JPEG", {"quality": 100, "subsampling": 0})):
        pixels = stored(inspect(bodies.encoded(plain, kind, icc_profile=profile, **options)))
        assert tuple(pixels[4, 4] > 128) == (False, True, False), kind  # what the profile calls red is green
        assert tuple(pixels[4, 12] > 128) == (False, False, True), kind


def test_a_profile_that_does_not_fit_is_passed_over() -> None:
    plain = halves(RED, BLUE, "RGB")
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    broken = _profile_with_swapped_red_and_green()[:200]
    for profile in (lab, broken, b"x"):
        assert np.array_equal(stored(inspect(bodies.encoded(plain, "PNG", icc_profile=profile))), np.asarray(plain))


def _profile_with_swapped_red_and_green() -> bytes:
    """The sRGB profile with the red and green primaries exchanged, and its name taken away."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    swapped = profile.replace(b"rXYZ", b"?XYZ").replace(b"gXYZ", b"rXYZ").replace(b"?XYZ", b"gXYZ")
    for name in ("sRGB".encode("utf-16-be"), b"sRGB"):
        swapped = swapped.replace(name, b"x" * len(name))
    return swapped


def test_a_jpeg_with_odd_sampling_factors_falls_back_to_pillow() -> None:
    grey = bodies.encoded(Image.new("RGB", (32, 16), (128, 128, 128)), "JPEG", quality=90)
    frame, scan = grey.index(b"\xff\xc0"), grey.index(b"\xff\xda")
    scan += 2 + int.from_bytes(grey[scan + 2 : scan + 4], "big")
    # 4:1:0, one unit: eight blocks of luma (no difference 00, end of block 1010) and two of chroma (00, 00).
    data = grey[: frame + 11] + b"\x42" + grey[frame + 12 : scan] + b"\x28\xa2\x8a\x28\xa2\x8a\x00\xff\xd9"
    with pytest.raises(ValueError, match="subsampling"):
        simplejpeg.decode_jpeg_header(data)
    assert np.abs(stored(inspect(data)).astype(int) - 128).max() <= 1


def test_a_sequential_jpeg_with_progressive_scan_values_is_sound_unless_cut() -> None:
    data = bytearray(bodies.JPEG)
    at = data.index(b"\xff\xda")
    data[at + 2 + int.from_bytes(data[at + 2 : at + 4], "big") - 2] = 5
    assert np.array_equal(stored(inspect(bytes(data))), stored(inspect(bodies.JPEG)))
    assert inspect(bytes(data[: len(data) // 2])).status is Status.DECODE_ERROR


# -- what goes out ---------------------------------------------------------------------------------------------------


def img2dataset_resizer(*arguments: Any, **options: Any) -> Callable[[io.BytesIO], tuple[Any, ...]]:
    """img2dataset's own resizer; what it imports would otherwise ask the network for its newest version."""
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    from img2dataset.resizer import Resizer

    made: Callable[[io.BytesIO], tuple[Any, ...]] = Resizer(*arguments, **options)
    return made


SHAPES = [
    (1280, 854),
    (854, 1280),
    (640, 480),
    (300, 300),
    (256, 256),
    (257, 900),
    (100, 60),
    (61, 400),
    (3, 200),
    (1, 1),
]


@needs_img2dataset
@pytest.mark.slow
@pytest.mark.parametrize("only_if_bigger", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_sizes_are_those_of_img2dataset(mode: str, only_if_bigger: bool) -> None:
    for size in (256, 100):
        peer = img2dataset_resizer(size, mode, only_if_bigger)
        config = ImageConfig(size=size, resize=mode, resize_only_if_bigger=only_if_bigger)
        for width, height in SHAPES:
            data = bodies.encoded(Image.new("RGB", (width, height), "teal"), "PNG")
            _, *expected, _ = peer(io.BytesIO(data))
            found = inspect(data, config)
            got = [found.width, found.height, found.original_width, found.original_height]
            assert got == expected, (size, width, height)


@needs_img2dataset
@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_pictures_are_those_of_img2dataset(mode: str) -> None:
    config = ImageConfig(resize=mode, format="png")
    for width, height in ((700, 450), (450, 701), (120, 90)):
        data = bodies.encoded(bodies.photo(width, height), "PNG")
        peer, *_ = img2dataset_resizer(256, mode, False, encode_quality=1, encode_format="png")(io.BytesIO(data))
        expected = np.asarray(Image.open(io.BytesIO(peer)).convert("RGB"))
        assert psnr(stored(inspect(data, config)), expected) > 45


@given(
    width=st.integers(1, 70_000),
    height=st.integers(1, 70_000),
    mode=st.sampled_from(MODES[1:]),
    size=st.integers(1, 2000),
)
@settings(deadline=None, max_examples=200)
def test_one_side_becomes_the_size_and_the_ratio_is_kept(width: int, height: int, mode: str, size: int) -> None:
    got = target_size(width, height, mode=mode, size=size, only_if_bigger=False)  # type: ignore[arg-type]
    assert got is not None
    side = min if mode in ("keep_ratio", "center_crop") else max
    assert side(got) == size
    assert target_size(height, width, mode=mode, size=size, only_if_bigger=False) == got[::-1]  # type: ignore[arg-type]
    assert abs(got[0] * height - got[1] * width) <= max(width, height) or min(got) == 1


def test_a_reduced_decode_is_close_to_full_decode_and_area_averaging() -> None:
    coarse = np.random.default_rng(3).normal(128, 60, (54, 80, 3)).clip(0, 255).astype(np.uint8)
    fine = Image.fromarray(coarse).resize((1280, 854), Image.Resampling.LANCZOS)
    data = bodies.encoded(fine, "JPEG", quality=90)
    reference = cv2.resize(simplejpeg.decode_jpeg(data), (384, 256), interpolation=cv2.INTER_AREA)
    header = read_header(data, "jpeg", max_frames=1)
    reduced = decode(data, "jpeg", header, at_least=(576, 384)).pixels
    assert reduced.shape == (427, 640, 3)
    assert psnr(scale_to(reduced, 384, 256), reference) > 45
    assert psnr(stored(inspect(data, ImageConfig(chroma="444"))), reference) > 38
    assert decode(data, "jpeg", header, at_least=(641, 10)).pixels.shape == (854, 1280, 3)


# -- measurements ----------------------------------------------------------------------------------------------------


def emoji(count: int) -> list[Image.Image]:
    images = []
    for path in random.Random(0).sample(sorted(SAMPLES.glob("*.webp")), count):
        layer = Image.open(path).convert("RGBA")
        image = Image.new("RGB", layer.size, "white")
        image.paste(layer, mask=layer.getchannel("A"))
        images.append(image)
    return images


def test_perceptual_hash_is_close_for_copies_and_far_for_others() -> None:
    images = emoji(50)
    hashes = [inspect(bodies.encoded(image, "PNG")).phash for image in images]
    for image, original in zip(images, hashes, strict=True):
        smaller = image.resize((image.width * 4 // 5, image.height * 4 // 5), Image.Resampling.BICUBIC)
        for copy in (bodies.encoded(image, "JPEG", quality=60), bodies.encoded(smaller, "PNG")):
            assert (inspect(copy, ImageConfig()).phash ^ original).bit_count() <= 6
    apart = [(a ^ b).bit_count() for a, b in itertools.combinations(hashes, 2)]
    assert np.mean(np.array(apart) > 10) > 0.99
    assert max(hashes) > 2**63  # all 64 bits are used


def test_perceptual_hash_is_that_of_the_upright_unpadded_picture() -> None:
    image = bodies.photo(500, 300)
    plain = bodies.encoded(image, "JPEG", quality=95)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = bodies.encoded(image.transpose(Image.Transpose.ROTATE_90), "JPEG", quality=95, exif=exif)
    expected = inspect(plain, ImageConfig()).phash
    assert (inspect(turned, ImageConfig()).phash ^ expected).bit_count() <= 2
    for mode in MODES:
        assert (inspect(plain, ImageConfig(resize=mode)).phash ^ expected).bit_count() <= 2


def test_sharpness_falls_with_blur_and_entropy_with_plainness() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (256, 256), dtype=np.uint8)
    blurred = cv2.GaussianBlur(noise, (0, 0), 2)
    assert sharpness(noise) > 100 * sharpness(blurred)
    assert entropy(noise) == pytest.approx(8, abs=0.01)
    assert entropy(np.full((9, 9), 77, np.uint8)) == 0
    assert entropy(np.array([[0, 255]], np.uint8)) == 1
    assert sharpness(np.full((9, 9), 77, np.uint8)) == 0


def test_the_hash_of_a_plain_picture_has_no_noise_in_it() -> None:
    assert perceptual_hash(np.full((256, 200), 90, np.uint8)) == 0


@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (3000, 2), (64, 64), (700, 256)])
def test_the_grey_copy_has_one_size(shape: tuple[int, int]) -> None:
    assert max(grey_copy(np.zeros((*shape, 3), np.uint8)).shape) == 256


# -- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", bodies.HOSTILE)
def test_hostile_body_has_its_status(name: str) -> None:
    data, status = bodies.HOSTILE[name]
    found = inspect(data, ImageConfig())
    assert found.status is status, found.error
    assert bool(found.error) == (status is not Status.SUCCESS)
    assert bool(found.image) == (status is Status.SUCCESS)
    assert found.sha256 == hashlib.sha256(data).hexdigest()


def test_blocked_bytes_leave_only_their_hash() -> None:
    digest = hashlib.sha256(bodies.JPEG).hexdigest()
    assert inspect_image(bodies.JPEG, ImageConfig(), frozenset({digest})) == Inspected(
        Status.HASH_BLOCKED, sha256=digest
    )


def test_caps_are_inclusive_and_name_the_size() -> None:
    data = bodies.encoded(Image.new("RGB", (40, 25)), "PNG")
    assert inspect(data, EXACT.model_copy(update={"max_pixels": 1000})).status is Status.SUCCESS
    over = inspect(data, EXACT.model_copy(update={"max_pixels": 999}))
    assert (over.status, over.original_width, over.original_height) == (Status.TOO_MANY_PIXELS, 40, 25)
    assert inspect(animated("GIF"), EXACT.model_copy(update={"max_frames": 2})).status is Status.SUCCESS
    assert inspect(animated("GIF"), EXACT.model_copy(update={"max_frames": 1})).status is Status.TOO_MANY_FRAMES


def test_a_side_that_the_stored_format_cannot_hold_is_refused() -> None:
    data = bodies.encoded(Image.new("L", (17_000, 4)), "PNG")
    assert inspect(data, ImageConfig(resize="no", format="webp")).status is Status.TOO_MANY_PIXELS
    assert inspect(data, ImageConfig(resize="no", format="jpg")).status is Status.SUCCESS


def test_sniff_needs_few_bytes() -> None:
    for data, kind in ((bodies.JPEG, "jpeg"), (bodies.PNG, "png"), (bodies.WEBP, "webp"), (bodies.GIF, "gif")):
        assert sniff(data[:12]) == kind
    assert sniff(b"<svg xmlns=") is None
    assert sniff(animated("AVIF")[:64]) == "avif"


def test_the_deadline_does_not_make_committed_shards_stale() -> None:
    assert ImageConfig(decode_timeout_s=1).identity() == ImageConfig().identity()
    assert ImageConfig(size=128).identity() != ImageConfig().identity()


def test_inspected_pickles() -> None:
    found = inspect(bodies.PNG)
    assert pickle.loads(pickle.dumps(found)) == found


AVIF = bodies.encoded(bodies.photo(64, 48), "AVIF")
MOVING = [animated(format) for format in ("WEBP", "PNG", "GIF", "AVIF")]
MAGICS = [bodies.JPEG, bodies.PROGRESSIVE, bodies.PNG, bodies.WEBP, bodies.WEBP_LOSSLESS, bodies.GIF, AVIF, *MOVING]
BOXES = b"\0\0\0\x14ftypavif\0\0\0\0avif\0\0\1\0meta\0\0\0\0"


@given(data=st.binary(max_size=300))
@settings(deadline=None, max_examples=200)
def test_arbitrary_bytes_never_raise(data: bytes) -> None:
    for magic in (b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", b"RIFF\0\0\0\0WEBP", b"GIF89a", BOXES):
        assert inspect(magic + data, ImageConfig(size=16, max_pixels=10_000)).status in Status


@given(whole=st.sampled_from(MAGICS), edits=st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), max_size=6))
@settings(deadline=None, max_examples=200)
def test_damaged_images_never_raise(whole: bytes, edits: list[tuple[float, int]]) -> None:
    data = bytearray(whole)
    for where, value in edits:
        data[int(where * len(data))] = value
    config = ImageConfig(size=16, max_pixels=1_000_000)
    found = inspect(bytes(data), config)
    assert found == inspect(bytes(data), config)  # nothing of this run, such as an address in an error's text
    assert (found.status is Status.SUCCESS) == bool(found.image)


@pytest.mark.parametrize("rows", [0, 1, 20, 31])
@pytest.mark.parametrize("colour", [0, 2, 3, 4, 6])
def test_a_png_with_fewer_rows_than_it_says_is_refused(rows: int, colour: int) -> None:
    """Its stream is whole and its checksums are right; what is missing would be stored as black."""
    palette = [bodies.chunk(b"PLTE", bytes(range(48)))] if colour == 3 else []
    line = b"\0" + bytes([9]) * (32 * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour])
    whole, short = (bodies.png(32, 32, *palette, rows=line * n, colour=colour) for n in (32, rows))
    assert inspect(whole).status is Status.SUCCESS
    assert inspect(short).status is Status.DECODE_ERROR


def test_a_png_of_colours_without_a_palette_is_refused() -> None:
    body = bodies.png(32, 32, rows=(b"\0" + bytes(32)) * 32, colour=3)
    assert inspect(body).status is Status.DECODE_ERROR
