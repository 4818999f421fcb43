"""The hashes that choose samples and chunks: SipHash-2-4 (Aumasson and Bernstein 2012), mixed as SplitMix64 does."""

from __future__ import annotations

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from curation.duplicates.fitting import keyed_hashes

_ALL = 2**64 - 1


def siphash(key: bytes, data: bytes) -> int:
    """SipHash-2-4 in integers."""

    def turned(x: int, by: int) -> int:
        return (x << by | x >> 64 - by) & _ALL

    k0, k1 = (int.from_bytes(key[at : at + 8], "little") for at in (0, 8))
    a, b, c, d = (
        k ^ int.from_bytes(word, "big")
        for k, word in zip((k0, k1, k0, k1), (b"somepseu", b"dorandom", b"lygenera", b"tedbytes"), strict=True)
    )

    def rounds(count: int) -> None:
        nonlocal a, b, c, d
        for _ in range(count):
            a, c = (a + b) & _ALL, (c + d) & _ALL
            b, d = turned(b, 13) ^ a, turned(d, 16) ^ c
            a = turned(a, 32)
            c, a = (c + b) & _ALL, (a + d) & _ALL
            b, d = turned(b, 17) ^ c, turned(d, 21) ^ a
            c = turned(c, 32)

    padded = data + bytes(7 - len(data) % 8) + bytes([len(data) & 0xFF])
    for at in range(0, len(padded), 8):
        word = int.from_bytes(padded[at : at + 8], "little")
        d ^= word
        rounds(2)
        a ^= word
    c ^= 0xFF
    rounds(4)
    return a ^ b ^ c ^ d


def mixed(x: int) -> int:
    """The last steps of SplitMix64 (Steele et al. 2014)."""
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & _ALL
    x = (x ^ x >> 27) * 0x94D049BB133111EB & _ALL
    return x ^ x >> 31


def test_the_reference_gives_the_paper_s_example() -> None:
    assert siphash(bytes(range(16)), bytes(range(15))) == 0xA129CA6149BE45E5


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=5), st.integers(0, _ALL))
def test_each_text_has_its_keyed_hash(texts: list[str], key: int) -> None:
    found = keyed_hashes(pa.chunked_array([pa.array(texts, pa.string())]), key)
    assert found.tolist() == [mixed(siphash(f"{key:016x}".encode(), text.encode())) for text in texts]
