"""Configuration of the download stage."""

from __future__ import annotations

import re
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from curation.web.address import parse_networks
from curation.web.content_networks import content_networks
from pairmill.config import EXECUTION, POLICY, Placement, digest
from pairmill.errors import RecipeError

_PRODUCT = re.compile(r"([A-Za-z0-9_-]+)(?:/|\s|\Z)")
_CONTACT = re.compile(r"https?://|mailto:|[^\s@]+@[^\s@]+")
_VISIBLE = re.compile(r"[\x20-\x7e]+\Z")


class DownloadConfig(Placement):
    """How images are fetched from the web, and what is never requested."""

    enabled: bool = Field(
        True,
        json_schema_extra=EXECUTION,
        description="whether to fetch what is missing; false: only committed shards are processed, and a run without "
        "them is refused",
    )
    engine: Literal["async", "img2dataset"] = Field(
        "async",
        json_schema_extra=EXECUTION,
        description="downloader; `async`: pairmill's own; `img2dataset`: that project's downloader and resizer, for "
        "comparison, which checks addresses before but not while connecting and ignores robots.txt; after a change "
        "existing pictures stay",
    )
    timeout_s: float = Field(
        30.0,
        gt=0,
        json_schema_extra=EXECUTION,
        description="deadline of one URL in seconds, over all attempts, redirects, backoffs and the body; waits for a "
        "slot of a busy host (max_host_wait_s) and for robots.txt (robots_timeout_s) do not count",
    )
    connect_timeout_s: float = Field(
        10.0, gt=0, json_schema_extra=EXECUTION, description="deadline of one connection in seconds, TLS included"
    )
    retries: int = Field(
        2,
        ge=0,
        le=20,
        json_schema_extra=EXECUTION,
        description="further attempts after a failure that may pass; one raised success from 56 to 77 % for users of "
        "img2dataset (its issue 361)",
    )
    backoff_s: float = Field(
        0.5,
        gt=0,
        json_schema_extra=EXECUTION,
        description="seconds before the first further attempt; doubles each time, ±50 % at random",
    )
    max_bytes: int = Field(32 * 2**20, ge=1024, json_schema_extra=POLICY, description="largest image file, bytes")
    min_bytes_per_s: float = Field(
        1000.0,
        ge=0,
        json_schema_extra=EXECUTION,
        description="lowest rate of a body in bytes/s, over every min_rate_window_s",
    )
    min_rate_window_s: float = Field(
        5.0, gt=0, json_schema_extra=EXECUTION, description="seconds over which min_bytes_per_s is measured"
    )
    max_redirects: int = Field(
        5, ge=0, le=20, json_schema_extra=POLICY, description="most redirects followed; each is checked like a new URL"
    )
    max_in_flight: int = Field(256, ge=1, json_schema_extra=EXECUTION, description="requests of one fetcher at a time")
    per_host_concurrency: int = Field(
        16, ge=1, json_schema_extra=EXECUTION, description="requests to one host at a time, over all fetchers"
    )
    per_host_rate: float | None = Field(
        None,
        gt=0,
        json_schema_extra=EXECUTION,
        description="requests per second to one host, over all fetchers; null: unlimited",
    )
    per_address_concurrency: int | None = Field(
        None,
        ge=1,
        json_schema_extra=EXECUTION,
        description="requests to one address at a time, whatever names lead to it, over all fetchers; an IPv6 /64 "
        "counts as one; null: four times per_host_concurrency",
    )
    content_networks: tuple[str, ...] = Field(
        ("cloudflare", "fastly"),
        json_schema_extra=EXECUTION,
        description="networks without a limit by address, because many sites share theirs: CIDRs, and names in "
        "`curation/web/content_networks.py`",
    )
    max_host_wait_s: float = Field(
        120.0,
        gt=0,
        json_schema_extra=EXECUTION,
        description="seconds that a URL waits for a slot of its host, or its address; after that its status is "
        "host_busy; time in which a fetcher that holds slots is silent, perhaps killed, does not count",
    )
    max_crawl_delay_s: float = Field(
        30.0,
        ge=0,
        le=3600,
        json_schema_extra=EXECUTION,
        description="longest Crawl-delay of robots.txt, in seconds, that is kept between two requests to a host, over "
        "all fetchers; a longer one counts as this; rows that would wait longer than max_host_wait_s are host_busy; "
        "0, or respect_robots: false: none is kept",
    )
    circuit_failures: int = Field(
        20,
        ge=1,
        json_schema_extra=EXECUTION,
        description="consecutive failures to connect after which a host is left alone",
    )
    circuit_open_s: float = Field(
        60.0, gt=0, json_schema_extra=EXECUTION, description="seconds for which such a host is left alone"
    )
    alarm_error_rate: float = Field(
        0.5,
        gt=0,
        le=1,
        json_schema_extra=EXECUTION,
        description="share (0-1) of recent fetches lost to the network above which the run warns",
    )
    user_agent: str = Field(
        f"pairmill/{version('pairmill')} (+https://github.com/pairmill/pairmill)",
        json_schema_extra=EXECUTION,
        description="User-Agent of every request; must begin with a product token, by which robots.txt addresses us, "
        "and should name a contact",
    )
    respect_robots: bool = Field(
        True,
        json_schema_extra=POLICY,
        description="whether to obey robots.txt (RFC 9309); it is read and recorded either way, to be obeyed later",
    )
    robots_timeout_s: float = Field(
        10.0, gt=0, json_schema_extra=EXECUTION, description="deadline of one robots.txt or tdmrep.json in seconds"
    )
    respect_opt_out: bool = Field(
        True,
        json_schema_extra=POLICY,
        description="whether to obey X-Robots-Tag (noai, noimageai, noml, noindex, noimageindex, none) and TDMRep; "
        "they are read and recorded either way, to be obeyed later",
    )
    allow_networks: tuple[str, ...] = Field(
        (),
        json_schema_extra=POLICY,
        description="networks (CIDR) that may be contacted although they are not public, on any port",
    )
    allow_ports: tuple[int, ...] = Field(
        (80, 443, 8080, 8443), json_schema_extra=POLICY, description="ports that may be contacted"
    )
    hash_blocklist: str | None = Field(
        None,
        json_schema_extra=POLICY,
        description="file of SHA-256 digests in hex, one per line; of such an image only id and digest are kept, and "
        "later additions erase existing pictures; null: none",
    )

    def policy(self) -> dict[str, Any]:
        """What may be fetched and kept, with the block list replaced by the digest of its content.

        Raises RecipeError if it cannot be read.
        """
        listed = sorted(read_blocklist(self.hash_blocklist))
        return super().policy() | {
            "allow_networks": sorted(self.allow_networks),
            "allow_ports": sorted(self.allow_ports),
            "hash_blocklist": digest(listed) if listed else None,
        }

    @field_validator("user_agent")
    @classmethod
    def _truthful_user_agent(cls, value: str) -> str:
        if not _VISIBLE.match(value):
            raise ValueError("user_agent must be one line of printable ASCII")
        product = _PRODUCT.match(value)
        if product is None or product[1].lower() == "mozilla":
            raise ValueError("user_agent must begin with the crawler's own product token, such as mybot/1.0")
        return value

    @field_validator("allow_networks")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        parse_networks(value)
        return value

    @field_validator("content_networks")
    @classmethod
    def _content_networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        content_networks(value)
        return value

    @field_validator("allow_ports")
    @classmethod
    def _ports(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not all(0 < port < 65536 for port in value):
            raise ValueError("allow_ports must hold numbers from 1 to 65535")
        return value

    @property
    def names_contact(self) -> bool:
        """Whether a site's owner can reach somebody through the user agent."""
        return _CONTACT.search(self.user_agent) is not None

    @property
    def product_token(self) -> str:
        """The name by which robots.txt and X-Robots-Tag address us."""
        return re.split(r"[/\s]", self.user_agent, maxsplit=1)[0]


def read_blocklist(path: str | None) -> frozenset[str]:
    """The SHA-256 digests (hex, one per line, `#` comments) of images that must never be stored.

    Raises RecipeError if the file cannot be read or a line is not a digest.
    """
    if path is None:
        return frozenset()
    try:
        lines = Path(path).read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(
            "download.hash_blocklist must name a readable file", value=error, fix="check the path"
        ) from error
    digests = {word for line in lines if (word := line.partition("#")[0].strip().lower())}
    for found in digests:
        if len(found) != 64 or not all(c in "0123456789abcdef" for c in found):
            raise RecipeError(
                "download.hash_blocklist must have one SHA-256 digest (64 hex digits) on a line",
                value=found,
                fix="correct or remove the line",
            )
    return frozenset(digests)
