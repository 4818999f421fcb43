"""Colours as a browser shows them: expected values are by the standards' formulas, checked against Chromium."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from seen import from_light, inspected, seen, to_light

from curation.images.bright import tone_mapped
from curation.schema import Status

import colour_files as files  # isort: skip  # on the path once `seen` is imported

Values = NDArray[np.float64]

#: [12, 16, 3]: patches of 4 x 4 pixels.
PATCHES = np.random.default_rng(5).integers(16, 240, (3, 4, 3), dtype=np.uint8).repeat(4, 0).repeat(4, 1)
GREY = np.ascontiguousarray(PATCHES[:, :, 1])
ALPHA = np.full((12, 16), 128, np.uint8)
LOSSLESS = {"lossless": True, "quality": 20}
AVIF = {"quality": 100, "subsampling": "4:4:4"}


def matrix(primaries: tuple[tuple[float, float], ...]) -> Values:
    """Light of these primaries -> light of sRGB's, both as rows."""
    return (np.linalg.inv(files.adapted(files.SRGB)) @ files.adapted(primaries)).T


def shown(levels: NDArray[np.uint8], curve: Callable[[Values], Values], primaries=files.SRGB) -> Values:
    return from_light(curve(levels / 255) @ matrix(primaries))


def srgb_curve(signal: Values) -> Values:
    return to_light(signal * 255)


def linear(signal: Values) -> Values:
    return signal


def wrapped(kind: str, profile: bytes) -> bytes:
    options = {"JPEG": {"quality": 100, "subsampling": 0}, "PNG": {}, "WEBP": LOSSLESS, "AVIF": AVIF}[kind]
    return files.encoded(Image.fromarray(PATCHES), kind, icc_profile=profile, **options)


def close(data: bytes, expected: Values, levels: float = 2) -> bool:
    return bool(np.abs(seen(data) - expected).max() <= levels)


# -- profiles --------------------------------------------------------------------------------------------------------

RGB_PROFILES = {
    "linear named srgb": (linear, files.SRGB),
    "p3 named srgb": (srgb_curve, files.P3),
    "p3": (srgb_curve, files.P3),
    "adobe": (lambda signal: signal**2.2, files.ADOBE),
    "prophoto": (lambda signal: signal**1.8, files.PROPHOTO),
    "rec2020 table": (lambda signal: signal**2.4, files.REC2020),
    "para 0": (lambda signal: signal**1.4, files.SRGB),
}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF"])
@pytest.mark.parametrize("name", RGB_PROFILES)
def test_a_profile_means_what_its_curves_and_primaries_say(name: str, kind: str) -> None:
    expected = shown(PATCHES, *RGB_PROFILES[name])
    difference = np.abs(seen(wrapped(kind, files.PROFILES[name])) - expected)
    assert difference.mean() < 2
    if kind in ("PNG", "WEBP"):
        assert difference.max() <= 3


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_a_profile_with_the_curves_of_srgb_changes_nothing_whatever_its_name(kind: str) -> None:
    for name in (b"sRGB IEC61966-2.1", b"my camera"):
        assert close(wrapped(kind, files.matrix(files.SRGB, files.SRGB_CURVE, name)), PATCHES, 0)


def test_a_table_of_colours_is_a_profile_too() -> None:
    for name in ("lut", "lut named srgb"):
        assert close(wrapped("PNG", files.PROFILES[name]), shown(PATCHES, lambda signal: signal**1.8, files.ADOBE), 4)


GREY_CURVES = {"grey 2.2": 2.2, "grey linear": 1.0, "grey 1.0 dot": 1.5}


@pytest.mark.parametrize("name", GREY_CURVES)
def test_a_grey_profile_is_for_grey_pictures(name: str) -> None:
    expected = from_light((GREY / 255) ** GREY_CURVES[name])[..., None]
    icc = files.iccp(name)
    assert close(files.png(GREY, 0, icc), expected)
    assert close(files.png(GREY.astype(np.uint16) << 8, 0, icc, depth=16), expected)
    jpeg = files.encoded(Image.fromarray(GREY), "JPEG", quality=100, icc_profile=files.PROFILES[name])
    assert close(jpeg, expected, 4)
    assert close(files.png(np.dstack([GREY, ALPHA]), 4, icc), (expected + 255) / 2)
    assert close(files.png(PATCHES, 2, icc), PATCHES, 0)
    assert close(wrapped("WEBP", files.PROFILES[name]), PATCHES, 0)


