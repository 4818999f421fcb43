"""Heads of objectives on tokens.

B rows, K text slots, P patches, L tokens, Dt width of a token.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F  # noqa: N812  torch's own name for it
from torch import Tensor, nn

from training.model import Own


class OwnScale(nn.Module):
    """A logit scale of its own: `scale` in what it makes."""

    def __init__(self) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.full((1,), math.log(1 / 0.07)))

    def forward(self, image_BD: Tensor, text_BKD: Tensor, asked: Mapping[str, Tensor] | None = None) -> Own:
        """See `Objective.heads`."""
        return Own({}, {"scale": self.log_scale.exp().sum()})


class TokenLearner(nn.Module):
    """Few tokens of many patches, each a weighted mean (TokenLearner, as Wukong has it): `tokens`, unit vectors."""

    def __init__(self, width: int, tokens: int, groups: int) -> None:
        """groups: parts of the width that are mixed each by itself; must divide it."""
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.mix = nn.Conv1d(width, width, 1, groups=groups)
        self.maps = nn.Conv1d(width, tokens, 1)
        self.features = nn.Conv1d(width, width, 1, groups=groups)

    def forward(self, image_BD: Tensor, text_BKD: Tensor, asked: Mapping[str, Tensor]) -> Own:
        """See `Objective.heads`."""
        patch_BPD = _finite(asked["image_tokens"])
        share_BNP = self.maps(self.mix(self.norm(patch_BPD).mT)).softmax(2)
        return Own({"tokens": F.normalize(share_BNP @ self.features(patch_BPD.mT).mT, dim=-1)}, {})


class LevelWeights(nn.Module):
    """The weight of each level: `levels` in what it makes, positive numbers that sum to 1."""

    def __init__(self, init: tuple[float, ...]) -> None:
        super().__init__()
        self.level_logits = nn.Parameter(torch.tensor(init).log())

    def forward(self, image_BD: Tensor, text_BKD: Tensor, asked: Mapping[str, Tensor] | None = None) -> Own:
        """See `Objective.heads`."""
        return Own({}, {"levels": self.level_logits.softmax(0)})


class Codebook(nn.Module):
    """Codes [C, d] that both sides share, and tokens projected among them: `codes`, `patches`, `words`."""

    def __init__(self, token_width: int, codes: int, width: int) -> None:
        super().__init__()
        self.codebook = nn.Parameter(torch.randn(codes, width))
        self.image = _projection(token_width, width)
        self.text = _projection(token_width, width)

    def forward(self, image_BD: Tensor, text_BKD: Tensor, asked: Mapping[str, Tensor]) -> Own:
        """See `Objective.heads`."""
        made = {
            "patches": self.image(_finite(asked["image_tokens"])),
            "words": self.text(_finite(asked["text_tokens"])),
        }
        return Own(made, {"codes": self.codebook.clone()})


def _projection(width: int, to: int) -> nn.Module:
    return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, to), nn.GELU(), nn.LayerNorm(to), nn.Linear(to, to))


class Together(nn.Module):
    """A head with a temperature of its own, or without."""

    def __init__(self, learner: nn.Module, scale: OwnScale | None) -> None:
        super().__init__()
        self.learner, self.scale = learner, scale

    def forward(self, image_BD: Tensor, text_BKD: Tensor, asked: Mapping[str, Tensor]) -> Own:
        """See `Objective.heads`."""
        made: Own = self.learner(image_BD, text_BKD, asked)
        if self.scale is None:
            return made
        more: Own = self.scale(image_BD, text_BKD, asked)
        return Own(made.rows | more.rows, made.shared | more.shared)


def _finite(tokens: Tensor) -> Tensor:
    """What is missing may hold anything, and 0·nan in the gradient of a weight would be nan."""
    return tokens.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
