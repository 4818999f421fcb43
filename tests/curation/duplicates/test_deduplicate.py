"""Deduplication against a comparison of all pairs, in any order and any division of the rows."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.duplicates.deduplicate import LOSERS, find_losers, found_edges, met_rows, survivors
from curation.duplicates.edges import EDGES, ENDPOINT
from curation.duplicates.equal_values import EqualValues
from curation.duplicates.kinds import KINDS, DeduplicateConfig, kinds_of
from curation.duplicates.stage import Deduplicate

Row = dict[str, Any]
BASE = 0x0F0F_3333_5555_A5A5
FLAT = 0x0000_0000_0000_0001

PAIR, IMAGE, NEAR = "duplicate_pair", "duplicate_image", "near_duplicate_image"
ROWS = pa.schema(
    [
        *ENDPOINT,
        ("sha256", pa.string()),
        ("phash", pa.uint64()),
        ("colours", pa.binary()),
        ("caption", pa.string()),
        ("host", pa.string()),
    ]
)


class DuplicateHost(EqualValues):
    """Rows of one host: stronger than near-duplicates, weaker than equal bytes."""

    name, strength = "duplicate_host", 15
    reads = ("host",)
    columns = pa.schema([("host", pa.string())])


HOST = f"{__name__}:DuplicateHost"


def row(number: int, **columns: Any) -> Row:
    """A row unlike any other, but for the columns given."""
    rng = random.Random(number)
    return {
        "uid": f"{number:032x}",
        "shard": number // 4,
        "row": number % 4,
        "score": 0.0,
        "sha256": f"{rng.getrandbits(256):064x}",
        "phash": rng.getrandbits(64),
        "colours": bytes(192),
        "caption": f"caption {number}",
        "host": f"host {number}",
        **columns,
    }


def table(rows: Sequence[Row]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=ROWS)


def losers(rows: Sequence[Row], *kinds: Any) -> dict[int, tuple[str, int]]:
    """Number of each lost row -> (reason, number of the row that stays)."""
    config = DeduplicateConfig(kinds=kinds) if kinds else DeduplicateConfig()
    found = find_losers(table(rows), config=config).to_pylist()
    return {int(one["uid"], 16): (one["reason"], int(one["survivor"], 16)) for one in found}


def flip(phash: int, *bits: int) -> int:
    for bit in bits:
        phash ^= 1 << bit
    return phash


# ------------------------------------------------------------------------------------------------------------- rules


def test_strangers_all_stay() -> None:
    assert losers([row(n) for n in range(50)]) == {}


def test_same_bytes_and_caption_is_a_duplicate_pair() -> None:
    assert losers([row(1, sha256="s", caption="Red  Apple"), row(2, sha256="s", caption="red apple")]) == {2: (PAIR, 1)}


def test_same_bytes_other_caption_is_a_duplicate_image() -> None:
    assert losers([row(1, sha256="s"), row(2, sha256="s")]) == {2: (IMAGE, 1)}


def test_similar_hash_is_a_near_duplicate() -> None:
    rows = [row(1, phash=BASE), row(2, phash=flip(BASE, 0, 20, 40, 63))]
    assert losers(rows, {"name": NEAR, "max_distance": 4}) == {2: (NEAR, 1)}
    assert losers(rows, {"name": NEAR, "max_distance": 3}) == {}


def test_highest_score_stays_then_smallest_uid() -> None:
    same = {"sha256": "s", "caption": "c"}
    assert losers([row(1, score=1.0, **same), row(2, score=9.0, **same)]) == {1: (PAIR, 2)}
    assert losers([row(4, score=9.0, **same), row(3, score=9.0, **same)]) == {4: (PAIR, 3)}


@pytest.mark.parametrize("missing", [None, float("nan")])
def test_missing_score_ranks_last(missing: float | None) -> None:
    rows = [row(1, sha256="s", score=missing), row(2, sha256="s", score=-1e300)]
    assert losers(rows) == {1: (IMAGE, 2)}


def test_reason_compares_with_better_rows_only() -> None:
    # In order of rank: a picture; a near copy; its bytes under another caption, then under the same caption.
    rows = [
        row(1, phash=BASE, score=9.0),
        row(2, phash=flip(BASE, 1), score=8.0, sha256="s", caption="seven"),
        row(3, phash=flip(BASE, 1), score=7.0, sha256="s", caption="eight"),
        row(4, phash=flip(BASE, 1), score=6.0, sha256="s", caption="seven"),
    ]
    assert losers(rows) == {2: (NEAR, 1), 3: (IMAGE, 1), 4: (PAIR, 1)}


def test_likeness_is_transitive_across_kinds() -> None:
    # 1 and 2 have the same bytes, 2 and 3 the same hash, 3 and 4 similar hashes: one family.
    rows = [
        row(1, sha256="s", phash=None),
        row(2, sha256="s", phash=BASE),
        row(3, phash=BASE),
        row(4, phash=flip(BASE, 3)),
    ]
    assert losers(rows) == {2: (IMAGE, 1), 3: (NEAR, 1), 4: (NEAR, 1)}


def test_a_reason_is_of_the_strongest_kind_that_leads_to_a_better_row_however_many_steps_it_takes() -> None:
    # 3 has the host of 2, and 2 the bytes of 1: over those two kinds 3 is joined to 1, though only near to 4 directly.
    # 2 and 3 alone are joined by the host; 5 hangs on by its hash.
    rows = [
        row(1, sha256="s", score=5.0),
        row(2, sha256="s", host="h", score=3.0),
        row(3, host="h", phash=BASE, score=4.0),
        row(4, phash=flip(BASE, 1), score=1.0),
        row(5, phash=flip(BASE, 1, 2), score=0.0),
    ]
    assert losers(rows, IMAGE, NEAR, HOST) == {
        2: (IMAGE, 1),
        3: ("duplicate_host", 1),
        4: (NEAR, 1),
        5: (NEAR, 1),
    }


def test_a_kind_that_is_off_joins_nothing_and_is_no_reason() -> None:
    pair = [row(1, sha256="s", caption="c"), row(2, sha256="s", caption="c"), row(3, sha256="s")]
    near = [row(4, phash=BASE), row(5, phash=BASE)]
    assert losers(pair + near, PAIR, IMAGE) == {2: (PAIR, 1), 3: (IMAGE, 1)}
    assert losers(pair + near, PAIR) == {2: (PAIR, 1)}
    assert losers(pair + near, IMAGE) == {2: (IMAGE, 1), 3: (IMAGE, 1)}
    assert losers(pair + near, NEAR) == {5: (NEAR, 4)}
    for off in (DeduplicateConfig(kinds=()), DeduplicateConfig(enabled=False)):
        assert find_losers(table(pair + near), config=off).equals(LOSERS.empty_table())


def test_equal_bytes_found_by_their_hash_alone_are_near_duplicates_where_their_own_kind_is_off() -> None:
    # All three have the same bytes, so the same hash; two of them the same caption.
    rows = [row(n, sha256="s", phash=BASE, caption=caption) for n, caption in ((1, "a"), (2, "b"), (3, "a"))]
    assert losers(rows, PAIR, NEAR) == {2: (NEAR, 1), 3: (PAIR, 1)}


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
    assert losers(rows) == {7: (IMAGE, 6)}
    assert set(losers(rows, PAIR, IMAGE, {"name": NEAR, "min_bits": 0})) == {2, 3, 5, 6, 7}


def test_rows_without_hashes_are_left_alone() -> None:
    assert losers([row(1, sha256=None, phash=None), row(2, sha256=None, phash=None)]) == {}


def test_no_rows() -> None:
    assert find_losers(ROWS.empty_table(), config=DeduplicateConfig()).equals(LOSERS.empty_table())


def test_losers_name_their_place_and_reason() -> None:
    found = find_losers(table([row(n, phash=BASE) for n in (9, 2, 6, 1)]), config=DeduplicateConfig())
    assert found.schema.equals(LOSERS)
    assert list(zip(found["shard"].to_pylist(), found["row"].to_pylist(), strict=True)) == [(0, 2), (1, 2), (2, 1)]
    assert set(found["reason"].to_pylist()) <= set(Deduplicate.drops)


# ------------------------------------------------------------------------------------------- against all pairs, naive


def alike(one: Row, other: Row, chosen: Any) -> bool:
    """Whether a kind joins two rows."""
    if chosen.name == HOST:
        return bool(one["host"] == other["host"])
    if chosen.name == NEAR:
        both = (one["phash"], other["phash"])
        telling = all(chosen.min_bits <= phash.bit_count() <= 64 - chosen.min_bits for phash in both)
        apart = [a - b for a, b in zip(one["colours"], other["colours"], strict=True)]
        points = (apart[at : at + 3] for at in range(0, 192, 3))
        like = all(sum(value * value for value in point) <= chosen.max_colour**2 for point in points)
        return telling and like and (both[0] ^ both[1]).bit_count() <= chosen.max_distance
    return one["sha256"] == other["sha256"] and (chosen.name == IMAGE or one["caption"] == other["caption"])


def families(rows: list[Row], kinds: Sequence[Any]) -> list[list[Row]]:
    """Rows that some of these kinds join, over any number of steps, each family from the best to the worst."""
    family = [{at} for at in range(len(rows))]
    for (i, one), (j, other) in itertools.combinations(enumerate(rows), 2):
        if family[i] is not family[j] and any(alike(one, other, kind) for kind in kinds):
            family[i] |= family[j]
            for at in family[j]:
                family[at] = family[i]
    unique = {id(members): members for members in family}.values()
    return [sorted((rows[at] for at in members), key=lambda r: (-r["score"], r["uid"])) for members in unique]


def naive(rows: list[Row], config: DeduplicateConfig) -> dict[str, tuple[str, str]]:
    """The definition, comparing all pairs: uid of each lost row -> (reason, uid of the row that stays)."""
    order = [kind for name in (PAIR, IMAGE, HOST, NEAR) for kind in config.kinds if kind.name == name]
    survivor = {member["uid"]: family[0]["uid"] for family in families(rows, order) for member in family}
    reason: dict[str, str] = {}
    for end in range(1, len(order) + 1):
        for family in families(rows, order[:end]):
            for member in family[1:]:
                reason.setdefault(member["uid"], order[end - 1].name.replace(HOST, "duplicate_host"))
    return {uid: (why, survivor[uid]) for uid, why in reason.items()}


def before_kinds_were_declared(rows: list[Row], config: DeduplicateConfig) -> dict[str, tuple[str, str]]:
    """The rule as it stood for our three kinds, all on: what a row shares with a better one of its family."""
    lost = {}
    for family in families(rows, config.kinds):
        for rank, member in enumerate(family[1:], start=1):
            same = [better for better in family[:rank] if better["sha256"] == member["sha256"]]
            reason = IMAGE if same else NEAR
            if any(better["caption"] == member["caption"] for better in same):
                reason = PAIR
            lost[member["uid"]] = (reason, family[0]["uid"])
    return lost


def over_a_cluster(rows: pa.Table, config: DeduplicateConfig, rng: random.Random) -> pa.Table:
    """What the driver does, with a random order and a random number of partitions of random content each time."""
    kinds = kinds_of(config)
    rows = rows.take(pa.array(rng.sample(range(len(rows)), len(rows)), pa.int64()))
    shards = [rows.slice(0, len(rows) // 2), rows.slice(len(rows) // 2)]
    met = pa.concat_tables([met_rows(shard, kinds=kinds) for shard in shards])
    part_of: dict[int, int] = {}
    parts: list[list[int]] = [[] for _ in range(rng.randint(1, 5))]
    for at, key in enumerate(met["key"].to_pylist()):
        parts[part_of.setdefault(key, rng.randrange(len(parts)))].append(at)
    divided = [met.take(pa.array(rng.sample(part, len(part)), pa.int64())) for part in parts]
    edges = [found_edges(part, kinds=kinds) for part in divided]
    return survivors(pa.concat_tables(rng.sample(edges, len(edges))), kinds=kinds)


def layout(colour: int, shade: int, part: int) -> bytes:
    """Colours that are alike but for one part's shade."""
    points = [[40 * colour, 128, 100]] * 64
    points[part] = [40 * colour, 128 + shade, 100]
    return bytes(itertools.chain.from_iterable(points))