def test_a_grey_picture_may_have_a_profile_of_colours() -> None:
    expected = from_light(GREY / 255)[..., None]
    assert close(files.png(GREY, 0, files.iccp("linear")), expected)
    jpeg = files.encoded(Image.fromarray(GREY), "JPEG", quality=100, icc_profile=files.PROFILES["linear"])
    assert close(jpeg, expected, 4)


def test_inks_are_mixed_as_their_profile_says() -> None:
    ink = np.dstack([255 - PATCHES, np.full((12, 16), 60, np.uint8)])
    light = (1 - 0.9 * ink[..., :3] / 255) * (1 - 0.95 * ink[..., 3:] / 255)
    expected = from_light(light**2.0 @ (np.linalg.inv(files.adapted(files.SRGB)) @ np.diag([0.98, 1, 0.93])
                                        @ files.adapted(files.SRGB)).T)  # fmt: skip
    image = Image.fromarray(ink, "CMYK")
    assert close(files.encoded(image, "JPEG", quality=100, icc_profile=files.PROFILES["cmyk"]), expected, 6)
    wrong = files.encoded(image, "JPEG", quality=100, icc_profile=files.PROFILES["linear"])
    assert close(wrong, (255 - ink[..., :3].astype(int)) * (255 - 60) / 255, 4)


def test_colours_become_srgb_before_they_are_mixed_with_white() -> None:
    layer = np.dstack([PATCHES, ALPHA])
    expected = shown(PATCHES, linear) * (128 / 255) + 255 * (127 / 255)
    options = {"icc_profile": files.PROFILES["linear"], **LOSSLESS}
    assert close(files.png(layer, 6, files.iccp("linear")), expected)
    assert close(files.png(layer, 6, files.gama(1)), expected)
    assert close(files.encoded(Image.fromarray(layer), "WEBP", **options), expected)


def test_a_large_transparent_picture_is_converted_in_bands() -> None:
    layer = np.tile(np.dstack([PATCHES, ALPHA]), (200, 120, 1))
    assert layer.shape[0] * layer.shape[1] > 1 << 22
    found = seen(files.png(layer, 6, files.gama(1)))
    assert np.array_equal(found, np.tile(found[:12, :16], (200, 120, 1)))


def test_a_webp_has_a_profile_only_where_it_says_so_and_does_not_move() -> None:
    flagged = bytearray(wrapped("WEBP", files.PROFILES["linear"]))
    assert close(bytes(flagged), shown(PATCHES, linear))
    flagged[20] &= ~0x20
    assert close(bytes(flagged), PATCHES, 0)
    frames = {"save_all": True, "append_images": [Image.new("RGB", (16, 12))], **LOSSLESS}
    moving = files.encoded(Image.fromarray(PATCHES), "WEBP", icc_profile=files.PROFILES["linear"], **frames)
    assert close(moving, PATCHES, 0)


def test_a_jpeg_profile_counts_when_all_its_parts_are_there() -> None:
    plain = files.encoded(Image.fromarray(PATCHES), "JPEG", quality=100, subsampling=0)
    profile = files.PROFILES["linear"]

    def with_parts(*parts: tuple[int, int, bytes]) -> bytes:
        segments = [files.app(2, b"ICC_PROFILE\0" + bytes([number, of]) + part) for number, of, part in parts]
        return plain[:2] + b"".join(segments) + plain[2:]

    first, second = (1, 2, profile[:300]), (2, 2, profile[300:])
    for parts in ((first, second), (second, first), (first, first, second)):
        assert close(with_parts(*parts), shown(PATCHES, linear), 5)
    for parts in ((first,), (second,), (first, (2, 3, profile[300:]))):
        assert close(with_parts(*parts), PATCHES, 3)


# -- PNG's own chunks ------------------------------------------------------------------------------------------------

SRGB_CHUNK = files.chunk(b"sRGB", b"\0")
BROKEN = files.iccp("broken")

