"""The expression language: agreement with Python's own semantics, nulls, and what it refuses."""

from __future__ import annotations

import ast
import re
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.filters.syntax import MAX_CHARACTERS
from curation.filters.where import WhereConfig, columns_of, compile_where
from pairmill.errors import RecipeError

ROWS = [
    {"w": 256, "h": 128, "s": 0.5, "lang": "en", "text": "a red apple", "ok": True},
    {"w": 0, "h": -7, "s": -1.25, "lang": "zh", "text": "红苹果", "ok": False},
    {"w": 99, "h": 99, "s": 3.0, "lang": "", "text": "IMG_12.jpg", "ok": True},
]
TABLE = pa.Table.from_pylist(
    ROWS,
    schema=pa.schema(
        [
            ("w", pa.int32()),
            ("h", pa.int64()),
            ("s", pa.float64()),
            ("lang", pa.string()),
            ("text", pa.string()),
            ("ok", pa.bool_()),
        ]
    ),
)


def where(text: str, table: pa.Table = TABLE) -> list[bool | None]:
    found: list[bool | None] = compile_where(text, table.schema)(table).to_pylist()
    return found


numbers = st.recursive(
    st.sampled_from(["w", "h", "s", "len(text)", "len(lang)"])
    | st.integers(0, 300).map(str)
    | st.sampled_from(["0.5", "1e2", "3."]),
    lambda inner: (
        st.tuples(inner, st.sampled_from("+-*"), inner).map(lambda t: f"({t[0]} {t[1]} {t[2]})")
        | inner.map(lambda x: f"-{x}")
        | st.tuples(inner, st.sampled_from(["2", "0.25", "-4"])).map(lambda t: f"{t[0]} / {t[1]}")
    ),
    max_leaves=5,
)
texts = st.sampled_from(["lang", "text", "'en'", "'红苹果'", '"zh"', "''"])
orders = st.sampled_from(["==", "!=", "<", "<=", ">", ">="])
truths = st.recursive(
    st.tuples(numbers, orders, numbers).map(" ".join)
    | st.tuples(numbers, orders, numbers, orders, numbers).map(" ".join)
    | st.tuples(texts, orders, texts).map(" ".join)
    | st.tuples(numbers, st.sampled_from(["in (0, 256, -1.5)", "not in (99,)", "in ()"])).map(" ".join)
    | st.tuples(texts, st.sampled_from(["in ('en', '')", "not in ['zh']"])).map(" ".join)
    | st.tuples(st.sampled_from(["contains", "startswith", "matches"]), st.sampled_from(["'a'", "'红'", "'en'"])).map(
        lambda t: f"{t[0]}(text, {t[1]})"
    )
    | st.just("matches(text, r'^IMG_\\d+')")
    | st.sampled_from(["ok", "True", "is_null(w)"]),
    lambda inner: (
        st.tuples(inner, st.sampled_from([" and ", " or "]), inner).map(lambda t: f"({t[0]}{t[1]}{t[2]})")
        | inner.map(lambda x: f"(not {x})")
    ),
    max_leaves=6,
)
PYTHON: dict[str, Any] = {
    "len": len,
    "contains": lambda text, part: part in text,
    "startswith": str.startswith,
    "matches": lambda text, pattern: re.search(pattern, text) is not None,
    "is_null": lambda value: value is None,
}


@pytest.mark.slow
@given(truths)
@settings(deadline=None, max_examples=300)
def test_agrees_with_python_where_nothing_is_null(text: str) -> None:
    expected = [bool(eval(text, {"__builtins__": {}}, {**PYTHON, **row})) for row in ROWS]
    assert where(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("w >= 99 and lang == 'en'", [True, False, False]),
        ("0.4 < s <= 3", [True, False, True]),
        ("w / h > 1.5", [True, False, False]),
        (r"matches(text, '\d+\.jpg$')", [False, False, True]),
        ("not (w in (0, 99))\n  or ok == True", [True, False, True]),
        ("True", [True, True, True]),
        ("1 < 2", [True, True, True]),
        ("w * h * w * h * w * h > 0", [True, False, True]),
    ],
)
def test_examples(text: str, expected: list[bool]) -> None:
    assert where(text) == expected


