"""Sessions compared with exchange_calendars, day by day; windows as properties; which dates a command accepts, and why not."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from maang_cli import closures, sessions
from maang_cli.closures import why_closed
from maang_cli.errors import ExitCode, MaangError, NoSession, NotPublishedYet, SettingsError
from tests import expected

FIRST, LAST = date(1990, 1, 2), date(2060, 12, 31)
NEW_YORK = ZoneInfo("America/New_York")
YEARS_LATER = datetime(2040, 1, 1, tzinfo=UTC)
NOON = datetime(2025, 10, 15, 12, tzinfo=NEW_YORK)

days = st.dates(FIRST, LAST - timedelta(days=60))
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


def test_sessions_from_1990_to_2060_are_those_of_the_exchange_calendar() -> None:
    traded = frozenset(expected.sessions())
    every_day = [FIRST + timedelta(days=n) for n in range((LAST - FIRST).days + 1)]
    assert [day for day in every_day if (why_closed(day) is None) != (day in traded)] == []


@given(some_sessions)
@examples(deadline=None)
def test_window_is_the_last_seven_sessions_up_to_its_own(session: date) -> None:
    window = sessions.window(session)
    assert window == expected.window(session)
    assert len(window) == 7
    assert window[-1] == session
    assert all(earlier < later for earlier, later in pairwise(window))


@given(some_sessions)
@examples(deadline=None)
def test_affected_sessions_are_those_whose_windows_contain_the_session(session: date) -> None:
    affected = sessions.affected(session)
    start = expected.sessions().index(session)
    near = expected.sessions()[start - 10 : start + 11]
    assert affected == tuple(day for day in near if session in sessions.window(day))
    assert len(affected) == 7


@given(days, st.integers(-10, 60))
@examples(deadline=None)
def test_between_returns_all_sessions_of_a_range_with_both_ends(first: date, length: int) -> None:
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
def test_closure_has_a_name(day: date, name: str) -> None:
    assert name in str(why_closed(day))


@pytest.mark.parametrize("day", [date(2025, 11, 28), date(2025, 12, 24), date(2025, 7, 3)])
def test_session_with_an_early_close_is_over_at_the_regular_close(day: date) -> None:
    """The vendor's bars also cover the hours after the early close."""
    assert sessions.is_session(day)
    with pytest.raises(NotPublishedYet):
        sessions.require(day, new_york(day, 13, 30))
    assert sessions.require(day, new_york(day, 16)) == day


@pytest.mark.parametrize(
    ("day", "close"),
    [
        (date(2025, 3, 7), datetime(2025, 3, 7, 21, tzinfo=UTC)),
        (date(2025, 3, 10), datetime(2025, 3, 10, 20, tzinfo=UTC)),
        (date(2025, 10, 31), datetime(2025, 10, 31, 20, tzinfo=UTC)),
        (date(2025, 11, 3), datetime(2025, 11, 3, 21, tzinfo=UTC)),
    ],
    ids=["Friday before summer time", "Monday of summer time", "Friday before winter time", "Monday of winter time"],
)
def test_session_is_over_at_the_close_in_new_york(day: date, close: datetime) -> None:
    for early in (timedelta(minutes=1), timedelta(microseconds=1)):
        with pytest.raises(NotPublishedYet, match=f"the session of {day} is not over") as error:
            sessions.require(day, close - early)
        assert error.value.hint == f"try again after {day + timedelta(days=1)} 06:00 New York"
    assert sessions.require(day, close) == day
    assert sessions.require(day, close + timedelta(minutes=1)) == day


