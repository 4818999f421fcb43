"""Mean rank variance: does one image rank alike whatever the language, or the kind, of the text?

Nie et al. 2024 ("Improving the Consistency in Cross-Lingual Cross-Modal Retrieval with 1-to-K Contrastive Learning",
CCRK) name it a variance; their released analysis averages the per-instance standard deviation.  Both are reported,
and a capped variance, since squared ranks are heavy-tailed: one instance at rank 5,000 outweighs a thousand at 10.
Lower is better, 0 is best, and a model that is uniformly bad is consistent too: read it beside recall.
"""

from __future__ import annotations

from torch import Tensor

#: Ranks above it count as it in the capped variance.
CAP = 100


def mean_rank_variance(rank_IK: Tensor, cap: int = CAP) -> dict[str, float]:
    """MRV of I instances in K languages (or kinds); `rank_IK[i, k]` is the 1-based rank of the ground truth.

    variance: mean_i (1/K) Σ_k (r_ik - mean_l r_il)², CCRK's equation.
    std: mean_i of the square root of the same (population form, NumPy's default, which the released code uses).
    variance_capped: the variance of min(r, `cap`).
    """
    rank_IK = rank_IK.double()
    variance_I = rank_IK.var(dim=1, correction=0)
    return {
        "variance": float(variance_I.mean()),
        "std": float(variance_I.sqrt().mean()),
        "variance_capped": float(rank_IK.clamp(max=cap).var(dim=1, correction=0).mean()),
    }
