"""Address rules: every way to name a place that must not be asked, and the places that may."""

from __future__ import annotations

import ipaddress
import socket

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.schema import Status
from curation.web.address import (
    AddressPolicy,
    Refused,
    check_url,
    parse_networks,
    redirect_url,
    refuse_address,
)

#: What names resolve to in these tests.
NAMES = {
    "public.example": ["93.184.216.34"],
    "both.example": ["93.184.216.34", "2606:2800:220:1::1"],
    "private.example": ["10.1.2.3"],
    "half.example": ["93.184.216.34", "127.0.0.1"],
    "half6.example": ["93.184.216.34", "::1"],
    "scoped.example": ["fe80::1%2"],
    "xn--bcher-kva.example": ["93.184.216.34"],
    "localhost": ["127.0.0.1"],
}


def judge(url: str, policy: AddressPolicy | None = None) -> str:
    """The status with which `url` is refused, or "allowed"."""
    try:
        target = check_url(url)
        numeric = ":" in target.host or target.host.replace(".", "").isdigit()
        addresses = [target.host] if numeric else NAMES[target.host]
        (policy or AddressPolicy(allow_ports=(80, 443, 8080, 8443))).check(target.host, target.port, addresses)
    except Refused as refused:
        return refused.status.value
    return "allowed"


ADDRESS = Status.FORBIDDEN_ADDRESS.value
INVALID = Status.INVALID_URL.value
SCHEME = Status.FORBIDDEN_SCHEME.value
USERINFO = Status.FORBIDDEN_USERINFO.value
PORT = Status.FORBIDDEN_PORT.value

