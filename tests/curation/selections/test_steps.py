"""Every rule of a selection against brute force, in ten layouts; each row is accounted for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from brute import Row, best_first, groups, host, missing, quantile, rounded_up, some_rows
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts import LocalPasses, divided, layouts

from curation.duplicates.deduplicate import find_members, scores
from curation.schema import set_columns
from curation.selections.chain import ordered
from curation.selections.config import Section
from curation.selections.cuts import Limits
from curation.selections.steps import Rules, ShardRows, reasons_of, staying
from curation.selections.whole_run import find

ROWS = some_rows(700)
LIMITS = {"in one place": Limits(), "by every way": Limits(rows=30, buckets=256)}


def select(shards: Sequence[pa.Table], section: dict[str, Any], limits: Limits | None = None) -> dict[str, Any]:
    """Selection -> uid -> (reason, weight), each selection made from those before it."""
    selections = Section.checked({"selections": section}).selections
    made: dict[str, list[pa.Table]] = {}
    out: dict[str, Any] = {}
    for name in ordered(selections, ["default"]):
        rules = Rules(name, selections[name])
        rules.check({field.name: field.type for field in shards[0].schema})

        def load(shard: int, rules: Rules = rules) -> ShardRows:
            return ShardRows(shard, shards[shard], {base: made[base][shard] for base in rules.bases})

        def losers(among: Callable[[int], Any], rules: Rules = rules) -> Callable[[int], pa.Table]:
            here = []
            for shard, rows in enumerate(shards):
                places = {
                    "shard": pa.array([shard] * len(rows), pa.int32()),
                    "row": pa.array(range(len(rows)), pa.int32()),
                }
                score = {"score": scores(rows, rules.config.score)}
                here.append(set_columns(rows, {**places, **score}).filter(pa.array(among(shard))))
            lost = find_members(pa.concat_tables(here), config=rules.config.duplicates)
            return lambda shard: lost.filter(pc.equal(lost["shard"], shard))

        found = find(rules, LocalPasses(len(shards)), load, losers, rows=sum(map(len, shards)), limits=limits)
        made[name], out[name] = [], {}
        for shard, rows in enumerate(shards):
            reasons = rules.reasons(load(shard), found)
            weights = rules.weight(rows, reasons, found).to_pylist() if rules.config.weight else [None] * len(rows)
            made[name].append(pa.table({"keep": staying(reasons), "reason": pa.array(reasons.tolist(), pa.string())}))
            out[name] |= dict(zip(rows["uid"].to_pylist(), zip(reasons, weights, strict=True), strict=True))
    return out


def live(rows: pa.Table = ROWS) -> list[Row]:
    return [row for row in rows.to_pylist() if row["drop_reason"] is None]


def kept(made: dict[str, Any]) -> set[str]:
    return {uid for uid, (reason, _) in made.items() if reason is None}


def uids(rows: Sequence[Row]) -> set[str]:
    return {row["uid"] for row in rows}


def where() -> set[str]:
    found = set()
    for rows in groups(live(), lambda row: row["language"]).values():
        least = quantile(rows, lambda row: row["score"], 0.7)
        found |= {r["uid"] for r in rows if r["score"] is not None and least is not None and r["score"] > least}
    return found


def top_share() -> set[str]:
    rows = live()
    return uids(best_first(rows, lambda row: row["score"])[: rounded_up("0.3", len(rows))])


def top_per() -> set[str]:
    found = set()
    for rows in groups(live(), lambda row: row["language"]).values():
        found |= uids(best_first(rows, lambda row: row["width"])[: rounded_up("0.07", len(rows))])
    return found


def quota() -> set[str]:
    found = set()
    for rows in groups(live(), host).values():
        found |= uids(best_first(rows, lambda row: row["score"])[:9])
    return found


def quota_share() -> set[str]:
    most, found = rounded_up("0.03", len(live())), set()
    for rows in groups(live(), host).values():
        found |= uids(sorted(rows, key=lambda row: row["uid"])[:most])
    return found


def exact() -> set[str]:
    pictures = groups(live(), lambda row: row["sha256"]).values()
    return uids([best_first(rows, lambda row: row["original_width"] * 100)[0] for rows in pictures])


def all_rules() -> set[str]:
    """where, then duplicates of what is left, then the quota of what is left, then the top of what is left."""
    least = quantile(live(), lambda row: row["score"], 0.1)
    rows = [r for r in live() if r["language"] in ("en", "zh") and r["score"] is not None and r["score"] >= least]
    pictures = groups(rows, lambda row: row["sha256"]).values()
    rows = [best_first(one, lambda row: row["score"])[0] for one in pictures]
    hosts = groups(rows, host).values()
    rows = [row for one in hosts for row in best_first(one, lambda row: row["width"])[:15]]
    return uids(best_first(rows, lambda row: row["score"])[:50])


CASES: dict[str, tuple[dict[str, Any], Callable[[], set[str]]]] = {
    "where": ({"where": "score > quantile(score, 0.7, by=language)"}, where),
    "top share": ({"top": {"by": "score", "share": 0.3}}, top_share),
    "top of each": ({"top": {"by": "width", "share": 0.07, "per": "language"}}, top_per),
    "quota": ({"quota": {"per": "host", "rows": 9, "by": "score"}}, quota),
    "quota share": ({"quota": {"per": "host", "share": 0.03}}, quota_share),
    "exact": ({"dedup": ["exact"]}, exact),
    "all": (
        {
            "where": "language in ('en', 'zh') and score >= quantile(score, 0.1)",
            "dedup": ["exact"],
            "score": "score",
            "quota": {"per": "host", "rows": 15, "by": "width"},
            "top": {"by": "score", "rows": 50},
        },
        all_rules,
    ),
}


@pytest.mark.parametrize(
    ("share", "rows", "place"), [("0.07", 100, 7), ("0.29", 100, 29), ("0.0", 10, 1), ("1", 10, 10)]
)
def test_a_quantile_is_of_the_share_as_it_is_written(share: str, rows: int, place: int) -> None:
    """In binary 0.07 of 100 is more than 7, so numpy's answer is the eighth value."""
    alive = ROWS.filter(pc.is_null(ROWS["drop_reason"]))
    given = set_columns(alive.slice(0, rows), {"width": pa.array(range(1, rows + 1), pa.int32())})
    made = select([given], {"a": {"where": f"width == quantile(width, {share})"}})["a"]
    assert [uid for uid, (reason, _) in made.items() if reason is None] == [given["uid"][place - 1].as_py()]


