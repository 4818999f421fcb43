"""What a probe of the embeddings found, in the report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from run_fixture import make_run

from curation.embedding.source_probe import probe_file, probe_groups
from curation.results.report import write_report
from pairmill.config import digest
from pairmill.store import Store


def probed(store: Store, apart: float) -> dict[str, Any]:
    """The result of a probe of pictures of two sites, `apart` in one dimension."""
    rng = np.random.default_rng(3)
    groups = ["<b>site</b>", "other"] * 200
    vectors = rng.normal(size=(400, 6))
    vectors[:, 0] += np.where(np.arange(400) % 2, apart, -apart)
    found = probe_groups(vectors.astype(np.float16), groups, [f"{n:032x}" for n in range(400)])
    content = digest([entry.content for _, entry in sorted(store.index("columns/embed-x").items())])
    about = {"embedding": "x", "model": "m", "by": "input.site", "selection": None, "content": content}
    store.write_json(probe_file("x"), {**about, **found})
    return found


@pytest.mark.parametrize(("apart", "word"), [(3.0, "told apart"), (0.0, "not told apart")])
def test_the_report_shows_how_well_groups_are_told_apart(tmp_path: Path, apart: float, word: str) -> None:
    store = make_run(tmp_path, upto="select")
    found = probed(store, apart)
    [shown] = write_report(store)["probes"]
    assert shown["accuracy"] == found["accuracy"] and not shown["outdated"]
    page = store.read_text("report.html") or ""
    assert f">{word}<" in page and "&lt;b&gt;site&lt;/b&gt;" in page and "<b>site</b>" not in page
    assert f"{100 * found['accuracy']:.1f} %" in page and "were made again" not in page


def test_it_says_when_the_embeddings_are_others_now(tmp_path: Path) -> None:
    store = make_run(tmp_path, upto="select")
    probed(store, 3.0)
    uids = store.load("plan", 0)["uid"]
    store.commit("columns/embed-x", 0, "0" * 16, pa.table({"uid": uids}), {})
    assert write_report(store)["probes"][0]["outdated"]
    assert "The embeddings were made again since." in (store.read_text("report.html") or "")


def test_a_run_that_nothing_was_probed_of_has_no_such_section(tmp_path: Path) -> None:
    store = make_run(tmp_path, upto="select")
    assert write_report(store)["probes"] == []
    assert "tell the source" not in (store.read_text("report.html") or "")
