"""Deduplication against a comparison of all pairs, in any order and any division of the rows."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from curation.duplicates import near as near_duplicates
from curation.duplicates.deduplicate import LOSERS, DeduplicateConfig, exact_edges, find_losers, survivors
from curation.duplicates.edges import EDGES, ROWS, combined, edges_between, stars
from curation.duplicates.near import BANDS, bands, blocks, near_edges
from curation.duplicates.stage import Deduplicate

Row = dict[str, Any]
BASE = 0x0F0F_3333_5555_A5A5
FLAT = 0x0000_0000_0000_0001


def row(number: int, **columns: Any) -> Row:
    """A row unlike any other, but for the columns given."""
    rng = random.Random(number)
    return {
        "uid": f"{number:032x}",
        "shard": number // 4,
        "row": number % 4,
        "sha256": f"{rng.getrandbits(256):064x}",
        "phash": rng.getrandbits(64),
        "caption_digest": number,
        "score": 0.0,
        **columns,
    }


def table(rows: Sequence[Row]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=ROWS)


def losers(rows: Sequence[Row], **config: Any) -> dict[int, tuple[str, int]]:
    """Number of each lost row -> (reason, number of the row that stays)."""
    found = find_losers(table(rows), config=DeduplicateConfig(**config)).to_pylist()
    return {int(one["uid"], 16): (one["reason"], int(one["survivor"], 16)) for one in found}


def flip(phash: int, *bits: int) -> int:
    for bit in bits:
        phash ^= 1 << bit
    return phash


# ------------------------------------------------------------------------------------------------------------- rules


def test_strangers_all_stay() -> None:
    assert losers([row(n) for n in range(50)]) == {}


def test_same_bytes_and_caption_is_a_duplicate_pair() -> None:
    assert losers([row(1, sha256="s", caption_digest=7), row(2, sha256="s", caption_digest=7)]) == {
        2: ("duplicate_pair", 1)
    }


def test_same_bytes_other_caption_is_a_duplicate_image() -> None:
    assert losers([row(1, sha256="s"), row(2, sha256="s")]) == {2: ("duplicate_image", 1)}


def test_similar_hash_is_a_near_duplicate() -> None:
    rows = [row(1, phash=BASE), row(2, phash=flip(BASE, 0, 20, 40, 63))]
    assert losers(rows, max_distance=4) == {2: ("near_duplicate_image", 1)}
    assert losers(rows, max_distance=3) == {}


def test_highest_score_stays_then_smallest_uid() -> None:
    same = {"sha256": "s", "caption_digest": 7}
    assert losers([row(1, score=1.0, **same), row(2, score=9.0, **same)]) == {1: ("duplicate_pair", 2)}
    assert losers([row(4, score=9.0, **same), row(3, score=9.0, **same)]) == {4: ("duplicate_pair", 3)}


@pytest.mark.parametrize("missing", [None, float("nan")])
def test_missing_score_ranks_last(missing: float | None) -> None:
    rows = [row(1, sha256="s", score=missing), row(2, sha256="s", score=-1e300)]
    assert losers(rows) == {1: ("duplicate_image", 2)}


def test_reason_compares_with_better_rows_only() -> None:
    # In order of rank: a picture; a near copy; its bytes under another caption, then under the same caption.
    rows = [
        row(1, phash=BASE, score=9.0),
        row(2, phash=flip(BASE, 1), score=8.0, sha256="s", caption_digest=7),
        row(3, phash=flip(BASE, 1), score=7.0, sha256="s", caption_digest=8),
        row(4, phash=flip(BASE, 1), score=6.0, sha256="s", caption_digest=7),
    ]
    assert losers(rows) == {
        2: ("near_duplicate_image", 1),
        3: ("duplicate_image", 1),
        4: ("duplicate_pair", 1),
    }


def test_likeness_is_transitive_across_kinds() -> None:
    # 1 and 2 have the same bytes, 2 and 3 the same hash, 3 and 4 similar hashes: one family.
    rows = [
        row(1, sha256="s", phash=None),
        row(2, sha256="s", phash=BASE),
        row(3, phash=BASE),
        row(4, phash=flip(BASE, 3)),
    ]
    assert losers(rows) == {
        2: ("duplicate_image", 1),
        3: ("near_duplicate_image", 1),
        4: ("near_duplicate_image", 1),
    }


def test_switches() -> None:
    pair = [row(1, sha256="s", caption_digest=7), row(2, sha256="s", caption_digest=7), row(3, sha256="s")]
    near = [row(4, phash=BASE), row(5, phash=BASE)]
    assert losers(pair + near, near_image=False) == {2: ("duplicate_pair", 1), 3: ("duplicate_image", 1)}
    assert losers(pair + near, near_image=False, exact_image=False) == {2: ("duplicate_pair", 1)}
    assert losers(pair + near, near_image=False, exact_image=False, exact_pair=False) == {}
    assert losers(pair + near, exact_image=False, exact_pair=False) == {5: ("near_duplicate_image", 4)}
    assert losers(pair + near, near_image=False, exact_pair=False) == losers(pair + near, near_image=False)


def test_flat_pictures_are_compared_by_their_bytes_only() -> None:
    rows = [
        row(1, phash=FLAT),
        row(2, phash=FLAT),
        row(3, phash=flip(FLAT, 9)),
        row(4, phash=(1 << 64) - 1),
        row(5, phash=(1 << 64) - 1),
        row(6, phash=FLAT, sha256="s"),
        row(7, phash=FLAT, sha256="s"),
    ]
    assert losers(rows) == {7: ("duplicate_image", 6)}
    assert set(losers(rows, min_bits=0)) == {2, 3, 5, 6, 7}


def test_rows_without_hashes_are_left_alone() -> None:
    assert losers([row(1, sha256=None, phash=None), row(2, sha256=None, phash=None)]) == {}


def test_no_rows() -> None:
    assert find_losers(ROWS.empty_table(), config=DeduplicateConfig()).equals(LOSERS.empty_table())
    assert near_edges(BANDS.empty_table(), max_distance=4).equals(EDGES.empty_table())


def test_losers_name_their_place_and_reason() -> None:
    found = find_losers(table([row(n, phash=BASE) for n in (9, 2, 6, 1)]), config=DeduplicateConfig())
    assert found.schema.equals(LOSERS)
    assert list(zip(found["shard"].to_pylist(), found["row"].to_pylist(), strict=True)) == [(0, 2), (1, 2), (2, 1)]
    assert set(found["reason"].to_pylist()) <= set(Deduplicate.drops)


@pytest.mark.parametrize("distance", [-1, 16])
def test_distance_out_of_range_is_refused(distance: int) -> None:
    with pytest.raises(ValidationError):
        DeduplicateConfig(max_distance=distance)


# ------------------------------------------------------------------------------------------- against all pairs, naive


def naive(rows: list[Row], config: DeduplicateConfig) -> dict[str, tuple[str, str]]:
    """The definition, comparing all pairs: uid of each lost row -> (reason, uid of the row that stays)."""
    parent = list(range(len(rows)))

    def root(at: int) -> int:
        while parent[at] != at:
            at = parent[at]
        return at

    def telling(phash: int) -> bool:
        return config.min_bits <= phash.bit_count() <= 64 - config.min_bits

    for (i, one), (j, other) in itertools.combinations(enumerate(rows), 2):
        same_image = one["sha256"] == other["sha256"]
        same_pair = same_image and one["caption_digest"] == other["caption_digest"]
        near = telling(one["phash"]) and telling(other["phash"])
        near = near and (one["phash"] ^ other["phash"]).bit_count() <= config.max_distance
        if (config.exact_image and same_image) or (config.exact_pair and same_pair) or (config.near_image and near):
            parent[root(j)] = root(i)

    lost = {}
    families: dict[int, list[Row]] = {}
    for at, member in enumerate(rows):
        families.setdefault(root(at), []).append(member)
    for family in families.values():
        family.sort(key=lambda member: (-member["score"], member["uid"]))
        for rank, member in enumerate(family[1:], start=1):
            same = [better for better in family[:rank] if better["sha256"] == member["sha256"]]
            reason = "duplicate_image" if same else "near_duplicate_image"
            if any(better["caption_digest"] == member["caption_digest"] for better in same):
                reason = "duplicate_pair"
            lost[member["uid"]] = (reason, family[0]["uid"])
    return lost


def divided(rows: pa.Table, key: str, parts: int, rng: random.Random) -> list[pa.Table]:
    """Rows divided at random into `parts`, equal keys together, each part in random order."""
    part_of: dict[Any, int] = {}
    members: list[list[int]] = [[] for _ in range(parts)]
    for at, value in enumerate(rows[key].to_pylist()):
        members[part_of.setdefault(value, rng.randrange(parts))].append(at)
    return [rows.take(pa.array(rng.sample(indices, len(indices)), pa.int64())) for indices in members]


def over_a_cluster(rows: pa.Table, config: DeduplicateConfig, rng: random.Random) -> pa.Table:
    """What the driver does, with a random order and a random number of partitions of random content each time."""
    rows = rows.take(pa.array(rng.sample(range(len(rows)), len(rows)), pa.int64()))
    edges = [exact_edges(part, config=config) for part in divided(rows, "sha256", rng.randint(1, 5), rng)]
    if config.near_image:
        blocked = [rows.slice(0, len(rows) // 2), rows.slice(len(rows) // 2)]
        banded = pa.concat_tables(
            [bands(block, max_distance=config.max_distance, min_bits=config.min_bits) for block in blocked]
        )
        edges += [
            near_edges(part, max_distance=config.max_distance)
            for part in divided(banded, "band_key", rng.randint(1, 5), rng)
        ]
    return survivors(pa.concat_tables(rng.sample(edges, len(edges))))


@st.composite
def clustered_rows(draw: st.DrawFn) -> list[Row]:
    """Few bases, few flipped bits, few digests and scores: many families, close calls and ties."""
    flips = st.lists(st.integers(0, 63), max_size=7)
    bases = [0, *draw(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=3))]
    one = st.tuples(
        st.sampled_from(bases), flips, st.integers(0, 12), st.integers(0, 2), st.sampled_from([-1.5, 0.0, 2.0])
    )
    drawn = draw(st.lists(one, max_size=25))
    return [
        row(n, phash=flip(base, *bits), sha256=f"{sha:064x}"[::-1], caption_digest=caption, score=score)
        for n, (base, bits, sha, caption, score) in enumerate(drawn)
    ]


configs = st.builds(
    DeduplicateConfig,
    exact_image=st.booleans(),
    exact_pair=st.booleans(),
    near_image=st.booleans(),
    max_distance=st.integers(0, 15),
    min_bits=st.sampled_from([0, 4, 8]),
)


@settings(max_examples=120, deadline=None)
@given(rows=clustered_rows(), config=configs, seed=st.integers(0, 2**32))
def test_any_order_and_division_gives_what_comparing_all_pairs_gives(
    rows: list[Row], config: DeduplicateConfig, seed: int
) -> None:
    whole = find_losers(table(rows), config=config)
    found = {one["uid"]: (one["reason"], one["survivor"]) for one in whole.to_pylist()}
    assert found == naive(rows, config)
    assert over_a_cluster(table(rows), config, random.Random(seed)).equals(whole)


# -------------------------------------------------------------------------------------------------------- large inputs


def components(n: int, pairs: set[tuple[int, int]]) -> set[frozenset[int]]:
    group = {at: {at} for at in range(n)}
    for i, j in pairs:
        if group[i] is not group[j]:
            group[i] |= group[j]
            for member in group[j]:
                group[member] = group[i]
    return {frozenset(members) for members in group.values()}


def rows_of(hashes: np.ndarray[Any, Any]) -> pa.Table:
    n = len(hashes)
    return pa.table(
        {
            "uid": [f"{at:032x}" for at in range(n)],
            "shard": np.arange(n) // 1000,
            "row": np.arange(n) % 1000,
            "sha256": [f"{at:064x}" for at in range(n)],
            "phash": hashes.astype(np.uint64),
            "caption_digest": np.arange(n),
            "score": np.zeros(n),
        }
    ).cast(ROWS)


def linked(edges: pa.Table) -> set[tuple[int, int]]:
    return set(
        zip(
            (int(uid, 16) for uid in edges["a_uid"].to_pylist()),
            (int(uid, 16) for uid in edges["b_uid"].to_pylist()),
            strict=True,
        )
    )


def all_close_pairs(hashes: np.ndarray[Any, Any], max_distance: int) -> set[tuple[int, int]]:
    counts = near_duplicates._count_by_table((hashes[:, None] ^ hashes[None, :]).reshape(-1)).reshape(
        len(hashes), len(hashes)
    )
    return {(int(i), int(j)) for i, j in zip(*np.nonzero(counts <= max_distance), strict=True) if i < j}


def thick_cloud(n: int) -> np.ndarray[Any, Any]:
    """Different hashes around a few centres: chains, cliques and large buckets."""
    rng = np.random.default_rng(0)
    centres = rng.integers(0, 2**64, size=n // 100, dtype=np.uint64)
    hashes = centres[rng.integers(0, len(centres), size=n)]
    for _ in range(4):
        hashes ^= np.uint64(1) << rng.integers(0, 64, size=n, dtype=np.uint64)
    return hashes


@pytest.mark.parametrize("max_distance", [0, 1, 2, 4, 7, 15])
@pytest.mark.parametrize(("chunk", "max_pairs"), [(1 << 14, 1 << 20), (50, 10)])
def test_components_are_those_of_all_pairs_in_pieces_of_any_size(
    monkeypatch: pytest.MonkeyPatch, max_distance: int, chunk: int, max_pairs: int
) -> None:
    monkeypatch.setattr(near_duplicates, "_CHUNK", chunk)
    monkeypatch.setattr(near_duplicates, "_MAX_PAIRS", max_pairs)
    hashes = thick_cloud(700)
    banded = bands(rows_of(hashes), max_distance=max_distance)
    edges = linked(near_edges(banded, max_distance=max_distance))
    close = all_close_pairs(hashes, max_distance)
    assert components(700, edges) == components(700, close)
    assert {(min(pair), max(pair)) for pair in edges} <= close


def test_a_clique_and_a_crowd_of_equal_hashes_give_few_edges() -> None:
    clique = [flip(BASE, i, j) for i, j in itertools.combinations(range(0, 64, 2), 2)]
    crowd = [0x5A5A_0F0F_1234_4321] * 20_000
    hashes = np.array(clique + crowd, dtype=np.uint64)
    edges = near_edges(bands(rows_of(hashes), max_distance=4), max_distance=4)
    assert len(linked(edges)) == edges.num_rows < len(crowd) + 5 * len(clique)
    assert len(survivors(edges)) == len(crowd) - 1 + len(clique) - 1


def test_two_rows_linked_twice_are_still_two_rows() -> None:
    rows, one, other = table([row(1), row(2)]), np.array([0]), np.array([1])
    edges = [edges_between(rows, one, other), edges_between(rows, other, one), edges_between(rows, one, other)]
    assert survivors(pa.concat_tables(edges))["row"].to_pylist() == [2]


# ------------------------------------------------------------------------------------------------------ building blocks


@pytest.mark.parametrize("max_distance", range(16))
def test_blocks_cover_each_bit_once(max_distance: int) -> None:
    cut = blocks(max_distance)
    assert len(cut) == max_distance + 1
    masks = [mask << shift for shift, mask in cut]
    assert sum(masks) == (1 << 64) - 1
    assert max(mask.bit_count() for mask in masks) - min(mask.bit_count() for mask in masks) <= 1


@pytest.mark.parametrize("count", [near_duplicates.bit_count, near_duplicates._count_by_table])
def test_bit_count(count: Callable[[Any], Any]) -> None:
    values = np.array([0, 1, BASE, 2**63, 2**64 - 1], dtype=np.uint64)
    assert count(values).tolist() == [int(value).bit_count() for value in values]
    assert count(values[::2]).tolist() == [int(value).bit_count() for value in values[::2]]


def test_stars_point_from_the_first_of_each_group() -> None:
    a, b = stars(np.array([7, 3, 7, 7, 3, 5]))
    assert list(zip(a.tolist(), b.tolist(), strict=True)) == [(0, 2), (0, 3), (1, 4)]


def test_combined_groups_agree_in_both_keys() -> None:
    codes = combined(np.array([1, 1, 2, 2, 1]), np.array([-5, 9, -5, 9, 9]))
    assert [codes[1] == code for code in codes] == [False, True, False, False, True]
    assert len(set(codes.tolist())) == 4
