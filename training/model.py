"""The one module that DeepSpeed gets: both towers, logit scale and bias, and the objective's own parameters.

It encodes; the loss is computed from its output, so that ZeRO stage 3 gathers the scale like any other weight (R5).

B rows of this rank, K text slots, L tokens of the longest text, D embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  torch's own name for it
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from pairmill.errors import RecipeError
from pairmill.towers.build import image_statistics
from pairmill.towers.caption_decoder import NO_LABEL, check_decoder, encode_captions
from pairmill.towers.encode import encode_text
from pairmill.towers.token_features import check_tokens, encode_image_tokens, encode_text_tokens
from training.data.asked_columns import COLUMNS
from training.data.batches import Batch
from training.data.bundle import IMAGE_VIEWS, Layout
from training.losses.vocabulary import word_losses

#: Parameters of the loss that open_clip keeps in its models, scalars.
LOSS_PARAMETERS = ("logit_scale", "logit_bias")

#: Recipe's precision -> what autocast computes in.  fp16 needs loss scaling, which DeepSpeed does with half weights.
AUTOCAST = {"bf16": torch.bfloat16}


class Own(NamedTuple):
    """What an objective's heads make: new tensors, never a parameter itself."""

    rows: dict[str, Tensor]  #: [B, …] each
    shared: dict[str, Tensor]  #: the same for all rows


class Features(NamedTuple):
    """L2-normalised float32 embeddings, the loss's own parameters, and what else the objective asked for."""

    image_BD: Tensor
    text_BKD: Tensor
    scale: Tensor  #: scalar, exp of the parameter
    bias: Tensor | None
    own: Own = Own({}, {})
    teacher: Features | None = None  #: of the need `teacher`; without gradient
    frozen: Features | None = None  #: of the need `frozen_teacher`; without gradient
    asked: Mapping[str, Tensor] = {}  #: [B, …] each, the tensors of `declaration.NEEDS`

    def map(self, change: Callable[[Tensor], Tensor]) -> Features:
        """The same with every tensor changed, except the teachers'."""
        rows, shared = ({name: change(value) for name, value in values.items()} for values in self.own)
        return self._replace(
            image_BD=change(self.image_BD),
            text_BKD=change(self.text_BKD),
            scale=change(self.scale),
            bias=None if self.bias is None else change(self.bias),
            own=Own(rows, shared),
            asked={name: change(value) for name, value in self.asked.items()},
        )

    def by_row(self) -> list[Tensor]:
        """The tensors that have B rows, without the teachers'."""
        return [self.image_BD, self.text_BKD, *self.own.rows.values(), *self.asked.values()]

    def common(self) -> list[Tensor]:
        """The tensors that all rows share, without the teachers'."""
        return [self.scale, *([] if self.bias is None else [self.bias]), *self.own.shared.values()]

    @staticmethod
    def joined(parts: Sequence[Features]) -> Features:
        """Of all micro-batches, without teachers; what rows share is the first one's."""
        first = parts[0]
        rows = {name: torch.cat([part.own.rows[name] for part in parts]) for name in first.own.rows}
        return Features(
            torch.cat([part.image_BD for part in parts]),
            torch.cat([part.text_BKD for part in parts]),
            first.scale,
            first.bias,
            Own(rows, dict(first.own.shared)),
            asked={name: torch.cat([part.asked[name] for part in parts]) for name in first.asked},
        )


class Further(NamedTuple):
    """Pictures and texts of rows that are encoded beside those that are trained on anyway.  V and N may be 0."""

    images_BVHWC: Tensor  #: uint8
    views_BVL: Tensor  #: tokens of texts; of every row that has a text
    negatives_BNL: Tensor
    negative_mask_BN: Tensor  #: bool


class Rows(NamedTuple):
    """A batch, or some of its rows, on the device."""

    images_BHWC: Tensor  #: uint8
    tokens_BKL: Tensor  #: int64
    text_mask_BK: Tensor  #: bool
    group_B: Tensor  #: int64, rows of one group are no negatives of each other; -1 for none
    kind_BK: Tensor  #: int8, `training.data.texts.kind_code`; -1 for unknown
    language_BK: Tensor  #: int16, `training.data.texts.language_code`; -1 for unknown
    sample_id_B: Tensor  #: int64, names the row in the data for ever; -1 in padding
    asked: Mapping[str, Tensor] = {}  #: [B, …] each, those of `asked_columns.COLUMNS` that the objective names
    further: Further | None = None  #: of the needs `views` and `negatives`

    def part(self, here: slice) -> Rows:
        """Some of the rows."""
        return Rows(
            self.images_BHWC[here],
            self.tokens_BKL[here],
            self.text_mask_BK[here],
            self.group_B[here],
            self.kind_BK[here],
            self.language_BK[here],
            self.sample_id_B[here],
            {name: values[here] for name, values in self.asked.items()},
            None if self.further is None else Further(*(values[here] for values in self.further)),
        )


