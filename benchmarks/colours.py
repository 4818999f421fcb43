"""Compare the colours of our decoder with those of a browser: generated pictures, through both, on white.

    python benchmarks/colours.py [--only TEXT]          about half a minute; needs Chromium

Every picture of `colour_pictures` is drawn by headless Chromium on a white canvas and stored by `inspect_image`, at its
own size and without loss.  They must have the same size, and differ by at most 2 levels of 255 on average over pixels
and channels.  Exits 1 if less than 99 % do, or if one that does not is not among `EXCEPTIONS`.
--only: the pictures whose names contain this text; nothing is recorded then.
"""

from __future__ import annotations

import argparse
import base64
import io
from statistics import mean
from typing import Any

import numpy as np
from browse import browser
from colour_pictures import pictures
from numpy.typing import NDArray
from PIL import Image
from record import machine, record, table

from curation.images.config import ImageConfig
from curation.images.inspect import inspect_image

#: Levels of 255, on average over a picture.
TOLERANCE = 2.0
SHARE = 0.99

_INK = (
    "Chromium mixes black ink into the others before it looks a colour up in the profile; ours is what the profile says"
)
_RANGE = (
    "Chromium stretches the alpha plane and the frames of an AVIF sequence as if they were 16-235; ours is as encoded"
)
_END = "Chromium waits for the end marker before it shows the last blocks; ours has all of the picture"
_EXIF = "a block without an orientation says nothing here; Chromium reads no second block"

#: Pictures that differ, and why.
EXCEPTIONS: dict[str, str] = {
    "jpeg cmyk profile cmyk": _INK,
    "jpeg ycck profile cmyk": _INK,
    "gif zero before its frame": "Chromium shows an empty canvas; Pillow shows the frame",
    "avif alpha": _RANGE,
    "avif premultiplied alpha": _RANGE,
    "avif alpha profile p3": _RANGE,
    "avif animated": _RANGE,
    "jpeg exif none then 6": _EXIF,
    "jpeg exif broken then 6": _EXIF,
    "jpeg of own codes without its end": _END,
    "jpeg of own codes with half of its end": _END,
}

_DRAW = """async url => {
  const image = new Image();
  image.src = url;
  try { await image.decode(); } catch (error) { return null; }
  const canvas = document.createElement("canvas");
  canvas.width = image.naturalWidth;
  canvas.height = image.naturalHeight;
  const context = canvas.getContext("2d", {colorSpace: "srgb", willReadFrequently: true});
  context.fillStyle = "white";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(image, 0, 0);
  const pixels = context.getImageData(0, 0, canvas.width, canvas.height).data;
  let text = "";
  for (const value of pixels) text += String.fromCharCode(value);
  return {width: canvas.width, height: canvas.height, pixels: btoa(text)};
}"""

_MIME = {b"\xff\xd8": "jpeg", b"\x89P": "png", b"GI": "gif", b"RI": "webp", b"\0\0": "avif"}


def drawn(page: Any, data: bytes) -> NDArray[np.uint8] | None:
    """A picture as the browser shows it on white, [H, W, 3]; None if it does not."""
    url = f"data:image/{_MIME[data[:2]]};base64,{base64.b64encode(data).decode()}"
    found = page.evaluate(_DRAW, url)
    if found is None:
        return None
    pixels = np.frombuffer(base64.b64decode(found["pixels"]), np.uint8)
    return pixels.reshape(found["height"], found["width"], 4)[:, :, :3]


def stored(data: bytes) -> tuple[NDArray[np.uint8] | None, str]:
    """A picture as we store it, [H, W, 3], or None and why not."""
    found = inspect_image(data, ImageConfig(resize="no", format="png"), frozenset())
    if not found.image:
        return None, f"{found.status.value}: {found.error}"
    return np.asarray(Image.open(io.BytesIO(found.image)).convert("RGB")), ""


def compared(theirs: NDArray[np.uint8] | None, ours: NDArray[np.uint8] | None, why: str) -> dict[str, Any]:
    """Mean and largest difference in levels, or in words where there is none to measure."""
    if theirs is None:
        return {"not shown there": "nor here" if ours is None else "but here"}
    if ours is None:
        return {"differs": f"we do not show it: {why}"}
    if theirs.shape != ours.shape:
        return {"differs": f"{theirs.shape[1]}x{theirs.shape[0]} there, {ours.shape[1]}x{ours.shape[0]} here"}
    difference = np.abs(theirs.astype(int) - ours)
    return {"mean": round(float(difference.mean()), 3), "most": int(difference.max())}


def agrees(result: dict[str, Any]) -> bool:
    return "mean" in result and bool(result["mean"] <= TOLERANCE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="")
    only = parser.parse_args().only
    began = machine()
    results: dict[str, dict[str, Any]] = {}
    with browser("--force-color-profile=srgb") as chromium:
        version, page = chromium.version, chromium.new_page()
        for name, data in pictures():
            if only in name:
                results[name] = compared(drawn(page, data), *stored(data))
    shown = {name: result for name, result in results.items() if "not shown there" not in result}
    agreeing = {name: result for name, result in shown.items() if agrees(result)}
    differing = {name: result for name, result in shown.items() if not agrees(result)}
    rows = [
        (name, result.get("mean", "-"), result.get("most", "-"), EXCEPTIONS.get(name) or result.get("differs", "?"))
        for name, result in differing.items()
    ]
    table(("picture", "mean", "most", "why"), rows)
    share = 1 - len(differing) / len(shown)
    unnamed = sorted(set(differing) - set(EXCEPTIONS))
    print(f"\n{len(shown)} pictures, {share:.2%} within {TOLERANCE:g} levels; without a reason: {unnamed or 'none'}")
    if only:
        return
    figures = {
        "browser": f"Chromium {version}",
        "pictures": len(shown),
        "not shown by the browser": {name: result for name, result in results.items() if name not in shown},
        "within 2 levels": round(share, 4),
        "mean difference of these": round(mean(result["mean"] for result in agreeing.values()), 3),
        "largest of these": dict(sorted(agreeing.items(), key=lambda item: -item[1]["mean"])[:10]),
        "exceptions": {name: {**result, "why": EXCEPTIONS.get(name, "")} for name, result in differing.items()},
    }
    record("colours", figures, began)
    if share < SHARE or unnamed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