@pytest.mark.parametrize("way", LIMITS)
@pytest.mark.parametrize("case", CASES)
def test_a_rule_keeps_what_brute_force_keeps_in_every_layout(case: str, way: str) -> None:
    given, wanted = CASES[case]
    found = [select(shards, {"one": given}, LIMITS[way])["one"] for shards in layouts(ROWS)]
    assert kept(found[0]) == wanted()
    assert 0 < len(kept(found[0])) < len(live())
    assert all(one == found[0] for one in found)


def test_exactly_so_many_rows_stay() -> None:
    for rows in (1, 17, 400):
        assert len(kept(select([ROWS], {"a": {"top": {"by": "score", "rows": rows}}})["a"])) == rows
    for one in groups([r for r in live() if r["uid"] in quota()], host).values():
        assert len(one) == 9


def test_missing_scores_come_last() -> None:
    scored = [row for row in live() if not missing(row["score"])]
    found = kept(select([ROWS], {"a": {"top": {"by": "score", "rows": len(scored)}}})["a"])
    assert found == uids(scored)
    found = kept(select([ROWS], {"a": {"top": {"by": "-score", "rows": len(scored)}}})["a"])
    assert found == uids(scored)


def test_every_row_has_a_reason_and_only_declared_ones() -> None:
    section = {
        "base": {"dedup": ["exact"]},
        "good": {"from": "base", "where": "score > 0", "top": {"by": "score", "rows": 99}},
        "some": "good | ~base",
        "rest": {"from": "base & ~good", "quota": {"per": "language", "rows": 5}},
    }
    made = select([ROWS], section)
    rules = [Rules(name, config) for name, config in Section.checked({"selections": section}).selections.items()]
    for name, one in made.items():
        assert one.keys() == set(ROWS["uid"].to_pylist())
        for row in ROWS.to_pylist():
            reason = one[row["uid"]][0]
            if row["drop_reason"] is not None:
                assert reason == row["drop_reason"]
            else:
                assert reason is None or reason in reasons_of(rules, name)
    reasons = {name: {reason for reason, _ in one.values()} - {None, "timeout"} for name, one in made.items()}
    assert reasons["base"] == {"duplicate_pair", "duplicate_image"}
    assert reasons["good"] == {"duplicate_pair", "duplicate_image", "where", "top"}
    assert reasons["some"] == {"not_selected"}
    assert reasons["rest"] == {"not_selected", "quota"}
    base, good = kept(made["base"]), kept(made["good"])
    assert good < base
    assert kept(made["some"]) == good | (uids(live()) - base)
    assert kept(made["rest"]) <= base - good


