"""The pictures that benchmarks/colours.py compares: formats, profiles, depths, transparency and orientations."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from colour_files import (
    ADOBE,
    P3,
    PROFILES,
    REC2020,
    SRGB,
    app,
    chrm,
    chunk,
    cicp,
    encoded,
    exif_segment,
    gama,
    gif,
    iccp,
    png,
    riff,
    tiff,
)
from numpy.typing import NDArray
from PIL import Image

WIDTH, HEIGHT = 64, 48


def patches() -> NDArray[np.uint8]:
    """[H, W, 3]: twelve patches of colour, eight of them random, over a ramp of grey and ramps of the primaries."""
    found = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    colours = np.random.default_rng(1).integers(10, 246, (2, 4, 3), dtype=np.uint8)
    found[:24] = colours.repeat(12, 0).repeat(16, 1)
    ramp = np.linspace(0, 255, WIDTH).round().astype(np.uint8)
    found[24:32] = ramp[:, None]
    for channel in range(3):
        found[32 + 4 * channel : 36 + 4 * channel, :, channel] = ramp
    found[44:] = [255, 255, 255]
    found[44:, :32] = [16, 160, 200]
    return found


RGB = patches()
GREY = np.ascontiguousarray(RGB[:, :, 1])
IMAGE = Image.fromarray(RGB)
ALPHA = np.tile(np.linspace(0, 255, WIDTH).round().astype(np.uint8), (HEIGHT, 1))
RGBA = np.dstack([RGB, ALPHA])
PALETTE = IMAGE.quantize(64, dither=Image.Dither.NONE)
ALPHA_BYTES = bytes(range(0, 256, 8))
INK = np.dstack([255 - RGB, np.tile(np.linspace(0, 120, HEIGHT).astype(np.uint8)[:, None], (1, WIDTH))])
AVIF: dict[str, Any] = {"quality": 95, "subsampling": "4:4:4"}
LOSSLESS: dict[str, Any] = {"lossless": True, "quality": 20}
COLOUR_PROFILES = [name for name in PROFILES if "grey" not in name and name != "cmyk"]


def wide(samples: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """8-bit samples as 16-bit ones whose lower halves differ from the upper ones."""
    low = np.arange(samples.size, dtype=np.uint16).reshape(samples.shape) * 37 % 256
    return samples.astype(np.uint16) << 8 | low


def pictures() -> Iterator[tuple[str, bytes]]:
    """Name and file of each."""
    yield from jpegs()
    yield from pngs()
    yield from png_colours()
    yield from gifs()
    yield from webps()
    yield from avifs()
    yield from orientations()
    yield from ends()
    yield from products()


def jpegs() -> Iterator[tuple[str, bytes]]:
    best: dict[str, Any] = {"quality": 95, "subsampling": 0}
    for subsampling in (0, 1, 2):
        for progressive in (False, True):
            options = {"quality": 90, "subsampling": subsampling, "progressive": progressive}
            yield f"jpeg {subsampling} progressive {progressive}", encoded(IMAGE, "JPEG", **options)
    yield "jpeg rgb", encoded(IMAGE, "JPEG", quality=95, keep_rgb=True)
    yield "jpeg grey", encoded(Image.fromarray(GREY), "JPEG", quality=95)
    for name in COLOUR_PROFILES:
        yield f"jpeg profile {name}", encoded(IMAGE, "JPEG", icc_profile=PROFILES[name], **best)
    for name in ("grey 2.2", "grey linear", "grey 1.0 dot", "linear", "p3", "cmyk", "lut"):
        yield (
            f"jpeg grey profile {name}",
            encoded(Image.fromarray(GREY), "JPEG", quality=95, icc_profile=PROFILES[name]),
        )
    for name in ("grey linear", "cmyk"):
        yield f"jpeg colour profile {name}", encoded(IMAGE, "JPEG", icc_profile=PROFILES[name], **best)
    cmyk = encoded(Image.fromarray(INK, "CMYK"), "JPEG", quality=95)
    adobe = cmyk.index(b"\xff\xee")
    length = 2 + int.from_bytes(cmyk[adobe + 2 : adobe + 4], "big")
    yield "jpeg cmyk", cmyk
    yield "jpeg cmyk without adobe", cmyk[:adobe] + cmyk[adobe + length :]
    ycck = bytearray(cmyk)
    ycck[adobe + length - 1] = 2
    yield "jpeg ycck", bytes(ycck)
    for name in ("cmyk", "srgb", "linear"):
        for kind, data in (("cmyk", cmyk), ("ycck", bytes(ycck))):
            icc = app(2, b"ICC_PROFILE\0\1\1" + PROFILES[name]) if len(PROFILES[name]) < 60_000 else b""
            yield f"jpeg {kind} profile {name}", data[:2] + icc + data[2:]
    plain = encoded(IMAGE, "JPEG", **best)
    half = len(PROFILES["lut"]) // 2
    first, second = PROFILES["lut"][:half], PROFILES["lut"][half:]
    for name, parts in {
        "in two": [(1, 2, first), (2, 2, second)],
        "in two, second first": [(2, 2, second), (1, 2, first)],
        "of which half is missing": [(1, 2, first)],
        "of which the second is missing": [(2, 2, second)],
        "twice": [(1, 1, PROFILES["linear"]), (1, 1, PROFILES["p3"])],
    }.items():
        segments = b"".join(app(2, b"ICC_PROFILE\0" + bytes([at, of]) + part) for at, of, part in parts)
        yield f"jpeg profile {name}", plain[:2] + segments + plain[2:]
    tables = plain.index(b"\xff\xdb")
    yield "jpeg stray bytes", plain[:tables] + b"ab" + plain[tables:]
    yield "jpeg stray bytes at its end", plain[:-2] + bytes(16) + plain[-2:]
    yield "jpeg of an unknown JFIF version", plain[:11] + b"\x05" + plain[12:]


def pngs() -> Iterator[tuple[str, bytes]]:
    grey_alpha = np.dstack([GREY, ALPHA])
    yield "png rgb", png(RGB, 2)
    yield "png rgb 16", png(wide(RGB), 2, depth=16)
    yield "png rgba", png(RGBA, 6)
    yield "png rgba 16", png(wide(RGBA), 6, depth=16)
    yield "png grey alpha", png(grey_alpha, 4)
    yield "png grey alpha 16", png(wide(grey_alpha), 4, depth=16)
    for depth in (1, 2, 4, 8):
        yield f"png grey {depth}", png(GREY >> 8 - depth, 0, depth=depth)
        key = int(GREY[4, 4] >> 8 - depth).to_bytes(2, "big")
        yield f"png grey {depth} key", png(GREY >> 8 - depth, 0, depth=depth, after=[chunk(b"tRNS", key)])
    grey = wide(GREY)
    grey[10:20, 10:20] = 0x1234
    grey[20:30, 10:20] = 0x1235
    yield "png grey 16", png(grey, 0, depth=16)
    yield "png grey 16 key", png(grey, 0, depth=16, after=[chunk(b"tRNS", b"\x12\x34")])
    colour = wide(RGB)
    colour[10:20, 10:20] = 0x1234
    colour[20:30, 10:20] = 0x1235
    yield "png rgb 16 key", png(colour, 2, depth=16, after=[chunk(b"tRNS", b"\x12\x34" * 3)])
    yield "png rgb key", png(RGB, 2, after=[chunk(b"tRNS", b"".join(bytes([0, v]) for v in RGB[4, 4]))])
    indices, colours = np.asarray(PALETTE), bytes(PALETTE.getpalette()[:192])
    yield "png palette", png(indices, 3, palette=colours)
    yield "png palette alpha", png(indices, 3, palette=colours, after=[chunk(b"tRNS", ALPHA_BYTES)])
    for depth in (1, 2, 4):
        yield f"png palette {depth}", png(indices >> 6 - depth, 3, depth=depth, palette=colours[: 3 << depth])
        key = [chunk(b"tRNS", b"\0\x80")]
        yield (
            f"png palette {depth} alpha",
            png(indices >> 6 - depth, 3, depth=depth, palette=colours[: 3 << depth], after=key),
        )
    second = Image.fromarray(RGB[::-1].copy())
    yield "png animated", encoded(IMAGE, "PNG", save_all=True, append_images=[second], duration=1000)
    yield (
        "png animated default image",
        encoded(second, "PNG", save_all=True, append_images=[IMAGE, second], default_image=True, duration=1000),
    )
    small = Image.fromarray(RGBA[:30, :40].copy())
    yield "png animated small frame", _animated_small(small)
    text = b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(b" " * 2_200_000)
    yield (
        "png large text",
        png(RGB, 2, chunk(b"iTXt", text), chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(3_000_000)))),
    )
    yield "png bad text", png(RGB, 2, chunk(b"tEXt", b"k\0v", sound=False))


def _animated_small(frame: Image.Image) -> bytes:
    """An animation whose default image is not part of it, and whose first frame is smaller than the canvas."""
    import struct

    head = png(RGB[::-1], 2)
    at = head.index(b"IDAT") - 4
    end = len(head) - 12
    data = zlib.compress(np.pad(np.asarray(frame.convert("RGB")).reshape(frame.height, -1), ((0, 0), (1, 0))).tobytes())
    control = struct.pack(">IIIIIHHBB", 0, frame.width, frame.height, 8, 6, 100, 100, 0, 0)
    parts = [chunk(b"acTL", struct.pack(">II", 1, 0)), head[at:end], chunk(b"fcTL", control)]
    parts.append(chunk(b"fdAT", struct.pack(">I", 1) + data))
    return head[:at] + b"".join(parts) + head[end:]


def png_colours() -> Iterator[tuple[str, bytes]]:
    for name in COLOUR_PROFILES:
        yield f"png profile {name}", png(RGB, 2, iccp(name))
    for name in ("linear", "p3", "lut", "adobe"):
        yield f"png rgba profile {name}", png(RGBA, 6, iccp(name))
        yield f"png rgb 16 profile {name}", png(wide(RGB), 2, iccp(name), depth=16)
    for name in ("grey 2.2", "grey linear", "grey 1.0 dot", "linear", "p3"):
        yield f"png grey profile {name}", png(GREY, 0, iccp(name))
        yield f"png grey alpha profile {name}", png(np.dstack([GREY, ALPHA]), 4, iccp(name))
        yield f"png grey 16 profile {name}", png(wide(GREY), 0, iccp(name), depth=16)
    yield "png rgb profile grey", png(RGB, 2, iccp("grey linear"))
    indices, colours = np.asarray(PALETTE), bytes(PALETTE.getpalette()[:192])
    for name in ("linear", "p3", "grey linear"):
        yield f"png palette profile {name}", png(indices, 3, iccp(name), palette=colours)
    for value in (1.0, 0.45455, 0.55556, 0.35, 0.47, 0.44, 0.1, 0.0, 3.0, 0.00001):
        yield f"png gamma {value}", png(RGB, 2, gama(value))
    for name, samples, colour, depth in (
        ("grey", GREY, 0, 8),
        ("grey 16", wide(GREY), 0, 16),
        ("rgb 16", wide(RGB), 2, 16),
        ("rgba", RGBA, 6, 8),
        ("rgba 16", wide(RGBA), 6, 16),
        ("grey alpha", np.dstack([GREY, ALPHA]), 4, 8),
        ("grey 4", GREY >> 4, 0, 4),
    ):
        for value in (1.0, 0.55556):
            yield f"png {name} gamma {value}", png(samples, colour, gama(value), depth=depth)
    yield "png palette gamma 1.0", png(indices, 3, gama(1), palette=colours)
    for name, primaries in (("srgb", SRGB), ("p3", P3), ("adobe", ADOBE), ("rec2020", REC2020)):
        yield f"png primaries {name}", png(RGB, 2, chrm(primaries))
        for value in (0.45455, 1.0):
            yield f"png gamma {value} primaries {name}", png(RGB, 2, gama(value), chrm(primaries))
    d50 = (*SRGB[:3], (0.3457, 0.3585))
    yield "png primaries d50", png(RGB, 2, gama(0.45455), chrm(d50))
    yield "png grey primaries p3", png(GREY, 0, gama(1), chrm(P3))
    yield "png impossible primaries", png(RGB, 2, gama(1), chrm(((0, 0), (0, 0), (0, 0), (0, 0))))
    yield "png srgb and gamma", png(RGB, 2, chunk(b"sRGB", b"\0"), gama(1))
    yield "png gamma and srgb", png(RGB, 2, gama(1), chunk(b"sRGB", b"\0"))
    yield "png profile and gamma", png(RGB, 2, gama(1), iccp("p3"))
    yield "png profile and srgb", png(RGB, 2, iccp("p3"), chunk(b"sRGB", b"\0"))
    yield "png broken profile and gamma", png(RGB, 2, gama(1), iccp("broken"))
    yield "png noise profile and gamma", png(RGB, 2, gama(1), iccp("noise"))
    for name, data in (("gamma", gama(1)), ("profile", iccp("linear")), ("code", cicp(12, 13))):
        broken = data[:-1] + bytes([data[-1] ^ 1])
        yield f"png {name} of a bad checksum", png(RGB, 2, broken)
    yield "png gamma twice", png(RGB, 2, gama(1), gama(0.45455))
    yield "png gamma after palette", png(RGB, 2, palette=b"\0\0\0", after=[gama(1)])
    yield "png gamma after its rows", _after_rows(png(RGB, 2), gama(1))
    yield "png profile after its rows", _after_rows(png(RGB, 2), iccp("linear"))
    for code in (1, 4, 5, 6, 7, 8, 9, 10, 11, 12, 22, 2, 0, 255):
        yield f"png code {code} 13", png(RGB, 2, cicp(code, 13))
    for code in (1, 4, 5, 6, 7, 8, 9, 10, 11, 12, 14, 15, 16, 17, 18, 2, 0):
        yield f"png code 1 {code}", png(RGB, 2, cicp(1, code))
    yield "png code 9 16", png(RGB, 2, cicp(9, 16))
    yield "png code 9 18", png(RGB, 2, cicp(9, 18))
    yield "png code 12 16", png(RGB, 2, cicp(12, 16))
    yield "png rgba code 9 16", png(RGBA, 6, cicp(9, 16))
    yield "png rgb 16 code 9 18", png(wide(RGB), 2, cicp(9, 18), depth=16)
    yield "png code and profile", png(RGB, 2, cicp(12, 13), iccp("linear"))
    yield "png code and gamma", png(RGB, 2, cicp(12, 13), gama(1))
    yield "png code of another matrix", png(RGB, 2, cicp(12, 13, matrix=1))
    yield "png code of narrow range", png(RGB, 2, cicp(12, 13, full=0))
    yield "png grey code", png(GREY, 0, cicp(1, 8))
    yield "png rgba code", png(RGBA, 6, cicp(12, 13))
    yield "png rgb 16 code", png(wide(RGB), 2, cicp(12, 8), depth=16)


def _after_rows(data: bytes, *chunks: bytes) -> bytes:
    return data[:-12] + b"".join(chunks) + data[-12:]


def gifs() -> Iterator[tuple[str, bytes]]:
    small = PALETTE.crop((0, 0, 40, 30))
    yield "gif", encoded(PALETTE, "GIF")
    yield "gif interlaced", encoded(PALETTE, "GIF", interlace=True)
    yield "gif grey", encoded(Image.fromarray(GREY), "GIF")
    yield "gif key", encoded(PALETTE, "GIF", transparency=PALETTE.getpixel((4, 4)))
    yield "gif small frame", gif((WIDTH, HEIGHT), small, (0, 0), background=2)
    yield "gif small frame off the corner", gif((WIDTH, HEIGHT), small, (13, 7), background=2)
    yield "gif small frame key", gif((WIDTH, HEIGHT), small, (13, 7), transparent=small.getpixel((4, 4)), background=3)
    yield "gif large frame", gif((40, 30), PALETTE, (0, 0))
    yield "gif frame past its screen", gif((WIDTH, HEIGHT), PALETTE, (20, 10))
    yield "gif frame off its screen", gif((30, 20), small, (40, 30))
    yield "gif zero before its frame", gif((WIDTH, HEIGHT), PALETTE, (0, 0), before=b"\0")
    second = Image.fromarray(RGB[::-1].copy())
    yield "gif animated", encoded(PALETTE, "GIF", save_all=True, append_images=[second], duration=1000)


def webps() -> Iterator[tuple[str, bytes]]:
    layer = Image.fromarray(RGBA)
    yield "webp", encoded(IMAGE, "WEBP", quality=90)
    yield "webp lossless", encoded(IMAGE, "WEBP", **LOSSLESS)
    yield "webp alpha", encoded(layer, "WEBP", quality=90)
    yield "webp lossless alpha", encoded(layer, "WEBP", **LOSSLESS)
    second = Image.fromarray(RGB[::-1].copy())
    yield "webp animated", encoded(IMAGE, "WEBP", save_all=True, append_images=[second], duration=1000, **LOSSLESS)
    frames = {"save_all": True, "append_images": [layer], "duration": 1000, "background": (10, 200, 30, 255)}
    yield "webp animated alpha", encoded(layer, "WEBP", **frames, **LOSSLESS)
    plain = encoded(Image.fromarray(RGBA[:30, :40].copy()), "WEBP", **LOSSLESS)[12:]
    size = lambda width, height: (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")  # noqa: E731
    frame = b"".join(v.to_bytes(3, "little") for v in (4, 3)) + size(40, 30) + (1000).to_bytes(3, "little") + b"\0"
    canvas = b"\x12\0\0\0" + size(WIDTH, HEIGHT)
    yield (
        "webp animated small frame",
        riff((b"VP8X", canvas), (b"ANIM", b"\x20\x90\x30\xff\0\0"), (b"ANMF", frame + plain)),
    )
    for name in (*COLOUR_PROFILES, "grey linear"):
        yield f"webp profile {name}", encoded(IMAGE, "WEBP", icc_profile=PROFILES[name], **LOSSLESS)
    for name in ("linear", "p3"):
        yield f"webp alpha profile {name}", encoded(layer, "WEBP", icc_profile=PROFILES[name], **LOSSLESS)
        yield (
            f"webp animated profile {name}",
            encoded(IMAGE, "WEBP", save_all=True, append_images=[second], icc_profile=PROFILES[name], **LOSSLESS),
        )
    flagged = bytearray(encoded(IMAGE, "WEBP", icc_profile=PROFILES["linear"], **LOSSLESS))
    flagged[20] &= ~0x20
    yield "webp profile without its flag", bytes(flagged)


def avifs() -> Iterator[tuple[str, bytes]]:
    layer = Image.fromarray(RGBA)
    for subsampling in ("4:2:0", "4:2:2", "4:4:4", "4:0:0"):
        yield f"avif {subsampling}", encoded(IMAGE, "AVIF", quality=90, subsampling=subsampling)
    yield "avif full range", encoded(IMAGE, "AVIF", range="full", **AVIF)
    yield "avif limited range", encoded(IMAGE, "AVIF", range="limited", **AVIF)
    yield "avif alpha", encoded(layer, "AVIF", **AVIF)
    yield "avif premultiplied alpha", encoded(layer, "AVIF", alpha_premultiplied=True, **AVIF)
    second = Image.fromarray(RGB[::-1].copy())
    yield "avif animated", encoded(IMAGE, "AVIF", save_all=True, append_images=[second], duration=1000, **AVIF)
    for name in (*COLOUR_PROFILES, "grey linear"):
        yield f"avif profile {name}", encoded(IMAGE, "AVIF", icc_profile=PROFILES[name], **AVIF)
    plain = encoded(IMAGE, "AVIF", **AVIF)
    said = b"nclx" + bytes([0, 1, 0, 13])
    assert plain.count(said) == 1
    for primaries, transfer in (
        (12, 13),
        (9, 13),
        (1, 8),
        (1, 1),
        (9, 14),
        (1, 6),
        (1, 15),
        (1, 11),
        (1, 4),
        (9, 16),
        (9, 18),
        (2, 2),
        (1, 2),
    ):
        yield f"avif code {primaries} {transfer}", plain.replace(said, b"nclx" + bytes([0, primaries, 0, transfer]))
    yield "avif alpha profile p3", encoded(layer, "AVIF", icc_profile=PROFILES["p3"], **AVIF)


def orientations() -> Iterator[tuple[str, bytes]]:
    for orientation in range(1, 9):
        exif = b"Exif\0\0" + tiff(orientation)
        jpeg = encoded(IMAGE, "JPEG", quality=95, subsampling=0)
        yield f"jpeg orientation {orientation}", jpeg[:2] + exif_segment(orientation, little=True) + jpeg[2:]
        yield f"png orientation {orientation}", png(RGB, 2, chunk(b"eXIf", tiff(orientation)))
        yield f"webp orientation {orientation}", encoded(IMAGE, "WEBP", exif=exif, **LOSSLESS)
        yield f"avif orientation {orientation}", encoded(IMAGE, "AVIF", exif=_turned(orientation), **AVIF)
    for name, blocks in {
        "6 then 1": exif_segment(6) + exif_segment(1),
        "1 then 6": exif_segment(1) + exif_segment(6),
        "none then 6": exif_segment(None) + exif_segment(6),
        "6 then none": exif_segment(6) + exif_segment(None),
        "9 then 6": exif_segment(9) + exif_segment(6),
        "0": exif_segment(0),
        "broken then 6": app(1, b"Exif\0\0broken") + exif_segment(6),
        "long": exif_segment(6, type_=4),
        "long little": exif_segment(6, type_=4, little=True),
        "after the frame header": b"",
        "6 without a header": app(1, tiff(6)),
    }.items():
        if blocks:
            yield f"jpeg exif {name}", jpeg[:2] + blocks + jpeg[2:]
        else:
            scan = jpeg.index(b"\xff\xda")
            yield f"jpeg exif {name}", jpeg[:scan] + exif_segment(6) + jpeg[scan:]
    yield "png exif twice", png(RGB, 2, chunk(b"eXIf", tiff(6)), chunk(b"eXIf", tiff(3)))
    yield "png exif of a bad checksum", png(RGB, 2, chunk(b"eXIf", tiff(6), sound=False))
    yield "png exif after its rows", _after_rows(png(RGB, 2), chunk(b"eXIf", tiff(6)))
    yield "png exif with a header", png(RGB, 2, chunk(b"eXIf", b"Exif\0\0" + tiff(6)))
    webp = encoded(IMAGE, "WEBP", exif=b"Exif\0\0" + tiff(6), **LOSSLESS)
    flagged = bytearray(webp)
    flagged[20] &= ~0x08
    yield "webp exif without its flag", bytes(flagged)
    chunk_at = webp.index(b"EXIF")
    head, block = webp[12:chunk_at], webp[chunk_at:]
    for name, more in {"6 then 3": tiff(3), "6 then none": tiff(None)}.items():
        twice = b"WEBP" + head + block + (b"" if len(block) % 2 == 0 else b"\0")
        twice += b"EXIF" + len(more).to_bytes(4, "little") + more + b"\0" * (len(more) % 2)
        yield f"webp exif {name}", b"RIFF" + len(twice).to_bytes(4, "little") + twice
    second = Image.fromarray(RGB[::-1].copy())
    for kind, options in (("PNG", {}), ("WEBP", LOSSLESS)):
        frames = {"save_all": True, "append_images": [second], "duration": 1000, "exif": _turned(6)}
        yield f"{kind.lower()} animated orientation 6", encoded(IMAGE, kind, **frames, **options)


def _turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = orientation, "a picture"
    return exif


def ends() -> Iterator[tuple[str, bytes]]:
    """Files that end otherwise than they should, and numbers at the edge of what a field holds."""
    for name, options in {"": {}, " progressive": {"progressive": True}, " of own codes": {"optimize": True}}.items():
        whole = encoded(IMAGE, "JPEG", quality=90, **options)
        yield f"jpeg{name} without its end", whole[:-2]
        yield f"jpeg{name} with half of its end", whole[:-1]
    avif = encoded(IMAGE, "AVIF", **AVIF)
    junk = {"zeros": bytes(100), "text": b"<!-- cached -->\r\n", "ones": b"\xff" * 20, "half a box": b"\0\1\0\0meta"}
    for name, behind in junk.items():
        yield f"avif and {name}", avif + behind
    for value in (1, 100, 10**8, 2**31 - 1, 2**31, 2**32 - 1):
        yield f"png gamma of {value}", png(RGB, 2, chunk(b"gAMA", value.to_bytes(4, "big")))


def products() -> Iterator[tuple[str, bytes]]:
    """Formats x profiles x orientations; types and depths of PNG x what says their colours x orientations."""
    formats: dict[str, tuple[Image.Image, str, dict[str, Any]]] = {
        "jpeg 4:4:4": (IMAGE, "JPEG", {"quality": 95, "subsampling": 0}),
        "jpeg 4:2:0": (IMAGE, "JPEG", {"quality": 85, "subsampling": 2}),
        "jpeg progressive": (IMAGE, "JPEG", {"quality": 90, "subsampling": 1, "progressive": True}),
        "jpeg grey": (Image.fromarray(GREY), "JPEG", {"quality": 90}),
        "webp": (IMAGE, "WEBP", {"quality": 90}),
        "webp lossless alpha": (Image.fromarray(RGBA), "WEBP", LOSSLESS),
        "avif": (IMAGE, "AVIF", AVIF),
        "avif 4:2:0": (IMAGE, "AVIF", {"quality": 80, "subsampling": "4:2:0"}),
    }
    for name in ("none", "srgb", "linear named srgb", "p3", "adobe", "prophoto", "rec2020 table", "gamma 1.8", "lut"):
        profile = PROFILES.get(name)
        for orientation in range(1, 9):
            for kind, (image, format, options) in formats.items():
                data = encoded(image, format, icc_profile=profile, exif=_turned(orientation), **options)
                yield f"{kind} x {name} x {orientation}", data
    deep = wide(RGB)
    indices, colours = np.asarray(PALETTE), bytes(PALETTE.getpalette()[:192])
    grey_alpha = np.dstack([GREY, ALPHA])
    types: dict[str, dict[str, Any]] = {
        "rgb 8": {"samples": RGB, "colour": 2},
        "rgb 16": {"samples": deep, "colour": 2, "depth": 16},
        "rgba 8": {"samples": RGBA, "colour": 6},
        "rgba 16": {"samples": wide(RGBA), "colour": 6, "depth": 16},
        "palette": {"samples": indices, "colour": 3, "palette": colours},
        "palette alpha": {"samples": indices, "colour": 3, "palette": colours, "after": [chunk(b"tRNS", ALPHA_BYTES)]},
        "grey 4": {"samples": GREY >> 4, "colour": 0, "depth": 4},
        "grey 8": {"samples": GREY, "colour": 0},
        "grey 16": {"samples": wide(GREY), "colour": 0, "depth": 16},
        "grey alpha 8": {"samples": grey_alpha, "colour": 4},
        "grey alpha 16": {"samples": wide(grey_alpha), "colour": 4, "depth": 16},
        "rgb 16 key": {
            "samples": deep,
            "colour": 2,
            "depth": 16,
            "after": [chunk(b"tRNS", deep[4, 4].astype(">u2").tobytes())],
        },
    }
    said = {
        "nothing": (),
        "p3": (iccp("p3"),),
        "linear named srgb": (iccp("linear named srgb"),),
        "gamma 1": (gama(1),),
        "gamma and primaries": (gama(0.55), chrm(ADOBE)),
        "code": (cicp(12, 13),),
    }
    for kind, arguments in types.items():
        for name, chunks in said.items():
            for orientation in (1, 3, 6, 8):
                turn = chunk(b"eXIf", tiff(orientation))
                picture = png(arguments["samples"], arguments["colour"], turn, *chunks, **_others(arguments))
                yield f"png {kind} x {name} x {orientation}", picture


def _others(arguments: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in arguments.items() if name not in ("samples", "colour")}
