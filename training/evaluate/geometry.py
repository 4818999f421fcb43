"""Geometry of the two embedding clouds: modality gap, alignment, uniformity, effective rank.

Everything is O(N·D + D²) in memory; uniformity is O(N²·D) in time and looks at no more than `max_rows` rows.
Shapes: N images, M texts, P positive pairs, D embedding; rows are float32 unit vectors.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from training.precision import full_precision

CHUNK = 2048


@torch.inference_mode()
def geometry_metrics(image_ND: Tensor, text_MD: Tensor, image_P: Tensor, text_P: Tensor) -> dict[str, float]:
    """All of this file; image_P, text_P (int64) are the positive pairs as rows of the two matrices."""
    metrics = {
        "modality_gap": modality_gap(image_ND, text_MD),
        "alignment": alignment(image_ND, text_MD, image_P, text_P),
    }
    for name, rows in (("image", image_ND), ("text", text_MD)):
        metrics[f"effective_rank_{name}"] = effective_rank(rows)
        if len(rows) > 1:
            metrics[f"uniformity_{name}"] = uniformity(rows)
    return metrics


def modality_gap(image_ND: Tensor, text_MD: Tensor) -> float:
    """Distance of the two centroids, ‖mean x - mean t‖ (Liang et al. 2022, "Mind the Gap"); 0 to 2."""
    return float((image_ND.double().mean(0) - text_MD.double().mean(0)).norm())


def alignment(image_ND: Tensor, text_MD: Tensor, image_P: Tensor, text_P: Tensor, chunk: int = CHUNK) -> float:
    """Mean squared distance of positive pairs, E‖x - t‖² (Wang & Isola 2020, α = 2); 0 is best, 2 is orthogonal."""
    total = 0.0
    for p in range(0, len(image_P), chunk):
        part = slice(p, p + chunk)
        total += float((image_ND[image_P[part]] - text_MD[text_P[part]]).square().sum(dtype=torch.float64))
    return total / max(len(image_P), 1)


def uniformity(rows_ND: Tensor, t: float = 2.0, max_rows: int = 10_000, chunk: int = CHUNK) -> float:
    """log E exp(-t‖x - y‖²) over pairs of distinct rows (Wang & Isola 2020, t = 2); lower is more uniform, 0 a point.

    Of more than `max_rows` rows, as many at even distances are taken: 10,000 rows are 5·10⁷ pairs.
    Raises ValueError for fewer than two rows.
    """
    if len(rows_ND) < 2:
        raise ValueError("uniformity is over pairs: there must be at least two rows")
    if len(rows_ND) > max_rows:
        rows_ND = rows_ND[torch.linspace(0, len(rows_ND) - 1, max_rows, device=rows_ND.device).long()]
    rows = len(rows_ND)
    total = torch.zeros((), dtype=torch.float64, device=rows_ND.device)
    square_N = rows_ND.square().sum(1)
    with full_precision(rows_ND.device):
        for a in range(0, rows, chunk):
            left, left_square = rows_ND[a : a + chunk], square_N[a : a + chunk, None]
            for b in range(a, rows, chunk):
                distance = left_square + square_N[b : b + chunk] - 2 * left @ rows_ND[b : b + chunk].T
                potential = torch.exp(-t * distance.clamp(min=0))
                total += (potential.triu(1) if a == b else potential).sum(dtype=torch.float64)
    return math.log(float(total) / (rows * (rows - 1) / 2)) if total > 0 else float(total.log())


def effective_rank(rows_ND: Tensor, chunk: int = CHUNK) -> float:
    """exp of the entropy of the normalised singular values of the centred rows (Roy & Vetterli 2007); 1 to min(N-1, D).

    Singular values come from the D×D covariance in float64.  Centred, since otherwise the common direction of all
    embeddings (the cone of Liang et al. 2022) is the first and largest of them.  1.0 for rows that are all equal.
    """
    mean_D = rows_ND.double().mean(0)
    covariance_DD = torch.zeros(rows_ND.shape[1], rows_ND.shape[1], dtype=torch.float64, device=rows_ND.device)
    for n in range(0, len(rows_ND), chunk):
        centred = rows_ND[n : n + chunk].double() - mean_D
        covariance_DD += centred.T @ centred
    if not torch.isfinite(covariance_DD).all():
        return math.nan
    eigenvalues_D = torch.linalg.eigvalsh(covariance_DD)
    # Below the rounding of float32 rows an eigenvalue is noise, and its square root would be counted as a dimension.
    floor = max(float(eigenvalues_D[-1]) * 1e-12, len(rows_ND) * 1e-14)
    singular = eigenvalues_D[eigenvalues_D > floor].sqrt()
    if not len(singular):
        return 1.0
    share = singular / singular.sum()
    return float(torch.exp(-(share * share.log()).sum()))
