import hashlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from curation.identity import (
    canonical_url,
    plain_host,
    requested_url,
    requested_urls,
    row_uid,
    shuffle_key,
    url_host,
)
from curation.web.address import Refused, check_url


@pytest.mark.parametrize(
    ("url", "canonical"),
    [
        ("HTTP://Example.COM/A", "http://example.com/A"),
        ("http://example.com", "http://example.com/"),
        ("http://example.com:80/a?b#c", "http://example.com/a?b"),
        ("https://example.com:443/a", "https://example.com/a"),
        ("https://example.com:80/a", "https://example.com:80/a"),
        ("  http://example.com/a \n", "http://example.com/a"),
        ("http://example.com/a #b", "http://example.com/a"),
        ("http://example.com? #b", "http://example.com/"),
        ("http://example.com/a ?", "http://example.com/a"),
        ("no url #b", "no url #b"),
        ("http://[::1]:80/a", "http://[::1]/a"),
        ("http://[::1]/a", "http://[::1]/a"),
        ("http://User:Pw@Example.com/", "http://User:Pw@example.com/"),
        ("http://example.com:99999/", "http://example.com:99999/"),
        ("ftp://Example.com/", "ftp://Example.com/"),
        ("no url", "no url"),
        ("http:///a", "http:///a"),
        ("http://[/", "http://[/"),
        ("", ""),
    ],
)
def test_canonical_url(url: str, canonical: str) -> None:
    assert canonical_url(url) == canonical


@given(st.text() | st.text(st.sampled_from(" #?/\t\n\x1f\x00:@[]a.\u00a0\u2028%&;")))
def test_canonical_url_is_a_fixed_point_and_never_raises(text: str) -> None:
    for url in (text, f"http://{text}", f"http://example.com/{text}"):
        assert canonical_url(canonical_url(url)) == canonical_url(url)


def test_uid_is_blake2b_128_of_canonical_url_zero_byte_alt() -> None:
    expected = hashlib.blake2b("http://example.com/\0红苹果".encode(), digest_size=16).hexdigest()
    assert row_uid("HTTP://example.com:80", "红苹果") == expected


def test_uid_tells_alt_texts_apart_as_they_are() -> None:
    assert row_uid("http://example.com/", "a") != row_uid("http://example.com/", "a ")


def test_uid_takes_text_that_is_no_unicode() -> None:
    assert len(row_uid("http://example.com/\ud800", "\udfff")) == 32


def test_shuffle_depends_on_the_seed() -> None:
    uids = [row_uid(f"http://example.com/{i}", "") for i in range(50)]
    orders = [sorted(uids, key=lambda u: shuffle_key(u, seed)) for seed in (0, 1)]
    assert orders[0] != orders[1]
    assert all(0 <= shuffle_key(u, 0) < 2**64 for u in uids)


SPELLINGS = [
    "http://bücher.example/~a/b.jpg?q=%C3%BC",
    "HTTP://BÜCHER.Example/~a/b.jpg?q=%C3%BC",
    "http://xn--bcher-kva.example/~a/b.jpg?q=%C3%BC",
    "http://xn--bcher-kva.example./~a/b.jpg?q=%C3%BC",
    "http://bücher。example/~a/b.jpg?q=%C3%BC",
    "http://bücher.example:80/~a/b.jpg?q=%C3%BC",
    "http://bücher.example:/~a/b.jpg?q=%C3%BC",
    "http://bücher.example/%7Ea/b.jpg?q=%C3%BC",
    "http://bücher.example/%7ea/%62.jpg?%71=%c3%bc",
    "http://bücher.example/~a/b.jpg?q=ü",
    "http://bücher.example/./~a/x/../b.jpg?q=%C3%BC",
    "http://bücher.example/%2e/~a/x/%2E%2e/b%2Ejpg?q=%C3%BC",
    "http://bücher.example/../~a/b.jpg?q=%C3%BC",
    " http://bücher.example/~a/b.jpg?q=%C3%BC#top\n",
]


@pytest.mark.parametrize("url", SPELLINGS)
def test_spellings_of_one_request_are_one(url: str) -> None:
    assert requested_url(url) == "http://xn--bcher-kva.example/~a/b.jpg?q=%C3%BC"
    assert url_host(url) == "xn--bcher-kva.example"


