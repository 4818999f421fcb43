"""Another policy for a run whose sources are gone: nothing is fetched, and no picture is lost that it allows."""

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
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from pairmill.config import POLICY, marked
from pairmill.store import Store
from pipelines.consent import ConsentError
from pipelines.curate import curate
from pipelines.demo import RECIPE
from pipelines.demo_rows import demo_rows
from pipelines.demo_server import demo_server
from pipelines.recipe import CurateRecipe, load_recipe

pytestmark = pytest.mark.ray

#: Special rows of the demo's list that are quick to fail, or not to.
CASES = (
    *("redirect", "animated", "oriented", "mistyped", "opt-out", "private", "copy", "reencoded", "thumbnail"),
    *("missing", "html", "bomb", "redirect-loop", "redirect-private", "truncated", "endless", "forbidden-address"),
)

#: The run that later policies are held against obeys nothing, so that all is there that one may forbid.
PERMISSIVE = ("download.respect_robots=false", "download.respect_opt_out=false")
QUICK = ("recaption.enabled=false", "translate.enabled=false", "shards.rows_per_shard=60", "pack.rows_per_part=50")


class Site(NamedTuple):
    """A list of URLs, and a run of it."""

    folder: Path
    port: int

    def recipe(self, run: str, *more: str) -> CurateRecipe:
        paths = [f"run_dir={self.folder / run}", f"input.path={self.folder / 'urls.parquet'}"]
        return load_recipe(RECIPE, [*paths, *QUICK, *PERMISSIVE, *more])

    def copied(self, run: str, to: str) -> Store:
        shutil.copytree(self.folder / run, self.folder / to)
        return Store(str(self.folder / to))

    def asked(self) -> Counter[str]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/_count") as answer:
            return Counter(json.load(answer))


def some_rows(base_url: str) -> pa.Table:
    rows = demo_rows(base_url)
    plain = rows.filter(pc.equal(rows["case"], "plain")).slice(0, 60)
    special = rows.filter(pc.is_in(rows["case"], pa.array(CASES)))
    return pa.concat_tables([plain, special])


def pairs(store: Store) -> pa.Table:
    parts = sorted(Path(store.path("pairs")).glob("part-*.parquet"))
    return pa.concat_tables([pq.read_table(part) for part in parts]).sort_by("uid")


def kept(store: Store) -> set[str]:
    return set(pairs(store)["uid"].to_pylist())


def images(store: Store) -> pa.Table:
    return pa.concat_tables([store.load("images", shard) for shard in sorted(store.index("images"))])


def stage(report: dict[str, Any], name: str) -> dict[str, Any]:
    return next(one for one in report["stages"] if one["name"] == name)


def held(store: Store) -> bytes:
    """Every byte under the run; encoded pictures are stored as they are."""
    return b"".join(file.read_bytes() for file in Path(store.uri).rglob("*") if file.is_file())


@pytest.fixture(scope="module")
def gone(tmp_path_factory: pytest.TempPathFactory, local_ray: None) -> Site:
    """A permissive run `run` and a strict one, `strict`, whose server does not answer any more."""
    folder = tmp_path_factory.mktemp("gone")
    with demo_server() as base_url:
        site = Site(folder, int(base_url.rpartition(":")[2]))
        pq.write_table(some_rows(base_url), folder / "urls.parquet")
        assert curate(site.recipe("run"))["complete"]
        assert curate(site.recipe("strict", *STRICT))["complete"]
    return site


#: A policy that forbids something of every kind, but for what the whole site would fall under.
STRICT = (
    *("download.respect_robots=true", "download.respect_opt_out=true", "download.max_redirects=0"),
    *("download.max_bytes=40000", "image.max_frames=1"),
)


