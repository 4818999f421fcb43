"""Attentive patch keeping: of some images, the image tower sees only the patches that are most like the text.

    rows         each with probability `rows`, drawn anew in every step
    kept         round(share · P) of its patches, by their cosine with the first text of the row
    who judges   the moving average of the model, which sees all patches

SyCoCa (Ma et al. 2024) keeps such patches as cues for its captions.  An image tower that gets fewer patches is FLIP's
(Li et al. 2023), which draws them.  The other rows are encoded whole: evaluation shows the model whole images.

B rows of this rank, P patches, N kept ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from training.model import DualEncoder, KeptPatches, Rows
from training.token_hiding import drawn, numbers

if TYPE_CHECKING:
    from training.recipe import PatchKeepingConfig

#: The place of a row's number, beyond those of its patches and words.
_ROW = 2**31


class Judge(nn.Module):
    """How like each patch of an image is to the first text of its row, as a DualEncoder sees both."""

    def __init__(self, encoder: DualEncoder) -> None:
        """encoder: whose weights may be replaced by those of `encoder.…`, as `torch.func.functional_call` does."""
        super().__init__()
        self.encoder = encoder

    def forward(self, rows: Rows) -> Tensor:
        """Cosines [B, P]."""
        return self.encoder.likeness(rows)


def with_kept(rows: Rows, likeness_BP: Tensor, config: PatchKeepingConfig, seed: int, step: int) -> Rows:
    """The rows, some of which are to be encoded from their likest patches.  seed: of the run."""
    patches = likeness_BP.shape[1]
    number_B = numbers(drawn(seed, step, rows.sample_id_B), rows.sample_id_B.new_tensor([_ROW]))[:, 0]
    count = min(max(1, round(config.share * patches)), patches)
    # Earlier patches first where they are equal; and in their order in the image.
    chosen_BN = likeness_BP.argsort(dim=1, descending=True, stable=True)[:, :count].sort(dim=1).values
    return rows._replace(kept=KeptPatches(number_B < config.rows * 2**32, chosen_BN))
