"""Sound pictures with something wrong about them that concerns no pixel; and what must not pass for one."""

from __future__ import annotations

import io
import random
import struct
import zlib

import hostile_bodies as bodies
import numpy as np
import pytest
from PIL import Image
from seen import inspected, seen

from curation.images.header import sniff, why_unread
from curation.schema import Status

PHOTO = bodies.photo(160, 120)
JPEG = bodies.encoded(PHOTO, "JPEG", quality=90)
PROGRESSIVE = bodies.encoded(PHOTO, "JPEG", quality=90, progressive=True)
RESTARTS = bodies.encoded(PHOTO, "JPEG", quality=90, restart_marker_rows=1)
PNG = bodies.encoded(PHOTO, "PNG")


def before(data: bytes, marker: bytes, stray: bytes, number: int = 0) -> bytes:
    """With stray bytes before the marker's n-th occurrence."""
    at = -1
    for _ in range(number + 1):
        at = data.index(marker, at + 1)
    return data[:at] + stray + data[at:]


STRAYS = {
    "tables": before(JPEG, b"\xff\xdb", b"ab"),
    "both tables": before(before(JPEG, b"\xff\xdb", b"\0", 1), b"\xff\xdb", b"abc"),
    "frame": before(JPEG, b"\xff\xc0", b"\0"),
    "frame, an escaped 255": before(JPEG, b"\xff\xc0", b"\x01\xff\0\x02"),
    "codes": before(JPEG, b"\xff\xc4", bytes(300)),
    "scan": before(JPEG, b"\xff\xda", b"\x89PNG"),
    "end": JPEG[:-2] + bytes(16) + JPEG[-2:],
    "end, one kind": JPEG[:-2] + b"\xaa" * 500 + JPEG[-2:],
    "end, text": JPEG[:-2] + b"Optimised by a tool 1.0\r\n" + JPEG[-2:],
    "end, a word": JPEG[:-2] + b"finished" + JPEG[-2:],
    "tables and end": before(JPEG[:-2] + bytes(16) + JPEG[-2:], b"\xff\xdb", b"ab"),
    "end of a progressive one": PROGRESSIVE[:-2] + bytes(64) + PROGRESSIVE[-2:],
    "a later scan": before(PROGRESSIVE, b"\xff\xda", bytes(20), 2),
    "a later table": before(PROGRESSIVE, b"\xff\xc4", b"\xab" * 20, 3),
    "two later scans": before(before(PROGRESSIVE, b"\xff\xda", bytes(20), 3), b"\xff\xda", bytes(9), 2),
    "a restart": before(RESTARTS, b"\xff\xd3", bytes(20)),
    "version": JPEG[:11] + b"\x07" + JPEG[12:],
    "transform": JPEG[:2] + b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0\x09" + JPEG[2:],
    "profile": JPEG[:2] + bodies.app1(b"")[:1] + b"\xe2\0\x12ICC_PROFILE\0\x07\x02zz" + JPEG[2:],
}


@pytest.mark.parametrize("name", STRAYS)
def test_bytes_that_belong_nowhere_in_a_jpeg_are_passed_over(name: str) -> None:
    whole = PROGRESSIVE if STRAYS[name].count(b"\xff\xda") > 1 else RESTARTS if name == "a restart" else JPEG
    assert np.array_equal(seen(STRAYS[name]), seen(whole))