CASES = [
    ("http://public.example/a.jpg", "allowed"),
    ("https://both.example", "allowed"),
    ("HTTP://PUBLIC.example./a", "allowed"),
    ("http://public.example:8080/", "allowed"),
    ("http://public.example:/", "allowed"),
    ("http://8.8.8.8/", "allowed"),
    ("http://[2606:4700::1111]/", "allowed"),
    ("http://134744072/", "allowed"),  # 8.8.8.8
    ("http://bücher.example/", "allowed"),
    ("http://public.example/a b\u00e9.jpg", "allowed"),
    # other spellings of 127.0.0.1
    ("http://127.0.0.1/", ADDRESS),
    ("http://127.1/", ADDRESS),
    ("http://127.0.1/", ADDRESS),
    ("http://2130706433/", ADDRESS),
    ("http://0x7f000001/", ADDRESS),
    ("http://0x7f.0.0.1/", ADDRESS),
    ("http://0X7F.1/", ADDRESS),
    ("http://0177.0.0.1/", ADDRESS),
    ("http://017700000001/", ADDRESS),
    ("http://127.0.0.1./", ADDRESS),
    ("http://\uff11\uff12\uff17.0.0.1/", ADDRESS),  # full-width digits
    ("http://127\u30020\u30020\u30021/", ADDRESS),  # ideographic full stops
    ("http://\u2460\u2461\u2466.0.0.1/", ADDRESS),  # circled digits
    ("http://localhost/", ADDRESS),
    ("http://LOCALHOST./", ADDRESS),
    # other special IPv4
    ("http://0/", ADDRESS),
    ("http://0.0.0.0/", ADDRESS),
    ("http://10.0.0.1/", ADDRESS),
    ("http://100.64.0.1/", ADDRESS),
    ("http://100.127.255.254/", ADDRESS),
    ("http://169.254.169.254/latest/meta-data/", ADDRESS),
    ("http://0xa9fea9fe/", ADDRESS),
    ("http://172.31.255.255/", ADDRESS),
    ("http://192.0.0.192/", ADDRESS),
    ("http://192.0.2.1/", ADDRESS),
    ("http://192.88.99.1/", ADDRESS),
    ("http://192.168.1.1/", ADDRESS),
    ("http://198.19.255.255/", ADDRESS),
    ("http://198.51.100.7/", ADDRESS),
    ("http://203.0.113.7/", ADDRESS),
    ("http://168.63.129.16/", ADDRESS),
    ("http://224.0.0.1/", ADDRESS),
    ("http://240.0.0.1/", ADDRESS),
    ("http://255.255.255.255/", ADDRESS),
    # IPv6
    ("http://[::]/", ADDRESS),
    ("http://[::1]/", ADDRESS),
    ("http://[0:0:0:0:0:0:0:1]/", ADDRESS),
    ("http://[::ffff:127.0.0.1]/", ADDRESS),
    ("http://[::ffff:7f00:1]/", ADDRESS),
    ("http://[::ffff:8.8.8.8]/", ADDRESS),
    ("http://[::127.0.0.1]/", ADDRESS),
    ("http://[64:ff9b::7f00:1]/", ADDRESS),
    ("http://[64:ff9b::808:808]/", ADDRESS),
    ("http://[64:ff9b:1::1]/", ADDRESS),
    ("http://[100::1]/", ADDRESS),
    ("http://[2001::1]/", ADDRESS),
    ("http://[2001:2::1]/", ADDRESS),
    ("http://[2001:10::1]/", ADDRESS),
    ("http://[2001:20::1]/", ADDRESS),
    ("http://[2001:db8::1]/", ADDRESS),
    ("http://[2002:7f00:1::]/", ADDRESS),
    ("http://[3fff::1]/", ADDRESS),
    ("http://[5f00::1]/", ADDRESS),
    ("http://[4000::1]/", ADDRESS),
    ("http://[fc00::1]/", ADDRESS),
    ("http://[fd00:ec2::254]/", ADDRESS),
    ("http://[fe80::1]/", ADDRESS),
    ("http://[fe80::1%25eth0]/", ADDRESS),
    ("http://[2606:4700::1111%25eth0]/", ADDRESS),
    ("http://[fec0::1]/", ADDRESS),
    ("http://[ff02::1]/", ADDRESS),
    # names
    ("http://private.example/", ADDRESS),
    ("http://half.example/", ADDRESS),
    ("http://half6.example/", ADDRESS),
    ("http://scoped.example/", ADDRESS),
    # the URL itself
    ("http://user@public.example/", USERINFO),
    ("http://user:secret@public.example/", USERINFO),
    ("http://public.example@127.0.0.1/", USERINFO),
    ("http://public.example\\@127.0.0.1/", USERINFO),
    ("http://@public.example/", USERINFO),
    ("http://public.example:22/", PORT),
    ("http://public.example:0/", PORT),
    ("http://8.8.8.8:6379/", PORT),
    ("http://public.example:65536/", INVALID),
    ("http://public.example:8o/", INVALID),
    ("http://public.example:\u0661/", INVALID),
    ("file:///etc/passwd", SCHEME),
    ("ftp://public.example/a.jpg", SCHEME),
    ("gopher://127.0.0.1:6379/_x", SCHEME),
    ("data:image/png;base64,AAAA", SCHEME),
    ("javascript:alert(1)", SCHEME),
    ("", INVALID),
    ("public.example/a.jpg", INVALID),
    ("//public.example/a.jpg", INVALID),
    ("http:public.example", INVALID),
    ("http:///a.jpg", INVALID),
    ("http://", INVALID),
    ("http://?", INVALID),
    ("http://[::1/", INVALID),
    ("http://[::1]x/", INVALID),
    ("http://[public.example]/", INVALID),
    ("http://1.2.3.256/", INVALID),
    ("http://1.2.3.4.5/", INVALID),
    ("http://public.0x/", INVALID),
    ("http://127.0.0.%31/", INVALID),
    ("http://pub lic.example/", INVALID),
    ("http://public..example/", INVALID),
    ("http://.example/", INVALID),
    ("http://public.example\\.evil/", INVALID),
    ("http://" + "a" * 64 + ".example/", INVALID),
    ("http://" + "a." * 130 + "example/", INVALID),
    ("http://public.example/\r\nHost: evil", INVALID),
    ("http://public.example/\t", "allowed"),  # white space around is no part of it
    ("http://pub\tlic.example/", INVALID),
    ("http://public.example/\x00", INVALID),
    ("http://public.example/\ud800", INVALID),
    ("http://xn--\u00e9.example/", INVALID),
    ("http://public.example/" + "a" * 9000, INVALID),
]


@pytest.mark.parametrize(("url", "expected"), CASES, ids=[repr(url[:40]) for url, _ in CASES])
def test_each_url_is_judged(url: str, expected: str) -> None:
    assert judge(url) == expected


