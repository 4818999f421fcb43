"""Which URLs and network addresses may be contacted: the rules that keep a fetch inside the public web.

`check_url` judges the text of a URL, `AddressPolicy` the addresses its host resolves to.  Both refuse by raising
`Refused`, which carries the row's status.  The tables follow the IANA special-purpose address registries (RFC 6890 and
its updates); for IPv6 only 2000::/3, the one block assigned to global unicast, is open at all.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import NamedTuple
from urllib.parse import quote, urljoin

import idna

from curation.schema import Status

Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address

#: Longest URL requested.  RFC 9110, 4.1 recommends support for at least 8000 octets; no image needs more.
MAX_URL_CHARS = 8192

_DEFAULT_PORTS = {"http": 80, "https": 443}
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*\Z")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_LABEL = re.compile(r"[a-z0-9_-]{1,63}\Z")
_NUMBER = re.compile(r"(?:[0-9]+|0x[0-9a-f]*)\Z")
_PLAIN_PATH = re.compile(r"[A-Za-z0-9!$%&'()*+,/:;=?@_~.\[\]-]*\Z")
_QUOTE_SAFE = "!$%&'()*+,/:;=?@_~.[]-"

#: Refused although they look like globally routable IPv4, or are.
_REFUSED_V4: tuple[tuple[IPv4Network, str], ...] = tuple(
    (IPv4Network(cidr), reason)
    for cidr, reason in (
        ("0.0.0.0/8", "this network"),
        ("10.0.0.0/8", "private"),
        ("100.64.0.0/10", "carrier-grade NAT"),
        ("127.0.0.0/8", "loopback"),
        ("169.254.169.254/32", "cloud metadata"),
        ("169.254.0.0/16", "link-local"),
        ("172.16.0.0/12", "private"),
        ("192.0.0.0/24", "IETF protocol assignments"),
        ("192.0.2.0/24", "documentation"),
        ("192.88.99.0/24", "6to4 relay"),
        ("192.168.0.0/16", "private"),
        ("198.18.0.0/15", "benchmarking"),
        ("198.51.100.0/24", "documentation"),
        ("203.0.113.0/24", "documentation"),
        # A public address that answers only inside Azure, where it is the platform's own control service.
        ("168.63.129.16/32", "cloud metadata"),
        ("224.0.0.0/4", "multicast"),
        ("255.255.255.255/32", "broadcast"),
        ("240.0.0.0/4", "reserved"),
    )
)

#: Refused inside 2000::/3.
_REFUSED_V6: tuple[tuple[IPv6Network, str], ...] = tuple(
    (IPv6Network(cidr), reason)
    for cidr, reason in (
        ("2001::/32", "Teredo"),
        ("2001:2::/48", "benchmarking"),
        ("2001:10::/28", "ORCHID"),
        ("2001:20::/28", "ORCHID"),
        ("2001::/23", "IETF protocol assignments"),
        ("2001:db8::/32", "documentation"),
        ("2002::/16", "6to4"),
        ("3fff::/20", "documentation"),
    )
)

#: Blocks outside 2000::/3, for the wording of a refusal; anything else there is "not global unicast".
_NAMED_V6: tuple[tuple[IPv6Network, str], ...] = tuple(
    (IPv6Network(cidr), reason)
    for cidr, reason in (
        ("::/128", "unspecified"),
        ("::1/128", "loopback"),
        ("::ffff:0:0/96", "IPv4-mapped"),
        ("::/96", "IPv4-compatible"),
        ("64:ff9b::/96", "NAT64"),
        ("64:ff9b:1::/48", "NAT64"),
        ("100::/64", "discard-only"),
        ("5f00::/16", "SRv6"),
        ("fc00::/7", "unique local"),
        ("fe80::/10", "link-local"),
        ("fec0::/10", "site-local"),
        ("ff00::/8", "multicast"),
    )
)
_GLOBAL_V6 = IPv6Network("2000::/3")


class Refused(Exception):
    """A URL, or where it leads, is against the rules: it was not contacted."""

    def __init__(self, status: Status, reason: str, hop: str = "") -> None:
        super().__init__(status, reason)
        self.status = status
        self.reason = reason
        self.hop = hop  #: what was refused, as `AddressPolicy.hop` writes it; "" for the text of a URL


class Target(NamedTuple):
    """A URL that passed `check_url`, in the form in which it is sent."""

    url: str  #: scheme, host, port and percent-encoded path and query; no fragment
    scheme: str  #: http or https
    host: str  #: lower-case ASCII name without final dot, dotted IPv4, or IPv6 without brackets
    port: int
    path: str  #: begins with "/"; includes the query

    @property
    def origin(self) -> str:
        """Scheme, host and port as in the URL: the scope of one robots.txt."""
        return self.url[: len(self.url) - len(self.path)]

    @property
    def site(self) -> str:
        """The unit of load: the host, and its port unless that is 80 or 443."""
        return self.host if self.port in (80, 443) else f"{self.host}:{self.port}"


def check_url(url: str) -> Target:
    """The request that `url` stands for; raises `Refused` if it is not a plain http(s) URL of some host.

    A host in one of IPv4's old spellings (0x7f000001, 2130706433, 127.1, full-width digits) becomes the dotted address
    that `getaddrinfo` would take it for, so that what is checked is what is connected to.
    """
    url = url.strip(" \t\r\n\f")
    if not url or len(url) > MAX_URL_CHARS:
        raise Refused(Status.INVALID_URL, f"URL of {len(url)} characters; 1 to {MAX_URL_CHARS} are allowed")
    if _CONTROL.search(url):
        raise Refused(Status.INVALID_URL, "control character in the URL")
    scheme, colon, rest = url.partition(":")
    if not colon or not _SCHEME.match(scheme):
        raise Refused(Status.INVALID_URL, "no scheme")
    scheme = scheme.lower()
    if scheme not in _DEFAULT_PORTS:
        raise Refused(Status.FORBIDDEN_SCHEME, f"scheme {scheme}; only http and https are fetched")
    if not rest.startswith("//"):
        raise Refused(Status.INVALID_URL, "no host")
    authority, path = _split_authority(rest[2:])
    if "@" in authority:
        raise Refused(Status.FORBIDDEN_USERINFO, "user name or password in the URL")
    host, port = _split_port(authority, _DEFAULT_PORTS[scheme])
    host = canonical_host(host)
    shown = f"[{host}]" if ":" in host else host
    if port != _DEFAULT_PORTS[scheme]:
        shown = f"{shown}:{port}"
    path = _canonical_path(path)
    return Target(f"{scheme}://{shown}{path}", scheme, host, port, path)


def redirect_url(base: Target, location: str) -> str:
    """Where a Location header leads, not yet checked; raises `Refused` if it cannot be read."""
    try:
        return urljoin(base.url, location.strip(" \t"))
    except ValueError:
        raise Refused(Status.REDIRECT_ERROR, "unreadable Location") from None


def _split_authority(rest: str) -> tuple[str, str]:
    end = min((at for at in map(rest.find, "/?#") if at >= 0), default=len(rest))
    path = rest[end:].partition("#")[0]
    return rest[:end], path if path.startswith("/") else "/" + path


def _split_port(authority: str, default: int) -> tuple[str, int]:
    if authority.startswith("["):
        host, bracket, after = authority.partition("]")
        if not bracket or (after and not after.startswith(":")):
            raise Refused(Status.INVALID_URL, f"host {authority!r}")
        host, digits = host + bracket, after[1:]
    else:
        host, _, digits = authority.partition(":")
    if not digits:
        return host, default
    if not (digits.isascii() and digits.isdigit()) or int(digits[:9]) > 65535:
        raise Refused(Status.INVALID_URL, f"port {digits[:9]!r}")
    return host, int(digits)


def canonical_host(host: str) -> str:
    """A host's name in the one form that is looked up; IPv6 is given in brackets.  Raises `Refused` if it is none."""
    if host.startswith("["):
        try:
            return str(IPv6Address(host[1:-1]))
        except ValueError:
            raise Refused(Status.INVALID_URL, f"IPv6 address {host!r}") from None
    name = host.lower()
    if not name.isascii():
        name = _to_ascii(name)
    name = name.removesuffix(".")
    labels = name.split(".")
    if len(name) > 253 or not all(map(_LABEL.match, labels)):
        raise Refused(Status.INVALID_URL, f"host {host[:80]!r}")
    if not _NUMBER.match(labels[-1]):
        return name
    try:
        return socket.inet_ntoa(socket.inet_aton(name))
    except OSError:
        raise Refused(Status.INVALID_URL, f"IPv4 address {host!r}") from None


