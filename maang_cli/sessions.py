"""NYSE sessions as pure functions on New York dates.

The rules are those of the `holidays` library's NYSE calendar; the tests hold it to `exchange_calendars`, day by day from 1990.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from functools import cache
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from maang_cli.errors import NoSession, NotPublishedYet, SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

NEW_YORK = ZoneInfo("America/New_York")
FIRST_DATE = date(1990, 1, 1)
"""The calendar is proved from here on."""
WINDOW_LENGTH = 7
"""Sessions in a window, its own session included."""
CLOSE = time(16, 0)
"""The regular close. On an early-close day the vendor's bars still cover the hours after it."""
SETTLED = time(6, 0)
"""New York, the morning after: by then the vendor serves a session to every plan."""


@cache
def _closures() -> dict[date, str]:
    # Imported here: the library takes a third of a second, and `maang --help` needs no calendar.
    from holidays.financial.ny_stock_exchange import NewYorkStockExchange

    return NewYorkStockExchange()  # type: ignore[no-untyped-call]


def why_closed(day: date) -> str | None:
    """Why NYSE did not trade on `day` ("Saturday", "Thanksgiving Day"); None for a session."""
    if day.weekday() >= 5:
        return f"{day:%A}"
    return _closures().get(day)


def is_session(day: date) -> bool:
    return why_closed(day) is None


def _walk(day: date, step: int) -> Iterator[date]:
    """Sessions from `day` on, itself first if it is one, forward (step 1) or back (step -1)."""
    while True:
        if is_session(day):
            yield day
        day += timedelta(days=step)


def window(session: date) -> tuple[date, ...]:
    """The last 7 sessions up to and including `session`, oldest first."""
    back = _walk(session, -1)
    return tuple(reversed([next(back) for _ in range(WINDOW_LENGTH)]))


def touched(session: date) -> tuple[date, ...]:
    """The 7 sessions whose windows hold `session`: itself and the next 6, oldest first."""
    ahead = _walk(session, 1)
    return tuple(next(ahead) for _ in range(WINDOW_LENGTH))


def between(first: date, last: date) -> tuple[date, ...]:
    """All sessions from `first` to `last`, both included; empty when there is none."""
    days = (last - first).days + 1
    return tuple(day for day in (first + timedelta(days=n) for n in range(days)) if is_session(day))


def require(day: date, now: datetime) -> date:
    """`day`, when it is a session that is over at `now` (an aware datetime).

    Raises:
        SettingsError: the date is in the future, or before the calendar begins.
        NoSession: NYSE did not trade on it.
        NotPublishedYet: it is today's, and the closing bell has not rung.
    """
    here = now.astimezone(NEW_YORK)
    if day > here.date():
        raise SettingsError(
            f"{day} is in the future: in New York it is {here.date()}", hint="give --date a session that has ended"
        )
    if day < FIRST_DATE:
        raise SettingsError(f"{day} is before {FIRST_DATE}, where the NYSE calendar begins", hint="give --date a later session")
    if reason := why_closed(day):
        raise NoSession(f"{day} is not a session: {reason}")
    if day == here.date() and here.time() < CLOSE:
        raise NotPublishedYet(f"the session of {day} is not over", hint=f"try again after {settled(day)}")
    return day


def last_finished(now: datetime) -> date:
    """The last session whose bars are there for every plan at `now`, an aware datetime: from 06:00 New York the morning after."""
    here = now.astimezone(NEW_YORK)
    return next(_walk(here.date() - timedelta(days=1 if here.time() >= SETTLED else 2), -1))


def next_due(now: datetime) -> date:
    """The first session that is not finished at `now`."""
    return next(_walk(last_finished(now) + timedelta(days=1), 1))


@dataclass(frozen=True)
class Selection:
    sessions: tuple[date, ...]
    """In order, each once, at least one."""
    notes: tuple[str, ...] = ()
    """What was left out, and why; a line each."""


def among(dates: Iterable[date], now: datetime) -> Selection:
    """The sessions among `dates`; one date alone has to be a session, of several those without one are noted.

    Raises:
        SettingsError, NotPublishedYet: as `require`.
        NoSession: none of them is a session.
    """
    days = sorted(set(dates))
    if len(days) == 1:
        return Selection((require(days[0], now),))
    found, notes = [], []
    for day in days:
        try:
            found.append(require(day, now))
        except NoSession as exc:
            notes.append(exc.message)
    if not found:
        raise NoSession("; ".join(notes))
    return Selection(tuple(found), tuple(f"{note}; skipped" for note in notes))


def ranging(first: date, last: date | None, now: datetime) -> Selection:
    """All sessions from `first` to `last`, or to the last finished one where that is earlier or `last` is None.

    Raises:
        SettingsError: `last` is before `first`, or `first` before the calendar begins.
        NoSession: there is none that is finished.
    """
    if first < FIRST_DATE:
        raise SettingsError(f"{first} is before {FIRST_DATE}, where the NYSE calendar begins", hint="give --from a later date")
    if last is not None and last < first:
        raise SettingsError(f"the range ends before it begins: {first} to {last}", hint="give --from the earlier date")
    finished = last_finished(now)
    end = finished if last is None else min(last, finished)
    if not (found := between(first, end)):
        raise NoSession(f"there is no finished session from {first} to {end if last is None else last}")
    cut = last is not None and last >= next_due(now)
    return Selection(found, (f"{last} is past the last finished session: taken as {finished}",) if cut else ())


def settled(session: date) -> str:
    """When a session's bars are there for every plan, as a person reads it."""
    return f"{session + timedelta(days=1)} {SETTLED:%H:%M} New York"
