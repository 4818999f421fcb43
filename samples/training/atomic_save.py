"""Replace a model folder in one step, keeping its card and its measured figures."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

KEPT = ("README.md", "metrics.json")


def save_atomically(target: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a fresh folder beside `target`, then swap: a reader never sees half a model."""
    target.mkdir(parents=True, exist_ok=True)
    fresh, old = (target.with_name(f".{target.name}.{suffix}") for suffix in ("new", "old"))
    for leftover in (fresh, old):
        shutil.rmtree(leftover, ignore_errors=True)
    fresh.mkdir()
    write(fresh)
    for file in fresh.iterdir():
        file.chmod(0o644)  # safetensors writes files that only their owner can read
    for name in KEPT:
        if (target / name).exists():
            shutil.copy(target / name, fresh / name)
    os.rename(target, old)
    os.rename(fresh, target)
    shutil.rmtree(old)
