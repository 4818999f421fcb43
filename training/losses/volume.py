"""How small the volume is that an image spans with the texts of a row (GRAM).

B rows, K text slots, D embedding; r images and c rows of texts of a tile.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from training.gather import Exchange
from training.losses.pair_contrast import contrast_pairs
from training.losses.pair_kernel import Logits, Pairs
from training.losses.tiles import wide
from training.precision import full_precision


def volume_loss(
    image_BD: Tensor,
    text_BKD: Tensor,
    text_mask_BK: Tensor,
    scale: Tensor,
    group_B: Tensor,
    exchange: Exchange,
    *,
    tile: tuple[int, int],
    epsilon: float,
    smoothing: float,
    detached: bool = False,
) -> Tensor:
    """Cross-entropy of minus the volumes, over rows of texts and over images.

    epsilon: added to the squares of the texts' lengths.  smoothing: of the labels, over all rows that take part.
    detached: the released code's: epsilon is 0, and each direction has a gradient in its queries only.
    """
    has_text_B = text_mask_BK.any(1)
    slots = text_mask_BK.shape[1]
    with full_precision(image_BD.device):
        image_BD = torch.where(has_text_B[:, None], wide(image_BD), 0.0)
        text_BKD = torch.where(text_mask_BK[..., None], wide(text_BKD), 0.0)

        def loss(image_BD: Tensor, text_BKD: Tensor, share: tuple[float, float]) -> Tensor:
            return contrast_pairs(
                image_BD,
                text_BKD[:, None],
                has_text_B[:, None],
                group_B,
                Pairs(_logits(epsilon, detached), _pairs_of(tile, slots, detached), smoothing),
                exchange,
                extra=text_mask_BK[:, None],
                shared=(scale,),
                share=share,
            )

        if not detached:
            return loss(image_BD, text_BKD, (0.5, 0.5))
        return loss(image_BD, text_BKD.detach(), (0.5, 0.0)) + loss(image_BD.detach(), text_BKD, (0.0, 0.5))


def _pairs_of(tile: tuple[int, int], slots: int, whole: bool) -> tuple[int, int]:
    """Rows and columns of a tile of pairs that hold as many numbers as one of `loss.tile`."""
    return (max(1, tile[0] // (slots + 1)) if whole else tile[0]), max(1, tile[1] // (slots + 1))


def _logits(epsilon: float, whole: bool) -> Logits:
    squared: Callable[[Tensor, Tensor, Tensor], Tensor] = (
        squares_of_matrices if whole else lambda *of: squares_by_schur(*of, epsilon=epsilon)
    )

    def logits(
        image_rD: Tensor, text_cKD: Tensor, mask_cK: Tensor, shared: tuple[Tensor, ...]
    ) -> tuple[Tensor, Tensor]:
        # At a volume of 0 the root has no slope; a negative square is rounding.
        square = squared(image_rD, text_cKD, mask_cK)
        found = -shared[0] * square.clamp(min=torch.finfo(square.dtype).tiny).sqrt()
        return found, found

    return logits


def squares_by_schur(image_rD: Tensor, text_cKD: Tensor, mask_cK: Tensor, *, epsilon: float) -> Tensor:
    """Squared volumes [r, c] by det(G_j) (x·x - ‖L_j⁻¹ r_ij‖²), L_j the Cholesky factor of G_j + εI: no matrix a pair.

    A missing text has a row and a column of the identity in G_j, and 0 in r_ij, which leave the volume as it is.
    """
    own_c = torch.diag_embed(torch.where(mask_cK > 0, epsilon, 1.0).to(text_cKD.dtype))
    factor_cKK = torch.linalg.cholesky(text_cKD @ text_cKD.mT + own_c)
    solved_cKr = torch.linalg.solve_triangular(factor_cKK, text_cKD @ image_rD.T, upper=False)
    rest_rc = image_rD.square().sum(1)[:, None] - solved_cKr.square().sum(1).T
    found: Tensor = factor_cKK.diagonal(dim1=1, dim2=2).prod(1).square() * rest_rc
    return found


def squares_of_matrices(image_rD: Tensor, text_cKD: Tensor, mask_cK: Tensor) -> Tensor:
    """Squared volumes [r, c], as the absolute determinants of all matrices [r, c, 1 + K, 1 + K]."""
    shape = (len(image_rD), len(text_cKD))
    between_rcK = torch.einsum("rd,ckd->rck", image_rD, text_cKD)
    gram_cKK = text_cKD @ text_cKD.mT + torch.diag_embed((mask_cK <= 0).to(text_cKD.dtype))
    first = torch.cat([image_rD.square().sum(1)[:, None, None].expand(*shape, 1), between_rcK], 2)
    rest = torch.cat([between_rcK[..., None], gram_cKK[None].expand(shape[0], -1, -1, -1)], 3)
    found: Tensor = torch.linalg.det(torch.cat([first[:, :, None], rest], 2)).abs()
    return found
