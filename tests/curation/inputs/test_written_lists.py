"""Rows in are rows planned, whichever program wrote the list; a file that cannot be read whole is refused."""

from __future__ import annotations

import contextlib
import csv
import re
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from listed import read

from pairmill.errors import InputError

Rows = list[tuple[str, str]]
#: The names of the two columns, in their order.
Names = tuple[str, str]
Writer = Callable[[Rows, Path, Names], None]
URL_FIRST: Names = ("url", "text")

#: What readers stumble over, often side by side.
PIECES = st.sampled_from(
    ['"', '""', "'", ",", "\t", "\n", "\r\n", "\\", " ", ";", "|", "x", "é", "红", '12"', "http://b/", ""]
)
TEXTS = st.lists(PIECES, max_size=6).map("".join)
#: What may stand where a URL belongs, with the number of its row.
URLS = st.sampled_from(
    ["http://a/{}", "http://a/{}", "", " http://a/{}", "s3://a/{}", "www.a.org/{}", "data:,{}", "{}.jpg"]
)
ROWS = st.lists(st.tuples(URLS, TEXTS), min_size=1, max_size=8).map(
    lambda rows: [(url.format(at), text) for at, (url, text) in enumerate(rows)]
)
#: Texts that a format without quoting holds.
PLAIN_ROWS = ROWS.map(lambda rows: [(url, "".join(c for c in text if c not in "\t\r\n")) for url, text in rows])


def by_csv(delimiter: str, quoting: int, end: str) -> Writer:
    def write(rows: Rows, path: Path, names: Names) -> None:
        with path.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream, delimiter=delimiter, quoting=quoting, lineterminator=end)  # type: ignore[arg-type]
            writer.writerows([names, *rows])

    return write


def by_pandas(method: str, **options: object) -> Writer:
    def write(rows: Rows, path: Path, names: Names) -> None:
        pandas = pytest.importorskip("pandas")
        getattr(pandas.DataFrame(rows, columns=list(names)), method)(path, **options)

    return write


def by_polars(method: str, **options: object) -> Writer:
    def write(rows: Rows, path: Path, names: Names) -> None:
        polars = pytest.importorskip("polars", reason="polars is a package of the extra dev")
        getattr(polars.DataFrame(rows, schema=list(names), orient="row"), method)(path, **options)

    return write


def by_duckdb(options: str) -> Writer:
    def write(rows: Rows, path: Path, names: Names) -> None:
        duckdb = pytest.importorskip("duckdb", reason="duckdb is a package of the extra dev")
        with contextlib.closing(duckdb.connect()) as connection:
            connection.register("rows", table(rows, names))
            connection.execute(f"COPY rows TO '{path}' ({options})")

    return write


def table(rows: Rows, names: Names) -> pa.Table:
    return pa.table([list(values) for values in zip(*rows, strict=True)], names=list(names))


def by_pyarrow(delimiter: str) -> Writer:
    def write(rows: Rows, path: Path, names: Names) -> None:
        pacsv.write_csv(table(rows, names), path, pacsv.WriteOptions(delimiter=delimiter))

    return write


def in_groups(rows: Rows, path: Path, names: Names) -> None:
    pq.write_table(table(rows, names), path, row_group_size=2, use_dictionary=False)


def as_dictionary(rows: Rows, path: Path, names: Names) -> None:
    pq.write_table(pa.table([column.dictionary_encode() for column in table(rows, names)], names=list(names)), path)


WRITERS: dict[str, tuple[str, Writer]] = {
    "csv": ("csv", by_csv(",", csv.QUOTE_MINIMAL, "\n")),
    "csv, all quoted, CRLF": ("csv", by_csv(",", csv.QUOTE_ALL, "\r\n")),
    "csv, texts quoted": ("csv", by_csv(",", csv.QUOTE_NONNUMERIC, "\n")),
    "tsv as csv": ("tsv", by_csv("\t", csv.QUOTE_MINIMAL, "\r\n")),
    "tsv as csv, all quoted": ("tab", by_csv("\t", csv.QUOTE_ALL, "\n")),
    "pandas csv": ("csv", by_pandas("to_csv", index=False)),
    "pandas csv.gz": ("csv.gz", by_pandas("to_csv", index=False)),
    "pandas csv, byte-order mark": ("csv", by_pandas("to_csv", index=False, encoding="utf-8-sig")),
    "pandas tsv": ("tsv", by_pandas("to_csv", index=False, sep="\t")),
    "pandas jsonl": ("jsonl", by_pandas("to_json", orient="records", lines=True)),
    "pandas jsonl, as UTF-8": ("jsonl", by_pandas("to_json", orient="records", lines=True, force_ascii=False)),
    "pandas parquet": ("parquet", by_pandas("to_parquet")),
    "polars csv": ("csv", by_polars("write_csv")),
    "polars tsv": ("tsv", by_polars("write_csv", separator="\t")),
    "polars jsonl": ("jsonl", by_polars("write_ndjson")),
    "polars parquet": ("parquet", by_polars("write_parquet")),
    "duckdb csv": ("csv", by_duckdb("FORMAT csv, HEADER")),
    "duckdb tsv": ("tsv", by_duckdb("FORMAT csv, HEADER, DELIMITER '\t'")),
    "duckdb json": ("jsonl", by_duckdb("FORMAT json")),
    "duckdb parquet": ("parquet", by_duckdb("FORMAT parquet")),
    "pyarrow csv": ("csv", by_pyarrow(",")),
    "pyarrow tsv": ("tsv", by_pyarrow("\t")),
    "pyarrow parquet, small groups": ("parquet", in_groups),
    "pyarrow parquet, dictionary": ("parquet", as_dictionary),
}


