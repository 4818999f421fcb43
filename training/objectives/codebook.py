"""The objective `codebook`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from pairmill.registry import NamedConfig
from training.objectives.declaration import Objective, Setup

if TYPE_CHECKING:
    from torch import nn

    from training.gather import Exchange
    from training.losses.loss_inputs import LossOutput
    from training.model import Features, Rows


class CodebookConfig(NamedConfig):
    """Its codes, and how sharply they are chosen."""

    codes: int = Field(16384, ge=2, description="codes that images and texts share (FDT: 16384)")
    width: int = Field(512, ge=1, description="numbers of a code (FDT: 512)")
    token_width: int | None = Field(None, ge=1, description="width of a token; null: that of the embeddings")
    temperature: float = Field(
        1000.0, gt=0, description="what products with codes are divided by in the first step (FDT: 1000)"
    )
    decay: float = Field(
        0.3, gt=0, le=1, description="factor of that over decay_steps; 1: it stays (FDT: 0.3; its script for CC3M: 1)"
    )
    decay_steps: int = Field(2700, ge=1, description="steps (FDT: 2700)")
    lowest: float = Field(0.01, gt=0, description="where that temperature stops (FDT: 0.01)")


class Codebook(Objective):
    """Images and texts are compared as sparse mixtures of codes that they share (FDT, Chen et al. 2023).

        r_c = max over tokens of q(token)·C_c / (√d T),   w = sparsemax(r),   f = normalised Σ_c w_c C_c
        L   = InfoNCE of f_image and f_text: that of `one_to_k`
        T   = max(lowest, temperature · decay^(step/decay_steps))

    q is a projection (LayerNorm, linear, GELU, LayerNorm, linear) for each side.  The codes have no weight decay.
    Padding of texts takes no part; in the released form it is a token whose product with every code is 0.  Memory:
    products of tokens and codes tile by tile, and O(B·C) for r.  The embeddings that the run exports do not learn from
    this alone: add it to an objective that trains them.
    """

    paper = "FDT, Chen et al. 2023"
    forms = ("paper", "released")
    Config = CodebookConfig
    config: CodebookConfig
    needs = ("tokens",)
    parameters = (
        "codebook",
        *(f"{side}.{at}.{what}" for side in ("image", "text") for at in (0, 1, 3, 4) for what in ("weight", "bias")),
    )
    undecayed = ("codebook",)

    def heads(self, setup: Setup) -> nn.Module:
        """See `Objective`."""
        from training.losses.token_heads import Codebook as Head

        return Head(self.config.token_width or setup.token_width or setup.width, self.config.codes, self.config.width)

    @property
    def temperature(self) -> float:
        """T of this step."""
        config = self.config
        falling: float = config.temperature * config.decay ** (self.when.step / config.decay_steps)
        return max(config.lowest, falling)

    def __call__(self, features: Features, rows: Rows, exchange: Exchange) -> LossOutput:
        """See `Objective`."""
        import torch

        from training.losses.codes import code_features
        from training.losses.compose import compute_loss
        from training.losses.loss_inputs import LossInputs, LossOutput
        from training.losses.token_similarity import cleaned
        from training.objectives.one_to_k import OneToK, OneToKConfig

        own = features.own
        patches, words, exist = cleaned(
            own.rows["patches"], own.rows["words"], features.asked.get("text_token_mask"), rows.text_mask_BK
        )
        mask_BK = exist.any(2)
        image, text = (
            code_features(
                tokens,
                there,
                own.shared["codes"],
                self.temperature,
                at_once=self.setup.tile[0] * self.setup.tile[1],
                pads_are_zero=self.form == "released",
            )
            for tokens, there in (
                (patches, mask_BK.any(1)[:, None].expand(patches.shape[:2])),
                (words.flatten(0, 1), exist.flatten(0, 1)),
            )
        )
        inputs = LossInputs(image, text.view(*mask_BK.shape, -1), mask_BK, features.scale, None, rows.group_B)
        contrasts = OneToK(OneToKConfig(name="one_to_k")).contrasts(mask_BK)
        total = compute_loss(inputs, contrasts, exchange, tile=self.setup.tile)
        # Where no row has a text, codes are asked for a gradient nevertheless.
        total = total + 0.0 * torch.stack([image.sum(), text.sum()]).sum()
        return LossOutput(total, {self.config.name: total.detach()})
