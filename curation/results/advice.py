"""What the report's counts suggest: rows that a retry may recover, and rows without evidence for a policy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

#: Why a row is fetched again (`Policy.retriable`), in words.
_WHY = {
    "passing": "failed for a reason that may have passed",
    "allowed": "were refused by a policy that allows them now",
    "earlier": "have a picture made with other image.*, which could not be made again",
}


#: Drop reason -> the key of the recipe that allows such rows.
_ALLOWED_BY = {
    "forbidden_address": "download.allow_networks lists networks of your own that may be asked",
    "forbidden_port": "download.allow_ports lists the ports that may be asked",
    "forbidden_scheme": "input.url_column must name the column with addresses that begin with http:// or https://",
    "invalid_url": "input.url_column must name the column with addresses that begin with http:// or https://",
}


def advice(report: Mapping[str, Any]) -> list[str]:
    """Lines for the user, from the report's data; none if there is nothing to do."""
    lines = []
    if report["rows_in"] and not report["rows_kept"] and not report["rows_pending"]:
        lines.append(_none_kept(report))
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


def _none_kept(report: Mapping[str, Any]) -> str:
    """What to tell of a run that keeps nothing: the commonest reason, and what allows such rows."""
    dropped: Counter[str] = Counter()
    for stage in report["stages"]:
        dropped.update(stage["dropped"])
    (reason, rows), *_ = dropped.most_common(1)
    fix = _ALLOWED_BY.get(reason, "`pairmill rows` writes the reason of each row, docs/stages.md says what each means")
    return f"no row was kept; most, {rows:,} of {report['rows_in']:,}, were dropped as {reason}: {fix}"


def _named(why: str, statuses: Mapping[str, int]) -> str:
    return f" ({', '.join(f'{status} {n:,}' for status, n in statuses.items())})" if why == "allowed" else ""
