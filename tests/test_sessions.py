"""Sessions against exchange_calendars, day by day; windows as properties; which dates `require` lets through, and why not."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from maang_cli import sessions
from maang_cli.errors import ExitCode, MaangError, NoSession, NotPublishedYet, SettingsError
from tests import expected

FIRST, LAST = date(1990, 1, 2), date(2026, 12, 31)
NEW_YORK = ZoneInfo("America/New_York")
YEARS_LATER = datetime(2040, 1, 1, tzinfo=UTC)

days = st.dates(FIRST, LAST)
some_sessions = days.map(lambda day: expected.window(day)[-1] if day >= date(1990, 1, 12) else date(1990, 1, 12))


@pytest.fixture(params=["America/New_York", "UTC", "Asia/Tokyo", "Pacific/Honolulu"])
def machine_zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The machine's own time zone."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", request.param)
        time.tzset()
        yield request.param
    time.tzset()


def new_york(day: date, hour: int, minute: int = 0) -> datetime:
    return datetime(day.year, day.month, day.day, hour, minute, tzinfo=NEW_YORK)


def test_every_day_from_1990_to_2026_is_a_session_exactly_where_the_exchange_calendar_says_so() -> None:
    held = frozenset(expected.sessions())
    every_day = [FIRST + timedelta(days=n) for n in range((LAST - FIRST).days + 1)]
    assert [day for day in every_day if sessions.is_session(day) != (day in held)] == []
    assert [day for day in every_day if (sessions.why_closed(day) is None) != (day in held)] == []


@given(some_sessions)
@examples(deadline=None)
def test_a_window_is_the_last_seven_sessions_up_to_its_own(session: date) -> None:
    window = sessions.window(session)
    assert window == expected.window(session)
    assert len(window) == 7
    assert window[-1] == session
    assert all(earlier < later for earlier, later in pairwise(window))


@given(some_sessions)
@examples(deadline=None)
def test_touched_are_the_sessions_whose_windows_hold_the_session(session: date) -> None:
    touched = sessions.touched(session)
    start = expected.sessions().index(session)
    near = expected.sessions()[start - 10 : start + 11]
    assert touched == tuple(day for day in near if session in sessions.window(day))
    assert len(touched) == 7


@given(days, st.integers(-10, 60))
@example(LAST, 60)
@examples(deadline=None)
def test_between_are_all_sessions_of_a_range_both_ends_included(first: date, length: int) -> None:
    last = first + timedelta(days=length)
    assert sessions.between(first, last) == tuple(day for day in expected.sessions() if first <= day <= last)


@pytest.mark.parametrize(
    ("day", "name"),
    [
        (date(2025, 10, 11), "Saturday"),
        (date(2025, 10, 12), "Sunday"),
        (date(2025, 11, 27), "Thanksgiving Day"),
        (date(2025, 12, 25), "Christmas Day"),
        (date(2025, 4, 18), "Good Friday"),
        (date(2025, 6, 19), "Juneteenth"),
        (date(2026, 7, 3), "Independence Day (observed)"),
        (date(2025, 1, 9), "Jimmy Carter"),
        (date(2012, 10, 29), "Hurricane Sandy"),
        (date(2001, 9, 11), "World Trade Center"),
    ],
)
def test_a_closure_has_a_name(day: date, name: str) -> None:
    assert name in str(sessions.why_closed(day))


@pytest.mark.parametrize("day", [date(2025, 11, 28), date(2025, 12, 24), date(2025, 7, 3)])
def test_an_early_close_is_a_session_that_is_over_at_the_regular_close(day: date) -> None:
    """The vendor's bars cover the hours after the bell as well."""
    assert sessions.is_session(day)
    with pytest.raises(NotPublishedYet):
        sessions.require(day, new_york(day, 13, 30))
    assert sessions.require(day, new_york(day, 16)) == day


