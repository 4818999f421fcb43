"""Pictures of an evaluation set that a row shows smaller, encoded again, or with a strip cut off its borders.

A perceptual hash of 64 bits changes with the frame: of drawings of which 5 % of each side is gone, 3 % keep theirs to
within 4 bits.  The set is small and its pictures are at hand, so each is also hashed as it would look cut: in all
places of frames that are `crop` and half of that smaller, a quarter of `crop` apart.  Rows have one hash each.  Where
one is within `max_distance` bits, and the colours of 4 x 4 parts are at most `max_colour` apart
(`curation.duplicates.colours`; those of 8 x 8 change too much where a strip is cut off), the pictures themselves are
compared, `curation.decontamination.picture_difference`: of the few rows that come so far alone is the stored picture
read.  Nothing is fetched.

Hashes that differ in at most d bits agree in one of d + 1 blocks, so each row meets those of an equal block alone.

What a hash does not see is missed: flat pictures (`min_bits`), and drawings that are their own mirror image both ways,
such as a regular star, in whose hash most bits are chance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field

from curation.decontamination.match_kinds import Matches, MatchKind, Pictured, Pictures, Places
from curation.duplicates.colours import Layouts, coarse, known, layouts, within
from curation.duplicates.near_duplicate_image import HASH_BITS, Hashes, bit_count, blocks
from curation.schema import Status
from pairmill.registry import NamedConfig

if TYPE_CHECKING:
    from curation.embedding.stage import Embed

#: Pairs that share a block and are compared at once.
_PAIRS = 1 << 21
#: Numbers of a frame's colours, a byte each: of 4 x 4 parts.
_LAYOUT = 48
#: Whole numbers of 8, 16, 32 or 64 bits, none negative.
_Narrow = npt.NDArray[np.unsignedinteger[Any]]
#: Frames of an item that a picture is compared with, those of the nearest hashes.
_FRAMES = 8


class NearImageConfig(NamedConfig):
    """How similar pictures must be."""

    max_distance: int = Field(
        8, ge=0, le=15, description="most bits of 64 in which the perceptual hashes of like pictures differ"
    )
    min_bits: int = Field(
        8,
        ge=0,
        le=32,
        description="least ones and zeros (bits) of a hash that is compared; with fewer the picture is flat, and is "
        "compared by its bytes only",
    )
    max_colour: int = Field(
        20,
        ge=0,
        le=400,
        description="most levels (of 255) by which the colours of like pictures differ, in each of 4 x 4 parts; luma "
        "counts half; 400: colours do not count",
    )
    crop: float = Field(
        0.05,
        ge=0,
        le=0.25,
        description="largest share of width and of height that may have been cut off a picture of the set; 0: only "
        "whole ones are looked for",
    )

    max_difference: float = Field(
        18,
        ge=0,
        le=255,
        description="most levels (of 255) by which like pictures differ on average in any of 8 x 8 parts; 255: no "
        "picture is read, hashes and colours alone decide",
    )


class _Index(NamedTuple):
    """hash: uint64 [n]; item [n]; colours: uint8 [n, 16, 3], of every frame of every picture.

    order, values: for each block of bits, the places by its value, and these values.
    hashes, thumbnails: of every item, as the reference has them.

    An item has 35 frames, so places and values are of the smallest type that holds them (`_narrow`).
    """

    hash: Hashes
    item: _Narrow
    colours: Layouts
    order: list[_Narrow]
    values: list[_Narrow]
    hashes: pa.ChunkedArray
    thumbnails: pa.ChunkedArray


class NearImage(MatchKind):
    """Pictures whose perceptual hashes and colours are alike, whole or with a strip cut off."""

    name = "near_image"
    reads = ("phash", "colours")
    # uint64, little-endian, and a layout of 4 x 4 parts for each frame
    columns = pa.schema([("frame_hashes", pa.binary()), ("frame_colours", pa.binary())])
    Config = NearImageConfig
    config: NearImageConfig

    def fingerprints(self, items: Sequence[Pictured], models: Mapping[str, Embed]) -> Mapping[str, pa.Array]:
        """The hash and the colours of every frame; null for pictures that cannot be decoded."""
        from pairmill.towers.eval_transform import decode  # not needed to read a recipe, and slow to import

        found: list[tuple[bytes, bytes] | None] = []
        for one in items:
            there = one.inspected.status is Status.SUCCESS
            pixels = decode(one.inspected.image) if there else None
            found.append(None if pixels is None else _framed(pixels, self.config.crop))
        columns = zip(*((None, None) if one is None else one for one in found), strict=True) if found else ([], [])
        return {
            name: pa.array(list(values), pa.binary()) for name, values in zip(self.columns.names, columns, strict=True)
        }

    def index(self, reference: pa.Table) -> Any:
        """The frames of all items, by each block of bits."""
        hashes, colours = reference["frame_hashes"], reference["frame_colours"]
        there = [at for at, data in enumerate(hashes.to_pylist()) if data]
        joined = [hashes[at].as_py() for at in there]
        sizes = np.array([len(data) // 8 for data in joined], np.int64)
        hash_ = np.frombuffer(b"".join(joined), np.uint64)
        item = np.repeat(_narrow(np.array(there, np.int64), len(hashes)), sizes)
        layout = np.frombuffer(b"".join(colours[at].as_py() for at in there), np.uint8).reshape(-1, _LAYOUT // 3, 3)
        informative = self._informative(hash_)
        hash_, item, layout = hash_[informative], item[informative], layout[informative]
        order, values = [], []
        for shift, mask in blocks(self.config.max_distance):
            value = _narrow(hash_ >> np.uint64(shift) & np.uint64(mask), mask)
            order.append(_narrow(np.argsort(value, kind="stable"), len(value)))
            values.append(value[order[-1]])
        return _Index(hash_, item, layout, order, values, hashes, reference["thumbnail"])

    def matches(self, rows: pa.Table, index: Any, pictures: Pictures) -> Matches:
        """Rows and items of like pictures.

        The similarity is 1 less the difference of the pictures, as a share of 255 levels; where they are not compared,
        the share of equal bits, of the best frame.
        """
        guessed = self._guessed(rows, index)
        return guessed if self.config.max_difference == 255 else self._compared(guessed, rows, index, pictures)

    def _compared(self, guessed: Matches, rows: pa.Table, index: _Index, pictures: Pictures) -> Matches:
        """Those of the matches whose pictures are alike, and those of which a picture cannot be compared."""
        from curation.decontamination.picture_difference import least_difference, opened, square

        similarity = guessed.similarity.copy()
        kept = np.ones(len(similarity), np.bool_)
        # A row's matches lie one behind the other.
        first = np.unique(guessed.row, return_index=True)[1]
        for begin, end in pairwise([*first.tolist(), len(kept)]):
            picture = opened(pictures(guessed.row[begin : begin + 1])[0])
            if picture is None:
                continue
            own, shown = rows["phash"][int(guessed.row[begin])].as_py(), square(picture)
            for at in range(begin, end):
                item = int(guessed.item[at])
                whole = opened(index.thumbnails[item].as_py())
                if whole is not None:
                    frames = self._closest(own, index.hashes[item].as_py())
                    apart = least_difference(shown, whole, frames)
                    similarity[at], kept[at] = 1 - apart / 255, apart <= self.config.max_difference
        return Matches(guessed.row[kept], guessed.item[kept], similarity[kept])

    def _closest(self, own: int, hashes: bytes) -> list[tuple[float, float, float, float]]:
        """The frames of an item whose hashes are nearest to a row's."""
        distance = bit_count(np.frombuffer(hashes, np.uint64) ^ np.uint64(own))
        every = frames(self.config.crop)
        return [every[at] for at in np.argsort(distance, kind="stable")[:_FRAMES].tolist()]

    def _guessed(self, rows: pa.Table, index: _Index) -> Matches:
        """Rows and items of like hashes and colours, by row; the similarity is the share of equal bits."""
        row = np.flatnonzero(np.asarray(rows["phash"].is_valid()) & np.asarray(known(rows["colours"])))
        some = rows.take(pa.array(row))
        hash_: Hashes = some["phash"].to_numpy()
        informative = self._informative(hash_)
        row, hash_ = row[informative], hash_[informative]
        colours = coarse(layouts(some["colours"].filter(pa.array(informative))))
        found = [np.empty((3, 0), np.int64)]
        for (shift, mask), order, values in zip(
            blocks(self.config.max_distance), index.order, index.values, strict=True
        ):
            value = _narrow(hash_ >> np.uint64(shift) & np.uint64(mask), mask)
            first, last = np.searchsorted(values, value, "left"), np.searchsorted(values, value, "right")
            for here in _portions(last - first):
                size = last[here] - first[here]
                mine = np.repeat(np.arange(here.start, here.stop), size)
                place = np.arange(size.sum()) + np.repeat(first[here] - (np.cumsum(size) - size), size)
                frame = order[place]
                distance = bit_count(hash_[mine] ^ index.hash[frame]).astype(np.int64)
                near = np.flatnonzero(distance <= self.config.max_distance)
                mine, frame, distance = mine[near], frame[near], distance[near]
                alike = within(colours, mine, index.colours, frame, self.config.max_colour)
                found.append(np.stack([mine[alike], index.item[frame[alike]], distance[alike]]))
        mine, item, distance = np.concatenate(found, axis=1)
        best = np.lexsort((distance, item, mine))
        mine, item, distance = mine[best], item[best], distance[best]
        first_of = np.ones(len(mine), np.bool_)
        first_of[1:] = (mine[1:] != mine[:-1]) | (item[1:] != item[:-1])
        mine, item, distance = mine[first_of], item[first_of], distance[first_of]
        return Matches(row[mine], item, (1 - distance / HASH_BITS).astype(np.float32))

    def _informative(self, hashes: Hashes) -> npt.NDArray[np.bool_]:
        ones = bit_count(hashes)
        mask: npt.NDArray[np.bool_] = (ones >= self.config.min_bits) & (ones <= HASH_BITS - self.config.min_bits)
        return mask


