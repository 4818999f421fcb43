"""Every objective by its name with what the tests of all of them need: settings, tensors, and a naive reference.

A reference is the equation as it stands: float64, loops or every logit at once, one process, nothing of `training`.
An objective that is registered and has no entry fails `test_every_objective_has_an_entry`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  torch's own name for it
from torch import Tensor

#: By name, as `training.objectives.loss_by_name` takes them.
Tensors = Mapping[str, Any]
#: (tensors, settings, form) -> the loss of the whole batch.
Reference = Callable[[Tensors, Mapping[str, Any], str], Tensor]


@dataclass(frozen=True)
class Entry:
    """One objective, and what the ten tests of it know."""

    name: str
    reference: Reference
    #: Each is compared with the reference.
    settings: tuple[Mapping[str, Any], ...] = ({},)
    forms: tuple[str, ...] = ("paper",)
    #: Adds the tensors that it needs to those of `basic`, drawn from the generator.
    more: Callable[[dict[str, Any], torch.Generator], dict[str, Any]] | None = None
    #: Settings with which it is CLIP where each row has one text; None: it never is.
    clip_where: Mapping[str, Any] | None = None
    #: Its value at a scale and bias of 0, of G rows with K texts each; None: none is known.
    at_chance: Callable[[int, int], float] | None = None
    #: Whether pairs that lie together cost less than random ones.
    aligns: bool = True
    #: Whether rows of one group are not pushed apart.
    spares_groups: bool = True
    #: Whether the texts of a row may change places.
    slots_alike: bool = True
    #: Whether the loss of a row depends on other rows.
    mixes_rows: bool = True


#: Tensors of the whole batch that have a row each, whatever the objective.
BY_ROW = (
    *("image", "text", "text_mask", "text_role", "text_lang", "group_id", "sample_id"),
    *("teacher_image", "teacher_text", "teacher_raw_image", "teacher_raw_text"),
    *("image_tokens", "text_tokens", "text_token_mask", "image_views", "text_views", "neg_text", "neg_mask"),
    *("raw_image", "raw_text", "noise_prob", "sample_weight", "tags"),
    *("teacher_image_views", "teacher_text_views", "teacher_image_tokens", "teacher_text_tokens", "teacher_neg_text"),
    *("masked_image_tokens", "image_token_hidden", "masked_text_tokens", "text_token_hidden"),
    *("view_tokens", "view_boxes", "teacher_view_tokens", "image_patches"),
    *("text_extra", "caption_losses", "caption_labels", "caption_logits"),
)
#: Those of them that have a row's text slots next.
BY_SLOT = (
    *("text", "text_mask", "text_role", "text_lang", "teacher_text", "raw_text", "teacher_raw_text", "noise_prob"),
    *("text_tokens", "text_token_mask", "teacher_text_tokens", "masked_text_tokens", "text_token_hidden"),
    *("text_extra", "caption_losses", "caption_labels", "caption_logits"),
)


def units(*shape: int, random: torch.Generator) -> Tensor:
    """Random unit vectors, float64, that require a gradient."""
    return F.normalize(torch.randn(*shape, generator=random, dtype=torch.float64), dim=-1).requires_grad_()


def basic(
    rows: int, slots: int, width: int, *, seed: int = 0, holes: bool = True, groups: bool = False
) -> dict[str, Any]:
    """Random tensors that every objective takes; with holes a third of the texts are missing, and one row's all."""
    random = torch.Generator().manual_seed(seed)
    mask = torch.ones(rows, slots, dtype=torch.bool)
    if holes:
        mask = torch.rand(rows, slots, generator=random) > 0.3
        mask[0] = True
        mask[1] = False
    group = torch.full((rows,), -1)
    if groups:
        group = torch.randint(-1, max(2, rows // 3), (rows,), generator=random)
    return {
        "image": units(rows, width, random=random),
        "text": units(rows, slots, width, random=random),
        "text_mask": mask,
        "group_id": group,
        "sample_id": torch.arange(rows) * 7 + 3,
        "logit_scale": torch.tensor(6.0, dtype=torch.float64, requires_grad=True),
        "logit_bias": torch.tensor(-3.0, dtype=torch.float64, requires_grad=True),
    }


def tensors_of(entry: Entry, rows: int, slots: int, width: int, **how: Any) -> dict[str, Any]:
    """`basic` with what the entry adds."""
    found = basic(rows, slots, width, **how)
    random = torch.Generator().manual_seed(1000 + how.get("seed", 0))
    return {**found, **(entry.more(found, random) if entry.more is not None else {})}


def leaves(tensors: Tensors) -> dict[str, Tensor]:
    """The tensors that require a gradient."""
    return {n: t for n, t in tensors.items() if isinstance(t, Tensor) and t.requires_grad}


def gradients(total: Tensor, of: Tensors) -> dict[str, Tensor]:
    """The gradient at each leaf; zeros where the loss does not depend on it."""
    names = leaves(of)
    if not total.requires_grad:
        return {name: torch.zeros_like(leaf) for name, leaf in names.items()}
    found = torch.autograd.grad(total, list(names.values()), allow_unused=True)
    return {n: torch.zeros_like(names[n]) if g is None else g for n, g in zip(names, found, strict=True)}
