"""Networks whose addresses each stand for a great many sites: a limit by address would be one for all of them.

Their operators publish these lists (https://www.cloudflare.com/ips, https://api.fastly.com/public-ip-list); here as of
November 2026.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from functools import lru_cache

from curation.web.address import Network, parse_networks

CONTENT_NETWORKS: dict[str, tuple[str, ...]] = {
    "cloudflare": (
        *("103.21.244.0/22", "103.22.200.0/22", "103.31.4.0/22", "104.16.0.0/13", "104.24.0.0/14", "108.162.192.0/18"),
        *("131.0.72.0/22", "141.101.64.0/18", "162.158.0.0/15", "172.64.0.0/13", "173.245.48.0/20", "188.114.96.0/20"),
        *("190.93.240.0/20", "197.234.240.0/22", "198.41.128.0/17", "2400:cb00::/32", "2405:8100::/32"),
        *("2405:b500::/32", "2606:4700::/32", "2803:f800::/32", "2a06:98c0::/29", "2c0f:f248::/32"),
    ),
    "fastly": (
        *("23.235.32.0/20", "43.249.72.0/22", "103.244.50.0/24", "103.245.222.0/23", "103.245.224.0/24"),
        *("104.156.80.0/20", "140.248.64.0/18", "140.248.128.0/17", "146.75.0.0/17", "151.101.0.0/16"),
        *("157.52.64.0/18", "167.82.0.0/17", "167.82.128.0/20", "167.82.160.0/20", "167.82.224.0/20"),
        *("172.111.64.0/18", "185.31.16.0/22", "199.27.72.0/21", "199.232.0.0/16", "2a04:4e40::/32", "2a04:4e42::/32"),
    ),
}


def content_networks(names: Iterable[str]) -> tuple[Network, ...]:
    """The networks of these names and CIDRs; raises ValueError that names the first that is neither."""
    return parse_networks(cidr for name in names for cidr in CONTENT_NETWORKS.get(name, (name,)))


def shared_load(addresses: Sequence[str], exempt: tuple[Network, ...]) -> str:
    """What all sites at the first of some addresses load together: it, or its /64; "" in an exempt network.

    addresses: of one name, in the order in which they are connected to.  An IPv6 host usually has a /64 of its own.
    """
    return _load(addresses[0], exempt) if addresses else ""


@lru_cache(maxsize=8192)
def _load(address: str, exempt: tuple[Network, ...]) -> str:
    parsed = ipaddress.ip_address(address)
    parsed = getattr(parsed, "ipv4_mapped", None) or parsed
    if any(parsed in network for network in exempt):
        return ""
    return str(parsed) if parsed.version == 4 else str(ipaddress.ip_network((int(parsed) >> 64 << 64, 64)))