#: name -> (chunks, gamma and primaries that count, or None for sRGB)
CHUNKS: dict[str, tuple[tuple[bytes, ...], tuple[Callable[[Values], Values], tuple[tuple[float, float], ...]] | None]]
CHUNKS = {
    "gAMA 1": ((files.gama(1),), (linear, files.SRGB)),
    "gAMA 1/1.8": ((files.gama(1 / 1.8),), (lambda signal: signal**1.8, files.SRGB)),
    "gAMA 0.35": ((files.gama(0.35),), (lambda signal: signal ** (1 / 0.35), files.SRGB)),
    "gAMA 1/2.2": ((files.gama(1 / 2.2),), None),
    "gAMA near 1/2.2": ((files.gama(0.47),), None),
    "gAMA 0": ((files.gama(0),), None),
    "gAMA twice": ((files.gama(1), files.gama(1 / 1.8)), (linear, files.SRGB)),
    "gAMA of a wrong checksum": ((files.chunk(b"gAMA", struct.pack(">I", 100_000), sound=False),), None),
    "gAMA and cHRM": ((files.gama(1), files.chrm(files.P3)), (linear, files.P3)),
    "cHRM and gAMA 1/2.2": (
        (files.chrm(files.ADOBE), files.gama(1 / 2.2)),
        (lambda signal: signal**2.2, files.ADOBE),
    ),
    "cHRM alone": ((files.chrm(files.P3),), None),
    "cHRM that is impossible": ((files.gama(1), files.chrm(((0, 0),) * 4)), None),
    "sRGB before gAMA": ((SRGB_CHUNK, files.gama(1)), None),
    "gAMA before sRGB": ((files.gama(1), SRGB_CHUNK), None),
    "iCCP and gAMA": ((files.gama(1), files.iccp("p3")), (srgb_curve, files.P3)),
    "iCCP and sRGB": ((files.iccp("p3"), SRGB_CHUNK), (srgb_curve, files.P3)),
    "broken iCCP and gAMA": ((files.gama(1), BROKEN), (linear, files.SRGB)),
    "cICP P3": ((files.cicp(12, 13),), (srgb_curve, files.P3)),
    "cICP 2020 of BT.1886": ((files.cicp(9, 14),), (lambda signal: signal**2.4, files.REC2020)),
    "cICP linear": ((files.cicp(1, 8),), (linear, files.SRGB)),
    "cICP gamma 2.8": ((files.cicp(1, 5),), (lambda signal: signal**2.8, files.SRGB)),
    "cICP and iCCP": ((files.iccp("linear"), files.cicp(12, 13)), (srgb_curve, files.P3)),
    "cICP and gAMA": ((files.gama(1), files.cicp(1, 13)), None),
    "cICP that names nothing": ((files.cicp(2, 2), files.gama(1)), (linear, files.SRGB)),
    "cICP of another matrix": ((files.cicp(12, 13, matrix=1),), None),
}


@pytest.mark.parametrize("name", CHUNKS)
def test_the_chunks_of_a_png_say_its_colours(name: str) -> None:
    chunks, colours = CHUNKS[name]
    data = files.png(PATCHES, 2, *chunks)
    assert close(data, PATCHES, 0) if colours is None else close(data, shown(PATCHES, *colours))


@pytest.mark.parametrize("depth", [2, 4, 8, 16])
def test_gamma_counts_at_every_depth_of_grey(depth: int) -> None:
    samples = GREY.astype(int) >> 8 - depth if depth < 8 else GREY.astype(int) << depth - 8
    signal = samples / ((1 << depth) - 1)
    assert close(files.png(samples.astype(np.uint16), 0, files.gama(1), depth=depth), from_light(signal)[..., None], 3)


def test_gamma_counts_in_palettes_and_in_16_bits() -> None:
    image = Image.fromarray(PATCHES).quantize(16, dither=Image.Dither.NONE)
    colours = bytes(image.getpalette()[:48])
    real = np.frombuffer(colours, np.uint8).reshape(-1, 3)[np.asarray(image)]
    assert close(files.png(np.asarray(image), 3, files.gama(1), palette=colours), shown(real, linear))
    assert close(files.png(PATCHES.astype(np.uint16) * 257, 2, files.gama(1), depth=16), shown(PATCHES, linear))


# -- transparency ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
def test_a_transparent_sample_of_16_bits_is_compared_whole(channels: int) -> None:
    samples = np.full((8, 8, channels), 0x4000, np.uint16)
    samples[:4], samples[4:, :4] = 0x1234, 0x1235
    key = files.chunk(b"tRNS", b"\x12\x34" * channels)
    for chunks, grey in (((), (0x12, 0x40)), ((files.gama(1),), from_light(np.array([0x12, 0x40]) / 255))):
        data = files.png(samples, 0 if channels == 1 else 2, *chunks, depth=16, after=[key])
        found = seen(data)
        assert (found[:4] == 255).all()
        assert np.abs(found[4:, :4] - grey[0]).max() <= 1
        assert np.abs(found[4:, 4:] - grey[1]).max() <= 1


