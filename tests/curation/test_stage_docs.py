from pathlib import Path

from curation.stage_docs import page


def test_the_page_is_current() -> None:
    written = Path(__file__).parents[2] / "docs" / "stages.md"
    assert written.read_text(encoding="utf-8") == page(), "run `make docs`"