@st.composite
def clustered_rows(draw: st.DrawFn) -> list[Row]:
    """Few bases, few flipped bits, few digests and scores: many families, close calls and ties."""
    flips = st.lists(st.integers(0, 63), max_size=7)
    bases = [0, *draw(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=3))]
    one = st.tuples(
        st.sampled_from(bases),
        flips,
        *[st.integers(0, most) for most in (12, 2, 20)],
        st.sampled_from([-1.5, 0.0, 2.0]),
        # Three colours, each in shades that are less than half the limit apart.
        st.tuples(st.integers(0, 2), st.integers(0, 3), st.integers(0, 63)),
    )
    drawn = draw(st.lists(one, max_size=25))
    return [
        row(n, phash=flip(base, *bits), sha256=f"{sha:064x}", caption=f"{caption}", host=f"{host}", score=score)
        | {"colours": layout(*colour)}
        for n, (base, bits, sha, caption, host, score, colour) in enumerate(drawn)
    ]


near_kinds = st.builds(
    lambda most, least: {"name": NEAR, "max_distance": most, "min_bits": least},
    st.integers(0, 15),
    st.sampled_from([0, 4, 8]),
)
configs = st.builds(
    lambda near, others: DeduplicateConfig(kinds=[*near, *others]),
    st.lists(near_kinds, max_size=1),
    st.lists(st.sampled_from([PAIR, IMAGE, HOST]), unique=True),
)


