"""The identity of a row: the canonical form of its URL, and the 128-bit uid made from it and the alt text.

A uid is for ever, so `canonical_url` never changes.  It joins fewer spellings than a server does: `requested_url` is
for questions that must not miss one.
"""

from __future__ import annotations

import hashlib
import re
from urllib.parse import urlsplit, urlunsplit

from curation.web.address import Refused, canonical_host, check_url

_DEFAULT_PORTS = {"http": 80, "https": 443}
_STRAY_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_ESCAPE = re.compile(r"%[0-9A-Fa-f]{2}")
_UNRESERVED = re.compile(r"[A-Za-z0-9._~-]")


def canonical_url(url: str) -> str:
    """`url` without the differences that no server sees (RFC 3986, 6.2.2 and 6.2.3).

    Scheme and host in lower case, no default port, no fragment, `/` for an empty path, no white space around it.
    A text that is no URL is only stripped: the download stage reports what is wrong with it.
    """
    stripped = url.strip()
    try:
        # White space before a fragment or an empty query is around the URL too.
        parts = urlsplit(stripped.partition("#")[0].rstrip())
        port = parts.port
    except ValueError:
        return stripped
    scheme = parts.scheme.lower()
    if scheme not in _DEFAULT_PORTS or not parts.hostname:
        return stripped
    userinfo, _, host_port = parts.netloc.rpartition("@")
    host = host_port.lower()
    if port is None or port == _DEFAULT_PORTS[scheme]:
        bracket = host.rfind("]")
        colon = host.rfind(":")
        host = host[:colon] if colon > bracket else host
    netloc = f"{userinfo}@{host}" if userinfo else host
    return urlunsplit((scheme, netloc, parts.path or "/", parts.query, "")).rstrip()


def requested_url(url: str) -> str:
    """The request that the fetcher makes of `url`, in the one spelling of all URLs that ask a server for the same.

    That is what `check_url` makes of it, and percent-encoding in one form (RFC 3986, 6.2.2): no unreserved character is
    encoded, hex digits are upper case, a `%` that encodes nothing is `%25`, and an empty query is none.
    A text that is never fetched keeps its canonical form.
    """
    canonical = canonical_url(url)
    for spelling in (url, canonical):
        try:
            sent = check_url(spelling).url
        except Refused:
            continue
        if "%" in sent:
            sent = _ESCAPE.sub(_one_escape, _STRAY_PERCENT.sub("%25", sent))
        return sent.removesuffix("?") if sent.find("?") == len(sent) - 1 else sent
    return canonical


def requested_urls(url: str) -> tuple[str, ...]:
    """`requested_url` of `url`, and that of its canonical form if it differs: both have the same uids."""
    # Most URLs are canonical, and this is asked of every row of a list.
    return tuple(map(requested_url, dict.fromkeys((url, canonical_url(url)))))


def _one_escape(found: re.Match[str]) -> str:
    character = chr(int(found[0][1:], 16))
    return character if _UNRESERVED.fullmatch(character) else found[0].upper()


def url_host(url: str) -> str:
    """The host of a URL in the form of `plain_host`, without port and user; '' if it has none."""
    for spelling in (url, canonical_url(url)):
        try:
            return check_url(spelling).host
        except Refused:
            continue
    try:
        return plain_host(urlsplit(url.strip()).hostname or "")
    except ValueError:
        return ""


def plain_host(host: str) -> str:
    """A host's name in the form that the fetcher looks up: lower case, ASCII (UTS 46), without the dot of the root.

    IPv6 has no brackets.  A text that is no name of a host is only put in lower case.
    """
    bare = host.strip("[]")
    try:
        return canonical_host(f"[{bare}]" if ":" in bare else bare)
    except Refused:
        return bare.lower().rstrip(".")


def row_uid(url: str, alt: str) -> str:
    """32 hex digits: BLAKE2b-128 of the canonical URL, a zero byte, and the raw alt text."""
    content = canonical_url(url).encode("utf-8", "surrogatepass") + b"\0" + alt.encode("utf-8", "surrogatepass")
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def shuffle_key(uid: str, seed: int) -> int:
    """An unsigned 64-bit sort key: sorting rows by it is a shuffle that depends only on `seed` and the uids."""
    return int.from_bytes(hashlib.blake2b(f"{seed}:{uid}".encode(), digest_size=8).digest(), "big")
