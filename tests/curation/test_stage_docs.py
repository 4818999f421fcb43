from pathlib import Path
from typing import Any

import pyarrow as pa

from curation.dataset_card import write_card
from curation.flow import flow_of
from curation.stage import Column, Stage
from curation.stage_docs import page, render_flow
from pairmill.store import Store
from pipelines.recipe import CurateRecipe

LEAST: dict[str, Any] = {"run_dir": "r", "input": {"path": "p"}}


def test_the_page_is_current() -> None:
    written = Path(__file__).parents[2] / "docs" / "stages.md"
    assert written.read_text(encoding="utf-8") == page(), "run `make docs`"


def test_every_column_says_what_it_is() -> None:
    flow = flow_of({name: {"model": "any"} for name in ("recaption", "translate")})
    assert not [column.name for stage in flow.stages for column in stage.adds if not column.description]


class Boxes(Stage):
    """Finds things."""

    name, segment = "boxes", "score"
    adds = (Column("boxes", pa.list_(pa.float32()), "left | top |\nright | bottom", carried=True),)

    def __call__(self, rows: pa.Table) -> pa.Table:
        return rows


def test_a_description_stays_in_its_cell(tmp_path: Path) -> None:
    flow = flow_of({"stages": [f"{__name__}:Boxes"]})
    write_card(Store(str(tmp_path)), CurateRecipe.checked(LEAST).model_dump(mode="json"), flow.carried)
    cell = r"left \| top \| right \| bottom |"
    assert f"| `boxes` | {cell}\n" in (tmp_path / "README.md").read_text(encoding="utf-8")
    assert f" | {cell} yes |\n" in render_flow(flow)