@pytest.mark.parametrize("channels", [1, 3])
def test_a_transparent_black_of_16_bits_hides_no_other_dark_colour(channels: int) -> None:
    samples = np.zeros((8, 8, channels), np.uint16)
    samples[:, 4:, -1] = 1
    found = seen(
        files.png(samples, 0 if channels == 1 else 2, depth=16, after=[files.chunk(b"tRNS", bytes(2) * channels)])
    )
    assert (found[:, :4] == 255).all()
    assert (found[:, 4:] == 0).all()


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_a_transparent_grey_of_few_bits(depth: int) -> None:
    samples = np.zeros((8, 8), np.uint8)
    samples[:, 4:] = (1 << depth) - 1
    found = seen(files.png(samples, 0, depth=depth, after=[files.chunk(b"tRNS", b"\0\0")]))
    assert (found == 255).all()
    found = seen(files.png(samples, 0, depth=depth, after=[files.chunk(b"tRNS", bytes([1, (1 << depth) - 1]))]))
    assert (found[:, :4] == 0).all()
    assert (found[:, 4:] == 255).all()


def test_a_transparent_colour_of_16_bits_that_is_damaged_is_refused() -> None:
    samples = np.arange(64 * 64 * 3, dtype=np.uint16).reshape(64, 64, 3)
    data = bytearray(files.png(samples, 2, depth=16, after=[files.chunk(b"tRNS", b"\x12\x34" * 3)]))
    at = data.index(b"IDAT")
    assert inspected(bytes(data[: at + 60])).status is Status.DECODE_ERROR
    data[at + 20] ^= 0xFF
    assert inspected(bytes(data)).status is Status.DECODE_ERROR


# -- frames ----------------------------------------------------------------------------------------------------------


def flat(colour: int, size: tuple[int, int]) -> Image.Image:
    image = Image.new("P", size, colour)
    image.putpalette([10, 20, 200, 250, 0, 0, 0, 250, 0, 255, 255, 0])
    return image


@pytest.mark.parametrize("background", [0, 2])
@pytest.mark.parametrize("at", [(0, 0), (13, 7)])
def test_what_the_first_frame_of_a_gif_leaves_free_is_white(at: tuple[int, int], background: int) -> None:
    found = seen(files.gif((40, 30), flat(1, (20, 15)), at, background=background))
    expected = np.full((30, 40, 3), 255)
    expected[at[1] : at[1] + 15, at[0] : at[0] + 20] = [250, 0, 0]
    assert np.array_equal(found, expected)


def test_a_small_gif_frame_may_be_transparent_and_may_outgrow_its_screen() -> None:
    assert (seen(files.gif((40, 30), flat(1, (20, 15)), (5, 5), transparent=1)) == 255).all()
    found = seen(files.gif((10, 10), flat(3, (20, 15)), (5, 5)))
    assert found.shape == (20, 25, 3)
    assert (found[5:, 5:] == [255, 255, 0]).all()
    assert (found[:5] == 255).all()


def animation(frame: NDArray[np.uint8], left: int, top: int, *, first: bool, last: bytes = b"") -> bytes:
    """An animated PNG over PATCHES; `first`: PATCHES are its first frame, else `frame` is."""
    whole = files.png(PATCHES, 2)
    at, end = whole.index(b"IDAT") - 4, len(whole) - 12
    control = struct.pack(">IIIIIHHBB", int(first), frame.shape[1], frame.shape[0], left, top, 1, 1, 0, 0)
    own = struct.pack(">IIIIIHHBB", 0, 16, 12, 0, 0, 1, 1, 0, 0)
    rows = zlib.compress(np.pad(frame.reshape(len(frame), -1), ((0, 0), (1, 0))).tobytes())
    pieces = [whole[:at], files.chunk(b"acTL", struct.pack(">II", 1 + first, 0))]
    pieces += [files.chunk(b"fcTL", own)] if first else []
    pieces += [whole[at:end], files.chunk(b"fcTL", control)]
    return b"".join([*pieces, files.chunk(b"fdAT", struct.pack(">I", 1 + first) + rows), last, whole[end:]])


def test_the_first_frame_of_an_animated_png_is_shown() -> None:
    frame = np.full((5, 6, 3), [9, 99, 199], np.uint8)
    assert np.array_equal(seen(animation(frame, 2, 3, first=True)), PATCHES)
    expected = np.full_like(PATCHES, 255)
    expected[3:8, 2:8] = [9, 99, 199]
    assert np.array_equal(seen(animation(frame, 2, 3, first=False)), expected)
    second = files.chunk(b"fcTL", struct.pack(">IIIIIHHBB", 2, 6, 5, 0, 0, 1, 1, 0, 0)) + files.chunk(
        b"fdAT", b"\0" * 9
    )
    assert np.array_equal(seen(animation(frame, 2, 3, first=False, last=second)), expected)
    assert inspected(animation(frame, 12, 3, first=False)).status is Status.DECODE_ERROR


