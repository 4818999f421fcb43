import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from training.evaluate.ranks import hits, positive_ranks, positives_of


def naive_ranks(queries: np.ndarray, keys: np.ndarray, positives: list[set[int]]) -> tuple[list[int], list[list[int]]]:
    """Sort all keys of a query in float64: higher scores first, of equal ones those that are no positives first."""
    best, each = [], []
    for query, own in zip(queries.astype(np.float64), positives, strict=True):
        scores = keys.astype(np.float64) @ query
        order = sorted(range(len(keys)), key=lambda k: (-scores[k], k in own, k))
        ranks = [order.index(k) + 1 for k in sorted(own)]
        each.append(ranks)
        best.append(min(ranks, default=len(keys) + 1))
    return best, each


@st.composite
def ranking_problems(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, list[set[int]]]:
    """Few distinct small integers, so that ties abound and float32 is exact."""
    n, m, d = (draw(st.integers(1, top)) for top in (7, 9, 3))
    numbers = st.integers(-2, 2)
    queries = draw(st.lists(st.lists(numbers, min_size=d, max_size=d), min_size=n, max_size=n))
    keys = draw(st.lists(st.lists(numbers, min_size=d, max_size=d), min_size=m, max_size=m))
    positives = draw(st.lists(st.sets(st.integers(0, m - 1), max_size=4), min_size=n, max_size=n))
    return np.array(queries, np.float32), np.array(keys, np.float32), positives


@given(ranking_problems(), st.data())
def test_among_keys_that_are_equal_by_nature_topk_chooses(
    problem: tuple[np.ndarray, np.ndarray, list[set[int]]], data: st.DataObject
) -> None:
    queries, keys, positives = problem
    same = data.draw(st.lists(st.integers(0, 3), min_size=len(keys), max_size=len(keys)))
    keys = keys[[same.index(number) for number in same]]
    ks = (1, 2, len(keys), len(keys) + 1)
    csr = positives_of(*pairs_of(positives), len(queries), len(keys))
    found = hits(torch.from_numpy(queries), torch.from_numpy(keys), csr, ks, same_M=torch.tensor(same))
    for query, own, hit_K in zip(queries.astype(np.float64), positives, found.T.tolist(), strict=True):
        scores = keys.astype(np.float64) @ query
        best = max((scores[p] for p in own), default=-math.inf)
        for k, hit in zip(ks, hit_K, strict=True):
            top = set(torch.from_numpy(scores).topk(min(k, len(keys))).indices.tolist())
            # A key that differs and scores as high is a miss.
            ahead = {same[m] for m in range(len(keys)) if m not in own and scores[m] >= best} - {same[p] for p in own}
            assert not hit or (top & own and len(ahead) < k)
            alone = len({s for m, s in enumerate(same) if scores[m] == best}) == 1
            if alone or not own:
                assert hit == bool(top & own)


def test_hits_of_distinct_keys_are_ranks() -> None:
    rng = np.random.default_rng(1)
    queries, keys = (torch.from_numpy(rng.normal(size=(n, 8)).astype(np.float32)) for n in (30, 40))
    csr = positives_of(torch.arange(29), torch.from_numpy(rng.integers(0, 40, 29)), 30, 40)
    best_N = positive_ranks(queries, keys, csr).best_N
    for same in (None, torch.arange(40)):
        found = hits(queries, keys, csr, (1, 5, 100), same_M=same)
        assert found.tolist() == [(best_N <= 1).tolist(), (best_N <= 5).tolist(), [True] * 29 + [False]]


def pairs_of(positives: list[set[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    pairs = [(query, key) for query, own in enumerate(positives) for key in own]
    return torch.tensor([q for q, _ in pairs], dtype=torch.int64), torch.tensor(
        [k for _, k in pairs], dtype=torch.int64
    )


@given(ranking_problems(), st.integers(1, 4), st.integers(1, 4))
def test_equals_a_sort_of_all_scores_whatever_the_chunks(
    problem: tuple[np.ndarray, np.ndarray, list[set[int]]], query_chunk: int, key_chunk: int
) -> None:
    queries, keys, positives = problem
    csr = positives_of(*pairs_of(positives), len(queries), len(keys))
    ranks = positive_ranks(
        torch.from_numpy(queries), torch.from_numpy(keys), csr, query_chunk=query_chunk, key_chunk=key_chunk
    )
    best, each = naive_ranks(queries, keys, positives)
    assert ranks.best_N.tolist() == best
    assert ranks.each_P.tolist() == [rank for of_query in each for rank in of_query]


def test_real_valued_scores_and_many_keys() -> None:
    rng = np.random.default_rng(0)
    queries, keys = (rng.normal(size=(n, 32)).astype(np.float32) for n in (60, 300))
    queries, keys = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (queries, keys))
    positives = [set(rng.choice(300, size=rng.integers(1, 6), replace=False).tolist()) for _ in queries]
    csr = positives_of(*pairs_of(positives), 60, 300)
    tensors = (torch.from_numpy(queries), torch.from_numpy(keys))
    ranks = positive_ranks(*tensors, csr, query_chunk=17, key_chunk=41)
    best, each = naive_ranks(queries, keys, positives)
    assert ranks.best_N.tolist() == best
    assert ranks.each_P.tolist() == [rank for of_query in each for rank in of_query]


@pytest.mark.parametrize("dimension", [1, 64, 513])
def test_a_constant_model_ranks_its_positive_last(dimension: int) -> None:
    row = torch.nn.functional.normalize(torch.randn(1, dimension, generator=torch.Generator().manual_seed(1)), dim=1)
    rows = row.expand(37, -1).contiguous()
    diagonal = torch.arange(37)
    ranks = positive_ranks(rows, rows, positives_of(diagonal, diagonal, 37, 37), query_chunk=5, key_chunk=8)
    assert ranks.best_N.tolist() == [37] * 37


@pytest.mark.parametrize("broken", ["queries", "keys", "one key"])
def test_not_a_number_never_ranks_first(broken: str) -> None:
    queries, keys = torch.eye(4), torch.eye(4)
    if broken == "one key":
        keys[2] = math.nan
    else:
        (queries if broken == "queries" else keys).fill_(math.nan)
    diagonal = torch.arange(4)
    best = positive_ranks(queries, keys, positives_of(diagonal, diagonal, 4, 4)).best_N.tolist()
    assert best == ([2, 2, 4, 2] if broken == "one key" else [4] * 4)


def test_positives_are_sorted_and_counted_once() -> None:
    csr = positives_of(torch.tensor([2, 0, 2, 2]), torch.tensor([4, 1, 0, 4]), 4, 5)
    assert csr.indptr.tolist() == [0, 1, 1, 3, 3]
    assert csr.indices_P.tolist() == [1, 0, 4]
    assert csr.counts.tolist() == [1, 0, 2, 0]


def test_no_allocation_is_larger_than_a_block() -> None:
    rows = torch.nn.functional.normalize(torch.randn(3000, 8, generator=torch.Generator().manual_seed(2)), dim=1)
    diagonal = torch.arange(3000)
    csr = positives_of(diagonal, diagonal, 3000, 3000)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        positive_ranks(rows, rows, csr, query_chunk=256, key_chunk=512)
    largest = max(event.self_cpu_memory_usage for event in profile.events())
    assert 0 < largest < 3000 * 3000 // 8  # bytes: less than one bit for every query and key


def test_the_training_loops_matrix_precision_is_left_alone() -> None:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        positive_ranks(torch.eye(2), torch.eye(2), positives_of(torch.arange(2), torch.arange(2), 2, 2))
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
