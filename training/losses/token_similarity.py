"""Late interaction: how close an image and a text are by their best matching patches and tokens (FILIP).

B rows, K text slots, P patches, L tokens, Dt width of a token; r images and c texts of a tile.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from training.gather import Exchange
from training.losses.pair_contrast import columns, contrast_pairs, queries
from training.losses.pair_kernel import Pairs, pair_loss
from training.losses.tiles import wide
from training.precision import full_precision


def cleaned(
    patch_BPD: Tensor, token_BKLD: Tensor, token_mask_BKL: Tensor | None, text_mask_BK: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Patches, tokens and which of these exist, [B, K, L] bool; what is missing is zeros, whatever it held."""
    exists = text_mask_BK[..., None].expand(token_BKLD.shape[:3])
    if token_mask_BKL is not None:
        exists = exists & token_mask_BKL
    has_text = exists.any(2).any(1)
    return (
        torch.where(has_text[:, None, None], wide(patch_BPD), 0.0),
        torch.where(exists[..., None], wide(token_BKLD), 0.0),
        exists,
    )


def both_directions(
    patch_rPD: Tensor, token_cLD: Tensor, exists_cL: Tensor, shared: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor]:
    """s S^I and s S^T [r, c]: the mean over patches of the best token, and over tokens of the best patch."""
    of_image, of_text = _BestMatches.apply(patch_rPD, token_cLD, exists_cL > 0)
    return shared[0] * of_image, shared[0] * of_text


class _BestMatches(torch.autograd.Function):
    """S^I and S^T of a tile.  Backward knows where each best match was, and compares nothing again."""

    @staticmethod
    def forward(ctx: Any, patch_rPD: Tensor, token_cLD: Tensor, here_cL: Tensor) -> tuple[Tensor, Tensor]:
        cosine = (patch_rPD.flatten(0, 1) @ token_cLD.flatten(0, 1).T).view(*patch_rPD.shape[:2], *token_cLD.shape[:2])
        cosine.masked_fill_(_nothing(here_cL), -torch.inf)
        share_cL = here_cL.to(cosine.dtype) / here_cL.sum(1, keepdim=True).clamp(min=1)
        if any(ctx.needs_input_grad):
            (of_patch, token), (of_token, patch) = cosine.max(3, keepdim=True), cosine.max(1, keepdim=True)
            of_patch, of_token = of_patch.squeeze(3), of_token.squeeze(1)
            ctx.save_for_backward(patch_rPD, token_cLD, share_cL, token, patch)
        else:
            of_patch, of_token = cosine.amax(3), cosine.amax(1)
        return of_patch.mean(1), (of_token.masked_fill(~here_cL, 0.0) * share_cL).sum(2)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        patch_rPD, token_cLD, share_cL, token, patch = ctx.saved_tensors
        patches = patch_rPD.shape[1]
        slope = patch_rPD.new_zeros((*patch_rPD.shape[:2], *token_cLD.shape[:2]))
        slope.scatter_(3, token, (upstream[0] / patches)[:, None, :, None].expand_as(token))
        slope.scatter_add_(1, patch, (upstream[1][..., None] * share_cL)[:, None])
        flat = slope.view(len(patch_rPD) * patches, -1)
        d_patch = (flat @ token_cLD.flatten(0, 1)).view_as(patch_rPD)
        return d_patch, (flat.T @ patch_rPD.flatten(0, 1)).view_as(token_cLD), None


def best_of_columns(
    query_rAD: Tensor, key_cAD: Tensor, exists: Tensor, shared: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor]:
    """Similarity of which every token of the row, and some of the column, take part: [r, c], twice.

    exists: [c, A] of the columns' tokens.  The last number of each query's token tells its weight in the mean.
    """
    query, weight = query_rAD[..., :-1], query_rAD[..., -1]
    cosine = (query.flatten(0, 1) @ key_cAD.flatten(0, 1).T).view(*query.shape[:2], *key_cAD.shape[:2])
    best = cosine.masked_fill(_nothing(exists > 0), -torch.inf).amax(3)
    found = shared[0] * (best * weight[..., None]).sum(1)
    return found, found


def _nothing(exists_cL: Tensor) -> Tensor:
    """Tokens to look past: padding, except of a column that has nothing else and takes no part."""
    return ~exists_cL & exists_cL.any(1, keepdim=True)


def token_loss(
    patch_BPD: Tensor,
    token_BKLD: Tensor,
    exists_BKL: Tensor,
    scale: Tensor,
    group_B: Tensor,
    exchange: Exchange,
    *,
    tile: tuple[int, int],
    over_images_only: bool = False,
) -> Tensor:
    """One-to-K loss of S^I over texts and S^T over images.  tile: tokens of images and of texts held at a time.

    over_images_only: both similarities are contrasted over images, as x-clip does.
    """
    mask_BK = exists_BKL.any(2)
    size = _pairs_of(tile, patch_BPD.shape[1], token_BKLD.shape[2])
    with full_precision(patch_BPD.device):

        def loss(pairs: Pairs, share: tuple[float, float]) -> Tensor:
            return contrast_pairs(
                patch_BPD, token_BKLD, mask_BK, group_B, pairs, exchange, extra=exists_BKL, shared=(scale,), share=share
            )

        if not over_images_only:
            return loss(Pairs(both_directions, size), (0.5, 0.5))
        swapped = Pairs(lambda *of: both_directions(*of)[::-1], size)
        return loss(Pairs(both_directions, size), (0.0, 0.5)) + loss(swapped, (0.0, 0.5))


