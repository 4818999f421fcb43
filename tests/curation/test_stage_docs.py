from pathlib import Path

from curation.flow import flow_of
from curation.stage_docs import page


def test_the_page_is_current() -> None:
    written = Path(__file__).parents[2] / "docs" / "stages.md"
    assert written.read_text(encoding="utf-8") == page(), "run `make docs`"


def test_every_column_says_what_it_is() -> None:
    flow = flow_of({name: {"model": "any"} for name in ("recaption", "translate")})
    assert not [column.name for stage in flow.stages for column in stage.adds if not column.description]
