"""Files that say their colours in every way: ICC profiles, PNG chunks, Exif blocks, and the pictures around them."""

from __future__ import annotations

import io
import itertools
import struct
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Values = NDArray[np.float64]

#: CIE 1931 xy of red, green, blue and white.
SRGB = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06), (0.3127, 0.3290))
P3 = ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), (0.3127, 0.3290))
ADOBE = ((0.64, 0.33), (0.21, 0.71), (0.15, 0.06), (0.3127, 0.3290))
REC2020 = ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046), (0.3127, 0.3290))
PROPHOTO = ((0.7347, 0.2653), (0.1596, 0.8404), (0.0366, 0.0001), (0.3457, 0.3585))
D50 = np.array([0.9642, 1.0, 0.8249])

_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])


def adapted(primaries: Sequence[tuple[float, float]]) -> Values:
    """The XYZ of red, green and blue as columns, seen under D50 (Bradford, as ICC.1:2010 annex E)."""
    columns = np.array([[x / y, 1, (1 - x - y) / y] for x, y in primaries]).T
    white = columns[:, 3]
    scaled = columns[:, :3] * np.linalg.solve(columns[:, :3], white)
    gain = (_BRADFORD @ D50) / (_BRADFORD @ white)
    found: Values = np.linalg.inv(_BRADFORD) @ np.diag(gain) @ _BRADFORD @ scaled
    return found


def xyz(*values: float) -> bytes:
    return b"XYZ " + bytes(4) + b"".join(struct.pack(">i", round(v * 65536)) for v in values)


def gamma(value: float) -> bytes:
    return b"curv" + struct.pack(">IIH", 0, 1, round(value * 256))


def table(curve: Callable[[Values], Values], points: int = 256) -> bytes:
    values = np.rint(curve(np.linspace(0, 1, points)) * 65535).astype(">u2")
    return b"curv" + struct.pack(">II", 0, points) + values.tobytes()


def parametric(kind: int, *values: float) -> bytes:
    return b"para" + struct.pack(">IHH", 0, kind, 0) + b"".join(struct.pack(">i", round(v * 65536)) for v in values)


LINEAR = b"curv" + bytes(8)
SRGB_CURVE = parametric(3, 2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)


def text(name: bytes) -> bytes:
    return b"desc" + bytes(4) + struct.pack(">I", len(name) + 1) + name + bytes(80)