def selected_token_loss(
    patch_BPD: Tensor,
    token_BKLD: Tensor,
    exists_BKL: Tensor,
    scale: Tensor,
    group_B: Tensor,
    exchange: Exchange,
    *,
    tile: tuple[int, int],
    top_share: float,
) -> Tensor:
    """As `token_loss`; only the most telling tokens of each image and text reach the other ranks.

    A token's weight is the sum of its cosines with those of the other side of its own row (DeCLIP's FILIP).  The own
    side keeps all tokens: S^I is the mean over all patches of the best selected token, and S^T the reverse.
    """
    mask_BK = exists_BKL.any(2)
    valid_B = mask_BK.any(1)
    with full_precision(patch_BPD.device):
        # The sum of a token's cosines is its product with the sum of the others.
        of_patch_BP = torch.einsum("bpd,bkld->bp", patch_BPD.detach(), token_BKLD.detach().sum((1, 2), keepdim=True))
        of_token_BKL = torch.einsum("bd,bkld->bkl", patch_BPD.detach().sum(1), token_BKLD.detach())
        patch = _chosen(patch_BPD, torch.ones_like(of_patch_BP), of_patch_BP, top_share)
        token = _chosen(token_BKLD.flatten(0, 1), exists_BKL.flatten(0, 1), of_token_BKL.flatten(0, 1), top_share)
        sums = exchange.total(torch.stack([valid_B.sum(), mask_BK.sum()]).double()).clamp(min=1.0)
        positive_BK = mask_BK / mask_BK.sum(1, keepdim=True).clamp(min=1).double()
        slots = mask_BK.shape[1]
        to_text = pair_loss(
            queries(_weighed(patch_BPD, torch.ones_like(of_patch_BP)), valid_B, valid_B / sums[0], group_B, exchange),
            columns(
                token[0].view(-1, slots, *token[0].shape[1:]),
                mask_BK,
                torch.zeros_like(positive_BK),
                group_B,
                exchange,
                positive=positive_BK,
                extra=token[1].view(-1, slots, token[1].shape[1]),
            ),
            Pairs(best_of_columns, _pairs_of(tile, patch_BPD.shape[1], token[0].shape[1])),
            exchange,
            (scale,),
        )
        to_image = pair_loss(
            queries(
                _weighed(token_BKLD.flatten(0, 1), exists_BKL.flatten(0, 1).to(token_BKLD.dtype)),
                mask_BK.flatten(),
                mask_BK.flatten() / sums[1],
                group_B,
                exchange,
            ),
            columns(
                patch[0][:, None],
                valid_B[:, None],
                torch.zeros_like(positive_BK[:, :1]),
                group_B,
                exchange,
                positive=torch.ones_like(positive_BK[:, :1]),
                extra=patch[1][:, None],
            ),
            Pairs(best_of_columns, _pairs_of(tile, token_BKLD.shape[2], patch[0].shape[1])),
            exchange,
            (scale,),
        )
        return (to_text + to_image) / 2


def _pairs_of(tile: tuple[int, int], patches: int, tokens: int) -> tuple[int, int]:
    """Rows and columns of a tile of pairs, so that their tokens are those of `loss.tile`."""
    return max(1, tile[0] // patches), max(1, tile[1] // tokens)


def _chosen(token_nAD: Tensor, exists_nA: Tensor, weight_nA: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """The ⌈share·A_n⌉ tokens of most weight among the A_n of a row that exist, and which places hold one."""
    there = exists_nA > 0
    count_n = _share_of(there.sum(1), share)
    most = _share_of(torch.tensor(there.shape[1]), share).item()
    at = weight_nA.masked_fill(~there, -torch.inf).topk(int(most), dim=1).indices
    kept = torch.arange(int(most), device=at.device) < count_n[:, None]
    return token_nAD.gather(1, at[..., None].expand(-1, -1, token_nAD.shape[2])), kept


def _share_of(count: Tensor, share: float) -> Tensor:
    """⌈share·count⌉, where 0.07 of 100 is 7: binary arithmetic would make it 8."""
    return (share * count.double() - 1e-9).ceil().long()


def _weighed(token_nAD: Tensor, weight_nA: Tensor) -> Tensor:
    """Tokens with their weight in the mean over a row's as one more number."""
    mean = weight_nA / weight_nA.sum(1, keepdim=True).clamp(min=1.0)
    return torch.cat([token_nAD, mean[..., None]], 2)
