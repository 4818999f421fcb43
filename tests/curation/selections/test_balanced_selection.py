"""The rule `balance` of a selection against brute force, in ten layouts."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from brute import some_rows
from layouts import layouts
from test_steps import kept, select

from curation.balancing.balance import staying
from curation.balancing.matching import Matches
from curation.selections.config import Section
from curation.selections.steps import Rules
from pairmill.errors import RecipeError

WORDS = ["apple", "bridge", "castle", "dog", "egg", "fish"]
CHINESE = ["苹果", "桥", "城堡"]


def rows(number: int = 600) -> pa.Table:
    """Captions of words of which the first are common; English and Chinese, and German and unknown ones."""
    made = some_rows(number)
    rng = np.random.default_rng(4)
    captions = []
    for language in made["language"].to_pylist():
        words = CHINESE if language == "zh" else WORDS
        chosen = rng.choice(
            len(words), size=int(rng.integers(0, 3)), p=np.arange(len(words), 0, -1) / sum(range(len(words) + 1))
        )
        captions.append((" " if language != "zh" else "").join(words[one] for one in chosen) or None)
    return made.set_column(made.schema.get_field_index("caption"), "caption", pa.array(captions, pa.string()))


@pytest.fixture
def metadata(tmp_path: Path) -> Path:
    file = tmp_path / "metadata.json"
    file.write_text(json.dumps({"en": WORDS, "zh": CHINESE, "other": ["dog", "egg"]}), encoding="utf-8")
    return file


def by_hand(table: pa.Table, t: dict[str, int], seed: int) -> dict[str, str | None]:
    """uid -> why it goes, None: it stays, by the equations of MetaCLIP; chance is the product's."""
    lists = {"en": WORDS, "zh": CHINESE, "": ["dog", "egg"]}
    live = [row for row in table.to_pylist() if row["drop_reason"] is None]
    named: dict[str, tuple[str, list[int]]] = {}
    for row in live:
        language = row["language"] if row["language"] in ("en", "zh") else ""
        text = row["caption"] or ""
        found = [
            at for at, one in enumerate(lists[language]) if (one in text if language == "zh" else one in text.split())
        ]
        named[row["uid"]] = (language, found)
    counts = Counter((language, entry) for language, entries in named.values() for entry in entries)
    out: dict[str, str | None] = {}
    for uid, (language, entries) in named.items():
        if not entries:
            out[uid] = "no_entry"
            continue
        p = np.array([min(1.0, t[language] / max(1, counts[language, at])) for at in range(len(lists[language]))])
        matches = Matches(np.array(entries, np.int32), np.zeros(len(entries), np.int32))
        out[uid] = None if staying(matches, [uid], p, seed)[0][0] else "balance"
    return out


@pytest.mark.parametrize("seed", [0, 3])
def test_it_keeps_what_the_equations_keep_in_every_layout(metadata: Path, seed: int) -> None:
    table = rows()
    t = {"en": 20, "zh": 25, "": 10}
    rule = {"metadata": str(metadata), "t": {"en": 20, "zh": 25, "": 10}, "seed": seed}
    expected = by_hand(table, t, seed)
    assert set(expected.values()) == {None, "balance", "no_entry"}
    for shards in layouts(table):
        made = select(shards, {"even": {"balance": rule}})["even"]
        assert {uid: reason for uid, (reason, _) in made.items() if uid in expected} == expected


def test_it_comes_last_among_the_rows_that_are_left(metadata: Path) -> None:
    table = rows()
    section: dict[str, Any] = {
        "wide": {"where": "width > 256"},
        "both": {"where": "width > 256", "balance": {"metadata": str(metadata), "t": 1000}},
        "even": {"where": "width > 256", "balance": {"metadata": str(metadata), "t": 15}},
    }
    made = select([table], section)
    reasons = Counter(reason for reason, _ in made["even"].values())
    assert reasons["balance"] and reasons["no_entry"] and reasons["where"] and reasons["timeout"]
    assert kept(made["even"]) < kept(made["both"]) < kept(made["wide"])
    assert not any(reason == "balance" for reason, _ in made["both"].values()), "nothing is common"


