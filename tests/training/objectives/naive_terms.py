"""Terms that need embeddings only, as their equations stand."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from entries import Entry, Tensors
from torch import Tensor


def rows_of(tensors: Tensors) -> list[int]:
    """The rows that have a text."""
    return [int(i) for i in tensors["text_mask"].any(1).nonzero()[:, 0]]


def slots_of(tensors: Tensors, row: int) -> list[int]:
    return [int(k) for k in tensors["text_mask"][row].nonzero()[:, 0]]


def others(tensors: Tensors, one: int, other: int) -> bool:
    """Whether two rows are to be kept apart: different ones, and not of one group."""
    group = tensors["group_id"]
    return one != other and not (group[one] == group[other] and group[one] >= 0)


def mean_or_nothing(values: list[Tensor], tensors: Tensors) -> Tensor:
    return torch.stack(values).mean() if values else tensors["image"].new_zeros(())


def log_mean_or_nothing(values: list[Tensor], tensors: Tensors) -> Tensor:
    return torch.stack(values).mean().log() if values else tensors["image"].new_zeros(())


def align(tensors: Tensors, settings: Mapping[str, Any], form: str) -> Tensor:
    rows = []
    for i in rows_of(tensors):
        each = [((tensors["image"][i] - tensors["text"][i, k]) ** 2).sum() for k in slots_of(tensors, i)]
        rows.append(torch.stack(each).mean())
    return mean_or_nothing(rows, tensors)


def energy(one: Tensor, other: Tensor, settings: Mapping[str, Any]) -> Tensor:
    """Of unit vectors: ‖a − b‖² = 2 − 2 a·b."""
    return torch.exp(-settings.get("t", 2) * (2 - 2 * one @ other))


def uniform(tensors: Tensors, settings: Mapping[str, Any], form: str) -> Tensor:
    image, text = tensors["image"], tensors["text"]
    rows = rows_of(tensors)
    pairs = [(i, j) for i in rows for j in rows if i < j and others(tensors, i, j)]
    images = [energy(image[i], image[j], settings) for i, j in pairs]
    texts = [
        energy(text[i, k], text[j, m], settings)
        for i, j in pairs
        for k in slots_of(tensors, i)
        for m in slots_of(tensors, j)
    ]
    return (log_mean_or_nothing(images, tensors) + log_mean_or_nothing(texts, tensors)) / 2


def cross_uniform(tensors: Tensors, settings: Mapping[str, Any], form: str) -> Tensor:
    rows = rows_of(tensors)
    pairs = [
        energy(tensors["image"][i], tensors["text"][j, k], settings)
        for i in rows
        for j in rows
        if others(tensors, i, j)
        for k in slots_of(tensors, j)
    ]
    return log_mean_or_nothing(pairs, tensors)


def views_of(tensors: Tensors, row: int) -> dict[int, Tensor]:
    """The image is view 0, and the text of slot k view k + 1."""
    return {0: tensors["image"][row], **{k + 1: tensors["text"][row, k] for k in slots_of(tensors, row)}}


def mv_dhel(tensors: Tensors, settings: Mapping[str, Any], form: str) -> Tensor:
    temperature = settings.get("temperature", 0.2)
    views = {i: views_of(tensors, i) for i in rows_of(tensors)}
    losses = []
    for i, mine in views.items():
        product = torch.stack(
            [(mine[view] @ mine[m] / temperature).exp() for view in mine for m in mine if view < m]
        ).sum()
        loss = -product.log()
        for view, vector in mine.items():
            found = [
                (vector @ theirs[view] / temperature).exp()
                for j, theirs in views.items()
                if view in theirs and others(tensors, i, j)
            ]
            if found:
                loss = loss + torch.stack(found).sum().log()
        losses.append(loss)
    return mean_or_nothing(losses, tensors)


def mv_infonce(tensors: Tensors, settings: Mapping[str, Any], form: str) -> Tensor:
    temperature = settings.get("temperature", 0.2)
    views = {i: views_of(tensors, i) for i in rows_of(tensors)}
    losses = []
    for i, mine in views.items():
        close = [mine[view] @ mine[m] / temperature for view in mine for m in mine if view != m]
        every = [
            mine[view] @ theirs[m] / temperature
            for view in mine
            for j, theirs in views.items()
            for m in theirs
            if (j == i or others(tensors, i, j)) and (m != view if form == "paper" else (j, m) != (i, view))
        ]
        losses.append(torch.stack(every).exp().sum().log() - torch.stack(close).exp().sum().log())
    return mean_or_nothing(losses, tensors)


def with_raw(tensors: dict[str, Any], random: torch.Generator) -> dict[str, Any]:
    """Embeddings before normalisation, of the model and of a teacher, at a step of a run."""

    def drawn(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=random, dtype=torch.float64)

    found: dict[str, Any] = {"step": 3, "steps": 10}
    for name in ("image", "text"):
        found[f"raw_{name}"] = drawn(tensors[name]).requires_grad_()
        found[f"teacher_raw_{name}"] = drawn(tensors[name])
        found[f"teacher_{name}"] = drawn(tensors[name])
    found["teacher_image"] /= found["teacher_image"].norm(dim=-1, keepdim=True)
    found["teacher_text"] /= found["teacher_text"].norm(dim=-1, keepdim=True)
    return {**found, "teacher_logit_scale": torch.tensor(4.0, dtype=torch.float64)}


def split_mix(state: int) -> int:
    """The output function of SplitMix64."""
    state %= 2**64
    state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    state = (state ^ (state >> 27)) * 0x94D049BB133111EB % 2**64
    return state ^ (state >> 31)


def random_vector(seed: int, step: int, row_id: int, width: int) -> Tensor:
    """Standard normal numbers of a row, by Box and Muller."""
    state = split_mix(split_mix(split_mix(seed) + step) + row_id)
    uniform = [((split_mix(state + (e + 1) * 0x9E3779B97F4A7C15) >> 11) + 0.5) / 2**53 for e in range(2 * width)]
    pairs = [(uniform[2 * d], uniform[2 * d + 1]) for d in range(width)]
    normal = [math.sqrt(-2 * math.log(u)) * math.cos(2 * math.pi * v) for u, v in pairs]
    return torch.tensor(normal, dtype=torch.float64)


def rafa(tensors: Tensors, settings: Mapping[str, Any], form: str) -> Tensor:
    image, text = tensors["image"], tensors["text"]
    width = image.shape[1]
    if settings.get("features", "raw") == "raw":
        image, text = tensors["raw_image"], tensors["raw_text"]
    else:
        image, text = image * math.sqrt(width), text * math.sqrt(width)
    losses = []
    for i in rows_of(tensors):
        random = random_vector(0, tensors["step"], int(tensors["sample_id"][i]), width)
        texts = [((text[i, k] - random) ** 2).mean() for k in slots_of(tensors, i)]
        losses.append(((image[i] - random) ** 2).mean() + torch.stack(texts).mean())
    fading = 1 - tensors["step"] / tensors["steps"] if settings.get("decay") else 1
    return fading * mean_or_nothing(losses, tensors)


def hycd(tensors: Tensors, settings: Mapping[str, Any], form: str) -> Tensor:
    temperature, alpha = settings.get("temperature", 1), settings.get("alpha", 0.5)
    raw = settings.get("features", "raw") == "raw"
    before = "raw_" if raw else ""
    scales = (1, 1) if raw else (tensors["logit_scale"], tensors["teacher_logit_scale"])
    texts = [(i, k) for i in rows_of(tensors) for k in slots_of(tensors, i)]
    images = rows_of(tensors)

    product = {
        whose: scale
        * torch.einsum("id,jkd->ijk", tensors[f"{whose}{before}image"], tensors[f"{whose}{before}text"])
        / temperature
        for whose, scale in zip(("", "teacher_"), scales, strict=True)
    }

    def divergence(pairs: list[tuple[int, int, int]]) -> Tensor:
        """Of one row's pairs (image, text's row, text's slot)."""
        own = torch.tensor([float(i == j) for i, j, _ in pairs], dtype=torch.float64)
        taught = torch.stack([product["teacher_"][pair] for pair in pairs]).softmax(0)
        mine = torch.stack([product[""][pair] for pair in pairs]).softmax(0)
        target = alpha * own / own.sum() + (1 - alpha) * taught
        return torch.stack([p * (p.log() - q.log()) for p, q in zip(target, mine, strict=True) if p > 0]).sum()

    by_image = [divergence([(i, j, k) for j, k in texts if i == j or others(tensors, i, j)]) for i in images]
    by_text = [divergence([(i, j, k) for i in images if i == j or others(tensors, i, j)]) for j, k in texts]
    return temperature**2 * (mean_or_nothing(by_image, tensors) + mean_or_nothing(by_text, tensors)) / 2


ENTRIES = [
    Entry("align", align, mixes_rows=False),
    Entry("uniform", uniform, settings=({}, {"t": 0.7}), aligns=False),
    Entry("cross_uniform", cross_uniform, settings=({}, {"t": 5})),
    Entry("mv_dhel", mv_dhel, settings=({}, {"temperature": 0.5})),
    Entry("mv_infonce", mv_infonce, settings=({}, {"temperature": 0.5}), forms=("paper", "released")),
    Entry(
        "rafa",
        rafa,
        settings=({}, {"features": "unit"}, {"decay": True}),
        more=with_raw,
        aligns=False,
        mixes_rows=False,
    ),
    Entry(
        "hycd",
        hycd,
        settings=({}, {"temperature": 2, "alpha": 0.2}, {"features": "unit"}, {"features": "unit", "alpha": 1}),
        more=with_raw,
        clip_where={"features": "unit", "alpha": 1},
    ),
]
