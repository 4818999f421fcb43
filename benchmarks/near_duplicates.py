"""How often near-duplicates are found, and how often other pictures are taken for them: copies and recoloured pictures.

    python benchmarks/near_duplicates.py          about six minutes

Originals are 200 of the sample emoji on white, drawings of products, and soft textures.  Each is copied in 14 ways
(smaller, JPEG, WebP, AVIF, 64 colours) and recoloured in eight: the hue of its vivid pixels is turned by 60 to 180
degrees, everywhere or in a window of a part of the picture.  Besides, plain pictures in WebP are compared with each
other.  Every picture goes through `inspect_image`, and every pair through the kind `near_duplicate_image`: once as it
is by default, and once by hash alone.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from drawings import encoded, on_white
from PIL import Image, ImageDraw
from record import machine, record, table

from curation.duplicates.near_duplicate_image import NearDuplicateImage, NearDuplicateImageConfig
from curation.images.config import ImageConfig
from curation.images.inspect import Inspected, inspect_image

SAMPLES = Path(__file__).resolve().parent.parent / "samples" / "emoji" / "images"
KINDS = {
    "default": NearDuplicateImage(NearDuplicateImageConfig(name="near_duplicate_image")),
    "hash alone": NearDuplicateImage(NearDuplicateImageConfig(name="near_duplicate_image", max_colour=400)),
}
COLOURS = ("red", "blue", "green", "orange", "purple", "teal", "pink", "brown", "black", "gray", "white", "navy")


def inspected(data: bytes) -> Inspected:
    return inspect_image(data, ImageConfig(), frozenset())


def pairs(kind: NearDuplicateImage, found: list[Inspected]) -> int:
    """How many links there are among some pictures."""
    rows = pa.table({"phash": [f.phash for f in found], "colours": [f.colours for f in found]}, schema=kind.columns)
    keys = kind.keys(rows)
    return len(kind.edges(rows.take(keys["row"]).append_column("key", keys["key"]))[0])


def product(colour: str, shape: int) -> Image.Image:
    """One of four drawings on a plain or a patterned ground, of which a quarter to a twentieth is of this colour."""
    image = Image.new("RGB", (400, 500), (250, 250, 252))
    if shape % 2:
        grid = np.random.default_rng(shape).integers(60, 220, (6, 5, 3), dtype=np.uint8)
        image = Image.fromarray(grid).resize((400, 500), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    if shape < 2:
        draw.polygon(
            [(150, 60), (250, 60), (262, 200), (350, 470), (50, 470), (138, 200)], fill=colour, outline="black"
        )
        draw.rectangle((134, 190, 266, 212), fill="black")
    else:
        draw.rounded_rectangle((140, 200, 255, 290), 20, fill=colour, outline="black", width=4)
    return image


def originals(chance: random.Random) -> Iterator[Image.Image]:
    for path in chance.sample(sorted(SAMPLES.glob("*.webp")), 200):
        yield on_white(path.read_bytes())
    yield from (product(colour, shape) for shape in range(4) for colour in COLOURS[:4])
    for seed in range(40):
        rng = np.random.default_rng(seed)
        grid = rng.integers(0, 256, (*rng.integers(6, 20, 2), 3), dtype=np.uint8)
        yield Image.fromarray(grid).resize((480, 360), Image.Resampling.BICUBIC)


def copies(image: Image.Image) -> Iterator[tuple[str, bytes]]:
    half, third = (
        image.resize((max(1, image.width // n), max(1, image.height // n)), Image.Resampling.LANCZOS) for n in (2, 3)
    )
    yield "half as wide", encoded(half, "PNG")
    yield "a third as wide", encoded(third, "PNG")
    for quality in (20, 40, 75, 92):
        yield f"JPEG {quality}", encoded(image, "JPEG", quality=quality)
    for quality in (20, 50, 80):
        yield f"WebP {quality}", encoded(image, "WEBP", quality=quality)
    yield "half as wide, JPEG 50", encoded(half, "JPEG", quality=50)
    yield "half as wide, WebP 50", encoded(half, "WEBP", quality=50)
    yield "a third as wide, WebP 40", encoded(third, "WEBP", quality=40)
    yield "AVIF 40", encoded(image, "AVIF", quality=40)
    yield "64 colours", encoded(image.quantize(64), "GIF")


def recoloured(image: Image.Image, chance: random.Random) -> Iterator[tuple[str, bytes]]:
    hsv = np.asarray(image.convert("HSV"))
    vivid = hsv[..., 1] > 60
    for share in (1.0, 0.15, 0.05):
        side = share**0.5
        width, height = int(image.width * side), int(image.height * side)
        left, top = chance.randint(0, image.width - width), chance.randint(0, image.height - height)
        window = np.zeros_like(vivid)
        window[top : top + height, left : left + width] = True
        if (vivid & window).mean() < 0.6 * share * (share < 1) or vivid.mean() < 0.1:
            continue
        for turn in (60, 120, 180) if share == 1 else (60, 150):
            turned = hsv.copy()
            turned[..., 0][vivid & window] += round(turn * 256 / 360)
            name = f"{turn} degrees, " + ("everywhere" if share == 1 else f"in {share:.0%}")
            yield name, encoded(Image.fromarray(turned, "HSV").convert("RGB"), "PNG")


def plain(chance: random.Random) -> Iterator[bytes]:
    for at in range(120):
        start, end = ([chance.randrange(256) for _ in range(3)] for _ in range(2))
        across = np.linspace(start, start if at % 3 == 0 else end, 320)
        pixels = np.broadcast_to(across[None] if at % 2 else across[:240, None], (240, 320, 3))
        image = Image.fromarray(np.ascontiguousarray(pixels.astype(np.uint8)))
        yield encoded(image, "WEBP", quality=chance.choice([30, 60, 80]))


def main() -> None:
    began, chance = machine(), random.Random(0)
    tried: dict[str, dict[str, int]] = {"copies": defaultdict(int), "recoloured": defaultdict(int)}
    linked: dict[str, dict[tuple[str, str], int]] = {"copies": defaultdict(int), "recoloured": defaultdict(int)}
    for image in originals(chance):
        original = inspected(encoded(image, "PNG"))
        for group, made in (("copies", copies(image)), ("recoloured", recoloured(image, chance))):
            for name, data in made:
                other = inspected(data)
                tried[group][name] += 1
                for kind in KINDS:
                    linked[group][name, kind] += pairs(KINDS[kind], [original, other])
    figures: dict[str, Any] = {}
    for group, counts in tried.items():
        rows = [(name, n, *(linked[group][name, kind] / n for kind in KINDS)) for name, n in counts.items()]
        rows.append(
            ("all", n := sum(counts.values()), *(sum(linked[group][name, k] for name in counts) / n for k in KINDS))
        )
        table((group, "pictures", *KINDS), rows)
        figures[group] = {name: {"pictures": n, **dict(zip(KINDS, shares, strict=True))} for name, n, *shares in rows}
    products = [[inspected(encoded(product(c, shape), "JPEG", quality=92)) for c in COLOURS] for shape in range(4)]
    blank = [inspected(data) for data in plain(chance)]
    figures["links among four products, each in twelve colours"] = {
        name: sum(pairs(kind, found) for found in products) for name, kind in KINDS.items()
    }
    figures["links among 120 plain pictures in WebP"] = {name: pairs(kind, blank) for name, kind in KINDS.items()}
    print(
        figures["links among four products, each in twelve colours"], figures["links among 120 plain pictures in WebP"]
    )
    record("near_duplicates", figures, began)


if __name__ == "__main__":
    main()