def test_a_jpeg_with_stray_bytes_must_be_whole() -> None:
    for name in ("tables", "codes", "scan"):
        data = STRAYS[name]
        assert inspected(data[: len(data) * 2 // 3]).status is Status.DECODE_ERROR
        assert inspected(data[: len(data) * 2 // 3] + b"\xff\xd9").status is Status.DECODE_ERROR


@pytest.mark.parametrize("whole", [JPEG, PROGRESSIVE, RESTARTS], ids=["sequential", "progressive", "restarts"])
def test_damaged_pixels_that_libjpeg_sees_are_refused(whole: bytes) -> None:
    """Where libjpeg alone has a warning, so have we; what it does not notice nobody does."""
    chance = random.Random(3)
    start = whole.index(b"\xff\xda") + 14
    warned = passed = 0
    for _ in range(300):
        data = bytearray(whole)
        at = chance.randrange(start, len(data) - 2)
        length = min(chance.choice([1, 1, 2, 30]), len(data) - 2 - at)
        data[at : at + length] = bytes(length) if length == 30 else chance.randbytes(length)
        if _warns(bytes(data)):
            warned += 1
            passed += inspected(bytes(data)).status is Status.SUCCESS
    assert warned > 60
    assert passed <= warned * 0.01


def _warns(data: bytes) -> bool:
    import simplejpeg

    try:
        simplejpeg.decode_jpeg(data)
    except ValueError:
        return True
    return False


def with_chunks(*chunks: bytes) -> dict[str, bytes]:
    """The chunks before and behind a PNG's rows."""
    return {
        "before": PNG[:33] + b"".join(chunks) + PNG[33:],
        "behind": PNG[:-12] + b"".join(chunks) + PNG[-12:],
    }


def wrong(name: bytes, body: bytes) -> bytes:
    return bodies.chunk(name, body)[:-1] + b"\x55"


HARMLESS = {
    "padded XMP": (bodies.chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(b" " * 2_200_000)),),
    "plain XMP": (bodies.chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + b" " * 2_200_000),),
    "long text": (bodies.chunk(b"tEXt", b"Comment\0" + b"x" * 3_000_000),),
    "long packed text": (bodies.chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(5_000_000))),),
    "many texts": tuple(bodies.chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(900_000))) for _ in range(100)),
    "broken packed text": (bodies.chunk(b"zTXt", b"Comment\0\0" + b"not deflated"),),
    "text of a wrong checksum": (wrong(b"tEXt", b"Comment\0hello"),),
    "time of a wrong checksum": (wrong(b"tIME", bytes(7)),),
    "resolution of a wrong checksum": (wrong(b"pHYs", bytes(9)),),
    "profile of a wrong checksum": (wrong(b"iCCP", b"k\0\0" + zlib.compress(b"x")),),
    "a chunk of one's own": (bodies.chunk(b"prVt", bytes(40)),),
    "a short gamma": (bodies.chunk(b"gAMA", b"\0"),),
    "a short resolution": (bodies.chunk(b"pHYs", b"\0"),),
}


@pytest.mark.parametrize("place", ["before", "behind"])
@pytest.mark.parametrize("name", HARMLESS)
def test_chunks_of_a_png_that_concern_no_pixel_may_be_long_or_broken(name: str, place: str) -> None:
    assert np.array_equal(seen(with_chunks(*HARMLESS[name])[place]), np.asarray(PHOTO))


def test_chunks_of_a_png_that_concern_pixels_must_be_sound() -> None:
    image = PHOTO.quantize(16)
    palette = bodies.encoded(image, "PNG", transparency=3)
    for data, name in ((palette, b"PLTE"), (palette, b"tRNS"), (PNG, b"IHDR")):
        at = data.index(name)
        end = at + 4 + int.from_bytes(data[at - 4 : at], "big")
        damaged = data[:end] + bytes([data[end] ^ 1]) + data[end + 1 :]
        assert inspected(damaged).status is Status.DECODE_ERROR, name
    grey = bodies.png(8, 8, wrong(b"tRNS", b"\0\0"), rows=bytes(9 * 8), colour=0)
    assert inspected(grey).status is Status.DECODE_ERROR


@pytest.mark.parametrize("zeros", [1, 5])
def test_zero_bytes_before_the_first_frame_of_a_gif_are_passed_over(zeros: int) -> None:
    whole = bodies.encoded(PHOTO.quantize(16), "GIF")
    palette = 13 + (3 << ((whole[10] & 7) + 1))
    assert np.array_equal(seen(whole[:palette] + bytes(zeros) + whole[palette:]), seen(whole))
    keyed = bodies.encoded(PHOTO.quantize(16), "GIF", transparency=2)
    at = keyed.index(b",", palette)
    assert np.array_equal(seen(keyed[:at] + bytes(zeros) + keyed[at:]), seen(keyed))
    assert inspected(whole[: palette + 40] + bytes(3)).status is Status.DECODE_ERROR


# -- formats ---------------------------------------------------------------------------------------------------------