def forbidden_by(key: str, rows: pa.Table) -> list[bool]:
    """Which rows a policy of `POLICIES` forbids, by the demo's own URLs and the pictures' own measures."""
    folder = [urlsplit(url).path.split("/")[1] for url in rows["url"].to_pylist()]
    sizes = rows["original_bytes"].to_pylist()
    names = ("original_width", "original_height", "width", "height")
    sides = zip(*(rows[name].to_pylist() for name in names), strict=True)
    # A picture may be stored larger than it was; that is not to be made either.
    pixels = [max((w or 0) * (h or 0), (stored_w or 0) * (stored_h or 0)) for w, h, stored_w, stored_h in sides]
    return {
        "download.respect_robots": [f == "private" for f in folder],
        "download.respect_opt_out": [f == "opt-out" for f in folder],
        "download.max_redirects": [f == "redirect" for f in folder],
        "download.max_bytes": [(size or 0) > 6000 for size in sizes],
        "download.allow_networks": [True] * len(rows),
        "download.allow_ports": [False] * len(rows),  # who vouched for a network vouched for its ports
        "image.max_frames": [f == "animated" for f in folder],
        "image.max_pixels": [p > 60_000 for p in pixels],
        "download.user_agent": [False] * len(rows),
        "download.timeout_s": [False] * len(rows),
    }[key]


POLICIES = {
    "download.respect_robots": ("true", "robots_disallowed"),
    "download.respect_opt_out": ("true", "opt_out"),
    "download.max_redirects": ("0", "redirect_error"),
    "download.max_bytes": ("6000", "too_large"),
    "download.allow_networks": ("[]", "forbidden_address"),
    "download.allow_ports": ("[443]", None),
    "image.max_frames": ("1", "too_many_frames"),
    "image.max_pixels": ("60000", "too_many_pixels"),
}
#: Keys of the same sections that forbid nothing.
NO_POLICIES = {
    "download.user_agent": ("pairmill/9 (+mailto:another@example.com)", None),
    "download.timeout_s": ("3", None),
}


def test_every_policy_is_here() -> None:
    sections = {name: field.annotation for name, field in CurateRecipe.model_fields.items()}
    policies = {
        f"{name}.{key}"
        for name, section in sections.items()
        for key, field in getattr(section, "model_fields", {}).items()
        if marked(field, POLICY)
    }
    assert policies == {*POLICIES, "download.hash_blocklist"}  # what the list does is below


@pytest.mark.parametrize("key", [*POLICIES, *NO_POLICIES])
def test_a_policy_is_held_against_what_is_known(gone: Site, key: str) -> None:
    store = gone.copied("run", f"by-{key}")
    before, pictures, index = kept(store), images(store), store.index("images")
    value, reason = {**POLICIES, **NO_POLICIES}[key]
    report = curate(gone.recipe(f"by-{key}", f"{key}={value}"))
    assert report["complete"]
    assert store.index("images") == index
    assert images(store).equals(pictures)
    planned = pa.concat_tables([store.load("plan", shard) for shard in sorted(store.index("images"))])
    rows = pictures.append_column("url", planned["url"])
    forbids = dict(zip(rows["uid"].to_pylist(), forbidden_by(key, rows), strict=True))
    after = kept(store)
    assert {uid for uid in before if not forbids[uid]} <= after
    assert not {uid for uid in after if forbids[uid]}
    dropped = stage(report, "policy")["dropped"]
    assert set(dropped) == ({reason} if reason else set())
    good = rows.filter(pc.equal(rows["status"], "success"))["uid"].to_pylist()
    assert sum(dropped.values()) == sum(forbids[uid] for uid in good)
    assert reason is None or dropped[reason] > 0


def test_taking_a_policy_back_brings_the_rows_back(gone: Site) -> None:
    store = gone.copied("run", "back")
    before = pairs(store)
    curate(gone.recipe("back", *STRICT))
    assert len(kept(store)) < len(before)
    curate(gone.recipe("back"))
    assert pairs(store).equals(before)


def test_a_policy_applied_later_gives_what_it_gives_from_the_start(gone: Site) -> None:
    store, strict = gone.copied("run", "later"), Store(str(gone.folder / "strict"))
    curate(gone.recipe("later", *STRICT))
    assert len(pairs(strict)) > 20
    assert pairs(store).equals(pairs(strict))


def test_running_again_changes_nothing(gone: Site) -> None:
    store = gone.copied("run", "again")
    names = ("images", "columns/policy", "columns/filter", "selections/default", "pairs")
    before = {name: store.manifests(name) for name in names}
    curate(gone.recipe("again"))
    assert {name: store.manifests(name) for name in names} == before


# What must not be kept


