"""Pictures whose file ends otherwise than it should: whole ones are kept, and those that lack pixels are not."""

from __future__ import annotations

import random

import hostile_bodies as bodies
import numpy as np
import pytest
from seen import inspected, seen

from curation.schema import Status

PHOTO = bodies.photo(80, 60)
GREY = PHOTO.convert("L")


def _apart(jpeg: bytes) -> bytes:
    """A grey sequential JPEG as one of three components with a scan each, which Pillow does not write."""
    frame, scan = jpeg.index(b"\xff\xc0"), jpeg.index(b"\xff\xda")
    size = jpeg[frame + 5 : frame + 9]
    components = b"".join(bytes([number, 0x11, 0]) for number in (1, 2, 3))
    head = jpeg[:frame] + b"\xff\xc0\0\x11\x08" + size + b"\x03" + components + jpeg[frame + 13 : scan]
    data = jpeg[scan + 10 : -2]
    return head + b"".join(b"\xff\xda\0\x08\x01" + bytes([n]) + b"\0\0\x3f\0" + data for n in (1, 2, 3)) + b"\xff\xd9"


JPEGS = {
    "sequential": bodies.encoded(PHOTO, "JPEG", quality=90),
    "4:4:4": bodies.encoded(PHOTO, "JPEG", quality=90, subsampling=0),
    "own codes": bodies.encoded(PHOTO, "JPEG", quality=75, optimize=True),
    "grey": bodies.encoded(GREY, "JPEG", quality=90),
    "restarts": bodies.encoded(PHOTO, "JPEG", quality=90, restart_marker_rows=1),
    "progressive": bodies.encoded(PHOTO, "JPEG", quality=90, progressive=True),
    "progressive grey": bodies.encoded(GREY, "JPEG", quality=50, progressive=True),
    "progressive with restarts": bodies.encoded(PHOTO, "JPEG", progressive=True, restart_marker_rows=1),
    "a scan for each component": _apart(bodies.encoded(GREY, "JPEG", quality=90)),
    "cmyk": bodies.encoded(PHOTO.convert("CMYK"), "JPEG", quality=90),
}


@pytest.mark.parametrize("end", [b"", b"\xff", b"\xff\xff\xff"])
@pytest.mark.parametrize("name", JPEGS)
def test_a_jpeg_that_lacks_only_its_end_marker_is_whole(name: str, end: bytes) -> None:
    whole = JPEGS[name]
    assert whole.endswith(b"\xff\xd9")
    assert np.array_equal(seen(whole[:-2] + end), seen(whole))


def test_a_jpeg_without_end_and_with_stray_bytes_in_its_header_is_whole() -> None:
    whole = JPEGS["sequential"]
    at = whole.index(b"\xff\xdb")
    assert np.array_equal(seen(whole[:at] + b"ab" + whole[at:-2]), seen(whole))


@pytest.mark.parametrize("name", JPEGS)
def test_a_jpeg_that_lacks_pixels_is_refused_wherever_it_was_cut(name: str) -> None:
    whole = JPEGS[name]
    places = [*range(len(whole) - 150, len(whole) - 2), *random.Random(1).sample(range(2, len(whole) - 2), 150)]
    # Scans begin with their tables, so that a file may end between any two.
    places += [at for at in range(len(whole) - 1) if whole[at] == 0xFF and whole[at + 1] in (0xC4, 0xDA)]
    kept = [at for at in places if inspected(whole[:at]).status is Status.SUCCESS]
    assert kept == []


@pytest.mark.parametrize("behind", [bytes(40), b"\xaa" * 40, b"<!-- served from a cache -->", b"\r\n" * 30])
@pytest.mark.parametrize("lost", [3, 7, 15, 30, 60, 300])
@pytest.mark.parametrize("name", JPEGS)
def test_what_stands_behind_a_cut_jpeg_is_not_taken_for_its_pixels(name: str, lost: int, behind: bytes) -> None:
    assert inspected(JPEGS[name][:-lost] + behind).status is Status.DECODE_ERROR


@pytest.mark.parametrize("name", JPEGS)
def test_no_few_bytes_behind_a_cut_jpeg_become_its_last_pixels(name: str) -> None:
    whole = JPEGS[name]
    shown = seen(whole)
    behind = [
        *(b"\0" * count for count in range(1, 6)),
        b"\n",
        b"\r",
        b"\r\n",
        b"\r\n\r\n",
        b"\n\0",
        b" ",
        bytes(3) + b"\xff",
    ]
    for at in range(len(whole) - 90, len(whole) - 2):
        for end in behind:
            found = inspected(whole[:at] + end)
            assert found.status is Status.DECODE_ERROR or np.array_equal(seen(whole[:at] + end), shown), (at, end)


def test_a_jpeg_that_lacks_its_end_marker_has_no_text_behind_its_scan() -> None:
    for name in ("sequential", "progressive"):
        assert inspected(JPEGS[name][:-2] + b"<br>ab").status is Status.DECODE_ERROR
        assert inspected(JPEGS[name][:-2] + b"\x01\x02\x03").status is Status.DECODE_ERROR


AVIF = bodies.encoded(PHOTO, "AVIF", quality=90)
MOVING = bodies.encoded(PHOTO, "AVIF", save_all=True, append_images=[PHOTO.rotate(180)], duration=9)
BEHIND = {
    "zero": b"\0",
    "zeros": bytes(100),
    "line": b"\r\n",
    "text": b"<!-- served from a cache -->",
    "ones": b"\xff" * 20,
    "a box that is too long": b"\0\1\0\0free" + bytes(30),
    "meta that is too long": b"\0\1\0\0meta" + bytes(30),
    "a box that is too short": b"\0\0\0\4abcd" + bytes(8),
    "a large box that is too short": b"\0\0\0\1abcd" + bytes(7) + b"\5xx",
    "a large box without end": b"\0\0\0\1abcd" + b"\xff" * 8,
    "a whole box": b"\0\0\0\x10free" + bytes(8),
    "another picture": JPEGS["grey"][:200],
}


@pytest.mark.parametrize("name", BEHIND)
def test_bytes_behind_an_avif_concern_no_pixel(name: str) -> None:
    assert np.array_equal(seen(AVIF + BEHIND[name]), seen(AVIF))
    assert inspected(MOVING + BEHIND[name]).frames == 2


@pytest.mark.parametrize("lost", [1, 2, 10, 200])
def test_an_avif_that_was_cut_is_refused_whatever_is_behind(lost: int) -> None:
    assert inspected(AVIF[:-lost]).status is Status.DECODE_ERROR
    assert inspected(AVIF[: AVIF.index(b"mdat") - 10 - lost] + BEHIND["text"]).status is Status.DECODE_ERROR


def png_with_gamma(value: int) -> bytes:
    plain = bodies.encoded(PHOTO, "PNG")
    return plain[:33] + bodies.chunk(b"gAMA", value.to_bytes(4, "big")) + plain[33:]


@pytest.mark.parametrize(("value", "level"), [(1, 0), (100, 0), (2**31 - 1, 255), (2**32 - 1, 255)])
def test_a_gamma_beyond_reason_makes_a_png_what_a_browser_makes_it(value: int, level: int) -> None:
    """Chromium shows what the chunk says, even where that is all white."""
    middle = (np.asarray(PHOTO) > 8) & (np.asarray(PHOTO) < 240)
    assert (seen(png_with_gamma(value))[middle] == level).all()


def test_a_gamma_of_nothing_says_nothing() -> None:
    assert np.array_equal(seen(png_with_gamma(0)), np.asarray(PHOTO))
