"""Pictures brighter than white (PQ, HLG) on a screen that is not: their light, and how it is mapped to 0-1.

Light is in multiples of 203 cd/m2, which is white (ITU-R BT.2408).  A peak of 1,000 cd/m2 is assumed for every file.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]

_WHITE, _PEAK = 203.0, 1000.0

#: Where the map bends between its ends, 0-1 (SMPTE ST 2094-50, the map with a reference white; as in Chromium).
_BEND = 0.65


def _pq(signal: Values, luminance: Values) -> Values:
    """SMPTE ST 2084."""
    root = signal ** (32 / 2523)
    light = np.maximum(root - 3424 / 4096, 0) / (2413 / 128 - 2392 / 128 * root)
    return 10_000 / _WHITE * light ** (16384 / 2610)


def _hlg(signal: Values, luminance: Values) -> Values:
    """ITU-R BT.2100, with the opto-optical transfer of a display of 1,000 cd/m2: gamma 1.2 over luminance."""
    scene = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - 0.55991073) / 0.17883277) + 0.28466892) / 12)
    whole = (scene @ luminance)[:, None]
    return _PEAK / _WHITE * scene * whole**0.2


#: Transfer of ITU-T H.273 -> signals [n, 3] and the luminance of the primaries [3] to light [n, 3].
LIGHT: dict[int, Callable[[Values, Values], Values]] = {16: _pq, 18: _hlg}


def tone_mapped(light: Values) -> Values:
    """Light [n, 3] of BT.2020's primaries -> what a screen shows of it, 0-1: half as bright up to white.

    Above, the largest of the three follows a quadratic Bezier curve to 1 at the peak, and the others keep their ratio.
    """
    most = light.max(-1, keepdims=True)
    peak = _PEAK / _WHITE
    # From (1, 0.5), over a point between it and where the first line meets the top, to (peak, 1).
    across, up = (1 - _BEND) + _BEND * 2, (1 - _BEND) * 0.5 + _BEND
    bent = most.clip(1, peak)
    a, b = 1 - 2 * across + peak, 2 * across - 2
    t = (-b + np.sqrt(b * b + 4 * a * (bent - 1))) / (2 * a)
    curve = (1 - t) ** 2 * 0.5 + 2 * t * (1 - t) * up + t * t
    gain = np.where(most <= 1, 0.5, curve / np.maximum(most, 1))
    shown: Values = light * gain
    return shown
