"""A module's name is unique, or docs/architecture.md says which parallel it stands for."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from product_sources import ROOT, product_sources


def names() -> Counter[str]:
    """How often each name of a module or a package occurs."""
    files = [Path(file) for file in product_sources()]
    return Counter(file.parent.name if file.stem == "__init__" else file.stem for file in files)


def explained() -> set[str]:
    """The names in the table of parallels."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    table = text.partition("| modules | the parallel |\n")[2].partition("\n\n")[0]
    cells = [line.split("|")[1] for line in table.splitlines()[1:]]
    return {Path(path).stem for cell in cells for path in re.findall(r"`([^`]+)`", cell)}


def test_a_name_that_occurs_twice_is_explained_and_no_other_is() -> None:
    assert {name for name, count in names().items() if count > 1} == explained()
