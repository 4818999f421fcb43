"""Weights in the forms that people have them -> an open_clip model.

file -> read without running anything in it -> the mapping that holds the model -> the model's own names -> loaded

What is read: safetensors; `torch.save` of a state dict, or of a checkpoint around one (open_clip, Lightning, DeepSpeed,
torch.compile, DistributedDataParallel), of tensors or NumPy arrays, whatever other objects lie beside it; TorchScript,
as OpenAI published its models; big_vision's .npz.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from open_clip.convert import convert_state_dict
from open_clip.model import convert_to_custom_text_state_dict, resize_pos_embed
from safetensors.torch import load_file
from torch import Tensor, nn

from pairmill.checkpoint_files import require_whole
from pairmill.errors import RecipeError, UserError
from pairmill.towers.no_weights import no_weights
from pairmill.towers.positions import fit_positions

#: open_clip's name for the weights of a model folder.
WEIGHTS_FILE = "open_clip_model.safetensors"

#: Weights that a folder may hold, best first: an export, a checkpoint of ours, then by open_clip's preference.
_IN_FOLDERS = (
    WEIGHTS_FILE,
    "model.pt",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
    "mp_rank_00_model_states.pt",
    "model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.pth",
    "model.pth",
)

#: Every open_clip model has it, so its name shows where a model is in a file and what was put before its names.
_ANCHOR = "logit_scale"

#: Where checkpoints keep the model, most telling first: open_clip and Lightning, DeepSpeed, others.
_HOLDERS = ("state_dict", "module", "model_state_dict", "model")

#: What wrappers put before names: DistributedDataParallel and DataParallel, Lightning.
_WRAPPERS = {"module", "model"}

#: What wrappers put between names: torch.compile, fully sharded data parallel, activation checkpointing.
_BETWEEN = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")

#: Names in a message.
_NAMED = 3

#: NumPy's names of the types that weights have.
_NUMPY_TYPES = {"f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "b1"}

#: Integers that OpenAI's archives keep among the weights.
_NO_WEIGHTS = ("input_resolution", "context_length", "vocab_size")


def weights_in(folder: Path) -> Path:
    """The file of a model folder that holds its weights.  Raises RecipeError if there is none.

    Raises the error of `require_whole` for that of a checkpoint of ours which is damaged.
    """
    for name in _IN_FOLDERS:
        if (folder / name).is_file():
            require_whole(folder, only=name)
            return folder / name
    raise RecipeError(f"a model folder must hold one of {', '.join(_IN_FOLDERS)}", value=folder, fix="correct the path")


def is_big_vision(file: Path) -> bool:
    """Whether a file is in the form of Google's SigLIP models, which only open_clip reads."""
    return file.suffix in (".npz", ".npy")


def load_weights(
    model: nn.Module, file: Path, state: dict[str, Tensor] | None = None, *, kept_positions: int = 0
) -> set[str]:
    """Load a file into an open_clip model; returns the names that the file had a value for.

    state: what `read_weights` found in it, if it was read already.  A position embedding of another length is
    interpolated, by open_clip; that of the text tower as `fit_positions` with kept_positions.
    Raises RecipeError: it cannot be read without running code in it, holds several models or a part of one, or does not
    fit.
    """
    model_: Any = model
    if is_big_vision(file):
        if kept_positions:
            raise RecipeError(
                "model.kept_positions must be 0 for weights in big_vision's form, which only open_clip reads",
                value=kept_positions,
                fix="leave it out, or export the model first and start from the export",
            )
        try:
            open_clip.load_checkpoint(model_, str(file))
        except Exception as error:
            raise no_weights(file, error) or _unfit(file, error) from error
        return set(model.state_dict())
    found = read_weights(file) if state is None else state
    try:
        return _load(model_, found, kept_positions)
    except UserError:
        raise
    except Exception as error:  # shapes and names fail in ways of their own
        raise _unfit(file, error) from error


def read_weights(file: Path) -> dict[str, Tensor]:
    """The weights that a file holds, by the names of the model itself.  Raises RecipeError as `load_weights`."""
    try:
        found = _read(file)
    except UserError:
        raise
    except Exception as error:  # pickles and archives each fail in their own way
        raise no_weights(file, error) or RecipeError(
            "a file of weights must be readable without running code in it",
            value=f"{file}: {type(error).__name__}: {_reason(error)}",
            fix="save them again where they were trained, as safetensors or by torch.save(model.state_dict(), FILE)",
        ) from error
    state = _own_names(_model_of(found, file), file)
    if any(value.numel() == 0 for value in state.values()):
        raise RecipeError(
            "a file of weights must hold the whole model",
            value=f"{file}: some of its tensors are empty, as in a part of a checkpoint split over processes",
            fix="put the parts together first (DeepSpeed: python zero_to_fp32.py CHECKPOINT OUTPUT)",
        )
    return state


