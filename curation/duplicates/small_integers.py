"""Unit vectors rounded to whole numbers of 7 bits: products in a seventh of the time of float32's, with a known error.

    |a.b - a'.b'| <= |a - a'| |b'| + |a| |b - b'|        by Cauchy and Schwarz; a', b': rounded

They find the few pairs that `curation.duplicates.exact_products` then decides.  ONNX Runtime multiplies such numbers on
all processors, exactly: two products of 7 bits fit the 16 bits to which processors without VNNI would cut them.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from curation.duplicates.exact_products import IN_CACHE
from curation.duplicates.kinds import Indices

#: The largest number, and what is added to one side of a product, which must have no sign.
_LARGEST, _ZERO = 63, 64

#: More than what float32 makes wrong, in lengths and in errors.
_FLOAT32 = 1e-4


class Rounded(NamedTuple):
    """numbers: [n, D].  step: what 1 stands for.  error: the greatest distance of a vector from its rounded form."""

    numbers: npt.NDArray[np.int8]
    step: float
    error: float

    def part(self, begin: int, end: int | None = None) -> Rounded:
        """The vectors from `begin` to before `end`, without a copy."""
        return self._replace(numbers=self.numbers[begin:end])


def rounded(wide: npt.NDArray[np.float32]) -> Rounded:
    """Vectors of unit length, one at least."""
    step, worst = max(float(wide.max()), -float(wide.min())) / _LARGEST, 0.0
    numbers = np.empty(wide.shape, np.int8)
    for begin in range(0, len(wide), IN_CACHE):
        scaled = wide[begin : begin + IN_CACHE] * np.float32(1 / step)
        whole = np.rint(scaled)
        numbers[begin : begin + IN_CACHE] = whole
        scaled -= whole
        worst = max(worst, float(np.einsum("nd,nd->n", scaled, scaled).max()))
    return Rounded(numbers, step, worst**0.5 * step)


def above(left: Rounded, right: Rounded, least: float) -> tuple[Indices, Indices]:
    """The places (left, right) of all products that may be above `least`."""
    unsigned = (left.numbers + np.int8(_ZERO)).view(np.uint8)
    products = _session().run(None, {"left": unsigned, "right": right.numbers})[0]
    wrong = left.error * (1 + right.error) + right.error + _FLOAT32
    found = np.flatnonzero(products >= math.floor((least - wrong) / (left.step * right.step)))
    return np.divmod(found, products.shape[1])


@cache
def _session() -> Any:
    """The products of `left`, [n, D], each 64 too large, with `right`, [m, D]: [n, m]."""
    import onnxruntime  # not needed to read a recipe

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors
    return onnxruntime.InferenceSession(_network(), options, providers=["CPUExecutionProvider"])


def _network() -> bytes:
    """As a file of ONNX: a message of protobuf (https://protobuf.dev/programming-guides/encoding, onnx.proto)."""

    def message(*fields: tuple[int, int | str | bytes]) -> bytes:
        found = b""
        for number, value in fields:
            if isinstance(value, int):
                found += bytes([number << 3, value])
            else:
                data = value.encode() if isinstance(value, str) else value
                found += bytes([number << 3 | 2, len(data)]) + data
        return found

    def matrix(name: str, kind: int, rows: str, columns: str) -> bytes:
        shape = message((1, message((2, rows))), (1, message((2, columns))))
        return message((1, name), (2, message((1, message((1, kind), (2, shape))))))

    uint8, int8, int32 = 2, 3, 6
    graph = message(
        (1, message((1, "right"), (2, "turned"), (4, "Transpose"))),
        (1, message((1, "left"), (1, "turned"), (1, "zero"), (2, "products"), (4, "MatMulInteger"))),
        (2, "products"),
        (5, message((2, uint8), (8, "zero"), (9, bytes([_ZERO])))),
        (11, matrix("left", uint8, "n", "d")),
        (11, matrix("right", int8, "m", "d")),
        (12, matrix("products", int32, "n", "m")),
    )
    # A length of 128 or more takes two bytes.
    head, opset = message((1, 8)), message((8, message((1, ""), (2, 18))))
    return head + bytes([7 << 3 | 2, len(graph) & 127 | 128, len(graph) >> 7]) + graph + opset
