"""Results in one line each."""

from __future__ import annotations

from collections import Counter
from functools import singledispatch
from typing import TYPE_CHECKING

from maang_cli.backfill import Plan, Tally
from maang_cli.checks import Audit, FailingRow
from maang_cli.pipeline import Cumulated, Dropped, Ingested, Initialized, Published

if TYPE_CHECKING:
    from collections.abc import Iterable

    from maang_cli.warehouses.base import Replaced


@singledispatch
def line(value: object) -> str:
    """A result in one line; empty when there is nothing to say."""
    raise TypeError(f"no line for {type(value).__name__}")


@line.register(Initialized)
def _(value: Initialized) -> str:
    return f"created {', '.join(value.created)}" if value.created else ""


@line.register(Ingested)
def _(value: Ingested) -> str:
    return f"{plural(value.rows, 'bar')} from {value.source}{', made up' if value.made_up else ''}"


@line.register(Audit)
def _(value: Audit) -> str:
    passed = len(value.results) - len(value.failed)
    return f"{passed} of {len(value.results)} checks passed" + _refused(value) + absent(value.absent)


@line.register(Published)
def _(value: Published) -> str:
    return _changes(value.replaced, "row") + _refused(value.audit)


@line.register(Cumulated)
def _(value: Cumulated) -> str:
    said = _changes(value.replaced, "window")
    if value.holes:
        days = [day for day, _ in value.holes]
        span = str(days[0]) if len(days) == 1 else f"{days[0]} to {days[-1]}"
        said += f"; some are short: production lacks bars on {plural(len(days), 'session')} ({span})"
    return said


@line.register(Dropped)
def _(_value: Dropped) -> str:
    return ""


@line.register(Plan)
def _(value: Plan) -> str:
    if not value.batches and not value.windows:
        return f"nothing to do: {plural(len(value.request.sessions), 'session')} whole"
    pace = f" at {value.per_minute} a minute" if value.per_minute else ""
    in_hand = f", {plural(value.calls.in_hand, 'answer')} of an earlier run in hand" if value.calls.in_hand else ""
    return (
        f"{plural(len(value.holes.missing), 'session')} to fetch, {plural(value.calls.number, 'call')}{pace}{in_hand}, "
        f"about {plural(value.rows, 'row')}, {plural(value.commits, 'commit')}, {_duration(value.seconds)}"
    )


@line.register(Tally)
def _(value: Tally) -> str:
    left = "" if value.seconds_left is None else f", {_duration(value.seconds_left)} left"
    return (
        f"{value.sessions} of {plural(value.all_sessions, 'session')}, {plural(value.rows, 'row')}, "
        f"{value.calls} of {plural(value.all_calls, 'call')}{left}"
    )


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def bytes_of(number: int | None) -> str:
    if number is None:
        return "?"
    return f"{number / 1e6:.1f} MB" if number >= 100_000 else f"{number / 1e3:.1f} KB"


def _changes(value: Replaced, noun: str) -> str:
    """`5 rows new`, `1 row new, 2 rows changed`, or `5 rows unchanged`."""
    counts = {"new": value.inserted, "changed": value.updated, "removed": value.deleted, "unchanged": value.unchanged}
    return ", ".join(f"{plural(number, noun)} {how}" for how, number in counts.items() if number) or f"no {noun}s"


def plural(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _refused(value: Audit) -> str:
    """Which of several sessions the gate refuses."""
    if len(value.sessions) == 1 or not value.refused:
        return ""
    return f"; {len(value.refused)} of {plural(len(value.sessions), 'session')} refused"


def absent(rows: Iterable[FailingRow]) -> str:
    """Each ticker once, with on how many sessions where there are several."""
    days = Counter(str(row.ticker) for row in rows)
    names = ", ".join(name if count == 1 else f"{name} ({count} sessions)" for name, count in days.items())
    return f"; absent, as --allow-missing lets them: {names}" if names else ""
