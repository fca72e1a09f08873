"""The message about a failed run, for people who did not watch it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from functools import singledispatch

from maang_cli.backfill import Backfilled, Compared
from maang_cli.checks import Audit, Outcome
from maang_cli.errors import ExitCode
from maang_cli.missing import brief_spans
from maang_cli.pipeline import DayRun
from maang_cli.render.lines import failing_row
from maang_cli.render.tables import missing_bars, refusals, revised, stale_windows, unavailable
from maang_cli.status import Status

FEW_ROWS = 5
"""How many failing rows of a check are listed."""
MOST_CHARACTERS = 1900
"""What the details may bring a message to. Discord refuses a message of more than 2000 characters, which is the least of the
usual services."""

MOST_OF_ERROR = 1000
"""Characters of the error that a message has."""


@dataclass(frozen=True)
class Message:
    title: str
    body: str


def message(command: str, sessions: Sequence[date], code: int, error: str, hint: str, result: object) -> Message:
    """What to tell about a run that exited with this code and this error.

    `result`: what the command found until then, if anything.
    """
    ended = ExitCode(code)
    run = f"maang {command} {brief_spans(sessions) if sessions else ''}".rstrip()
    first = [ended.meaning, f"error: {error if len(error) <= MOST_OF_ERROR else f'{error[:MOST_OF_ERROR]}..'}"]
    last = [f"hint: {line}" for line in hint.splitlines()]
    room = MOST_CHARACTERS - len("\n".join([*first, *last]))
    details = list(_details(result))
    shown = []
    for detail in details:
        room -= len(detail) + 1
        if room < 0:
            break
        shown.append(detail)
    left_out = len(details) - len(shown)
    more = [f"and {left_out} more line{'s' * (left_out != 1)}"] if left_out else []
    return Message(f"{run}: {ended.name.lower()} (exit code {code})", "\n".join([*first, *shown, *more, *last]))


@singledispatch
def _details(_result: object) -> Iterator[str]:
    yield from ()


@_details.register
def _audit(value: Audit) -> Iterator[str]:
    for failed in value.failed:
        number = failed.counts[Outcome.REFUSED]
        yield f"{failed.check.name} ({failed.check.promise}): {number} failing"
        rows = [row for row in failed.rows if row.outcome is Outcome.REFUSED][:FEW_ROWS]
        yield from (f"  {failing_row(row)}" for row in rows)
        if number > len(rows):
            yield f"  and {number - len(rows)} more"


@_details.register
def _day_run(value: DayRun) -> Iterator[str]:
    yield from _audit(value.audit)


@_details.register
def _backfilled(value: Backfilled) -> Iterator[str]:
    yield from refusals(value.refused, value.audits)
    yield from unavailable(value.failed)
    for audit in value.audits:
        yield from _audit(audit)


@_details.register
def _compared(value: Compared) -> Iterator[str]:
    yield from revised(value.differences)
    yield from unavailable(value.failed)


@_details.register
def _status(value: Status) -> Iterator[str]:
    yield from missing_bars(value)
    yield from stale_windows(value)