def quick_gelu_of(file: Path) -> bool | None:
    """Whether a TorchScript archive, which holds its model's code, uses QuickGELU; None for any other file."""
    if not _is_script(file):
        return None
    with zipfile.ZipFile(file) as archive:
        code = (archive.read(name) for name in archive.namelist() if "/code/" in name and name.endswith(".py"))
        # GELU as a sigmoid of 1.702 x (Hendrycks & Gimpel 2016), of which a traced module may be all that is left.
        return any(b"QuickGELU" in text or b"1.702" in text for text in code)


class _Inert(list):  # type: ignore[type-arg]
    """Stands for an object of any class that lies beside the weights: it is built and does nothing.

    stands_for: that class's name.
    """

    stands_for = "object"
    __hash__ = object.__hash__  # type: ignore[assignment]

    def __new__(cls, *_: Any, **__: Any) -> _Inert:
        return list.__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        super().__init__()
        self.attributes: Any = None

    def __setstate__(self, state: Any) -> None:
        self.attributes = state


class _InertMapping:
    """The same for a class of mappings: torch sets items of plain ones only."""

    def __new__(cls, *_: Any, **__: Any) -> Any:
        return OrderedDict()


class _NumpyType(_Inert):
    """The type of a NumPy array: its name, such as f4, and as attributes its byte order among others."""

    def __init__(self, name: Any = "", *_: Any) -> None:
        super().__init__()
        self.name = name


class _NumpyArray(_Inert):
    """A NumPy array.  attributes: (_, shape, type, whether in Fortran's order, bytes)."""


class _NumpyScalar(_NumpyArray):
    """A NumPy number, as an array without dimensions."""

    def __init__(self, kind: Any = None, data: Any = b"", *_: Any) -> None:
        super().__init__()
        self.attributes = (1, (), kind, False, data)


