"""Networks in ONNX form, written by hand: `onnx` is not installed."""

from __future__ import annotations

from pathlib import Path


def varint(number: int) -> bytes:
    return bytes([number & 127 | 128]) + varint(number >> 7) if number > 127 else bytes([number])


def message(*fields: tuple[int, int | str | bytes]) -> bytes:
    """A message of protobuf, of which an ONNX file consists: (number of the field, value)."""
    parts = []
    for number, value in fields:
        if isinstance(value, int):
            parts.append(varint(number << 3) + varint(value))
        else:
            data = value.encode() if isinstance(value, str) else value
            parts.append(varint(number << 3 | 2) + varint(len(data)) + data)
    return b"".join(parts)


def write_mean_network(file: Path, size: int) -> None:
    """A network [N, 3, size, size] -> [N, 2]: the means of the first and of the last channel."""

    def numbers(name: str, *values: int) -> bytes:  # a TensorProto of int64
        return message((1, len(values)), (2, 7), *((7, value) for value in values), (8, name))

    def floats(name: str, *dimensions: int | str) -> bytes:  # a ValueInfoProto
        shape = message(*((1, message((2 if isinstance(one, str) else 1, one))) for one in dimensions))
        return message((1, name), (2, message((1, message((1, 1), (2, shape))))))

    flat = message((1, "keepdims"), (3, 0), (20, 2))
    last = message((1, "axis"), (3, 1), (20, 2))
    graph = message(
        (1, message((1, "x"), (1, "axes"), (2, "mean"), (4, "ReduceMean"), (5, flat))),
        (1, message((1, "mean"), (1, "which"), (2, "y"), (4, "Gather"), (5, last))),
        *((2, "means"), (5, numbers("axes", 2, 3)), (5, numbers("which", 0, 2))),
        *((11, floats("x", "n", 3, size, size)), (12, floats("y", "n", 2))),
    )
    file.write_bytes(message((1, 8), (7, graph), (8, message((1, ""), (2, 18)))))