def test_null_follows_sql() -> None:
    table = pa.table({"n": pa.array([None, 1], pa.int32()), "t": pa.array([None, "a"])})
    assert where("n > 0", table) == [None, True]
    assert where("not (n > 0)", table) == [None, False]
    assert where("n > 0 or True", table) == [True, True]
    assert where("n > 0 and False", table) == [False, False]
    assert where("t not in ('b',)", table) == [None, True]
    assert where("t in ()", table) == [None, False]
    assert where("is_null(n) or len(t) == 1", table) == [True, True]
    assert where("1 / (n - 1) > 0 or n == 7", table) == [None, None]  # a division by zero is null


def test_whole_numbers_beyond_double_precision_compare_exactly_among_themselves() -> None:
    table = pa.table({"id": pa.array([2**53 + 1, 2**63 - 1], pa.int64())})
    assert where(f"id == {2**53 + 1}", table) == [True, False]
    assert where("id > 0.5", table) == [True, True]


def test_works_on_chunks_on_no_rows_and_on_dictionaries() -> None:
    chunked = pa.concat_tables([TABLE.slice(0, 1), TABLE.slice(1)])
    assert where("w > 0", chunked) == [True, False, True]
    assert where("w > 0", TABLE.slice(0, 0)) == []
    assert where("1 < 2", TABLE.slice(0, 0)) == []
    coded = pa.table({"lang": TABLE["lang"].dictionary_encode()})
    assert where("lang == 'en'", coded) == [True, False, False]


def test_columns_of() -> None:
    assert columns_of("w > 1 and len(text) < w and lang in ('en',)") == ["lang", "text", "w"]


def test_an_unknown_column_names_its_neighbours_and_its_place() -> None:
    with pytest.raises(RecipeError, match=r"column 9: .* there is no column widht(.|\n)*width"):
        compile_where("True or widht > 3", ["width", "height"])
    with pytest.raises(RecipeError) as caught:
        compile_where("lang == '红' and widht > 3", ["lang", "width"])
    shown, caret = caught.value.value.split("\n")  # type: ignore[attr-defined]  # a str, typed object
    assert shown.index("widht") == caret.index("^") - len("  got: ")


HOSTILE = [
    "__import__('os')",
    "__import__('os').system('true')",
    "w.__class__",
    "text.upper() == 'A'",
    "lambda: 1",
    "[x for x in w]",
    "{w: 1}",
    "w if ok else h",
    "(w := 3) > 2",
    "f'{w}' == ''",
    "w ** 9999999999",
    "9 ** 9 ** 9 > w",
    "w % 2 == 0",
    "w // 2 == 0",
    "w & 1 == 1",
    "~w == 1",
    "w[0] == 1",
    "w is None",
    "lang == None",
    "lang == b'en'",
    "w == 1j",
    "w == ...",
    f"w == {2**63}",
    f"w > {-(10**30)}",
    f"w in (1, {-(2**63) - 1})",
    f"w not in ({-(10**400)},)",
    f"random({-(10**30)}) > 0",
    "w == " + "9" * 3000,
    "len(text, text) > 1",
    "len() > 1",
    "len(x=text) > 1",
    "len(*text) > 1",
    "open('x')",
    "contains(text, lang)",
    "contains(text, 3)",
    "matches(text, '(?=a)')",
    "matches(text, '(')",
    "'a' in text",
    "w in (h, 2)",
    "w in (1, 2) in (3,)",
    "w > 1; h > 1",
    "import os",
    "w >",
    "",
    "w > 1 \0",
    "(" * 10_000 + "w" + ")" * 10_000,
    "not " * 900 + "ok",
    "-" * 3_900 + "w > 0",
    "w" + " + w" * 900 + " > 0",
    "ok" + " and ok" * 1_100,
    "'" + "a" * MAX_CHARACTERS + "' == text",
]


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: text[:30].replace("\0", "NUL"))
def test_refuses_what_is_not_in_the_language_before_any_row_is_seen(text: str) -> None:
    with pytest.raises(RecipeError, match=r"filter\.where"):
        WhereConfig(where=text)


@pytest.mark.parametrize(
    "text",
    ["w", "lang", "w and ok", "not w", "w == 'en'", "ok == 1", "len(w) > 1", "lang + 'x' == 'enx'", "contains(w, '1')"],
)
def test_types_that_do_not_fit_are_refused_with_the_schema_and_at_the_latest_with_the_table(text: str) -> None:
    with pytest.raises(RecipeError, match=r"filter\.where, column"):
        compile_where(text, TABLE.schema)
    with pytest.raises(RecipeError, match=r"filter\.where, column"):
        compile_where(text, TABLE.column_names)(TABLE)