# -- orientation -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("blocks", "turned"),
    [
        ((files.exif_segment(6), files.exif_segment(1)), True),
        ((files.exif_segment(1), files.exif_segment(6)), False),
        ((files.exif_segment(6, little=True), files.exif_segment(None)), True),
        ((files.exif_segment(None), files.exif_segment(6)), True),
        ((files.exif_segment(9), files.exif_segment(6)), False),
        ((files.exif_segment(0),), False),
        ((files.exif_segment(6, type_=4, little=True),), False),
        ((files.app(1, files.tiff(6)),), False),
    ],
)
def test_the_first_exif_block_with_an_orientation_counts(blocks: tuple[bytes, ...], turned: bool) -> None:
    jpeg = files.encoded(Image.fromarray(PATCHES), "JPEG", quality=95, subsampling=0)
    found = inspected(jpeg[:2] + b"".join(blocks) + jpeg[2:])
    assert (found.original_width, found.original_height) == ((12, 16) if turned else (16, 12))


def test_the_first_exif_chunk_before_the_rows_of_a_png_counts() -> None:
    six, three = files.chunk(b"eXIf", files.tiff(6)), files.chunk(b"eXIf", files.tiff(3))
    plain = files.png(PATCHES, 2)
    for data, turned in (
        (files.png(PATCHES, 2, six, three), True),
        (files.png(PATCHES, 2, files.chunk(b"eXIf", files.tiff(6), sound=False)), False),
        (plain[:-12] + six + plain[-12:], False),
    ):
        assert (inspected(data).width == 12) is turned


def test_an_exif_block_does_not_turn_a_webp() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert np.array_equal(seen(files.encoded(Image.fromarray(PATCHES), "WEBP", exif=exif, **LOSSLESS)), PATCHES)


# -- code points -----------------------------------------------------------------------------------------------------

#: Transfer -> what Chromium 156 shows of the greys 0, 36, 73, 109, 146, 182, 219, 255.
BRIGHT = {16: (0, 7, 39, 92, 181, 244, 255, 255), 18: (0, 18, 51, 83, 118, 170, 223, 255)}


def coded_avif(primaries: int, transfer: int) -> bytes:
    plain = files.encoded(Image.fromarray(PATCHES), "AVIF", **AVIF)
    assert plain.count(b"nclx\0\x01\0\x0d") == 1
    return plain.replace(b"nclx\0\x01\0\x0d", b"nclx" + bytes([0, primaries, 0, transfer]))


@pytest.mark.parametrize("transfer", BRIGHT)
def test_light_beyond_white_is_mapped_to_what_a_screen_shows(transfer: int) -> None:
    greys = np.array([[0, 36, 73, 109, 146, 182, 219, 255]], np.uint8).repeat(8, 0)
    for primaries in (1, 9, 12):
        found = seen(files.png(greys[..., None].repeat(3, 2), 2, files.cicp(primaries, transfer)))
        assert np.abs(found - np.array(BRIGHT[transfer])[:, None]).max() <= 2
    assert np.abs(seen(files.png(greys, 0, files.cicp(9, transfer))) - np.array(BRIGHT[transfer])[:, None]).max() <= 2


def test_the_map_of_bright_light_halves_what_is_dark_and_ends_at_the_peak() -> None:
    most = np.concatenate([np.linspace(0, 1, 20), np.linspace(1, 1000 / 203, 200), [6.0, 49.0]])
    light = most[:, None] * [1.0, 0.5, 0.0]
    found = tone_mapped(light)
    assert np.allclose(found[:20], light[:20] / 2)
    assert np.allclose(found[-3:, 0], 1)
    assert (np.diff(found[:, 0]) >= -1e-12).all()
    assert np.diff(found[20:-2, 0]).max() < 0.02
    assert np.allclose(found[:, 1], found[:, 0] / 2)
    assert (found[:, 2] == 0).all()


@pytest.mark.parametrize(
    ("code", "curve", "primaries"),
    [
        ((12, 13), srgb_curve, files.P3),
        ((9, 13), srgb_curve, files.REC2020),
        ((9, 14), srgb_curve, files.REC2020),
        ((1, 1), srgb_curve, files.SRGB),
        ((1, 8), linear, files.SRGB),
        ((1, 4), lambda signal: signal**2.2, files.SRGB),
        ((2, 2), srgb_curve, files.SRGB),
    ],
)
def test_the_code_points_of_an_avif_say_its_colours(code: tuple[int, int], curve: Callable[[Values], Values],
                                                    primaries: tuple[tuple[float, float], ...]) -> None:  # fmt: skip
    assert np.abs(seen(coded_avif(*code)) - shown(PATCHES, curve, primaries)).mean() < 2
