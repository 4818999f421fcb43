"""An evaluation knows of every text which image it is of, in which language and of which kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from pairmill.errors import IntegrityError
from training.evaluate.recall import rank_variance_metrics, recall_metrics


@pytest.mark.parametrize("measure", [recall_metrics, rank_variance_metrics])
@pytest.mark.parametrize(
    ("owners", "languages", "kinds"), [(2, 3, 3), (3, 2, 3), (3, 3, 4)], ids=["image", "language", "kind"]
)
def test_texts_of_unknown_owners_are_not_measured(
    measure: Callable[..., Any], owners: int, languages: int, kinds: int
) -> None:
    with pytest.raises(IntegrityError, match=f"3, {owners}, {languages}, {kinds}"):
        measure(torch.eye(3), torch.eye(3), torch.arange(owners), ["en"] * languages, ["alt"] * kinds)
