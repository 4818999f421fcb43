"""Find the rows of a run to forget, and the others that have the same pictures and URLs.

reads: uid, url, alt, drop_reason (plan); sha256, final_url, status (images); keep (the packing selection)

A row is found by its uid, its URL, the URL that redirects led to, the host of either, or the SHA-256 of its picture.
Rows of equal uid go together, and rows of equal text whose URLs are spellings of one request.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from curation.forget.request import Request
from curation.forget.tombstones import SCHEMA, Tombstones, row_digests
from curation.identity import canonical_url, requested_urls, url_host
from curation.schema import FORGOTTEN, set_columns
from curation.table import IMAGES, PLAN
from pairmill.store import Store, shard_file

#: The columns of the table of pictures by which a row is found.
_PICTURE_COLUMNS = ("sha256", "final_url", "status")

_READERS = 8
#: The most hosts of one expression; with more of them, every URL is checked.
_MOST_HOSTS = 500

#: The end of a host that is an address.
_ADDRESS = re.compile(r":|(?:^|\.)[0-9]+$")
#: URLs whose host may be written in another way than it is compared: not in ASCII, or cut by a control character.
_OTHER_SPELLING = r"^[^/]*//[^/?#]*[^\x00-\x7f]|[\t\r\n]"

Mask = npt.NDArray[np.bool_]


class Found(NamedTuple):
    """The rows of a run that a request means.

    places:       the rows to forget, one line for each uid and shard; schema `tombstones.SCHEMA`.
    spellings:    tombstones that keep out the same rows in other spellings.
    rows, kept:   how many those are, and how many of them the product holds.
    already:      requested rows that are forgotten already.
    same_picture: other rows with a picture of those found; sha256s: which pictures.
    same_url:     other rows with a URL of those found; urls: those, and where redirects led.
    """

    places: pa.Table
    spellings: pa.Table
    rows: int
    kept: int
    already: int
    same_picture: int
    sha256s: tuple[str, ...]
    same_url: int
    urls: frozenset[str]


class _Asked(NamedTuple):
    """Requested rows of a shard.  rows: see `row_digests`."""

    uids: frozenset[str]
    urls: frozenset[str]
    rows: frozenset[str]
    sha256s: frozenset[str]
    already: int


class _Sought(NamedTuple):
    """What was found in all shards.  rows: see `row_digests`; hosts: see `_hosts_of`."""

    uids: pa.Array
    rows: frozenset[str]
    sha256s: pa.Array
    urls: frozenset[str]
    hosts: re.Pattern[str] | None


class _Others(NamedTuple):
    """What a shard has of what was found: its own rows, which of them are kept, and other rows like them."""

    uids: list[str]
    kept: frozenset[str]
    sha256s: list[str]
    same_url: int


def find(store: Store, wanted: Request, shards: Iterable[int], *, selection: str, at: int) -> Found:
    """The rows that a request means; only narrow columns are read.

    shards: of the plan.  selection: the table of the packed selection.  at: seconds since the epoch.
    """
    numbers = list(shards)
    with ThreadPoolExecutor(_READERS) as pool:
        look = partial(_asked_for, store, Tombstones(wanted.tombstones(at)), _array(wanted.uids), _hosts_of(wanted))
        asked = list(pool.map(look, numbers))
        uids, urls, rows, sha256s = (
            frozenset().union(*(getattr(one, name) for one in asked)) for name in ("uids", "urls", "rows", "sha256s")
        )
        sought = _Sought(_array(uids), rows, _array(sha256s), urls, _hosts_of(Request(urls=urls)))
        others = list(pool.map(partial(_others_in, store, selection, sought), numbers)) if uids else []
    places = [
        {"kind": "uid", "digest": uid, "shard": shard, "kept": uid in one.kept, "at": at}
        for shard, one in zip(numbers, others, strict=bool(others))
        for uid in dict.fromkeys(one.uids)
    ]
    return Found(
        places=pa.Table.from_pylist(places, SCHEMA),
        spellings=pa.Table.from_pylist([{"kind": "row", "digest": one, "at": at} for one in sorted(rows)], SCHEMA),
        rows=sum(len(one.uids) for one in others),
        kept=sum(len(one.kept) for one in others),
        already=sum(one.already for one in asked),
        same_picture=sum(len(one.sha256s) for one in others),
        sha256s=tuple(sorted({sha for one in others for sha in one.sha256s})),
        same_url=sum(one.same_url for one in others),
        urls=urls,
    )


def _asked_for(store: Store, rules: Tombstones, uids: pa.Array, hosts: re.Pattern[str] | None, shard: int) -> _Asked:
    rows = _rows(store, shard)
    gone = np.asarray(pc.fill_null(pc.equal(rows["drop_reason"], FORGOTTEN), False))
    named = np.asarray(pc.is_in(rows["uid"], uids))
    mask = named | _refused(rows)
    for column in ("url", "final_url"):
        mask |= _by_url(rows[column], rules, hosts)
    mask |= np.fromiter((rules.covers_picture(sha) for sha in rows["sha256"].to_pylist()), np.bool_, len(rows))
    wanted = pa.array(mask & ~gone)
    found = rows.filter(wanted)
    alts = store.load(PLAN, shard, ["alt"])["alt"].filter(wanted).to_pylist() if len(found) else []
    urls = [url for name in ("url", "final_url") for url in found[name].to_pylist() if url]
    return _Asked(
        frozenset(found["uid"].to_pylist()),
        frozenset(form for url in urls for form in (url, canonical_url(url), *requested_urls(url))),
        frozenset(one for row in zip(found["url"].to_pylist(), alts, strict=True) for one in row_digests(*row)),
        frozenset(sha for sha in found["sha256"].to_pylist() if sha),
        int((named & gone).sum()),
    )


def _refused(rows: pa.Table) -> Mask:
    """Rows whose picture a rule refused when it was fetched; their URLs and texts still exist."""
    return np.asarray(pc.fill_null(pc.equal(rows["status"], FORGOTTEN), False))


def _others_in(store: Store, selection: str, sought: _Sought, shard: int) -> _Others:
    rows = _rows(store, shard)
    gone = np.asarray(pc.fill_null(pc.equal(rows["drop_reason"], FORGOTTEN), False))
    mine = np.asarray(pc.is_in(rows["uid"], sought.uids)).copy()
    same_picture = np.asarray(pc.is_in(rows["sha256"], sought.sha256s))
    maybe = np.flatnonzero(_maybe(rows["url"], sought.hosts) & ~mine)
    same_url = [at for at in maybe if not sought.urls.isdisjoint(requested_urls(rows["url"][int(at)].as_py()))]
    if same_url:
        alts = store.load(PLAN, shard, ["alt"])["alt"]
        for at in map(int, same_url):
            mine[at] = not sought.rows.isdisjoint(row_digests(rows["url"][at].as_py(), alts[at].as_py()))
    uids = rows["uid"].filter(pa.array(mine & ~gone)).to_pylist()
    return _Others(
        uids,
        _kept(store, selection, shard, uids),
        rows["sha256"].filter(pa.array(same_picture & ~mine)).to_pylist(),
        int((~mine[same_url]).sum()) if same_url else 0,
    )


def _rows(store: Store, shard: int) -> pa.Table:
    """uid, url, drop_reason of the planned rows, with what is known of their pictures."""
    rows = store.load(PLAN, shard, ["uid", "url", "drop_reason"])
    if not store.exists(shard_file(IMAGES, shard)):
        return set_columns(rows, {name: pa.nulls(len(rows), pa.string()) for name in _PICTURE_COLUMNS})
    images = store.load(IMAGES, shard, ["uid", *_PICTURE_COLUMNS])
    # By uid, not by position: what a killed job left may belong to other rows.
    places = pc.index_in(rows["uid"], value_set=images["uid"].combine_chunks())
    return set_columns(rows, {name: images[name].take(places) for name in _PICTURE_COLUMNS})


def _array(values: Iterable[str]) -> pa.Array:
    return pa.array(sorted(values), pa.string())


def _kept(store: Store, selection: str, shard: int, uids: list[str]) -> frozenset[str]:
    if not uids or not store.exists(shard_file(selection, shard)):
        return frozenset()
    rows = store.load(selection, shard, ["uid", "keep"])
    return frozenset(uids) & frozenset(rows.filter(rows["keep"])["uid"].to_pylist())


def _by_url(urls: pa.ChunkedArray, rules: Tombstones, hosts: re.Pattern[str] | None) -> Mask:
    mask = _maybe(urls, hosts)
    for at in np.flatnonzero(mask):
        mask[at] = rules.covers_url(urls[int(at)].as_py())
    return mask


def _maybe(urls: pa.ChunkedArray, hosts: re.Pattern[str] | None) -> Mask:
    """URLs that may have one of some hosts; an exact check of every URL would take minutes per million."""
    if hosts is None:
        return np.asarray(pc.is_valid(urls)).copy()
    found = pc.match_substring_regex(urls, hosts.pattern, ignore_case=True)
    return np.asarray(pc.fill_null(found, False)).copy()


def _hosts_of(wanted: Request) -> re.Pattern[str] | None:
    """An expression that every requested URL matches; None if it would be too long."""
    hosts = {host.lstrip(".") for host in wanted.hosts} | {url_host(url) for url in wanted.urls}
    # A host that is not ASCII has several forms in URLs, and so has an address.
    if len(hosts) > _MOST_HOSTS or any(not host or "xn--" in host or _ADDRESS.search(host) for host in hosts):
        return None
    return re.compile("|".join([*map(re.escape, sorted(hosts)), _OTHER_SPELLING]) if hosts else "$^")
