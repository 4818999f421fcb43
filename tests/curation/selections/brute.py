"""Selections by brute force: rows as dictionaries, one rule after the other, without anything of `curation.selections`.

A row has uid, drop_reason, and the columns of `some_rows`.
"""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa

Row = Mapping[str, Any]

SCHEMA = pa.schema(
    [
        ("uid", pa.string()),
        ("drop_reason", pa.string()),
        ("url", pa.string()),
        ("language", pa.string()),
        ("score", pa.float64()),
        ("width", pa.int32()),
        ("sha256", pa.string()),
        ("caption", pa.string()),
        ("original_width", pa.int32()),
        ("original_height", pa.int32()),
    ]
)


def some_rows(number: int, seed: int = 0) -> pa.Table:
    """Rows with ties, nulls and NaN, a tenth of them dropped, a third of them of equal bytes."""
    rng = np.random.default_rng(seed)
    odd: list[Any] = [None, math.nan, 0.0, -0.0, math.inf]
    rows = []
    for n in range(number):
        score = odd[n % len(odd)] if rng.random() < 0.1 else float(np.round(rng.normal(), 1))
        picture = int(rng.integers(number // 2))
        rows.append(
            {
                "uid": hashlib.md5(f"{seed}:{n}".encode(), usedforsecurity=False).hexdigest(),
                "drop_reason": "timeout" if rng.random() < 0.1 else None,
                "url": f"http://H{int(rng.integers(12))}.example/{n}",
                "language": ["en", "zh", "de", None][int(rng.integers(4))],
                "score": score,
                "width": int(rng.integers(64, 512)),
                "sha256": f"{picture:064x}",
                "caption": f"a text {n % 3}",
                "original_width": int(rng.integers(64, 512)),
                "original_height": 100,
            }
        )
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def missing(value: Any) -> bool:
    return value is None or math.isnan(value)


def best_first(rows: Iterable[Row], by: Callable[[Row], Any]) -> list[Row]:
    return sorted(rows, key=lambda r: (missing(by(r)), 0.0 if missing(by(r)) else -by(r), r["uid"]))


def groups(rows: Iterable[Row], per: Callable[[Row], Any]) -> dict[Any, list[Row]]:
    found = defaultdict(list)
    for row in rows:
        found[per(row)].append(row)
    return found


def rounded_up(share: str, rows: int) -> int:
    return math.ceil(Fraction(share) * rows)


def quantile(rows: Iterable[Row], value: Callable[[Row], Any], share: float) -> float | None:
    there = sorted(value(row) for row in rows if not missing(value(row)))
    return next((each for at, each in enumerate(there, 1) if at >= Fraction(str(share)) * len(there)), None)


def host(row: Row) -> str:
    return str(row["url"].split("/")[2].lower())
