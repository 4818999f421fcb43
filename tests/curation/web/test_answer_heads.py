"""Heads and chunks of answers, whatever they are cut into on the way."""

from __future__ import annotations

import gzip
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from odd_servers import ODD

from curation.web.answer_heads import MAX_HEAD_BYTES, BadHead, HeadReader
from curation.web.chunks import MAX_LINE_BYTES, ChunkReader
from curation.web.coding import coding_of, inflated

PIECES = st.lists(st.integers(1, 40), min_size=1, max_size=30)


def fed(raw: bytes, sizes: list[int]) -> tuple[bytes, bool]:
    """What comes out of a reader that gets `raw` in pieces; and whether it was too much."""
    reader, made, at = HeadReader(), [], 0
    for size in sizes:
        made.append(reader.feed(raw[at : at + size]))
        at += size
    made.append(reader.feed(raw[at:]))
    return b"".join(made), reader.excess


def dechunked(plain: bytes) -> bytes:
    """The body of chunks in their plain form, by the letter of RFC 9112."""
    body = b""
    while plain:
        size, _, plain = plain.partition(b"\r\n")
        body += plain[: int(size, 16)]
        assert plain[int(size, 16) :][:2] == b"\r\n"
        plain = plain[int(size, 16) + 2 :]
    return body


@pytest.mark.parametrize(
    ("raw", "plain"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 200 -\r\n\r\n"),
        (b"\r\nhttp/1.0 404\nServer: x\n\n", b"HTTP/1.0 404 -\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\nX: 1\r\nDate : now\r\n then\r\n\r\n", b"HTTP/1.1 200 -\r\ndate: now then\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\nDate: a\r\ndate: b\r\n\r\n", b"HTTP/1.1 200 -\r\ndate: a\r\ndate: b\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\nno colon\r\n location: b\r\n\r\n", b"HTTP/1.1 200 -\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\nconnection: x, Close\r\n\r\n", b"HTTP/1.1 200 -\r\nconnection: close\r\n\r\n"),
        (b"HTTP/1.1 103 Hints\r\nLocation: x\r\n\r\nHTTP/1.1 204 No\r\n\r\n", b"HTTP/1.1 204 -\r\n\r\n"),
    ],
)  # fmt: skip
def test_a_head_keeps_its_status_and_what_is_read(raw: bytes, plain: bytes) -> None:
    assert fed(raw, []) == (plain, False)


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTX",
        b"<html>",
        b"HTTP/1.1 200 OK\r\nX: a\0b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1, 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: +1\r\nContent-Length: 1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 0x1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1, -2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * MAX_HEAD_BYTES,
        b"HTTP/1.1 200 OK" + b" " * MAX_HEAD_BYTES,
    ],
)
def test_what_is_no_head_is_refused(raw: bytes) -> None:
    with pytest.raises(BadHead):
        fed(raw, [])


def test_zeros_before_a_length_do_not_count() -> None:
    raw = b"HTTP/1.1 200 OK\r\nContent-Length: %s3\r\n\r\nabcd" % (b"0" * 5000)
    assert fed(raw, []) == (b"HTTP/1.1 200 -\r\ncontent-length: 3\r\n\r\nabc", True)


@pytest.mark.parametrize("length", [b"+1", b"-1", b"\xb2", b"0x10", b"1 byte", b"9" * 5000, b"9223372036854775808"])
def test_a_length_that_is_none_leaves_the_end_to_the_connection(length: bytes) -> None:
    raw = b"HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nContent-Length: %s\r\n\r\nabc" % length
    assert fed(raw, []) == (b"HTTP/1.1 200 -\r\nconnection: close\r\n\r\nabc", False)


@pytest.mark.parametrize("status", [b"204", b"304"])
def test_an_answer_that_has_no_body_is_not_given_one(status: bytes) -> None:
    plain, excess = fed(b"HTTP/1.1 %s x\r\nContent-Length: 3\r\n\r\nabc" % status, [])
    assert (plain.endswith(b"\r\n\r\n"), excess) == (True, True)


@given(st.sampled_from([each.raw for each in ODD.values() if each.kept]), PIECES)
@settings(max_examples=300, deadline=None)
def test_how_an_answer_is_cut_into_packets_changes_nothing(raw: bytes, sizes: list[int]) -> None:
    whole, pieces = fed(raw, []), fed(raw, sizes)
    head, _, body = whole[0].partition(b"\r\n\r\n")
    if b"chunked" in head:
        other = pieces[0].removeprefix(head + b"\r\n\r\n")
        assert (dechunked(other), other[-5:]) == (dechunked(body), b"0\r\n\r\n")
    else:
        assert pieces == whole