@pytest.mark.parametrize(
    ("day", "bell"),
    [
        (date(2025, 3, 7), datetime(2025, 3, 7, 21, tzinfo=UTC)),
        (date(2025, 3, 10), datetime(2025, 3, 10, 20, tzinfo=UTC)),
        (date(2025, 10, 31), datetime(2025, 10, 31, 20, tzinfo=UTC)),
        (date(2025, 11, 3), datetime(2025, 11, 3, 21, tzinfo=UTC)),
    ],
    ids=["Friday before summer time", "Monday of summer time", "Friday before winter time", "Monday of winter time"],
)
def test_a_session_is_over_when_the_bell_rings_in_new_york(day: date, bell: datetime) -> None:
    for early in (timedelta(minutes=1), timedelta(microseconds=1)):
        with pytest.raises(NotPublishedYet, match=f"the session of {day} is not over") as error:
            sessions.require(day, bell - early)
        assert error.value.hint == f"try again after {day + timedelta(days=1)} 06:00 New York"
    assert sessions.require(day, bell) == day
    assert sessions.require(day, bell + timedelta(minutes=1)) == day


@pytest.mark.parametrize(
    ("day", "error", "code", "message", "hint"),
    [
        (date(2025, 10, 15), SettingsError, 2, "2025-10-15 is in the future: in New York it is 2025-10-14", "give --date"),
        (date(9999, 12, 31), SettingsError, 2, "9999-12-31 is in the future: in New York it is 2025-10-14", "give --date"),
        (date(1989, 12, 29), SettingsError, 2, "1989-12-29 is before 1990-01-01", "give --date"),
        (date(1, 1, 1), SettingsError, 2, "0001-01-01 is before 1990-01-01", "give --date"),
        (date(1990, 1, 1), NoSession, 99, "1990-01-01 is not a session: New Year's Day", ""),
        (date(2025, 10, 11), NoSession, 99, "2025-10-11 is not a session: Saturday", ""),
        (date(2024, 11, 28), NoSession, 99, "2024-11-28 is not a session: Thanksgiving Day", ""),
        (
            date(2025, 10, 14),
            NotPublishedYet,
            4,
            "the session of 2025-10-14 is not over",
            "try again after 2025-10-15 06:00 New York",
        ),
    ],
)
def test_a_date_that_will_not_do_says_why(day: date, error: type[MaangError], code: int, message: str, hint: str) -> None:
    with pytest.raises(error) as raised:
        sessions.require(day, new_york(date(2025, 10, 14), 15, 59))
    assert raised.value.exit_code == ExitCode(code)
    assert raised.value.message.startswith(message)
    assert raised.value.hint.startswith(hint)


def test_today_is_no_session_to_wait_for_when_the_exchange_is_closed() -> None:
    with pytest.raises(NoSession, match="Saturday"):
        sessions.require(date(2025, 10, 11), new_york(date(2025, 10, 11), 9))


@pytest.mark.parametrize("day", [date(1990, 1, 2), date(2025, 10, 13), date(2025, 3, 10)])
def test_a_session_of_the_past_will_do(day: date) -> None:
    assert sessions.require(day, YEARS_LATER) == day


@pytest.mark.usefixtures("machine_zone")
def test_dates_are_those_of_new_york_whatever_the_machines_time_zone() -> None:
    late_evening = new_york(date(2025, 10, 14), 23, 59).astimezone()
    assert sessions.require(date(2025, 10, 14), late_evening) == date(2025, 10, 14)
    with pytest.raises(SettingsError, match="in New York it is 2025-10-14"):
        sessions.require(date(2025, 10, 15), late_evening)
    with pytest.raises(NotPublishedYet):
        sessions.require(date(2025, 10, 15), (late_evening + timedelta(minutes=1)).astimezone())
    bell = new_york(date(2025, 10, 14), 16)
    assert sessions.require(date(2025, 10, 14), bell.astimezone()) == date(2025, 10, 14)
    with pytest.raises(NotPublishedYet):
        sessions.require(date(2025, 10, 14), (bell - timedelta(minutes=1)).astimezone())
