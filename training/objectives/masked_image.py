"""The objective `masked_image`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from pairmill.errors import RecipeError
from pairmill.registry import NamedConfig
from training.objectives.declaration import Hides, Objective, Setup

if TYPE_CHECKING:
    from torch import nn

    from training.gather import Exchange
    from training.losses.loss_inputs import LossOutput
    from training.model import Features, Rows


class MaskedImageConfig(NamedConfig):
    """What the decoder paints."""

    patch: int | None = Field(None, ge=1, description="pixels on a side of a patch; null: the image tower's")
    image_share: float = Field(0.5, gt=0, lt=1, description="share of an image's patches that are hidden")
    patches: Literal["random", "like_text", "unlike_text"] = Field(
        "like_text", description="which patches are hidden: any, or those most or least like the row's first text"
    )


class MaskedImage(Objective):
    """What hidden patches show is painted from the patches that are seen and the words of the text (TG-MIM).

        L = mean over hidden patches of ‖decoder(v̂, w)_p - pixels_p‖² / (3 · patch²)

    v̂: patches of the masked input; w: tokens of a row's first text.  The decoder is one block: attention of patches to
    words, with one head as wide as the embeddings; a perceptron of four times the width; a linear layer to pixels.  Its
    weights are the head parameters `decoder_…`.  SyCoCa hides the half of the patches that is most like the text, by
    the cosine of the whole input.  Beside `denoise`, which shares the pass, both must hide the same.  The paper has no
    public code; its decoder has more blocks, and its weight beside `clip` is uncertain: 1.  The same in every mode.
    """

    Config = MaskedImageConfig
    config: MaskedImageConfig
    paper = "SyCoCa, Ma et al. 2024"
    needs = ("tokens", "masked", "pixels")
    optional_tensors = ("image_tokens", "masked_text_tokens", "text_token_hidden")
    parameters = (
        *("decoder_query", "decoder_key", "decoder_value", "decoder_inner", "decoder_outer"),
        "decoder_pixels",
    )

    @property
    def hides(self) -> Hides:
        """See `Objective`."""
        return Hides(self.config.image_share, None, self.config.patches)

    def heads(self, setup: Setup) -> nn.Module:
        """See `Objective`."""
        from training.losses.patch_decoder import PatchDecoder

        values = setup.patch_values if self.config.patch is None else 3 * self.config.patch**2
        return PatchDecoder(setup.width, 3 if values is None else values)

    def __call__(self, features: Features, rows: Rows, exchange: Exchange) -> LossOutput:
        """See `Objective`."""
        from training.losses.loss_inputs import LossOutput
        from training.losses.patch_decoder import decoded
        from training.losses.present import batch_mean, first_text, zeroed
        from training.losses.tiles import wide
        from training.losses.token_grids import check_width
        from training.precision import full_precision

        asked, mask_BK = features.asked, rows.text_mask_BK
        there = mask_BK.any(1)
        weights = {name: wide(value) for name, value in features.own.shared.items()}
        check_width("masked_image_tokens", asked["masked_image_tokens"], features.image_BD.shape[1])
        pixels_BPC = asked["image_patches"]
        if pixels_BPC.shape[2] != weights["pixels"].shape[1]:
            raise RecipeError(
                "loss.objective masked_image: patch must be that of the image tower",
                value=f"{self.config.patch}; a patch of the tower has {pixels_BPC.shape[2]} values",
                fix="leave loss.objective.patch out",
            )
        with full_precision(features.image_BD.device):
            hidden_BP = asked["image_token_hidden"] & there[:, None]
            words_BLD = first_text(asked["text_tokens"], mask_BK)
            known_BKL = mask_BK[..., None].expand(asked["text_tokens"].shape[:3])
            known_BL = (
                first_text((known_BKL & asked.get("text_token_mask", known_BKL)).to(words_BLD.dtype), mask_BK) > 0
            )
            patches_BPD = zeroed(asked["masked_image_tokens"], there)
            found_BPC = decoded(patches_BPD, zeroed(words_BLD, known_BL), known_BL, weights)
            losses_BP = (found_BPC - zeroed(pixels_BPC, there)).square().mean(2)
            total = batch_mean(losses_BP, hidden_BP, exchange)
        return LossOutput(total, {self.config.name: total.detach()})
