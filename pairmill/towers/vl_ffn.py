"""Feed-forward heads over both towers: some of each modality's own, then some that both share (VL-FFN of M2-Encoder).

    y = x + W₂ gelu(W₁ norm(x))                  a layer; x: an embedding, W₂ = 0 and b₂ = 0 at the start
    image: x → image layers → shared layers      text: x → text layers → shared layers

After BEiT-3's multiway transformer (Wang et al. 2023) and M2-Encoder (Guo et al. 2024), whose shared layers attend over
tokens too and come before the projection; here a layer sees one vector, so that it costs nearly nothing.  The outcome
is the model's embedding; M2-Encoder also contrasts what its towers give without the shared layers.  At the start the
heads change nothing, so that a model can begin from towers that were trained without them.

D embedding.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch.nn.functional as F  # noqa: N812  torch's own name for it
from torch import Tensor, nn

from pairmill.towers.config import VlFfnConfig

#: The module's name in a model, and the key of a model folder's configuration.
VL_FFN = "vl_ffn"

Modality = Literal["image", "text"]


class Layer(nn.Module):
    """One feed-forward layer with a residual connection."""

    def __init__(self, width: int, hidden: int) -> None:
        """width: D."""
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)
        nn.init.zeros_(self.down.weight)
        nn.init.zeros_(self.down.bias)

    def forward(self, x: Tensor) -> Tensor:
        """[*, D] -> [*, D]."""
        changed: Tensor = x + self.down(F.gelu(self.up(self.norm(x))))
        return changed


class VlFfn(nn.Module):
    """The heads of a model."""

    def __init__(self, width: int, config: VlFfnConfig) -> None:
        """width: D."""
        super().__init__()
        hidden = int(config.ratio * width)
        self.image, self.text, self.shared = (
            nn.Sequential(*(Layer(width, hidden) for _ in range(number)))
            for number in (config.own_layers, config.own_layers, config.shared_layers)
        )

    def forward(self, x: Tensor, modality: Modality) -> Tensor:
        """Embeddings, or tokens in their space, [*, D] -> [*, D]."""
        own = self.image if modality == "image" else self.text
        found: Tensor = self.shared(own(x))
        return found


def add_heads(model: nn.Module, width: int, config: Mapping[str, Any] | None) -> None:
    """Give a model its heads, if it has any.  config: of `VlFfnConfig`."""
    if config:
        model.add_module(VL_FFN, VlFfn(width, VlFfnConfig.checked(dict(config), at="model.vl_ffn")))


def through_heads(model: nn.Module, x: Tensor, modality: Modality) -> Tensor:
    """What a model's heads make of its towers' embeddings or tokens [*, D]; the same where it has none."""
    heads = getattr(model, VL_FFN, None)
    return x if heads is None else heads(x, modality)
