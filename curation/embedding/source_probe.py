"""Can a probe tell where a picture comes from by its embedding?  If so, what a model learns may be the source.

A linear classifier (multinomial logistic regression) is fitted to the vectors of pictures to name their group, such as
the crawl, and asked about rows that it was not fitted to (Torralba and Efros 2011, "Unbiased look at dataset
bias", named the game).  All groups have equally many rows, so that guessing is
right once in C times.

Shapes: N rows, D dimensions, C groups.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pairmill.damage import DamagedError
from pairmill.errors import InputError
from pairmill.layout import PROBES
from pairmill.store import Store

Doubles = npt.NDArray[np.float64]

#: Share of the rows that the probe is not fitted to.
HELD_OUT = 0.25

#: Fewest rows of a group: of fewer, the held-out part says nothing.
FEWEST = 40

#: Strengths of the penalty on weights that are tried; the best on a part of the rows to fit to is taken.
_PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1)

_ROUNDS = 200


def probe_groups(
    vectors: npt.NDArray[np.float16],
    groups: Sequence[str | None],
    uids: Sequence[str],
    *,
    most_groups: int = 10,
    seed: int = 0,
) -> dict[str, Any]:
    """How often the probe names the group of held-out rows, as plain data for a report.

    vectors: [N, D], in an order of chance.  groups: of each row; null is none.
    most_groups: the most frequent so many are told apart; rows of others are counted and left out.

    Returns
        groups        name, rows of it that there are, and recall: the share of its held-out rows that are named right
        rows          {used, fitted, held_out, without_group, of_other_groups}; as many of each group are used
        accuracy      share of the held-out rows that are named right
        accuracy_95   its 95 % interval (Wilson 1927)
        chance        share of the most frequent group among the held-out rows: what the best constant answer reaches
        p_value       probability of so many right answers by that chance, or more (binomial)
        tells         whether the interval is above chance
        confusion     [C][C] counts of held-out rows: true group, named group
        penalty, seed

    What is held out follows from uids and seed.  Raises InputError for fewer than two groups of `FEWEST` rows.
    """
    from scipy.stats import binomtest

    there = [group for group in groups if group is not None]
    counts = dict(sorted(Counter(there).items()))
    names = sorted(counts, key=lambda name: -counts[name])[:most_groups]  # of equally frequent ones, by name
    names = [name for name in names if counts[name] >= FEWEST]
    if len(names) < 2:
        raise InputError(
            f"there must be two groups of {FEWEST} embedded rows or more for a probe to tell apart",
            value=", ".join(f"{name}: {counts[name]}" for name in list(counts)[:5]) or "no row has a group",
            fix="name another column or expression with --by, or curate more rows",
        )
    each = min(counts[name] for name in names)
    code = np.array([names.index(group) if group in names else -1 for group in groups])
    used = np.sort(np.concatenate([np.flatnonzero(code == number)[:each] for number in range(len(names))]))
    x, y = vectors[used].astype(np.float64), code[used]
    out = _held_out([uids[at] for at in used], seed)
    inner = _held_out([uids[at] for at in used], seed + 1) & ~out

    def right(penalty: float) -> float:
        weights = fit_softmax(x[~out & ~inner], y[~out & ~inner], len(names), penalty)
        return float((named(x[inner], weights) == y[inner]).mean())

    penalty = max(_PENALTIES, key=right)
    answers = named(x[out], fit_softmax(x[~out], y[~out], len(names), penalty))
    confusion = np.zeros((len(names), len(names)), np.int64)
    np.add.at(confusion, (y[out], answers), 1)
    correct, asked = int(confusion.trace()), int(confusion.sum())
    chance = float(confusion.sum(1).max() / asked)
    test = binomtest(correct, asked, chance, alternative="greater")
    interval = binomtest(correct, asked).proportion_ci(0.95, method="wilson")
    recall = confusion.diagonal() / np.maximum(confusion.sum(1), 1)
    return {
        "groups": [
            {"name": name, "rows": counts[name], "recall": float(one)} for name, one in zip(names, recall, strict=True)
        ],
        "rows": {
            "used": len(used),
            "fitted": int((~out).sum()),
            "held_out": asked,
            "without_group": len(groups) - len(there),
            "of_other_groups": len(there) - sum(counts[name] for name in names),
        },
        "accuracy": correct / asked,
        "accuracy_95": [float(interval.low), float(interval.high)],
        "chance": chance,
        "p_value": float(test.pvalue),
        "tells": bool(interval.low > chance),
        "confusion": confusion.tolist(),
        "penalty": penalty,
        "seed": seed,
    }


def fit_softmax(x: Doubles, y: npt.NDArray[Any], classes: int, penalty: float) -> Doubles:
    """Weights [D + 1, C], the last row of them biases, with the least mean cross-entropy + penalty / 2 |W|^2.

    x: [N, D]; its columns are standardised for the penalty, which the weights that are returned include.
    """
    from scipy.optimize import minimize

    mean, deviation = x.mean(0), x.std(0) + 1e-8
    z = (x - mean) / deviation
    truth = np.zeros((len(y), classes))
    truth[np.arange(len(y)), y] = 1

    def loss(flat: Doubles) -> tuple[float, Doubles]:
        weights = flat.reshape(-1, classes)
        logits = z @ weights[:-1] + weights[-1]
        most = logits.max(1, keepdims=True)
        log_sum = most + np.log(np.exp(logits - most).sum(1, keepdims=True))
        error = (np.exp(logits - log_sum) - truth) / len(y)
        slope = np.concatenate([z.T @ error + penalty * weights[:-1], error.sum(0)[None]])
        value = float((log_sum[:, 0] - (logits * truth).sum(1)).mean() + penalty / 2 * np.square(weights[:-1]).sum())
        return value, slope.reshape(-1)

    begin = np.zeros((x.shape[1] + 1) * classes)
    found = minimize(loss, begin, jac=True, method="L-BFGS-B", options={"maxiter": _ROUNDS}).x.reshape(-1, classes)
    scaled = found[:-1] / deviation[:, None]
    return np.concatenate([scaled, (found[-1] - mean @ scaled)[None]])


def named(x: Doubles, weights: Doubles) -> npt.NDArray[np.int64]:
    """The group that the probe names for each row, [N]."""
    found: npt.NDArray[np.int64] = (x @ weights[:-1] + weights[-1]).argmax(1)
    return found


def probe_file(embedding: str) -> str:
    """Where a run keeps the result of the probe of an embedding."""
    return f"{PROBES}/source-{embedding}.json"


def source_probes(store: Store) -> list[dict[str, Any]]:
    """The results of all probes of a run, by name of the embedding, for its report; damaged ones are left out.

    Each is what `probe_groups` returns, and `embedding` (its name in the recipe), `model`, `by` (the expression that
    the groups are values of), `selection` (whose rows were asked about; null: all) and `content` (a digest of the
    vectors' table, which is another one once they were made again).
    """
    found = []
    for name in store.names(PROBES):
        try:
            result = store.read_json(f"{PROBES}/{name}")
        except DamagedError:
            continue
        if name.startswith("source-") and isinstance(result, dict):
            found.append(result)
    return found


def _held_out(uids: Sequence[str], seed: int) -> npt.NDArray[np.bool_]:
    salt = seed.to_bytes(8, "little")
    hashed = [hashlib.blake2b(uid.encode(), digest_size=4, salt=salt).digest() for uid in uids]
    return np.array([int.from_bytes(one, "little") < HELD_OUT * 2**32 for one in hashed], np.bool_)
