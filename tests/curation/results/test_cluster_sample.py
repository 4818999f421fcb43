"""Clusters of embeddings in the report: sizes, what is kept of each, and the pictures in their middle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from run_fixture import make_run
from score_tables import add_table

from curation.embedding.vectors import vector_column
from curation.results import cluster_sample
from curation.results.report import build_report, write_report
from pairmill.store import Store

DIRECTIONS = 4


def direction(url: str) -> int:
    """Which of the directions, of which each is half as frequent as the one before, a picture points in."""
    number = int(url.rpartition("/")[2])
    return next(n for n in range(DIRECTIONS) if number % 2 ** (n + 1) or n == DIRECTIONS - 1)


def embedded_run(folder: Path, rows: int = 320, rows_per_shard: int = 50) -> Store:
    """A run with embeddings near some directions; every third row has the same picture as others and is dropped."""
    fates = ["same-x" if n % 3 == 0 else "timeout" if n % 17 == 0 else "ok" for n in range(rows)]
    listed = [{"url": f"http://a.example/{fate}/{n}", "text": f"a ball {n}"} for n, fate in enumerate(fates)]
    store = make_run(folder, listed, rows_per_shard=rows_per_shard, recaption=False, translate=False)
    middles = np.eye(16)[:DIRECTIONS]

    def made(plan: pa.Table, mask: np.ndarray[Any, np.dtype[np.bool_]]) -> dict[str, Any]:
        rng = np.random.default_rng(len(plan))
        near = middles[[direction(url) for url in plan["url"].to_pylist()]] + rng.normal(size=(len(plan), 16)) * 0.02
        near /= np.linalg.norm(near, axis=1, keepdims=True)
        vectors = vector_column(near[mask].astype(np.float16), mask)
        return {"image_embedding_far": vectors, "text_embedding_far": vectors}

    add_table(store, {"embed": {"far": {"model": str(folder / "nowhere")}}}, "embed-far", made)
    return store


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return embedded_run(tmp_path_factory.mktemp("embedded"))


def by_hand(store: Store) -> dict[int, list[tuple[str, bool]]]:
    found: dict[int, list[tuple[str, bool]]] = {n: [] for n in range(DIRECTIONS)}
    for shard in sorted(store.index("plan")):
        plan = store.load("plan", shard).to_pylist()
        drops, kept = store.load("columns/filter", shard), store.load("selections/default", shard)["keep"].to_pylist()
        for at, reason in enumerate(drops["drop_reason"].to_pylist()):
            if reason is None:
                found[direction(plan[at]["url"])].append((plan[at]["uid"], kept[at]))
    return found


def test_clusters_hold_the_rows_of_a_direction(run: Store) -> None:
    [found], expected = build_report(run)["clusters"], by_hand(run)
    assert found["embedding"] == "far" and found["rows"] == sum(map(len, expected.values()))
    clusters = found["clusters"]
    assert [one["rows"] for one in clusters] == sorted((one["rows"] for one in clusters), reverse=True)
    counted = {n: [0, 0] for n in range(DIRECTIONS)}
    for cluster in clusters:
        directions = {direction(row["url"]) for row in cluster["shown"]}
        assert len(directions) == 1
        for at, name in enumerate(("rows", "kept")):
            counted[min(directions)][at] += cluster[name]
    assert counted == {n: [len(rows), sum(kept for _, kept in rows)] for n, rows in expected.items()}


def test_pictures_are_those_nearest_to_the_middle_and_the_page_shows_them(run: Store) -> None:
    report = write_report(run)
    for cluster in report["clusters"][0]["clusters"]:
        assert len(cluster["shown"]) == min(cluster_sample.SHOWN, cluster["rows"])
    page = run.read_text("report.html") or ""
    assert page.count('class="card cluster"') == len(report["clusters"][0]["clusters"]) > 1


def test_they_do_not_depend_on_how_rows_are_divided(run: Store, tmp_path: Path) -> None:
    def plain(store: Store) -> list[tuple[int, int, list[str]]]:
        found = build_report(store)["clusters"][0]["clusters"]
        return [(one["rows"], one["kept"], [row["uid"] for row in one["shown"]]) for one in found]

    # The vectors of another division are drawn anew, but those of one division are the same in any order of reading.
    assert plain(run) == plain(embedded_run(tmp_path))


def test_a_large_run_is_sampled_by_whole_shards(run: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_sample, "SAMPLE", 100)
    [found] = build_report(run)["clusters"]
    shards = {row["shard"] for cluster in found["clusters"] for row in cluster["shown"]}
    assert shards == {0, 3} and found["rows"] < 110


def test_few_rows_have_no_clusters(tmp_path: Path) -> None:
    assert build_report(embedded_run(tmp_path, rows=40))["clusters"] == []
