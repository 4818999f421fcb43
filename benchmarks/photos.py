"""The benchmarks' data: 2,000 JPEGs of about one megapixel, cropped from 21 photographs in three Debian packages.

Every crop has its own position, scale and quality, so that no two files are alike.  Every run makes the same files.
The photographs are backgrounds of KDE (plasma-workspace-wallpapers), MATE (mate-backgrounds) and Lomiri.
"""

from __future__ import annotations

import json
import random
import subprocess
from pathlib import Path

import cv2
import numpy as np
import simplejpeg

_PLASMA = (
    *("Autumn", "BytheWater", "ColdRipple", "ColorfulCups", "EveningGlow", "FallenLeaf", "Grey", "Kite"),
    *("OneStandsOut", "Path", "summer_1am"),
)
_MATE = ("Aqua", "Blinds", "Garden", "LadyBird", "RainDrops", "Storm", "TwoWings", "Wood", "YellowFlower")

#: Debian package -> its photographs (the packages hold drawings and renderings as well).
SOURCES = {
    "plasma-workspace-wallpapers": [f"usr/share/wallpapers/{n}/contents/images/2560x1600.jpg" for n in _PLASMA],
    "mate-backgrounds": [f"usr/share/backgrounds/mate/nature/{n}.jpg" for n in _MATE],
    "lomiri-wallpapers-20.04": ["usr/share/backgrounds/Kleiber_by_Lukas_Baubkus.jpg"],
}

#: (width, height) of the files: the usual shapes of photographs, 0.95 to 1.1 megapixels.
SHAPES = ((1280, 854), (1280, 854), (1152, 864), (1366, 768), (1024, 1024), (854, 1280))

#: Encoder qualities of the files, 4:2:0 as nearly all of the web's.
QUALITIES = (85, 92)


def photos(folder: Path, count: int) -> list[Path]:
    """`count` JPEGs under `folder`, made if they do not exist.

    Raises RuntimeError, saying what to do, if the packages cannot be had.
    """
    made = folder / f"{count}.json"
    if not made.exists():
        folder.mkdir(parents=True, exist_ok=True)
        sizes = _make(folder, count)
        made.write_text(json.dumps({"files": count, "mean_kb": round(float(np.mean(sizes)) / 1000, 1)}))
    return [folder / _name(number) for number in range(count)]


def _name(number: int) -> str:
    return f"{number:05d}.jpg"


def _make(folder: Path, count: int) -> list[int]:
    sources = [path for package, paths in SOURCES.items() for path in _unpacked(folder / "packages", package, paths)]
    sizes = []
    for at, source in enumerate(sources):
        pixels = simplejpeg.decode_jpeg(source.read_bytes(), "RGB")
        for number in range(at, count, len(sources)):
            data = _crop(pixels, random.Random(number))
            (folder / _name(number)).write_bytes(data)
            sizes.append(len(data))
    return sizes


def _crop(pixels: np.ndarray, chance: random.Random) -> bytes:
    """One JPEG: a random window of the photograph, reduced to one of `SHAPES`."""
    rows, columns = pixels.shape[:2]
    width, height = chance.choice([(w, h) for w, h in SHAPES if w <= columns and h <= rows])
    scale = chance.uniform(1.0, min(columns / width, rows / height))
    wide, high = int(width * scale), int(height * scale)
    left, top = chance.randint(0, columns - wide), chance.randint(0, rows - high)
    window = np.ascontiguousarray(pixels[top : top + high, left : left + wide])
    reduced = cv2.resize(window, (width, height), interpolation=cv2.INTER_AREA)
    data: bytes = simplejpeg.encode_jpeg(reduced, chance.randint(*QUALITIES), "RGB", "420")
    return data


def _unpacked(folder: Path, package: str, paths: list[str]) -> list[Path]:
    """The photographs of one Debian package, downloaded and unpacked without being installed."""
    wanted = [folder / package / path for path in paths]
    if not all(path.exists() for path in wanted):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            subprocess.run(["apt-get", "download", package], cwd=folder, check=True, capture_output=True, text=True)
            (archive,) = folder.glob(f"{package}_*.deb")
            subprocess.run(["dpkg", "-x", archive, folder / package], check=True, capture_output=True, text=True)
        except (OSError, subprocess.CalledProcessError) as error:
            why = getattr(error, "stderr", "") or error
            raise RuntimeError(
                f"the photographs of the Debian package {package} are needed: {why}\n"
                f"fix: on Debian or Ubuntu run `apt-get update`; elsewhere unpack its .deb into {folder / package}"
            ) from error
    return wanted
