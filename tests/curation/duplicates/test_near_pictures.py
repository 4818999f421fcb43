"""Which real pictures are near-duplicates: copies are, and the same drawing in another colour is not."""

from __future__ import annotations

import colorsys
import io
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image, ImageDraw

from curation.duplicates.near_duplicate_image import NearDuplicateImage, NearDuplicateImageConfig
from curation.images.config import ImageConfig
from curation.images.inspect import inspect_image

SAMPLES = Path(__file__).parents[3] / "samples" / "emoji" / "images"
COLOURS = ("red", "blue", "green", "orange", "purple", "teal", "pink", "brown", "black", "gray", "white", "navy")


def encoded(image: Image.Image, format: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def linked(*bodies: bytes) -> set[frozenset[int]]:
    """The pairs of pictures that are linked, over any number of steps."""
    kind = NearDuplicateImage(NearDuplicateImageConfig(name="near_duplicate_image"))
    found = [inspect_image(body, ImageConfig(), frozenset()) for body in bodies]
    columns = {"phash": [one.phash for one in found], "colours": [one.colours for one in found]}
    rows = pa.table(columns, schema=kind.columns)
    keys = kind.keys(rows)
    a, b = kind.edges(rows.take(keys["row"]).append_column("key", keys["key"]))
    row = keys["row"].to_numpy()
    return {frozenset(pair) for pair in zip(row[a].tolist(), row[b].tolist(), strict=True)}


def dress(colour: str) -> Image.Image:
    image = Image.new("RGB", (400, 500), (250, 250, 252))
    draw = ImageDraw.Draw(image)
    draw.polygon([(150, 60), (250, 60), (262, 200), (350, 470), (50, 470), (138, 200)], fill=colour, outline="black")
    draw.rectangle((134, 190, 266, 212), fill="black")
    for x in range(90, 330, 34):
        draw.line((200, 212, x, 470), fill="black", width=3)
    return image


def bag(colour: str) -> Image.Image:
    """A product that fills a twentieth of its picture, on a room that stays."""
    grid = np.random.default_rng(4).integers(60, 200, (6, 8, 3), dtype=np.uint8)
    image = Image.fromarray(grid).resize((480, 360), Image.Resampling.BICUBIC)
    ImageDraw.Draw(image).rounded_rectangle((200, 210, 305, 300), 20, fill=colour, outline="black", width=4)
    return image


def ring(colour: str) -> Image.Image:
    """A stone of 0.7 % of the picture."""
    image, draw = white_studio()
    draw.ellipse((300, 820, 940, 900), fill=(215, 215, 215))  # a shadow: without it, much of the hash is chance
    draw.ellipse((210, 360, 714, 864), outline=(190, 190, 195), width=52)
    draw.ellipse((414, 276, 510, 372), fill=colour)
    return image.reduce(2)


def shirt(colour: str) -> Image.Image:
    """A logo of 0.7 %."""
    image, draw = white_studio()
    left = [(240, 180), (420, 140), (604, 140), (784, 180), (900, 400), (780, 460), (740, 380), (740, 920)]
    draw.polygon([*left, (284, 920), (284, 380), (244, 460), (124, 400)], fill=(40, 44, 60))
    draw.rectangle((568, 300, 652, 386), fill=colour)
    return image.reduce(2)


def shoe(colour: str) -> Image.Image:
    """A sole of 2.4 %."""
    image, draw = white_studio()
    upper = [(140, 660), (180, 420), (360, 440), (580, 580), (860, 640), (880, 690), (140, 690)]
    draw.polygon(upper, fill=(60, 60, 64))
    draw.rectangle((140, 690, 880, 724), fill=colour)
    return image.reduce(2)


def lipstick(colour: str) -> Image.Image:
    """A tip of 1.1 %."""
    image, draw = white_studio()
    draw.polygon([(592, 880), (592, 600), (900, 880)], fill=(215, 215, 215))
    draw.rectangle((432, 440, 592, 880), fill=(30, 30, 32))
    draw.rectangle((452, 320, 572, 440), fill=(205, 175, 90))
    draw.rectangle((472, 190, 552, 320), fill=colour)
    draw.ellipse((472, 150, 552, 230), fill=colour)
    return image.reduce(2)


def white_studio() -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """Twice as large as the picture, whose edges are soft."""
    image = Image.new("RGB", (1024, 1024), "white")
    return image, ImageDraw.Draw(image)


SMALL = (ring, shirt, shoe, lipstick)
SHADES = ("#dc1e1e", "#1e963c", "#1e3cc8", "#f0c828", "#8228a0", "#f0781e", "#28bec8", "#f082b4", "#6e4628", "#141414")


@pytest.mark.parametrize("format", ["JPEG", "WEBP", "PNG"])
@pytest.mark.parametrize("drawn", SMALL)
def test_a_product_whose_small_part_has_ten_colours_is_ten_pictures(drawn: Any, format: str) -> None:
    assert linked(*(encoded(drawn(shade), format) for shade in SHADES)) == set()


@pytest.mark.parametrize("drawn", SMALL)
def test_copies_of_a_product_with_a_small_coloured_part_are_near_duplicates(drawn: Any) -> None:
    for shade in SHADES:
        image = drawn(shade)
        small, third = (image.resize((side, side), Image.Resampling.LANCZOS) for side in (307, 171))
        copies = [encoded(small, "PNG"), encoded(third, "PNG")]
        copies += [encoded(image, format, quality=quality) for format in ("JPEG", "WEBP") for quality in (20, 80)]
        assert all(linked(encoded(image, "PNG"), copy) for copy in copies), shade


@pytest.mark.parametrize("format", ["JPEG", "WEBP", "PNG"])
@pytest.mark.parametrize("drawn", [dress, bag])
def test_a_product_in_twelve_colours_is_twelve_pictures(drawn: Any, format: str) -> None:
    assert linked(*(encoded(drawn(colour), format) for colour in COLOURS)) == set()


def copies(image: Image.Image) -> Iterator[bytes]:
    half = image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS)
    third = image.resize((image.width // 3, image.height // 3), Image.Resampling.BICUBIC)
    for quality in (20, 60, 95):
        yield encoded(image, "JPEG", quality=quality)
        yield encoded(half, "JPEG", quality=max(quality, 40))
        yield encoded(image, "WEBP", quality=quality)
    yield encoded(third, "WEBP", quality=60)
    yield encoded(half, "PNG")
    yield encoded(image, "AVIF", quality=50)
    yield encoded(image.quantize(128), "GIF")


@pytest.mark.slow
def test_copies_that_are_smaller_or_compressed_are_near_duplicates() -> None:
    drawings = [
        Image.open(path).convert("RGBA") for path in random.Random(6).sample(sorted(SAMPLES.glob("*.webp")), 30)
    ]
    whites = [Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB") for image in drawings]
    originals = [*whites, *(dress(colour) for colour in COLOURS[:4]), *(bag(colour) for colour in COLOURS[:4])]
    missed = total = 0
    for image in originals:
        for copy in copies(image):
            total += 1
            missed += not linked(encoded(image, "PNG"), copy)
    assert total > 400
    assert missed <= 0.03 * total


def test_pictures_of_hue_turned_in_a_part_are_not_copies() -> None:
    chance = random.Random(9)
    dropped = total = 0
    for path in chance.sample(sorted(SAMPLES.glob("*.webp")), 40):
        layer = Image.open(path).convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
        hsv = np.asarray(image.convert("HSV")).copy()
        vivid = hsv[..., 1] > 100
        if vivid.mean() < 0.1:
            continue
        hsv[..., 0][vivid] += chance.choice([43, 85, 128, 170])
        total += 1
        dropped += bool(linked(encoded(image, "PNG"), encoded(Image.fromarray(hsv, "HSV").convert("RGB"), "PNG")))
    assert total > 20
    assert dropped == 0


def test_plain_pictures_are_compared_by_their_bytes_only() -> None:
    chance = random.Random(8)
    bodies = []
    for n in range(60):
        red, green, blue = (round(255 * value) for value in colorsys.hsv_to_rgb(n % 7 / 7, 0.3, 0.8))
        across = np.linspace(0.7, 1, 320)[None, :, None] if n % 3 else np.ones((1, 320, 1))
        pixels = np.broadcast_to(across * [red, green, blue], (240, 320, 3)).astype(np.uint8)
        bodies.append(
            encoded(Image.fromarray(np.ascontiguousarray(pixels)), "WEBP", quality=chance.choice([30, 60, 80]))
        )
    assert linked(*bodies) == set()