@given(st.lists(st.binary(max_size=50).filter(lambda line: b"\0" not in line), max_size=20), PIECES)
@settings(max_examples=200, deadline=None)
def test_lines_of_any_bytes_hide_no_field_that_is_read(lines: list[bytes], sizes: list[int]) -> None:
    junk = [b"X" + line.replace(b"\n", b"").replace(b"\r", b"").replace(b":", b"") for line in lines]
    raw = b"\r\n".join([b"HTTP/1.1 200 OK", *junk, b"Content-Length: 3", *junk, b"", b"abcd"])
    assert fed(raw, sizes) == (b"HTTP/1.1 200 -\r\ncontent-length: 3\r\n\r\nabc", True)


@given(st.lists(st.binary(min_size=1, max_size=60), max_size=8), st.sampled_from([b"\n", b"\r\n"]), PIECES, st.data())
@settings(max_examples=200, deadline=None)
def test_chunks_give_their_bytes(chunks: list[bytes], end: bytes, sizes: list[int], data: st.DataObject) -> None:
    after = st.sampled_from([b"", b" ", b"\t ", b";x=y", b' ; a="b;c"'])
    framed = b"".join(b"%X%s%s%s%s" % (len(each), data.draw(after), end, each, end) for each in chunks)
    framed += b"00" + end + data.draw(st.sampled_from([b"", b"X-Sum: 1" + end, b"no colon" + end])) + end
    reader, made = ChunkReader(), b""
    for size in sizes:
        made, framed = made + reader.feed(framed[:size]), framed[size:]
    made += reader.feed(framed)
    assert (dechunked(made), reader.excess) == (b"".join(chunks), False)
    assert reader.feed(b"x") == b"" and reader.excess


@pytest.mark.parametrize(
    "framed",
    [b"zz\r\n", b"\r\n3\r\n", b"-3\r\nab\r\n", b"0x3\r\nabc\r\n", b"3\r\nabcd\r\n", b"3" * 99 + b"\n", b"1" * 20_000],
)  # fmt: skip
def test_what_is_no_chunk_is_passed_on_for_the_parser_to_refuse(framed: bytes) -> None:
    reader = ChunkReader()
    assert b"not a chunk" in reader.feed(framed)
    assert reader.feed(b"more") == b"more"


def test_a_body_of_nothing_but_chunks_ends() -> None:
    reader = ChunkReader()
    made = [reader.feed(b"1\r\nx\r\n" * 1000) for _ in range(300)]
    assert sum(part.count(b"x") for part in made[:262]) >= 262_000
    assert any(b"not a chunk" in part for part in made[262:264])


def test_a_line_that_never_ends_is_not_kept() -> None:
    reader = ChunkReader()
    assert sum(len(reader.feed(b"1" * 1000)) for _ in range(100)) >= 100_000 - MAX_LINE_BYTES


@pytest.mark.parametrize(
    ("values", "coding"),
    [
        ([], ""),
        (["identity"], ""),
        (["GZip"], "gzip"),
        (["x-gzip"], "gzip"),
        (["aws-chunked,gzip"], "gzip"),
        (["none", "br"], "br"),
        (["deflate, gzip"], "deflate,gzip"),
        (["UTF-8"], ""),
    ],
)
def test_a_coding_is_one_that_is_registered(values: list[str], coding: str) -> None:
    assert coding_of(values) == coding


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_any_bytes_inflate_to_something_bounded_or_nothing(body: bytes) -> None:
    for given_body in (body, b"\x1f\x8b\x08\0" + body, b"\x78\x9c" + body):
        plain = inflated(given_body, 1000)
        assert plain is None or len(plain) <= 1000


@given(st.binary(max_size=300), st.integers(0, 40), st.booleans())
@settings(max_examples=300, deadline=None)
def test_what_is_inflated_is_whole(body: bytes, lost: int, as_gzip: bool) -> None:
    coded = gzip.compress(body, mtime=0) if as_gzip else zlib.compress(body)
    kept = coded[: max(0, len(coded) - lost)]
    # Only the checksum and the length at the end may be missing.
    assert inflated(kept, 1000) == (body if lost <= (8 if as_gzip else 4) else None)


@pytest.mark.parametrize(
    "coded",
    [gzip.compress(bytes(5000), mtime=0), zlib.compress(bytes(5000)), zlib.compress(bytes(5000))[:-4]],
    ids=["gzip", "zlib", "zlib without its checksum"],
)
def test_what_inflates_to_more_than_is_allowed_is_nothing(coded: bytes) -> None:
    assert inflated(coded, 5000) == bytes(5000)
    assert inflated(coded, 4999) is None
