"""Semantic duplicates against a comparison of all pairs, over any layout of the rows."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.duplicates import semantic_duplicate
from curation.duplicates.deduplicate import find_losers, found_edges, met_rows, survivors
from curation.duplicates.edges import ENDPOINT
from curation.duplicates.fitting import fitted, sample_of, smallest
from curation.duplicates.kinds import DeduplicateConfig, Kind, kinds_of
from curation.duplicates.semantic_duplicate import SemanticDuplicate, close_pairs
from curation.duplicates.stage import Deduplicate
from curation.flow import Flow
from curation.stage import Column, Stage, StageConfig
from pairmill.errors import RecipeError

Vectors = npt.NDArray[np.float16]
COLUMN = "image_embedding_vit"
DIMENSIONS = 24


def planted(n: int, seed: int, near: float = 0.05) -> npt.NDArray[np.float64]:
    """Unit vectors in groups of one to four that are nearly the same, among loose clusters; one in ten is copied."""
    rng = np.random.default_rng(seed)
    middle = rng.standard_normal((max(1, n // 20), DIMENSIONS))
    group = np.sort(rng.integers(0, max(1, n // 2), n))
    own = rng.standard_normal((n, DIMENSIONS))
    found = middle[group % len(middle)] + 0.7 * own[group] + near * rng.standard_normal((n, DIMENSIONS))
    copies = rng.random(n) < 0.1
    found[copies] = found[rng.integers(0, n, copies.sum())]
    return rng.permutation(found / np.linalg.norm(found, axis=1, keepdims=True))


def rows(vectors: npt.NDArray[Any], seed: int = 0, missing: float = 0.1) -> pa.Table:
    """Rows of 20 a shard, some without a picture."""
    rng = random.Random(seed)
    n = len(vectors)
    uids = [f"{rng.getrandbits(128):032x}" for _ in range(n)]
    scores = [float(rng.randrange(5)) for _ in range(n)]
    values = [None if rng.random() < missing else one for one in vectors.astype(np.float16)]
    columns = [uids, [at // 20 for at in range(n)], [at % 20 for at in range(n)], scores]
    table = pa.table([pa.array(c, f.type) for c, f in zip(columns, ENDPOINT, strict=True)], schema=ENDPOINT)
    embedding = pa.array(values, pa.list_(pa.float16(), vectors.shape[1]))
    sizes = {name: pa.array([1] * n) for name in ("original_width", "original_height")}
    return (
        table.append_column(COLUMN, embedding)
        .append_column("original_width", sizes["original_width"])
        .append_column("original_height", sizes["original_height"])
    )


def config(**keys: Any) -> DeduplicateConfig:
    return DeduplicateConfig(kinds=[{"name": "semantic_duplicate", **keys}]).resolved([COLUMN])


def components(n: int, pairs: list[tuple[int, int]]) -> list[int]:
    """The smallest member of each one's component."""
    parent = list(range(n))
    for a, b in pairs:
        low, high = sorted((parent[a], parent[b]))
        parent = [low if one == high else one for one in parent]
    return parent


def all_pairs(vectors: Vectors, epsilon: float) -> list[tuple[int, int]]:
    """By cosines of float64."""
    wide = vectors.astype(np.float64)
    wide /= np.linalg.norm(wide, axis=1, keepdims=True)
    a, b = np.nonzero(np.triu(wide @ wide.T > 1 - epsilon, 1))
    return list(zip(a.tolist(), b.tolist(), strict=True))


@settings(max_examples=40)
@given(seed=st.integers(0, 2**31), n=st.integers(1, 150), epsilon=st.sampled_from([0.001, 0.01, 0.05, 0.3]))
def test_close_pairs_connect_what_all_pairs_connect(seed: int, n: int, epsilon: float) -> None:
    vectors = planted(n, seed).astype(np.float16)
    a, b = close_pairs(vectors, epsilon)
    found = list(zip(a.tolist(), b.tolist(), strict=True))
    assert components(n, found) == components(n, all_pairs(vectors, epsilon))


def test_a_family_of_thousands_is_compared_in_blocks_and_reduced_to_a_forest() -> None:
    rng = np.random.default_rng(0)
    base = rng.standard_normal(DIMENSIONS)
    near = base + 0.01 * rng.standard_normal((3000, DIMENSIONS))
    far = rng.standard_normal((50, DIMENSIONS))
    vectors = np.concatenate([near, far])
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)
    a, b = close_pairs(vectors, 0.01)
    assert len(a) < len(vectors)  # of four million pairs
    assert components(len(vectors), list(zip(a.tolist(), b.tolist(), strict=True))) == components(
        len(vectors), [(0, at) for at in range(1, 3000)]
    )


