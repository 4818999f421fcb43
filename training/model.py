"""The one module that DeepSpeed gets: both towers, logit scale and bias, and the objective's own parameters.

It encodes; the loss is computed from its output, so that ZeRO stage 3 gathers the scale like any other weight (R5).

B rows of this rank, K text slots, L tokens of the longest text, D embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  torch's own name for it
from open_clip.hf_model import HFTextEncoder
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from pairmill.errors import RecipeError
from pairmill.towers.build import image_statistics
from pairmill.towers.caption_decoder import NO_LABEL, check_decoder, encode_captions
from pairmill.towers.corner_tokens import CornerTokens, encode_text_corners
from pairmill.towers.encode import encode_image, encode_text, text_tower
from pairmill.towers.token_features import (
    ImageTokens,
    TextTokens,
    check_every_patch,
    check_tokens,
    encode_image_tokens,
    encode_images_from_some,
    encode_text_tokens,
    patches_of,
    tower_widths,
)
from training.data.asked_columns import COLUMNS, NOISE
from training.data.batches import Batch
from training.data.bundle import IMAGE_VIEWS, Layout
from training.data.strong_views import CROP_BOXES, IMAGE_CROPS
from training.losses.vocabulary import word_losses
from training.objectives.declaration import EVERY_PATCH, NEEDS, Hides
from training.token_hiding import MaskTokens, hidden_tokens, likeness

#: Parameters of the loss that open_clip keeps in its models, scalars.
LOSS_PARAMETERS = ("logit_scale", "logit_bias")

#: The tensors of `Features.asked` that have the K text slots, [B, K, …].
SLOT_TENSORS = (
    *("raw_text", "text_tokens", "text_token_mask", "masked_text_tokens", "text_token_hidden"),
    *("text_extra", "tower_text", "text_there", "caption_losses", "caption_labels"),
)

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

    def with_slots(self, slots: Sequence[int]) -> Features:
        """The same with these of the K text slots; what heads made of them stays."""
        which = list(slots)
        return self._replace(
            text_BKD=self.text_BKD[:, which],
            asked={name: v[:, which] if name in SLOT_TENSORS else v for name, v in self.asked.items()},
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


class Crops(NamedTuple):
    """Two crops of each row's image, for the need `view_tokens`."""

    images_BVHWC: Tensor  #: uint8
    boxes_BV4: Tensor  #: float32, where they lie in the image: see `training.data.strong_views`


class KeptPatches(NamedTuple):
    """Which images are encoded from some of their patches, and from which.  See `training.patch_keeping`."""

    few_B: Tensor  #: bool
    patches_BN: Tensor  #: int64, numbers of patches


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
    crops: Crops | None = None  #: of the need `view_tokens`
    draw_B: Tensor | None = None  #: int64, `token_hiding.drawn`, of the need `masked`; None: nothing is hidden
    kept: KeptPatches | None = None  #: of `train.patch_keeping`; None: every patch is
    dataset_B: Tensor | None = None  #: int64, number of the row's dataset in `data.datasets`; None: there is one

    def with_slots(self, slots: Sequence[int]) -> Rows:
        """The same rows with these of their K text slots."""
        which = list(slots)
        return self._replace(
            tokens_BKL=self.tokens_BKL[:, which],
            text_mask_BK=self.text_mask_BK[:, which],
            kind_BK=self.kind_BK[:, which],
            language_BK=self.language_BK[:, which],
            asked={name: v[:, which] if name == NOISE else v for name, v in self.asked.items()},
        )

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
            None if self.crops is None else Crops(*(values[here] for values in self.crops)),
            None if self.draw_B is None else self.draw_B[here],
            None if self.kept is None else KeptPatches(*(values[here] for values in self.kept)),
            None if self.dataset_B is None else self.dataset_B[here],
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
        Crops(there(batch.asked[IMAGE_CROPS]), there(batch.asked[CROP_BOXES])) if IMAGE_CROPS in batch.asked else None,
        dataset_B=there(batch.dataset_B) if batch.dataset_B is not None else None,
    )


def check_needs(model: nn.Module, needs: Collection[str], why: str) -> None:
    """Raise RecipeError for towers that cannot give what an objective needs.  why: who it is."""
    of_texts = {"tokens", "masked"} & set(needs)
    if of_texts or "pixels" in needs or "view_tokens" in needs:
        check_tokens(model, why, texts=bool(of_texts))
    if "tower" in needs:
        check_tokens(model, "a projector with input tower", "input: embedding for the projectors of loss.terms")
    if set(EVERY_PATCH) & set(needs):
        check_every_patch(model, why)
    if "captions" in needs:
        check_decoder(model, why)


