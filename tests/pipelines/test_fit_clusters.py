"""`pairmill fit-clusters`: centroids of a run or of a file, and references in several forms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_fit_noise import LAYOUTS, TABLE, D, Model, Stage, run

from curation.heads.nearest_clusters import NearestClusters, NearestClustersConfig, nearest_centroids
from pairmill.errors import InputError, RecipeError
from pipelines import fit_clusters as command
from pipelines.fit_clusters import fit_clusters_of


@pytest.fixture(autouse=True)
def embedded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The run's recipe has a model x, whose vectors are up to date."""
    monkeypatch.setattr(command, "embedder", lambda recipe, name: Stage(Model()))
    monkeypatch.setattr(command, "up_to_date", lambda store, recipe, stage: TABLE)


def given(rows: int, seed: int) -> Any:
    return np.random.default_rng(seed).standard_normal((rows, D)).astype(np.float32)


def head(file: Path) -> NearestClusters:
    return NearestClusters.load(NearestClustersConfig(name="clusters", embedding="x", weights=file))


def test_centroids_of_the_run_do_not_depend_on_how_it_is_divided(tmp_path: Path) -> None:
    contents = set()
    for number, cuts in enumerate(LAYOUTS):
        file = tmp_path / f"{number}.safetensors"
        done = fit_clusters_of(run(tmp_path / str(number), cuts), None, "x", file, clusters=5, rows=200)
        assert done["sampled"] == 200 and done["references"] == 0
        contents.add(file.read_bytes())
    assert len(contents) == 1


def test_references_may_be_an_array_a_file_a_folder_and_another_run(tmp_path: Path) -> None:
    store, file = run(tmp_path / "run", [100]), tmp_path / "clusters.safetensors"
    centroids = given(20, 1)
    np.save(tmp_path / "centroids.npy", centroids)
    references = given(6, 2)
    length = np.linalg.norm(references, axis=1, keepdims=True)
    expected = set(nearest_centroids((references / length).astype(np.float16), centroids).tolist())
    np.save(tmp_path / "references.npy", references)
    lists = pa.array([*references.tolist(), None], pa.list_(pa.float32()))
    pq.write_table(pa.table({"name": list("abcdefg"), "vector": lists}), tmp_path / "references.parquet")
    (tmp_path / "other").mkdir()
    both = pa.table({"image_embedding_x": lists, "text_embedding_x": lists.slice(1).take(pa.array([0] * 7))})
    pq.write_table(both.slice(0, 4), tmp_path / "other" / "shard-0.parquet")
    pq.write_table(both.slice(4), tmp_path / "other" / "shard-1.parquet")
    for path in ("references.npy", "references.parquet", "other"):
        done = fit_clusters_of(store, None, "x", file, centroids=tmp_path / "centroids.npy", references=tmp_path / path)
        assert done["references"] == 6 and done["near"] == len(expected) and done["clusters"] == 20
        loaded = head(file)
        assert set(np.flatnonzero(loaded._near).tolist()) == expected
        assert (loaded._centroids == centroids).all()


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({}, "neither"),
        ({"clusters": 3, "centroids": Path("x.npy")}, "both"),
        ({"clusters": 1000}, "as many embedded rows"),
        ({"centroids": Path("missing.npy")}, "--centroids must name"),
        ({"centroids": Path("wide.npy")}, "--centroids must name a file of finite numbers"),
        ({"centroids": Path("flat.npy")}, "--centroids must name a file of finite numbers"),
        ({"clusters": 3, "references": Path("missing.npy")}, "--references must name"),
        ({"clusters": 3, "references": Path("wide.npy")}, f"{D + 1} numbers"),
        ({"clusters": 3, "references": Path("zero.npy")}, "no.* direction|none that has a direction"),
        ({"clusters": 3, "references": Path("words.parquet")}, "no column image_embedding_x"),
        ({"clusters": 3, "references": Path("empty")}, "no .parquet file"),
        ({"clusters": 3, "references": Path("no.parquet")}, "--references must hold"),
    ],
)
def test_mistakes_are_refused_and_nothing_is_written(tmp_path: Path, keys: dict[str, Any], says: str) -> None:
    np.save(tmp_path / "wide.npy", given(4, 0).repeat(2, axis=1)[:, : D + 1])
    np.save(tmp_path / "flat.npy", given(4, 0)[0])
    np.save(tmp_path / "zero.npy", np.zeros((3, D)))
    pq.write_table(pa.table({"word": ["a"]}), tmp_path / "words.parquet")
    (tmp_path / "no.parquet").write_bytes(b"PAR0")
    (tmp_path / "empty").mkdir()
    store, file = run(tmp_path / "run", []), tmp_path / "clusters.safetensors"
    keys = {name: tmp_path / value if isinstance(value, Path) else value for name, value in keys.items()}
    with pytest.raises(InputError, match=says):
        fit_clusters_of(store, None, "x", file, **keys)
    with pytest.raises(RecipeError, match="even"):
        fit_clusters_of(store, None, "x", file, clusters=2, selection="evn")
    assert not file.exists()