@pytest.mark.parametrize("seed", range(5))
def test_where_many_pairs_are_near_the_limit_each_is_decided_exactly(seed: int) -> None:
    rng = np.random.default_rng(seed)
    base = rng.standard_normal(DIMENSIONS)
    near = base * DIMENSIONS**0.5 / np.linalg.norm(base) + 0.75 * rng.standard_normal((60, DIMENSIONS))
    vectors = (near / np.linalg.norm(near, axis=1, keepdims=True)).astype(np.float16)
    wide = vectors.astype(np.float64)
    wide /= np.linalg.norm(wide, axis=1, keepdims=True)
    # Forty pairs are above the limit, which is halfway to the next.
    cosine = np.sort((wide @ wide.T)[np.triu_indices(60, 1)])[::-1]
    limit = float(cosine[39:41].mean())
    pairs = all_pairs(vectors, 1 - limit)
    assert len(pairs) == 40
    a, b = close_pairs(vectors, 1 - limit)
    assert sorted(zip(a.tolist(), b.tolist(), strict=True)) == pairs


def test_vectors_that_begin_alike_are_no_equal_ones() -> None:
    vectors = planted(60, 3).astype(np.float16)
    vectors[:, :8] = vectors[0, :8]
    vectors[7] = vectors[3]
    a, b = close_pairs(vectors, 0.001)
    assert components(60, list(zip(a.tolist(), b.tolist(), strict=True))) == components(60, all_pairs(vectors, 0.001))
    assert (3, 7) in zip(a.tolist(), b.tolist(), strict=True)


def test_equal_vectors_cost_no_comparison_of_all_with_all() -> None:
    vectors = np.repeat(planted(2, 0).astype(np.float16), 100_000, axis=0)
    assert len(close_pairs(vectors, 0.0001)[0]) == len(vectors) - 2


def pairs_of(found: pa.Table) -> set[str]:
    return set(found["uid"].to_pylist())


def test_one_cluster_gives_what_comparing_all_pairs_gives() -> None:
    vectors = planted(300, 1)
    table = rows(vectors)
    found = find_losers(table, config=config(clusters=1, epsilon=0.02))
    there = np.flatnonzero(table[COLUMN].is_valid().to_numpy())
    kept = vectors[there].astype(np.float16)
    family = components(len(there), all_pairs(kept, 0.02))
    best: dict[int, tuple[float, str]] = {}
    rank = [(-table["score"][int(at)].as_py(), table["uid"][int(at)].as_py()) for at in there]
    for at, root in enumerate(family):
        best[root] = min(best.get(root, rank[at]), rank[at])
    assert pairs_of(found) == {rank[at][1] for at, root in enumerate(family) if best[root] != rank[at]}
    assert set(found["reason"].to_pylist()) == {"semantic_duplicate"}
    assert len(found) > 50


def over_a_cluster(table: pa.Table, chosen: DeduplicateConfig, seed: int) -> pa.Table:
    """What the driver does: another order, other shards, other partitions each time."""
    rng = random.Random(seed)
    n = len(table)
    table = table.take(pa.array(rng.sample(range(n), n)))
    cuts = sorted(rng.choices(range(n + 1), k=rng.randrange(1, 6)))
    shards = [table.slice(i, j - i) for i, j in zip([0, *cuts], [*cuts, n], strict=True)]

    def learnt(kind: Kind) -> Kind:
        samples = [sample_of(shard, kind, n) for shard in shards]
        while len(samples) > 1:
            samples = [smallest(samples[at : at + 2], kind, n) for at in range(0, len(samples), 2)]
        return fitted(kind, smallest(samples, kind, n), n)

    kinds = [learnt(kind) if kind.sample_rows(n) else kind for kind in kinds_of(chosen)]
    met = pa.concat_tables([met_rows(shard, kinds=kinds) for shard in shards])
    part = np.random.default_rng(seed).integers(0, rng.randint(1, 5), 1000)[met["key"].to_numpy() % 1000]
    edges = [found_edges(met.filter(pa.array(part == at)), kinds=kinds) for at in range(5)]
    return survivors(pa.concat_tables(rng.sample(edges, 5)), kinds=kinds, partitions=rng.randint(1, 4))


@pytest.mark.parametrize("keys", [{}, {"clusters": 12}, {"clusters": 12, "probes": 2, "keep": "hard"}])
def test_ten_layouts_give_the_same_survivors(keys: dict[str, Any]) -> None:
    # Some embeddings nearly as far from one centre as from another, and more rows than the sample has.
    table = rows(planted(1500, 2))
    whole = find_losers(table, config=config(**keys))
    assert len(whole) > 200
    for seed in range(10):
        assert over_a_cluster(table, config(**keys), seed).equals(whole)


