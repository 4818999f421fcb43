"""A projector of a term's own: what it sees in place of the embeddings, and the heads that it has anyway.

B rows of this rank, K text slots, D embedding, Wi and Wt widths of the image and the text tower, E projected.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812  torch's own name for it
from torch import Tensor, nn

from training.losses.tiles import wide
from training.losses.whole_batch_norm import WholeBatchNorm
from training.model import Own


class Perceptron(nn.Module):
    """Linear layers, each but the last followed by a norm and ReLU."""

    def __init__(self, widths: Sequence[int], norm: Literal["batch", "layer"]) -> None:
        """widths: of what comes in, of hidden layers, of what goes out."""
        super().__init__()
        self.linear = nn.ModuleList(nn.Linear(wide_, narrow) for wide_, narrow in itertools.pairwise(widths))
        self.norm = nn.ModuleList(
            WholeBatchNorm(width) if norm == "batch" else nn.LayerNorm(width) for width in widths[1:-1]
        )

    def forward(self, values: Tensor, there: Tensor | None) -> Tensor:
        """[*S, W] -> [*S, E].  there: bool [*S], what counts in a batch norm; layer norms need none."""
        for linear, norm in zip(self.linear, self.norm, strict=False):
            values = linear(values)
            values = F.relu(norm(values) if there is None else norm(values, there))
        projected: Tensor = self.linear[-1](values)
        return projected


class SeparateProjector(nn.Module):
    """Projected embeddings in `Own.rows` by the names of what they stand for, `scale` in `Own.shared` if it has one.

    `image` [B, E], `text` [B, K, E], and those of `further` that it is given, on the unit sphere; `raw_image` and
    `raw_text` before that.  What the heads of the objective make has `inner.` before its name.
    """

    def __init__(
        self,
        widths: tuple[int, int],
        layers: tuple[int, ...],
        norm: Literal["batch", "layer"],
        *,
        begin: str,
        further: Sequence[str],
        temperature: float | None,
        inner: nn.Module | None,
        inner_tensors: Sequence[str],
    ) -> None:
        """widths: Wi, Wt.  layers: widths of hidden layers, and E.  begin: of the names of what is projected.

        further: names of embeddings that the objective asks for beyond those of images and texts.
        inner_tensors: what its own heads, `inner`, ask for.
        """
        super().__init__()
        self.image, self.text = (Perceptron((width, *layers), norm) for width in widths)
        if temperature is not None:
            self.log_scale = nn.Parameter(torch.full((1,), 1 / temperature).log())
        self.inner = inner
        self._batch, self._own_scale, self._begin = norm == "batch", temperature is not None, begin
        self._further, self._inner_tensors = tuple(further), tuple(inner_tensors)

    def forward(self, image_BD: Tensor, text_BKD: Tensor, asked: Mapping[str, Tensor] | None = None) -> Own:
        """Project."""
        asked = asked or {}
        given = {"image": image_BD, "text": text_BKD, **asked}
        # A teacher may have been given less than the model.
        names = ("image", "text", *(name for name in self._further if self._begin + name in given))
        raw = {name: self._projected(name, given[self._begin + name], asked) for name in names}
        rows = {name: F.normalize(wide(value), dim=-1) for name, value in raw.items()}
        rows |= {"raw_image": raw["image"], "raw_text": raw["text"]}
        shared = {"scale": self.log_scale.exp().sum()} if self._own_scale else {}
        if self.inner is not None:
            # Of the type of its weights, which fp16 halves.
            seen = {**asked, **{name: value.to(image_BD.dtype) for name, value in rows.items()}}
            others = {name: seen[name] for name in self._inner_tensors if name in seen}
            made: Own = self.inner(seen["image"], seen["text"], *([others] if others else []))
            rows |= {f"inner.{name}": value for name, value in made.rows.items()}
            shared |= {f"inner.{name}": value for name, value in made.shared.items()}
        return Own(rows, shared)

    def _projected(self, name: str, values: Tensor, asked: Mapping[str, Tensor]) -> Tensor:
        there = None
        if self._batch:
            text_BK = asked["text_there"]
            # Views of a row count where it has a text; wrong texts by a mask of their own.
            there = text_BK if name == "text" else asked["neg_mask"] if name == "neg_text" else text_BK.any(1)
            if there.ndim < values.ndim - 1:
                there = there[:, None].expand(values.shape[:-1])
        perceptron = self.image if name in ("image", "image_views") else self.text
        projected: Tensor = perceptron(values, there)
        return projected
