"""What an image file states about itself, read without decoding it: kind, size, frames, orientation, colour profile.

Every reader walks the container once, allocates nothing in proportion to a size the file claims, and raises
`ValueError` when the header is broken.  A claim may be false: `curation.images.decode` checks it again.
"""

from __future__ import annotations

import re

from curation.images.avif import brands, is_avif, read_avif
from curation.images.fields import Header
from curation.images.gif import read_gif
from curation.images.jpeg import read_jpeg
from curation.images.png import read_png
from curation.images.webp import read_webp
from curation.schema import Status

#: How pictures begin that are not read.  HEIC and JPEG XL: the packages for Pillow are under the GPL.
_OTHERS = {
    "bmp": rb"BM.{4}\0\0\0\0",
    "tiff": rb"II[*+]\0|MM\0[*+]",
    "ico": rb"\0\0[\1\2]\0[^\0]\0",
    "jxl": rb"\xff\x0a|\0\0\0\x0cJXL \r\n\x87\n",
    "jpeg 2000": rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51",
    "jpeg xr": rb"II\xbc",
    "psd": rb"8BPS\0[\1\2]",
    "qoi": rb"qoif",
    "svg": rb"(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]*>\s*|<!--.*?-->\s*)*<(?:!DOCTYPE\s+svg\b|(?:\w+:)?svg[\s>])",
}
_OTHER = {name: re.compile(pattern, re.DOTALL) for name, pattern in _OTHERS.items()}
_HEIF = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1", b"mif2", b"jpeg", b"avci"})


def sniff(head: bytes) -> str | None:
    """`jpeg`, `png`, `webp`, `gif` or `avif` by the magic bytes (the first 64 suffice), None for anything else."""
    if head[:3] == b"\xff\xd8\xff":
        return "jpeg"
    if head[:8] == b"\x89PNG\r\n\x1a\n":
        return "png"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "webp"
    if head[:6] in (b"GIF87a", b"GIF89a"):
        return "gif"
    if is_avif(head[:64]):
        return "avif"
    return None


def why_unread(head: bytes) -> tuple[Status, str]:
    """Why a body that `sniff` does not know is not read: a status, and what it is or begins with."""
    format = "heic" if _HEIF.intersection(brands(head[:64])) else None
    format = format or next((name for name, pattern in _OTHER.items() if pattern.match(head[:1024])), None)
    if format is not None:
        return Status.UNSUPPORTED_FORMAT, f"a picture of the format {format}"
    return Status.NOT_AN_IMAGE, f"begins with {head[:12].hex() or 'nothing'}"


def read_header(data: bytes, kind: str, *, max_frames: int) -> Header:
    """The header of `data`, which `sniff` called `kind`; frames are counted up to `max_frames + 1`.

    Raises ValueError if the header is cut short, breaks its format or gives a size of zero.
    """
    if kind == "jpeg":
        header = read_jpeg(data)
    elif kind == "png":
        header = read_png(data)
    elif kind == "webp":
        header = read_webp(data, max_frames)
    elif kind == "avif":
        header = read_avif(data)
    else:
        header = read_gif(data, max_frames)
    if header.width < 1 or header.height < 1:
        raise ValueError(f"the header gives a size of {header.width}x{header.height}")
    return header
