"""MetaCLIP's balancing against its equations, written again here."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.balancing.balance import count, probabilities, staying, tail_share, thresholds
from curation.balancing.matching import Matcher, Matches
from curation.balancing.metadata import ANY, build, metadata_text, read_metadata
from pairmill.errors import InputError, RecipeError

ENTRIES = ["dog", "hot dog", "New York", "a", "red apple", "狗", "海滩", "ice cream!", "can"]


def named(text: str, entries: list[str] = ENTRIES) -> list[str]:
    found = Matcher(entries)([text])
    return [entries[at] for at in found.entries]


@pytest.mark.parametrize(
    ("text", "entries"),
    [
        ("a hot dog, please", ["dog", "hot dog", "a"]),
        ("hotdog and dogs", []),
        ("Dog", []),
        ("dog", ["dog"]),
        ("in New\tYork.", ["New York"]),
        ("new york", []),
        ("一只狗在海滩上", ["狗", "海滩"]),
        ("red apple;dog?", ["dog", "red apple"]),
        ("red  apple", []),
        ("dog-house", []),
        ("dog dog dog", ["dog"]),
        ("I can!", ["can"]),
        ("", []),
    ],
)
def test_an_entry_is_named_as_metaclip_finds_it(text: str, entries: list[str]) -> None:
    assert named(text) == entries


WORDS = st.sampled_from(["dog", "hot", "a", "can", "apple", "red", "New", "York", "x"])


@given(st.lists(st.lists(WORDS, max_size=8).map(" ".join), max_size=12))
@settings(max_examples=100, deadline=None)
def test_matches_are_those_of_a_search_for_each_entry(texts: list[str]) -> None:
    plain = [one for one in ENTRIES if one.isascii() and "!" not in one]
    found = Matcher(plain)(texts)
    expected = [
        (at, entry) for at, text in enumerate(texts) for entry, one in enumerate(plain) if f" {one} " in f" {text} "
    ]
    assert list(zip(found.text.tolist(), found.entries.tolist(), strict=True)) == expected
    assert count(found, len(plain)).tolist() == [sum(entry == at for _, entry in expected) for at in range(len(plain))]


def test_p_is_t_over_n_and_one_for_rare_entries() -> None:
    counts = np.array([0, 5, 20_000, 40_000, 1_000_000])
    assert probabilities(counts, 20_000).tolist() == [1, 1, 1, 0.5, 0.02]


def test_other_languages_have_the_tail_of_english() -> None:
    english = np.array([10, 20, 30, 40, 900])
    chinese = np.array([1, 1, 2, 4, 8, 84])
    share = 100 / 1000
    assert tail_share(english, 50) == share
    found = thresholds({"en": english, "zh": chinese}, 50)
    assert found["en"] == 50
    # Cumulated: 1, 2, 4, 8, 16, 100 per cent; 8 is closest to 10.
    assert found["zh"] == 4
    assert thresholds({"en": english, "zh": chinese}, {"en": 50, "zh": 7}) == {"en": 50, "zh": 7}
    assert thresholds({"zh": chinese}, 50) == {"zh": 50}
    assert thresholds({"en": english, "zh": chinese}, {"zh": 7}) == {"en": 900, "zh": 7}
    assert thresholds({"en": english, "zh": np.zeros(3, np.int64)}, 50)["zh"] == 1


@pytest.mark.parametrize("english", [[0, 0, 0], []])
def test_nothing_is_thinned_where_no_caption_names_an_english_entry(english: list[int]) -> None:
    counts = {"en": np.array(english, np.int64), "zh": np.array([0, 3, 900]), "de": np.array([7, 7])}
    t = thresholds(counts, 20_000)
    assert {name: probabilities(n, t[name]).tolist() for name, n in counts.items() if name != "en"} == {
        "zh": [1, 1, 1],
        "de": [1, 1],
    }
    assert thresholds({"pt": np.zeros(2, np.int64), "zh": counts["zh"]}, 5)["zh"] == 900


def test_a_number_larger_than_any_run_thins_nothing() -> None:
    counts = {"en": np.array([1, 2**40]), "zh": np.array([2**50])}
    t = thresholds(counts, 1 << 62)
    assert [probabilities(n, t[name]).tolist() for name, n in counts.items()] == [[1, 1], [1]]


def uids(n: int) -> list[str]:
    rng = np.random.default_rng(7)
    return [rng.bytes(16).hex() for _ in range(n)]


def test_a_caption_stays_with_the_probability_of_its_equation() -> None:
    n = 40_000
    entries = np.tile(np.array([0, 1], np.int32), n)
    matches = Matches(entries, np.repeat(np.arange(n, dtype=np.int32), 2))
    p = np.array([0.3, 0.2])
    stays, there = staying(matches, uids(n), p, seed=0)
    assert there.all()
    expected = 1 - (1 - 0.3) * (1 - 0.2)
    assert stays.mean() == pytest.approx(expected, abs=4 * math.sqrt(expected * (1 - expected) / n))
    other, _ = staying(matches, uids(n), p, seed=1)
    both = (stays & other).mean()
    assert both == pytest.approx(expected**2, abs=0.015), "seeds are independent"


def test_chance_follows_the_row_and_not_its_neighbours() -> None:
    names = uids(500)
    matches = Matches(np.full(500, 3, np.int32), np.arange(500, dtype=np.int32))
    p = np.array([0, 0, 0, 0.4])
    stays, _ = staying(matches, names, p, seed=5)
    for part in (range(0, 250), range(250, 500), range(499, -1, -1)):
        at = list(part)
        some = Matches(np.full(len(at), 3, np.int32), np.arange(len(at), dtype=np.int32))
        assert staying(some, [names[one] for one in at], p, seed=5)[0].tolist() == stays[at].tolist()


def test_a_caption_without_an_entry_goes() -> None:
    stays, there = staying(Matches(np.array([0], np.int32), np.array([1], np.int32)), uids(3), np.array([1.0]), 0)
    assert stays.tolist() == there.tolist() == [False, True, False]


def test_metadata_is_read_in_its_forms(tmp_path: Path) -> None:
    text, one, many = tmp_path / "m.txt", tmp_path / "one.json", tmp_path / "many.json"
    text.write_text("dog\n\n  hot dog \ndog\n", encoding="utf-8")
    one.write_text(json.dumps(["a", "b"]), encoding="utf-8")
    many.write_text(
        json.dumps({"en": ["a"], "zh_CN": ["狗"], "zh": ["猫"], "other": ["x"]}, ensure_ascii=False), encoding="utf-8"
    )
    assert read_metadata(text) == {ANY: ["dog", "hot dog"]}
    assert read_metadata(one) == {ANY: ["a", "b"]}
    assert read_metadata(many) == {"en": ["a"], "zh": ["狗", "猫"], ANY: ["x"]}


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("m.txt", "dog\nhot dog\n", {ANY: ["dog", "hot dog"]}),
        ("m.json", '["dog"]', {ANY: ["dog"]}),
        ("m.json", '{"zh": ["狗"]}', {"zh": ["狗"]}),
    ],
)
def test_a_byte_order_mark_is_no_part_of_an_entry(
    name: str, content: str, found: dict[str, list[str]], tmp_path: Path
) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8-sig")
    assert read_metadata(tmp_path / name) == found


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("m.json", b"{", "no JSON"),
        ("m.json", b"3", "no list of texts"),
        ("m.json", b'{"en": [1]}', "en is no list of texts"),
        ("m.json", b"[]", "it has no entry"),
        ("m.txt", b"\xff\xfe", "not UTF-8"),
        ("m.txt", b" \n", "it has no entry"),
    ],
)
def test_other_files_are_refused(name: str, content: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RecipeError, match=says):
        read_metadata(tmp_path / name)
    with pytest.raises(RecipeError, match="No such file"):
        read_metadata(tmp_path / "gone.txt")


def test_titles_with_counts_become_metadata(tmp_path: Path) -> None:
    one, two = tmp_path / "a.tsv", tmp_path / "b.csv"
    one.write_text(
        'title\tcount\tlanguage\nNew_York\t60\ten\n"quoted\t80\ten\nTalk:Dog\t999\ten\n狗\t75\tzh\n', encoding="utf-8"
    )
    two.write_text("title,count\nNew York,15\nrare,3\n", encoding="utf-8")
    found = build([one, two], least=70, language="en")
    assert found == {"en": ['"quoted', "New York"], "zh": ["狗"]}
    (tmp_path / "m.json").write_text(metadata_text(found), encoding="utf-8")
    assert read_metadata(tmp_path / "m.json") == found
    (tmp_path / "n.json").write_text(metadata_text(build([two], least=1)), encoding="utf-8")
    assert read_metadata(tmp_path / "n.json") == {ANY: ["New York", "rare"]}


@pytest.mark.parametrize(("name", "gap"), [("t.csv", ","), ("t.tsv", "\t")])
def test_a_list_of_titles_may_begin_with_a_byte_order_mark(name: str, gap: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(f"title{gap}count\ndog{gap}80\n", encoding="utf-8-sig")
    assert build([tmp_path / name], least=70) == {ANY: ["dog"]}


def test_titles_of_which_none_is_left_are_refused_with_their_largest_count(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text("title,count,language\ndog,40,en\ncat,1,en\n狗,69,zh\ndog,20,en\n", encoding="utf-8")
    with pytest.raises(InputError, match="no entry is left: a title's count is 69 at most, and --least 70"):
        build([file], least=70)
    with pytest.raises(InputError, match="no entry is left: no title"):
        build([file], least=0, without=("o", "a", "狗"))
    file.write_text("title,count\n", encoding="utf-8")
    with pytest.raises(InputError, match="no entry is left: no title"):
        build([file], least=0)


@pytest.mark.parametrize("content", ["name,count\na,1\n", "title,count\na,many\n", "title,count\na,-1\n", ""])
def test_lists_of_titles_in_another_form_are_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(content)
    with pytest.raises(InputError, match="a list of titles must be"):
        build([tmp_path / "t.csv"], least=1)
