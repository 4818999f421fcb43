"""ICC profiles for colours that are not described by one: PNG's gAMA and cHRM, and code points (cICP, nclx)."""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from curation.images.bright import LIGHT, Values, tone_mapped

Point = tuple[float, float]


class Primaries(NamedTuple):
    """CIE 1931 xy."""

    red: Point
    green: Point
    blue: Point
    white: Point


_D65, _C = (0.3127, 0.3290), (0.310, 0.316)
SRGB = Primaries((0.640, 0.330), (0.300, 0.600), (0.150, 0.060), _D65)

#: ITU-T H.273, table 2.
_PRIMARIES = {
    1: SRGB,
    4: Primaries((0.670, 0.330), (0.210, 0.710), (0.140, 0.080), _C),
    5: Primaries((0.640, 0.330), (0.290, 0.600), (0.150, 0.060), _D65),
    6: Primaries((0.630, 0.340), (0.310, 0.595), (0.155, 0.070), _D65),
    7: Primaries((0.630, 0.340), (0.310, 0.595), (0.155, 0.070), _D65),
    8: Primaries((0.681, 0.319), (0.243, 0.692), (0.145, 0.049), _C),
    9: Primaries((0.708, 0.292), (0.170, 0.797), (0.131, 0.046), _D65),
    10: Primaries((1.0, 0.0), (0.0, 1.0), (0.0, 0.0), (1 / 3, 1 / 3)),
    11: Primaries((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), (0.314, 0.351)),
    12: Primaries((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), _D65),
    22: Primaries((0.630, 0.340), (0.295, 0.605), (0.155, 0.077), _D65),
}


def _smpte240(signal: Values) -> Values:
    return np.where(signal < 0.0912863, signal / 4, ((signal + 0.1115722) / 1.1115722) ** (1 / 0.45))


def _srgb(signal: Values) -> Values:
    return np.where(signal <= 0.04045, signal / 12.92, ((signal + 0.055) / 1.055) ** 2.4)


#: ITU-T H.273, table 3: signal to light, both 0-1.  The curves of cameras (1, 6, 11, 14, 15) are shown as a display of
#: ITU-R BT.1886 shows them.  PQ and HLG are in `LIGHT`.
_CURVES: dict[int, Callable[[Values], Values]] = {
    **dict.fromkeys((1, 6, 11, 14, 15), lambda signal: signal**2.4),
    4: lambda signal: signal**2.2,
    5: lambda signal: signal**2.8,
    7: _smpte240,
    8: lambda signal: signal,
    13: _srgb,
    17: lambda signal: signal**2.6 * (52.37 / 48),
}

_D50 = np.array([0.9642, 1.0, 0.8249])
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
_POINTS = 4096
_STEPS = 33


@lru_cache(maxsize=16)
def profile_of_code(primaries: int, transfer: int) -> bytes | None:
    """The profile of a pair of code points of ITU-T H.273; b"" for sRGB, None if they name no colours that we know."""
    if primaries not in _PRIMARIES:
        return None
    if transfer in LIGHT:
        return _profile_of_light(transfer, _PRIMARIES[primaries])
    if transfer not in _CURVES:
        return None
    return b"" if (primaries, transfer) == (1, 13) else _profile(_CURVES[transfer], _PRIMARIES[primaries])


@lru_cache(maxsize=16)
def profile_of_gamma(gamma: float, primaries: Primaries | None) -> bytes:
    """The profile of a display of this gamma; b"" if no display has such primaries, or if it is sRGB.

    As in libpng and Chromium, a gamma within 5 % of 2.2 and no primaries mean sRGB.
    """
    if primaries is None and abs(2.2 / gamma - 1) < 0.05:
        return b""
    return _profile(lambda signal: signal**gamma, primaries or SRGB)


