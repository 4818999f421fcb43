"""Ten kept rows of the demo are forgotten: nothing of them is left, and no job and no longer list brings them back."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from traces import of_rows, traces

from curation.duplicates.near_duplicate_image import bit_count
from curation.forget.tombstones import Tombstones
from curation.results.export import export_img2dataset, export_webdataset
from curation.results.report import build_report
from curation.results.rows import write_rows
from pairmill.layout import PAIRS
from pairmill.store import Store
from pipelines.curate import curate
from pipelines.demo import RECIPE
from pipelines.demo_rows import demo_rows
from pipelines.demo_server import demo_server
from pipelines.doctor import project_root
from pipelines.extend import extend_run
from pipelines.recipe import CurateRecipe, load_recipe

pytestmark = pytest.mark.ray

#: Kills before, between and behind the rewriting of tables, parts and copies.
#: The second pass at most: which shards the ten rows are in depends on the port of the server.
POINTS = (
    "forget.tombstones.after_rename:kill@1",
    "rewrite.columns/recaption.data.after_rename:kill@2",
    "rewrite.images.manifest.before_write:kill@2",
    "commit.pairs.data.before_rename:kill@1",
    "forget.copy:kill@2",
)
#: What every job writes.
WRITTEN = ("recipe.yaml", "recipe-copy.yaml", "report.json", "report.html")
#: Bits in which the pictures of rows that are alone differ from all others; the recipe takes 3 for near.
FAR = 12


class Demo(NamedTuple):
    """The demo's run as it was finished, with two exports.

    gone: the ten rows.  asked: as they are asked for on the command line.
    """

    folder: Path
    recipe: CurateRecipe
    base_url: str
    rows: pa.Table
    gone: list[dict[str, Any]]
    asked: list[str]

    @property
    def run(self) -> Path:
        return self.folder / "run"

    @property
    def uids(self) -> set[str]:
        return {row["uid"] for row in self.gone}


def alone(store: Store, pairs: pa.Table, folder: str) -> list[dict[str, Any]]:
    """Kept rows whose pictures are like no other's, of any row, and whose URLs are in a folder of the server."""
    tables = [store.load("images", shard, ["uid", "phash"]) for shard in store.index("images")]
    images = pa.concat_tables(tables).filter(pc.is_valid(pa.concat_tables(tables)["phash"]))
    hashes = images["phash"].to_numpy()
    found = []
    for row in pairs.to_pylist():
        bits = bit_count(hashes ^ np.uint64(row["phash"]))
        if (bits < FAR).sum() == 1 and f"/{folder}/" in row["url"]:
            found.append(row)
    return found


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory, local_ray: None) -> Iterator[Demo]:
    folder = tmp_path_factory.mktemp("forget")
    with demo_server() as base_url:
        rows = demo_rows(base_url)
        pq.write_table(rows, folder / "urls.parquet")
        overrides = [
            f"run_dir={folder / 'run'}",
            f"input.path={folder / 'urls.parquet'}",
            f"recaption.model={project_root() / 'samples' / 'models' / 'captioner'}",
            "translate.enabled=false",
            "pack.rows_per_part=200",
        ]
        recipe = load_recipe(RECIPE, overrides)
        curate(recipe)
        store = Store(recipe.run_dir)
        export_webdataset(store, folder / "exports" / "tars", rows_per_shard=100)
        export_img2dataset(store, folder / "exports" / "parquet", rows_per_shard=100)
        kept = pq.read_table(sorted((folder / "run" / PAIRS).glob("part-*.parquet")))
        # Of the proper pictures, because other folders of the server lead to them, and not to each other.  Which uids
        # come first depends on its port.
        plain = alone(store, kept.drop_columns(["image", "texts"]), "images")
        gone = sorted(plain, key=lambda row: row["uid"])[:10]
        asked = [f"--uid={row['uid']}" for row in gone[:4]] + [f"--url={row['url']}" for row in gone[4:8]]
        listed = folder / "takedown.txt"
        listed.write_text("".join(f"{row['sha256']}\n" for row in gone[8:]))
        yield Demo(folder, recipe, base_url, rows, gone, [*asked, f"--from={listed}"])


def counts(demo: Demo) -> Counter[str]:
    with urllib.request.urlopen(f"{demo.base_url}/_count") as answer:
        return Counter(json.load(answer))


