"""When NYSE does not trade, and why: its rules (https://www.nyse.com/markets/hours-calendars), and what no rule foresaw.

Rules that began after 1990 carry their first year. A test compares every day from 1990 to 2060 with `exchange_calendars`.
"""

from collections.abc import Iterable, Iterator
from datetime import date, timedelta
from functools import cache

MONDAY, THURSDAY = 0, 3

UNSCHEDULED = {
    date(1994, 4, 27): "Funeral of former President Richard M. Nixon",
    date(2001, 9, 11): "Attacks on the World Trade Center",
    date(2001, 9, 12): "Attacks on the World Trade Center",
    date(2001, 9, 13): "Attacks on the World Trade Center",
    date(2001, 9, 14): "Attacks on the World Trade Center",
    date(2004, 6, 11): "National Day of Mourning for former President Ronald Reagan",
    date(2007, 1, 2): "National Day of Mourning for former President Gerald R. Ford",
    date(2012, 10, 29): "Hurricane Sandy",
    date(2012, 10, 30): "Hurricane Sandy",
    date(2018, 12, 5): "National Day of Mourning for former President George H. W. Bush",
    date(2025, 1, 9): "National Day of Mourning for former President Jimmy Carter",
}


_declared: frozenset[date] = frozenset()
"""Closures that the user has declared, of which this version does not know."""


def declare_closed(days: Iterable[date]) -> None:
    """NYSE did not, or will not, trade on these days: from now on, in this process. They replace those declared before."""
    global _declared  # noqa: PLW0603 - the calendar is a fact about the world, and every module asks it
    _declared = frozenset(days)


def why_closed(day: date) -> str | None:
    """Why NYSE did not, or will not, trade on `day` ("Saturday", "Thanksgiving Day"); None for a session."""
    if day.weekday() >= 5:
        return f"{day:%A}"
    if day in _declared:
        return "closed, as MAANG_CLOSED says"
    return UNSCHEDULED.get(day) or _holidays(day.year).get(day)


@cache
def _holidays(year: int) -> dict[date, str]:
    return dict(_rules(year))


def _rules(year: int) -> Iterator[tuple[date, str]]:
    new_year = date(year, 1, 1)
    if new_year.weekday() != 5:  # on a Saturday it is not made up for, because the Friday ends the accounting year
        yield _observed(new_year, "New Year's Day")
    if year >= 1998:
        yield _weekday(year, 1, MONDAY, 3), "Martin Luther King Jr. Day"
    yield _weekday(year, 2, MONDAY, 3), "Washington's Birthday"
    yield _easter(year) - timedelta(days=2), "Good Friday"
    yield _weekday(year, 6, MONDAY, 1) - timedelta(days=7), "Memorial Day"
    if year >= 2022:
        yield _observed(date(year, 6, 19), "Juneteenth National Independence Day")
    yield _observed(date(year, 7, 4), "Independence Day")
    yield _weekday(year, 9, MONDAY, 1), "Labor Day"
    yield _weekday(year, 11, THURSDAY, 4), "Thanksgiving Day"
    yield _observed(date(year, 12, 25), "Christmas Day")


def _observed(day: date, name: str) -> tuple[date, str]:
    """A holiday on a Saturday closes the exchange on the Friday before, one on a Sunday on the Monday after."""
    shift = {5: -1, 6: 1}.get(day.weekday(), 0)
    return day + timedelta(days=shift), f"{name} (observed)" if shift else name


def _weekday(year: int, month: int, weekday: int, number: int) -> date:
    """The month's first (1), second, .. day of this weekday."""
    first = date(year, month, 1)
    return first + timedelta(days=(weekday - first.weekday()) % 7 + 7 * (number - 1))


def _easter(year: int) -> date:
    """Easter Sunday by the Gregorian computus as J.-M. Oudin gave it in 1940 (https://aa.usno.navy.mil/faq/easter)."""
    century, golden = year // 100, year % 19
    moon = (century - century // 4 - (century - (century - 17) // 25) // 3 + 19 * golden + 15) % 30
    moon -= moon // 28 * (1 - 29 // (moon + 1) * ((21 - golden) // 11))
    after = moon - (year + year // 4 + moon + 2 - century + century // 4) % 7
    month = 3 + (after + 40) // 44
    return date(year, month, after + 28 - 31 * (month // 4))
