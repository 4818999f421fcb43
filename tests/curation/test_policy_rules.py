"""The policy on tiny rows: one for each reason to drop, and what a retry would fetch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from curation.download import Download, without_pictures
from curation.flow import flow_of
from curation.images.config import ImageConfig
from curation.images.stage import Inspect
from curation.policy import Policy
from curation.schema import Status

SETTINGS = ImageConfig().settings

#: A row that was fetched by the default policy, from a public host, after one redirect.
GOOD: dict[str, Any] = {
    "status": "success",
    "sha256": "a" * 64,
    "original_bytes": 5000,
    "original_width": 100,
    "original_height": 50,
    "width": 80,
    "height": 40,
    "frames": 1,
    "opt_out": "",
    "robots": "allowed",
    "route": "80 443",
    "needs": None,
    "agent": "pairmill",
    "image_settings": SETTINGS,
    "image": b"pixels",
}


def rows(*changes: dict[str, Any]) -> pa.Table:
    columns = {c.name: c.type for c in (*Download.adds, *Inspect.adds)}
    records = [{"uid": str(n), "drop_stage": None, "drop_reason": None, **GOOD, **c} for n, c in enumerate(changes)]
    for record in records:
        if record["status"] != "success":
            record |= {"drop_stage": "download", "drop_reason": record["status"], "image": None, "image_settings": None}
    texts = dict.fromkeys(("uid", "drop_stage", "drop_reason"), pa.string())
    return pa.table({n: pa.array([r.get(n) for r in records], t) for n, t in {**texts, **columns}.items()})


def policy(**recipe: Any) -> Policy:
    sections: dict[str, dict[str, Any]] = {}
    for key, value in recipe.items():
        section, _, name = key.partition("__")
        sections.setdefault(section, {})[name] = value
    return flow_of(sections).of(Policy)


def verdicts(of: Policy, table: pa.Table) -> list[str | None]:
    done = of(table)
    assert set(done["drop_stage"].to_pylist()) <= {None, "policy", "download"}
    stages, reasons = done["drop_stage"].to_pylist(), done["drop_reason"].to_pylist()
    return [reason if stage == "policy" else None for stage, reason in zip(stages, reasons, strict=True)]


@pytest.mark.parametrize(
    ("changed", "stricter", "reason"),
    [
        ({"original_bytes": 5001}, {"download__max_bytes": 5000}, "too_large"),
        ({"route": "80 80 443"}, {"download__max_redirects": 1}, "redirect_error"),
        ({"route": "80 8443"}, {"download__allow_ports": [80, 443]}, "forbidden_port"),
        ({"route": "9000@10.0.0.1"}, {"download__allow_networks": []}, "forbidden_address"),
        ({"route": "80 9000@10.0.0.1,10.9.0.1"}, {"download__allow_networks": ["10.0.0.0/16"]}, "forbidden_address"),
        ({"opt_out": "X-Robots-Tag: noai"}, {"download__respect_opt_out": True}, "opt_out"),
        ({"robots": "disallowed"}, {"download__respect_robots": True}, "robots_disallowed"),
        ({"robots": "unavailable"}, {"download__respect_robots": True}, "robots_unavailable"),
        ({"original_width": 101}, {"image__max_pixels": 5000}, "too_many_pixels"),
        ({"width": 101, "height": 50}, {"image__max_pixels": 5000}, "too_many_pixels"),
        ({"frames": 3}, {"image__max_frames": 2}, "too_many_frames"),
    ],
)
def test_what_a_stricter_policy_forbids_is_dropped_by_what_is_known(
    changed: dict[str, Any], stricter: dict[str, Any], reason: str
) -> None:
    table = rows({}, changed)
    wide = {
        "download__allow_networks": ["10.0.0.0/8"],
        "download__respect_opt_out": False,
        "download__respect_robots": False,
    }
    assert verdicts(policy(**wide), table) == [None, None]
    assert verdicts(policy(**{**wide, **stricter}), table) == [None, reason]


def test_a_listed_digest_is_dropped_and_its_pixels_go(tmp_path: Path) -> None:
    listed = tmp_path / "listed"
    listed.write_text("B" * 64 + "\n")
    of = policy(download__hash_blocklist=str(listed))
    table = rows({}, {"sha256": "b" * 64})
    assert verdicts(of, table) == [None, "hash_blocked"]
    erased = without_pictures(table, of.must_go(table))
    assert erased["image"].to_pylist() == [b"pixels", None]
    assert erased["sha256"].to_pylist() == table["sha256"].to_pylist()
    assert (erased["status"][1].as_py(), erased["drop_stage"][1].as_py()) == ("hash_blocked", "download")
    lost = {c.name for c in Inspect.adds} - {"sha256"}
    assert all(erased[name][1].as_py() is None for name in lost)
    assert erased.slice(0, 1).equals(table.slice(0, 1))
    assert without_pictures(erased, of.must_go(erased)).equals(erased)


def test_a_public_name_says_nothing_of_networks_and_a_port_is_vouched_for_by_its_network() -> None:
    table = rows({"route": "443"}, {"route": "9000@10.0.0.1"})
    assert verdicts(policy(download__allow_networks=["10.0.0.0/8"], download__allow_ports=[443]), table) == [None, None]


def test_a_row_without_evidence_stays_and_says_so() -> None:
    table = rows({}, {"robots": None, "opt_out": None, "route": None}, {"opt_out": None})
    done = policy()(table)
    assert done["drop_reason"].to_pylist() == [None] * 3
    assert done["no_evidence"].to_pylist() == [
        None,
        "max_redirects, allow_ports, allow_networks, respect_robots, respect_opt_out",
        "respect_opt_out",
    ]
    off = policy(download__respect_robots=False, download__respect_opt_out=False)(table)
    assert off["no_evidence"].to_pylist() == [None, "max_redirects, allow_ports, allow_networks", None]


def refused(status: str, **evidence: Any) -> dict[str, Any]:
    return {"status": status, "robots": None, "opt_out": None, "route": None, **evidence}


@pytest.mark.parametrize(
    ("row", "recipe", "why"),
    [
        (refused("timeout"), {}, "passing"),
        (refused("http_client_error"), {}, None),
        (refused("too_large", needs=50_000_000), {}, None),
        (refused("too_large", needs=50_000_000), {"download__max_bytes": 40_000_000}, None),
        (refused("too_large", needs=50_000_000), {"download__max_bytes": 50_000_000}, "allowed"),
        (refused("redirect_error", needs=6), {}, None),
        (refused("redirect_error", needs=6), {"download__max_redirects": 6}, "allowed"),
        (refused("redirect_error"), {"download__max_redirects": 20}, None),
        (refused("too_many_pixels", needs=10**8), {"image__max_pixels": 10**9}, "allowed"),
        (refused("too_many_pixels"), {"image__max_pixels": 10**9}, None),
        (refused("too_many_frames", needs=1001), {"image__max_frames": 1001}, "allowed"),
        (refused("forbidden_port", route="443 9000@1.2.3.4"), {}, None),
        (refused("forbidden_port", route="443 9000@1.2.3.4"), {"download__allow_ports": [443, 9000]}, "allowed"),
        (refused("forbidden_port", route="443 9000@1.2.3.4"), {"download__allow_ports": [9000]}, None),
        (refused("forbidden_address", route="80@10.0.0.1"), {}, None),
        (refused("forbidden_address", route="80@10.0.0.1"), {"download__allow_networks": ["10.0.0.0/8"]}, "allowed"),
        (refused("forbidden_scheme"), {"download__allow_networks": ["0.0.0.0/0"]}, None),
        (refused("robots_disallowed", robots="disallowed"), {}, None),
        (refused("robots_disallowed", robots="disallowed"), {"download__respect_robots": False}, "allowed"),
        (refused("robots_disallowed", robots="disallowed"), {"download__user_agent": "pairmill/9 (a@b.c)"}, None),
        (refused("robots_disallowed", robots="disallowed"), {"download__user_agent": "another/1 (a@b.c)"}, "allowed"),
        (refused("opt_out", opt_out="X-Robots-Tag: noai"), {}, None),
        (refused("opt_out", opt_out="X-Robots-Tag: noai"), {"download__respect_opt_out": False}, "allowed"),
        (refused("opt_out", opt_out="X-Robots-Tag: noai"), {"download__user_agent": "another/1 (a@b.c)"}, None),
        (refused("opt_out", opt_out="X-Robots-Tag: *: noai"), {"download__user_agent": "another/1 (a@b.c)"}, None),
        (
            refused("opt_out", opt_out="X-Robots-Tag: pairmill: noai"),
            {"download__user_agent": "x/1 (a@b.c)"},
            "allowed",
        ),
        (refused("hash_blocked"), {}, "allowed"),
        (refused("hash_blocked"), {"download__hash_blocklist": "{listed}"}, None),
        ({"image_settings": "of another day"}, {}, "earlier"),
        ({}, {"image__size": 64}, "earlier"),
        ({"robots": "unavailable"}, {}, "passing"),
        ({"robots": "unavailable"}, {"download__respect_robots": False}, None),
        ({}, {}, None),
    ],
)
def test_a_retry_fetches_what_may_come_out_better(
    row: dict[str, Any], recipe: dict[str, Any], why: str | None, tmp_path: Path
) -> None:
    (tmp_path / "listed").write_text("a" * 64)
    keys = {k: v.format(listed=tmp_path / "listed") if v == "{listed}" else v for k, v in recipe.items()}
    of = policy(**keys)
    masks = of.retriable(rows(row))
    assert [name for name, mask in masks.items() if mask.to_pylist() == [True]] == ([why] if why else [])
    stage = "inspect" if row.get("status") in Inspect.drops else "download"
    manifest = {
        "stages": {"download": {}, "inspect": {}, stage: {row.get("status", "success"): 1}},
        "facts": {"download": flow_of({}).of(Download).facts(rows(row))},
    }
    assert why is None or of.may_have_retriable(manifest)


def test_every_reason_is_a_status() -> None:
    assert set(Policy.drops) < {status.value for status in Status}