@pytest.mark.parametrize(
    ("day", "error", "code", "message", "hint"),
    [
        (date(2025, 10, 15), SettingsError, 2, "2025-10-15 is in the future: in New York it is 2025-10-14", "give --date"),
        (date(9999, 12, 31), SettingsError, 2, "9999-12-31 is in the future: in New York it is 2025-10-14", "give --date"),
        (date(1989, 12, 29), SettingsError, 2, "1989-12-29 is before 1990-01-01, when the NYSE calendar begins", "give"),
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
def test_error_says_why_a_date_is_refused(day: date, error: type[MaangError], code: int, message: str, hint: str) -> None:
    with pytest.raises(error) as raised:
        sessions.require(day, new_york(date(2025, 10, 14), 15, 59))
    assert raised.value.exit_code == ExitCode(code)
    assert raised.value.message.startswith(message)
    assert raised.value.hint.startswith(hint)


def test_today_is_not_a_session_to_wait_for_if_the_exchange_is_closed() -> None:
    with pytest.raises(NoSession, match="Saturday"):
        sessions.require(date(2025, 10, 11), new_york(date(2025, 10, 11), 9))


@pytest.mark.parametrize("day", [date(1990, 1, 2), date(2025, 10, 13), date(2025, 3, 10)])
def test_past_session_is_accepted(day: date) -> None:
    assert sessions.require(day, YEARS_LATER) == day


@pytest.mark.usefixtures("machine_zone")
def test_dates_are_new_york_dates_in_every_time_zone() -> None:
    late_evening = new_york(date(2025, 10, 14), 23, 59).astimezone()
    assert sessions.require(date(2025, 10, 14), late_evening) == date(2025, 10, 14)
    with pytest.raises(SettingsError, match="in New York it is 2025-10-14"):
        sessions.require(date(2025, 10, 15), late_evening)
    with pytest.raises(NotPublishedYet):
        sessions.require(date(2025, 10, 15), (late_evening + timedelta(minutes=1)).astimezone())
    close = new_york(date(2025, 10, 14), 16)
    assert sessions.require(date(2025, 10, 14), close.astimezone()) == date(2025, 10, 14)
    with pytest.raises(NotPublishedYet):
        sessions.require(date(2025, 10, 14), (close - timedelta(minutes=1)).astimezone())


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (datetime(2025, 10, 15, 5, 59, tzinfo=NEW_YORK), date(2025, 10, 13)),
        (datetime(2025, 10, 15, 6, 0, tzinfo=NEW_YORK), date(2025, 10, 14)),
        (datetime(2025, 10, 15, 23, 59, tzinfo=NEW_YORK), date(2025, 10, 14)),
        (datetime(2025, 10, 18, 6, 0, tzinfo=NEW_YORK), date(2025, 10, 17)),
        (datetime(2025, 10, 20, 5, 0, tzinfo=NEW_YORK), date(2025, 10, 17)),
        (datetime(2025, 11, 28, 7, 0, tzinfo=NEW_YORK), date(2025, 11, 26)),
        (datetime(2025, 11, 3, 10, 59, tzinfo=UTC), date(2025, 10, 31)),
        (datetime(2025, 11, 4, 10, 59, tzinfo=UTC), date(2025, 10, 31)),
        (datetime(2025, 11, 4, 11, 0, tzinfo=UTC), date(2025, 11, 3)),
    ],
    ids=["before 6", "6", "evening", "Saturday", "early Monday", "after Thanksgiving", "DST ends", "before 6, EST", "6, EST"],
)
def test_session_is_final_at_6_in_new_york_on_the_next_day(now: datetime, expected: date) -> None:
    assert sessions.last_final(now) == expected


def test_message_says_when_a_session_is_final() -> None:
    assert sessions.final_at(date(2025, 10, 17)) == "2025-10-18 06:00 New York"


def test_next_session_that_is_due_follows_the_last_final_one() -> None:
    assert sessions.next_due(NOON) == date(2025, 10, 15)
    assert sessions.next_due(datetime(2025, 10, 17, 12, tzinfo=NEW_YORK)) == date(2025, 10, 17)
    assert sessions.next_due(datetime(2025, 10, 18, 12, tzinfo=NEW_YORK)) == date(2025, 10, 20)


def test_several_dates_are_selected_in_order_and_once() -> None:
    found = sessions.select_dates([date(2025, 10, 14), date(2025, 10, 13), date(2025, 10, 14)], NOON)
    assert found == sessions.Selection((date(2025, 10, 13), date(2025, 10, 14)))


