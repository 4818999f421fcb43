"""The Retry-After header of a response (RFC 9110, section 10.2.3): seconds, or a date."""

from __future__ import annotations

import re
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime

#: Longer waits count as this one, about 32 years.
LONGEST_S = 999_999_999.0

_SECONDS = re.compile("0*([0-9]+)")


def retry_after_s(value: str | None, date: str | None = None, *, now: datetime | None = None) -> float | None:
    """Seconds that the response asks to wait, between 0 and `LONGEST_S`; None if it asks for none or cannot be read.

    value, date: the headers Retry-After and Date.  A date counts from the response's own, so that clocks need not
    agree, or from `now` (default: the present) if the response has none.  Dates without a zone are UTC.
    """
    if value is None:
        return None
    digits = _SECONDS.fullmatch(value.strip())
    if digits is not None:
        return float(digits[1]) if len(digits[1]) <= 9 else LONGEST_S
    until = _moment(value)
    if until is None:
        return None
    since = _moment(date or "") or now or datetime.now(timezone.utc)
    return min(max(0.0, (until - since).total_seconds()), LONGEST_S)


def _moment(header: str) -> datetime | None:
    try:
        moment = parsedate_to_datetime(header.strip())
        return moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)
    except (ValueError, TypeError, OverflowError, IndexError):  # what the parser raises on strings that are no dates
        return None