@pytest.mark.slow
@settings(max_examples=150)
@given(rows=clustered_rows(), config=configs, seed=st.integers(0, 2**32))
def test_any_order_and_division_gives_what_comparing_all_pairs_gives(
    rows: list[Row], config: DeduplicateConfig, seed: int
) -> None:
    whole = find_losers(table(rows), config=config)
    found = {one["uid"]: (one["reason"], one["survivor"]) for one in whole.to_pylist()}
    assert found == naive(rows, config)
    assert over_a_cluster(table(rows), config, random.Random(seed)).equals(whole)


@settings(max_examples=100)
@given(rows=clustered_rows(), near=near_kinds)
def test_our_three_kinds_together_give_the_reasons_that_they_always_gave(rows: list[Row], near: Row) -> None:
    config = DeduplicateConfig(kinds=[PAIR, IMAGE, near])
    assert naive(rows, config) == before_kinds_were_declared(rows, config)


def test_two_rows_linked_twice_are_still_two_rows() -> None:
    kinds = kinds_of(DeduplicateConfig())
    edges = found_edges(
        met_rows(table([row(1, sha256="s", phash=BASE), row(2, sha256="s", phash=BASE)]), kinds=kinds), kinds=kinds
    )
    swapped = edges.select(["kind", *EDGES.names[5:], *EDGES.names[1:5]]).rename_columns(EDGES.names)
    found = survivors(pa.concat_tables([edges, swapped, edges]), kinds=kinds)
    assert found.select(["row", "reason"]).to_pylist() == [{"row": 2, "reason": IMAGE}]


def test_registered_kinds_are_named_as_they_name_their_reason() -> None:
    assert [KINDS.get(name).name for name in KINDS.names] == KINDS.names