def test_dates_without_a_session_among_several_are_noted() -> None:
    found = sessions.select_dates([date(2025, 10, 12), date(2025, 10, 13)], NOON)
    assert found == sessions.Selection((date(2025, 10, 13),), ("2025-10-12 is not a session: Sunday; skipped",))


def test_dates_without_any_session_are_an_error_that_names_each() -> None:
    with pytest.raises(NoSession, match="2025-10-11 is not a session: Saturday; 2025-10-12 is not a session: Sunday"):
        sessions.select_dates([date(2025, 10, 12), date(2025, 10, 11)], NOON)


def test_range_ends_at_the_last_final_session() -> None:
    assert sessions.select_range(date(2025, 10, 10), date(2025, 10, 14), NOON) == sessions.Selection(
        (date(2025, 10, 10), date(2025, 10, 13), date(2025, 10, 14))
    )
    open_ended = sessions.select_range(date(2025, 10, 13), None, NOON)
    assert (open_ended.sessions[-1], open_ended.notes) == (date(2025, 10, 14), ())


def test_note_says_that_a_range_was_cut_at_the_last_final_session() -> None:
    found = sessions.select_range(date(2025, 10, 14), date(2025, 12, 31), NOON)
    assert found.sessions == (date(2025, 10, 14),)
    assert found.notes == ("2025-12-31 is after the last final session, so the range ends on 2025-10-14",)


def test_range_that_ends_on_a_weekend_after_the_last_final_session_needs_no_note() -> None:
    saturday = datetime(2025, 10, 18, 12, tzinfo=NEW_YORK)
    assert sessions.select_range(date(2025, 10, 17), date(2025, 10, 19), saturday).notes == ()


def test_last_sessions_end_with_the_last_final_one() -> None:
    newest = sessions.last_final(NOON)
    found = sessions.select_newest(3, NOON).sessions
    assert (found[-1], len(found)) == (newest, 3)
    assert found == sessions.between(found[0], newest)
    assert sessions.select_newest(1, NOON).sessions == (newest,)


def test_calendar_that_does_not_reach_back_far_enough_is_said() -> None:
    everything = len(sessions.between(sessions.FIRST_DATE, sessions.last_final(NOON)))
    assert sessions.select_newest(everything, NOON).sessions[0] == date(1990, 1, 2)
    with pytest.raises(SettingsError, match=f"no {everything + 1} sessions since 1990-01-01"):
        sessions.select_newest(everything + 1, NOON)


@pytest.mark.parametrize(
    ("first", "last", "error", "message"),
    [
        (date(2025, 10, 11), date(2025, 10, 12), NoSession, "there is no final session from 2025-10-11 to 2025-10-12"),
        (date(2025, 10, 15), date(2025, 10, 20), NoSession, "there is no final session from 2025-10-15 to 2025-10-20"),
        (date(2025, 10, 14), date(2025, 10, 13), SettingsError, "the range ends before it starts: 2025-10-14 to 2025-10-13"),
        (date(1989, 12, 29), date(2025, 10, 14), SettingsError, "1989-12-29 is before 1990-01-01"),
    ],
    ids=["a weekend", "not over", "backwards", "before the calendar"],
)
def test_range_without_a_final_session_is_an_error(first: date, last: date, error: type[MaangError], message: str) -> None:
    with pytest.raises(error, match=message):
        sessions.select_range(first, last, NOON)


@pytest.fixture
def unforeseen() -> Iterator[date]:
    """A Monday that the user declares closed."""
    closures.declare_closed([date(2025, 10, 13)])
    yield date(2025, 10, 13)
    closures.declare_closed([])


def test_day_that_is_declared_closed_is_not_a_session(unforeseen: date) -> None:
    with pytest.raises(NoSession, match="closed, as MAANG_CLOSED says"):
        sessions.require(unforeseen, YEARS_LATER)
    assert sessions.window(date(2025, 10, 14))[-2:] == (date(2025, 10, 10), date(2025, 10, 14))
    assert sessions.between(date(2025, 10, 10), date(2025, 10, 14)) == (date(2025, 10, 10), date(2025, 10, 14))
