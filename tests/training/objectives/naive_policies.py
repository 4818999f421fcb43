"""The objectives that come with a policy of augmentation, as their equations stand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from entries import Entry, Tensors
from naive_terms import HIDDEN, PROJECTED, mean_or_nothing, others, projected, with_heads
from naive_views import rows_of, with_views
from torch import Tensor


def smoothed_clip(
    images: Mapping[int, Tensor], texts: Mapping[int, Tensor], scale: Tensor, smoothing: float, tensors: Tensors
) -> Tensor:
    """CLIP of one text an image, by row; each of C candidates has smoothing / C of a target."""
    losses = []
    for queries, keys in ((images, texts), (texts, images)):
        for i, query in queries.items():
            candidates = [j for j in keys if j == i or others(tensors, i, j)]
            logits = {j: scale * (query @ keys[j]) for j in candidates}
            away = torch.logsumexp(torch.stack(list(logits.values())), 0)
            target = {j: smoothing / len(candidates) + (1 - smoothing if j == i else 0) for j in candidates}
            losses.append(sum((target[j] * (away - logits[j]) for j in candidates), away.new_zeros(())))
    return mean_or_nothing(losses, tensors)


def rocket(tensors: Tensors, settings: Mapping[str, Any], form: str) -> Tensor:
    first = [i for i in rows_of(tensors) if tensors["text_mask"][i, 0]]
    weak = smoothed_clip(
        {i: tensors["image"][i] for i in first},
        {i: tensors["text"][i, 0] for i in first},
        tensors["logit_scale"],
        0.0,
        tensors,
    )
    scale, views = tensors["log_scale"].exp().sum(), tensors["image_views"].shape[1]

    def of(name: str, view: int) -> dict[int, Tensor]:
        found = {i: projected(tensors, name, tensors[f"{name}_views"][i, view]) for i in rows_of(tensors)}
        return {i: vector / vector.norm() for i, vector in found.items()}

    strong = [
        smoothed_clip(of("image", a), of("text", b), scale, settings.get("smoothing", 0.1), tensors)
        for a in range(views)
        for b in range(views)
    ]
    return (weak + views * torch.stack(strong).mean()) / (1 + views)


def with_views_and_heads(tensors: dict[str, Any], random: torch.Generator) -> dict[str, Any]:
    log_scale = torch.tensor([1.5], dtype=torch.float64)
    heads = with_heads(("image", 0, 3), ("text", 0, 3), log_scale=log_scale)(tensors, random)
    heads = {name: value for name, value in heads.items() if not name.startswith("teacher_")}
    return {**with_views(tensors, random), **heads}


ENTRIES = [
    Entry(
        "rocket",
        rocket,
        settings=(
            {"hidden": HIDDEN, "width": PROJECTED},
            {"hidden": HIDDEN, "width": PROJECTED, "smoothing": 0.4, "temperature": 0.5},
        ),
        more=with_views_and_heads,
        # Most of it is of views, which lie where they lie.
        aligns=False,
        slots_alike=False,
    ),
]