@given(st.text(max_size=40) | st.text(st.sampled_from("w h()'<=>!+-*/.,[]{}:notandori 09"), max_size=40))
@settings(deadline=None, max_examples=300)
def test_any_text_is_compiled_or_refused(text: str) -> None:
    try:
        found = where(text)
    except RecipeError:
        return
    assert len(found) == len(ROWS)


LISTED = pa.table(
    {
        "width": pa.array([10, 20], pa.int32()),
        "input.width": ["300", "wide"],
        "clip-b32": [0.31, 0.2],
        "input.clip-b32": [0.31, 0.2],
        "input.a b": ["x", "y"],
        "input.class": [1, 2],
        "score": [" 1e-2 ", ""],
        "input.score": [" 1e-2 ", ""],
    }
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("input['clip-b32'] > 0.3", [True, False]),
        ("input['a b'] == 'x' and width < 20", [True, False]),
        ("input.score == input['score']", [True, True]),
        ("input['class'] in (2, 3)", [False, True]),
        ("number(input.width) >= 256 and width < 256", [True, None]),
        ("number(score) < 0.1", [True, None]),
        ("number(width) + 1 == 11", [True, False]),
        ("is_null(number(input.width))", [False, True]),
    ],
)
def test_columns_of_the_list_under_any_name(text: str, expected: list[bool | None]) -> None:
    assert where(text, LISTED) == expected


@pytest.mark.parametrize("text", ["1", "+1", "-1.5", ".5", "5.", "1e3", "1E-3", " 7 "])
def test_a_text_spells_the_number_that_python_reads(text: str) -> None:
    assert where(f"number(t) == {float(text)!r}", pa.table({"t": [text]})) == [True]


@pytest.mark.parametrize("text", ["", "nan", "inf", "0x10", "1,000", "1e", "one", "1_0", "--1", "."])
def test_a_text_that_spells_no_number_is_null(text: str) -> None:
    assert where("number(t) == 0", pa.table({"t": [text]})) == [None]


@pytest.mark.parametrize(
    ("text", "fix"),
    [
        ("clip-b32 > 0.3", "input['clip-b32']"),
        ("input.clip > 0.3", "input['clip-b32']"),
        ("input['widht'] == '300'", "input.width"),
        ("klass == 1", "input['class']"),
        ("score > 0.1", "number(x)"),
        ("score + 1 > 0.1", "number(x)"),
    ],
)
def test_a_mistake_gives_the_spelling_that_works(text: str, fix: str) -> None:
    with pytest.raises(RecipeError) as error:
        compile_where(text, LISTED.schema)
    assert fix in error.value.fix


@pytest.mark.parametrize("text", ["input > 1", "input.a.b == 1", "input[0] == 1", "input[x] == 1", "width.x == 1"])
def test_only_the_list_has_columns_within(text: str) -> None:
    with pytest.raises(RecipeError):
        compile_where(text, LISTED.schema)


#: Columns as DuckDB, polars and pandas write them.
ODD = pa.table(
    {
        "hash": pa.array([2**63 + 5, 1, None], pa.uint64()),
        "signed": pa.array([-1, 1, 2], pa.int64()),
        "price": pa.array([Decimal("0.25"), Decimal("1.50"), None], pa.decimal128(5, 2)),
        "view": pa.array(["a", "b", None], pa.string_view()),
        "none": pa.nulls(3),
        "half": pa.array([0.5, -0.0, None], pa.float16()),
        "least": pa.array([-(2**63), 0, None], pa.int64()),
    }
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hash > 1", [True, False, None]),
        ("half > 0.25", [True, False, None]),
        ("half == 0", [False, True, None]),
        ("half in (0.5, 1)", [True, False, None]),
        (f"least in ({-(2**63)}, 5)", [True, False, None]),
        ("hash >= 9223372036854775807", [True, False, None]),
        ("hash == signed", [False, True, None]),
        ("signed < hash", [True, False, None]),
        ("hash in (1, 2)", [False, True, None]),
        ("hash > 0.5", [True, True, None]),
        ("price > 0.2 and price < 1", [True, False, None]),
        ("price == 1.5", [False, True, None]),
        ("price * 2 > 1", [False, True, None]),
        ("view == 'a'", [True, False, None]),
        ("startswith(view, 'b')", [False, True, None]),
        ("none > 3", [None, None, None]),
        ("none == 'a'", [None, None, None]),
        ("is_null(none)", [True, True, True]),
    ],
)
def test_columns_of_other_writers(text: str, expected: list[bool | None]) -> None:
    assert where(text, ODD) == expected