def test_another_list_is_another_selection(metadata: Path) -> None:
    def identity() -> Any:
        section = {"even": {"balance": {"metadata": str(metadata)}}}
        return Section.checked({"selections": section}).selections["even"].identity()

    before = identity()
    assert identity() == before and str(metadata) not in json.dumps(before)
    metadata.write_text(json.dumps(["dog"]), encoding="utf-8")
    assert identity() != before


def test_mistakes_are_named(metadata: Path, tmp_path: Path) -> None:
    table = rows(20)
    with pytest.raises(RecipeError, match=r"selections\.even\.balance must read a column"):
        select([table], {"even": {"balance": {"metadata": str(metadata), "text": "captoin"}}})
    with pytest.raises(RecipeError, match=r"balance\.metadata of a selection must be"):
        select([table], {"even": {"balance": {"metadata": str(tmp_path / "gone.json")}}})
    with pytest.raises(RecipeError, match=r"selections\.even\.balance\.t must"):
        Section.checked({"selections": {"even": {"balance": {"metadata": str(metadata), "t": "many"}}}})


def rules(metadata: Path, **balance: Any) -> Rules:
    section = {"even": {"balance": {"metadata": str(metadata), **balance}}}
    return Rules("even", Section.checked({"selections": section}).selections["even"])


COLUMNS = {"caption": pa.string(), "language": pa.string(), "width": pa.int32(), "uid": pa.string()}


def test_the_file_is_read_when_the_recipe_is_planned(metadata: Path, tmp_path: Path) -> None:
    rules(metadata).check(COLUMNS)
    with pytest.raises(RecipeError, match="No such file"):
        rules(tmp_path / "gone.json").check(COLUMNS)
    metadata.write_text("{", encoding="utf-8")
    with pytest.raises(RecipeError, match="no JSON"):
        rules(metadata).check(COLUMNS)


@pytest.mark.parametrize("kind", [pa.int32(), pa.bool_(), pa.list_(pa.string()), pa.dictionary(pa.int8(), pa.int64())])
@pytest.mark.parametrize(("key", "column"), [("text", "caption"), ("language", "language")])
def test_captions_and_languages_must_be_texts(metadata: Path, key: str, column: str, kind: pa.DataType) -> None:
    with pytest.raises(RecipeError, match=rf"selections\.even\.balance\.{key} must be a column of texts"):
        rules(metadata).check({**COLUMNS, column: kind})
    for fits in (pa.large_string(), pa.string_view(), pa.null(), pa.dictionary(pa.int8(), pa.string())):
        rules(metadata).check({**COLUMNS, column: fits})


@pytest.mark.parametrize("t", [0, -1, 10**30, {"en": 0}, {"en": 5, "zh": -2}, {"en": 10**30}])
def test_a_number_of_captions_is_one_or_more(metadata: Path, t: Any) -> None:
    with pytest.raises(
        RecipeError,
        match=r"balance\.t (must be (greater|less) than or equal|of a selection must be a number from 1 to)",
    ):
        rules(metadata, t=t)


def test_numbers_are_of_the_lists_of_the_file_however_they_are_spelled(metadata: Path) -> None:
    table = rows(200)
    made = [
        select([table], {"even": {"balance": {"metadata": str(metadata), "t": t}}})["even"]
        for t in ({"en": 5, "zh": 6, "": 3}, {"eng_Latn": 5, "zh-CN": 6, "other": 3})
    ]
    assert made[0] == made[1]
    assert "balance" in {reason for reason, _ in made[0].values()}
    with pytest.raises(RecipeError, match=r"must name lists of .*metadata\.json") as raised:
        rules(metadata, t={"en": 5, "de": 3}).check(COLUMNS)
    assert raised.value.value == "de" and raised.value.fix == "the file has en, zh, other"
    with pytest.raises(RecipeError, match=r"balance\.t of a selection must name each language once"):
        rules(metadata, t={"en": 5, "EN": 3})
