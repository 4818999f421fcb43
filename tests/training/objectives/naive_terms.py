"""Terms that need embeddings only, as their equations stand."""

from __future__ import annotations

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


ENTRIES = [
    Entry("align", align, mixes_rows=False),
    Entry("uniform", uniform, settings=({}, {"t": 0.7}), aligns=False),
    Entry("cross_uniform", cross_uniform, settings=({}, {"t": 5})),
    Entry("mv_dhel", mv_dhel, settings=({}, {"temperature": 0.5})),
    Entry("mv_infonce", mv_infonce, settings=({}, {"temperature": 0.5}), forms=("paper", "released")),
]
