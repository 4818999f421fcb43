"""Bytes of a JPEG, PNG, WebP, GIF or AVIF to 8-bit pixels on white, and pixels back to bytes.

JPEG goes through libjpeg-turbo at a reduced size; everything else, and the few JPEGs that its interface does not
support, goes through Pillow.
"""

from __future__ import annotations

import io
from typing import NamedTuple

import cv2
import numpy as np
import simplejpeg
from PIL import AvifImagePlugin, Image, UnidentifiedImageError

from curation.images.colour import to_srgb
from curation.images.config import Chroma, ImageFormat
from curation.images.fields import Header
from curation.images.gif import first_gif_frame
from curation.images.jpeg import NO_END, repaired, with_end, with_less
from curation.images.png import PngPicture, first_png_picture
from pairmill.errors import IntegrityError
from pairmill.pixels import Pixels, decode_jpeg, largest_reduction, on_white

#: The longest side each format can hold (libjpeg, libpng's default limit, libwebp), in pixels.
MAX_SIDE = {"jpg": 65_500, "png": 1_000_000, "webp": 16_383}

# `inspect_image` checks the size against image.max_pixels before anything is decoded; Pillow's limit differs.
Image.MAX_IMAGE_PIXELS = None
# One thread in each process, as for the other codecs.
AvifImagePlugin.DEFAULT_MAX_THREADS = 1

#: simplejpeg's errors for valid JPEGs that it does not support: sampling factors outside its enumeration, and scan
#: headers with values that only progressive files need (old encoders write them, decoders ignore them).
_NOT_FOR_TURBO = ("Could not determine subsampling", "Invalid SOS parameters")

#: Places in a JPEG at which bytes that concern no pixel are passed over.
_MAX_REPAIRS = 8

#: Pixels that are converted at once where a picture has transparency: 16 MB of RGBA.
_BAND = 1 << 22


class Decoded(NamedTuple):
    """pixels: RGB uint8 [H, W, 3] or, from a CMYK JPEG, CMYK uint8 [H, W, 4].  profiles: what `to_srgb` must yet do."""

    pixels: Pixels
    profiles: tuple[bytes, ...] = ()


def decode(data: bytes, kind: str, header: Header, *, at_least: tuple[int, int] | None) -> Decoded:
    """The first frame, not turned upright.

    at_least: (width, height) that suffice; a JPEG is decoded at the smallest reduced size that reaches both.
    Transparent pixels become white, after their colours have become sRGB; 16-bit samples keep their upper eight bits.
    Raises whatever a codec raises on bytes it cannot read, ValueError if the picture is not of the header's size.
    """
    if kind == "jpeg":
        return Decoded(_jpeg(data, header, at_least), header.profiles)
    size = (header.width, header.height)
    if kind == "gif":
        frame = first_gif_frame(data)
        return _placed(_shown(_loaded(frame.file, kind, None), ()), size, frame.left, frame.top)
    if kind == "png":
        picture = first_png_picture(data)
        if picture.key is not None:
            shown = _keyed(picture, header.profiles)
        else:
            shown = _shown(_loaded(picture.file, kind, None), header.profiles)
        return _placed(shown, size, picture.left, picture.top)
    return _shown(_loaded(data, kind, header), header.profiles)


def _jpeg(data: bytes, header: Header, at_least: tuple[int, int] | None) -> Pixels:
    ended = False
    for _ in range(_MAX_REPAIRS):
        try:
            pixels = _with_turbo(data, header, at_least)
        except ValueError as error:
            if any(words in str(error) for words in _NOT_FOR_TURBO):
                image = _loaded(data, "jpeg", header)
                return np.asarray(image if image.mode == "CMYK" else on_white(image))
            if NO_END in str(error) and not ended:
                ended, bare = True, with_end(data)
            else:
                bare = repaired(data, str(error), padded=not ended)
            if bare is None:
                raise
            data = bare
        else:
            if ended and _decodes(with_less(data), header, at_least):
                raise ValueError(NO_END)  # there are bytes behind the place where it was cut
            return pixels
    raise ValueError(f"bytes that belong nowhere in more than {_MAX_REPAIRS} places")


def _decodes(data: bytes, header: Header, at_least: tuple[int, int] | None) -> bool:
    try:
        _with_turbo(data, header, at_least)
    except ValueError:
        return False
    return True


