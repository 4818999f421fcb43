"""`pairmill metadata`: titles with counts to the entries of a selection's rule `balance`."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from curation.balancing.metadata import read_metadata
from pipelines import output
from pipelines.cli import app


def made(folder: Path, titles: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What `pairmill metadata` says of a list of titles; it writes folder/m.json."""
    (folder / "views.tsv").write_text(titles, encoding="utf-8")
    monkeypatch.setattr(output, "_stdout", said := io.StringIO())
    done = CliRunner().invoke(app, ["metadata", str(folder / "views.tsv"), "--to", str(folder / "m.json"), "--json"])
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(said.getvalue())
    return found


def test_it_writes_what_the_rule_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = made(tmp_path, "title\tcount\tlanguage\nHot_dog\t90\ten\nRare\t3\ten\n桥\t80\tzh\n", monkeypatch)
    assert found["entries"] == {"en": 1, "zh": 1}
    assert read_metadata(tmp_path / "m.json") == {"en": ["Hot dog"], "zh": ["桥"]}


def test_it_says_how_many_entries_no_caption_can_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    titles = "title\tcount\nSt._Louis\t95\nDr._No\t94\nHot_dog\t93\nWest-östlich\t92\n"
    found = made(tmp_path, titles, monkeypatch)
    assert (found["entries"], found["never_named"]) == ({"other": 4}, {"other": 2})


def test_a_wrong_list_or_target_is_refused(tmp_path: Path) -> None:
    (tmp_path / "views.csv").write_text("name,count\nx,1\n")
    for to, says in (("m.json", "a list of titles must be"), ("m.txt", "--to must end in .json")):
        done = CliRunner().invoke(app, ["metadata", str(tmp_path / "views.csv"), "--to", str(tmp_path / to)])
        assert done.exit_code == 2 and says in done.output
        assert not (tmp_path / to).exists()
