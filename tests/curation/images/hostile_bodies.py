"""Bodies a hostile or broken server may send, each with the status it must end with under the default `ImageConfig`."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image

from curation.schema import Status

JPEG_TAIL_CHROMA = b"\x02\x11\x01\x03\x11\x01"


def photo(width: int, height: int) -> Image.Image:
    """A smooth colourful picture with some texture, the same each time."""
    coarse = np.random.default_rng(7).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, format: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(width: int, height: int, *between: bytes, rows: bytes | None = None, depth: int = 8, colour: int = 2) -> bytes:
    """A PNG with any chunks between IHDR and IDAT; `rows` are its raw scan lines."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    if rows is None:
        rows = (b"\0" + bytes(3 * width)) * height if width * height < 1_000_000 else b"\0" * 1000
    body = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(between) + body + chunk(b"IEND", b"")


def gif(width: int, height: int, *frames: tuple[int, int]) -> bytes:
    """A GIF of this screen size whose frames claim these sizes; each has the picture data of one pixel."""
    image = b"\x02\x02\x44\x01\x00"  # code size 2: clear, pixel 0, end
    parts = [b"GIF89a", struct.pack("<HHBBB", width, height, 0x80, 0, 0), bytes(6)]
    parts += [b"," + struct.pack("<HHHHB", 0, 0, w, h, 0) + image for w, h in frames]
    return b"".join(parts) + b";"


def riff(*chunks: tuple[bytes, bytes]) -> bytes:
    body = b"WEBP" + b"".join(
        name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) & 1) for name, data in chunks
    )
    return b"RIFF" + struct.pack("<I", len(body)) + body


def vp8x(width: int, height: int, flags: int = 0) -> tuple[bytes, bytes]:
    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return b"VP8X", bytes([flags, 0, 0, 0]) + size


def with_jpeg_size(jpeg: bytes, width: int, height: int) -> bytes:
    at = jpeg.index(b"\xff\xc0") + 5
    return jpeg[:at] + struct.pack(">HH", height, width) + jpeg[at + 4 :]


def app1(body: bytes) -> bytes:
    return b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body


def tiff_orientation(value: int) -> bytes:
    return b"MM\0*\0\0\0\x08" + struct.pack(">HHHIHH", 1, 0x0112, 3, 1, value, 0) + b"\0\0\0\0"


JPEG = encoded(photo(400, 300), "JPEG", quality=90)
PROGRESSIVE = encoded(photo(400, 300), "JPEG", quality=90, progressive=True)
PNG = encoded(photo(200, 150), "PNG")
WEBP = encoded(photo(200, 150), "WEBP", quality=80)
WEBP_LOSSLESS = encoded(photo(64, 48), "WEBP", lossless=True)
GIF = encoded(photo(200, 150).quantize(64), "GIF")
#: EXIF whose directory claims 65,535 entries and names itself as the next one and as its own sub-directory.
LOOPING_EXIF = b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + struct.pack(">HHII", 0x8769, 4, 1, 8) * 40 + b"\0\0\0\x08"

OK, NO, ERROR = Status.SUCCESS, Status.NOT_AN_IMAGE, Status.DECODE_ERROR
UNREAD = Status.UNSUPPORTED_FORMAT
PIXELS, FRAMES = Status.TOO_MANY_PIXELS, Status.TOO_MANY_FRAMES