@pytest.mark.parametrize(
    ("url", "other"),
    [
        ("http://a.example", "http://a.example/?"),
        ("http://a.example/x", "http://a.example/x?#top"),
        ("http://127.0.0.1/x", "http://0x7f000001/x"),
        ("http://[::1]/x", "http://[0:0::1]:80/x"),
        ("http://a.example/100%", "http://a.example/100%25"),
        ("http://a.example/a b", "http://a.example/a%20b"),
    ],
)
def test_other_spellings_of_one_request(url: str, other: str) -> None:
    assert requested_url(url) == requested_url(other)
    assert url_host(url) == url_host(other)


DIFFERENT = [
    "http://a.example/x",
    "https://a.example/x",
    "http://a.example:8080/x",
    "http://www.a.example/x",
    "http://a.example/X",
    "http://a.example/x/",
    "http://a.example//x",
    "http://a.example/x?q",
    "http://a.example/x?q=",
    "http://a.example/x??",
    "http://a.example/x%2Fy",
    "http://a.example/x/y",
    "http://a.example/x?a=1+2",
    "http://a.example/x?a=1%2B2",
    "http://a.example/x?a=1%202",
    "http://a.example/%2541",
    "http://a.example/A",
    "http://user@a.example/x",
    "no URL",
    "",
]


def test_requests_that_may_differ_stay_apart() -> None:
    assert len({requested_url(url) for url in DIFFERENT}) == len(DIFFERENT)


@pytest.mark.parametrize(
    ("host", "plain"),
    [
        ("B.Example.", "b.example"),
        ("BÜCHER.example", "xn--bcher-kva.example"),
        ("straße.example", "xn--strae-oqa.example"),  # as it is looked up; IDNA 2003 has strasse
        ("[0:0::1]", "::1"),
        ("0x7f.1", "127.0.0.1"),
        ("no host", "no host"),
    ],
)
def test_hosts_have_the_form_in_which_they_are_looked_up(host: str, plain: str) -> None:
    assert plain_host(host) == plain == plain_host(plain)


ODD = st.text(st.sampled_from(" #?/\t\n\x1f\x00:@[]a.\u00a0\u2028%&;5eE~ü。A\ud800"), max_size=24)


@given(ODD, ODD)
def test_a_requested_url_is_a_fixed_point_and_never_raises(text: str, other: str) -> None:
    for url in (text, f"http://{text}", f"http://{text}/{other}", f"http://example.com/{text}?{other}"):
        requested = requested_url(url)
        assert requested_url(requested) == requested
        assert requested in requested_urls(url)
        assert requested_url(canonical_url(url)) in requested_urls(url)
        assert plain_host(url_host(url)) == url_host(url)


@given(ODD, ODD)
def test_what_is_sent_alike_is_requested_alike(path: str, query: str) -> None:
    url = f"http://example.com/{path}?{query}"
    try:
        target = check_url(url)
    except Refused:
        return
    # What aiohttp writes on the request line.
    sent = URL(target.url, encoded=True).raw_path_qs
    assert requested_url(f"http://example.com{sent}") == requested_url(url)


ESCAPED = {character: f"%{ord(character):02X}" for character in "abcxyzAZ059-._~"}


@given(
    st.text(st.sampled_from("".join(ESCAPED)), min_size=1, max_size=12).filter(lambda path: set(path) != {"."}),
    st.lists(st.booleans(), min_size=12, max_size=12),
    st.booleans(),
    st.sampled_from(["", "./", "x/../", "x/y/../../", "%2e/"]),
    st.sampled_from(["a.example", "A.EXAMPLE", "a.example.", "a.example:80", "ａ.example"]),
    st.sampled_from(["", "?", "#top"]),
)
def test_any_mix_of_spellings_is_one_request(
    path: str, escaped: list[bool], lower: bool, dots: str, host: str, end: str
) -> None:
    written = "".join(ESCAPED[c] if encode else c for c, encode in zip(path, escaped, strict=False))
    written = "".join(part.lower() if lower and part.startswith("%") else part for part in re.split("(%..)", written))
    assert requested_url(f"http://{host}/{dots}{written}{end}") == f"http://a.example/{path}"


def test_a_url_that_is_too_long_when_it_is_encoded_is_a_fixed_point_too() -> None:
    requested = requested_url("http://a.example/" + "ü" * 3000)
    assert len(requested) > 8192
    assert requested_url(requested) == requested
