"""Networks in ONNX form: opened for one thread or a GPU, and freed of the sizes that their inputs were exported with.

An ONNX file is a message of protobuf: a sequence of fields, each a number, a wire type and a value, which may be a
message itself (https://protobuf.dev/programming-guides/encoding).  The numbers of its fields are those of onnx.proto.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pairmill.errors import RecipeError
from pairmill.packages import needed

if TYPE_CHECKING:
    import onnxruntime

#: ModelProto.graph; GraphProto.initializer, .input, .output; ValueInfoProto.name, .type; TypeProto.tensor_type;
#: TypeProto.Tensor.shape; TensorProto.name.
_GRAPH, _INITIALIZER, _INPUT, _OUTPUT, _NAME, _TYPE, _TENSOR, _SHAPE, _TENSOR_NAME = 7, 5, 11, 12, 1, 2, 1, 2, 8

_MESSAGE = 2  # the wire type of messages and texts
_FIXED = {1: 8, 5: 4}  # the wire types of a fixed number of bytes


def open_network(file: Path, *, content: bytes | None = None) -> onnxruntime.InferenceSession:
    """A network, on the CUDA provider where the installed onnxruntime has it, else on one thread of a CPU.

    content: to be used instead of the file's.  Raises RecipeError for what onnxruntime does not load.
    """
    with needed("onnxruntime"):
        import onnxruntime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3  # old exporters make it warn of every weight
    there = onnxruntime.get_available_providers()
    providers = [one for one in ("CUDAExecutionProvider", "CPUExecutionProvider") if one in there]
    try:
        return onnxruntime.InferenceSession(str(file) if content is None else content, options, providers=providers)
    except Exception as error:  # onnxruntime raises classes of its own, without a common base
        raise RecipeError(
            "score.NAME.model must be an ONNX file that onnxruntime loads",
            value=f"{file}: {(str(error).splitlines() or [''])[0]}",
            fix="correct the path, or export the network again",
        ) from error


def of_any_size(file: Path) -> bytes:
    """The content of an ONNX file whose inputs and outputs have no sizes, so that it takes pictures of every size.

    For convolutional networks that were exported with the size of an example.  Raises RecipeError for a file that is
    not in ONNX form, or cannot be read.
    """
    try:
        content = file.read_bytes()
        return _replaced(content, _GRAPH, _without_sizes)
    except (OSError, ValueError, IndexError) as error:
        raise RecipeError(
            "score.NAME.model must be an ONNX file", value=f"{file}: {error}", fix="correct the path"
        ) from error


def _without_sizes(graph: bytes) -> bytes:
    # Old exporters list weights as inputs too, and they keep their sizes.
    weights = {_text(value, _TENSOR_NAME) for number, _, value in _fields(graph) if number == _INITIALIZER}

    def freed(value: bytes) -> bytes:
        if _text(value, _NAME) in weights:
            return value
        return _replaced(value, _TYPE, lambda kind: _replaced(kind, _TENSOR, _without_shape))

    return _replaced(_replaced(graph, _INPUT, freed), _OUTPUT, freed)


def _without_shape(tensor: bytes) -> bytes:
    return b"".join(whole for number, whole, _ in _fields(tensor) if number != _SHAPE)


def _text(message: bytes, wanted: int) -> bytes:
    return next((value for number, _, value in _fields(message) if number == wanted), b"")


def _replaced(message: bytes, wanted: int, change: Callable[[bytes], bytes]) -> bytes:
    """The message with each inner message of one number changed."""
    parts = []
    for number, whole, value in _fields(message):
        if number == wanted:
            changed = change(value)
            whole = _varint(number << 3 | _MESSAGE) + _varint(len(changed)) + changed
        parts.append(whole)
    return b"".join(parts)


def _fields(message: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """(number, the whole field, its value, which is empty for numbers) of each field.

    Raises ValueError or IndexError for what is no message.
    """
    at = 0
    while at < len(message):
        first = at
        tag, at = _read_varint(message, at)
        number, wire = tag >> 3, tag & 7
        value = b""
        if wire == 0:
            _, at = _read_varint(message, at)
        elif wire == _MESSAGE:
            length, at = _read_varint(message, at)
            value = message[at : at + length]
            at += length
        elif wire in _FIXED:
            at += _FIXED[wire]
        else:
            raise ValueError(f"wire type {wire} at byte {first}")
        if at > len(message):
            raise ValueError(f"the field at byte {first} is cut off")
        yield number, message[first:at], value


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError(f"a number of more than 64 bits before byte {at}")


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)
