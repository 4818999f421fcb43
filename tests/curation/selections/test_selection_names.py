"""Expressions over selections, and a section as a whole: agreement with Python's own operators, and what is refused."""

from __future__ import annotations

import itertools
import random
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_encoders import VIT

from curation.duplicates.kinds import DeduplicateConfig
from curation.flow import flow_of
from curation.selections.chain import ordered
from curation.selections.config import Section
from curation.selections.expression import evaluate, names_of, parse_names
from curation.selections.steps import Rules
from pairmill.errors import RecipeError

#: Every combination of three selections, one row each.
MASKS = {
    name: np.array(column, np.bool_)
    for name, column in zip(
        ("a", "b", "c-1"), zip(*itertools.product([False, True], repeat=3), strict=True), strict=True
    )
}
names = st.sampled_from(sorted(MASKS))
trees: st.SearchStrategy[Any] = st.recursive(
    names,
    lambda inner: (
        st.tuples(st.just("~"), inner) | st.tuples(inner, st.just("&"), inner) | st.tuples(inner, st.just("|"), inner)
    ),
    max_leaves=8,
)
_RANK = {"|": 0, "&": 1, "~": 2}
_WORD = {"|": "or", "&": "and", "~": "not"}


def truth(tree: Any) -> np.ndarray[Any, Any]:
    match tree:
        case str():
            return MASKS[tree]
        case ("~", inner):
            return ~truth(inner)
        case (left, "&", right):
            return truth(left) & truth(right)
        case (left, _, right):
            return truth(left) | truth(right)


def written(tree: Any, rng: random.Random, least: int = 0) -> str:
    """The tree with only the parentheses that it needs, in signs or words."""
    if isinstance(tree, str):
        return tree
    sign = tree[0] if tree[0] == "~" else tree[1]
    rank = _RANK[sign]
    spelled = f"{_WORD[sign]} " if rng.random() < 0.5 else sign
    if sign == "~":
        text = f"{spelled}{written(tree[1], rng, rank)}"
    else:
        text = f"{written(tree[0], rng, rank)} {spelled} {written(tree[2], rng, rank)}"
    return f"({text})" if rank < least else text


@given(trees, st.randoms(use_true_random=False))
@settings(max_examples=300, deadline=None)
def test_not_binds_before_and_before_or_in_signs_and_words(tree: Any, rng: random.Random) -> None:
    parsed = parse_names(written(tree, rng), "selections.x.from")
    assert np.array_equal(evaluate(parsed, MASKS), truth(tree))


def test_a_chain_of_a_thousand_is_no_deeper_than_one() -> None:
    text = " | ".join(["a & ~~b"] * 1000)
    assert names_of(parse_names(text, "k")) == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "column"),
    [
        ("", 1),
        ("a |", 4),
        ("a b", 3),
        ("(a", 3),
        ("a)", 2),
        ("a & & b", 5),
        ("~", 2),
        ("a $ b", 3),
        ("a\n- b\n %", 8),
        ("a.b", 2),
        ("()", 2),
        ("not", 4),
        ("(" * 60 + "a" + ")" * 60, 51),
        ("a | é", 5),
    ],
)
def test_what_is_no_expression_is_refused_with_its_place(text: str, column: int) -> None:
    with pytest.raises(RecipeError, match=rf"selections\.x\.from, column {column}: "):
        parse_names(text, "selections.x.from")


def section(selections: dict[str, Any]) -> list[str]:
    return ordered(Section.checked({"selections": selections}).selections, ["default"])


def test_each_comes_after_what_it_is_made_from_whatever_the_order() -> None:
    given_ = {"d": "c & ~b", "c": {"from": "b | default"}, "b": {"from": "a"}, "a": {}}
    for order in itertools.permutations(given_):
        assert section({name: given_[name] for name in order}) == ["a", "b", "c", "d"]


