"""Weights against skew, by brute force from the definition, in ten layouts; and how they reach training."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from brute import Row, best_first, host
from layouts import layouts
from selected_run import selected_run
from test_steps import LIMITS, ROWS, live, select

from curation.selections.config import Section
from curation.selections.skew_rule import SkewConfig
from curation.selections.steps import Rules
from pairmill.errors import UserError
from pairmill.store import Store
from training.data.config import DataConfig
from training.data.source import open_sources

RULES: dict[str, dict[str, Any]] = {
    "equal": {"of": "language"},
    "within hosts": {"of": "language", "per": "host", "most": 100.0},
    "overall": {"of": "language", "per": "host", "desired": "overall", "most": 100.0},
    "some of it": {"of": "language", "per": "width > 300", "strength": 0.5},
    "given": {"of": "language", "per": "host", "desired": {"en": 2, "zh": 1}, "most": 5.0},
    "truth values": {"of": "width > 400", "desired": {True: 3, False: 1}},
    "what comes first": {"of": "language", "per": "host", "by": "score", "rows": 6, "most": 7.0},
    "lowest first": {"of": "width > 400", "per": "language", "by": "-score", "rows": 20, "desired": "overall"},
}


def group(row: Row, text: str | None) -> Any:
    if text is None:
        return None
    if ">" in text:
        return row["width"] > int(text.split(">")[1])
    return host(row) if text == "host" else row[text]


def signed(name: str, sign: int, row: Row) -> Any:
    return None if row[name] is None else sign * row[name]


def brute(rows: list[Row], rule: dict[str, Any]) -> dict[str, float]:
    """uid -> the weight of each row that stays."""
    desired, most = rule.get("desired", "equal"), rule.get("most", 10.0)
    counts = [row for row in rows if group(row, rule["of"]) is not None]
    if isinstance(desired, dict):
        counts = [row for row in counts if group(row, rule["of"]) in desired]
    values = Counter(group(row, rule["of"]) for row in counts)
    wanted: dict[Any, float] = desired if isinstance(desired, dict) else dict(values)
    if desired == "equal":
        wanted = dict.fromkeys(values, 1.0)
    concepts = defaultdict(list)
    for row in counts:
        concepts[group(row, rule.get("per"))].append(row)
    found = {row["uid"]: 1.0 for row in rows}
    for of_concept in concepts.values():
        first = of_concept
        if "rows" in rule:
            sign = -1 if rule["by"].startswith("-") else 1
            name = rule["by"].removeprefix("-")
            first = best_first(of_concept, partial(signed, name, sign))[: rule["rows"]]
        among = Counter(group(row, rule["of"]) for row in first)
        for row in of_concept:
            value = group(row, rule["of"])
            share, should = among[value] / len(first), wanted[value] / sum(wanted.values())
            weight = math.exp(-rule.get("strength", 1.0) * math.log(share / should)) if share else math.inf
            found[row["uid"]] = min(most, max(1 / most, weight))
    return found


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("limits", LIMITS)
def test_weights_are_those_of_the_definition(name: str, limits: str) -> None:
    expected = brute(live(), RULES[name])
    assert len(set(expected.values())) > 1
    for shards in layouts(ROWS):
        made = select(shards, {"a": {"weight": RULES[name]}}, LIMITS[limits])["a"]
        stays = {uid: weight for uid, (reason, weight) in made.items() if reason is None}
        assert stays == pytest.approx(expected, rel=1e-6)
        assert all(weight is None for reason, weight in made.values() if reason is not None)


def test_shares_are_those_of_the_rows_that_stay() -> None:
    rule = {"of": "language", "per": "host"}
    made = select([ROWS], {"a": {"where": "width > 200", "top": {"by": "width", "rows": 300}, "weight": rule}})["a"]
    stays = {uid: weight for uid, (reason, weight) in made.items() if reason is None}
    assert len(stays) == 300
    assert stays == pytest.approx(brute([row for row in live() if row["uid"] in stays], rule), rel=1e-6)


def test_weighted_rows_have_the_desired_shares_in_each_concept() -> None:
    made = select([ROWS], {"a": {"weight": {"of": "language", "per": "host", "most": 1e6}}})["a"]
    rows = [row for row in live() if row["language"] is not None]
    sums: dict[tuple[str, str], float] = defaultdict(float)
    for row in rows:
        sums[host(row), row["language"]] += made[row["uid"]][1]
    for one in {host(row) for row in rows}:
        shares = [sums[one, language] for language in ("en", "zh", "de") if (one, language) in sums]
        assert shares == pytest.approx([shares[0]] * len(shares), rel=1e-5)


def test_no_row_and_no_value_are_no_error() -> None:
    rule = {"of": "language", "desired": {"xx": 1}}
    made = select([ROWS], {"a": {"weight": rule}, "none": {"where": "width < 0", "weight": rule}})
    assert {weight for reason, weight in made["a"].values() if reason is None} == {1.0}
    assert {weight for _, weight in made["none"].values()} == {None}


@pytest.mark.parametrize(
    ("weight", "says"),
    [
        ({"of": "languag"}, "language"),
        ({"of": "language", "pr": "host"}, "perhaps you mean"),
        ({"per": "host"}, "of"),
        ({"of": "language", "desired": {"en": 0}}, "positive number"),
        ({"of": "language", "desired": {}}, "positive number"),
        ({"of": "language", "desired": "fair"}, "equal"),
        ({"of": "quantile(width, 0.5)"}, "weight.of"),
        ({"of": "language", "rows": 0}, "rows"),
        ({"of": "language", "most": 0.5}, "most"),
        ({"of": "language", "by": "caption", "rows": 3}, "weight.by"),
        ({"of": "language", "by": "score"}, "weight.rows"),
        (7, "weight"),
    ],
)
def test_mistakes_are_refused(weight: object, says: str) -> None:
    with pytest.raises(UserError, match=f"(?s){says}"):
        section = Section.checked({"selections": {"a": {"weight": weight}}}).selections
        Rules("a", section["a"]).check({field.name: field.type for field in ROWS.schema})


def test_training_draws_by_them(tmp_path: Path) -> None:
    rule = {"of": "input.id >= 100", "most": 100.0}
    store: Store = selected_run(tmp_path, {"even": {"weight": rule}})
    rows = pa.concat_tables([store.load("selections/even", shard) for shard in sorted(store.index("plan"))])
    kept = rows.filter(rows["keep"])
    assert kept["weight"].null_count == 0 and len(set(kept["weight"].to_pylist())) == 2
    config = DataConfig(path=store.uri, selection="even", weight="weight")
    [source] = open_sources(config)
    drawn: Counter[str] = Counter()
    for epoch in range(200):
        for piece in range(source.pieces):
            some = source.drawn(piece, 0, None, words=(0, 0, epoch))  # type: ignore[attr-defined]
            drawn.update(some["uid"].to_pylist())
    total, weights = sum(drawn.values()), sum(kept["weight"].to_pylist())
    by_weight: dict[float, int] = defaultdict(int)
    for uid, weight in zip(kept["uid"].to_pylist(), kept["weight"].to_pylist(), strict=True):
        by_weight[weight] += drawn[uid]
    rows_of = Counter(kept["weight"].to_pylist())
    for weight, times in by_weight.items():
        assert times / total == pytest.approx(rows_of[weight] * weight / weights, abs=0.03)
    assert max(by_weight.values()) - min(by_weight.values()) < 0.1 * total  # both sides are read as often


def test_desired_values_are_texts_as_they_are_compared() -> None:
    given = SkewConfig.checked({"of": "x", "desired": {True: 1, 7: 2, 0.5: 3, "a": 4}}, at="weight")
    assert given.desired == {"true": 1, "7": 2, "0.5": 3, "a": 4}


def test_a_rule_has_defaults_that_need_no_more_than_an_attribute() -> None:
    assert SkewConfig(of="language").model_dump() == {
        **{"of": "language", "per": None, "by": None, "rows": None},
        **{"desired": "equal", "strength": 1.0, "most": 10.0},
    }
