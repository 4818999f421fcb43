"""The rule `decontaminate` of a selection: who goes, why, and after which other rules."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from brute import some_rows
from layouts import layouts
from test_steps import select

from curation.decontamination.stage import MATCH
from curation.flow import flow_of
from curation.selections.config import Section
from curation.selections.stage import rules_of
from pairmill.errors import RecipeError

KINDS = ("same_image", "near_image", "caption")


def rows(number: int = 300) -> pa.Table:
    """Every third row matches the set `a` by one kind, every fifth the set `b` by two."""
    made = some_rows(number)
    of_a = [[match(KINDS[n % 9 // 3], "x")] if n % 3 == 0 else None for n in range(number)]
    of_b = [[match("caption", "y"), match("near_image", "z")] if n % 5 == 0 else None for n in range(number)]
    dropped = made["drop_reason"].is_valid().to_pylist()
    for name, matches in (("a", of_a), ("b", of_b)):
        there = [None if gone else found for gone, found in zip(dropped, matches, strict=True)]
        made = made.append_column(f"matches_{name}", pa.array(there, pa.list_(MATCH)))
    return made


def match(kind: str, item: str) -> dict[str, Any]:
    return {"kind": kind, "item": item, "similarity": 0.9}


def expected(table: pa.Table, rule: dict[str, Any]) -> dict[str, str | None]:
    """uid -> why it goes; the first set counts."""
    found = {}
    for row in table.to_pylist():
        reason = row["drop_reason"]
        for name in rule["against"]:
            kinds = {one["kind"] for one in row[f"matches_{name}"] or ()}
            if reason is None and kinds & set(rule.get("kinds") or KINDS):
                reason = f"contaminated_{name}"
        found[row["uid"]] = reason
    return found


@pytest.mark.parametrize(
    ("given", "rule"),
    [
        ("a", {"against": ["a"]}),
        (["b", "a"], {"against": ["b", "a"]}),
        ({"against": ["a"], "kinds": ["caption"]}, {"against": ["a"], "kinds": ["caption"]}),
        ({"against": ["a", "b"], "kinds": ["same_image", "near_image"]},) * 2,
    ],
)
def test_rows_that_match_go_for_the_set_they_match(given: Any, rule: dict[str, Any]) -> None:
    table = rows()
    wanted = expected(table, rule)
    assert len({reason for reason in wanted.values() if reason}) >= 2
    for shards in layouts(table, 4):
        made = select(shards, {"clean": {"decontaminate": given}})["clean"]
        assert {uid: reason for uid, (reason, _) in made.items()} == wanted


def test_it_comes_after_where_and_before_duplicates() -> None:
    table = rows()
    section: dict[str, Any] = {
        "clean": {"where": "width > 200", "decontaminate": "a", "dedup": ["exact"]},
        "bare": {"where": "width > 200", "decontaminate": "a"},
        "on": {"from": "bare", "dedup": ["exact"]},
    }
    made = select([table], section)
    assert {uid: reason for uid, (reason, _) in made["clean"].items()} == {
        uid: reason for uid, (reason, _) in made["on"].items()
    }
    reasons = {reason for reason, _ in made["clean"].values()}
    assert {"where", "contaminated_a", "duplicate_image", None} <= reasons
    by_uid = {row["uid"]: row for row in table.to_pylist()}
    assert all(
        (reason == "contaminated_a") <= (by_uid[uid]["width"] > 200) for uid, (reason, _) in made["clean"].items()
    )


def test_a_set_or_a_kind_that_there_is_not_is_named() -> None:
    with pytest.raises(RecipeError, match=r"selections\.one\.decontaminate must name evaluation sets") as raised:
        select([rows(20)], {"one": {"decontaminate": "A"}})
    assert "a" in str(raised.value.fix)
    with pytest.raises(RecipeError, match=r"decontaminate\.kinds must name kinds of matches"):
        select([rows(20)], {"one": {"decontaminate": {"against": ["a"], "kinds": ["captoin"]}}})
    with pytest.raises(RecipeError, match="against"):
        Section.checked({"selections": {"one": {"decontaminate": []}}})


def test_the_product_may_be_made_of_it() -> None:
    flow = flow_of(
        {
            "decontaminate": {"coco": {"path": "FOLDER"}},
            "selections": {"clean": {"decontaminate": "coco"}, "more": {"from": "clean", "dedup": ["exact"]}},
            "pack": {"selection": "more"},
        }
    )
    assert "contaminated_coco" in flow.selecting.drops
    (rules,) = rules_of({"selections": {"clean": {"decontaminate": "coco"}}}, "default")
    assert rules.columns == ["matches_coco"] and not rules.of_all
    assert flow.owners["matches_coco"] == "columns/decontaminate-coco"


def test_a_kind_that_no_set_is_compared_by_is_refused() -> None:
    planned = pa.schema([("uid", pa.string()), ("url", pa.string()), ("alt", pa.string())])
    sets = {"a": {"path": "A", "kinds": ["caption"]}, "b": {"path": "B", "kinds": ["caption", "near_image"]}}

    def checked(against: list[str], *kinds: str) -> None:
        rule = {"against": against, "kinds": list(kinds)}
        flow_of({"decontaminate": sets, "selections": {"one": {"decontaminate": rule}}}).check(planned)

    checked(["a", "b"], "near_image", "caption")
    with pytest.raises(RecipeError, match="that its sets are compared by") as raised:
        checked(["a"], "caption", "near_image")
    assert raised.value.value == "near_image; a: caption"
