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