def profile(
    tags: Sequence[tuple[bytes, bytes]],
    *,
    space: bytes = b"RGB ",
    kind: bytes = b"mntr",
    pcs: bytes = b"XYZ ",
    name: bytes = b"test",
    version: int = 2,
) -> bytes:
    """An ICC profile of these tags."""
    tags = [(b"desc", text(name)), (b"cprt", b"text" + bytes(4) + b"none\0"), (b"wtpt", xyz(*D50)), *tags]
    at, index, body = 132 + 12 * len(tags), b"", b""
    for tag, data in tags:
        data += bytes(-len(data) % 4)
        index, body, at = index + tag + struct.pack(">II", at, len(data)), body + data, at + len(data)
    head = struct.pack(">I4sI", at, b"none", version << 24) + kind + space + pcs
    head += struct.pack(">6H", 2024, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + xyz(*D50)[8:]
    return head + bytes(128 - len(head)) + struct.pack(">I", len(tags)) + index + body


def matrix(primaries: Sequence[tuple[float, float]], curve: bytes, name: bytes = b"test", version: int = 2) -> bytes:
    colours = zip((b"rXYZ", b"gXYZ", b"bXYZ"), adapted(primaries).T, strict=True)
    curves = [(tag, curve) for tag in (b"rTRC", b"gTRC", b"bTRC")]
    return profile([*((tag, xyz(*values)) for tag, values in colours), *curves], name=name, version=version)


def grey(curve: bytes, name: bytes = b"grey") -> bytes:
    return profile([(b"kTRC", curve)], space=b"GRAY", name=name)


def lab(light: Values) -> Values:
    """XYZ under D50 [..., 3] -> L*a*b*."""
    ratio = light / D50
    root = np.where(ratio > 216 / 24389, np.cbrt(ratio), (24389 / 27 * ratio + 16) / 116)
    return np.stack(
        [116 * root[..., 1] - 16, 500 * (root[..., 0] - root[..., 1]), 200 * (root[..., 1] - root[..., 2])], -1
    )


def lut(channels: int, to_lab: Callable[[Values], Values], *, space: bytes, kind: bytes, name: bytes = b"lut") -> bytes:
    """A profile whose A2B0 is a table (lut16Type) of device values [0-1, channels] to L*a*b*."""
    points = 9 if channels == 4 else 17
    grid = np.array(list(itertools.product(np.linspace(0, 1, points), repeat=channels)))
    found = to_lab(grid)
    # ICC.1:2001 encoding of 16-bit L*a*b*: 100 is 0xFF00, a* = 0 is 0x8000.
    coded = np.stack([found[:, 0] / 100 * 65280, (found[:, 1] + 128) * 256, (found[:, 2] + 128) * 256], -1)
    body = b"mft2" + bytes(4) + bytes([channels, 3, points, 0])
    body += b"".join(struct.pack(">i", v) for v in (65536, 0, 0, 0, 65536, 0, 0, 0, 65536))
    body += struct.pack(">HH", 2, 2) + struct.pack(">HH", 0, 65535) * channels
    body += np.rint(coded).clip(0, 65535).astype(">u2").tobytes() + struct.pack(">HH", 0, 65535) * 3
    return profile([(b"A2B0", body)], space=space, kind=kind, pcs=b"Lab ", name=name)


def ink_to_lab(ink: Values) -> Values:
    """A press that is not simple: warmer paper, weaker inks than those of a screen."""
    light = (1 - 0.9 * ink[:, :3]) * (1 - 0.95 * ink[:, 3:])
    return lab(np.clip(light**2.0 @ adapted(SRGB).T * [0.98, 1, 0.93], 0, None))


def rgb_to_lab(device: Values) -> Values:
    return lab(np.clip(device**1.8 @ adapted(ADOBE).T, 0, None))


PROFILES: dict[str, bytes] = {
    "srgb": matrix(SRGB, SRGB_CURVE, b"sRGB IEC61966-2.1"),
    "linear": matrix(SRGB, LINEAR, b"linear"),
    "linear named srgb": matrix(SRGB, LINEAR, b"built-in Linear sRGB"),
    "p3": matrix(P3, SRGB_CURVE, b"Display P3", version=4),
    "p3 named srgb": matrix(P3, SRGB_CURVE, b"sRGB"),
    "adobe": matrix(ADOBE, gamma(2.2), b"Adobe RGB (1998)"),
    "prophoto": matrix(PROPHOTO, gamma(1.8), b"ProPhoto"),
    "rec2020 table": matrix(REC2020, table(lambda v: v**2.4), b"table"),
    "gamma 1.8": matrix(SRGB, gamma(1.8)),
    "para 0": matrix(SRGB, parametric(0, 1.4), version=4),
    "para 1": matrix(SRGB, parametric(1, 2.2, 1.1, -0.1), version=4),
    "para 4": matrix(SRGB, parametric(4, 2.2, 0.95, 0.05, 0.1, 0.04, 0.0, 0.0), version=4),
    "swapped": matrix((SRGB[1], SRGB[0], *SRGB[2:]), SRGB_CURVE),
    "lut": lut(3, rgb_to_lab, space=b"RGB ", kind=b"scnr"),
    "lut named srgb": lut(3, rgb_to_lab, space=b"RGB ", kind=b"mntr", name=b"sRGB v4 ICC preference"),
    "grey 2.2": grey(gamma(2.2)),
    "grey linear": grey(LINEAR, b"sRGB grey"),
    "grey 1.0 dot": grey(table(lambda v: v**1.5), b"Dot Gain"),
    "cmyk": lut(4, ink_to_lab, space=b"CMYK", kind=b"prtr"),
    "broken": matrix(P3, SRGB_CURVE)[:200],
    "without curves": profile([(b"rXYZ", xyz(0.4, 0.2, 0))]),
    "lab": profile([], space=b"Lab ", kind=b"abst"),
    "noise": b"x",
}


def chunk(name: bytes, body: bytes, *, sound: bool = True) -> bytes:
    """A PNG chunk; not `sound`: with a wrong checksum."""
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body) ^ (not sound))