@pytest.mark.parametrize("writer", WRITERS)
@given(rows=ROWS, text_first=st.booleans())
@settings(max_examples=60, deadline=None)
def test_rows_in_are_rows_read(
    tmp_path_factory: pytest.TempPathFactory, writer: str, rows: Rows, text_first: bool
) -> None:
    ending, write = WRITERS[writer]
    # Lines with tabs within quotes may be rows of a file without quoting, which is what the format says.
    assume(ending not in ("tsv", "tab") or not any("\t" in text and re.search("[\r\n]", text) for _, text in rows))
    path = tmp_path_factory.mktemp("list") / f"list.{ending}"
    if text_first:
        write([row[::-1] for row in rows], path, URL_FIRST[::-1])
    else:
        write(rows, path, URL_FIRST)
    try:
        found = read(path)
    except InputError as error:
        # Only a csv or tsv file can be doubtful: one whose values look like rows.
        assert ending.startswith(("csv", "tsv", "tab"))
        assert "input.quoting" in error.fix
        found = read(path, quoting="quoted")
    assert list(zip(found["url"].to_pylist(), found["alt"].to_pylist(), strict=True)) == rows


@given(rows=PLAIN_ROWS)
@settings(max_examples=150, deadline=None)
def test_tsv_without_quoting_has_a_row_a_line(tmp_path_factory: pytest.TempPathFactory, rows: Rows) -> None:
    path = tmp_path_factory.mktemp("list") / "list.tsv"
    by_csv("\t", csv.QUOTE_MINIMAL, "\n")([], path, URL_FIRST)
    with path.open("a", encoding="utf-8") as stream:
        stream.writelines(f"{url}\t{text}\n" for url, text in rows)
    found = read(path)
    assert found["url"].to_pylist() == [url for url, _ in rows]
    # A value that stands in quotes as csv writes it is such a value, unless another one shows that there is no quoting.
    texts = [text for _, text in rows]
    assert read(path, quoting="none")["alt"].to_pylist() == texts
    assert all(len(read) <= len(text) for read, text in zip(found["alt"].to_pylist(), texts, strict=True))


@given(rows=PLAIN_ROWS, text_first=st.booleans())
@settings(max_examples=300, deadline=None)
def test_csv_without_quoting_keeps_its_rows_or_is_refused(
    tmp_path_factory: pytest.TempPathFactory, rows: Rows, text_first: bool
) -> None:
    path = tmp_path_factory.mktemp("list") / "list.csv"
    lines = [("url", "text"), *((url.replace(",", ""), text.replace(",", "")) for url, text in rows)]
    path.write_text("".join(",".join(line[::-1] if text_first else line) + "\n" for line in lines), encoding="utf-8")
    try:
        found = read(path)
    except InputError as error:
        assert "input.quoting" in error.fix
        found = read(path, quoting="none")
        assert found["alt"].to_pylist() == [text for _, text in lines[1:]]
    assert found["url"].to_pylist() == [url for url, _ in lines[1:]]


@given(rows=ROWS, lost=st.integers(1, 40), ending=st.sampled_from(["csv.gz", "jsonl", "parquet"]))
@settings(max_examples=100, deadline=None)
def test_a_file_that_was_cut_short_is_refused(
    tmp_path_factory: pytest.TempPathFactory, rows: Rows, lost: int, ending: str
) -> None:
    path = tmp_path_factory.mktemp("list") / f"list.{ending}"
    by_pandas(
        *{"csv.gz": ("to_csv",), "jsonl": ("to_json",), "parquet": ("to_parquet",)}[ending],
        **({"orient": "records", "lines": True} if ending == "jsonl" else {"index": False}),
    )(rows, path, URL_FIRST)
    whole = path.read_bytes()
    # A jsonl file that ends with its last row is whole.
    lost = min(lost, len(whole) - whole.rstrip(b"\n").rfind(b"\n") - 2) if ending == "jsonl" else lost
    path.write_bytes(whole[: max(1, len(whole) - max(lost, 2))])
    with pytest.raises(InputError, match="must"):
        read(path)