@pytest.mark.parametrize(
    ("text", "corrected"),
    [
        ("aesthetic score > 5", "input['aesthetic score'] > 5"),
        ("input.class > 1", "input['class'] > 1"),
        ("input.aesthetic score > 5", "input['aesthetic score'] > 5"),
        ("input.1st > 0", "input['1st'] > 0"),
        ("width > 10 and (aesthetic score > 5)", "width > 10 and (input['aesthetic score'] > 5)"),
        ("class == '1'", "input['class'] == '1'"),
        ("1st > 5", "input['1st'] > 5"),
        ("3d model in ('a', 'b c')", "input['3d model'] in ('a', 'b c')"),
        ("clip-b32 score - 1 > 0", "input['clip-b32 score'] - 1 > 0"),
        ("image.width > 5", "input['image.width']"),
        ("input.a.b == 1", "input['a.b']"),
        ("lambda > 5", "input['lambda'] > 5"),
        ("number(image size) > 5", "number(input['image size']) > 5"),
        ("exif:iso > 5", "input['exif:iso'] > 5"),
        ("from == 'x y' or not is_null(Bild Text)", "input['from'] == 'x y' or not is_null(input['Bild Text'])"),
    ],
)
def test_a_name_that_python_does_not_read_is_shown_as_it_is_written(text: str, corrected: str) -> None:
    with pytest.raises(RecipeError) as error:
        columns_of(text)
    assert error.value.fix.endswith(f": {corrected}")
    columns_of(corrected)


@pytest.mark.parametrize("text", ["width >= 256 language == 'en'", "width >", "a = 5", "width > 5 &&"])
def test_what_is_no_name_is_not_shown_as_one(text: str) -> None:
    with pytest.raises(RecipeError) as error:
        columns_of(text)
    assert "input['NAME']" in error.value.fix and "256" not in error.value.fix


@given(st.text(st.sampled_from("ab 1.-:'\"()<>=&"), max_size=20))
def test_a_correction_parses(text: str) -> None:
    try:
        columns_of(text)
    except RecipeError as error:
        if found := error.fix.partition("['NAME']: ")[2]:
            ast.parse(found, mode="eval")


def test_the_host_of_a_url_is_in_the_fetcher_s_form() -> None:
    urls = ["http://WWW.Example.com:8080/a", "https://bücher.example./x", "http://[::1]/", "no url", "", None]
    table = pa.table({"url": pa.array(urls, pa.string()), "uid": [f"{n:032x}" for n in range(len(urls))]})
    hosts = ["www.example.com", "xn--bcher-kva.example", "::1", "", "", None]
    for row, host in enumerate(hosts):
        same = where(f"host(url) == {host!r}" if host is not None else "is_null(host(url))", table)
        assert [one is True for one in same] == [other == host for other in hosts]
        assert same[row]


def test_chance_is_even_and_follows_from_the_uid() -> None:
    table = pa.table({"uid": [f"{n:032x}" for n in range(2000)]})
    assert columns_of("random(3) < 0.5") == ["uid"]
    halves = [where(f"random({seed}) < 0.5", table) for seed in (3, 3, 4)]
    assert halves[0] == halves[1] != halves[2]
    assert all(900 < sum(map(bool, half)) < 1100 for half in halves)
    assert all(where("0 <= random(0) < 1", table))
    backwards = table.take(list(range(1999, -1, -1)))
    assert where("random(3) < 0.5", backwards) == halves[0][::-1]


@pytest.mark.parametrize("text", ["h > quantile(h, 0.5)", "count() > 1"])
def test_functions_over_all_rows_are_for_selections(text: str) -> None:
    with pytest.raises(RecipeError, match=r"filter\.where, column \d+: (quantile|count) must be in the `where`"):
        where(text)
