"""A filter learnt from examples: a head that tells good pairs from ordinary ones, measured on held-out pairs.

A data filtering network (Fang et al. 2023, "Data Filtering Networks") is a model that was trained on pairs known to be
good; here it is a small head over the embeddings of one that is there already.  It reads [x, y, x·y] of picture x and
caption y, so it may weigh what they show, what they say, and where they agree.

Shapes: N good pairs, M ordinary ones, D dimensions of a vector, H hidden units.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from curation.heads.linear_layers import METADATA, Floats
from pairmill.atomic import whole_file
from pairmill.errors import InputError

#: Share of the pairs of each kind that the head is not fitted to.
HELD_OUT = 0.2

#: Fewest pairs of a kind: with fewer, the held-out part says nothing.
FEWEST = 50

#: Strengths of the penalty on weights that are tried; the best on a part of the pairs to fit to is taken.
_PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1)

#: Steps of the optimiser, pairs of each kind in one, and its largest learning rate.
_STEPS, _BATCH, _RATE = 600, 512, 1e-2

_RESAMPLES = 200


class Pairs(NamedTuple):
    """images, texts: float16 [N, D], unit vectors.  keys: a name for each pair, the same in every run."""

    images: npt.NDArray[np.float16]
    texts: npt.NDArray[np.float16]
    keys: Sequence[str]

    def features(self, at: npt.NDArray[np.int64]) -> Floats:
        """[x, y, x·y] of some pairs, float32 [len(at), 3D]."""
        x, y = self.images[at].astype(np.float32), self.texts[at].astype(np.float32)
        return np.concatenate([x, y, x * y], axis=1)


class Fitted(NamedTuple):
    """A head.  layers: (weight [out, in], bias [out]) of each.  figures: of its held-out pairs, as plain data."""

    layers: list[tuple[Floats, Floats]]
    figures: dict[str, Any]


def fit(good: Pairs, ordinary: Pairs, *, hidden: int = 0, seed: int = 0) -> Fitted:
    """Fit logistic regression (hidden = 0) or a perceptron of H hidden units to tell `good` from `ordinary`.

    Both kinds weigh the same, however many there are.  Which pairs are held out depends on their keys and the seed.
    Raises InputError for fewer than `FEWEST` pairs of a kind.
    """
    for name, pairs in (("good", good), ("ordinary", ordinary)):
        if (there := len(_distinct(pairs).keys)) < FEWEST:
            raise InputError(
                f"there must be {FEWEST} {name} pairs or more to fit a filter to, all different",
                value=f"{there} with a picture and a caption that the model embeds",
                fix="give more examples",
            )
    kinds = (_distinct(good), _distinct(ordinary))
    rows, held_out = _split(kinds, [np.arange(len(pairs.keys)) for pairs in kinds], seed)
    inner, watched = _split(kinds, rows, seed + 1)

    def tried(penalty: float) -> float:
        return auc(*_scores(_fitted(kinds, inner, penalty, hidden, seed), kinds, watched))

    penalty = max(_PENALTIES, key=tried)
    layers = _fitted(kinds, rows, penalty, hidden, seed)
    yes, no = _scores(layers, kinds, held_out)
    figures = {
        "auc": auc(yes, no),
        "auc_95": _interval(yes, no, seed),
        "good": {"fitted": len(rows[0]), "held_out": len(yes)},
        "ordinary": {"fitted": len(rows[1]), "held_out": len(no)},
        "cosine_auc": auc(*(_cosines(pairs, out) for pairs, out in zip(kinds, held_out, strict=True))),
        "penalty": penalty,
        "hidden": hidden,
        "seed": seed,
        "roc": roc(yes, no),
    }
    return Fitted(layers, figures)


def _distinct(pairs: Pairs) -> Pairs:
    """The pairs of which each number is one, each once."""
    first = {key: at for at, key in reversed(list(enumerate(pairs.keys)))}
    at = np.array(sorted(first.values()), np.int64)
    if not len(at):
        return pairs
    at = at[np.isfinite(pairs.images[at]).all(axis=1) & np.isfinite(pairs.texts[at]).all(axis=1)]
    return Pairs(pairs.images[at], pairs.texts[at], [pairs.keys[one] for one in at])


def auc(yes: npt.NDArray[Any], no: npt.NDArray[Any]) -> float:
    """Area under the ROC curve: how likely one of `yes` is above one of `no`; a tie counts half.

    As a statistic of ranks: Hanley and McNeil 1982.
    """
    from scipy.stats import rankdata

    ranks = rankdata(np.concatenate([yes, no]))
    return float((ranks[: len(yes)].sum() - len(yes) * (len(yes) + 1) / 2) / (len(yes) * len(no)))


def roc(yes: npt.NDArray[Any], no: npt.NDArray[Any]) -> list[dict[str, float]]:
    """For shares of the ordinary pairs that are kept, the share of the good ones and the threshold (score >= it)."""
    found = []
    for share in (0.01, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5):
        threshold = float(np.quantile(no, 1 - share, method="inverted_cdf"))
        found.append(
            {
                "threshold": threshold,
                "ordinary_kept": float((no >= threshold).mean()),
                "good_kept": float((yes >= threshold).mean()),
            }
        )
    return found


def save_head(fitted: Fitted, file: Path, about: Mapping[str, Any]) -> None:
    """Write a head as safetensors, which `score: {NAME: {name: mlp}}` loads, and its card beside it.

    about: what it was fitted to, as plain data.
    """
    from safetensors.numpy import save

    tensors: dict[str, Floats] = {}
    for number, (weight, bias) in enumerate(fitted.layers):
        tensors |= {f"{number}.weight": np.ascontiguousarray(weight), f"{number}.bias": np.ascontiguousarray(bias)}
    said = {"features": "pair", "activation": "relu" if len(fitted.layers) > 1 else "none", "output": "sigmoid"}
    files = {file: save(tensors, metadata={METADATA: json.dumps(said)})}
    files[file.with_suffix(".md")] = card(fitted, about, file.name).encode()
    for path, content in files.items():
        with whole_file(path) as stream:
            stream.write(content)


def card(fitted: Fitted, about: Mapping[str, Any], name: str) -> str:
    """What a head is and how good it is, in Markdown."""
    figures = fitted.figures
    low, high = figures["auc_95"]
    form = f"perceptron of {figures['hidden']} units" if figures["hidden"] else "logistic regression"
    lines = [
        f"# {name}: a filter learnt from examples",
        "",
        *(f"- {key}: {value}" for key, value in about.items()),
        f"- layers: {form} over [x, y, x·y]; penalty {figures['penalty']:g}, seed {figures['seed']}",
        "",
        "## Held-out pairs",
        "",
        f"Area under the ROC curve **{figures['auc']:.3f}** (95 % interval {low:.3f} to {high:.3f}, "
        f"{figures['good']['held_out']:,} good and {figures['ordinary']['held_out']:,} ordinary pairs that it was not "
        f"fitted to).  The cosine of picture and caption alone: {figures['cosine_auc']:.3f}.",
        "",
        "| ordinary pairs kept | good pairs kept | score at least |",
        "|---|---|---|",
        *(f"| {p['ordinary_kept']:.1%} | {p['good_kept']:.1%} | {p['threshold']:.4f} |" for p in figures["roc"]),
        "",
        "Ordinary pairs are a sample of the run, which holds good ones too, so no filter reaches an area of 1.",
        "",
    ]
    return "\n".join(lines)


Rows = list[npt.NDArray[np.int64]]


def _split(kinds: Sequence[Pairs], within: Rows, seed: int) -> tuple[Rows, Rows]:
    """Of the rows `within` each kind, those to fit to, and those held out, by a hash of their keys."""
    masks = [
        np.array([_held_out(pairs.keys[at], seed) for at in rows], bool)
        for pairs, rows in zip(kinds, within, strict=True)
    ]
    fitted = [rows[~mask] for rows, mask in zip(within, masks, strict=True)]
    return fitted, [rows[mask] for rows, mask in zip(within, masks, strict=True)]


def _held_out(key: str, seed: int) -> bool:
    hashed = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=4, salt=seed.to_bytes(8, "little"))
    return int.from_bytes(hashed.digest(), "little") < HELD_OUT * 2**32


def _fitted(kinds: Sequence[Pairs], rows: Rows, penalty: float, hidden: int, seed: int) -> list[tuple[Floats, Floats]]:
    """The layers after AdamW steps over batches of as many good as ordinary pairs; the same every time."""
    import torch

    size = 3 * kinds[0].images.shape[1]
    sample = np.random.default_rng(seed)

    def drawn(count: int) -> Floats:
        return np.concatenate([one.features(sample.choice(some, count)) for one, some in zip(kinds, rows, strict=True)])

    some = drawn(4096)
    mean, deviation = some.mean(0), some.std(0) + 1e-6
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums of several threads differ in their last bits
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            widths = [size, hidden, 1] if hidden else [size, 1]
            linear = [torch.nn.Linear(inputs, outputs) for inputs, outputs in pairwise(widths)]
            model = torch.nn.Sequential(*[part for one in linear for part in (one, torch.nn.ReLU())][:-1])
            optimizer = torch.optim.AdamW(model.parameters(), lr=_RATE, weight_decay=penalty / _RATE)
            schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, total_steps=_STEPS)
            target = torch.cat([torch.ones(_BATCH), torch.zeros(_BATCH)])
            for _ in range(_STEPS):
                values = torch.from_numpy((drawn(_BATCH) - mean) / deviation)
                loss = torch.nn.functional.binary_cross_entropy_with_logits(model(values)[:, 0], target)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]  # torch has no annotation there
                optimizer.step()
                schedule.step()
    finally:
        torch.set_num_threads(threads)
    layers = [(one.weight.detach().numpy().copy(), one.bias.detach().numpy().copy()) for one in linear]
    # What was subtracted and divided by becomes part of the first layer.
    weight, bias = layers[0]
    layers[0] = ((weight / deviation).astype(np.float32), (bias - (weight / deviation) @ mean).astype(np.float32))
    return layers


def _scores(
    layers: Sequence[tuple[Floats, Floats]], kinds: Sequence[Pairs], rows: Rows
) -> list[npt.NDArray[np.float64]]:
    """Probabilities of some rows of each kind."""
    found = []
    for pairs, some in zip(kinds, rows, strict=True):
        pieces = [np.zeros(0)]
        for first in range(0, len(some), 8192):
            values = pairs.features(some[first : first + 8192])
            for number, (weight, bias) in enumerate(layers):
                values = (np.maximum(values, 0) if number else values) @ weight.T + bias
            pieces.append(0.5 * (1 + np.tanh(0.5 * values[:, 0].astype(np.float64))))
        found.append(np.concatenate(pieces))
    return found


def _cosines(pairs: Pairs, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    cosines: npt.NDArray[np.float64] = np.einsum(
        "nd,nd->n", pairs.images[rows].astype(np.float64), pairs.texts[rows].astype(np.float64)
    )
    return cosines


def _interval(yes: npt.NDArray[Any], no: npt.NDArray[Any], seed: int) -> list[float]:
    """The 95 % interval of the area, by drawing pairs of each kind again."""
    sample = np.random.default_rng(seed)
    areas = [auc(sample.choice(yes, len(yes)), sample.choice(no, len(no))) for _ in range(_RESAMPLES)]
    return [float(bound) for bound in np.quantile(areas, [0.025, 0.975])]
