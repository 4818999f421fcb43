"""A decoder that paints patches of an image, from tokens of the image and words of its text.

B rows of this rank, P patches, L words, D embedding, C values of a patch.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F  # noqa: N812  torch's own name for it
from torch import Tensor, nn

from training.model import Own


class PatchDecoder(nn.Module):
    """The weights of one block: attention to words, a perceptron of four times the width, a linear layer to pixels."""

    def __init__(self, width: int, values: int) -> None:
        """width: D.  values: of a patch, C."""
        super().__init__()
        square = (width, width)
        shapes = {"query": square, "key": square, "value": square, "inner": (width, 4 * width)}
        for name, (rows, columns) in {**shapes, "outer": (4 * width, width), "pixels": (width, values)}.items():
            self.register_parameter(f"decoder_{name}", nn.Parameter(torch.randn(rows, columns) / rows**0.5))

    def forward(self, image_BD: Tensor, text_BKD: Tensor, asked: Mapping[str, Tensor] | None = None) -> Own:
        """The weights, by their names without `decoder_`."""
        return Own({}, {name.removeprefix("decoder_"): value.clone() for name, value in self.named_parameters()})


def decoded(patches_BPD: Tensor, words_BLD: Tensor, known_BL: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
    """What each patch shows [B, P, C].  known: the words that exist; patches of a row without any attend to nothing."""
    query_BPD, key_BLD = patches_BPD @ weights["query"], words_BLD @ weights["key"]
    logits_BPL = query_BPD @ key_BLD.transpose(1, 2) / query_BPD.shape[2] ** 0.5
    # Where no word is known all weigh alike, and all are 0.
    some = known_BL | ~known_BL.any(1, keepdim=True)
    attention_BPL = logits_BPL.masked_fill(~some[:, None], -torch.inf).softmax(2)
    patches_BPD = patches_BPD + attention_BPL @ (words_BLD @ weights["value"])
    patches_BPD = patches_BPD + F.gelu(patches_BPD @ weights["inner"]) @ weights["outer"]
    return patches_BPD @ weights["pixels"]