def frames(crop: float) -> list[tuple[float, float, float, float]]:
    """(left, top, right, bottom) of each frame, as shares of width and height: the whole, and where a copy may be cut.

    A copy may have lost any strip up to `crop`, and have kept its shape.
    """
    found = [(0.0, 0.0, 1.0, 1.0)]
    for part in (2, 4) if crop else ():
        places = [crop * at / 4 for at in range(part + 1)]
        lost = places[-1]
        found += [(x, y, 1 - lost + x, 1 - lost + y) for x in places for y in places]
    return found


def _framed(pixels: npt.NDArray[np.uint8], crop: float) -> tuple[bytes, bytes]:
    """The hashes and the colours (4 x 4 parts) of all frames of a picture, uint8 RGB [H, W, 3]."""
    from curation.images.measure import colour_layout, grey_copy, perceptual_hash

    height, width = pixels.shape[:2]
    hashes, found = [], []
    for left, top, right, bottom in frames(crop):
        rows = slice(round(top * height), max(round(top * height) + 1, round(bottom * height)))
        columns = slice(round(left * width), max(round(left * width) + 1, round(right * width)))
        frame = np.ascontiguousarray(pixels[rows, columns])
        hashes.append(perceptual_hash(grey_copy(frame)))
        found.append(colour_layout(frame))
    return np.array(hashes, np.uint64).tobytes(), coarse(np.frombuffer(b"".join(found), np.uint8)).tobytes()


def _narrow(numbers: npt.NDArray[Any], largest: int) -> _Narrow:
    """The numbers, of the smallest type that holds all from 0 to `largest`."""
    return numbers.astype(np.min_scalar_type(largest))


def _portions(sizes: Places) -> list[slice]:
    """Consecutive rows with about `_PAIRS` pairs together."""
    behind, begin, found = np.cumsum(sizes), 0, []
    while begin < len(sizes):
        reached = int(behind[begin - 1]) if begin else 0
        end = max(begin + 1, int(np.searchsorted(behind, reached + _PAIRS, "right")))
        found.append(slice(begin, min(end, len(sizes))))
        begin = end
    return found