def _to_ascii(name: str) -> str:
    """IDNA 2008 with the compatibility mapping of UTS 46, which also folds full-width digits and ideographic dots."""
    try:
        mapped = idna.uts46_remap(name, std3_rules=False)
        return mapped if mapped.isascii() else idna.encode(mapped).decode("ascii")
    except (idna.IDNAError, UnicodeError):
        raise Refused(Status.INVALID_URL, "host is not a valid international name") from None


def _canonical_path(path: str) -> str:
    """The path with dot segments resolved (they must not evade robots.txt), encoded by RFC 3986."""
    bare, mark, query = path.partition("?")
    if "/." in bare or "%2e" in bare or "%2E" in bare:
        bare = _without_dot_segments(bare)
    path = f"{bare}{mark}{query}"
    if _PLAIN_PATH.match(path):
        return path
    try:
        # Raw bytes of a Location header arrive as surrogate escapes and are sent unchanged.
        return quote(path, safe=_QUOTE_SAFE, errors="surrogateescape")
    except UnicodeEncodeError:
        raise Refused(Status.INVALID_URL, "lone surrogate in the URL") from None


def _without_dot_segments(path: str) -> str:
    kept: list[str] = []
    segments = path.split("/")[1:]
    for at, segment in enumerate(segments):
        dots = segment.replace("%2e", ".").replace("%2E", ".")
        if dots == "..":
            del kept[-1:]
        elif dots != ".":
            kept.append(segment)
            continue
        if at == len(segments) - 1:
            kept.append("")
    return "/" + "/".join(kept)


