from __future__ import annotations

import email.utils
import time
from datetime import datetime, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pairmill.retry_after import LONGEST_S, retry_after_s

NOW = datetime(1994, 11, 6, 8, 49, 37, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("7", 7.0),
        (" 0 ", 0.0),
        ("0000000000012", 12.0),
        ("Sun, 06 Nov 1994 08:49:47 GMT", 10.0),
        ("Sun, 06 Nov 1994 09:49:47 +0100", 10.0),
        ("Sun, 06 Nov 1994 08:49:47 -0000", 10.0),  # no zone known: UTC, not the machine's
        ("Sunday, 06-Nov-94 08:49:47 GMT", 10.0),  # RFC 850
        ("Sun Nov  6 08:49:47 1994", 10.0),  # asctime
        ("Sun, 06 Nov 1994 08:49:00 GMT", 0.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", LONGEST_S),
        ("soon", None),
        ("", None),
        ("-5", None),
        ("1.5", None),
        ("٣", None),
        ("9" * 9, 999_999_999.0),
        ("9" * 6000, LONGEST_S),
        ("Sun, 06 Nov 99999 08:49:47 GMT", None),
        ("Sun, 06 Nov 1994 08:49:47 +99999999999999", None),
    ],
)
def test_both_forms(header: str | None, seconds: float | None) -> None:
    assert retry_after_s(header, now=NOW) == seconds


def test_a_date_is_counted_from_the_answers_own() -> None:
    date, later = (email.utils.formatdate(at, usegmt=True) for at in (1_000_000, 1_000_090))
    assert retry_after_s(later, date) == retry_after_s(later, date, now=NOW) == 90
    assert retry_after_s(date, later) == 0
    assert retry_after_s("120", date) == 120
    assert retry_after_s(email.utils.formatdate(time.time() + 90, usegmt=True), "no date") == pytest.approx(89.5, abs=2)


DATES = st.datetimes(timezones=st.timezones()).map(email.utils.format_datetime)


@pytest.mark.slow
@given(st.one_of(st.text(max_size=40), st.integers().map(str), DATES), st.none() | st.text(max_size=40) | DATES)
@settings(max_examples=500)
def test_any_header_is_a_duration_or_nothing(value: str, date: str | None) -> None:
    seconds = retry_after_s(value, date)
    assert seconds is None or 0 <= seconds <= LONGEST_S


@given(st.integers(0, 10**12), st.integers(0, 9))
def test_seconds_are_themselves(seconds: int, zeros: int) -> None:
    assert retry_after_s("0" * zeros + str(seconds)) == min(seconds, LONGEST_S)


@given(st.integers(0, 4 * 10**9), st.integers(0, 10**8))
def test_dates_are_their_distance(since: int, seconds: int) -> None:
    date, until = (email.utils.formatdate(at, usegmt=True) for at in (since, since + seconds))
    assert retry_after_s(until, date) == seconds and retry_after_s(date, until) == 0
