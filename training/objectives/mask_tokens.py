"""The recipe's `loss.mask_tokens`: which tokens of a text the model does not see in a step."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pairmill.config import Config
from pairmill.errors import RecipeError
from training.objectives.declaration import Objective


class MaskTokensConfig(Config):
    """Tokens that say little about the image are left out at random (GA-DMS, Zheng et al. 2025).

    A teacher encodes image and text in the same step, and gives the importance of each token; see
    `training.token_mask`.  The paper takes it from gradients and attention of the epoch before, which a run over a
    hundred million rows would have to store.
    """

    teacher: Literal["average", "frozen"] = Field(
        "average",
        description="who says what is important: average: the moving average of the model, as of the need teacher; "
        "frozen: the model as its run began, for a model that is pretrained",
    )
    most: float = Field(0.2, gt=0, le=1, description="largest probability that a token is left out (0.2: the paper)")
    steepness: float = Field(20.0, gt=0, description="of the probability over the importance (20: the paper)")
    threshold: float = Field(
        0.9, description="unimportance at which the probability is half of the largest (0.9: the paper)"
    )


def with_token_mask(objective: Objective, config: MaskTokensConfig) -> Objective:
    """The objective of a run that leaves out tokens.

    Raises RecipeError for one that compares tokens: teacher and student would have other ones.
    """
    if tokens := {"tokens", "masked", "captions"} & set(objective.needs):
        raise RecipeError(
            "loss.mask_tokens must come with objectives that compare no tokens: those of a text would change places",
            value=f"{objective.config.name}, which needs {min(tokens)}",
            fix="leave loss.mask_tokens out, or choose other objectives",
        )
    objective.token_mask = config
    need = "teacher" if config.teacher == "average" else "frozen_teacher"
    objective.needs = tuple(dict.fromkeys((*objective.needs, need)))
    return objective