RULES = st.fixed_dictionaries(
    {},
    optional={
        "where": st.sampled_from(["score > 0", "width > quantile(width, 0.4, by=language)", "language == 'en'"]),
        "dedup": st.just(["exact"]),
        "quota": st.sampled_from([{"per": "host", "rows": 4}, {"per": "language", "share": 0.2, "by": "score"}]),
        "top": st.sampled_from([{"rows": 15, "by": "width"}, {"share": 0.5, "by": "score", "per": "host"}]),
    },
)
SIGNS = st.sampled_from(["{}", "~{}", "{} & all", "{} | default_like", "all & ~{}", "not {} or default_like"])


@given(st.lists(st.tuples(SIGNS, RULES), min_size=1, max_size=3), st.integers(0, 3))
@settings(max_examples=25)
def test_every_row_is_kept_or_has_one_reason_whatever_the_rules(drawn: list[tuple[str, Any]], seed: int) -> None:
    rows = some_rows(120, seed)
    section: dict[str, Any] = {"default_like": {"dedup": ["exact"]}}
    for number, (signs, rules) in enumerate(drawn):
        section[f"s{number}"] = {"from": signs.format(f"s{number - 1}" if number else "all"), **rules}
    made = select(divided(rows, 4, seed), section)
    alive = uids(live(rows))
    chosen = [Rules(name, config) for name, config in Section.checked({"selections": section}).selections.items()]
    for name, one in made.items():
        assert one.keys() == set(rows["uid"].to_pylist())
        reasons = Counter(reason for reason, _ in one.values())
        assert len(rows) == sum(reasons.values())
        assert kept(one) <= alive
        assert {reason for uid, (reason, _) in one.items() if uid in alive} <= {None, *reasons_of(chosen, name)}
        assert {reason for uid, (reason, _) in one.items() if uid not in alive} <= {"timeout"}
        if section[name].get("top", {}).get("rows"):
            # A row that the base leaves out keeps the base's reason, which may be `top` too.
            base = made.get(section[name]["from"], {})
            own = [uid for uid, (reason, _) in one.items() if reason == "top" and base.get(uid, (None,))[0] != "top"]
            assert reasons[None] <= 15 and (reasons[None] == 15 or not own)


