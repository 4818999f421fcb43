"""What the report's counts advise to do: rows that a retry may bring, and rows that a policy cannot be held against."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: Why a row is fetched again (`Policy.retriable`), in words.
_WHY = {
    "passing": "failed for a reason that may have passed",
    "allowed": "were refused by a policy that allows them now",
    "earlier": "have a picture made by other image.*, which could not be made anew",
}


def advice(report: Mapping[str, Any]) -> list[str]:
    """Lines for whoever ran the job, from the report's data; none if there is nothing to do."""
    lines = []
    policy = report["policy"]
    counts = {why: sum(found.values()) for why, found in policy["retry"].items() if found}
    if counts:
        said = [f"{n:,} rows {_WHY[why]}{_named(why, policy['retry'][why])}" for why, n in counts.items()]
        total = f"{sum(counts.values()):,}"
        lines.append(f"{'; '.join(said)}: `pairmill retry-failed {report['run_dir']}` fetches these {total}")
    if policy["no_evidence"]:
        most = max(policy["no_evidence"].values())
        keys = ", ".join(f"download.{key} ({n:,})" for key, n in policy["no_evidence"].items())
        lines.append(
            f"{most:,} rows stay although nothing is known that {keys} could be held against: drop them by "
            "filter.where: is_null(no_evidence), or curate the list into another run_dir"
        )
    return lines


def _named(why: str, statuses: Mapping[str, int]) -> str:
    return f" ({', '.join(f'{status} {n:,}' for status, n in statuses.items())})" if why == "allowed" else ""