def blocked(gone: Site, run: str) -> tuple[Path, list[dict[str, Any]]]:
    """A block list of two kept pictures that no other row has or resembles, and their rows."""
    store = Store(str(gone.folder / run))
    selection = pa.concat_tables([store.load("selections/default", shard) for shard in sorted(store.index("images"))])
    alone = selection.filter(pc.and_(selection["keep"], selection["duplicate_group"].is_null()))["uid"]
    times = Counter(images(store)["sha256"].to_pylist())
    rows = pairs(store)
    rows = [row for row in rows.filter(pc.is_in(rows["uid"], alone)).to_pylist() if times[row["sha256"]] == 1][10:12]
    path = gone.folder / f"{run}-blocklist.txt"
    path.write_text("".join(f"{row['sha256']}\n" for row in rows))
    return path, rows


def test_a_picture_on_the_block_list_is_erased(gone: Site) -> None:
    store = gone.copied("run", "erased")
    path, rows = blocked(gone, "erased")
    assert all(row["image"]["bytes"] in held(store) for row in rows)
    before = pairs(store)
    report = curate(gone.recipe("erased", f"download.hash_blocklist={path}"))
    assert stage(report, "download")["dropped"]["hash_blocked"] == len(rows)
    everything = held(store)
    assert not any(row["image"]["bytes"] in everything for row in rows)
    uids = pa.array([row["uid"] for row in rows])
    assert pairs(store).equals(before.filter(pc.invert(pc.is_in(before["uid"], uids))))
    found = images(store)
    found = found.filter(pc.is_in(found["uid"], uids))
    assert set(found["sha256"].to_pylist()) == {row["sha256"] for row in rows}
    assert found["image"].null_count == found["phash"].null_count == len(rows)
    # Taking it off the list does not bring the picture back; a retry would.
    report = curate(gone.recipe("erased"))
    assert report["policy"]["retry"]["allowed"] == {"hash_blocked": 2}
    assert len(pairs(store)) == len(before) - 2


@pytest.mark.parametrize(
    "point",
    [
        "rewrite.images.data.before_rename:kill@1",
        "rewrite.images.data.after_rename:kill-driver@1",
        "rewrite.images.manifest.before_rename:kill-driver@1",
        "commit.columns/policy.manifest.before_rename:kill-driver@1",
    ],
)
def test_killed_while_it_erases_it_ends_the_same(gone: Site, point: str) -> None:
    name = f"killed-{point.replace('/', '-')}"
    store, expected = gone.copied("run", name), Store(str(gone.folder / "expected"))
    path, rows = blocked(gone, name)
    change = f"download.hash_blocklist={path}"
    if not Path(expected.uri).exists():
        gone.copied("run", "expected")
        curate(gone.recipe("expected", change))
    faults = gone.folder / f"{name}-faults"
    faults.mkdir()
    recipe = gone.folder / f"{name}.yaml"
    recipe.write_text(gone.recipe(name, change).to_yaml())
    armed = {"PAIRMILL_FAULTS": point, "PAIRMILL_FAULTS_DIR": str(faults)}
    command = [sys.executable, "-m", "pipelines", "curate", str(recipe), "--json"]
    # In a session of its own: Ray ends the whole process group of a worker that was killed.
    done = subprocess.run(command, env=os.environ | armed, capture_output=True, check=False, start_new_session=True)
    assert done.returncode in (0, -9), done.stderr[-2000:]
    assert list(faults.glob("*.passes"))
    report = curate(gone.recipe(name, change))
    assert report["complete"]
    # Nothing is left to be made again because of the kill.
    assert store.index("columns/policy") == expected.index("columns/policy")
    assert images(store).equals(images(expected))
    assert pairs(store).equals(pairs(expected))
    everything = held(store)
    assert not any(row["image"]["bytes"] in everything for row in rows)
    assert store.names("rewriting") == []


# What would be fetched again


def test_nothing_is_fetched_again_unasked(gone: Site) -> None:
    store = gone.copied("run", "unasked")
    before = {str(f): f.read_bytes() for f in Path(store.uri).rglob("*") if f.is_file()}
    pictures = sum(status == "success" for status in images(store)["status"].to_pylist())
    with pytest.raises(ConsentError) as error:
        curate(gone.recipe("unasked", "image.size=64"))
    assert f"{pictures:,} results would be made again" in str(error.value.value)
    assert "kB" in str(error.value.value)
    assert "--yes" in error.value.fix
    assert {str(f): f.read_bytes() for f in Path(store.uri).rglob("*") if f.is_file()} == before