@pytest.mark.parametrize(
    ("url", "sent"),
    [
        ("http://EXAMPLE.com:80", "http://example.com/"),
        ("https://example.com:8443?q=1#top", "https://example.com:8443/?q=1"),
        ("http://example.com/a/../b/./c/..", "http://example.com/b/"),
        ("http://example.com/a/%2e%2E/private", "http://example.com/private"),
        ("http://example.com/../../x", "http://example.com/x"),
        ("http://example.com/a%20b/\u00e9 <x>?y=\u4e2d", "http://example.com/a%20b/%C3%A9%20%3Cx%3E?y=%E4%B8%AD"),
        ("http://example.com/\udce9", "http://example.com/%E9"),
        ("http://0x08080808/x", "http://8.8.8.8/x"),
        ("http://[2606:4700:0::1111]:8080/x", "http://[2606:4700::1111]:8080/x"),
        ("http://bücher.example/", "http://xn--bcher-kva.example/"),
    ],
)
def test_what_goes_on_the_wire(url: str, sent: str) -> None:
    assert check_url(url).url == sent


def test_parts_of_a_target() -> None:
    target = check_url("https://Example.com:8443/a?b")
    assert (target.scheme, target.host, target.port, target.path) == ("https", "example.com", 8443, "/a?b")
    assert target.origin == "https://example.com:8443"
    assert target.site == "example.com:8443"
    assert check_url("https://example.com/").site == check_url("http://example.com/").site == "example.com"


@pytest.mark.parametrize(
    ("location", "leads"),
    [
        ("/b", "http://example.com/b"),
        ("b?c", "http://example.com/d/b?c"),
        ("//other.example/x", "http://other.example/x"),
        ("file:///etc/passwd", "file:///etc/passwd"),
    ],
)
def test_redirects_are_relative_to_the_request(location: str, leads: str) -> None:
    assert redirect_url(check_url("http://example.com/d/a"), location) == leads


def test_unreadable_redirect_is_refused() -> None:
    with pytest.raises(Refused) as refused:
        redirect_url(check_url("http://example.com/"), "http://[broken")
    assert refused.value.status is Status.REDIRECT_ERROR


@pytest.mark.parametrize(
    ("networks", "address", "allowed"),
    [
        (["127.0.0.0/8"], "127.0.0.1", True),
        (["127.0.0.0/8"], "127.9.9.9", True),
        (["127.0.0.0/8"], "10.0.0.1", False),
        (["127.0.0.0/8"], "::ffff:127.0.0.1", False),
        (["127.0.0.0/8"], "64:ff9b::7f00:1", False),
        (["127.0.0.0/8"], "2002:7f00:1::", False),
        (["::ffff:0:0/96"], "::ffff:127.0.0.1", True),
        (["fd00::/8"], "fd00::1", True),
        (["fe80::/10"], "fe80::1%1", False),
    ],
)
def test_allow_networks_open_exactly_what_they_list(networks: list[str], address: str, allowed: bool) -> None:
    assert (refuse_address(address, parse_networks(networks)) is None) == allowed


def test_vouched_networks_may_use_any_port() -> None:
    policy = AddressPolicy(["127.0.0.0/8"], allow_ports=[80])
    assert judge("http://127.0.0.1:5000/", policy) == "allowed"
    assert judge("http://8.8.8.8:5000/", policy) == PORT
    assert judge("http://half.example:5000/", policy) == PORT


@given(st.ip_addresses(v=4) | st.ip_addresses(v=6))
@settings(max_examples=300, deadline=None)
def test_nothing_that_python_calls_special_is_open(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    if refuse_address(str(address)) is None:
        assert address.is_global and not address.is_multicast and not address.is_reserved


@given(st.integers(0, 2**32 - 1), st.sampled_from(["{0}", "0x{0:x}", "0{0:o}", "{1}.{2}", "0x{1:x}.0{3:o}.{4}"]))
@settings(max_examples=200, deadline=None)
def test_old_spellings_become_what_the_resolver_takes_them_for(number: int, spelling: str) -> None:
    first, rest = number >> 24, number & 0xFFFFFF
    host = spelling.format(number, first, rest, rest >> 16, rest & 0xFFFF)
    assert check_url(f"http://{host}/").host == socket.inet_ntoa(number.to_bytes(4, "big"))


@given(st.text(max_size=60))
@settings(max_examples=300, deadline=None)
def test_any_text_is_judged_and_the_result_is_stable(text: str) -> None:
    for url in (text, "http://" + text, "http://public.example/" + text):
        try:
            target = check_url(url)
        except Refused:
            continue
        assert target.url.isascii() and target.url.isprintable() and " " not in target.url
        assert check_url(target.url) == target
