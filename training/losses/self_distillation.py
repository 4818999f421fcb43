"""A teacher's softmax over learnt prototypes, predicted by a student that sees less (DINO, Caron et al. 2021).

B rows of this rank, K text slots, V views or patches of a row, D embedding, E projected, C prototypes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import torch
import torch.nn.functional as F  # noqa: N812  torch's own name for it
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from training.losses.projectors import perceptron
from training.losses.tiles import wide
from training.model import Own
from training.precision import full_precision


class PrototypeHead(nn.Module):
    """A perceptron, `head`, whose output has norm 1, and `prototypes` [C, E], of which the directions count."""

    def __init__(self, widths: Sequence[int], prototypes: int, names: Sequence[str]) -> None:
        """widths: D, those of hidden layers, E.  names: what is projected, `image` or a tensor of a need."""
        super().__init__()
        self.head = perceptron(widths)
        self.prototypes = nn.Parameter(torch.randn(prototypes, widths[-1]) / widths[-1] ** 0.5)
        self._names = tuple(names)

    def forward(self, image_BD: Tensor, text_BKD: Tensor, asked: Mapping[str, Tensor] | None = None) -> Own:
        """What there is of the names [B, …, E], and `prototypes` of norm 1."""
        found = {"image": image_BD, **(asked or {})}
        rows = {name: F.normalize(self.head(found[name]), dim=-1) for name in self._names if name in found}
        return Own(rows, {"prototypes": F.normalize(self.prototypes, dim=-1)})


def prediction_losses(
    student_BVE: Tensor,
    taught_BE: Tensor,
    prototypes: tuple[Tensor, Tensor],
    centre_C: Tensor,
    temperatures: tuple[float, float],
    most: int,
) -> Tensor:
    """-Σ_c p_ic log q_ivc [B, V]; q, p: the softmax of student and teacher over the prototypes.

    prototypes [C, E], temperatures: the student's, the teacher's.  The teacher's logits are less `centre_C`, and get no
    gradient.  No more than `most` logits exist at a time, or those of one row; they are computed again backward.
    """
    student_BVE, taught_BE, centre_C = wide(student_BVE), wide(taught_BE), wide(centre_C)
    own_CE, its_CE = (wide(one) for one in prototypes)
    rows = max(1, most // (student_BVE.shape[1] * len(centre_C)))
    again = partial(checkpoint, _cross_entropies, use_reentrant=False, preserve_rng_state=False)
    compute = again if rows < len(student_BVE) else _cross_entropies
    parts = zip(torch.split(student_BVE, rows), torch.split(taught_BE, rows), strict=True)
    losses = [compute(student, taught, own_CE, its_CE, centre_C, temperatures) for student, taught in parts]
    return torch.cat(losses)


def _cross_entropies(
    student_BVE: Tensor,
    taught_BE: Tensor,
    own_CE: Tensor,
    its_CE: Tensor,
    centre_C: Tensor,
    temperatures: tuple[float, float],
) -> Tensor:
    with full_precision(student_BVE.device):
        with torch.no_grad():
            target_BC = ((taught_BE @ its_CE.T - centre_C) / temperatures[1]).softmax(1)
        shares_BVC = (student_BVE @ own_CE.T / temperatures[0]).log_softmax(2)
        return -torch.einsum("bc,bvc->bv", target_BC, shares_BVC)


def moved_centre(centre_C: Tensor, mean_E: Tensor, prototypes_CE: Tensor, momentum: float) -> Tensor:
    """momentum · centre + (1 - momentum) · mean logits of the teacher; mean_E: of what it projected."""
    with full_precision(mean_E.device):
        mean_C = wide(prototypes_CE) @ mean_E.to(wide(prototypes_CE).dtype)
    return (momentum * centre_C + (1 - momentum) * mean_C).to(centre_C.dtype)
