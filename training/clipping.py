"""What is recorded of the gradient: the curve to look at when a loss jumps."""

from __future__ import annotations

import math


class Clipping:
    """Norms of the gradient since the last line of metrics."""

    def __init__(self, clip_norm: float | None) -> None:
        """clip_norm: `optim.clip_norm`."""
        self._clip_norm = clip_norm
        self._norms: list[float] = []

    def seen(self, norm: float) -> None:
        """After each step: the norm of its gradient, before clipping."""
        self._norms.append(norm)

    def lap(self) -> dict[str, float | None]:
        """grad_norm: of the latest step; None where it is not finite, as JSON has no such number (fp16 skips it).

        clipped, where clipping is on: share of the steps since the last call whose gradient was clipped, 0-1.
        """
        norms, self._norms = self._norms, []
        found: dict[str, float | None] = {"grad_norm": norms[-1] if norms and math.isfinite(norms[-1]) else None}
        if self._clip_norm is not None and norms:
            found["clipped"] = round(sum(norm > self._clip_norm for norm in norms) / len(norms), 4)
        return found
