"""What the report's counts suggest: rows that a retry may recover, and rows without evidence for a policy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: Why a row is fetched again (`Policy.retriable`), in words.
_WHY = {
    "passing": "failed for a reason that may have passed",
    "allowed": "were refused by a policy that allows them now",
    "earlier": "have a picture made with other image.*, which could not be made again",
}


def advice(report: Mapping[str, Any]) -> list[str]:
    """Lines for the user, from the report's data; none if there is nothing to do."""
    lines = []
    policy = report["policy"]
    counts = {why: sum(found.values()) for why, found in policy["retry"].items() if found}
    if counts:
        reasons = [f"{n:,} rows {_WHY[why]}{_named(why, policy['retry'][why])}" for why, n in counts.items()]
        total = f"{sum(counts.values()):,}"
        lines.append(f"{'; '.join(reasons)}: `pairmill retry-failed {report['run_dir']}` fetches these {total}")
    if policy["no_evidence"]:
        most = max(policy["no_evidence"].values())
        keys = ", ".join(f"download.{key} ({n:,})" for key, n in policy["no_evidence"].items())
        lines.append(
            f"{most:,} rows stay without evidence for {keys}: drop them with "
            "filter.where: is_null(no_evidence), or curate the list into another run_dir"
        )
    return lines


def _named(why: str, statuses: Mapping[str, int]) -> str:
    return f" ({', '.join(f'{status} {n:,}' for status, n in statuses.items())})" if why == "allowed" else ""
