"""The identity of a row: the canonical form of its URL, and the 128-bit uid made from it and the alt text."""

from __future__ import annotations

import hashlib
from urllib.parse import urlsplit, urlunsplit

_DEFAULT_PORTS = {"http": 80, "https": 443}


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


def url_host(url: str) -> str:
    """The host of a URL in the form of `plain_host`, without port and user; '' if it has none."""
    try:
        return plain_host(urlsplit(url.strip()).hostname or "")
    except ValueError:
        return ""


def plain_host(host: str) -> str:
    """A host's name in comparable form: lower case, ASCII (RFC 3490), without the dot of the root."""
    lower = host.strip("[]").lower().rstrip(".")
    try:
        return lower if lower.isascii() else lower.encode("idna").decode("ascii")
    except UnicodeError:
        return lower


def row_uid(url: str, alt: str) -> str:
    """32 hex digits: BLAKE2b-128 of the canonical URL, a zero byte, and the raw alt text."""
    content = canonical_url(url).encode("utf-8", "surrogatepass") + b"\0" + alt.encode("utf-8", "surrogatepass")
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def shuffle_key(uid: str, seed: int) -> int:
    """An unsigned 64-bit sort key: sorting rows by it is a shuffle that depends only on `seed` and the uids."""
    return int.from_bytes(hashlib.blake2b(f"{seed}:{uid}".encode(), digest_size=8).digest(), "big")
