"""NYSE sessions as pure functions on New York dates."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from maang_cli.closures import why_closed
from maang_cli.errors import NoSession, NotPublishedYet, SettingsError

NEW_YORK = ZoneInfo("America/New_York")
FIRST_DATE = date(1990, 1, 1)
"""The calendar is tested from this day on."""
WINDOW_LENGTH = 7
"""Sessions in a window, its own last session included."""
CLOSE = time(16, 0)
"""The regular close. On a day with an early close the vendor's bars also cover the hours after it."""
FINAL = time(6, 0)
"""When a session is final: this time of the next day, New York. By then the vendor serves it to every plan."""


def is_session(day: date) -> bool:
    return why_closed(day) is None


def _walk(day: date, step: int) -> Iterator[date]:
    """Sessions from `day` on, forward (step 1) or back (step -1). `day` comes first if it is a session."""
    while True:
        if is_session(day):
            yield day
        day += timedelta(days=step)


def window(session: date) -> tuple[date, ...]:
    """The last WINDOW_LENGTH sessions up to and including `session`, oldest first."""
    return before(session + timedelta(days=1), WINDOW_LENGTH)


def before(session: date, number: int) -> tuple[date, ...]:
    """The `number` sessions before a date, oldest first."""
    back = _walk(session - timedelta(days=1), -1)
    return tuple(reversed([next(back) for _ in range(number)]))


def affected(session: date) -> tuple[date, ...]:
    """The sessions whose windows contain `session`: itself and those after it, WINDOW_LENGTH in all, oldest first."""
    ahead = _walk(session, 1)
    return tuple(next(ahead) for _ in range(WINDOW_LENGTH))


def between(first: date, last: date) -> tuple[date, ...]:
    """All sessions from `first` to `last`, both included; empty if there is none."""
    days = (last - first).days + 1
    return tuple(day for day in (first + timedelta(days=n) for n in range(days)) if is_session(day))


def require(day: date, now: datetime, *, early: bool = True) -> date:
    """`day`, if it is a session that is over at `now` (an aware datetime); unless `early`, it must also be final.

    Raises:
        SettingsError: `day` is in the future, or before the calendar begins.
        NoSession: NYSE did not trade on `day`.
        NotPublishedYet: the session is not over, or not final.
    """
    here = now.astimezone(NEW_YORK)
    if day > here.date():
        raise SettingsError(
            f"{day} is in the future: in New York it is {here.date()}", hint="give --date a session that has ended"
        )
    if day < FIRST_DATE:
        raise SettingsError(f"{day} is before {FIRST_DATE}, when the NYSE calendar begins", hint="give --date a later session")
    if reason := why_closed(day):
        raise NoSession(f"{day} is not a session: {reason}")
    if day == here.date() and here.time() < CLOSE:
        raise NotPublishedYet(f"the session of {day} is not over", hint=f"try again after {final_at(day)}")
    if not early and not is_final(day, now):
        raise NotPublishedYet(
            f"the session of {day} is not final: its bars may still change",
            hint=f"try again after {final_at(day)}, or take it as it is now: maang run-day --date {day} --early{{flags}}",
        )
    return day


def final(session: date) -> datetime:
    """The moment at which a session is final. A row that was stored before is early: it may lack a part of the day."""
    return datetime.combine(session + timedelta(days=1), FINAL, NEW_YORK)


def is_final(session: date, now: datetime) -> bool:
    return final(session) <= now


def last_final(now: datetime) -> date:
    """The last session that is final at `now`, an aware datetime."""
    here = now.astimezone(NEW_YORK)
    return next(_walk(here.date() - timedelta(days=1 if here.time() >= FINAL else 2), -1))


def last_over(now: datetime) -> date:
    """The last session that is over at `now`, final or not."""
    here = now.astimezone(NEW_YORK)
    return next(_walk(here.date() - timedelta(days=0 if here.time() >= CLOSE else 1), -1))


def next_due(now: datetime) -> date:
    """The first session that is not final at `now`."""
    return next(_walk(last_final(now) + timedelta(days=1), 1))


@dataclass(frozen=True)
class Selection:
    sessions: tuple[date, ...]
    """In order, each once, at least one."""
    notes: tuple[str, ...] = ()
    """What was left out, and why, one line each."""


def select_dates(dates: Iterable[date], now: datetime, *, early: bool = True) -> Selection:
    """The sessions among `dates`. A single date must be a session; of several dates, those without a session are noted.
    `early`: see `require`.

    Raises:
        SettingsError, NotPublishedYet: as `require`.
        NoSession: no date is a session.
    """
    days = sorted(set(dates))
    if len(days) == 1:
        return Selection((require(days[0], now, early=early),))
    found, notes = [], []
    for day in days:
        try:
            found.append(require(day, now, early=early))
        except NoSession as exc:
            notes.append(exc.message)
    if not found:
        raise NoSession("; ".join(notes))
    return Selection(tuple(found), tuple(f"{note}; skipped" for note in notes))


def select_range(first: date, last: date | None, now: datetime, *, early: bool = False) -> Selection:
    """All sessions from `first` to `last`, or to the last final one if that is earlier or `last` is None.

    `early`: to the last one that is over.

    Raises:
        SettingsError: `last` is before `first`, or `first` before the calendar begins.
        NoSession: there is no such session in the range.
    """
    if first < FIRST_DATE:
        raise SettingsError(f"{first} is before {FIRST_DATE}, when the NYSE calendar begins", hint="give --from a later date")
    if last is not None and last < first:
        raise SettingsError(f"the range ends before it starts: {first} to {last}", hint="give --from the earlier date")
    newest, kind = (last_over(now), "finished") if early else (last_final(now), "final")
    end = newest if last is None else min(last, newest)
    if not (found := between(first, end)):
        raise NoSession(f"there is no {kind} session from {first} to {end if last is None else last}")
    cut = last is not None and bool(between(newest + timedelta(days=1), last))
    return Selection(found, (f"{last} is after the last {kind} session, so the range ends on {newest}",) if cut else ())


def select_newest(number: int, now: datetime) -> Selection:
    """The last `number` final sessions.

    Raises:
        SettingsError: the calendar does not reach back so far.
    """
    if number > len(between(FIRST_DATE, last_final(now))):
        raise SettingsError(f"there are no {number} sessions since {FIRST_DATE}", hint="give --last a smaller number")
    return Selection(before(last_final(now) + timedelta(days=1), number))


def final_at(session: date) -> str:
    """When a session is final, as a person reads it."""
    return in_new_york(final(session))


def in_new_york(moment: datetime) -> str:
    """An aware datetime, as a person reads it."""
    return f"{moment.astimezone(NEW_YORK):%Y-%m-%d %H:%M} New York"
