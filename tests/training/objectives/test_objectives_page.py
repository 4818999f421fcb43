"""The documentation of objectives is what the code says, and costs no torch."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines import output
from training.objectives import reference
from training.objectives.config import OBJECTIVES
from training.objectives.reference import losses, objectives_page


def test_the_page_is_current() -> None:
    page = objectives_page()
    assert Path("docs/objectives.md").read_text(encoding="utf-8") == page, (
        "run: python -m training.objectives.reference > docs/objectives.md"
    )
    for said in ("### `clip`", "### `siglip`", "| `bias_init` | number or null | `null` |", "| `teacher` |"):
        assert said in page


def test_page_and_list_say_modes_forms_equation_and_what_was_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    costs = tmp_path / "costs.json"
    costs.write_text('{"one_to_k": {"time": 1.234, "memory": 0.987}}', encoding="utf-8")
    monkeypatch.setattr(reference, "COSTS", costs)
    page = objectives_page()
    assert page.count("of clip's time") == 1
    assert "A step takes 1.23 of clip's time and 0.99 of its memory." in page
    assert "Exact in `loss.mode` gather, group, ring, local." in page
    written = io.StringIO()
    monkeypatch.setattr(output, "_stdout", written)
    output.show_losses({"losses": losses()})
    said = written.getvalue()
    shown = said[said.index("one_to_k ") : said.index("per_slot ")]
    assert "        i2t_i  = -(1/n_i) Σ_k m_ik [s x_i·t_ik - LSE over all valid texts]\n" in shown
    assert "needs nothing; modes gather, group, ring, local; forms paper, released; keys text_to_image_weight" in shown
    assert "a step takes 1.23 of clip's time and 0.99 of its memory" in shown


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
