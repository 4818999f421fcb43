"""The last step of a head: from the outputs of its network to the score."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

Output = Literal["none", "sigmoid", "softmax"]


def score_of(outputs: npt.NDArray[np.float32], index: int, form: Output) -> npt.NDArray[np.float32]:
    """One of the outputs [N, out] of each row, float32 [N].  form: what they go through."""
    if form == "softmax":
        raised = np.exp(outputs - outputs.max(axis=1, keepdims=True))
        outputs = raised / raised.sum(axis=1, keepdims=True)
    chosen = np.asarray(outputs[:, index], np.float32)
    if form == "sigmoid":
        chosen = np.float32(0.5) * (1 + np.tanh(np.float32(0.5) * chosen))  # without overflow
    return chosen
