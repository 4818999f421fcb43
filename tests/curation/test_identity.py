import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation.identity import canonical_url, row_uid, shuffle_key


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