def test_quantiles_are_over_the_rows_of_from() -> None:
    section = {"wide": {"where": "width > 300"}, "half": {"from": "wide", "where": "score >= quantile(score, 0.5)"}}
    wide = [row for row in live() if row["width"] > 300]
    least = quantile(wide, lambda row: row["score"], 0.5)
    assert least != quantile(live(), lambda row: row["score"], 0.5) or len(wide) < len(live())
    wanted = [row for row in wide if not missing(row["score"]) and row["score"] >= least]
    assert kept(select([ROWS], section)["half"]) == uids(wanted)


@pytest.mark.parametrize("way", LIMITS)
def test_weights_are_numbers_of_the_rows_that_stay(way: str) -> None:
    given = {"where": "width > 100", "weight": "score / count(by=language)"}
    sizes = {name: len(rows) for name, rows in groups(live(), lambda row: row["language"]).items()}
    for shards in layouts(ROWS, 4):
        made = select(shards, {"a": given}, LIMITS[way])["a"]
        for row in ROWS.to_pylist():
            reason, weight = made[row["uid"]]
            if reason is not None:
                assert weight is None
            elif missing(row["score"]) or not 0 < row["score"] < float("inf"):
                assert weight == 0
            else:
                assert weight == np.float32(row["score"] / sizes[row["language"]])


@pytest.mark.parametrize(
    ("weight", "kept_as"),
    [
        ("1e39", 3.4028234663852886e38),
        ("3.5e38", 3.4028234663852886e38),
        ("1e308 * 10", 0.0),
        ("1e-50", 1.401298464324817e-45),
        ("5e-324", 1.401298464324817e-45),
        ("0.1", float(np.float32(0.1))),
        ("0", 0.0),
        ("-1e39", 0.0),
        ("-1e-50", 0.0),
    ],
)
def test_a_weight_that_float32_does_not_reach_is_the_nearest(weight: str, kept_as: float) -> None:
    made = select([ROWS], {"a": {"weight": weight}})["a"]
    assert {weight for reason, weight in made.values() if reason is None} == {kept_as}


def test_functions_over_all_rows_are_over_those_that_uids_leaves(tmp_path: Path) -> None:
    some = sorted(row["uid"] for row in live() if row["width"] > 400)
    np.save(tmp_path / "some.npy", np.array([(int(one[:16], 16), int(one[16:], 16)) for one in some], "u8,u8"))
    given = {"uids": str(tmp_path / "some.npy"), "weight": "count()"}
    assert {weight for reason, weight in select([ROWS], {"a": given})["a"].values() if reason is None} == {len(some)}


@pytest.mark.parametrize("kind", [pa.float64(), pa.float32(), pa.float16()])
def test_zeros_of_both_signs_are_one_group(kind: pa.DataType) -> None:
    values = np.array([0.0, -0.0, 0.0, -0.0, 1.5, -1.5, 0.1], np.float64)
    rows = ROWS.filter(pc.is_null(ROWS["drop_reason"])).slice(0, len(values))
    rows = rows.append_column("zero", pa.array(values, pa.float64()).cast(kind, safe=False))
    made = select(divided(rows, 3, 1), {"a": {"weight": "count(by=zero)"}, "b": {"top": {"per": "zero", "rows": 1}}})
    assert [made["a"][one][1] for one in rows["uid"].to_pylist()] == [4, 4, 4, 4, 1, 1, 1]
    best = min(rows["uid"].to_pylist()[:4])
    assert kept(made["b"]) == {best, *rows["uid"].to_pylist()[4:]}


@pytest.mark.parametrize(
    "rule", [{"top": {"by": "width", "rows": 5}}, {"quota": {"per": "1", "by": "width", "rows": 5}}]
)
def test_repeated_rows_are_one_rank_and_stay_or_go_together(rule: dict[str, Any]) -> None:
    once = ROWS.filter(pc.is_null(ROWS["drop_reason"])).slice(0, 40)
    best = [row["uid"] for row in best_first(once.to_pylist(), lambda row: row["width"])]
    assert kept(select([once], {"a": rule})["a"]) == set(best[:5])
    # The fifth of the rows is the first copy of the third best.
    assert kept(select([once, once], {"a": rule})["a"]) == set(best[:3])


