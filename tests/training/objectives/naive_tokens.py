"""The objectives on hidden tokens and on patches of two crops, as their equations stand."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  torch's own name for it
from entries import Entry, Tensors, units
from naive_views import Settings, entropy, holes_of, mean, rows_of, slots_of, strangers, with_teacher
from torch import Tensor


def denoise(tensors: Tensors, settings: Settings, form: str) -> Tensor:
    scale, sums = settings.get("scale", 2.5), []
    for name, weight in (("image", settings.get("image_weight", 1.0)), ("text", settings.get("text_weight", 0.5))):
        whole, masked, hidden = (
            tensors[which] for which in (f"{name}_tokens", f"masked_{name}_tokens", f"{name}_token_hidden")
        )
        # (row, place in the tensor) of every token.
        there = [(i, (i, p)) for i in rows_of(tensors) for p in range(whole.shape[1])]
        if name == "text":
            mask = tensors["text_token_mask"]
            there = [
                (i, (i, k, w))
                for i in rows_of(tensors)
                for k in slots_of(tensors, i)
                for w in range(whole.shape[2])
                if mask[i, k, w]
            ]
        losses = []
        for i, at in there:
            if hidden[at]:
                others = [whole[o].detach() for j, o in there if o != at and (j == i or j in strangers(tensors, i))]
                own = whole[at].detach()
                losses.append(entropy(scale * (masked[at] @ own), [scale * (masked[at] @ o) for o in others]))
        sums.append(weight * mean(losses, tensors))
    return sum(sums, torch.zeros((), dtype=torch.float64))


def pixpro(tensors: Tensors, settings: Settings, form: str) -> Tensor:
    power, most, losses = settings.get("power", 2.0), settings.get("distance", 0.7), []
    views, taught, boxes = tensors["view_tokens"], tensors["teacher_view_tokens"], tensors["view_boxes"]
    side = math.isqrt(views.shape[2])

    def centre(i: int, v: int, p: int) -> Tensor:
        left, top, right, bottom = boxes[i, v]
        row, column = divmod(p, side)
        return torch.stack([left + (column + 0.5) / side * (right - left), top + (row + 0.5) / side * (bottom - top)])

    def propagated(patches: Tensor, p: int) -> Tensor:
        found = patches[p] * 0
        for other in patches:
            value = other @ tensors["transform"]
            value = value / value.norm() if form == "released" else value
            found = found + (patches[p] @ other).clamp(min=0) ** power * value
        return found

    def cosine(one: Tensor, other: Tensor) -> Tensor:
        return one @ other / (one.norm() * other.norm())

    for i in rows_of(tensors):
        spread = {(v, p): propagated(views[i, v], p) for v in range(2) for p in range(side * side)}
        diagonal = max(math.hypot(*((box[2:] - box[:2]) / side).tolist()) for box in boxes[i])
        every = [(p, q) for p in range(side * side) for q in range(side * side)]
        pairs = [(p, q) for p, q in every if (centre(i, 0, p) - centre(i, 1, q)).norm() < most * diagonal]
        if pairs:
            here = torch.stack([cosine(spread[0, p], taught[i, 1, q]) for p, q in pairs]).mean()
            there = torch.stack([cosine(spread[1, q], taught[i, 0, p]) for p, q in pairs]).mean()
            losses.append(-here - there)
        elif form == "released":
            losses.append(tensors["image"].sum() * 0)
    return mean(losses, tensors) * (2 if form == "released" else 1)


def masked_image(tensors: Tensors, settings: Settings, form: str) -> Tensor:
    query, key, value, inner, outer, pixels = (
        tensors[f"decoder_{name}"] for name in ("query", "key", "value", "inner", "outer", "pixels")
    )
    losses = []
    for i in rows_of(tensors):
        k = slots_of(tensors, i)[0]
        words = [
            w for w, there in zip(tensors["text_tokens"][i, k], tensors["text_token_mask"][i, k], strict=True) if there
        ]
        for p in range(tensors["masked_image_tokens"].shape[1]):
            if tensors["image_token_hidden"][i, p]:
                patch = tensors["masked_image_tokens"][i, p]
                if words:
                    near = torch.stack([(patch @ query) @ (word @ key) / math.sqrt(len(patch)) for word in words])
                    share = near.exp() / near.exp().sum()
                    patch = patch + sum(s * (word @ value) for s, word in zip(share, words, strict=True))
                middle = patch @ inner
                patch = patch + (middle * 0.5 * (1 + torch.erf(middle / math.sqrt(2)))) @ outer
                losses.append((patch @ pixels - tensors["image_patches"][i, p]).pow(2).mean())
    return mean(losses, tensors)


def with_hidden(tensors: dict[str, Any], random: torch.Generator) -> dict[str, Any]:
    rows, slots, width = tensors["text"].shape
    image, text = (rows, 5, width), (rows, slots, 4, width)
    found = {name: units(*shape, random=random) for name, shape in (("image_tokens", image), ("text_tokens", text))}
    found |= {f"masked_{name}": units(*value.shape, random=random) for name, value in found.items()}
    # As many of each row: ranks then have equal shares.
    hidden = {"image_token_hidden": torch.arange(5) % 2 == 0, "text_token_hidden": torch.arange(4) < 2}
    found["image_token_hidden"] = hidden["image_token_hidden"].expand(rows, 5)
    found["text_token_hidden"] = hidden["text_token_hidden"].expand(rows, slots, 4)
    return {**found, "text_token_mask": holes_of(tensors, slots, 4, random=random)}


def with_pixels(tensors: dict[str, Any], random: torch.Generator) -> dict[str, Any]:
    width = tensors["image"].shape[1]
    shapes = dict.fromkeys(("query", "key", "value"), (width, width))
    shapes |= {"inner": (width, 4 * width), "outer": (4 * width, width), "pixels": (width, 12)}
    found = with_hidden(tensors, random)
    for name, shape in shapes.items():
        weight = torch.randn(*shape, generator=random, dtype=torch.float64) / shape[0] ** 0.5
        found[f"decoder_{name}"] = weight.requires_grad_()
    found["image_patches"] = torch.randn(*found["image_token_hidden"].shape, 12, generator=random, dtype=torch.float64)
    return found


def with_crops(tensors: dict[str, Any], random: torch.Generator) -> dict[str, Any]:
    rows, width = tensors["image"].shape
    # Patches of a row are alike: a mean of cosines near 0 has no relative error.
    common = units(rows, 1, 1, width, random=random).detach()
    mine, its = (F.normalize(common + units(rows, 2, 9, width, random=random).detach(), dim=-1) for _ in range(2))
    found: dict[str, Any] = {"view_tokens": mine.requires_grad_()}
    corner = 4 * torch.rand(rows, 2, 2, generator=random, dtype=torch.float64)
    size = 4 + 4 * torch.rand(rows, 2, 2, generator=random, dtype=torch.float64)
    boxes = torch.cat([corner, corner + size], -1)
    boxes[::2, 1] = boxes[::2, 1][..., [2, 1, 0, 3]]  # mirrored
    if not tensors["text_mask"].all():
        boxes[2, 1] += 100  # a row whose crops share nothing
    found |= {"view_boxes": boxes, **with_teacher(tensors, random)}
    transform = torch.eye(width).double() + 0.2 * torch.randn(width, width, generator=random, dtype=torch.float64)
    return {**found, "teacher_view_tokens": its, "transform": transform.requires_grad_()}


ENTRIES = [
    Entry("denoise", denoise, ({}, {"scale": 4.0, "text_weight": 2.0}), more=with_hidden, aligns=False),
    Entry(
        "masked_image",
        masked_image,
        ({"patch": 2},),
        more=with_pixels,
        aligns=False,
        slots_alike=False,
        mixes_rows=False,
    ),
    Entry(
        "pixpro",
        pixpro,
        ({}, {"distance": 1.5, "power": 1.0}),
        ("paper", "released"),
        with_crops,
        aligns=False,
        mixes_rows=False,
    ),
]