#: What NumPy's arrays and numbers are pickled with, since NumPy 2 and before.
_OF_NUMPY: Mapping[str, type] = {
    "numpy.dtype": _NumpyType,
    **{f"numpy.{core}.multiarray._reconstruct": _NumpyArray for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray.scalar": _NumpyScalar for core in ("core", "_core")},
}


def _of_numpy(value: Any) -> Any:
    """A NumPy array or number as a tensor; any other value as it is."""
    if not isinstance(value, _NumpyArray):
        return value
    try:
        _, shape, kind, by_columns, data = value.attributes
        order = kind.attributes[1]
        if order not in ("<", ">", "|", "=") or kind.name not in _NUMPY_TYPES:
            return value
        array = np.frombuffer(data, np.dtype(f"{order}{kind.name}")).reshape(shape, order="F" if by_columns else "C")
    except (AttributeError, IndexError, TypeError, ValueError):
        return value
    return torch.from_numpy(array.astype(kind.name))


def _inert(full_name: str) -> type:
    if full_name in _OF_NUMPY:
        return _OF_NUMPY[full_name]
    if "dict" in full_name.lower():
        return _InertMapping
    return type("_Inert", (_Inert,), {"stands_for": full_name})


def _read(file: Path) -> Any:
    if file.suffix == ".safetensors":
        return load_file(file)
    if _is_script(file):
        return dict(_tensors_of(_unpickled(_without_code(file))))
    return _unpickled(file)


def _unpickled(file: Path | io.BytesIO) -> Any:
    """What `torch.save` wrote: tensors and plain data; every other class that is named becomes an inert object.

    torch's restricted unpickler imports nothing and calls nothing but what is on its list.
    """
    name: Any = file
    strange = []
    if isinstance(file, io.BytesIO) or zipfile.is_zipfile(file):
        strange = torch.serialization.get_unsafe_globals_in_checkpoint(name)
    listed: Any = [(_inert(full_name), full_name) for full_name in strange]
    with torch.serialization.safe_globals(listed):
        if isinstance(file, io.BytesIO):
            file.seek(0)
        return torch.load(name, map_location="cpu", weights_only=True)


def _is_script(file: Path) -> bool:
    if not zipfile.is_zipfile(file):
        return False
    with zipfile.ZipFile(file) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _without_code(file: Path) -> io.BytesIO:
    """A TorchScript archive without its code, in the form of `torch.save`."""
    plain = io.BytesIO()
    with zipfile.ZipFile(file) as archive, zipfile.ZipFile(plain, "w", zipfile.ZIP_STORED) as kept:
        for name in archive.namelist():
            inner = name.partition("/")[2]
            if inner in ("data.pkl", "version", ".data/version", "byteorder") or inner.startswith("data/"):
                kept.writestr(name, archive.read(name))
    plain.seek(0)
    return plain


def _tensors_of(module: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors of an unpickled TorchScript module, by their names in its state dict."""
    if not isinstance(module, _Inert) or not isinstance(module.attributes, Mapping):
        return
    for name, value in module.attributes.items():
        if isinstance(value, Tensor):
            yield prefix + name, value
        else:
            yield from _tensors_of(value, f"{prefix}{name}.")


def _model_of(found: Any, file: Path) -> Mapping[str, Any]:
    """The mapping of names to weights in what a file holds."""
    holders = list(_holders(found, ()))
    if not holders:
        inner = found.get(_HOLDERS[0], found) if isinstance(found, Mapping) else {}
        if isinstance(inner, Mapping) and any(isinstance(value, Tensor) for value in inner.values()):
            return inner  # perhaps one of the forms that open_clip converts
        what = f"a {type(found).__name__} without {_ANCHOR}"
        if isinstance(found, _Inert):
            what = f"the object {found.stands_for}, as torch.save(model, FILE) writes it"
        raise RecipeError(
            "a file of weights must hold a model's state dict",
            value=f"{file}: {what}",
            fix="save it again by torch.save(model.state_dict(), FILE)",
        )
    if len(holders) == 1:
        return holders[0][1]
    for name in _HOLDERS:
        for path, state in holders:
            if path == (name,):
                return state
    raise _several(file, [".".join(path) for path, _ in holders])


def _holders(found: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
    if not isinstance(found, Mapping) or len(path) > 3:
        return
    if any(isinstance(name, str) and f".{name}".endswith(f".{_ANCHOR}") for name in found):
        yield path, found
        return
    for name, value in found.items():
        yield from _holders(value, (*path, str(name)))


def _own_names(held: Mapping[str, Any], file: Path) -> dict[str, Tensor]:
    """The weights without what wrappers put into their names, and without what lies outside the model."""
    renamed = {}
    for name, value in held.items():
        if isinstance(name, str):
            for part in _BETWEEN:
                name = name.replace(part, "")
            renamed[name] = value
    starts = [name.removesuffix(_ANCHOR) for name in renamed if f".{name}".endswith(f".{_ANCHOR}")]
    if len(starts) > 1:
        starts = [start for start in starts if set(start.split(".")[:-1]) <= _WRAPPERS] or starts
        if len(starts) > 1:
            raise _several(file, [start.removesuffix(".") for start in starts])
    start = starts[0] if starts else "module." if next(iter(renamed)).startswith("module.") else ""
    own = {name.removeprefix(start): value for name, value in renamed.items() if name.startswith(start)}
    # Among tensors, only the two numbers may be NumPy's: what else there is of it lies beside the weights.
    of_numpy = own if not any(isinstance(value, Tensor) for value in own.values()) else (_ANCHOR, "logit_bias")
    own = {name: _of_numpy(value) if name in of_numpy else value for name, value in own.items()}
    return {
        name: value if isinstance(value, Tensor) else torch.tensor(float(value))
        for name, value in own.items()
        if isinstance(value, Tensor) or (name in (_ANCHOR, "logit_bias") and isinstance(value, int | float))
    }


def _load(model: Any, state: dict[str, Tensor], kept_positions: int) -> set[str]:
    state = convert_state_dict(model, state)
    if "positional_embedding" in state and not hasattr(model, "positional_embedding"):
        state = convert_to_custom_text_state_dict(state)
    kept = model.state_dict()
    # Buffers that a model makes itself (masks, position ids) were weights in other versions and forms.
    made = {name for name, _ in model.named_buffers()} - set(kept)
    made |= {*_NO_WEIGHTS, "text.transformer.embeddings.position_ids"} - set(kept)
    state = {name: value for name, value in state.items() if name not in made}
    learnt = set(state)
    for name in (_ANCHOR, "logit_bias"):
        if name in state and name in kept:
            state[name] = state[name].reshape(kept[name].shape)
    for name, value in kept.items():
        # A count that torch allows to be missing, as it is where batch norms were frozen.
        if name == "logit_bias" or name.endswith(".num_batches_tracked"):
            state.setdefault(name, value)
    resize_pos_embed(state, model)
    fit_positions(state, model, kept_positions)
    if misfits := list(_misfits(kept, state)):
        raise ValueError("; ".join(misfits))
    model.load_state_dict(state, strict=True)
    return learnt


def _misfits(kept: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> Iterator[str]:
    """In what a file's weights differ from a model's, in words."""
    shapes = [
        f"{name} ({'x'.join(map(str, state[name].shape))}, not {'x'.join(map(str, value.shape))})"
        for name, value in kept.items()
        if name in state and state[name].shape != value.shape
    ]
    for what, names in (
        ("it lacks", [name for name in kept if name not in state]),
        ("it has besides", [name for name in state if name not in kept]),
        ("of another shape", shapes),
    ):
        if names:
            more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
            yield f"{what}: {', '.join(names[:_NAMED])}{more}"


def _several(file: Path, names: list[str]) -> RecipeError:
    return RecipeError(
        "a file of weights must hold one model",
        value=f"{file}: {', '.join(names)}",
        fix="save the one to start from by torch.save(model.state_dict(), FILE)",
    )


def _unfit(file: Path, error: Exception) -> RecipeError:
    return RecipeError(
        "the weights must fit the architecture",
        value=f"{file}: {_reason(error)}",
        fix="give weights of this architecture, or the architecture of these weights",
    )


def _reason(error: Exception) -> str:
    """Why torch could not read a file, without its advice, which is to run what is in it."""
    text = str(error)
    if isinstance(error, pickle.UnpicklingError):
        text = text.partition("WeightsUnpickler error:")[2] or text.partition("\n")[2]
        text = text.strip().partition("Please")[0]
    return (text.strip().splitlines() or [""])[0]
