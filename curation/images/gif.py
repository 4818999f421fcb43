"""GIF: what its header states, and its first frame as a file of its own."""

from __future__ import annotations

import struct
from typing import NamedTuple

from curation.images.fields import Header, le16

_EXTENSION, _IMAGE, _TRAILER, _CONTROL = 0x21, 0x2C, 0x3B, 0xF9


class GifFrame(NamedTuple):
    """A frame as a GIF whose screen it fills, and where its upper left corner lies on the real screen."""

    file: bytes
    left: int
    top: int


def read_gif(data: bytes, max_frames: int) -> Header:
    """The header of a GIF; raises ValueError as `read_header` does."""
    if len(data) < 13:
        raise ValueError("a GIF without a screen descriptor")
    width, height = le16(data, 6), le16(data, 8)
    frames = 0
    at = 13 + _palette_bytes(data[10])
    while at < len(data) and frames <= max_frames:
        block = data[at]
        if block == _EXTENSION:  # label, then sub-blocks
            at = _behind_sub_blocks(data, at + 2)
        elif block == _IMAGE and at + 10 <= len(data):
            frames += 1
            if frames == 1:
                # As in browsers, a first frame that reaches beyond the screen makes it larger.
                width = max(width, le16(data, at + 1) + le16(data, at + 5))
                height = max(height, le16(data, at + 3) + le16(data, at + 7))
            at = _behind_sub_blocks(data, at + 10 + _palette_bytes(data[at + 9]) + 1)
        elif block == 0:  # encoders that end an extension twice
            at += 1
        else:  # trailer, or not a GIF from here on
            break
    if not frames:
        raise ValueError("a GIF without a frame")
    return Header(width, height, frames)


def first_gif_frame(data: bytes) -> GifFrame:
    """The first frame of a GIF that `read_gif` has read."""
    palette_end = 13 + _palette_bytes(data[10])
    at = palette_end
    control = b""
    while data[at] != _IMAGE:
        if data[at] == _EXTENSION:
            end = _behind_sub_blocks(data, at + 2)
            if data[at + 1] == _CONTROL:
                control = data[at:end]
            at = end
        else:
            at += 1
    left, top, width, height = struct.unpack_from("<4H", data, at + 1)
    end = _behind_sub_blocks(data, at + 10 + _palette_bytes(data[at + 9]) + 1)
    screen = data[:6] + struct.pack("<2H", width, height) + data[10:palette_end]
    image = b"," + struct.pack("<4H", 0, 0, width, height) + data[at + 9 : end]
    return GifFrame(screen + control + image + b";", left, top)


def _palette_bytes(flags: int) -> int:
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _behind_sub_blocks(data: bytes, at: int) -> int:
    while at < len(data) and data[at]:
        at += data[at] + 1
    return at + 1