def _with_turbo(data: bytes, header: Header, at_least: tuple[int, int] | None) -> Pixels:
    height, width, colour, _ = simplejpeg.decode_jpeg_header(data)
    _check_size(header, width, height)

    def fits(reduction: int) -> bool:
        return at_least is not None and -(-width // reduction) >= at_least[0] and -(-height // reduction) >= at_least[1]

    reduction = largest_reduction(fits)
    if colour in ("CMYK", "YCCK"):
        # Stored inverted by every encoder since Photoshop; Pillow and browsers assume so too.
        return 255 - decode_jpeg(data, (height, width), reduction, "CMYK")
    return decode_jpeg(data, (height, width), reduction)


def _loaded(data: bytes, kind: str, header: Header | None) -> Image.Image:
    """header: what to hold the picture's size against."""
    try:
        opened = Image.open(io.BytesIO(data), formats=(kind.upper(),))
    except UnidentifiedImageError:
        # Its own text holds a memory address, and a row's error must be the same in every run.
        raise ValueError(f"not a {kind} by its header") from None
    with opened as image:
        if header is not None:
            _check_size(header, *image.size)
        image.load()
        # The opened image keeps its decoder, which for WebP is three more pictures; a copy frees it.
        return image.copy()


def _check_size(header: Header, width: int, height: int) -> None:
    if (width, height) != (header.width, header.height):
        raise ValueError(f"the header gives {header.width}x{header.height}, the picture is {width}x{height}")


def _shown(image: Image.Image, profiles: tuple[bytes, ...]) -> Decoded:
    """On white.  Colours are mixed as sRGB, so those of a transparent picture are converted first."""
    if not profiles or not image.has_transparency_data:
        return Decoded(np.asarray(on_white(image)), profiles)
    width, height = image.size
    shown = np.empty((height, width, 3), np.uint8)
    rows = max(1, _BAND // width)
    for top in range(0, height, rows):
        # In bands, so that no second copy of the whole picture is held.
        layer = np.asarray(image.crop((0, top, width, min(height, top + rows))).convert("RGBA"))
        colours = to_srgb(np.ascontiguousarray(layer[:, :, :3]), profiles)
        shown[top : top + rows] = np.asarray(on_white(Image.fromarray(np.dstack([colours, layer[:, :, 3]]))))
    return Decoded(shown)


def _keyed(picture: PngPicture, profiles: tuple[bytes, ...]) -> Decoded:
    """A PNG of which one colour is transparent."""
    image = _loaded(picture.file, "png", None)
    samples = np.asarray(image.convert("L") if image.mode == "1" else image)
    if picture.file[24] == 16 and image.mode == "RGB":
        # Pillow, which is strict about damage, keeps only the upper halves of the samples.
        del image, samples
        whole = cv2.imdecode(np.frombuffer(picture.file, np.uint8), cv2.IMREAD_UNCHANGED)
        if whole is None or whole.dtype != np.uint16:
            raise ValueError("a PNG whose samples of 16 bits cannot be read")
        samples = whole[:, :, ::-1]
    height, width = samples.shape[:2]
    shown = np.empty((height, width, 3), np.uint8)
    rows = max(1, _BAND // width)
    for top in range(0, height, rows):
        part = samples[top : top + rows].reshape(-1, width, samples.size // (height * width))
        hidden = (part == np.array(picture.key)).all(-1)
        upper = part if part.dtype == np.uint8 else (part >> 8).astype(np.uint8)
        shown[top : top + rows] = to_srgb(np.ascontiguousarray(np.broadcast_to(upper, (*hidden.shape, 3))), profiles)
        shown[top : top + rows][hidden] = 255
    return Decoded(shown)


def _placed(decoded: Decoded, size: tuple[int, int], left: int, top: int) -> Decoded:
    """On a white canvas of `size` (width, height), if it does not fill it."""
    pixels = decoded.pixels
    if pixels.shape[:2] == size[::-1]:
        return decoded
    canvas = np.full((size[1], size[0], 3), 255, np.uint8)
    rows, columns = canvas[top:, left:].shape[:2]
    part = to_srgb(pixels, decoded.profiles)[:rows, :columns]
    canvas[top : top + part.shape[0], left : left + part.shape[1]] = part
    return Decoded(canvas)


def encode(pixels: Pixels, *, format: ImageFormat, quality: int, chroma: Chroma) -> bytes:
    """RGB uint8 [H, W, 3] -> a file without any metadata; `quality` and `chroma` do not affect png.

    Raises IntegrityError if OpenCV cannot encode the pixels.
    """
    if format == "jpg":
        jpeg: bytes = simplejpeg.encode_jpeg(pixels, quality, "RGB", chroma)
        return jpeg
    parameters = [cv2.IMWRITE_WEBP_QUALITY, quality] if format == "webp" else []
    done, encoded = cv2.imencode(f".{format}", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), parameters)
    if not done:
        raise IntegrityError(f"a decoded picture must be encodable: OpenCV failed on {pixels.shape} as {format}")
    return encoded.tobytes()