def gama(value: float) -> bytes:
    return chunk(b"gAMA", struct.pack(">I", round(value * 100_000)))


def chrm(primaries: Sequence[tuple[float, float]]) -> bytes:
    red, green, blue, white = primaries
    return chunk(b"cHRM", struct.pack(">8I", *(round(v * 100_000) for at in (white, red, green, blue) for v in at)))


def cicp(primaries: int, transfer: int, matrix: int = 0, full: int = 1) -> bytes:
    return chunk(b"cICP", bytes([primaries, transfer, matrix, full]))


def iccp(name: str) -> bytes:
    return chunk(b"iCCP", b"icc\0\0" + zlib.compress(PROFILES[name]))


def tiff(orientation: int | None, *, little: bool = False, type_: int = 3) -> bytes:
    """An Exif directory with an orientation, or with a resolution unit only."""
    order = "<" if little else ">"
    tag = 0x0112 if orientation is not None else 0x0128
    value = orientation if orientation is not None else 2
    entry = struct.pack(f"{order}HHI", tag, type_, 1)
    entry += struct.pack(f"{order}HH", value, 0) if type_ == 3 else struct.pack(f"{order}I", value)
    head = b"II*\0" if little else b"MM\0*"
    return head + struct.pack(f"{order}IH", 8, 1) + entry + bytes(4)


def app(number: int, body: bytes) -> bytes:
    """A JPEG segment APPn."""
    return bytes([0xFF, 0xE0 + number]) + struct.pack(">H", len(body) + 2) + body


def exif_segment(orientation: int | None, **options: Any) -> bytes:
    return app(1, b"Exif\0\0" + tiff(orientation, **options))


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def png(
    samples: NDArray[Any],
    colour: int,
    *before: bytes,
    depth: int = 8,
    palette: bytes = b"",
    after: Sequence[bytes] = (),
) -> bytes:
    """A PNG of samples [H, W] or [H, W, C] of `depth` bits, with chunks before the palette and before IDAT."""
    height, width = samples.shape[:2]
    if depth == 16:
        rows = samples.astype(">u2").reshape(height, -1).view(np.uint8)
    elif depth < 8:
        bits = np.unpackbits(samples.astype(np.uint8).reshape(height, -1, 1), axis=2)[:, :, 8 - depth :]
        rows = np.packbits(bits.reshape(height, -1), axis=1)
    else:
        rows = samples.astype(np.uint8).reshape(height, -1)
    data = zlib.compress(np.pad(rows, ((0, 0), (1, 0))).tobytes())
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    plte = chunk(b"PLTE", palette) if palette else b""
    body = [head, *before, plte, *after, chunk(b"IDAT", data), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


def gif(screen: tuple[int, int], image: Image.Image, at: tuple[int, int], *, transparent: int | None = None,
        background: int = 0, before: bytes = b"") -> bytes:  # fmt: skip
    """A GIF whose one frame, a palette image, lies at a place of its screen."""
    options = {} if transparent is None else {"transparency": transparent}
    data = bytearray(encoded(image, "GIF", optimize=False, **options))
    data[6:10] = struct.pack("<HH", *screen)
    data[11] = background
    end = 13 + (3 << ((data[10] & 7) + 1) if data[10] & 0x80 else 0)
    frame = end
    while data[frame] != 0x2C:
        frame += 2
        while data[frame]:
            frame += data[frame] + 1
        frame += 1
    data[frame + 1 : frame + 5] = struct.pack("<HH", *at)
    return bytes(data[:end]) + before + bytes(data[end:])


def riff(*chunks: tuple[bytes, bytes]) -> bytes:
    body = b"WEBP" + b"".join(n + struct.pack("<I", len(d)) + d + b"\0" * (len(d) & 1) for n, d in chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body