def state(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


def forget(folder: Path, asked: list[str], faults: str = "", yes: bool = True) -> subprocess.CompletedProcess[str]:
    """The command, on the run and the exports of a folder."""
    also = [f"--also={folder / 'exports' / name}" for name in ("tars", "parquet")]
    command = [sys.executable, "-m", "pipelines", "forget", str(folder / "run"), *asked, *also, "--json"]
    environment = {**os.environ, "PAIRMILL_FAULTS": faults, "PAIRMILL_FAULTS_DIR": str(folder)}
    return subprocess.run(
        [*command, *(["--yes"] if yes else [])], env=environment, capture_output=True, text=True, check=False
    )


def ended(folder: Path) -> dict[str, Any]:
    """All that is in the run and the exports, but for the time of day and where the run lies."""
    found: dict[str, Any] = {}
    for name, data in state(folder).items():
        if name.startswith("run/plan/plan"):
            found[name] = {k: v for k, v in json.loads(data).items() if k not in ("forgotten", "check")}
        elif name in ("run/forgotten.parquet", "run/forgotten-copy.parquet"):
            found[name] = Tombstones.read(Store(str(folder / "run"))).table.drop_columns(["at"]).to_pylist()
        elif name == "run/report.json":
            found[name] = {k: v for k, v in json.loads(data).items() if k not in ("run_dir", "runs")}
        elif name.startswith("run/runs/"):
            found[name] = json.loads(data).get("forgot", {}).get("rows")
        elif name.startswith(("run/", "exports/")) and not name.endswith((".lock", "report.html")):
            found[name] = data
    return found


@pytest.fixture(scope="module")
def done(demo: Demo) -> Path:
    """A copy of the run and the exports without the ten rows, and (`before`) what they were."""
    folder = demo.folder / "done"
    for name in ("run", "exports"):
        shutil.copytree(demo.folder / name, folder / name)
    asked = forget(folder, demo.asked, yes=False)
    assert asked.returncode == 2
    assert "nothing was changed" in asked.stderr
    assert ended(folder) == ended(demo.folder)
    said = json.loads(forget(folder, demo.asked).stdout)
    assert (said["rows"], said["rows_kept"], said["same_picture"], said["done"]) == (10, 10, 0, True)
    assert said["recomputed"] == []
    return folder


def test_no_file_holds_the_picture_the_url_or_a_text_of_the_ten(demo: Demo, done: Path) -> None:
    needles = of_rows(demo.run, demo.uids)
    assert {row["url"].encode() for row in demo.gone} <= needles
    assert sum(needle.startswith(b"\xff\xd8") for needle in needles) == 10
    assert traces([demo.run, demo.folder / "exports"], needles).keys() == needles
    assert traces([done], needles) == {}
    report = build_report(Store(str(done / "run")))
    assert (report["rows_in"], report["complete"]) == (len(demo.rows), True)
    assert report["rows_kept"] == build_report(Store(str(demo.run)))["rows_kept"] - 10
    assert report["stages"][0]["dropped"]["forgotten"] == 10


def test_the_rest_is_identical(demo: Demo, done: Path) -> None:
    before, after = state(demo.folder), state(done)
    for name in (n for n in before if n.startswith(("run/", "exports/")) and n.endswith(".parquet")):
        was, now = (pq.read_table(pa.BufferReader(data[name])) for data in (before, after))
        theirs = pa.array(sorted(demo.uids))
        was, now = (t.filter(pc.invert(pc.is_in(t["uid"], theirs))) for t in (was, now))
        assert now.equals(was)
        if len(pq.read_table(pa.BufferReader(before[name]), columns=["uid"])) == len(was):
            assert before[name] == after[name]  # none of the rows in it: the file as it was
    parts = [name for name in after if name.startswith("run/pairs/part-")]
    assert (
        sum(pq.read_metadata(pa.BufferReader(after[n])).num_rows for n in parts)
        == build_report(Store(str(demo.run)))["rows_kept"] - 10
    )


@pytest.mark.parametrize("point", POINTS)
def test_killed_it_ends_the_same(demo: Demo, done: Path, tmp_path: Path, point: str) -> None:
    for name in ("run", "exports"):
        shutil.copytree(demo.folder / name, tmp_path / name)
    assert forget(tmp_path, demo.asked, point).returncode == -9
    if Tombstones.read(Store(str(tmp_path / "run"))).work:
        refused = subprocess.run(
            [sys.executable, "-m", "pipelines", "report", str(tmp_path / "run")], capture_output=True, text=True
        )
        assert refused.returncode == 2
        assert "must be completed before the run is read" in refused.stderr
    assert forget(tmp_path, demo.asked).returncode == 0
    assert ended(tmp_path) == ended(done)


def test_a_job_fetches_and_captions_nothing_for_it(demo: Demo, done: Path) -> None:
    recipe = demo.recipe.model_copy(update={"run_dir": str(done / "run")})
    before, asked = state(done / "run"), counts(demo)
    report = curate(recipe)
    after = state(done / "run")
    assert counts(demo) == asked
    assert report["complete"]
    assert report["stages"][0]["dropped"]["forgotten"] == 10
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    # The selection looked at all rows again, and says the same.
    assert {name.split("/")[0] for name in changed} <= {"selections", "runs", *WRITTEN}
    assert not any(name.startswith("selections/default/shard-") for name in changed)


def test_a_duplicate_takes_the_place_of_a_row_that_is_gone_when_the_job_runs_again(demo: Demo, done: Path) -> None:
    store = Store(str(done / "run"))
    shards = store.index("images")
    shas = pa.concat_tables([store.load("images", shard, ["uid", "sha256"]) for shard in shards]).to_pylist()
    chosen = pa.concat_tables([store.load("selections/default", shard) for shard in shards]).to_pylist()
    lost = {row["uid"] for row in chosen if row["reason"] in ("duplicate_image", "duplicate_pair")}
    twice = Counter(row["sha256"] for row in shas)
    of_lost = {row["sha256"] for row in shas if row["uid"] in lost and twice[row["sha256"]] == 2}
    kept = pq.read_table(sorted((done / "run" / PAIRS).glob("part-*.parquet")), columns=["uid", "sha256"])
    row = next(row for row in kept.to_pylist() if row["sha256"] in of_lost)
    before, captions, asked = build_report(store), state(done / "run" / "columns" / "recaption"), counts(demo)
    said = json.loads(forget(done, [f"--uid={row['uid']}"]).stdout)
    assert (said["rows"], said["same_picture"], said["sha256s"]) == (1, 1, [row["sha256"]])
    assert build_report(store)["rows_kept"] == before["rows_kept"] - 1  # nothing is decided for others
    report = curate(demo.recipe.model_copy(update={"run_dir": str(done / "run")}))
    assert report["rows_kept"] == before["rows_kept"]
    now = pq.read_table(sorted((done / "run" / PAIRS).glob("part-*.parquet")), columns=["uid", "sha256", "caption"])
    [other] = [one for one in now.to_pylist() if one["sha256"] == row["sha256"]]
    assert other["uid"] != row["uid"]
    assert other["caption"]
    assert counts(demo) == asked
    after = state(done / "run" / "columns" / "recaption")
    rewritten = {name for name in after if name.startswith("shard-") and captions.get(name) != after[name]}
    assert 1 <= len(rewritten) <= 2  # where the one row lies, and the other


def test_a_longer_list_does_not_bring_them_back(demo: Demo, done: Path) -> None:
    store = Store(str(done / "run"))
    path = {row["uid"]: row["url"].removeprefix(demo.base_url) for row in demo.gone}
    by_url, by_bytes = demo.gone[4], demo.gone[8]
    stem = {uid: Path(one).name for uid, one in path.items()}
    new = [
        *((row["url"], row["alt"]) for row in demo.gone),  # the rows themselves
        (by_url["url"], "another text for it"),
        (f"{demo.base_url}/redirect/{stem[by_url['uid']]}", "a way that leads to the URL"),
        (f"{demo.base_url}/copy/{stem[by_bytes['uid']]}", "the same bytes under another URL"),
        (f"{demo.base_url}/images/{stem[by_bytes['uid']]}", "the same bytes, another text"),
    ]
    fields = {
        name: pa.nulls(len(new), demo.rows.schema.field(name).type) for name in ("zh", "hexcode", "group", "case")
    }
    pq.write_table(
        pa.table({"url": [u for u, _ in new], "text": [t for _, t in new], **fields}), demo.folder / "more.parquet"
    )
    asked = counts(demo)
    recipe = demo.recipe.model_copy(update={"run_dir": str(done / "run")})
    kept = build_report(store)["rows_kept"]
    report = extend_run(store, recipe, [str(demo.folder / "more.parquet")], {})
    assert (report["rows_in"], report["rows_kept"]) == (len(demo.rows) + 14, kept)
    write_rows(store, demo.folder / "rows.parquet")
    rows = pq.read_table(demo.folder / "rows.parquet").slice(len(demo.rows)).to_pylist()
    assert [row["drop_reason"] for row in rows] == ["forgotten"] * 14
    assert [row["drop_stage"] for row in rows] == ["plan"] * 11 + ["download"] * 3
    fetched = {one for one, n in (counts(demo) - asked).items() if n and one != "/robots.txt"}
    assert not fetched & {path[row["uid"]] for row in demo.gone[:8]}  # the redirect to one of them is not followed
    pictures = {needle for needle in of_rows(demo.run, demo.uids) if needle.startswith(b"\xff\xd8")}
    texts = {row["url"].encode() for row in demo.gone[:8]} | {b"another text for it"}
    assert len(pictures) == 10
    assert traces([done], pictures | texts) == {}