def test_an_avif_is_read_and_may_be_cut_or_damaged_only_at_its_cost() -> None:
    data = bodies.encoded(PHOTO, "AVIF", quality=95, subsampling="4:4:4")
    found = inspected(data)
    assert (found.format, found.width, found.height, found.frames) == ("avif", 160, 120, 1)
    assert np.abs(seen(data) - np.asarray(PHOTO)).mean() < 2
    assert inspected(data[: len(data) // 2]).status is Status.DECODE_ERROR
    moving = bodies.encoded(PHOTO, "AVIF", save_all=True, append_images=[PHOTO.rotate(180)] * 2, duration=9)
    assert inspected(moving).frames == 3
    clear = bodies.encoded(Image.new("RGBA", (64, 64), (9, 9, 9, 0)), "AVIF")
    assert (seen(clear) == 255).all()


def test_the_size_that_an_avif_claims_is_held_against_the_cap() -> None:
    data = bytearray(bodies.encoded(PHOTO, "AVIF"))
    at = data.index(b"ispe") + 8
    data[at : at + 8] = struct.pack(">II", 60_000, 60_000)
    assert inspected(bytes(data)).status is Status.TOO_MANY_PIXELS


def box(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", 8 + len(body)) + name + body


@pytest.mark.parametrize(
    "rest",
    [
        box(b"meta", bytes(4) + box(b"iprp", box(b"ipco", b"")) * 20_000),
        box(b"meta", bytes(4) + b"\0\0\0\x01ispe" + b"\xff" * 8),
        box(b"meta", bytes(4) + b"\0\0\0\x04ispe"),
        box(b"meta", bytes(4) + box(b"iprp", box(b"ipma", bytes(4) + b"\xff\xff\xff\xff" + bytes(40)))),
        box(b"moov", b"\xff" * 40),
        b"",
    ],
)
def test_broken_boxes_are_a_status(rest: bytes) -> None:
    assert inspected(box(b"ftyp", b"avif\0\0\0\0avif") + rest).status is Status.DECODE_ERROR


PICTURES = {
    "bmp": bodies.encoded(PHOTO, "BMP"),
    "tiff": bodies.encoded(PHOTO, "TIFF"),
    "big-endian tiff": b"MM\0*\0\0\0\x08" + bytes(40),
    "ico": bodies.encoded(PHOTO, "ICO"),
    "cursor": b"\0\0\2\0\1\0\x20\x20\0\0" + bytes(40),
    "jpeg 2000": bodies.encoded(PHOTO, "JPEG2000"),
    "heic": box(b"ftyp", b"heic\0\0\0\0mif1heic") + bytes(40),
    "heif without avif": box(b"ftyp", b"mif1\0\0\0\0mif1heic") + bytes(40),
    "jpeg xl": b"\xff\x0a" + bytes(40),
    "photoshop": b"8BPS\0\1" + bytes(40),
    "svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "svg behind a comment": b"\xef\xbb\xbf<?xml version='1.0'?>\n<!-- a > b -->\n<svg>",
    "svg with a type": b'<?xml version="1.0"?>\n<!DOCTYPE svg PUBLIC "-//W3C//DTD SVG 1.1//EN" "x">\n<svg>',
}
OTHERS = {
    "html": b"<!DOCTYPE html><html><svg></svg></html>",
    "xml": b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>",
    "json": b'{"error": 404}',
    "film": box(b"ftyp", b"isom\0\0\2\0isomiso2mp41") + bytes(40),
    "text": b"BM is a river",
    "nothing": b"",
    "zeros": bytes(64),
    "pdf": b"%PDF-1.7\n",
}


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_of_a_format_that_is_not_read_is_not_called_no_image(name: str) -> None:
    assert sniff(PICTURES[name][:64]) is None
    assert inspected(PICTURES[name]).status is Status.UNSUPPORTED_FORMAT
    assert why_unread(PICTURES[name][:64])[0] is Status.UNSUPPORTED_FORMAT


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_no_picture_is_not_an_image(name: str) -> None:
    assert inspected(OTHERS[name]).status is Status.NOT_AN_IMAGE


def test_a_heif_of_av1_is_avif_whatever_its_major_brand() -> None:
    data = bodies.encoded(PHOTO, "AVIF", quality=95)
    at = data.index(b"avif")
    renamed = data[:at] + b"mif1" + data[at + 4 :]
    assert np.array_equal(seen(renamed), seen(data))
    assert Image.open(io.BytesIO(renamed)).format == "AVIF"
