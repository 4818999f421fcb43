"""The documentation of objectives is what the code says, and costs no torch."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from training.objectives.config import OBJECTIVES
from training.objectives.reference import losses, objectives_page


def test_the_page_is_current() -> None:
    page = objectives_page()
    assert Path("docs/objectives.md").read_text(encoding="utf-8") == page, (
        "run: python -m training.objectives.reference > docs/objectives.md"
    )
    for said in ("### `clip`", "### `siglip`", "| `bias_init` | number or null | `null` |", "| `teacher` |"):
        assert said in page


def test_a_recipe_is_checked_without_torch() -> None:
    # Every declaration is imported for the schema, and what computes with it when a worker trains.
    code = (
        "import sys, training.recipe; training.recipe.TrainRecipe.model_json_schema();"
        "print([name for name in ('torch', 'ray', 'open_clip', 'deepspeed', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_objective_names_its_paper_and_equation() -> None:
    found = losses()
    assert [one["name"] for one in found] == OBJECTIVES.names
    for one in found:
        assert re.search(r", .+ \d{4}$", one["paper"]), one["name"]
        assert "L" in one["equation"] and "=" in one["equation"], one["name"]
        assert one["what"] and one["modes"] and one["forms"][0] == "paper"
    by_name = {one["name"]: one for one in found}
    assert by_name["siglip"]["keys"] == ["bias_init"]
