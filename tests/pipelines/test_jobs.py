"""Small jobs on the session's Ray, for what one large run cannot show."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from img2dataset_needed import needs_img2dataset

from curation.results.rows import write_rows
from pairmill.errors import RecipeError, RunDirError
from pairmill.store import Store
from pipelines.curate import curate
from pipelines.demo_server import demo_server
from pipelines.invocations import Invocation
from pipelines.recipe import CurateRecipe, parse_recipe

pytestmark = pytest.mark.ray

STEMS = ["1f22f", "1f351", "1f404", "1f477", "1f4e8", "1f603"]


@pytest.fixture(scope="module")
def server(local_ray: None) -> Iterator[str]:
    with demo_server() as base_url:
        yield base_url


@pytest.fixture
def make(tmp_path: Path, server: str) -> Callable[..., CurateRecipe]:
    def recipe(rows: list[tuple[str, str]], *overrides: str, **columns: list[object]) -> CurateRecipe:
        urls = [url if "://" in url else server + url for url, _ in rows]
        pq.write_table(pa.table({"url": urls, "text": [t for _, t in rows], **columns}), tmp_path / "list.parquet")
        text = json.dumps(
            {
                "run_dir": str(tmp_path / "run"),
                "input": {"path": str(tmp_path / "list.parquet")},
                "shards": {"rows_per_shard": 4},
                "download": {"allow_networks": ["127.0.0.0/8"], "timeout_s": 5, "retries": 0, "backoff_s": 0.05},
                "filter": {"min_words": 1, "min_characters": 1},
            }
        )
        return parse_recipe(text, overrides)

    return recipe


def rows_of(recipe: CurateRecipe, tmp_path: Path) -> list[dict[str, Any]]:
    write_rows(Store(recipe.run_dir), tmp_path / "rows.parquet", selection=recipe.deduplicate.name)
    return pq.read_table(tmp_path / "rows.parquet").to_pylist()


def check_accounts(report: dict[str, Any], rows: int) -> None:
    assert report["rows_in"] == rows
    assert report["rows_kept"] + sum(n for s in report["stages"] for n in s["dropped"].values()) == rows


def counts(server: str) -> dict[str, int]:
    with urllib.request.urlopen(f"{server}/_count") as answer:
        return dict(json.load(answer))


def test_every_row_broken(make: Callable[..., CurateRecipe], tmp_path: Path) -> None:
    broken = [
        "/missing/a.webp",
        "/empty/1f34e.webp",
        "/html/1f34e.webp",
        "http://10.0.0.1/a.png",
        "no url",
        "",
        "/bomb/x",
    ]
    report = curate(make([(url, "a broken row") for url in broken]))
    check_accounts(report, len(broken))
    assert report["rows_kept"] == 0
    product = pq.read_table(Path(report["run_dir"]) / "pairs" / "part-000000.parquet")
    assert len(product) == 0
    assert {"image", "caption", "texts"} <= set(product.schema.names)


def test_rows_that_failed_for_now_are_fetched_again_and_no_others(
    make: Callable[..., CurateRecipe], tmp_path: Path, server: str
) -> None:
    rows = [(f"/images/{STEMS[0]}.webp", "one"), (f"/flaky/{STEMS[1]}.webp", "two"), ("/missing/x.webp", "three")]
    rows += [(f"/images/{stem}.webp", stem) for stem in STEMS[2:]]
    recipe = make(rows)
    first = curate(recipe)
    assert [r["status"] for r in rows_of(recipe, tmp_path)][:3] == ["success", "http_server_error", "http_client_error"]
    asked = counts(server)
    again = curate(recipe, retry_failed=True)
    assert [r["status"] for r in rows_of(recipe, tmp_path)][:3] == ["success", "success", "http_client_error"]
    assert again["rows_kept"] == first["rows_kept"] + 1
    check_accounts(again, len(rows))
    more = {path for path, n in counts(server).items() if n > asked.get(path, 0)}
    assert more - {"/robots.txt", "/.well-known/tdmrep.json"} == {f"/flaky/{STEMS[1]}.webp"}


def test_the_users_expression_sees_the_users_columns(make: Callable[..., CurateRecipe], tmp_path: Path) -> None:
    rows = [(f"/images/{stem}.webp", "a text") for stem in STEMS[:3]]
    recipe = make(rows, "filter.where=similarity > 0.3 and width >= 100", similarity=[0.1, 0.5, None], width=[1, 2, 3])
    curate(recipe)
    found = rows_of(recipe, tmp_path)
    assert [r["drop_reason"] for r in found] == ["where", None, "where"]
    assert [r["similarity"] for r in found] == [0.1, 0.5, None]
    assert [r["width"] for r in found] == [1, 2, 3]


def test_a_changed_filter_fetches_nothing(make: Callable[..., CurateRecipe], tmp_path: Path, server: str) -> None:
    rows = [(f"/images/{stem}.webp", f"text {i}") for i, stem in enumerate(STEMS)]
    assert curate(make(rows))["rows_kept"] == len(STEMS)
    asked = counts(server)
    report = curate(make(rows, "filter.min_words=3"))
    assert report["rows_kept"] == 0
    check_accounts(report, len(STEMS))
    assert curate(make(rows))["rows_kept"] == len(STEMS)
    assert counts(server) == asked


@needs_img2dataset
def test_img2datasets_own_downloader_and_resizer(make: Callable[..., CurateRecipe], tmp_path: Path) -> None:
    rows = [(f"/images/{STEMS[0]}.webp", "one"), ("/missing/x.webp", "two"), ("http://10.0.0.1/a.png", "three")]
    recipe = make(rows, "download.engine=img2dataset", "image.resize=border", "image.size=128")
    check_accounts(curate(recipe), 3)
    found = rows_of(recipe, tmp_path)
    assert [r["status"] for r in found] == ["success", "http_client_error", "forbidden_address"]
    packed = pq.read_table(Path(recipe.run_dir) / "pairs" / "part-000000.parquet")
    assert (packed["width"][0].as_py(), packed["height"][0].as_py()) == (128, 128)


def test_a_listed_digest_is_never_stored(make: Callable[..., CurateRecipe], tmp_path: Path) -> None:
    import hashlib

    from pipelines.doctor import project_root

    body = (project_root() / "samples" / "emoji" / "images" / f"{STEMS[0]}.webp").read_bytes()
    (tmp_path / "blocked.txt").write_text(hashlib.sha256(body).hexdigest() + "  # a test\n")
    rows = [(f"/images/{stem}.webp", "text") for stem in STEMS[:2]]
    recipe = make(rows, f"download.hash_blocklist={tmp_path / 'blocked.txt'}")
    curate(recipe)
    assert [r["drop_reason"] for r in rows_of(recipe, tmp_path)] == ["hash_blocked", None]
    stored = Store(recipe.run_dir).load("images", 0, ["image", "sha256", "drop_reason"]).to_pylist()
    [blocked] = [r for r in stored if r["drop_reason"] == "hash_blocked"]
    assert blocked["image"] is None
    assert blocked["sha256"] == hashlib.sha256(body).hexdigest()


def test_two_jobs_cannot_work_in_one_run_directory(make: Callable[..., CurateRecipe]) -> None:
    recipe = make([(f"/images/{STEMS[0]}.webp", "text")])
    curate(recipe)
    with Invocation(Store(recipe.run_dir), "another job"), pytest.raises(RunDirError, match="one job at a time"):
        curate(recipe)


def test_without_downloading_only_what_is_there_is_worked_on(make: Callable[..., CurateRecipe], server: str) -> None:
    rows = [(f"/images/{STEMS[0]}.webp", "text")]
    with pytest.raises(RecipeError, match=r"download\.enabled"):
        curate(make(rows, "download.enabled=false"))
    curate(make(rows))
    asked = counts(server)
    assert curate(make(rows, "download.enabled=false", "filter.min_words=2"))["rows_kept"] == 0
    assert counts(server) == asked