@pytest.mark.parametrize(
    ("selections", "rule", "value"),
    [
        ({"a": "b"}, "selections.a.from must name selections of the recipe", "b"),
        ({"a": "a"}, "selections must not be made from themselves", "a -> a"),
        ({"a": "b", "b": "c | all", "c": {"from": "~a"}}, "must not be made from themselves", "a -> b -> c -> a"),
        ({"a": "b", "b": "a", "c": "a"}, "must not be made from themselves", "a -> b -> a"),
        ({"all": {}}, "selections.all must have another name: all is every row", "all"),
        ({"default": {}}, "default is the deduplicate section's selection", "default"),
        ({"not": {}}, "not is a word of expressions", "not"),
        ({"a b": {}}, "must have names of letters", "'a b'"),
        ({"../a": {}}, "must have names of letters", "'../a'"),
        ({"a": {"dedup": ["fuzzy"]}}, "dedup of a selection must name kinds of duplicates", "fuzzy"),
        ({"a": {"dedup": ["exact", "duplicate_pair"]}}, "must name each kind once", "duplicate_pair 2 times"),
        (
            {"a": {"dedup": ["exact", "exact"]}},
            "dedup of a selection must name each kind once",
            "duplicate_pair 2 times",
        ),
        ({"a": {"dedup": ["near_image"] * 3}}, "must name each kind once", "near_duplicate_image 3 times"),
        ({"a": {"top": {"rows": 10**24}}}, "selections.a.top.rows must be less than or equal", str(10**24)),
        ({"a": {"quota": {"per": "x", "rows": 2**62 + 1}}}, "selections.a.quota.rows must be less", str(2**62 + 1)),
        ({"a": {"top": {"by": "x"}}}, "either rows or share", "rows: None, share: None"),
        ({"a": {"quota": {"per": "x", "rows": 1, "share": 0.5}}}, "either rows or share", "rows: 1, share: 0.5"),
        ({"a": {"quota": {"rows": 1}}}, r"selections.a.quota.per must be set", "nothing"),
        ({"a": {"limit": 3}}, "selections.a.limit is not a key", "selections.a.limit"),
        ({"a": {"where": ""}}, "selections.a.where, column 1: it must be an expression", ""),
        ({"a": {"where": "max(x) > 1"}}, "selections.a.where, column 1: it must call a known function", "max"),
        ({"a": {"where": "quantile(x) > 1"}}, "quantile must be called as quantile", "quantile"),
        ({"a": {"where": "quantile(x, 1.5) > 1"}}, "the share of quantile must be a number from 0 to 1", "quantile"),
        ({"a": {"where": "quantile(x, y) > 1"}}, "this must be a literal", "quantile"),
        ({"a": {"where": "quantile(x, 0.5, to=y) > 1"}}, "quantile must be called as", "quantile"),
        ({"a": {"where": "quantile(count(), 0.5) > 1"}}, "must not hold another function over all rows", "quantile"),
        ({"a": {"where": "count(x) > 1"}}, "count must be called as", "count"),
        ({"a": {"where": "random('x') > 1"}}, "the seed of random must be a whole number", "random"),
        (
            {"a": {"top": {"by": "quantile(x, 0.5)", "rows": 1}}},
            "quantile must be in the `where` or `weight`",
            "quantile",
        ),
        ({"a": {"weight": {"per": "language"}}}, "selections.a.weight.of must be set", "nothing"),
    ],
)
def test_a_wrong_section_is_refused(selections: dict[str, Any], rule: str, value: str) -> None:
    with pytest.raises(RecipeError) as raised:
        section(selections)
    assert rule in raised.value.rule
    assert value in str(raised.value.value)
    assert raised.value.fix


@pytest.mark.parametrize("up", [True, False])
def test_a_chain_of_selections_may_be_long(up: bool) -> None:
    names = [f"s{n:04}" for n in range(3000)]
    chain = names if up else names[::-1]
    assert section({chain[0]: {}} | {name: base for base, name in itertools.pairwise(chain)}) == chain
    with pytest.raises(RecipeError, match="must not be made from themselves"):
        section({chain[0]: chain[-1]} | {name: base for base, name in itertools.pairwise(chain)})


@pytest.mark.parametrize("name", ["all", "and", "or", "not"])
def test_the_deduplicate_section_s_selection_has_a_name_that_expressions_can_hold(name: str) -> None:
    with pytest.raises(RecipeError, match=r"deduplicate\.name must be another"):
        DeduplicateConfig.checked({"name": name})
    assert DeduplicateConfig.checked({"name": f"{name}-rows"}).name == f"{name}-rows"


@pytest.mark.parametrize(
    ("selections", "meant"), [({"a": {"form": "all"}}, "from"), ({"a": {"top": {"row": 3}}}, "rows")]
)
def test_an_unknown_key_is_answered_with_those_that_look_like_it(selections: dict[str, Any], meant: str) -> None:
    with pytest.raises(RecipeError) as raised:
        section(selections)
    assert meant in raised.value.fix


def test_kinds_are_called_for_short_with_keys_of_their_own() -> None:
    short = [{"name": "near_image", "max_distance": 2}, "exact"]
    checked = Section.checked({"selections": {"a": {"dedup": short}}})
    given_ = [config.model_dump(mode="json") for config in checked.selections["a"].dedup]
    assert [one["name"] for one in given_] == ["duplicate_pair", "duplicate_image", "near_duplicate_image"]
    assert given_[2]["max_distance"] == 2
    assert Section.checked(checked.model_dump(mode="json")) == checked


def test_a_semantic_kind_finds_the_only_embedding_of_the_recipe() -> None:
    embed = {"clip": {"model": str(VIT), "pretrained": str(VIT)}}
    flow = flow_of(
        {"embed": embed, "selections": {"few": {"dedup": ["exact", "semantic"]}}, "pack": {"selection": "few"}}
    )
    assert "image_embedding_clip" in flow.rules[0].columns
    assert "image_embedding_clip" in flow.selecting.reads
    with pytest.raises(RecipeError, match="no column image_embedding_"):
        flow_of({"selections": {"few": {"dedup": ["semantic"]}}})


def test_a_kind_refuses_columns_that_it_cannot_compare() -> None:
    config = Section.checked({"selections": {"a": {"dedup": ["exact", "semantic"]}}}).selections["a"]
    rules = Rules("a", config).seeing(["sha256", "caption", "image_embedding_clip"])
    columns = {name: pa.string() for name in ("sha256", "caption", "original_width", "original_height")}
    rules.check({**columns, "image_embedding_clip": pa.list_(pa.float16(), 4)})
    with pytest.raises(RecipeError, match="must be a column of lists of floating-point numbers"):
        rules.check({**columns, "image_embedding_clip": pa.string()})
