"""No value that begins with a quote takes rows with it."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from listed import read

from curation import inputs
from curation.inputs import limits, quoting
from pairmill.errors import InputError


def tsv(path: Path, captions: list[str]) -> Path:
    """A file without quoting, as IANA's text/tab-separated-values has none."""
    path.write_text("text\turl\n" + "".join(f"{text}\thttp://a/{at}\n" for at, text in enumerate(captions)))
    return path


@pytest.mark.parametrize(
    "captions",
    [
        ['"Follow your heart painted on a wall', "a boat", "two cats", '"Best in show" said the judge', 'ruler of 12"'],
        # By csv's rules the next two are sound, and have fewer rows.
        ['"Follow your heart', "a boat", 'ruler of 12"', "soup"],
        ['"', '"', "a boat"],
        ['"a', "b", "c"],
        ['"Best" and "worst"', "b"],
        ["a boat", 'c "quoted" word', '"', '""'],
    ],
)
def test_tsv_without_quoting_keeps_every_line(tmp_path: Path, captions: list[str]) -> None:
    rows = read(tsv(tmp_path / "list.tsv", captions))
    assert rows["alt"].to_pylist() == captions
    assert rows["url"].to_pylist() == [f"http://a/{at}" for at in range(len(captions))]


#: What may stand where a URL belongs.
URLS = ["", " http://a/1.jpg", "s3://a/1.jpg", "www.a.org/1.jpg", "data:image/png;base64-x", "//a/1.jpg", "img/1.jpg"]
URLS += ["a.org/1.jpg", "FTP://a/1.jpg", "ipfs:Qm1", "1.jpg"]


@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize("text_first", [False, True])
def test_tsv_whose_quotes_span_rows_keeps_them_whatever_the_urls(tmp_path: Path, url: str, text_first: bool) -> None:
    rows = [(url, '"Hello'), ("http://a/2.jpg", "ok"), (url, 'bye"'), (url, '"so'), (url, 'long"')]
    lines = [row[::-1] if text_first else row for row in [("url", "text"), *rows]]
    (tmp_path / "list.tsv").write_text("".join("\t".join(line) + "\n" for line in lines))
    found = read(tmp_path / "list.tsv")
    assert list(zip(found["url"].to_pylist(), found["alt"].to_pylist(), strict=True)) == rows


@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize("text_first", [False, True])
@pytest.mark.parametrize("between", [[], [("http://a/2.jpg", "ok")], [("s3://a/2.jpg", "ok"), ("", "no")]])
def test_csv_whose_quotes_span_rows_is_refused_whatever_the_urls(
    tmp_path: Path, url: str, text_first: bool, between: list[tuple[str, str]]
) -> None:
    rows = [(url, '"Hello'), *between, (url, 'bye"')]
    lines = [row[::-1] if text_first else row for row in [("url", "text"), *rows]]
    (tmp_path / "list.csv").write_text("".join(",".join(line) + "\n" for line in lines))
    with pytest.raises(InputError, match="row of its own"):
        read(tmp_path / "list.csv")
    assert len(read(tmp_path / "list.csv", quoting="none")) == len(rows)


@pytest.mark.parametrize(
    "lines",
    [
        # Neither reading has a URL in every row, so none of them is the better one.
        'text,url\n"Hello,\nbye",\n',
        'text,url\n"Hello,None\nbye",http://a/2\n',
        'text,url\n"Hello,photo\nbye",\n',
        'text,url\n"Hello,photo\nbye",image\n',
        'url,text\n,"Hello\nphoto,bye"\n',
        'url,text\nhttp://a/1,"Hello\nnull,bye"\n',
        'text,url,n\n"Hello,,3\nbye",,4\n',
        'n,text,url\n3,"Hello,\n4,bye",\n',
        # Words stand for URLs elsewhere in the list.
        'text,url\nsoup,image\n"Hello,photo\nbye",http://a/2\n',
        'url,text\nhttp://a/1,"Hello\nphoto,bye"\nimage,soup\n',
        'url,text\nhttp://a/1,"Hello\na photo,bye"\nno image,soup\n',
    ],
)
def test_csv_that_is_as_well_a_row_a_line_is_refused(tmp_path: Path, lines: str) -> None:
    (tmp_path / "list.csv").write_text(lines)
    with pytest.raises(InputError, match="row of its own") as error:
        read(tmp_path / "list.csv")
    # Where the value ends that may be several rows.
    rows = lines.splitlines()
    assert f"line {next(at for at, line in enumerate(rows, 1) if 'bye' in line)}" in str(error.value.value)
    assert len(read(tmp_path / "list.csv", quoting="none")) == len(rows) - 1
    assert len(read(tmp_path / "list.csv", quoting="quoted")) == len(rows) - 2


@pytest.mark.parametrize(
    "lines",
    [
        'text,url\n"Hello,photo\nbye",http://a/2\nsoup,http://a/3\n',
        'text,url\n"Hello, dear\nbye",http://a/2\nsoup,\n',
        'url,text\nhttp://a/2,"Hello from\nParis, France"\nhttp://a/3,soup\n',
        # The other URLs that are none are of another kind.
        'url,text\nhttp://a/2,"Hello from\nParis, France"\nno image,soup\n',
        'url,text\nhttp://a/2,"Hello from\nParis, France"\nnull,soup\n',
    ],
)
def test_csv_texts_whose_lines_have_words_for_urls_are_read(tmp_path: Path, lines: str) -> None:
    (tmp_path / "list.csv").write_text(lines)
    assert [text.splitlines()[0][:5] for text in read(tmp_path / "list.csv")["alt"].to_pylist()] == ["Hello", "soup"]


