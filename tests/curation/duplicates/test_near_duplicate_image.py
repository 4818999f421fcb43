"""Near-duplicates: what is connected is what all close pairs connect, by few edges, in pieces of any size."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from curation.duplicates import colours, near_duplicate_image
from curation.duplicates.near_duplicate_image import NearDuplicateImage, NearDuplicateImageConfig, blocks
from pairmill.errors import RunDirError

BASE = 0x0F0F_3333_5555_A5A5
Hashes = np.ndarray[Any, Any]


def flip(phash: int, *bits: int) -> int:
    for bit in bits:
        phash ^= 1 << bit
    return phash


def near(max_distance: int = 4) -> NearDuplicateImage:
    return NearDuplicateImage(NearDuplicateImageConfig(name="near_duplicate_image", max_distance=max_distance))


GREY = bytes([60, 128, 128] * 64)


def linked(hashes: Hashes, max_distance: int, colours: list[bytes] | None = None) -> list[tuple[int, int]]:
    """The edges among hashes, as positions in `hashes`, the smaller first; without `colours`, all are of one."""
    kind = near(max_distance)
    columns = {"phash": hashes.astype(np.uint64), "colours": colours or [GREY] * len(hashes)}
    rows = pa.table(columns, schema=kind.columns)
    keys = kind.keys(rows)
    a, b = kind.edges(rows.take(keys["row"]).append_column("key", keys["key"]))
    row = keys["row"].to_numpy()
    return [(min(pair), max(pair)) for pair in zip(row[a].tolist(), row[b].tolist(), strict=True)]


def components(n: int, pairs: set[tuple[int, int]]) -> set[frozenset[int]]:
    group = {at: {at} for at in range(n)}
    for i, j in pairs:
        small, large = sorted((group[i], group[j]), key=len)
        if small is not large:
            large |= small
            group.update(dict.fromkeys(small, large))
    return {frozenset(members) for members in group.values()}


def all_close_pairs(hashes: Hashes, max_distance: int) -> set[tuple[int, int]]:
    counts = near_duplicate_image._count_by_table((hashes[:, None] ^ hashes[None, :]).reshape(-1)).reshape(
        len(hashes), len(hashes)
    )
    return {(int(i), int(j)) for i, j in zip(*np.nonzero(counts <= max_distance), strict=True) if i < j}


def thick_cloud(n: int) -> Hashes:
    """Different hashes around a few centres: chains, cliques and large buckets."""
    rng = np.random.default_rng(0)
    centres = rng.integers(0, 2**64, size=n // 100, dtype=np.uint64)
    hashes = centres[rng.integers(0, len(centres), size=n)]
    for _ in range(4):
        hashes ^= np.uint64(1) << rng.integers(0, 64, size=n, dtype=np.uint64)
    return hashes


@pytest.mark.slow
@pytest.mark.parametrize("max_distance", [0, 1, 2, 4, 7, 15])
@pytest.mark.parametrize(("chunk", "max_pairs"), [(1 << 14, 1 << 20), (50, 10)])
def test_components_are_those_of_all_pairs_in_pieces_of_any_size(
    monkeypatch: pytest.MonkeyPatch, max_distance: int, chunk: int, max_pairs: int
) -> None:
    monkeypatch.setattr(near_duplicate_image, "_CHUNK", chunk)
    monkeypatch.setattr(near_duplicate_image, "_MAX_PAIRS", max_pairs)
    hashes = thick_cloud(700)
    edges = set(linked(hashes, max_distance))
    close = all_close_pairs(hashes, max_distance)
    assert components(700, edges) == components(700, close)
    assert edges <= close


@pytest.mark.parametrize("max_distance", [0, 4])
@pytest.mark.parametrize("seed", range(4))
def test_every_close_pair_of_few_rows_of_a_hash_is_in_one_family(seed: int, max_distance: int) -> None:
    """Also where the leaders of two hashes, or of one, are unlike and others of theirs are not."""
    rng = np.random.default_rng(seed)
    near_by = np.array([BASE, flip(BASE, 3), flip(BASE, 3, 40), flip(BASE, 9, 10, 50)], np.uint64)
    hashes = near_by[np.arange(32) % 4]
    lumas = rng.integers(0, 128, 32)
    edges = set(linked(hashes, max_distance, [shade(int(luma)) for luma in lumas]))
    close = {(i, j) for i, j in all_close_pairs(hashes, max_distance) if abs(int(lumas[i]) - int(lumas[j])) <= 8}
    assert components(32, edges) == components(32, close)
    assert edges <= close


@pytest.mark.slow
def test_a_clique_and_a_crowd_of_equal_hashes_give_few_edges() -> None:
    clique = [flip(BASE, i, j) for i, j in itertools.combinations(range(0, 64, 2), 2)]
    crowd = [0x5A5A_0F0F_1234_4321] * 20_000
    edges = linked(np.array(clique + crowd, dtype=np.uint64), 4)
    assert len(set(edges)) == len(edges) < len(crowd) + 5 * len(clique)
    families = components(len(clique) + len(crowd), set(edges))
    assert sorted(map(len, families)) == [len(clique), len(crowd)]


def shade(luma: int, *, part: int = 0, rest: int = 60) -> bytes:
    points = [[rest, 128, 128]] * 64
    points[part] = [luma, 128, 128]
    return bytes(itertools.chain.from_iterable(points))


def test_equal_hashes_of_other_colours_are_not_linked() -> None:
    hashes = np.array([BASE, BASE, BASE, flip(BASE, 1), flip(BASE, 1)], np.uint64)
    colours = [shade(60), shade(68), shade(69), shade(61), shade(90)]
    assert components(2, set(linked(hashes[[0, 1]], 4, colours[:2]))) == {frozenset({0, 1})}
    assert linked(hashes[[0, 2]], 4, [colours[0], colours[2]]) == []
    assert linked(hashes[[0, 3]], 4, [colours[0], colours[3]]) == [(0, 1)]
    assert linked(hashes[[0, 4]], 4, [colours[0], colours[4]]) == []
    # One part is enough, in any channel.
    for at in range(192):
        changed = bytearray(GREY)
        changed[at] += 9
        assert linked(hashes[:2], 4, [GREY, bytes(changed)]) == []


def test_colours_that_other_code_measured_are_refused() -> None:
    hashes = np.array([BASE] * 3, np.uint64)
    with pytest.raises(RunDirError) as refused:
        linked(hashes, 4, [GREY, GREY[:48], GREY])
    assert refused.value.value == "colours of 48 bytes, which are of 192 now"


@pytest.mark.parametrize("parts", [16, 64])
def test_pairs_are_compared_as_one_by_one_in_pieces_of_any_size(monkeypatch: pytest.MonkeyPatch, parts: int) -> None:
    rng = np.random.default_rng(parts)
    a = rng.integers(100, 112, (40, parts, 3), dtype=np.uint8)
    b = (a[rng.integers(0, 40, 30)] + rng.integers(0, 7, (30, parts, 3))).astype(np.uint8)
    one, other = (each.ravel() for each in np.meshgrid(np.arange(40), np.arange(30)))
    apart = [np.linalg.norm(a[i].astype(float) - b[j], axis=-1).max() for i, j in zip(one, other, strict=True)]
    for chunk in (3 << 18, 6 * 64 * 3):
        monkeypatch.setattr(colours, "_CHUNK", chunk)
        for most in (0, 9, 11):
            assert colours.within(a, one, b, other, most).tolist() == [gap <= most for gap in apart]


def test_the_links_of_equal_hashes_do_not_depend_on_the_order_of_the_rows() -> None:
    rng = np.random.default_rng(1)
    colours = [shade(int(value), part=int(part)) for value, part in rng.integers(0, [100, 3], (60, 2))]
    hashes = np.array([BASE, flip(BASE, 5)], np.uint64)[rng.integers(0, 2, 60)]
    expected = None
    for _ in range(5):
        order = rng.permutation(60)
        edges = linked(hashes[order], 4, [colours[at] for at in order])
        found = components(60, {(min(pair), max(pair)) for pair in ((order[a], order[b]) for a, b in edges)})
        values = sorted(sorted((int(hashes[at]), colours[at]) for at in members) for members in found)
        assert expected in (None, values)
        expected = values


@pytest.mark.slow
def test_a_crowd_in_some_colours_gives_few_edges() -> None:
    rng = np.random.default_rng(2)
    colours = [shade(40 * int(value) + int(noise)) for value, noise in rng.integers(0, [5, 4], (20_000, 2))]
    edges = linked(np.full(20_000, BASE, np.uint64), 4, colours)
    assert len(edges) == 20_000 - 5
    assert len(components(20_000, set(edges))) == 5


def test_no_rows() -> None:
    assert linked(np.array([], dtype=np.uint64), 4) == []


@pytest.mark.parametrize("distance", [-1, 16])
def test_distance_out_of_range_is_refused(distance: int) -> None:
    with pytest.raises(ValidationError):
        NearDuplicateImageConfig(name="near_duplicate_image", max_distance=distance)


@pytest.mark.parametrize("max_distance", [0, 4, 15])
def test_a_row_has_as_many_keys_as_the_shuffle_is_sized_for(max_distance: int) -> None:
    kind = near(max_distance)
    keys = kind.keys(pa.table({"phash": [None, BASE, 1], "colours": [None, GREY, GREY]}, schema=kind.columns))
    assert keys["row"].to_pylist() == [1] * kind.keys_per_row
    assert len(set(keys["key"].to_pylist())) == kind.keys_per_row


@pytest.mark.parametrize("max_distance", range(16))
def test_blocks_cover_each_bit_once(max_distance: int) -> None:
    cut = blocks(max_distance)
    assert len(cut) == max_distance + 1
    masks = [mask << shift for shift, mask in cut]
    assert sum(masks) == (1 << 64) - 1
    assert max(mask.bit_count() for mask in masks) - min(mask.bit_count() for mask in masks) <= 1


@pytest.mark.parametrize("count", [near_duplicate_image.bit_count, near_duplicate_image._count_by_table])
def test_bit_count(count: Callable[[Any], Any]) -> None:
    values = np.array([0, 1, BASE, 2**63, 2**64 - 1], dtype=np.uint64)
    assert count(values).tolist() == [int(value).bit_count() for value in values]
    assert count(values[::2]).tolist() == [int(value).bit_count() for value in values[::2]]
