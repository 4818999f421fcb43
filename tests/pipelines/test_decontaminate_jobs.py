"""Evaluation sets in a job: rows are compared without a fetch, and another set makes its own table again alone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from demo_job import DemoJob

from curation.decontamination.item_fingerprints import load_reference
from pairmill.store import Store
from pipelines.curate import curate
from pipelines.demo_rows import demo_rows
from pipelines.demo_server import demo_server

pytestmark = pytest.mark.ray


class Held(DemoJob):
    def rows(self, table: str, *columns: str) -> pa.Table:
        store = Store(str(self.folder / "run"))
        return pa.concat_tables([store.load(table, n, ["uid", *columns]) for n in sorted(store.index("plan"))])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, local_ray: None) -> Iterator[Held]:
    folder = tmp_path_factory.mktemp("decontaminated")
    with demo_server() as base_url:
        rows = demo_rows(base_url)
        plain = rows.filter(pc.is_in(rows["case"], pa.array(["plain", "copy", "reencoded"])))
        pq.write_table(plain.slice(0, 120), folder / "urls.parquet")
        held = Held(folder, base_url)
        curate(held.recipe())
        yield held


def contents(held: Held, *tables: str) -> dict[str, Any]:
    store = Store(str(held.folder / "run"))
    return {name: store.index(name) for name in tables}


def test_rows_of_a_set_are_found_without_a_fetch_and_dropped_by_a_selection(run: Held) -> None:
    pictures = pa.concat_tables([run.rows("images", "image", "sha256", "phash")]).filter(
        pc.is_valid(run.rows("images", "image")["image"])
    )
    held_out = [pictures["image"][at].as_py() for at in (0, 9, 25)]
    for name, some in (("small", held_out), ("other", held_out[:1])):
        (run.folder / name).mkdir()
        for number, data in enumerate(some):
            (run.folder / name / f"{number}.jpg").write_bytes(data)
    (run.folder / "small" / "broken.jpg").write_bytes(b"\xff\xd8\xff broken")
    asked = run.asked()
    sets = {name: {"path": str(run.folder / name)} for name in ("small", "other")}
    selections = {"clean": {"decontaminate": ["small"]}, "both": {"decontaminate": ["small", "other"]}}
    report = curate(run.recipe(decontaminate=sets, selections=selections, pack={"selection": "clean"}))
    assert run.asked() == asked and report["complete"]
    assert report["rows_in"] == report["rows_kept"] + report["rows_dropped"]
    (selecting,) = (stage for stage in report["stages"] if stage["name"] == "select")
    found = run.rows("columns/decontaminate-small", "contaminated_small", "match_count_small")
    matched = set(found["uid"].filter(found["contaminated_small"].is_valid()).to_pylist())
    assert {pictures["uid"][at].as_py() for at in (0, 9, 25)} <= matched
    assert selecting["dropped"]["contaminated_small"] == len(matched) < 20
    clean = run.rows("selections/clean", "keep", "reason")
    assert set(clean["uid"].filter(pc.equal(clean["reason"], "contaminated_small")).to_pylist()) == matched
    store = Store(str(run.folder / "run"))
    assert load_reference(store, "small")["status"].to_pylist().count("success") == 3
    assert len(load_reference(store, "small")) == 4

    # Another picture in one set: its table and what is made of it, and nothing else.
    names = (
        "images",
        "columns/filter",
        "columns/decontaminate-small",
        "columns/decontaminate-other",
        "references/other",
    )
    before = contents(run, *names)
    shutil.copy(run.folder / "small" / "0.jpg", run.folder / "small" / "9.jpg")
    curate(run.recipe(decontaminate=sets, selections=selections, pack={"selection": "clean"}))
    after = contents(run, *names)
    assert run.asked() == asked
    assert [name for name in names if after[name] != before[name]] == ["columns/decontaminate-small"]


@pytest.mark.parametrize(
    "point",
    [
        "evaluation_set.piece:kill@1",
        "commit.references/held.data.before_rename:kill@1",
        "commit.references/held.manifest.before_rename:kill-driver@1",
        "commit.columns/decontaminate-held.manifest.before_rename:kill-driver@2",
    ],
)
def test_a_job_that_is_killed_while_it_compares_resumes_to_the_same_tables(run: Held, point: str) -> None:
    images = run.rows("images", "image")["image"].drop_null()
    if not (held := run.folder / "held").is_dir():
        held.mkdir()
        for number in (3, 30):
            (held / f"{number}.jpg").write_bytes(images[number].as_py())
    sections: dict[str, Any] = {
        "decontaminate": {"held": {"path": str(held)}},
        "selections": {"unseen": {"decontaminate": "held"}},
        "pack": {"selection": "unseen"},
    }
    name = f"killed-{point.replace('/', '-')}"
    for one in (name, "whole"):
        if not (run.folder / one).is_dir():
            shutil.copytree(run.folder / "run", run.folder / one)
    (faults := run.folder / f"{name}-faults").mkdir()
    recipe = run.folder / f"{name}.yaml"
    recipe.write_text(run.recipe(name, **sections).to_yaml())
    armed = {"PAIRMILL_FAULTS": point, "PAIRMILL_FAULTS_DIR": str(faults)}
    command = [sys.executable, "-m", "pipelines", "curate", str(recipe), "--json"]
    # In a session of its own: Ray ends the whole process group of a worker that was killed.
    done = subprocess.run(command, env=os.environ | armed, capture_output=True, check=False, start_new_session=True)
    assert done.returncode == (-9 if "kill-driver" in point else 0), done.stderr[-2000:]
    [passes] = faults.glob("*.passes")
    assert passes.stat().st_size >= int(point.partition("@")[2])
    asked = run.asked()
    assert curate(run.recipe(name, **sections), yes=True)["complete"]
    curate(run.recipe("whole", **sections), yes=True)
    assert run.asked() == asked
    store, whole = Store(str(run.folder / name)), Store(str(run.folder / "whole"))
    for made in ("references/held", "columns/decontaminate-held", "selections/unseen", "pairs"):
        contents = [{number: entry.content for number, entry in one.index(made).items()} for one in (store, whole)]
        assert contents[0] == contents[1] and contents[0]
    found = store.load("columns/decontaminate-held", 0, ["contaminated_held"])["contaminated_held"]
    assert "near_image" in found.to_pylist()  # stored pictures are other bytes than those that were fetched