def test_csv_whose_text_comes_first_is_refused_where_its_quote_takes_the_url(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text('text,url\n"Hello, http://a/1.jpg\nok, http://a/2.jpg\nbye", http://a/3.jpg\n')
    with pytest.raises(InputError, match="line 2"):
        read(tmp_path / "list.csv")


@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize("text_first", [False, True])
@pytest.mark.parametrize(
    "text",
    [
        "two\nlines",
        "Dear Sir,\n\nI write, as you know, in haste.\nYours",
        "red, blue\ngreen, yellow\nand so on",
        "see\nhttp://b/2\nfor more",
        'a "word",\nand "another", or two',
        "at the end\n",
        "\n",
    ],
)
def test_csv_texts_of_several_lines_are_read(tmp_path: Path, url: str, text_first: bool, text: str) -> None:
    rows = [[url, text], [url, "plain"], [url, text]]
    with (tmp_path / "list.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerows(row[::-1] if text_first else row for row in [["url", "text"], *rows])
    found = read(tmp_path / "list.csv")
    assert [list(row) for row in zip(found["url"].to_pylist(), found["alt"].to_pylist(), strict=True)] == rows


def test_tsv_of_ragged_lines_is_refused_if_its_quotes_span_rows(tmp_path: Path) -> None:
    lines = '\t"Hello\nhttp://a/2.jpg\tok\textra\nhttp://a/3.jpg\tbye"\nhttp://a/4.jpg\tx\n'
    (tmp_path / "list.tsv").write_text("url\ttext\n" + lines)
    with pytest.raises(InputError, match="row of its own"):
        read(tmp_path / "list.tsv")


def test_tsv_as_programs_write_it_is_read_with_quoting(tmp_path: Path) -> None:
    captions = ["two\nlines", 'a "word"', '"whole"', "a\ttab", "", "plain"]
    with (tmp_path / "list.tsv").open("w", newline="") as stream:
        csv.writer(stream, delimiter="\t").writerows(
            [["text", "url"], *([text, f"http://a/{at}"] for at, text in enumerate(captions))]
        )
    assert read(tmp_path / "list.tsv")["alt"].to_pylist() == captions


@pytest.mark.parametrize("block", [7, 2**20])
def test_a_file_is_read_alike_in_blocks_of_any_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(quoting, "_BLOCK_BYTES", block)
    path = tmp_path / "list.csv"
    path.write_bytes(b'\xef\xbb\xbfurl,text\r\nhttp://a/1,"two\r\nlines ""and"" quotes"\r\nhttp://a/2,b\r\n')
    assert read(path)["alt"].to_pylist() == ['two\r\nlines "and" quotes', "b"]
    path.write_bytes(b'url,text\r\nhttp://a/1,"torn\r\nhttp://a/2,b\r\n')
    with pytest.raises(InputError, match="line 2"):
        read(path)
    numbers = [number for number, _ in quoting.numbered(inputs.find_files(inputs.InputConfig(path=str(path)))[0])]
    assert numbers == [1, 2, 3]


@pytest.mark.parametrize(
    ("lines", "line"),
    [
        # Never closed: what follows would be one value.
        ('http://a/0,one\nhttp://a/1,"two\nhttp://a/2,three\n', 3),
        ('http://a/0,one\n//a/1,"two', 3),
        # Closed by a quote that ends another row's value.
        ('http://a/0,"one\nhttp://a/1,a ruler of 12"\nhttp://a/2,three\n', 3),
    ],
)
def test_csv_that_would_lose_rows_is_refused_with_the_line(tmp_path: Path, lines: str, line: int) -> None:
    path = tmp_path / "list.csv"
    path.write_text("url,text\n" + lines)
    with pytest.raises(InputError) as error:
        read(path)
    assert "list.csv" in str(error.value.value)
    assert f"line {line}" in str(error.value.value)
    assert "input.quoting" in error.value.fix
    # Without quoting every line is a row.
    assert len(read(path, quoting="none")) == lines.rstrip("\n").count("\n") + 1


def test_a_value_of_several_lines_must_end_where_its_quote_closes(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text('url,text\nhttp://a/0,"one\n"two" said she\nhttp://a/2,three\n')
    with pytest.raises(InputError, match="line 3"):
        read(tmp_path / "list.csv")


def test_what_only_looks_like_lost_rows_is_read_as_it_is_if_asked(tmp_path: Path) -> None:
    rows = [["http://a/1", "see\nhttp://b/2,or ask"], ["http://a/3", "c"]]
    text = io.StringIO()
    csv.writer(text).writerows([["url", "text"], *rows])
    (tmp_path / "list.csv").write_text(text.getvalue())
    with pytest.raises(InputError, match="row of its own"):
        read(tmp_path / "list.csv")
    assert read(tmp_path / "list.csv", quoting="quoted")["alt"].to_pylist() == [text for _, text in rows]


def test_a_text_behind_a_closing_quote_loses_no_row(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text('url,text\nhttp://a/1,"Best" of all\nhttp://a/2,b\n')
    assert read(tmp_path / "list.csv")["alt"].to_pylist() == ["Best of all", "b"]


def test_a_header_whose_quote_is_never_closed_is_refused(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text('url,"text\n' + "http://a/1,a red car\n" * 20_000)
    with pytest.raises(InputError, match="never closed"):
        read(tmp_path / "list.csv")


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "txt"])
def test_a_line_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str) -> None:
    monkeypatch.setattr(quoting, "_BLOCK_BYTES", 100)
    monkeypatch.setattr(limits, "LARGEST_VALUE", 1_000)
    (tmp_path / f"list.{ending}").write_text(("{}\n" if ending == "jsonl" else "url,text\n") + "x" * 2_000)
    with pytest.raises(InputError, match="at most 1,000 bytes"):
        read(tmp_path / f"list.{ending}")