class DualEncoder(nn.Module):
    """Both towers of an open_clip model, from pixels and tokens to features; corner tokens; the objective's heads."""

    def __init__(
        self,
        model: nn.Module,
        precision: str,
        heads: nn.Module | None = None,
        undecayed: Sequence[str] = (),
        needs: Sequence[str] = (),
        hides: Hides | None = None,
        corners: CornerTokens | None = None,
        pad_id: int | None = None,
    ) -> None:
        """model: an open_clip model.  precision: the recipe's.  heads, undecayed, needs, hides: the objective's.

        corners: for the need `text_extra`.  pad_id: what texts are padded with; None: what their tower says.

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
        self.corners = corners
        self.undecayed = tuple(undecayed)
        self.pad_id = _pad_id(model) if pad_id is None else pad_id
        self._needs = frozenset(needs)
        self._images_only = "image_views" in needs and "views" not in needs
        check_needs(model, needs, "loss.objective")
        self.mask_tokens = MaskTokens(tower_widths(model), hides or Hides()) if "masked" in needs else None
        self._autocast = AUTOCAST.get(precision)
        self._half = precision == "fp16"
        mean, std = image_statistics(model)
        # One multiplication and one addition a pixel, on the device: (x/255 - mean) / std.
        self._multiply = [1 / (255 * s) for s in std]
        self._add = [-m / s for m, s in zip(mean, std, strict=True)]

    def forward(self, rows: Rows, tokens: bool = False) -> Features:
        """Encode images [B, H, W, 3] and the texts of all slots [B, K, L].

        tokens: with those of the need `tokens`, which the heads do not see if the objective has no such need.
        """
        model: Any = self.model
        with self._precision(rows.images_BHWC.device):
            pixels = self._pixels(rows.images_BHWC)
            image, text, found = self._encoded(pixels, rows, tokens)
            asked = dict(found)
            if self.mask_tokens is not None:
                asked |= hidden_tokens(model, self.mask_tokens, pixels, rows, text, asked, pad_id=self.pad_id)
            if "tokens" not in self._needs:
                asked = {name: value for name, value in asked.items() if name not in NEEDS["tokens"].tensors}
            found = found if tokens else {}
            if "pixels" in self._needs:
                asked["image_patches"] = patches_of(model, pixels.float())
            if rows.further is not None:
                asked |= self._of_further(rows.further)
            if rows.crops is not None:
                asked |= self._of_crops(rows.crops)
        shape = (*rows.tokens_BKL.shape[:2], -1)
        image_BD = F.normalize(image.float(), dim=-1)
        text_BKD = F.normalize(text.float(), dim=-1).view(shape)
        if "raw" in self._needs:
            asked |= {"raw_image": image.float(), "raw_text": text.float().view(shape)}
        if "present" in self._needs:
            asked["text_there"] = rows.text_mask_BK
        bias = getattr(model, "logit_bias", None)
        # New tensors, not the parameters: at ZeRO stage 3 those are empty outside of this method.
        scale = model.logit_scale.float().exp().sum()
        bias = None if bias is None else bias.float().sum()
        return Features(image_BD, text_BKD, scale, bias, self._own(image_BD, text_BKD, asked), asked=found | asked)

    def likeness(self, rows: Rows) -> Tensor:
        """Cosine of each patch of an image with the first text of its row [B, P]."""
        with self._precision(rows.images_BHWC.device):
            patches = encode_image_tokens(self.model, self._pixels(rows.images_BHWC)).tokens_BPD
            text = encode_text(self.model, rows.tokens_BKL.flatten(0, 1))
        return likeness(F.normalize(patches.float(), dim=-1), text, rows.text_mask_BK)

    def _pixels(self, images_BHWC: Tensor) -> Tensor:
        images = images_BHWC.permute(0, 3, 1, 2)
        multiply, add = (images.new_tensor(v, dtype=torch.float32)[:, None, None] for v in (self._multiply, self._add))
        pixels = torch.addcmul(add, images, multiply)
        return pixels.half() if self._half else pixels

    def _of_further(self, further: Further) -> dict[str, Tensor]:
        """Unit embeddings of further views and texts, and what the towers give of them if it is needed."""
        v, n = further.views_BVL.shape[1], further.negatives_BNL.shape[1]
        tokens_BNL = torch.cat([further.views_BVL[:, v if self._images_only else 0 :], further.negatives_BNL], 1)
        shape, asked = (*tokens_BNL.shape[:2], -1), {}
        if shape[1]:
            text, tower = self._text(tokens_BNL.flatten(0, 1))
            of_texts = {"": F.normalize(text.float(), dim=-1).view(shape)}
            if tower is not None:
                of_texts["tower_"] = tower.float().view(shape)
            for begin, text_BND in of_texts.items():
                views_BVD, negatives_BND = torch.split(text_BND, [shape[1] - n, n], 1)
                if shape[1] > n:
                    asked[f"{begin}text_views"] = views_BVD
                if n:
                    asked[f"{begin}neg_text"] = negatives_BND
        if n:
            asked["neg_mask"] = further.negative_mask_BN
        if v:
            image, tower = self._image(self._pixels(further.images_BVHWC.flatten(0, 1)))
            asked["image_views"] = F.normalize(image.float(), dim=-1).view(len(tokens_BNL), v, -1)
            if tower is not None:
                asked["tower_image_views"] = tower.float().view(len(tokens_BNL), v, -1)
        return asked

    def _image(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Embeddings of images, and what their tower gives before its projection if that is needed."""
        if "tower" not in self._needs:
            return encode_image(self.model, pixels), None
        found = encode_image_tokens(self.model, pixels)
        return found.image_BD, found.tower_BW

    def _text(self, tokens: Tensor) -> tuple[Tensor, Tensor | None]:
        """As `_image`, of texts."""
        if "tower" not in self._needs:
            return encode_text(self.model, tokens), None
        found = encode_text_tokens(self.model, tokens, pad_id=self.pad_id)
        return found.text_BD, found.tower_BW

    def _encoded(self, pixels: Tensor, rows: Rows, tokens: bool) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Embeddings of images [B, D] and of texts [B * K, D], and what else of both is needed, or wanted as tokens."""
        ids = rows.tokens_BKL.flatten(0, 1)
        image_BD, text_BD, asked = self._with_texts(pixels, rows)
        if tokens or self._needs & {"tokens", "masked", "tower"}:
            image = encode_image_tokens(self.model, pixels)
            text = encode_text_tokens(self.model, ids, pad_id=self.pad_id)
            image_BD = image.image_BD if image_BD is None else image_BD
            text_BD = text.text_BD if text_BD is None else text_BD
            if "tower" in self._needs:
                text_BKW = text.tower_BW.float().view(*rows.tokens_BKL.shape[:2], -1)
                asked |= {"tower_image": image.tower_BW.float(), "tower_text": text_BKW}
            if tokens or self._needs & {"tokens", "masked"}:
                asked |= _units(image, text, rows)
        if image_BD is None:
            model, kept = self.model, rows.kept
            image_BD = encode_image(model, pixels) if kept is None else encode_images_from_some(model, pixels, *kept)
        return image_BD, encode_text(self.model, ids) if text_BD is None else text_BD, asked

    def _with_texts(self, pixels: Tensor, rows: Rows) -> tuple[Tensor | None, Tensor | None, dict[str, Tensor]]:
        """What comes with captions or corner tokens: embeddings of images and texts, None of what does not; the need's.

        A teacher, which encodes in evaluation mode, is asked for no captions.
        """
        if "captions" in self._needs and self.training:
            return self._captioned(pixels, rows)
        if self.corners is None:
            return None, None, {}
        text_BD, extra = encode_text_corners(self.model, rows.tokens_BKL.flatten(0, 1), self.corners())
        extra_BmD = F.normalize(extra.float(), dim=-1)
        return None, text_BD, {"text_extra": extra_BmD.view(*rows.tokens_BKL.shape[:2], *extra_BmD.shape[1:])}

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

    def _of_crops(self, crops: Crops) -> dict[str, Tensor]:
        """Unit vectors of the patches of crops, and where these lie."""
        found = encode_image_tokens(self.model, self._pixels(crops.images_BVHWC.flatten(0, 1))).tokens_BPD
        tokens = F.normalize(found.float(), dim=-1).view(*crops.images_BVHWC.shape[:2], *found.shape[1:])
        return {"view_tokens": tokens, "view_boxes": crops.boxes_BV4}

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


def _pad_id(model: nn.Module) -> int:
    """The id of padding in texts, by their tower."""
    tower = text_tower(model)
    found = tower.config.pad_token_id if isinstance(tower, HFTextEncoder) else getattr(tower, "pad_id", 0)
    return int(found or 0)


def _units(image: ImageTokens, text: TextTokens, rows: Rows) -> dict[str, Tensor]:
    """The tensors of the need `tokens`."""
    words = F.normalize(text.tokens_BLD.float(), dim=-1)
    return {
        "image_tokens": F.normalize(image.tokens_BPD.float(), dim=-1),
        "text_tokens": words.view(*rows.tokens_BKL.shape, -1),
        "text_token_mask": text.mask_BL.view(rows.tokens_BKL.shape) & rows.text_mask_BK[..., None],
    }