def to_device(batch: Batch, device: torch.device, layout: Layout | None = None) -> Rows:
    """The batch on the device; a row that is not valid has no text.

    layout: of its texts, as its reader says; None: they are all of the K slots.
    """
    k, views, negatives = layout or Layout(batch.tokens_BKL.shape[1])
    mask = batch.text_mask_BK & batch.row_valid_B[:, None]

    def there(array: np.ndarray[Any, Any]) -> Tensor:
        return torch.from_numpy(array).to(device, non_blocking=True)

    further = None
    if views or negatives:
        images = batch.asked.get(IMAGE_VIEWS, batch.images_BHWC[:, None][:, :0])
        views_BVL, negatives_BNL = batch.tokens_BKL[:, k : k + views], batch.tokens_BKL[:, k + views :]
        further = Further(there(images), there(views_BVL), there(negatives_BNL), there(mask[:, k + views :]))
    return Rows(
        there(batch.images_BHWC),
        there(batch.tokens_BKL[:, :k]),
        there(mask[:, :k]),
        there(batch.group_id_B),
        there(batch.kind_BK[:, :k]),
        there(batch.language_BK[:, :k]),
        there(batch.sample_id_B),
        {name: there(values) for name, values in batch.asked.items() if name in COLUMNS},
        further,
    )


