"""Heads of objectives: small perceptrons on image and text embeddings.

A norm in a hidden layer is a layer norm, where the papers have batch norm: what a row becomes then depends on no other
row, so that micro-batches and ranks change nothing.

B rows of this rank, K text slots, D embedding, E projected.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from training.model import Own


def perceptron(widths: Sequence[int]) -> nn.Sequential:
    """Linear layers between these widths, each but the last followed by layer norm and ReLU."""
    layers: list[nn.Module] = []
    for number, (wide, narrow) in enumerate(itertools.pairwise(widths)):
        layers.append(nn.Linear(wide, narrow))
        if number < len(widths) - 2:
            layers += [nn.LayerNorm(narrow), nn.ReLU()]
    return nn.Sequential(*layers)


class Projectors(nn.Module):
    """One perceptron for images and one for texts: `image` [B, E] and `text` [B, K, E] of `Own.rows`."""

    def __init__(self, widths: Sequence[int]) -> None:
        """widths: D, those of hidden layers, E."""
        super().__init__()
        self.image, self.text = perceptron(widths), perceptron(widths)

    def forward(self, image_BD: Tensor, text_BKD: Tensor) -> Own:
        """Project."""
        return Own({"image": self.image(image_BD), "text": self.text(text_BKD)}, {})


class TextProjector(nn.Module):
    """A perceptron for texts alone, `projection`: `text` [B, K, E] of `Own.rows`."""

    def __init__(self, widths: Sequence[int]) -> None:
        """widths: D, those of hidden layers, E."""
        super().__init__()
        self.projection = perceptron(widths)

    def forward(self, image_BD: Tensor, text_BKD: Tensor) -> Own:
        """Project."""
        return Own({"text": self.projection(text_BKD)}, {})


class Predictors(nn.Module):
    """Projectors, and perceptrons that predict from one modality's projection that of the other.

    `image`, `text`: projections, [B, E] and [B, K, E]; `image_guess`, `text_guess`: what each predicts of the other.
    """

    def __init__(self, width: int, hidden: int, projected: int) -> None:
        """width: D.  projected: E."""
        super().__init__()
        self.image, self.text = (perceptron((width, hidden, projected)) for _ in range(2))
        self.image_predictor, self.text_predictor = (perceptron((projected, hidden, projected)) for _ in range(2))

    def forward(self, image_BD: Tensor, text_BKD: Tensor) -> Own:
        """Project and predict."""
        image, text = self.image(image_BD), self.text(text_BKD)
        guesses = {"image_guess": self.image_predictor(image), "text_guess": self.text_predictor(text)}
        return Own({"image": image, "text": text, **guesses}, {})


class ScaledProjectors(Projectors):
    """Projectors with a logit scale of their own, `scale` of `Own.shared`."""

    def __init__(self, widths: Sequence[int], temperature: float) -> None:
        """widths: as of Projectors.  temperature: at the start."""
        super().__init__(widths)
        self.log_scale = nn.Parameter(torch.full((1,), 1 / temperature).log())

    def forward(self, image_BD: Tensor, text_BKD: Tensor) -> Own:
        """Project."""
        return super().forward(image_BD, text_BKD)._replace(shared={"scale": self.log_scale.exp().sum()})