HOSTILE: dict[str, tuple[bytes, Status]] = {
    # No image, or one of a format that is not read.
    "empty": (b"", NO),
    "one byte": (b"\xff", NO),
    "zeros": (bytes(5000), NO),
    "html": (b"<!DOCTYPE html><html><body>Not found</body></html>", NO),
    "html before jpeg": (b"<html>" + JPEG, NO),
    "svg": (b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>', UNREAD),
    "svg with xml head": (b'<?xml version="1.0"?><!DOCTYPE svg [<!ENTITY a "aa">]><svg>&a;</svg>', UNREAD),
    "pdf": (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", NO),
    "bmp": (encoded(photo(20, 20), "BMP"), UNREAD),
    "tiff": (encoded(photo(20, 20), "TIFF"), UNREAD),
    "ico": (encoded(photo(20, 20), "ICO"), UNREAD),
    "avif": (b"\0\0\0\x20ftypavif\0\0\0\0avifmif1miaf" + bytes(100), ERROR),
    "heic": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100), UNREAD),
    "jpeg 2000": (b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(100), UNREAD),
    "jpeg xl": (b"\xff\x0a" + bytes(100), UNREAD),
    "jpeg xl in a box": (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(100), UNREAD),
    "riff but wave": (b"RIFF\x24\0\0\0WAVEfmt " + bytes(32), NO),
    "gzip": (b"\x1f\x8b\x08\0" + bytes(100), NO),
    "pickle": (b"\x80\x04cos\nsystem\n(S'true'\ntR.", NO),
    # JPEG.
    "jpeg magic only": (b"\xff\xd8\xff", ERROR),
    "jpeg magic and garbage": (b"\xff\xd8\xff\xe0" + bytes(range(256)) * 20, ERROR),
    "jpeg head only": (JPEG[:200], ERROR),
    "jpeg half": (JPEG[: len(JPEG) // 2], ERROR),
    "jpeg without its last tenth": (JPEG[: len(JPEG) * 9 // 10], ERROR),
    "jpeg without end marker": (JPEG[:-2], OK),
    "jpeg without end marker and its last pixels": (JPEG[:-4], ERROR),
    "progressive jpeg half": (PROGRESSIVE[: len(PROGRESSIVE) // 2], ERROR),
    "jpeg zeroed in the middle": (JPEG[: len(JPEG) // 2] + bytes(400) + JPEG[len(JPEG) // 2 + 400 :], ERROR),
    "jpeg of 65500 x 65500": (with_jpeg_size(JPEG, 65500, 65500), PIXELS),
    "jpeg of zero height": (with_jpeg_size(JPEG, 400, 0), ERROR),
    "jpeg taller than its data": (with_jpeg_size(JPEG, 400, 20_000), ERROR),
    "jpeg segment past the end": (b"\xff\xd8\xff\xe0\xff\xff" + b"JFIF\0", ERROR),
    "jpeg with two frame headers": (
        b"\xff\xd8\xff\xc0\x00\x11\x08" + struct.pack(">HH", 8, 8) + b"\x03\x01\x22\x00" + JPEG_TAIL_CHROMA + JPEG[2:],
        ERROR,
    ),
    "jpeg with looping exif": (JPEG[:2] + app1(LOOPING_EXIF) + JPEG[2:], OK),
    "jpeg with exif offset past the end": (JPEG[:2] + app1(b"Exif\0\0II*\0\xff\xff\xff\xff") + JPEG[2:], OK),
    "jpeg with a profile of noise": (JPEG[:2] + b"\xff\xe2\x00\x90ICC_PROFILE\0\x01\x01" + bytes(128) + JPEG[2:], OK),
    "jpeg then zip": (JPEG + b"PK\x03\x04" + bytes(500), OK),
    "jpeg then script": (JPEG + b"<script>alert(1)</script>", OK),
    # PNG.
    "png magic only": (b"\x89PNG\r\n\x1a\n", ERROR),
    "png magic and garbage": (b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 20, ERROR),
    "png half": (PNG[: len(PNG) // 2], ERROR),
    "png of 60000 x 60000": (png(60_000, 60_000), PIXELS),
    "png of 2^31 x 2^31": (png(2**31 - 1, 2**31 - 1), PIXELS),
    "png of zero width": (png(0, 10), ERROR),
    "png just under the cap without rows": (png(8000, 7999), ERROR),
    "png with a bad checksum in its header": (PNG[:29] + bytes(4) + PNG[33:], ERROR),
    "png with noise for rows": (PNG[:60] + bytes(range(256)) + PNG[316:], ERROR),
    "png with a bomb in zTXt": (png(8, 8, chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(50_000_000)))), OK),
    "png with a bomb in iCCP": (png(8, 8, chunk(b"iCCP", b"k\0\0" + zlib.compress(bytes(50_000_000)))), OK),
    "png with a bomb in iTXt": (
        png(8, 8, chunk(b"iTXt", b"k\0\x01\0\0\0" + zlib.compress(bytes(50_000_000)))),
        OK,
    ),
    "png of 2^32 frames": (png(8, 8, chunk(b"acTL", struct.pack(">II", 2**32 - 1, 0))), FRAMES),
    "png with a bomb in its rows": (png(8, 8, rows=bytes(50_000_000)), OK),
    "png sliver that would grow without bound": (png(1, 60_000), PIXELS),
    # GIF.
    "gif magic only": (b"GIF89a", ERROR),
    "gif half": (GIF[: len(GIF) // 2], ERROR),
    "gif of zero size": (gif(0, 0, (0, 0)), ERROR),
    "gif without a frame": (gif(10, 10), ERROR),
    "gif of 65535 x 65535": (gif(65535, 65535, (1, 1)), PIXELS),
    "gif whose frame outgrows its screen": (gif(10, 10, (65535, 65535)), PIXELS),
    "gif of 5000 frames": (gif(10, 10, *[(1, 1)] * 5000), FRAMES),
    "gif and script": (b"GIF89a=1;alert(1);" + bytes(20), ERROR),
    # WebP.
    "webp magic only": (b"RIFF\x00\x00\x00\x00WEBP", ERROR),
    "webp half": (WEBP[: len(WEBP) // 2], ERROR),
    "webp canvas of 2^24 x 2^24": (riff(vp8x(2**24, 2**24)), PIXELS),
    "webp canvas without a picture": (riff(vp8x(100, 100)), ERROR),
    "webp canvas smaller than its picture": (riff(vp8x(10, 10), (b"VP8L", WEBP_LOSSLESS[20:])), ERROR),
    "webp picture of 16383 x 16383": (
        riff((b"VP8L", b"\x2f" + ((16382 << 14) | 16382).to_bytes(4, "little") + bytes(50))),
        PIXELS,
    ),
    "webp animation of 2000 frames": (
        riff(vp8x(8, 8, flags=2), (b"ANIM", bytes(6)), *[(b"ANMF", bytes(16))] * 2000),
        FRAMES,
    ),
    "webp chunk past the end": (riff((b"VP8 ", WEBP[20:]))[:-100] + b"", ERROR),
}
