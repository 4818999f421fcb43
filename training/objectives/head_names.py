"""Names of the parameters of heads, for objectives that are declared without torch."""

from __future__ import annotations

from collections.abc import Sequence


def perceptron_names(perceptrons: Sequence[str], layers: int) -> tuple[str, ...]:
    """Of `training.losses.projectors.perceptron`s by these names, of so many linear layers each."""
    found: list[str] = []
    for perceptron in perceptrons:
        for layer in range(layers):
            # A hidden layer is three modules: linear, norm, ReLU.
            modules = (3 * layer, 3 * layer + 1) if layer < layers - 1 else (3 * layer,)
            found += [f"{perceptron}.{module}.{part}" for module in modules for part in ("weight", "bias")]
    return tuple(found)