def test_a_refetch_that_fails_keeps_every_picture_and_a_retry_makes_them_anew(gone: Site) -> None:
    store = gone.copied("run", "refetched")
    before, was = pairs(store), images(store)
    recipe = gone.recipe("refetched", "image.size=64", "download.timeout_s=3", "download.retries=0")
    report = curate(recipe, yes=True)
    assert report["complete"]
    assert pairs(store).equals(before)
    assert images(store).equals(was)
    earlier = sum(status == "success" for status in was["status"].to_pylist())
    assert sum(report["policy"]["retry"]["earlier"].values()) == earlier
    # The pictures say by what they were made, so the next run asks for nothing and loses nothing.
    again = curate(recipe)
    assert (again["complete"], pairs(store).equals(before)) == (True, True)
    with demo_server(gone.port):
        made = curate(gone.recipe("refetched", "image.size=64"), retry_failed=True)
    assert made["complete"]
    assert made["policy"]["retry"]["earlier"] == {}
    sizes = images(store)
    sizes = sizes.filter(pc.equal(sizes["status"], "success"))
    assert set(pc.min_element_wise(sizes["width"], sizes["height"]).to_pylist()) == {64}
    assert kept(store) == set(before["uid"].to_pylist())


def test_a_row_that_was_fetched_is_kept_even_if_its_commit_was_taken_back(gone: Site) -> None:
    store = gone.copied("run", "uncommitted")
    before, was = pairs(store), images(store)
    for shard in store.index("images"):
        store.retract("images", shard)  # as a retry leaves it that is killed before its commit
    assert curate(gone.recipe("uncommitted"))["complete"]
    assert images(store).drop_columns(["elapsed_s"]).equals(was.drop_columns(["elapsed_s"]))
    assert pairs(store).equals(before)


# What a policy permits


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory, local_ray: None) -> Iterator[Site]:
    """A strict run of a server that answers."""
    folder = tmp_path_factory.mktemp("there")
    with demo_server() as base_url:
        site = Site(folder, int(base_url.rpartition(":")[2]))
        pq.write_table(some_rows(base_url), folder / "urls.parquet")
        curate(site.recipe("run", *STRICT))
        yield site


def test_a_policy_that_permits_more_makes_nothing_stale_and_a_retry_fetches_what_it_allows(there: Site) -> None:
    store = there.copied("run", "permits")
    index, asked = store.index("images"), there.asked()
    report = curate(there.recipe("permits"))
    assert store.index("images") == index
    assert there.asked() == asked
    before = fates(store)
    refused = Counter(status for _, status in before.values())
    names = ("opt_out", "robots_disallowed", "too_many_frames", "too_large", "redirect_error")
    assert report["policy"]["retry"]["allowed"] == {name: refused[name] for name in names}
    assert all(refused[name] for name in names)

    report = curate(there.recipe("permits"), retry_failed=True)
    after = fates(store)
    good = Counter(path.split("/")[1] for path, status in after.values() if status == "success")
    gained = set(good - Counter(path.split("/")[1] for path, status in before.values() if status == "success"))
    assert gained >= {"opt-out", "private", "redirect", "animated"}
    assert {uid for uid, (_, status) in before.items() if status == "success"} <= kept_pictures(store)
    # Endless bodies and loops do not fit the wider limits either, and are not offered again.
    assert report["policy"]["retry"]["allowed"] == {}
    again = {path for path, status in before.values() if status in (*names, "truncated", "timeout", "too_slow")}
    led = {path.replace("/redirect/", "/images/") for path in again}
    site_files = {"/robots.txt", "/.well-known/tdmrep.json"}
    assert set(there.asked() - asked) <= again | led | site_files
    assert again <= set(there.asked() - asked)


def fates(store: Store) -> dict[str, tuple[str, str]]:
    """uid -> path of the URL, and status."""
    planned = pa.concat_tables([store.load("plan", shard) for shard in sorted(store.index("images"))])
    paths = [urlsplit(url).path for url in planned["url"].to_pylist()]
    found = zip(paths, images(store)["status"].to_pylist(), strict=True)
    return dict(zip(planned["uid"].to_pylist(), found, strict=True))


def kept_pictures(store: Store) -> set[str]:
    rows = images(store)
    return set(rows.filter(pc.is_valid(rows["image"]))["uid"].to_pylist())