class DualEncoder(nn.Module):
    """Both towers of an open_clip model, from pixels and tokens to features, and the objective's heads."""

    def __init__(
        self,
        model: nn.Module,
        precision: str,
        heads: nn.Module | None = None,
        undecayed: Sequence[str] = (),
        needs: Sequence[str] = (),
        pad_id: int = 0,
    ) -> None:
        """model: an open_clip model.  precision: the recipe's.  heads, undecayed, needs: the objective's.

        pad_id: what texts are padded with.

        Raises RecipeError for a parameter of the heads without dimensions, and for towers without tokens or a decoder
        that are needed.
        """
        super().__init__()
        # DeepSpeed 0.19 broadcasts parameters as bytes, which a tensor of no dimensions does not allow.
        for name in LOSS_PARAMETERS:
            scalar = getattr(model, name, None)
            if scalar is not None:
                setattr(model, name, nn.Parameter(scalar.detach().reshape(1), requires_grad=scalar.requires_grad))
        for name, parameter in heads.named_parameters() if heads is not None else ():
            if parameter.ndim == 0:
                raise RecipeError(
                    "a parameter of an objective's heads must have a dimension",
                    value=f"{name}: a scalar",
                    fix="make it a tensor of one element, torch.zeros(1), and return its sum()",
                )
        self.model = model
        self.heads = heads
        self.undecayed, self._pad_id = tuple(undecayed), pad_id
        self._raw, self._tokens, self._captions = (need in needs for need in ("raw", "tokens", "captions"))
        self._images_only = "image_views" in needs and "views" not in needs
        if self._tokens:
            check_tokens(model, "loss.objective")
        if self._captions:
            check_decoder(model, "loss.objective")
        self._autocast = AUTOCAST.get(precision)
        self._half = precision == "fp16"
        mean, std = image_statistics(model)
        # One multiplication and one addition a pixel, on the device: (x/255 - mean) / std.
        self._multiply = [1 / (255 * s) for s in std]
        self._add = [-m / s for m, s in zip(mean, std, strict=True)]

    def forward(self, rows: Rows) -> Features:
        """Encode images [B, H, W, 3] and the texts of all slots [B, K, L]."""
        model: Any = self.model
        with self._precision(rows.images_BHWC.device):
            image, text, asked = self._encoded(self._pixels(rows.images_BHWC), rows)
            if rows.further is not None:
                asked |= self._of_further(rows.further)
        shape = (*rows.tokens_BKL.shape[:2], -1)
        image_BD = F.normalize(image.float(), dim=-1)
        text_BKD = F.normalize(text.float(), dim=-1).view(shape)
        if self._raw:
            asked |= {"raw_image": image.float(), "raw_text": text.float().view(shape)}
        bias = getattr(model, "logit_bias", None)
        # New tensors, not the parameters: at ZeRO stage 3 those are empty outside of this method.
        scale = model.logit_scale.float().exp().sum()
        bias = None if bias is None else bias.float().sum()
        return Features(image_BD, text_BKD, scale, bias, self._own(image_BD, text_BKD, asked), asked=asked)

    def _pixels(self, images_BHWC: Tensor) -> Tensor:
        images = images_BHWC.permute(0, 3, 1, 2)
        multiply, add = (images.new_tensor(v, dtype=torch.float32)[:, None, None] for v in (self._multiply, self._add))
        pixels = torch.addcmul(add, images, multiply)
        return pixels.half() if self._half else pixels

    def _of_further(self, further: Further) -> dict[str, Tensor]:
        """Unit embeddings of further views and texts."""
        model: Any = self.model
        v = further.views_BVL.shape[1]
        tokens_BNL = torch.cat([further.views_BVL[:, v if self._images_only else 0 :], further.negatives_BNL], 1)
        asked = {}
        if v:
            image = model.encode_image(self._pixels(further.images_BVHWC.flatten(0, 1)))
            asked["image_views"] = F.normalize(image.float(), dim=-1).view(len(tokens_BNL), v, -1)
        if not tokens_BNL.shape[1]:
            return asked
        text = encode_text(model, tokens_BNL.flatten(0, 1))
        text_BND = F.normalize(text.float(), dim=-1).view(*tokens_BNL.shape[:2], -1)
        n = further.negatives_BNL.shape[1]
        views_BVD, negatives_BND = torch.split(text_BND, [tokens_BNL.shape[1] - n, n], 1)
        if views_BVD.shape[1]:
            asked["text_views"] = views_BVD
        if n:
            asked |= {"neg_text": negatives_BND, "neg_mask": further.negative_mask_BN}
        return asked

    def _encoded(self, pixels: Tensor, rows: Rows) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Embeddings of images [B, D] and of texts [B * K, D], and what else of both is needed."""
        tokens = rows.tokens_BKL.flatten(0, 1)
        with_tokens = self._with_tokens(pixels, rows) if self._tokens else None
        # A teacher, which encodes in evaluation mode, is asked for no captions.
        if self._captions and self.training:
            image, text, asked = self._captioned(pixels, rows)
            return image, text, {**asked, **(with_tokens[2] if with_tokens is not None else {})}
        if with_tokens is not None:
            return with_tokens
        model: Any = self.model
        return model.encode_image(pixels, normalize=False), encode_text(model, tokens), {}

    def _with_tokens(self, pixels: Tensor, rows: Rows) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        image = encode_image_tokens(self.model, pixels)
        text = encode_text_tokens(self.model, rows.tokens_BKL.flatten(0, 1), self._pad_id)
        words = F.normalize(text.tokens_BLD.float(), dim=-1)
        asked = {
            "image_tokens": F.normalize(image.tokens_BPD.float(), dim=-1),
            "text_tokens": words.view(*rows.tokens_BKL.shape, -1),
            "text_token_mask": text.mask_BL.view(rows.tokens_BKL.shape) & rows.text_mask_BK[..., None],
        }
        return image.image_BD, text.text_BD, asked

    def _captioned(self, pixels: Tensor, rows: Rows) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        model: Any = self.model
        found = encode_captions(model, pixels, rows.tokens_BKL.flatten(0, 1), rows.text_mask_BK.flatten())
        there_NL = found.label_NL != NO_LABEL
        states_TW = found.states_NLW[there_NL[:, : found.states_NLW.shape[1]]]
        # The vocabulary is projected to in the precision of the towers, the losses are float32.
        kind = states_TW.dtype if self._autocast is None else self._autocast
        losses_T = word_losses(
            states_TW.to(kind), model.text_decoder.text_projection.to(kind), found.label_NL[there_NL]
        )
        losses_NL = losses_T.new_zeros(there_NL.shape).masked_scatter(there_NL, losses_T)
        shape = rows.tokens_BKL.shape
        asked = {"caption_losses": losses_NL.view(shape), "caption_labels": found.label_NL.view(shape)}
        return found.image_BD, found.text_ND, asked

    def _own(self, image_BD: Tensor, text_BKD: Tensor, asked: Mapping[str, Tensor]) -> Own:
        if self.heads is None:
            return Own({}, {})
        dtype = torch.float16 if self._half else torch.float32  # DeepSpeed halves all weights that it gets
        given = [{name: v.to(dtype) if v.is_floating_point() else v for name, v in asked.items()}] if asked else []
        made: Own = self.heads(image_BD.to(dtype), text_BKD.to(dtype), *given)
        for name, value in {**made.rows, **made.shared}.items():
            if isinstance(value, nn.Parameter):
                raise RecipeError(
                    "an objective's heads must return new tensors: outside of them, ZeRO stage 3 empties a parameter",
                    value=name,
                    fix="return its clone()",
                )
        rows, shared = ({n: v.float() if v.is_floating_point() else v for n, v in part.items()} for part in made)
        return Own(rows, shared)

    def _precision(self, device: torch.device) -> AbstractContextManager[object]:
        if self._autocast is None:
            return nullcontext()
        precision = ExitStack()
        precision.enter_context(torch.autocast(device.type, self._autocast))
        precision.enter_context(self.kernels(device))
        return precision

    def kernels(self, device: torch.device) -> AbstractContextManager[object]:
        """The attention kernels of forward and backward passes, which compute checkpointed blocks again.

        A context that `torch.utils.checkpoint` does not restore, as it restores autocast; another kernel would save
        other tensors.
        """
        if self._autocast is None or device.type != "cpu":
            return nullcontext()
        # torch 2.14's fused attention takes twice to four times as long there in bfloat16, most of it backward.
        return sdpa_kernel(SDPBackend.MATH)
