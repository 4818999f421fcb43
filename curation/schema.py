"""The vocabulary of a row: what became of its image, and how it is dropped.

A row never leaves its table.  A stage fills columns and may set `drop_stage` and `drop_reason`, once; later stages skip
dropped rows.  Every stage declares its reasons (`curation.stage`); any other raises IntegrityError.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from enum import Enum
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pairmill.errors import IntegrityError

#: The two columns that show whether, where and why a row was dropped.
DROPS = ("drop_stage", "drop_reason")

#: Names of stages, columns and reasons: they become folders, columns of parquet files and labels of metrics.
NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
NAME_RULE = "lower-case letters, digits and _, beginning with a letter"

#: What `count_drops` counts beside the reasons, so no reason can have these names.
COUNTS = ("rows_in", "rows_kept")


class Status(str, Enum):
    """What became of a row's image: `success`, or why there is none.  Every other value is also a drop reason."""

    SUCCESS = "success"
    # The URL itself, or where it leads.
    INVALID_URL = "invalid_url"
    FORBIDDEN_SCHEME = "forbidden_scheme"  # anything but http and https
    FORBIDDEN_USERINFO = "forbidden_userinfo"  # http://user:password@host/
    FORBIDDEN_PORT = "forbidden_port"  # not in download.allow_ports
    FORBIDDEN_ADDRESS = "forbidden_address"  # resolves to a private, loopback, link-local, … address
    REDIRECT_ERROR = "redirect_error"  # more than 5, or without a usable Location
    # The network.
    DNS_ERROR = "dns_error"
    CONNECTION_ERROR = "connection_error"  # refused, reset, unreachable, not HTTP
    TLS_ERROR = "tls_error"
    TIMEOUT = "timeout"  # download.timeout_s is over
    TOO_SLOW = "too_slow"  # under download.min_bytes_per_s
    CIRCUIT_OPEN = "circuit_open"  # this host just failed too often in a row; no request was made
    HOST_BUSY = "host_busy"  # this host asked us to wait longer than download.max_host_wait_s
    # The answer.
    HTTP_CLIENT_ERROR = "http_client_error"  # 4xx except 429
    HTTP_SERVER_ERROR = "http_server_error"  # 5xx, or a status outside 200-599
    RATE_LIMITED = "rate_limited"  # 429, also to the last retry
    TOO_LARGE = "too_large"  # over download.max_bytes
    TRUNCATED = "truncated"  # fewer bytes than announced
    EMPTY_BODY = "empty_body"
    ENCODED_BODY = "encoded_body"  # Content-Encoding although identity was requested
    # What the site's owner wants.
    ROBOTS_DISALLOWED = "robots_disallowed"
    ROBOTS_UNAVAILABLE = "robots_unavailable"  # robots.txt answered 5xx or not at all: RFC 9309 says do not crawl
    OPT_OUT = "opt_out"  # X-Robots-Tag noai/noimageai/noindex/noimageindex, or TDMRep
    FORGOTTEN = "forgotten"  # a rule of `pairmill forget` covers where it led, or its bytes
    HASH_BLOCKED = "hash_blocked"  # sha256 is on the operator's block list; id and hash are kept, pixels are not
    # The bytes.
    NOT_AN_IMAGE = "not_an_image"  # magic bytes of no format of pictures
    UNSUPPORTED_FORMAT = "unsupported_format"  # a picture, but none of JPEG, PNG, WebP, GIF, AVIF
    TOO_MANY_PIXELS = "too_many_pixels"  # over image.max_pixels by its header
    TOO_MANY_FRAMES = "too_many_frames"
    DECODE_ERROR = "decode_error"
    DECODE_TIMEOUT = "decode_timeout"
    DECODER_CRASH = "decoder_crash"  # the codec took its process down; only this row is lost


#: The reason of rows that `pairmill forget` took out, or that one of its rules keeps out.
FORGOTTEN = Status.FORGOTTEN.value

#: Statuses that a second try may change: what `pairmill retry-failed` fetches again.
RETRYABLE = frozenset(
    {
        Status.DNS_ERROR,
        Status.CONNECTION_ERROR,
        Status.TLS_ERROR,
        Status.TIMEOUT,
        Status.TOO_SLOW,
        Status.CIRCUIT_OPEN,
        Status.HOST_BUSY,
        Status.HTTP_SERVER_ERROR,
        Status.RATE_LIMITED,
        Status.TRUNCATED,
        Status.EMPTY_BODY,
        Status.ROBOTS_UNAVAILABLE,
    }
)