def _profile(curve: Callable[[Values], Values], primaries: Primaries) -> bytes:
    colours = _colours(primaries)
    if colours is None:
        return b""
    light = np.rint(curve(np.linspace(0, 1, _POINTS)).clip(0, 1) * 65535).astype(">u2")
    tags = {name: _xyz(colours[:, at]) for at, name in enumerate((b"rXYZ", b"gXYZ", b"bXYZ"))}
    tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), b"curv" + struct.pack(">2I", 0, _POINTS) + light.tobytes())
    return _packed(tags, b"XYZ ")


def _profile_of_light(transfer: int, primaries: Primaries) -> bytes:
    """A profile that is a table of signals to L*a*b* (lut16Type, ICC.1:2001), for light beyond white."""
    colours, srgb, wide = (_colours(p) for p in (primaries, SRGB, _PRIMARIES[9]))
    if colours is None or srgb is None or wide is None:
        return b""
    steps = np.linspace(0, 1, _STEPS)
    signal = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), -1).reshape(-1, 3)
    light = LIGHT[transfer](signal, colours[1]) @ (np.linalg.inv(wide) @ colours).T
    shown = tone_mapped(light) @ (np.linalg.inv(srgb) @ wide).T
    # Cut to what sRGB can show, as L*a*b* has not the range for the rest.
    ratio = shown.clip(0, 1) @ srgb.T / _D50
    root = np.where(ratio > 216 / 24389, np.cbrt(ratio), (24389 / 27 * ratio + 16) / 116)
    lab = np.stack([116 * root[:, 1] - 16, 500 * (root[:, 0] - root[:, 1]), 200 * (root[:, 1] - root[:, 2])], -1)
    coded = np.rint(np.add(lab, [0, 128, 128]) * [652.8, 256, 256]).clip(0, 65535).astype(">u2")
    head = b"mft2" + bytes(4) + bytes([3, 3, _STEPS, 0]) + struct.pack(">9i", *np.eye(3, dtype=int).ravel() * 65536)
    straight = struct.pack(">2H", 0, 65535) * 3
    table = head + struct.pack(">2H", 2, 2) + straight + coded.tobytes() + straight
    return _packed({b"A2B0": table}, b"Lab ")


def _packed(tags: dict[bytes, bytes], connection: bytes) -> bytes:
    """A profile for RGB of these tags; connection: the space that they lead to."""
    tags = {**tags, b"wtpt": _xyz(_D50)}
    index, body = struct.pack(">I", len(tags)), b""
    places: dict[bytes, int] = {}
    for name, data in tags.items():
        if data not in places:  # the three curves are one
            places[data] = 132 + 12 * len(tags) + len(body)
            body += data
        index += name + struct.pack(">2I", places[data], len(data))
    head = struct.pack(">I4sI", 128 + len(index) + len(body), b"none", 0x02400000) + b"mntrRGB " + connection
    head += struct.pack(">6H", 2000, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + _xyz(_D50)[8:]
    return head + bytes(128 - len(head)) + index + body


def _colours(primaries: Primaries) -> Values | None:
    """XYZ under D50 [3, 3], a column for each of red, green and blue (ICC.1:2010, annex E: Bradford)."""
    if any(y <= 0 and x + y != 0 for x, y in primaries) and primaries != _PRIMARIES[10]:
        return None
    columns = np.array([[x, y, 1 - x - y] for x, y in primaries]).T
    if columns[1, 3] <= 0 or abs(np.linalg.det(columns[:, :3])) < 1e-6:
        return None
    white = columns[:, 3] / columns[1, 3]
    scaled = columns[:, :3] * np.linalg.solve(columns[:, :3], white)
    gain = (_BRADFORD @ _D50) / (_BRADFORD @ white)
    found: Values = np.linalg.inv(_BRADFORD) @ np.diag(gain) @ _BRADFORD @ scaled
    return found if np.abs(found).max() < 8 else None


def _xyz(values: Values) -> bytes:
    return b"XYZ " + bytes(4) + b"".join(struct.pack(">i", round(float(v) * 65536)) for v in values)