def test_more_probes_find_more_of_the_pairs() -> None:
    vectors = planted(3000, 3, near=0.12)
    table = rows(vectors, missing=0)
    true = len(pairs_of(find_losers(table, config=config(clusters=1, epsilon=0.03))))
    shares = [
        len(pairs_of(find_losers(table, config=config(clusters=60, probes=probes, epsilon=0.03)))) / true
        for probes in (1, 2, 4)
    ]
    assert shares[0] <= shares[1] <= shares[2] <= 1
    assert shares[0] > 0.8
    assert shares[2] > 0.97


def test_hard_keeps_the_farthest_from_the_centre() -> None:
    table = rows(planted(400, 4), missing=0)
    found = find_losers(table, config=config(clusters=1, keep="hard"))
    kind = kinds_of(config(clusters=1, keep="hard"))[0]
    kind = fitted(kind, smallest([sample_of(table, kind, 400)], kind, 400), 400)
    vectors = np.stack([np.array(one, np.float64) for one in table[COLUMN].to_pylist()])
    away = dict(
        zip(
            table["uid"].to_pylist(),
            (-vectors @ kind.state.clusters.leaves[0].astype(np.float64)).tolist(),
            strict=True,
        )
    )
    assert len(found) > 20
    for loser, survivor in zip(found["uid"].to_pylist(), found["survivor"].to_pylist(), strict=True):
        assert (away[survivor], loser) > (away[loser], survivor)


def test_the_sample_is_the_same_for_any_layout_bounded_and_of_rows_with_embeddings() -> None:
    table = rows(planted(2000, 5), missing=0.2)
    kind = kinds_of(config(clusters=5))[0]
    assert kind.sample_rows(2000) == 200
    whole = smallest([sample_of(table, kind, 2000)], kind, 2000)
    assert len(whole) == 200
    assert whole["vector"].null_count == 0
    parts = [sample_of(table.slice(at, 100), kind, 2000) for at in range(0, 2000, 100)]
    assert sum(map(len, parts)) < 2000
    assert smallest(parts[::-1], kind, 2000).equals(whole)
    other = kinds_of(config(clusters=5, seed=1))[0]
    assert not smallest([sample_of(table, other, 2000)], other, 2000).equals(whole)