def test_counts_are_of_the_rows_with_the_same_value_null_too() -> None:
    sizes = {name: len(rows) for name, rows in groups(live(), host).items()}
    found = kept(select([ROWS], {"a": {"where": "count(by=host(url)) > 52"}})["a"])
    assert found == uids([row for row in live() if sizes[host(row)] > 52])
    assert kept(select([ROWS], {"a": {"where": f"count() == {len(live())}"}})["a"]) == uids(live())
    without = [row for row in live() if row["language"] is None]
    found = kept(select([ROWS], {"a": {"where": f"count(by=language) == {len(without)} and is_null(language)"}})["a"])
    assert found == uids(without)


def test_chance_follows_from_uid_and_seed() -> None:
    first, again, other = (
        kept(select(shards, {"a": {"where": f"random({seed}) < 0.5"}})["a"])
        for shards, seed in (([ROWS], 0), (list(layouts(ROWS, 3))[2], 0), ([ROWS], 1))
    )
    assert first == again != other
    assert 0.4 < len(first) / len(live()) < 0.6
    assert len(first & other) < 0.35 * len(live())


#: Comparisons of a count c with numbers, as Python reads them too.
COMPARED = (
    *("{c} <= {n}", "{c} < {n}", "{c} > {n}", "{c} >= {n}", "{c} == {n}", "{c} != {n}"),
    *("{n} >= {c}", "{n} > {c}", "{n} < {c}", "{n} <= {c}", "{n} == {c}", "not {c} <= {n}"),
    *("2 < {c} <= {n}", "{n} >= {c} > 1", "{c} <= {n} or {c} > 40", "{c} / 2 <= {n}", "{c} <= {n} + 1"),
)


@settings(max_examples=150)
@given(
    st.sampled_from(COMPARED), st.sampled_from([0, 1, 2, 3, 3.5, 10, 52, 1000, 1e400]), st.sampled_from(["host", ""])
)
def test_a_count_that_is_compared_means_what_it_says(comparison: str, number: float, by: str) -> None:
    call = "count(by=host(url))" if by else "count()"
    where = comparison.format(c=call, n="1e400" if number == float("inf") else number)
    sizes = Counter(host(row) if by else "" for row in live())
    expected = {
        row["uid"]
        for row in live()
        if eval(comparison.format(c=sizes[host(row) if by else ""], n=f"float('{number}')"))
    }
    assert kept(select([ROWS], {"a": {"where": where}})["a"]) == expected


@pytest.mark.parametrize(
    ("where", "listed"),
    [
        ("count(by=uid) <= 1000", 0),
        ("1 < count(by=uid)", 0),
        ("count(by=uid) <= 1000 and count(by=uid) != 1", None),
        ("count(by=uid) <= 1000 or score > count(by=uid)", None),
        ("count(by=uid) < 2", 0),
        ("count(by=uid) < 1", None),
    ],
)
def test_groups_whose_count_decides_nothing_have_no_line(where: str, listed: int | None) -> None:
    config = Section.checked({"selections": {"a": {"where": where}}}).selections["a"]
    rules = Rules("a", config)
    found = find(
        rules, LocalPasses(1), lambda shard: ShardRows(shard, ROWS), lambda among: lambda shard: ROWS, rows=700
    )
    (values,) = found.values.values()
    assert len(values) == (len(live()) if listed is None else listed)


def test_a_weight_by_a_count_that_is_also_compared_has_the_count() -> None:
    made = select([ROWS], {"a": {"where": "count(by=host(url)) <= 1000", "weight": "count(by=host(url))"}})["a"]
    sizes = Counter(host(row) for row in live())
    assert {uid: weight for uid, (_, weight) in made.items() if weight} == {r["uid"]: sizes[host(r)] for r in live()}