def parse_networks(cidrs: Iterable[str]) -> tuple[Network, ...]:
    """The networks written as CIDR; raises ValueError that names the first invalid one."""
    return tuple(ipaddress.ip_network(cidr) for cidr in cidrs)


@lru_cache(maxsize=8192)
def refuse_address(ip: str, allow_networks: tuple[Network, ...] = ()) -> str | None:
    """Why `ip` must not be connected to, or None if it may.

    ip: numeric IPv4 or IPv6, with or without a scope.  An IPv6 address that carries an IPv4 address (mapped, NAT64,
    6to4, Teredo) is judged as IPv6 only: listing 127.0.0.0/8 does not open ::ffff:127.0.0.1.
    """
    try:
        address = ipaddress.ip_address(ip)
    except ValueError:
        return f"{ip!r} is not an address"
    if isinstance(address, IPv6Address) and address.scope_id is not None:
        return f"{ip} is scoped to one link"
    if any(address in network for network in allow_networks):
        return None
    reason = _special(address)
    return None if reason is None else f"{ip} is {reason}"


def _special(address: Address) -> str | None:
    if isinstance(address, IPv4Address):
        return next((reason for network, reason in _REFUSED_V4 if address in network), None)
    if address in _GLOBAL_V6:
        return next((reason for network, reason in _REFUSED_V6 if address in network), None)
    return next((reason for network, reason in _NAMED_V6 if address in network), "not global unicast")


class AddressPolicy:
    """Which addresses and ports may be connected to.

    An address inside `allow_networks` may be contacted on any port: the operator vouched for the network.
    """

    def __init__(self, allow_networks: Iterable[str] = (), allow_ports: Iterable[int] = (80, 443)) -> None:
        self._networks = parse_networks(allow_networks)
        self._ports = frozenset(allow_ports)

    def check(self, host: str, port: int, addresses: Sequence[str]) -> None:
        """Raise `Refused` unless every address of `host` may be contacted on `port`."""
        for address in addresses:
            reason = refuse_address(address, self._networks)
            if reason is not None:
                leads = "" if address == host else f"{host} leads to an address that is refused: "
                raise Refused(Status.FORBIDDEN_ADDRESS, leads + reason, _hop(port, addresses))
        if port not in self._ports and not (addresses and all(map(self._vouched, addresses))):
            message = f"port {port} is not in download.allow_ports"
            raise Refused(Status.FORBIDDEN_PORT, message, _hop(port, addresses))

    def hop(self, port: int, addresses: Sequence[str]) -> str:
        """The record of a contacted host: `443`, or `8000@10.0.0.1,::1` if an address is in `allow_networks`.

        A public name's addresses change from hour to hour and do not affect what is allowed, so they are left out.
        """
        return _hop(port, addresses if any(map(self._vouched, addresses)) else ())

    def judge(self, hop: str) -> Status | None:
        """Why the host that `hop` records must not be contacted; None if it may be."""
        port, _, addresses = hop.partition("@")
        try:
            self.check("", int(port), addresses.split(",") if addresses else ())
        except Refused as refused:
            return refused.status
        return None

    def _vouched(self, address: str) -> bool:
        parsed = ipaddress.ip_address(address)
        return any(parsed in network for network in self._networks)


def _hop(port: int, addresses: Sequence[str]) -> str:
    return f"{port}@{','.join(sorted(addresses))}" if addresses else str(port)
