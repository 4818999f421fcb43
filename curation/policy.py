"""Policy: what may be fetched and kept, applied to what is known of every row, without any request.

The fetcher obeys the policy at the time and records its evidence: where a URL led, what the owner wants, how large the
bytes were.  This stage applies today's policy to that, so a stricter one drops rows without a fetch, and reverting it
brings them back.  Pictures that must not be kept are erased from images/ (`curation.erase`).  What a more permissive
policy would allow is only counted here, and fetched by `pairmill retry-failed`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from curation.download import has_picture
from curation.images.config import ImageConfig
from curation.schema import RETRYABLE, Status, set_columns
from curation.stage import Column, Stage
from curation.web.address import AddressPolicy
from curation.web.config import DownloadConfig, read_blocklist
from pairmill.errors import RecipeError

#: The rules that a route is evidence for.
_ROUTE_RULES = ("max_redirects", "allow_ports", "allow_networks")


class Policy(Stage):
    """Drop what today's policy (`download.*`, `image.max_*`) forbids and an earlier one allowed."""

    name, segment, section = "policy", "collect", "download"
    looks_at = ("inspect",)
    reads = (
        *("status", "sha256", "original_bytes", "original_width", "original_height", "width", "height", "frames"),
        *("opt_out", "robots", "route"),
    )
    #: What `retriable` reads in addition.
    reads_for_retry = ("needs", "agent", "image_settings")
    adds = (Column("no_evidence", pa.string(), "keys of download.* for which the row has no evidence"),)
    drops = tuple(
        status.value
        for status in (
            *(Status.HASH_BLOCKED, Status.FORBIDDEN_ADDRESS, Status.FORBIDDEN_PORT, Status.REDIRECT_ERROR),
            *(Status.TOO_LARGE, Status.TOO_MANY_PIXELS, Status.TOO_MANY_FRAMES),
            *(Status.ROBOTS_DISALLOWED, Status.ROBOTS_UNAVAILABLE, Status.OPT_OUT),
        )
    )
    Config = DownloadConfig

    config: DownloadConfig

    @property
    def _image(self) -> ImageConfig:
        image: ImageConfig = self.others["inspect"].config
        return image

    @cached_property
    def _addresses(self) -> AddressPolicy:
        return AddressPolicy(self.config.allow_networks, self.config.allow_ports)

    @cached_property
    def blocked(self) -> frozenset[str]:
        """The digests of the block list.  Raises RecipeError if it cannot be read."""
        return read_blocklist(self.config.hash_blocklist)

    @cached_property
    def _blocked(self) -> pa.Array:
        return pa.array(sorted(self.blocked), pa.string())

    def identity(self) -> object:
        """Only the policy, not how pictures are fetched and stored."""
        return [self.config.policy(), self._image.policy()]

    def __call__(self, rows: pa.Table) -> pa.Table:
        rows = set_columns(rows, {"no_evidence": self._unknown(rows)})
        return self.drop(rows, **self._forbidden(rows))

    def must_go(self, rows: pa.Table) -> pa.ChunkedArray:
        """Mask of the rows whose pictures must not be kept."""
        return pc.and_(has_picture(rows), pc.is_in(rows["sha256"], self._blocked))

    def _forbidden(self, rows: pa.Table) -> dict[str, pa.ChunkedArray]:
        refused = self._judged(rows["route"])
        size = pc.max_element_wise(_pixels(rows, "original_width", "original_height"), _pixels(rows, "width", "height"))
        redirects = pc.count_substring(rows["route"], " ")
        masks = {
            Status.HASH_BLOCKED: self.must_go(rows),
            Status.FORBIDDEN_ADDRESS: pc.equal(refused, Status.FORBIDDEN_ADDRESS.value),
            Status.FORBIDDEN_PORT: pc.equal(refused, Status.FORBIDDEN_PORT.value),
            Status.REDIRECT_ERROR: pc.greater(redirects, self.config.max_redirects),
            Status.TOO_LARGE: pc.greater(rows["original_bytes"], self.config.max_bytes),
            Status.TOO_MANY_PIXELS: pc.greater(size, self._image.max_pixels),
            Status.TOO_MANY_FRAMES: pc.greater(rows["frames"], self._image.max_frames),
        }
        if self.config.respect_robots:
            masks[Status.ROBOTS_DISALLOWED] = pc.equal(rows["robots"], "disallowed")
            masks[Status.ROBOTS_UNAVAILABLE] = pc.equal(rows["robots"], "unavailable")
        if self.config.respect_opt_out:
            masks[Status.OPT_OUT] = pc.greater(pc.utf8_length(rows["opt_out"]), 0)
        return {status.value: pc.and_(has_picture(rows), mask) for status, mask in masks.items()}

    def _unknown(self, rows: pa.Table) -> pa.ChunkedArray:
        """The keys without evidence for a row with a picture, separated by commas; null if there is evidence."""
        rules: list[tuple[str, str]] = [("route", ", ".join(_ROUTE_RULES))]
        rules += [("robots", "respect_robots")] if self.config.respect_robots else []
        rules += [("opt_out", "respect_opt_out")] if self.config.respect_opt_out else []
        missing = [[keys if gone else None for gone in pc.is_null(rows[column]).to_pylist()] for column, keys in rules]
        joined = [", ".join(filter(None, keys)) or None for keys in zip(*missing, strict=True)]
        return pc.if_else(has_picture(rows), pa.array(joined, pa.string()), pa.scalar(None, pa.string()))

    def _judged(self, routes: pa.ChunkedArray) -> pa.ChunkedArray:
        """Why each route is forbidden today; null if it is allowed or unknown."""
        return _mapped(routes, {route: self._judge(route) for route in pc.unique(routes).drop_null().to_pylist()})

    def _judge(self, route: str) -> str | None:
        verdicts = map(self._addresses.judge, route.split())
        return next((verdict.value for verdict in verdicts if verdict is not None), None)

    # What a retry would fetch

    def retriable(self, rows: pa.Table) -> dict[str, pa.ChunkedArray]:
        """Masks of the rows that `retry-failed` fetches, by reason: a row is in at most one of them.

        passing: a failure that may have passed.  allowed: refused by a policy that no longer applies.
        earlier: the picture was made with other image.* and could not be made again.
        """
        passing = pc.is_in(rows["status"], pa.array([status.value for status in RETRYABLE]))
        if self.config.respect_robots:
            passing = pc.or_(passing, pc.and_(has_picture(rows), _true(pc.equal(rows["robots"], "unavailable"))))
        other = pc.not_equal(pc.fill_null(rows["image_settings"], ""), self._image.settings)
        earlier = pc.and_(pc.and_(has_picture(rows), other), pc.invert(passing))
        return {"passing": _true(passing), "allowed": self._allowed(rows), "earlier": _true(earlier)}

    def may_have_retriable(self, manifest: Mapping[str, Any]) -> bool:
        """Whether a shard of images/ may hold such a row, according to its manifest."""
        facts = manifest["facts"]["download"]
        failed = {reason for stage in ("download", "inspect") for reason in manifest["stages"][stage]}
        curable = {status.value for status in (*RETRYABLE, *self._refusals)}
        return bool(failed & curable or facts["robots_unavailable"] or set(facts["pictures"]) - {self._image.settings})

    @property
    def _refusals(self) -> dict[Status, int | None]:
        """The statuses that a policy gives, with the limit of those that depend on one."""
        return {
            Status.TOO_LARGE: self.config.max_bytes,
            Status.REDIRECT_ERROR: self.config.max_redirects,
            Status.TOO_MANY_PIXELS: self._image.max_pixels,
            Status.TOO_MANY_FRAMES: self._image.max_frames,
            **dict.fromkeys((Status.FORBIDDEN_ADDRESS, Status.FORBIDDEN_PORT, Status.HASH_BLOCKED)),
            **dict.fromkeys((Status.ROBOTS_DISALLOWED, Status.OPT_OUT)),
        }

    def _allowed(self, rows: pa.Table) -> pa.ChunkedArray:
        """Rows that the fetcher refused and would not refuse today."""
        other_agent = pc.not_equal(rows["agent"], self.config.product_token)
        named = pc.starts_with(rows["opt_out"], "X-Robots-Tag: ")
        # "X-Robots-Tag: ourbot: noai" addresses that agent only.
        addressed = pc.and_(named, pc.match_like(rows["opt_out"], "X-Robots-Tag: %: %"))
        addressed = pc.and_(addressed, pc.invert(pc.starts_with(rows["opt_out"], "X-Robots-Tag: *:")))
        led = pc.and_(pc.is_valid(rows["route"]), pc.is_null(self._judged(rows["route"])))
        fits: dict[Status, Any] = {
            status: pc.less_equal(rows["needs"], limit) for status, limit in self._refusals.items() if limit is not None
        }
        fits |= dict.fromkeys((Status.FORBIDDEN_ADDRESS, Status.FORBIDDEN_PORT), led)
        fits[Status.HASH_BLOCKED] = self._unblocked(rows)
        fits[Status.ROBOTS_DISALLOWED] = other_agent if self.config.respect_robots else pc.is_valid(rows["status"])
        fits[Status.OPT_OUT] = (
            pc.and_(addressed, other_agent) if self.config.respect_opt_out else pc.is_valid(rows["status"])
        )
        masks = [pc.and_(pc.equal(rows["status"], status.value), fit) for status, fit in fits.items()]
        return _any(masks)

    def _unblocked(self, rows: pa.Table) -> pa.ChunkedArray:
        try:
            return pc.invert(pc.is_in(rows["sha256"], self._blocked))
        except RecipeError:  # a report may be built where the block list is missing
            return pc.is_null(rows["uid"])


def _pixels(rows: pa.Table, width: str, height: str) -> pa.ChunkedArray:
    return pc.multiply(rows[width].cast(pa.int64()), rows[height].cast(pa.int64()))


def _mapped(column: pa.ChunkedArray, to: Mapping[str, str | None]) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array([to.get(value) for value in column.to_pylist()], pa.string())])


def _true(mask: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.fill_null(mask, False)


def _any(masks: Iterable[pa.ChunkedArray]) -> pa.ChunkedArray:
    found: pa.ChunkedArray | None = None
    for mask in masks:
        found = _true(mask) if found is None else pc.or_(found, _true(mask))
    return found
