"""Two selections side by side, and their uids as files: against counting by hand."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from selected_run import select, selected_run
from typer.testing import CliRunner

from curation.selections.compare import SHOWN, TwoSelections, selection_uids
from curation.selections.uids import write_uids
from pairmill.errors import RunDirError, UserError
from pairmill.store import Store, shard_file
from pipelines import output
from pipelines.cli import app

SELECTIONS: dict[str, Any] = {
    "low": {"where": "input.id < 14"},
    "high": {"where": "input.id >= 8", "dedup": ["exact"]},
    "none": "low & ~all",
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return selected_run(tmp_path_factory.mktemp("compared"), SELECTIONS)


def rows_of(store: Store, name: str) -> dict[str, tuple[bool, str | None, str | None]]:
    found = {}
    for shard in sorted(store.index("plan")):
        chosen = store.load(f"selections/{name}", shard).to_pylist()
        languages = store.load("columns/filter", shard)["language"].to_pylist()
        found |= {
            row["uid"]: (row["keep"], row["reason"], language)
            for row, language in zip(chosen, languages, strict=True)
            if row["reason"] != "duplicate_input"  # its uid is another row's
        }
    return found


def test_rows_are_counted_by_who_keeps_them_why_and_language(run: Store) -> None:
    low, high = rows_of(run, "low"), rows_of(run, "high")
    both = [uid for uid in low if low[uid][0] and high[uid][0]]
    alone = {
        "low": [uid for uid in low if low[uid][0] and not high[uid][0]],
        "high": [uid for uid in low if high[uid][0] and not low[uid][0]],
    }
    data = TwoSelections(run, "low", "high").data()
    assert data["both"] == len(both)
    assert len(both) and len(alone["low"]) and len(alone["high"])
    for name, other in (("low", high), ("high", low)):
        assert data["only"][name]["rows"] == len(alone[name])
        assert data["only"][name]["reasons"] == Counter(other[uid][1] for uid in alone[name])
    for language in ("en", "zh"):
        assert data["languages"][language] == {
            "both": sum(low[uid][2] == language for uid in both),
            "only": {name: sum(low[uid][2] == language for uid in uids) for name, uids in alone.items()},
        }


def test_the_page_shows_rows_of_each_alone_and_nothing_that_is_loaded(run: Store) -> None:
    page = TwoSelections(run, "low", "high").page()
    data = TwoSelections(run, "low", "high").data()
    shown = sum(min(SHOWN, data["only"][name]["rows"]) for name in ("low", "high"))
    assert page.count("<article>") == page.count('<img src="data:image/webp;base64,') == shown > 0
    assert not re.search(r"(src|href)=\"?http", page)
    assert "<script" not in page


def test_selections_that_agree_differ_in_nothing(run: Store) -> None:
    data = TwoSelections(run, "none", "default").data()
    assert data["both"] == data["only"]["none"]["rows"] == 0
    assert data["only"]["default"]["reasons"] == {"not_selected": data["only"]["default"]["rows"]}
    assert "None." in TwoSelections(run, "none", "default").page()


def test_a_selection_comes_back_from_its_file_of_uids(run: Store, tmp_path: Path) -> None:
    write_uids(tmp_path / "low.npy", selection_uids(run, "low"))
    there = np.load(tmp_path / "low.npy")
    low = rows_of(run, "low")
    kept = sorted(uid for uid, row in low.items() if row[0])
    assert there.tolist() == [(int(uid[:16], 16), int(uid[16:], 16)) for uid in kept]
    again = selected_run(tmp_path / "again", {"back": {"uids": str(tmp_path / "low.npy")}})
    back = rows_of(again, "back")
    assert {uid for uid, row in back.items() if row[0]} == set(kept)
    default = rows_of(again, "default")
    assert {row[1] for uid, row in back.items() if default[uid][0] and not row[0]} == {"not_selected"}
    select(again, {"rest": {"from": "default", "uids": str(tmp_path / "low.npy")}})
    assert {uid for uid, row in rows_of(again, "rest").items() if row[0]} <= set(kept)


def command(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["select", *map(str, arguments)])


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(output, "say", lambda text, **_: lines.append(text))
    return lines


def test_the_command_compares_and_exports(run: Store, tmp_path: Path, said: list[str]) -> None:
    page, file = tmp_path / "diff.html", tmp_path / "low.npy"
    assert command(run.uri, "--diff", "low", "high", "--to", page, "--json").exit_code == 0
    assert json.loads(said[-1]) == {**TwoSelections(run, "low", "high").data(), "path": str(page)}
    assert page.read_text().startswith("<!doctype html>")
    assert command(run.uri, "--export", "low", "--to", file, "--json").exit_code == 0
    assert json.loads(said[-1]) == {"selection": "low", "rows": len(np.load(file)), "path": str(file)}


@pytest.mark.parametrize(
    ("arguments", "rule"),
    [
        ([], "must be given one of RECIPE, --diff A B and --export NAME"),
        (["--diff", "low", "high", "--export", "low"], "must be given one of"),
        (["--diff", "low", "lw"], "a selection must be one of the run"),
        (["--diff", "low", "low"], "--diff must name two selections"),
        (["--diff", "low", "high", "--to", "{tmp}/x.txt"], "--to must end in .html here"),
        (["--diff", "low", "high", "--to", "{run}/x.html"], "--to must lead outside the run"),
        (["--export", "low"], "--export must come with --to"),
        (["--export", "lw", "--to", "{tmp}/x.npy"], "a selection must be one of the run"),
        (["--export", "low", "--to", "{tmp}/x.csv"], "--to must end in .npy here"),
        (["--export", "low", "--to", "{tmp}/x.npy", "--uid-column", "input.nothing"], "must name a column of texts"),
        (["{tmp}/none.yaml"], "the recipe must be a readable file"),
        (["{tmp}/empty.yaml"], "must have a section selections"),
        (["{tmp}/one.yaml", "filter.min_side=3"], "overrides of `select` must be keys of selections"),
        (["{tmp}/one.yaml", "--to", "{tmp}/x.npy"], "--to and --uid-column must come with"),
    ],
)
def test_a_wrong_command_is_refused(
    run: Store, tmp_path: Path, arguments: list[str], rule: str, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty.yaml").write_text("run_dir: x\n")
    (tmp_path / "one.yaml").write_text("selections: {a: {}}\n")
    result = command(run.uri, *(one.format(tmp=tmp_path, run=run.uri) for one in arguments))
    assert result.exit_code == 2
    assert rule in " ".join((result.output + capfd.readouterr().err).split())


def test_a_selection_that_lacks_shards_is_not_compared(tmp_path: Path) -> None:
    store = selected_run(tmp_path, SELECTIONS)
    store.remove_shard("selections/low", 0)
    with pytest.raises(RunDirError, match="a selection must have all shards"):
        TwoSelections(store, "low", "high")
    with pytest.raises(RunDirError, match="a selection must have all shards"):
        selection_uids(store, "low")


def test_a_column_with_rows_that_have_no_uid_is_refused(tmp_path: Path) -> None:
    store = selected_run(tmp_path, SELECTIONS)
    shard = 0
    planned = store.read_table(shard_file("plan", shard))
    own = pa.StructArray.from_arrays([pa.array(["x"] * len(planned))], names=["theirs"])
    store.write_table(
        shard_file("plan", shard), planned.set_column(planned.schema.get_field_index("input"), "input", own)
    )
    with pytest.raises(UserError, match="32 hex digits in every row"):
        selection_uids(store, "default", "input.theirs")
