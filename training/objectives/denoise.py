"""The objective `denoise`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from pairmill.registry import NamedConfig
from training.objectives.declaration import Hides, Objective

if TYPE_CHECKING:
    from torch import Tensor

    from training.gather import Exchange
    from training.losses.loss_inputs import LossOutput
    from training.model import Features, Rows


class DenoiseConfig(NamedConfig):
    """Its scale, the weight of each modality, and how much of it is hidden."""

    scale: float = Field(2.5, gt=0, description="what cosines are multiplied by; it does not learn")
    image_weight: float = Field(1.0, ge=0, description="of the hidden patches")
    text_weight: float = Field(0.5, ge=0, description="of the hidden tokens of texts")
    image_share: float = Field(0.75, gt=0, lt=1, description="share of an image's patches that are hidden")
    text_share: float = Field(0.15, gt=0, lt=1, description="share of a text's tokens that are hidden")
    patches: Literal["random", "like_text", "unlike_text"] = Field(
        "random", description="which patches are hidden: any, or those most or least like the row's first text"
    )


class Denoise(Objective):
    """A token that was hidden from the model is close to what it is when nothing is hidden, among all tokens (DCL).

        L_img = mean over hidden patches p of CE(2.5 v̂_p·[v_1 … v_GP], p);   L = 1.0 L_img + 0.5 L_txt

    v̂: of the masked input; v: of the whole input, of the same model, without gradient.  L_txt is the same of the
    tokens of texts.  Other tokens of the row are negatives too, those of other rows of its group are not.  ONE-PEACE
    adds it to `clip` at a weight of 1, with its parts of a joint encoder, which two towers have not.  There negatives
    are those of the own rank, which is mode local.  Defaults: its criterion, and the shares of its pretraining task.
    Its towers see only what is not hidden, and whole words are hidden; ours see a learned vector in place of a hidden
    token, at its position.  Memory O(G·(P + K·L)·D + tile); in mode ring with B in place of G.
    """

    Config = DenoiseConfig
    config: DenoiseConfig
    paper = "ONE-PEACE, Wang et al. 2023"
    needs = ("tokens", "masked")

    @property
    def hides(self) -> Hides:
        """See `Objective`."""
        image = self.config.image_share if self.config.image_weight else None
        return Hides(image, self.config.text_share if self.config.text_weight else None, self.config.patches)

    def __call__(self, features: Features, rows: Rows, exchange: Exchange) -> LossOutput:
        """See `Objective`."""
        import torch

        from training.losses.loss_inputs import LossOutput
        from training.precision import full_precision

        asked, mask_BK = features.asked, rows.text_mask_BK
        of_image = mask_BK.any(1)[:, None].expand(asked["image_tokens"].shape[:2])
        of_text = mask_BK[..., None].expand(asked["text_tokens"].shape[:3])
        if "text_token_mask" in asked:
            of_text = of_text & asked["text_token_mask"]
        with full_precision(features.image_BD.device):
            parts = {
                "image": self.config.image_weight
                * self._of("image", asked["image_tokens"], of_image, features, rows, exchange),
                "text": self.config.text_weight
                * self._of("text", asked["text_tokens"], of_text, features, rows, exchange),
            }
            total = torch.stack(list(parts.values())).sum()
        return LossOutput(total, {name: part.detach() for name, part in parts.items()})

    def _of(
        self, modality: str, whole: Tensor, there: Tensor, features: Features, rows: Rows, exchange: Exchange
    ) -> Tensor:
        """The loss of one modality, of tokens [B, …, Dt] and which there are, bool [B, …]."""
        from training.gather import Columns
        from training.losses.present import batch_mean, row_numbers, zeroed
        from training.losses.softmax import softmax_value
        from training.losses.tiles import Queries

        hidden = there & features.asked[f"{modality}_token_hidden"]
        found = zeroed(features.asked[f"masked_{modality}_tokens"], hidden)
        target = zeroed(whole.detach(), there)
        each = there[0].numel()
        number, group = (
            ids.repeat_interleave(each) for ids in (row_numbers(len(there), exchange, there.device), rows.group_B)
        )
        count = exchange.total(hidden.sum().double()).clamp(min=1).to(found.dtype)
        at = hidden.flatten().nonzero()[:, 0]
        query = found.flatten(0, -2)[at]
        queries = Queries(query, query.new_ones(len(at)).bool(), query.new_ones(len(at)) / count, number[at], group[at])
        key, valid = target.flatten(0, -2), there.flatten()
        columns = Columns(key, valid, key.new_zeros(len(key)), number, group)
        scale = key.new_tensor(self.config.scale)
        value = softmax_value(queries, columns, scale, exchange=exchange, tile=self.setup.tile)
        return value - batch_mean(scale * (found * target).sum(-1), hidden, exchange)
