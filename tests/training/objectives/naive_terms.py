"""Terms that need embeddings only, as their equations stand."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from entries import Entry, Tensors, units
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
    return torch.exp(-settings.get("t", 2) * ((one - other) ** 2).sum())


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


#: Hidden and projected width of every head in these tests.
HIDDEN, PROJECTED = 5, 4


def with_heads(*perceptrons: tuple[str, int, int], **more: Tensor) -> Callable[..., dict[str, Any]]:
    """Perceptrons (name, width it reads or 0 for the embeddings', linear layers) with parameters that learn."""

    def add(tensors: dict[str, Any], random: torch.Generator) -> dict[str, Any]:
        found: dict[str, Any] = dict(more)
        for name, reads, layers in perceptrons:
            wide = reads or tensors["image"].shape[1]
            for layer in range(layers):
                narrow = HIDDEN if layer < layers - 1 else PROJECTED
                found[f"{name}.{3 * layer}.weight"] = torch.randn(narrow, wide, generator=random).double()
                found[f"{name}.{3 * layer}.bias"] = torch.randn(narrow, generator=random).double()
                if layer < layers - 1:
                    found[f"{name}.{3 * layer + 1}.weight"] = 1 + torch.rand(narrow, generator=random).double()
                    found[f"{name}.{3 * layer + 1}.bias"] = torch.randn(narrow, generator=random).double()
                wide = narrow
        taught = {f"teacher_{name}": units(*tensors[name].shape, random=random).detach() for name in ("image", "text")}
        return {name: value.requires_grad_() for name, value in found.items()} | taught

    return add


def projected(tensors: Tensors, name: str, vector: Tensor) -> Tensor:
    """Linear layers with layer norm (of variance plus 1e-5) and ReLU between them."""
    layers = sum(f"{name}.{3 * layer}.weight" in tensors for layer in range(4))
    for layer in range(layers):
        vector = tensors[f"{name}.{3 * layer}.weight"] @ vector + tensors[f"{name}.{3 * layer}.bias"]
        if layer < layers - 1:
            away = vector - vector.mean()
            vector = away / (away.square().mean() + 1e-5).sqrt()
            at = f"{name}.{3 * layer + 1}"
            vector = (vector * tensors[f"{at}.weight"] + tensors[f"{at}.bias"]).clamp(min=0)
    return vector


def barlow(tensors: Tensors, settings: Mapping[str, Any], form: str) -> Tensor:
    pairs = [(i, k) for i in rows_of(tensors) for k in slots_of(tensors, i)]
    if not pairs:
        return tensors["image"].new_zeros(())
    sides = [
        torch.stack([projected(tensors, "image", tensors["image"][i]) for i, _ in pairs]),
        torch.stack([projected(tensors, "text", tensors["text"][i, k]) for i, k in pairs]),
    ]
    image, text = ((side - side.mean(0)) / (side.var(0, correction=0) + 1e-5).sqrt() for side in sides)
    loss = tensors["image"].new_zeros(())
    for d in range(PROJECTED):
        for e in range(PROJECTED):
            correlation = (image[:, d] * text[:, e]).mean()
            loss = loss + ((1 - correlation) ** 2 if d == e else settings.get("off_diagonal", 5e-3) * correlation**2)
    return settings.get("scale", 0.025) * loss


def siam(tensors: Tensors, settings: Mapping[str, Any], form: str) -> Tensor:
    whose = "teacher_" if settings.get("target") == "teacher" else ""

    def distance(guess: Tensor, target: Tensor) -> Tensor:
        target = target.detach()
        return 2 - 2 * (guess @ target) / (guess.norm() * target.norm())

    rows = []
    for i in rows_of(tensors):
        image = projected(tensors, "image", tensors["image"][i])
        each = []
        for k in slots_of(tensors, i):
            text = projected(tensors, "text", tensors["text"][i, k])
            image_target = projected(tensors, "image", tensors[f"{whose}image"][i])
            text_target = projected(tensors, "text", tensors[f"{whose}text"][i, k])
            each.append(
                distance(projected(tensors, "image_predictor", image), text_target) / 2
                + distance(projected(tensors, "text_predictor", text), image_target) / 2
            )
        rows.append(torch.stack(each).mean())
    return mean_or_nothing(rows, tensors)


def sinkhorn(similarity: Tensor, allowed: Tensor, settings: Mapping[str, Any]) -> Tensor:
    """As released: all of sum 1, then columns of sum 1/M and rows of sum 1/N in turn; rows of sum 1 in the end."""
    shares = (similarity.detach() / settings.get("epsilon", 0.05)).exp() * allowed
    shares = shares / shares.sum()
    for _ in range(settings.get("iterations", 3)):
        shares = shares / shares.sum(0) / shares.shape[1]
        shares = shares / shares.sum(1)[:, None] / shares.shape[0]
    return shares * shares.shape[0]


def swav(tensors: Tensors, settings: Mapping[str, Any], form: str) -> Tensor:
    scale = tensors["log_scale"].exp().sum()
    slots = tensors["text_mask"].shape[1]
    losses = []
    for slot in range(slots):
        swapped = (slot + 1) % slots
        rows = [i for i in rows_of(tensors) if {slot, swapped} <= set(slots_of(tensors, i))]
        if not rows:
            continue
        image = torch.stack([projected(tensors, "image", tensors["image"][i]) for i in rows])
        text, other = (
            torch.stack([projected(tensors, "text", tensors["text"][i, k]) for i in rows]) for k in (slot, swapped)
        )
        image, text, other = (side / side.norm(dim=1, keepdim=True) for side in (image, text, other))
        allowed = torch.tensor([[i == j or others(tensors, i, j) for j in rows] for i in rows])

        def entropy(cosines: Tensor, target: Tensor, allowed: Tensor = allowed) -> Tensor:
            logits = (scale * cosines).masked_fill(~allowed, -torch.inf).log_softmax(1)
            return -torch.where(allowed, target * logits, 0).sum(1).mean()

        by_image = entropy(image @ text.T, sinkhorn(image @ other.T, allowed, settings))
        by_text = entropy(text @ image.T, sinkhorn(other @ image.T, allowed, settings))
        losses.append((by_image + by_text) / 2)
    return mean_or_nothing(losses, tensors)


def drawn_mix(tensors: Tensors, rows: list[int], which: int) -> tuple[dict[int, int], dict[int, float]]:
    """Of each row its partner and its share λ; 0: images, 1: texts."""
    rows = sorted(rows, key=lambda row: int(tensors["sample_id"][row]))
    random = np.random.default_rng([0, tensors.get("step", 0), which])
    order, beta, chance = random.permutation(len(rows)), random.beta(0.15, 0.15, len(rows)), random.random(len(rows))
    partner = {row: rows[order[n]] for n, row in enumerate(rows)}
    partner = {row: other if others(tensors, row, other) else row for row, other in partner.items()}
    return partner, {row: float(beta[n]) if chance[n] < 0.5 else 1.0 for n, row in enumerate(rows)}


def mixup(tensors: Tensors, settings: Mapping[str, Any], form: str) -> Tensor:
    rows = [i for i in rows_of(tensors) if 0 in slots_of(tensors, i)]
    plain = [{i: tensors["image"][i] for i in rows}, {i: tensors["text"][i, 0] for i in rows}]
    if not rows:
        return tensors["image"].new_zeros(())
    if settings.get("until", 0.33) == 0:
        return soft_clip(tensors, rows, plain)
    draws = [drawn_mix(tensors, rows, which) for which in range(2)]
    melted = []
    for values, (partner, share) in zip(plain, draws, strict=True):
        sums = {i: share[i] * values[i] + (1 - share[i]) * values[partner[i]] for i in rows}
        melted.append({i: value / value.norm() for i, value in sums.items()})
    total = tensors["image"].new_zeros(())
    for which in range(2):
        fixed = (plain if form == "paper" else melted)[1 - which]
        partner, share = draws[which]
        target = torch.zeros(len(rows), len(rows), dtype=torch.float64)
        for n, i in enumerate(rows):
            if form == "paper":
                target[n, n] += share[i]
                target[n, rows.index(partner[i])] += 1 - share[i]
            else:
                target[n, n] = share[i]
                target[n, rows.index(partner[i])] = 1 - share[i]
        logits = torch.stack([torch.stack([melted[which][i] @ fixed[j] / 0.1 for j in rows]) for i in rows])
        logits = logits.masked_fill(~kept(tensors, rows), -torch.inf)
        for way in (0, 1):
            logs = logits.log_softmax(way).masked_fill(target == 0, 0)
            total = total - (target * logs).sum() / len(rows) / 2
    return total


def kept(tensors: Tensors, rows: list[int]) -> Tensor:
    """Which of the pairs of rows count, bool."""
    return torch.tensor([[i == j or others(tensors, i, j) for j in rows] for i in rows])


def soft_clip(tensors: Tensors, rows: list[int], values: list[dict[int, Tensor]]) -> Tensor:
    """Either modality's likeness to itself is the target of both ways between them."""
    temperature = 0.125
    total = tensors["image"].new_zeros(())
    for target_of in values:
        for one, other in (values, values[::-1]):
            for i in rows:
                near = [j for j in rows if i == j or others(tensors, i, j)]
                target = torch.stack([target_of[i] @ target_of[j] / temperature for j in near]).softmax(0)
                logs = torch.stack([one[i] @ other[j] / temperature for j in near]).log_softmax(0)
                total = total - (target * logs).sum() / len(rows) / 2
    return total


def with_old_model(tensors: dict[str, Any], random: torch.Generator) -> dict[str, Any]:
    """A projection, and embeddings of an old model of another width."""
    found = with_heads(("projection", 0, 2))(tensors, random)
    for name in ("image", "text"):
        shape = (*tensors[name].shape[:-1], PROJECTED)
        found[f"teacher_{name}"] = units(*shape, random=random).detach()
    return found


def backward_compatible(tensors: Tensors, settings: Mapping[str, Any], form: str) -> Tensor:
    texts = [(i, k) for i in rows_of(tensors) for k in slots_of(tensors, i)]
    new = {pair: projected(tensors, "projection", tensors["text"][pair]) for pair in texts}
    new = {pair: value / value.norm() for pair, value in new.items()}
    old = {pair: tensors["teacher_text"][pair] for pair in texts}
    losses = []
    for pair in texts:
        near = [other for other in texts if other == pair or others(tensors, pair[0], other[0])]
        own = near.index(pair)
        cosine = new[pair] @ old[pair]
        forth = torch.stack([tensors["logit_scale"] * new[pair] @ old[other] for other in near]).log_softmax(0)[own]
        back = torch.stack([tensors["logit_scale"] * new[other] @ old[pair] for other in near]).log_softmax(0)[own]
        losses.append(1 - cosine - (forth + back) / 2)
    return mean_or_nothing(losses, tensors)


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
    Entry(
        "barlow",
        barlow,
        settings=(
            {"hidden": HIDDEN, "width": PROJECTED},
            {"hidden": HIDDEN, "width": PROJECTED, "off_diagonal": 0.3, "scale": 2},
        ),
        more=with_heads(("image", 0, 3), ("text", 0, 3)),
        aligns=False,
        spares_groups=False,
    ),
    Entry(
        "siam",
        siam,
        settings=(
            {"hidden": HIDDEN, "width": PROJECTED},
            {"hidden": HIDDEN, "width": PROJECTED, "target": "teacher"},
        ),
        more=with_heads(
            ("image", 0, 2), ("text", 0, 2), ("image_predictor", PROJECTED, 2), ("text_predictor", PROJECTED, 2)
        ),
        aligns=False,
        mixes_rows=False,
    ),
    Entry(
        "swav",
        swav,
        settings=(
            {"hidden": HIDDEN, "width": PROJECTED},
            {"hidden": HIDDEN, "width": PROJECTED, "epsilon": 0.3, "iterations": 1},
        ),
        more=with_heads(("image", 0, 3), ("text", 0, 3), log_scale=torch.tensor([2.0], dtype=torch.float64)),
        aligns=False,
    ),
    Entry("mixup", mixup, settings=({}, {"until": 0}), forms=("paper", "released"), slots_alike=False),
    Entry(
        "backward_compatible",
        backward_compatible,
        settings=({"hidden": HIDDEN, "width": PROJECTED},),
        more=with_old_model,
        aligns=False,
    ),
]
