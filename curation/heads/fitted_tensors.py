"""Files of heads that are fitted to a sample of a run: tensors, and what they are, in one safetensors file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curation.engines.model_files import file_digest
from pairmill.atomic import whole_file
from pairmill.errors import RecipeError

#: The key of the file's metadata that says what head it is of, and how it was fitted.
_METADATA = "pairmill_fitted"


#: The commands that write such files, of heads that `fit-noise` does not fit.
_COMMANDS = {"clusters": "fit-clusters"}

H = TypeVar("H", bound="FittedHead")


class FittedHead:
    """Base of the heads of such files, whose configuration names the file (`weights`) and the `embedding`.

    `__init__` loads the file, and raises RecipeError for one of another head or of none.
    """

    libraries: ClassVar[tuple[str, ...]] = ("numpy", "safetensors")
    input: Literal["pixels", "embedding"] = "embedding"
    #: Numbers of the vectors that it was fitted to.
    size: int

    def __init__(self, config: Any) -> None:
        raise NotImplementedError(f"{type(self).__name__} must load its file")

    @classmethod
    def revision(cls, config: Any) -> str:
        """The content of the file."""
        return f"sha256:{file_digest(config.weights)}"

    @classmethod
    def probe(cls, config: Any, columns: Mapping[str, pa.DataType]) -> None:
        """Raise RecipeError for a file of another head, and of another embedding."""
        wanted = cls.load(config).size
        size = getattr(columns.get(f"image_embedding_{config.embedding}"), "list_size", None)
        if size is not None and size != wanted:
            raise RecipeError(
                "score.NAME.weights must be fitted to the embedding that the recipe names",
                value=f"{config.weights} is of vectors of {wanted} numbers, and embed.{config.embedding} gives {size}",
                fix="name the embedding that it was fitted to, or fit it again",
            )

    @classmethod
    def load(cls: type[H], config: Any) -> H:
        """The head with its file.  Raises RecipeError for a file that is none of its."""
        return cls(config)


class Tensors(NamedTuple):
    """arrays: by name.  about: how they were fitted, as plain data."""

    arrays: Mapping[str, npt.NDArray[Any]]
    about: Mapping[str, Any]


def save_tensors(file: Path, head: str, arrays: Mapping[str, npt.NDArray[Any]], about: Mapping[str, Any]) -> None:
    """Write what a head of this name loads, whole or not at all; equal contents are equal files.  Raises OSError."""
    from safetensors.numpy import save

    said = json.dumps({"head": head, **about}, sort_keys=True)
    content = save({name: np.ascontiguousarray(one) for name, one in arrays.items()}, metadata={_METADATA: said})
    with whole_file(file, fault="fit.file") as stream:
        stream.write(content)


def load_tensors(file: Path, head: str, shapes: Mapping[str, tuple[int | str, ...]]) -> Tensors:
    """What `save_tensors` wrote.

    shapes: of each array; a word stands for any length, and for the same one everywhere.
    Raises RecipeError for a file of another head, or of none.
    """
    try:
        from safetensors import safe_open

        with safe_open(file, "np") as opened:
            about = json.loads((opened.metadata() or {}).get(_METADATA, "{}"))
            arrays = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  no mapping
    except Exception as error:  # headers and paths each fail in their own way
        first = (str(error).splitlines() or [""])[0]
        raise _refused(file, head, f"{type(error).__name__}: {first}") from error
    if not isinstance(about, dict) or about.get("head") != head:
        raise _refused(file, head, f"it is of the head {about.get('head') if isinstance(about, dict) else None!r}")
    _check_shapes(file, head, arrays, shapes)
    return Tensors(arrays, about)


def _check_shapes(
    file: Path, head: str, arrays: Mapping[str, npt.NDArray[Any]], shapes: Mapping[str, Sequence[int | str]]
) -> None:
    lengths: dict[str, int] = {}
    for name, shape in shapes.items():
        found = arrays.get(name)
        good = found is not None and found.ndim == len(shape) and bool(np.isfinite(found).all())
        for wanted, length in zip(shape, found.shape if found is not None and good else (), strict=False):
            good &= length > 0 and length == (lengths.setdefault(wanted, length) if isinstance(wanted, str) else wanted)
        if not good:
            raise _refused(file, head, f"{name} is {'missing' if found is None else f'{found.dtype} {found.shape}'}")


def _refused(file: Path, head: str, why: str) -> RecipeError:
    command = _COMMANDS.get(head, f"fit-noise --score {head}")
    return RecipeError(
        f"score.NAME.weights of a head {head} must be a file of `pairmill {command}`",
        value=f"{file}: {why}",
        fix="correct the path, or fit it again",
    )