#: Statuses that the inspect stage sets; all others but success are the download stage's.
INSPECT_STATUSES = frozenset(
    {
        Status.NOT_AN_IMAGE,
        Status.UNSUPPORTED_FORMAT,
        Status.TOO_MANY_PIXELS,
        Status.TOO_MANY_FRAMES,
        Status.DECODE_ERROR,
        Status.DECODE_TIMEOUT,
        Status.DECODER_CRASH,
    }
)


def live(rows: pa.Table) -> pa.ChunkedArray:
    """Mask of the rows that no stage has dropped."""
    return pc.is_null(rows["drop_reason"])


def drop(
    rows: pa.Table, stage: str, masks: Mapping[str, pa.Array | pa.ChunkedArray], reasons: Collection[str]
) -> pa.Table:
    """Drop the rows of each mask for the reason that is its key; the first reason in `masks` order wins.

    rows:    table with `drop_stage` and `drop_reason` (string, null while the row lives).
    masks:   reason -> boolean array of len(rows); null counts as false.
    reasons: all reasons of this stage.
    Raises IntegrityError for a reason that is not one of `reasons`.
    """
    reason = rows["drop_reason"]
    was_live = live(rows)
    for name, mask in masks.items():
        if name not in reasons:
            raise IntegrityError(
                f"stage {stage} must declare its drop reasons: {name} is not in ({', '.join(reasons)})"
            )
        reason = pc.if_else(pc.and_(pc.is_null(reason), pc.fill_null(mask, False)), name, reason)
    newly = pc.and_(was_live, pc.is_valid(reason))
    at = pc.if_else(newly, stage, rows["drop_stage"])
    return set_columns(rows, {"drop_stage": at, "drop_reason": reason})


def undrop_after(rows: pa.Table, known: Sequence[str]) -> pa.Table:
    """The rows as they were after the stages `known`: what later stages dropped is live again."""
    early = pc.is_in(rows["drop_stage"], pa.array(known, pa.string()))
    return set_columns(rows, {n: pc.if_else(early, rows[n], None) for n in DROPS})


def set_columns(rows: pa.Table, columns: Mapping[str, pa.Array | pa.ChunkedArray]) -> pa.Table:
    """`rows` with these columns added, or replaced where they exist."""
    for name, values in columns.items():
        at = rows.schema.get_field_index(name)
        rows = rows.append_column(name, values) if at < 0 else rows.set_column(at, name, values)
    return rows


def add_seconds(rows: pa.Table, stage: str, seconds: float) -> pa.Table:
    """Record how long a stage took for this shard (seconds of one worker)."""
    return set_columns(rows, {f"_seconds_{stage}": pa.repeat(pa.scalar(seconds, pa.float64()), len(rows))})


def add_found(rows: pa.Table, stage: str, found: Mapping[str, Any]) -> pa.Table:
    """Record what a stage was told of all rows of the run, plain data, for the manifest of this shard; {}: nothing."""
    if not found:
        return rows
    once = pa.array([json.dumps(found, ensure_ascii=False, sort_keys=True)], pa.string())
    column = pa.DictionaryArray.from_arrays(pa.repeat(pa.scalar(0, pa.int32()), len(rows)), once)
    return set_columns(rows, {f"_found_{stage}": column})


def add_worked(rows: pa.Table, counts: Mapping[str, Mapping[str, int]]) -> pa.Table:
    """Record how many rows stages worked on for this shard, and how many of those they kept (`count_drops`)."""
    noted = {name: {"rows": of_stage["rows_in"], "kept": of_stage["rows_kept"]} for name, of_stage in counts.items()}
    return set_columns(rows, {f"_worked_{name}": pa.repeat(pa.scalar(n), len(rows)) for name, n in noted.items()})


def count_drops(rows: pa.Table, stages: Sequence[str], before: Collection[str] = ()) -> dict[str, dict[str, int]]:
    """Rows in, kept and dropped by reason, for consecutive `stages` over one shard's rows.

    before: the earlier stages, whose drops do not count as rows in.
    """
    # Arrow's own group_by imports pandas, which takes longer than most commands.
    counted = Counter(zip(*(rows[name].to_pylist() for name in DROPS), strict=True))
    gone = set(before)
    out: dict[str, dict[str, int]] = {}
    for stage in stages:
        dropped = {reason: n for (at, reason), n in counted.items() if at == stage}
        rows_in = sum(n for (at, _), n in counted.items() if at not in gone)
        out[stage] = {"rows_in": rows_in, "rows_kept": rows_in - sum(dropped.values()), **dropped}
        gone.add(stage)
    return out
