"""Objectives on another similarity than the dot product, as their equations stand."""

from __future__ import annotations

import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import numpy as np
import torch
from entries import Entry, Tensors, units
from naive_contrastive import softmax_both_ways
from torch import Tensor

PATCHES, TOKENS, TOKEN_WIDTH = 4, 5, 6


def with_tokens(tensors: dict[str, Any], random: torch.Generator, width: int = TOKEN_WIDTH) -> dict[str, Any]:
    rows, slots = tensors["text_mask"].shape
    mask = torch.rand(rows, slots, TOKENS, generator=random) > 0.4
    mask[..., 0] = True
    return {
        "image_tokens": units(rows, PATCHES, width, random=random),
        "text_tokens": units(rows, slots, TOKENS, width, random=random),
        "text_token_mask": mask,
    }


def own_and_excluded(tensors: Tensors, rows: list[int], of_row: list[int]) -> tuple[Tensor, Tensor]:
    group = tensors["group_id"].tolist()
    own = torch.tensor([[i == j for j in of_row] for i in rows])
    excluded = torch.tensor([[i != j and group[i] == group[j] >= 0 for j in of_row] for i in rows])
    return own, excluded


def both_similarities(
    patches: Tensor, tensors: Tensors, kept: Tensor | None = None, kept_patches: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """S^I, S^T [N, C], own and excluded [N, C]; kept: tokens (or patches) that the other side may match with."""
    rows = tensors["text_mask"].any(1).nonzero()[:, 0].tolist()
    texts = tensors["text_mask"].nonzero().tolist()
    of_image, of_text = [], []
    for i in rows:
        to_texts, to_image = [], []
        for j, k in texts:
            mask = tensors["text_token_mask"][j, k]
            product = patches[i] @ tensors["text_tokens"][j, k].T
            may = mask if kept is None else kept[j, k]
            to_texts.append(torch.stack([row[may].max() for row in product]).mean())
            from_image = product if kept_patches is None else product[kept_patches[i]]
            to_image.append(torch.stack([from_image[:, token].max() for token in mask.nonzero()[:, 0]]).mean())
        of_image.append(torch.stack(to_texts))
        of_text.append(torch.stack(to_image))
    own, excluded = own_and_excluded(tensors, rows, [j for j, _ in texts])
    return torch.stack(of_image), torch.stack(of_text), own, excluded


def two_softmaxes(of_image: Tensor, of_text: Tensor, own: Tensor) -> Tensor:
    """½ [image to text of the one + text to image of the other]."""
    image_to_text = -torch.where(own, of_image.log_softmax(1), 0).sum(1) / own.sum(1)
    text_to_image = -torch.where(own, of_text.log_softmax(0), 0).sum(0)
    return (image_to_text.mean() + text_to_image.mean()) / 2


def of_tokens(patches: Tensor, tensors: Tensors, settings: Mapping[str, Any], form: str) -> Tensor:
    kept = kept_patches = None
    if settings.get("top_share") is not None and form == "paper":
        kept, kept_patches = telling(patches, tensors, settings["top_share"])
    of_image, of_text, own, excluded = both_similarities(patches, tensors, kept, kept_patches)
    scale = tensors["log_scale"].exp().sum() if settings.get("own_scale") else tensors["logit_scale"]
    of_image, of_text = ((scale * s).masked_fill(excluded, -torch.inf) for s in (of_image, of_text))
    if form == "paper":
        return two_softmaxes(of_image, of_text, own)
    return sum(-torch.where(own, s.log_softmax(0), 0).sum(0).mean() / 2 for s in (of_image, of_text))  # type: ignore[return-value]


def telling(patches: Tensor, tensors: Tensors, share: float) -> tuple[Tensor, Tensor]:
    """Which tokens, and which patches, have the largest sums of cosines with the other side of their row."""
    mask = tensors["text_token_mask"] & tensors["text_mask"][..., None]
    kept, kept_patches = torch.zeros_like(mask), torch.zeros(len(mask), patches.shape[1], dtype=torch.bool)
    for i in range(len(mask)):
        of_patch = torch.zeros(patches.shape[1], dtype=torch.float64)
        for k in range(mask.shape[1]):
            product = (patches[i] @ tensors["text_tokens"][i, k].T).detach()
            if mask[i, k].any():
                of_patch += product[:, mask[i, k]].sum(1)
            of_token = product.sum(0).masked_fill(~mask[i, k], -math.inf)
            best = of_token.argsort(descending=True)[: share_of(int(mask[i, k].sum()), share)]
            kept[i, k, best] = True
        kept_patches[i, of_patch.argsort(descending=True)[: share_of(patches.shape[1], share)]] = True
    return kept, kept_patches


def share_of(count: int, share: float) -> int:
    """Tokens of most weight, of those that there are; 0.07 of 100 are 7."""
    return math.ceil(Decimal(str(share)) * count)


def token_max(tensors: Tensors, settings: Mapping[str, Any], form: str) -> Tensor:
    return of_tokens(tensors["image_tokens"], tensors, settings, form)


def token_max_tensors(tensors: dict[str, Any], random: torch.Generator) -> dict[str, Any]:
    scale = torch.tensor([1.5], dtype=torch.float64, requires_grad=True)
    return {**with_tokens(tensors, random), "log_scale": scale}


def smoothed(logits: Tensor, own: Tensor, excluded: Tensor, smoothing: float) -> Tensor:
    """Mean over rows of the cross-entropy with (1 - ε) on the own column and ε on all that take part."""
    each = []
    for row, mine, out in zip(logits, own, excluded, strict=True):
        log_p = row[~out].log_softmax(0)
        each.append(-(1 - smoothing) * log_p[mine[~out]].sum() - smoothing * log_p.mean())
    return torch.stack(each).mean()


def gram(tensors: Tensors, settings: Mapping[str, Any], form: str) -> Tensor:
    epsilon, smoothing = settings.get("epsilon", 1e-4), settings.get("label_smoothing", 0.1)
    rows = tensors["text_mask"].any(1).nonzero()[:, 0].tolist()

    def logits(image: Tensor, text: Tensor) -> Tensor:
        found = []
        for i in rows:
            for j in rows:
                texts = text[j][tensors["text_mask"][j]]
                vectors = torch.cat([image[i][None], texts])
                matrix = vectors @ vectors.T
                if form == "paper":
                    matrix = matrix + torch.diag(torch.tensor([0.0] + [epsilon] * len(texts), dtype=torch.float64))
                found.append(-tensors["logit_scale"] * torch.linalg.det(matrix).abs().sqrt())
        return torch.stack(found).view(len(rows), len(rows))

    own, excluded = own_and_excluded(tensors, rows, rows)
    image, text = tensors["image"], tensors["text"]
    over_texts, over_images = logits(image, text), logits(image, text)
    if form == "released":
        over_texts, over_images = logits(image, text.detach()), logits(image.detach(), text)
    return (smoothed(over_texts, own, excluded, smoothing) + smoothed(over_images.T, own, excluded.T, smoothing)) / 2


def multilinear(tensors: Tensors, settings: Mapping[str, Any], form: str) -> Tensor:
    slots = list(settings.get("slots", (0, 1)))
    group, ids = tensors["group_id"].tolist(), tensors["sample_id"].tolist()
    rows = [i for i in range(len(ids)) if tensors["text_mask"][i, slots].all()]
    rows.sort(key=lambda i: ids[i])
    sides = [tensors["image"], *(tensors["text"][:, slot] for slot in slots)]
    scale = tensors["logit_scale"] * (sides[0].shape[1] ** 0.5 if settings.get("sqrt_width") else 1)
    each = []
    for anchor in range(3):
        one, other = (at for at in range(3) if at != anchor)
        if settings.get("negatives", "n") == "n":
            drawn = [np.random.default_rng([0, 0, anchor, at]).permutation(len(rows)) for at in (one, other)]
            pairs = [(rows[a], rows[b]) for a, b in zip(*drawn, strict=True)]
        for at, i in enumerate(rows):
            if settings.get("negatives", "n") == "n":
                found = [pair for number, pair in enumerate(pairs) if number != at]
            else:
                found = [(a, b) for a in rows for b in rows]
            near = [j for j in rows if j == i or group[j] == group[i] >= 0]
            kept = form == "released" and settings.get("negatives", "n") == "n"
            found = [(a, b) for a, b in found if not (a in near and b in near) or (kept and a == b == i)]
            products = [(sides[anchor][i] * sides[one][a] * sides[other][b]).sum() for a, b in [(i, i), *found]]
            each.append(-(scale * torch.stack(products)).log_softmax(0)[0])
    return torch.stack(each).mean()


def layer_norm(vector: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    centred = vector - vector.mean()
    return weight * centred / (centred.square().mean() + 1e-5).sqrt() + bias


def by_groups(vector: Tensor, weight: Tensor, bias: Tensor, groups: int) -> Tensor:
    parts = zip(vector.chunk(groups), weight.squeeze(2).chunk(groups), strict=True)
    return torch.cat([matrix @ part for part, matrix in parts]) + bias


def token_max_reduced(tensors: Tensors, settings: Mapping[str, Any], form: str) -> Tensor:
    own = {name.removeprefix("learner."): value for name, value in tensors.items() if name.startswith("learner.")}
    groups = settings["groups"]
    reduced = []
    for patches in tensors["image_tokens"]:
        maps, features = [], []
        for patch in patches:
            normed = layer_norm(patch, own["norm.weight"], own["norm.bias"])
            mixed = by_groups(normed, own["mix.weight"], own["mix.bias"], groups)
            maps.append(own["maps.weight"].squeeze(2) @ mixed + own["maps.bias"])
            features.append(by_groups(patch, own["features.weight"], own["features.bias"], groups))
        share = torch.stack(maps).softmax(0)
        made = share.T @ torch.stack(features)
        reduced.append(made / made.norm(dim=1, keepdim=True))
    scale = {"log_scale": tensors["scale.log_scale"]}
    return of_tokens(torch.stack(reduced), {**tensors, **scale}, settings, form)


def token_max_reduced_tensors(tensors: dict[str, Any], random: torch.Generator) -> dict[str, Any]:
    shapes = {
        "norm.weight": (TOKEN_WIDTH,),
        "norm.bias": (TOKEN_WIDTH,),
        "mix.weight": (TOKEN_WIDTH, TOKEN_WIDTH // 2, 1),
        "mix.bias": (TOKEN_WIDTH,),
        "maps.weight": (3, TOKEN_WIDTH, 1),
        "maps.bias": (3,),
        "features.weight": (TOKEN_WIDTH, TOKEN_WIDTH // 2, 1),
        "features.bias": (TOKEN_WIDTH,),
    }
    return {
        **with_tokens(tensors, random),
        **{f"learner.{name}": drawn(*shape, random=random) for name, shape in shapes.items()},
        "scale.log_scale": torch.tensor([1.5], dtype=torch.float64, requires_grad=True),
    }


def drawn(*shape: int, random: torch.Generator) -> Tensor:
    return torch.randn(*shape, generator=random, dtype=torch.float64).requires_grad_()


def words(tensors: Tensors, settings: Mapping[str, Any], form: str) -> Tensor:
    rows = tensors["text_mask"].any(1).nonzero()[:, 0].tolist()
    group = tensors["group_id"].tolist()
    scale = tensors["logit_scale"] if form == "paper" else 1.0

    def similarity(i: int, j: int) -> list[Tensor]:
        found = []
        for k in tensors["text_mask"][j].nonzero()[:, 0].tolist():
            chosen = tensors["text_tokens"][j, k][tensors["text_token_mask"][j, k]]
            found.append((scale * chosen @ tensors["image"][i]).logsumexp(0))
        return found

    each = []
    for i in rows:
        others = [j for j in rows if j != i and not group[j] == group[i] >= 0]
        mine = similarity(i, i)
        against = [s for j in others for s in (*similarity(i, j), *similarity(j, i))]
        each.append(torch.stack([*mine, *against]).logsumexp(0) - torch.stack(mine).logsumexp(0))
    return torch.stack(each).mean()


def with_wide_tokens(tensors: dict[str, Any], random: torch.Generator) -> dict[str, Any]:
    return with_tokens(tensors, random, tensors["image"].shape[1])


def with_kinds(tensors: dict[str, Any], random: torch.Generator) -> dict[str, Any]:
    return {
        **with_wide_tokens(tensors, random),
        "text_role": torch.randint(-1, 5, tensors["text_mask"].shape, generator=random),
        "level_logits": drawn(4, random=random),
    }


#: Of alt, short, long, rewritten, translated and unknown.
LEVEL_OF = {0: 2, 1: 1, 2: 0, 3: 0, 4: 3, -1: 0}


def levels(tensors: Tensors, settings: Mapping[str, Any], form: str) -> Tensor:
    rows = tensors["text_mask"].any(1).nonzero()[:, 0].tolist()
    level_of = {-1: 0, 0: 1, 1: 0, 2: 0, 3: 2, 4: 3} if "kinds" in settings else LEVEL_OF
    weight = tensors["level_logits"].exp()
    found = []
    for i in rows:
        for j in rows:
            nodes: dict[int, list[Tensor]] = {}
            for k in tensors["text_mask"][j].nonzero()[:, 0].tolist():
                best = (tensors["image_tokens"][i] @ tensors["text"][j, k]).max()
                nodes.setdefault(level_of[int(tensors["text_role"][j, k])], []).append(best)
            total = sum(weight[level] * torch.stack(of).mean() for level, of in nodes.items())
            found.append(total / sum(weight[level] for level in nodes))
    own, excluded = own_and_excluded(tensors, rows, rows)
    logits = tensors["logit_scale"] * torch.stack(found).view(len(rows), len(rows))
    return softmax_both_ways(logits.masked_fill(excluded, -torch.inf), own)


CODES, CODE_WIDTH = 9, 4


def codebook_tensors(tensors: dict[str, Any], random: torch.Generator) -> dict[str, Any]:
    shapes = {
        0: (TOKEN_WIDTH,),
        1: (CODE_WIDTH, TOKEN_WIDTH),
        3: (CODE_WIDTH,),
        4: (CODE_WIDTH, CODE_WIDTH),
    }
    layers = {}
    for side in ("image", "text"):
        for at, shape in shapes.items():
            layers[f"{side}.{at}.weight"] = drawn(*shape, random=random)
            layers[f"{side}.{at}.bias"] = drawn(shape[0], random=random)
    return {**with_tokens(tensors, random), **layers, "codebook": drawn(CODES, CODE_WIDTH, random=random)}


def nearest_of_simplex(values: Tensor) -> Tensor:
    """By trying every size of the support."""
    ordered = values.detach().sort(descending=True).indices
    for size in range(len(values), 0, -1):
        support = ordered[:size]
        threshold = (values[support].sum() - 1) / size
        if (values[support] > threshold).all():
            break
    return torch.zeros_like(values).index_add(0, support, values[support] - threshold)


def codebook(tensors: Tensors, settings: Mapping[str, Any], form: str) -> Tensor:
    codes = tensors["codebook"]

    def feature(tokens: Tensor, mask: Tensor, side: str) -> Tensor:
        own = {name.removeprefix(f"{side}."): v for name, v in tensors.items() if name.startswith(f"{side}.")}
        scores = []
        for token, there in zip(tokens, mask, strict=True):
            if not there:
                if form == "released":
                    scores.append(torch.zeros(CODES, dtype=torch.float64))
                continue
            hidden = own["1.weight"] @ layer_norm(token, own["0.weight"], own["0.bias"]) + own["1.bias"]
            hidden = hidden * (1 + torch.erf(hidden / 2**0.5)) / 2
            query = own["4.weight"] @ layer_norm(hidden, own["3.weight"], own["3.bias"]) + own["4.bias"]
            scores.append(codes @ query / CODE_WIDTH**0.5 / settings["temperature"])
        mixed = nearest_of_simplex(torch.stack(scores).amax(0)) @ codes
        return mixed / mixed.norm()

    rows = tensors["text_mask"].any(1).nonzero()[:, 0].tolist()
    texts = tensors["text_mask"].nonzero().tolist()
    everything = torch.ones(PATCHES, dtype=torch.bool)
    image = torch.stack([feature(tensors["image_tokens"][i], everything, "image") for i in rows])
    text = torch.stack(
        [feature(tensors["text_tokens"][j, k], tensors["text_token_mask"][j, k], "text") for j, k in texts]
    )
    own, excluded = own_and_excluded(tensors, rows, [j for j, _ in texts])
    logits = (tensors["logit_scale"] * image @ text.T).masked_fill(excluded, -torch.inf)
    return softmax_both_ways(logits, own)


def chance(rows: int, slots: int) -> float:
    return (math.log(rows * slots) + math.log(rows)) / 2


ENTRIES = [
    Entry(
        "token_max",
        token_max,
        settings=({}, {"own_scale": True}, {"top_share": 0.4}),
        forms=("paper", "released"),
        more=token_max_tensors,
        at_chance=chance,
        aligns=False,
    ),
    Entry(
        "gram",
        gram,
        settings=({}, {"label_smoothing": 0.0, "epsilon": 0.01}),
        forms=("paper", "released"),
        at_chance=lambda rows, slots: math.log(rows),
    ),
    Entry(
        "multilinear",
        multilinear,
        settings=(
            {"negatives": "n_squared"},
            {},
            {"slots": [2, 0]},
            {"negatives": "n_squared", "sqrt_width": True},
        ),
        forms=("paper", "released"),
        at_chance=lambda rows, slots: 2 * math.log(rows),
        spares_groups=False,  # with two texts a row: test_multilinear
        slots_alike=False,
    ),
    Entry(
        "token_max_reduced",
        token_max_reduced,
        settings=tuple(
            {"token_width": TOKEN_WIDTH, "groups": 2, "tokens": 3, **more}
            for more in ({}, {"own_scale": True}, {"top_share": 0.5})
        ),
        forms=("paper", "released"),
        more=token_max_reduced_tensors,
        at_chance=chance,
        aligns=False,
    ),
    Entry("words", words, forms=("paper", "released"), more=with_wide_tokens, aligns=False),
    Entry(
        "levels",
        levels,
        settings=({}, {"kinds": [["long", "short"], ["alt"], ["rewritten"], ["translated"]]}),
        more=with_kinds,
        at_chance=lambda rows, slots: math.log(rows),
        aligns=False,
    ),
    Entry(
        "codebook",
        codebook,
        settings=(
            {"codes": CODES, "width": CODE_WIDTH, "token_width": TOKEN_WIDTH, "temperature": 0.5},
            {"codes": CODES, "width": CODE_WIDTH, "token_width": TOKEN_WIDTH, "temperature": 40.0},
        ),
        forms=("paper", "released"),
        more=codebook_tensors,
        at_chance=chance,
        aligns=False,
    ),
]
