"""Lists in UTF-16 and UTF-32, as Windows programs write them, are read; what cannot be told is refused with the fix."""

from __future__ import annotations

import gzip
import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from listed import read

from curation.inputs.encodings import Utf8Stream
from pairmill.errors import InputError

#: A list in each format of text, with letters of one to four bytes.
LISTS = {
    "csv": 'url,text\r\nhttp://a/1,"café,\r\n红 😀"\r\nhttp://a/2,b\r\n',
    "tsv": 'url\ttext\nhttp://a/1\t"café,\r\n红 😀"\nhttp://a/2\tb\n',
    "jsonl": '{"url": "http://a/1", "text": "café,\\r\\n红 😀"}\n{"url": "http://a/2", "text": "b"}\n',
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("ending", LISTS)
@pytest.mark.parametrize("packed", [False, True])
def test_a_list_with_a_byte_order_mark_is_read(tmp_path: Path, encoding: str, ending: str, packed: bool) -> None:
    mark = "\ufeff" if encoding.startswith(("utf-16", "utf-32")) else ""
    content = (mark + LISTS[ending]).encode(encoding)
    path = tmp_path / (f"list.{ending}.gz" if packed else f"list.{ending}")
    path.write_bytes(gzip.compress(content) if packed else content)
    rows = read(path)
    assert rows["url"].to_pylist() == ["http://a/1", "http://a/2"]
    assert rows["alt"].to_pylist() == ["café,\r\n红 😀", "b"]


def test_a_text_file_of_urls_in_utf_16_is_read(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_bytes("http://a/é\r\nhttp://a/2\r\n".encode("utf-16"))
    assert read(tmp_path)["url"].to_pylist() == ["http://a/é", "http://a/2"]


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("ending", LISTS)
def test_a_list_without_a_mark_is_refused_with_the_fix(tmp_path: Path, encoding: str, ending: str) -> None:
    (tmp_path / f"list.{ending}").write_bytes(LISTS[ending].encode(encoding))
    with pytest.raises(InputError, match="UTF-16") as error:
        read(tmp_path)
    assert f"list.{ending}" in str(error.value.value)
    assert "UTF-8" in error.value.fix


@pytest.mark.parametrize(("ending", "line"), [("csv", 3), ("tsv", 3), ("jsonl", 1)])
def test_another_encoding_is_refused_with_its_line_and_the_fix(tmp_path: Path, ending: str, line: int) -> None:
    text = LISTS[ending].replace("红 😀", "").replace("é", "e").replace('"\r\n', 'é"\r\n').replace('"\n', 'é"\n')
    (tmp_path / f"list.{ending}").write_bytes(text.replace('"}', 'é"}').encode("cp1252"))
    with pytest.raises(InputError, match=f"line {line}") as error:
        read(tmp_path)
    assert "UTF-8" in error.value.fix


@pytest.mark.parametrize("lost", [1, 3])
def test_utf_16_that_ends_within_a_character_is_refused(tmp_path: Path, lost: int) -> None:
    (tmp_path / "list.csv").write_bytes("url,text\nhttp://a/1,😀".encode("utf-16")[:-lost])
    with pytest.raises(InputError, match="decode"):
        read(tmp_path)


def test_half_a_pair_in_utf_16_is_refused_with_its_line(tmp_path: Path) -> None:
    content = "url,text\nhttp://a/1,x\nhttp://a/2,\ud83d\nhttp://a/3,y\n"
    (tmp_path / "list.csv").write_bytes(b"\xff\xfe" + content.encode("utf-16-le", "surrogatepass"))
    with pytest.raises(InputError, match="line 3"):
        read(tmp_path)


@given(
    text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\ufeff")),
    encoding=st.sampled_from(["utf-16", "utf-16-be", "utf-32", "utf-32-be"]),
    size=st.integers(1, 9),
)
def test_a_stream_gives_the_same_text_in_blocks_of_any_size(text: str, encoding: str, size: int) -> None:
    mark = "\ufeff" if encoding.endswith("-be") else ""
    stream = Utf8Stream(io.BytesIO((mark + text).encode(encoding)))
    blocks = []
    while block := stream.read(size):
        blocks.append(block)
    assert b"".join(blocks) == text.encode()
    # pyarrow takes a short block for the end.
    assert all(len(block) == size for block in blocks[:-1])


@given(
    content=st.binary().filter(lambda content: not content.startswith((b"\xff\xfe", b"\xfe\xff"))),
    size=st.integers(1, 9),
)
def test_a_stream_without_a_mark_is_given_as_it_is_or_refused(content: bytes, size: int) -> None:
    stream = Utf8Stream(io.BytesIO(content))
    if 0 < content[:4].count(0) < len(content[:4]):
        with pytest.raises(ValueError, match="UTF-16"):
            stream.read(size)
        return
    blocks = []
    while block := stream.read(size):
        blocks.append(block)
    assert b"".join(blocks) == content
