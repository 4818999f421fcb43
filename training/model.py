"""The one module that DeepSpeed is given: both towers, logit scale and bias.

It encodes; the loss is made of what it returns, so that ZeRO stage 3 gathers the scale like any other weight (R5).

B rows of this rank, K text slots, L tokens of the longest text, D embedding.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812  torch's own name for it
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from training.data.batches import Batch
from training.towers.build import image_statistics
from training.towers.encode import encode_text

#: Parameters of the loss that open_clip keeps in its models, scalars.
LOSS_PARAMETERS = ("logit_scale", "logit_bias")

#: Recipe's precision -> what autocast computes in.  fp16 needs loss scaling, which DeepSpeed does with half weights.
AUTOCAST = {"bf16": torch.bfloat16}


class Features(NamedTuple):
    """L2-normalised float32 embeddings, and the loss's own parameters."""

    image_BD: Tensor
    text_BKD: Tensor
    scale: Tensor  #: scalar, exp of the parameter
    bias: Tensor | None


class Rows(NamedTuple):
    """A batch, or some of its rows, on the device."""

    images_BHWC: Tensor  #: uint8
    tokens_BKL: Tensor  #: int64
    text_mask_BK: Tensor  #: bool
    group_B: Tensor  #: int64

    def part(self, here: slice) -> Rows:
        """Some of the rows."""
        return Rows(*(values[here] for values in self))


def to_device(batch: Batch, device: torch.device) -> Rows:
    """The batch on the device; a row that is not valid has no text."""
    mask = batch.text_mask_BK & batch.row_valid_B[:, None]
    arrays = (batch.images_BHWC, batch.tokens_BKL, mask, batch.group_id_B)
    return Rows(*(torch.from_numpy(array).to(device, non_blocking=True) for array in arrays))


class DualEncoder(nn.Module):
    """Both towers of an open_clip model, from pixels and tokens to features."""

    def __init__(self, model: nn.Module, precision: str) -> None:
        """model: an open_clip model.  precision: the recipe's."""
        super().__init__()
        # DeepSpeed 0.19 broadcasts parameters as bytes, which a tensor of no dimensions does not allow.
        for name in LOSS_PARAMETERS:
            scalar = getattr(model, name, None)
            if scalar is not None:
                setattr(model, name, nn.Parameter(scalar.detach().reshape(1), requires_grad=scalar.requires_grad))
        self.model = model
        self._autocast = AUTOCAST.get(precision)
        self._half = precision == "fp16"
        mean, std = image_statistics(model)
        # One multiplication and one addition a pixel, on the device: (x/255 - mean) / std.
        self._multiply = [1 / (255 * s) for s in std]
        self._add = [-m / s for m, s in zip(mean, std, strict=True)]

    def forward(self, rows: Rows) -> Features:
        """Encode images [B, H, W, 3] and the texts of all slots [B, K, L]."""
        model: Any = self.model
        images = rows.images_BHWC.permute(0, 3, 1, 2)
        multiply, add = (images.new_tensor(v, dtype=torch.float32)[:, None, None] for v in (self._multiply, self._add))
        pixels = torch.addcmul(add, images, multiply)
        with self._precision(pixels.device):
            image = model.encode_image(pixels.half() if self._half else pixels)
            text = encode_text(model, rows.tokens_BKL.flatten(0, 1))
        image_BD = F.normalize(image.float(), dim=-1)
        text_BKD = F.normalize(text.float(), dim=-1).view(*rows.tokens_BKL.shape[:2], -1)
        bias = getattr(model, "logit_bias", None)
        # New tensors, not the parameters: at ZeRO stage 3 those are empty outside of this method.
        scale = model.logit_scale.float().exp().sum()
        return Features(image_BD, text_BKD, scale, None if bias is None else bias.float().sum())

    def _precision(self, device: torch.device) -> AbstractContextManager[object]:
        if self._autocast is None:
            return nullcontext()
        precision = ExitStack()
        precision.enter_context(torch.autocast(device.type, self._autocast))
        if device.type == "cpu":
            # torch 2.14's fused attention takes twice to four times as long there in bfloat16, most of it backward.
            precision.enter_context(sdpa_kernel(SDPBackend.MATH))
        return precision
