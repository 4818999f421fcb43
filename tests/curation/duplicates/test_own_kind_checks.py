"""An own kind of duplicate that could not work is refused with the recipe; one that answers wrongly ends the job."""

from __future__ import annotations

import re
import sys
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from curation.duplicates.deduplicate import find_losers
from curation.duplicates.equal_values import EqualValues
from curation.duplicates.kinds import KEYS, DeduplicateConfig, Kind, kinds_of
from pairmill.errors import IntegrityError, RecipeError


class SameCaption(EqualValues):
    """What each of the others breaks one rule of."""

    name, strength = "same_caption", 5
    reads = ("caption",)
    columns = pa.schema([("caption", pa.string())])


def config(monkeypatch: pytest.MonkeyPatch, base: type[Kind] = SameCaption, **changed: Any) -> DeduplicateConfig:
    kind = type("Named", (base,), {"__module__": __name__, **changed})
    monkeypatch.setattr(sys.modules[__name__], "Named", kind, raising=False)
    return DeduplicateConfig.checked({"kinds": [f"{__name__}:Named"]}, at="deduplicate")


BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "upper case": ({"name": "Same"}, "name of lower-case letters"),
    "a name of ours": ({"name": "duplicate_image"}, "drop reason of its own"),
    "the reason of forgotten rows": ({"name": "forgotten"}, "drop reason of its own"),
    "the name of a count": ({"name": "rows_in"}, "drop reason of its own"),
    "a text as strength": ({"strength": "high"}, "number as its strength"),
    "no number as strength": ({"strength": float("nan")}, "number as its strength"),
    "reads without a comma": ({"reads": "caption"}, "`reads` as a tuple"),
    "names as columns": ({"columns": ("caption",)}, r"`columns` as a pyarrow\.Schema"),
    "no columns": ({"columns": pa.schema([])}, r"`columns` as a pyarrow\.Schema"),
    "our column": ({"columns": pa.schema([("key", pa.string())])}, "none of them named key"),
    "columns that it does not read": ({"columns": pa.schema([("alt", pa.string())])}, r"read the columns.*\n.*alt"),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_kind_that_could_not_work_is_refused(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    changed, says = BROKEN[how]
    with pytest.raises(RecipeError, match=rf"(?s){re.escape(__name__)}:Named.*{says}"):
        config(monkeypatch, **changed)


@pytest.mark.parametrize("attribute", ["name", "strength", "reads", "columns"])
def test_a_kind_must_declare_everything(monkeypatch: pytest.MonkeyPatch, attribute: str) -> None:
    given = {name: getattr(SameCaption, name) for name in ("name", "strength", "reads", "columns")}
    with pytest.raises(RecipeError, match=rf"must declare `{attribute}`"):
        config(monkeypatch, EqualValues, **{name: value for name, value in given.items() if name != attribute})


ROWS = pa.table(
    {
        "uid": ["a", "b", "c", "d"],
        "shard": pa.array([0, 0, 0, 0], pa.int32()),
        "row": pa.array([0, 1, 2, 3], pa.int32()),
        "score": [4.0, 3.0, 2.0, 1.0],
        "caption": [None, "x", "y", "x"],
    }
)

KEY = pa.array([7, 7, 7, 7])


def given_keys(row: Any, key: Any = KEY, schema: pa.Schema | None = KEYS) -> Any:
    return lambda self, rows: pa.table({"row": row, "key": key}, schema=schema)


def given_edges(*ends: Any) -> dict[str, Any]:
    return {"edges": lambda self, rows: ends}


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    # The rows that are left would stand for others.
    "compares fewer rows": (
        {"narrow": lambda self, rows: {"caption": rows["caption"].drop_null()}},
        "each row; 3 of 4",
    ),
    "no table of keys": ({"keys": lambda self, rows: [1, 2]}, "schema KEYS; found: list"),
    "other keys": ({"keys": given_keys([0, 1, 2, 3], ["x"] * 4, None)}, "schema KEYS"),
    # Equal keys would not meet: partitions are made of numbers without nulls.
    "no key": ({"keys": given_keys([0, 1, 2, 3], pa.array([7, 7, 7, None]))}, "no null"),
    "no row": ({"keys": given_keys(pa.array([0, 1, 2, None]))}, "no null"),
    "a row that is not there": ({"keys": given_keys([0, 1, 2, 4])}, "rows that it was given"),
    "a row before the first": ({"keys": given_keys([0, 1, 2, -1])}, "rows that it was given"),
    "an edge to no row": (given_edges(np.array([0]), np.array([9])), "two equally long arrays of positions"),
    "an edge from no row": (given_edges(np.array([-1]), np.array([0])), "two equally long arrays of positions"),
    "half an edge": (given_edges(np.array([0, 1]), np.array([1])), "two equally long arrays of positions"),
    "no positions": (given_edges(np.array([0.0]), np.array([1.0])), "two equally long arrays of positions"),
    "one array": (given_edges(np.array([[0, 1]])), "two equally long arrays of positions"),
}