def test_a_cluster_that_is_too_large_is_cut_into_chunks_and_what_is_nearly_the_same_stays_one_family(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(semantic_duplicate, "_MOST_TOGETHER", 300)
    monkeypatch.setattr(semantic_duplicate, "_CONNECTORS", 40)
    rng = np.random.default_rng(0)
    near = rng.standard_normal(DIMENSIONS) + 0.01 * rng.standard_normal((2000, DIMENSIONS))
    far = rng.standard_normal((200, DIMENSIONS))
    table = rows(rng.permutation(np.concatenate([near, far])), missing=0)
    chosen = config(clusters=4)
    found = find_losers(table, config=chosen)
    assert len(found) == 1999
    assert len(set(found["survivor"].to_pylist())) == 1
    kind = kinds_of(chosen)[0]
    kind = fitted(kind, smallest([sample_of(table, kind, 2200)], kind, 2200), 2200)
    sizes = np.unique(met_rows(table, kinds=[kind])["key"].to_numpy(), return_counts=True)[1]
    # A chunk, and the connectors of all.
    assert sizes.max() < 1.3 * (300 + 40)
    assert sizes.sum() < 2200 + 40 * 1.5 * len(sizes)
    for seed in range(3):
        assert over_a_cluster(table, chosen, seed).equals(found)


def test_automatic_clusters_grow_with_the_run_up_to_a_bound() -> None:
    kind = kinds_of(config())[0]
    assert [kind.sample_rows(rows) // 40 for rows in (0, 999, 5000, 1_000_000, 10**9)] == [1, 1, 5, 1000, 4096]


# ------------------------------------------------------------------------------------------------------- the column

HALF = [0.6, 0.8, 0.0]
TYPES = {
    "half": pa.list_(pa.float16(), 3),
    "float": pa.list_(pa.float32(), 3),
    "double": pa.list_(pa.float64(), 3),
    "list": pa.list_(pa.float32()),
    "large list": pa.large_list(pa.float64()),
}


def narrowed(column: pa.Array | pa.ChunkedArray) -> list[Any]:
    kind = SemanticDuplicate(SemanticDuplicate.Config(name="semantic_duplicate", embedding="v"))
    found = kind.narrow(pa.table({"v": column, "uid": ["u"] * len(column)}))["vector"]
    return [None if one is None else np.frombuffer(one, np.float16).tolist() for one in found.to_pylist()]


@pytest.mark.parametrize("type_", TYPES)
def test_embeddings_of_every_type_become_unit_vectors(type_: str) -> None:
    values = [HALF, None, [0.0, 0.0, 0.0], [6.0, 8.0, 0.0], [float("inf"), 0.0, 0.0], [float("nan"), 1.0, 0.0]]
    values = [None if one is None else np.array(one, np.float16) if type_ == "half" else one for one in values]
    column = pa.array(values, TYPES[type_])
    unit = np.array(HALF, np.float16).tolist()
    assert narrowed(column) == [unit, None, None, unit, None, None]
    assert narrowed(column.slice(2, 2)) == [None, unit]
    assert narrowed(pa.chunked_array([column.slice(0, 1), column.slice(3)])) == [unit, unit, None, None]
    assert narrowed(column.slice(0, 0)) == []


def test_a_null_within_a_list_and_a_list_of_another_length_are_compared_with_nothing() -> None:
    assert narrowed(pa.array([[0.6, None, 0.8]], pa.list_(pa.float32()))) == [None]
    table = rows(planted(40, 6), missing=0)
    other = [one[:5] if at % 10 == 0 else one for at, one in enumerate(table[COLUMN].to_pylist())]
    at = table.schema.get_field_index(COLUMN)
    table = table.set_column(at, COLUMN, pa.array(other, pa.list_(pa.float64())))
    found = find_losers(table, config=config(clusters=1, epsilon=0.9))
    assert len(found) > 5
    odd = set(table.take(pa.array(range(0, 40, 10)))["uid"].to_pylist())
    assert not odd & (pairs_of(found) | set(found["survivor"].to_pylist()))


def test_unit_vectors_of_float16_stay_as_they_are_beside_any_others() -> None:
    exact = np.array([0.6001, 0.7998, 0.01], np.float16)
    column = pa.array([exact, np.array([3, 4, 0], np.float16)], pa.list_(pa.float16(), 3))
    assert narrowed(column)[0] == exact.tolist()


def test_rows_without_embeddings_have_no_duplicates() -> None:
    table = rows(planted(50, 7), missing=1)
    assert len(find_losers(table, config=config())) == 0
    assert len(find_losers(table, config=config(keep="hard"))) == 0
    assert len(find_losers(table.slice(0, 0), config=config())) == 0


class Embed(Stage):
    """A stand-in for what adds embeddings."""

    name, segment = "embed", "score"
    adds: tuple[Column, ...] = (Column(COLUMN, pa.list_(pa.float16(), 4)),)
    Config = StageConfig


def flow(*stages: Stage, **keys: Any) -> Flow:
    return Flow([*stages, Deduplicate(DeduplicateConfig(kinds=[{"name": "semantic_duplicate", **keys}]))])


def embed(*columns: str) -> Stage:
    stage = Embed(StageConfig())
    stage.adds = tuple(Column(name, pa.list_(pa.float16(), 4)) for name in columns)
    return stage


def test_the_only_embedding_is_read_and_part_of_the_identity() -> None:
    chosen = flow(embed(COLUMN)).of(Deduplicate)
    assert chosen.reads[0] == COLUMN
    named = flow(embed(COLUMN, "image_embedding_other"), embedding=COLUMN).of(Deduplicate)
    assert named.identity() == chosen.identity()
    other = flow(embed("image_embedding_other")).of(Deduplicate)
    assert other.identity() != chosen.identity()


@pytest.mark.parametrize("columns", [(), (COLUMN, "image_embedding_other")])
def test_no_embedding_or_several_are_refused(columns: tuple[str, ...]) -> None:
    with pytest.raises(RecipeError, match="which column holds the embeddings") as error:
        flow(*([embed(*columns)] if columns else []))
    assert all(name in str(error.value) for name in columns)
    assert error.value.fix
    # Where it is off nothing is asked.
    Flow([Deduplicate(DeduplicateConfig(enabled=False, kinds=["semantic_duplicate"]))])


@pytest.mark.parametrize("type_", [pa.string(), pa.list_(pa.string()), pa.list_(pa.int64(), 3), pa.float32()])
def test_a_column_of_something_else_is_refused(type_: pa.DataType) -> None:
    sizes = {"original_width": pa.int32(), "original_height": pa.int32()}
    stage = flow(embedding="mine").of(Deduplicate)
    with pytest.raises(RecipeError, match=r"lists of floating-point numbers\n.*mine") as error:
        stage.check({"mine": type_, **sizes})
    assert error.value.fix
    stage.check({"mine": pa.list_(pa.float64()), **sizes})
