"""Tensors of a wrong shape or type never give a number: every one of every objective is refused as a RecipeError."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from entries import BY_ROW, BY_SLOT, Entry, basic, tensors_of
from every_entry import BY_NAME, ENTRIES
from torch import Tensor

from pairmill.errors import RecipeError
from training.objectives import loss_by_name
from training.objectives.by_name import BASIC, COLUMNS, NEEDS, QUEUES, TEACHER, WHEN
from training.objectives.tensor_shapes import shape_of

ROWS, SLOTS, WIDTH = 5, 3, 6
#: Tensors whose first dimension may have any size.
ANY_LENGTH = ("queue_image", "queue_text")


def everything(entry: Entry) -> dict[str, Any]:
    """What the entry needs, and all else that has a row each and that any objective may be given."""
    number = torch.arange(ROWS)
    codes = torch.zeros(ROWS, SLOTS, dtype=torch.int64)
    found = {"text_role": codes, "text_lang": codes, "noise_prob": codes.double(), "tags": number[:, None]}
    return {**found, **tensors_of(entry, ROWS, SLOTS, WIDTH)}


def wrong(name: str, value: Any) -> dict[str, Tensor]:
    """The tensor in shapes that it must not have."""
    if not isinstance(value, Tensor):
        return {"of rows": torch.ones(ROWS), "with dimensions": torch.ones(1, 1)}
    if not value.ndim:
        return {"of rows": value.expand(ROWS), "with dimensions": value[None, None]}
    found = {"with a dimension more": value[..., None]}
    if name not in ANY_LENGTH:
        found["with a row less"] = value[:-1]
    if name in BY_ROW:
        found["of one row"] = value[:1]
    if name in BY_SLOT:
        found |= {
            "with a slot less": value[:, :-1],
            "of one slot": value[:, :1],
            "with a slot more": value[:, [0, *range(SLOTS)]],
        }
    if name in ("queue_image", "queue_text"):
        found["narrower"] = value[..., :-1]
    return found


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_a_tensor_of_a_wrong_shape_is_refused(entry: Entry) -> None:
    tensors = everything(entry)
    # Those of tokens read their scale where it is their own.
    settings = entry.settings[1 if "log_scale" in str(tensors.keys()) and len(entry.settings) > 1 else 0]
    loss_by_name(entry.name, tensors, settings)
    numbers = []
    for name, value in tensors.items():
        for how, other in wrong(name, value).items():
            try:
                loss_by_name(entry.name, {**tensors, name: other}, settings)
            except RecipeError:
                continue
            numbers.append(f"{name} {how}")
    assert numbers == []


def test_every_name_has_a_shape() -> None:
    for name in (*BASIC, *TEACHER, *QUEUES, *WHEN, *COLUMNS, *(one for need in NEEDS.values() for one in need.tensors)):
        assert shape_of(name) is not None, name


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
@pytest.mark.parametrize("kind", [torch.uint8, torch.int64, torch.float32])
def test_a_mask_may_be_zeros_and_ones_of_any_type(entry: Entry, kind: torch.dtype) -> None:
    tensors = tensors_of(entry, ROWS, SLOTS, WIDTH)
    other = {n: v.to(kind) if isinstance(v, Tensor) and v.dtype == torch.bool else v for n, v in tensors.items()}
    settings = entry.settings[0]
    found = loss_by_name(entry.name, other, settings).total
    torch.testing.assert_close(found, loss_by_name(entry.name, tensors, settings).total, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"text_mask": torch.full((ROWS, SLOTS), 2)}, "text_mask must be bool, or zeros and ones"),
        ({"text_mask": torch.full((ROWS, SLOTS), torch.nan)}, "text_mask must be bool, or zeros and ones"),
        ({"group_id": torch.zeros(ROWS)}, "group_id must hold integers"),
        ({"text_role": torch.full((ROWS, SLOTS), 5)}, "text_role must be from -1 to 4"),
        ({"text_role": torch.full((ROWS, SLOTS), -2)}, "text_role must be from -1 to 4"),
        ({"sample_weight": torch.ones(ROWS)}, "sample_weight must only be given to an objective that names it"),
        ({"image": torch.zeros(ROWS, WIDTH, dtype=torch.int64)}, "image must be of floating point"),
        ({"image": np.zeros((ROWS, WIDTH))}, "image must be a tensor of torch"),
        ({"logit_scale": "100"}, "logit_scale must be a tensor of torch or a number"),
        ({"text": torch.zeros(ROWS, WIDTH)}, r"got: text \[5, 6\]; image \[5, 6\]\n.*text\[:, None\]"),
        ({"text_mask": torch.ones(ROWS, 1)}, r"\[B, K\] bool\n.*text_mask \[5, 1\]; image \[5, 6\]; text \[5, 3, 6\]"),
    ],
)
def test_what_is_said_of_a_wrong_tensor(change: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        loss_by_name("clip", {**basic(ROWS, SLOTS, WIDTH), **change})


def test_settings_are_a_mapping_without_a_name() -> None:
    with pytest.raises(RecipeError, match="without name"):
        loss_by_name("clip", basic(ROWS, SLOTS, WIDTH), {"name": "siglip"})
    with pytest.raises(RecipeError, match="settings must be a mapping"):
        loss_by_name("clip", basic(ROWS, SLOTS, WIDTH), ["smoothing"])  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match="tensors must be a mapping"):
        loss_by_name("clip", [torch.zeros(1)])  # type: ignore[arg-type]


def test_a_scale_may_have_brackets() -> None:
    tensors = tensors_of(BY_NAME["siglip"], ROWS, SLOTS, WIDTH)
    other = {**tensors, "logit_scale": tensors["logit_scale"][None], "logit_bias": tensors["logit_bias"][None]}
    assert loss_by_name("siglip", other).total == loss_by_name("siglip", tensors).total
