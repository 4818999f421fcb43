"""Batch norm whose statistics are those of the whole batch: of all ranks, and of what is there.

n places of this rank, C channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.gather import Gather
from training.losses.tiles import wide


class WholeBatchNorm(nn.Module):
    """Batch norm (Ioffe and Szegedy 2015) over the valid places of all ranks, with scale and shift by channel.

    The mean over ranks of a loss has the gradients of one process on the whole batch, as with torch's SyncBatchNorm,
    which cannot leave places out.  There are no running statistics: it is for heads that nothing but training uses, and
    a teacher normalises by its own batch too.
    """

    def __init__(self, channels: int, epsilon: float = 1e-5) -> None:
        """epsilon: added to the variance (1e-5: torch's)."""
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self._epsilon = epsilon

    def forward(self, values: Tensor, there: Tensor) -> Tensor:
        """[*S, C] normalised; `there`: bool [*S], what counts.  A collective call, and so is its backward pass.

        What does not count may hold anything; it comes out finite.
        """
        exchange = Gather()
        flat_nC = torch.where(there[..., None], wide(values), 0.0).flatten(0, -2)
        there_n1 = there.flatten()[:, None]
        count = exchange.total(there_n1.sum()).clamp(min=1).to(flat_nC.dtype)
        centred_nC = torch.where(there_n1, flat_nC - exchange.summed(flat_nC.sum(0)) / count, 0.0)
        variance_C = exchange.summed(centred_nC.square().sum(0)) / count
        normed_nC = centred_nC * (variance_C + self._epsilon).rsqrt()
        return (normed_nC.to(values.dtype) * self.weight + self.bias).view(values.shape)
