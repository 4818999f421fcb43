"""The product's modules as syntax trees, for the tests of what its code must and must not hold."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("pairmill", "curation", "training", "tune", "pipelines")


@cache
def product_sources() -> Mapping[str, ast.Module]:
    """File, from the project's root, -> its tree."""
    files = [file for package in PACKAGES for file in sorted((ROOT / package).rglob("*.py"))]
    return {str(file.relative_to(ROOT)): ast.parse(file.read_text(encoding="utf-8")) for file in files}
