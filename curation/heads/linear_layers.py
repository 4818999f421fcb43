"""Chains of linear layers in a file of weights: a linear probe, or a multi-layer perceptron."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pairmill.errors import RecipeError

Floats = npt.NDArray[np.float32]

#: The key of a safetensors file's metadata under which `pairmill fit-filter` says how a head is computed.
METADATA = "pairmill_head"


class Layers(NamedTuple):
    """weights: [out, in] of each layer.  biases: [out] of each.  said: what the file says of itself."""

    weights: list[Floats]
    biases: list[Floats]
    said: Mapping[str, Any]


def read_layers(file: Path) -> Layers:
    """The layers of a file, in the order of the numbers in their names.

    file: safetensors, or what torch.save makes of a state dict.  Every tensor must be a `weight` [out, in], or the
    `bias` [out] beside one.
    Raises RecipeError for a file that cannot be read without running code in it, and for other layers.
    """
    tensors, said = _read(file)
    names = sorted({name.rpartition(".")[0] for name in tensors}, key=_natural)
    weights: list[Floats] = []
    biases: list[Floats] = []
    for name in names:
        dot = f"{name}." if name else ""
        weight = tensors.get(f"{dot}weight")
        known = {f"{dot}weight", f"{dot}bias"}
        others = [one for one in tensors if one.rpartition(".")[0] == name and one not in known]
        if weight is None or weight.ndim != 2 or others:
            raise _refused(file, f"{(others or [f'{dot}weight'])[0]} is not part of one")
        bias = tensors.get(f"{dot}bias", np.zeros(len(weight), np.float32))
        if bias.shape != weight.shape[:1] or (weights and weight.shape[1] != weights[-1].shape[0]):
            raise _refused(file, f"{dot}weight {list(weight.shape)} and {dot}bias {list(bias.shape)} do not fit")
        weights.append(weight.astype(np.float32))
        biases.append(bias.astype(np.float32))
    if not weights:
        raise _refused(file, "it holds no layer")
    return Layers(weights, biases, said)


def _natural(name: str) -> list[Any]:
    """layers.10 after layers.2."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def _read(file: Path) -> tuple[dict[str, npt.NDArray[Any]], Mapping[str, Any]]:
    try:
        if file.suffix == ".safetensors":
            from safetensors import safe_open

            with safe_open(file, "np") as opened:
                text = (opened.metadata() or {}).get(METADATA)
                said = json.loads(text) if text else {}
                if not isinstance(said, dict):
                    raise ValueError(f"its metadata {METADATA} is no mapping")
                return {name: opened.get_tensor(name) for name in opened.keys()}, said  # noqa: SIM118  no mapping
        import torch

        found = torch.load(file, map_location="cpu", weights_only=True)
        return {str(name): tensor.float().numpy() for name, tensor in found.items()}, {}
    except Exception as error:  # pickles, archives and headers each fail in their own way
        first = (str(error).splitlines() or [""])[0]
        # torch's message advises to run what the file holds.
        why = "it holds more than tensors" if "eights only" in first else f"{type(error).__name__}: {first}"
        raise _refused(file, why) from error


def _refused(file: Path, why: str) -> RecipeError:
    return RecipeError(
        "score.NAME.weights must be a file of linear layers: safetensors, or torch.save of a state dict",
        value=f"{file}: {why}",
        fix="correct the path, or save the layers alone, as safetensors.torch.save_file(model.state_dict(), FILE)",
    )