@pytest.mark.parametrize("how", WRONG)
def test_a_kind_that_answers_wrongly_ends_the_job(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    changed, says = WRONG[how]
    made = config(monkeypatch, **changed)
    with pytest.raises(IntegrityError, match=rf"the kind same_caption must .*{says}"):
        find_losers(with_pixels(), config=made)


def test_edges_may_be_lists_join_a_row_to_itself_and_be_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def losers(*ends: Any) -> list[Any]:
        made = config(monkeypatch, keys=given_keys([0, 1, 2, 3]), **given_edges(*ends))
        return list(find_losers(with_pixels(), config=made)["uid"].to_pylist())

    assert losers([1, 2, 2], [3, 2, 2]) == ["d"]
    assert losers([], []) == []
    assert losers(np.array([0], np.uint8), np.array([2], np.int32)) == ["c"]


class SameInitial(Kind):
    """One whose columns depend on its configuration, and which learns the initials of a sample."""

    name, strength = "same_initial", 5

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.reads = ("caption",)
        self.columns = pa.schema([("initial", pa.string())])

    def narrow(self, rows: pa.Table) -> Any:
        return {"initial": pc.utf8_slice_codeunits(rows["caption"], 0, 1)}

    def sample_rows(self, rows: int) -> int:
        return 3

    def fit(self, sample: pa.Table, rows: int) -> Any:
        return {"rows": rows, "sampled": sorted(sample["initial"].to_pylist())}

    def keys(self, rows: pa.Table) -> pa.Table:
        assert self.state == {"rows": 4, "sampled": ["x", "x", "y"]}
        known = np.flatnonzero(rows["initial"].is_valid())
        return pa.table({"row": known, "key": np.zeros(len(known), np.int64)}, schema=KEYS)

    def edges(self, rows: pa.Table) -> Any:
        assert self.state["rows"] == 4
        return [[0], [1]] if len(rows) > 1 else [[], []]


def test_columns_may_depend_on_the_configuration_and_a_kind_may_learn_from_a_sample() -> None:
    made = DeduplicateConfig.checked({"kinds": [f"{__name__}:SameInitial"]}, at="deduplicate")
    assert [kind.reads for kind in kinds_of(made)] == [("caption",)]
    assert find_losers(with_pixels(), config=made)["uid"].to_pylist() == ["c"]


LATE: dict[str, tuple[dict[str, Any], str]] = {
    "no reads": ({"columns": pa.schema([("caption", pa.string())])}, "declare `reads`"),
    "no columns": ({"reads": ("caption",)}, "declare `columns`"),
    "reads as a text": ({"reads": "caption", "columns": pa.schema([("caption", pa.string())])}, "as a tuple"),
    "names as columns": ({"reads": ("caption",), "columns": ("caption",)}, r"as a pyarrow\.Schema"),
}


@pytest.mark.parametrize("how", LATE)
def test_what_an_init_sets_is_checked_too(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    attributes, says = LATE[how]

    def init(self: Kind, given: Any) -> None:
        Kind.__init__(self, given)
        for name, value in attributes.items():
            setattr(self, name, value)

    methods = {name: getattr(SameInitial, name) for name in ("narrow", "keys", "edges")}
    made = config(monkeypatch, Kind, name="late", strength=1, __init__=init, **methods)
    with pytest.raises(RecipeError, match=rf"(?s){re.escape(__name__)}:Named.*{says}"):
        kinds_of(made)


class ByLength(SameCaption):
    """One that decides which row stays: that of the longest caption."""

    name, ranks = "by_length", True

    def rank(self, rows: pa.Table) -> pa.Array:
        return pc.utf8_length(rows["caption"]).cast(pa.float64()).combine_chunks()


class Other(ByLength):
    name = "other"


def test_a_kind_may_rank_rows_and_only_one_may(monkeypatch: pytest.MonkeyPatch) -> None:
    made = config(monkeypatch, ByLength, keys=given_keys([0, 1, 2, 3]), **given_edges([0, 1, 2], [1, 2, 3]))
    # By the score it were a, whose caption is missing.
    rows = with_pixels().set_column(4, "caption", pa.array([None, "x", "yyy", "x"]))
    assert find_losers(rows, config=made)["survivor"].to_pylist() == ["c"] * 3
    both = DeduplicateConfig.checked({"kinds": [f"{__name__}:ByLength", f"{__name__}:Other"]}, at="deduplicate")
    with pytest.raises(RecipeError, match=r"at most one.*\n.*by_length, other"):
        kinds_of(both)
    wrong = config(monkeypatch, ByLength, rank=lambda self, rows: [1.0])
    with pytest.raises(IntegrityError, match="rank each row"):
        find_losers(with_pixels(), config=wrong)


def with_pixels() -> pa.Table:
    return ROWS.append_column("original_width", pa.array([1] * 4)).append_column("original_height", pa.array([1] * 4))
