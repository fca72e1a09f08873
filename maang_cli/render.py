"""Results for people and for programs: lines and tables, or one JSON document. stdout is the result, stderr is narration."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import date, datetime
from decimal import Decimal
from functools import singledispatch
from typing import IO, TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from maang_cli.backfill import Backfilled, Plan, Tally, Windows, spans
from maang_cli.checks import Audit, FailingRow
from maang_cli.doctor import Checkup
from maang_cli.errors import NoSession
from maang_cli.pipeline import Cumulated, DayRun, Dropped, Ingested, Initialized, Published, Rows
from maang_cli.sessions import settled
from maang_cli.status import Status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    import pyarrow as pa
    from rich.console import ConsoleOptions, RenderableType, RenderResult

    from maang_cli.warehouses.base import Replaced, Tidied

FEW = 10
"""Tickers that are named where there may be thousands."""
LINE_SECONDS = 5
"""Between two lines about how far a backfill is."""
LOG_WIDTH = 120
"""Columns where there is no terminal to ask, as in a task's log."""


def console(stream: IO[str]) -> Console:
    return Console(file=stream, highlight=False, width=None if stream.isatty() else LOG_WIDTH)


@dataclass(frozen=True)
class Maintained:
    warehouse: str
    tidied: tuple[Tidied, ...] | None
    """None: the platform looks after its tables by itself."""


class Narrator:
    """Says on stderr what is being done: a spinner on a terminal, then a line for each step that has something to say."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._console = console(sys.stderr)

    @contextmanager
    def step(self, name: str) -> Iterator[Callable[[object], None]]:
        def done(result: object) -> None:
            if (said := line(result)) and not self._quiet:
                self._console.print(f"[bold]{name:<12}[/]  {escape(said)}", soft_wrap=True)

        if self._quiet or not self._console.is_terminal:
            yield done
        else:
            with self._console.status(name):
                yield done

    def say(self, text: str) -> None:
        if not self._quiet:
            self._console.print(escape(text), soft_wrap=True)

    @contextmanager
    def meter(self) -> Iterator[Callable[[Tally], None]]:
        """Shows how far a backfill is: a bar on a terminal, a line every few seconds elsewhere."""
        if self._quiet:
            yield lambda _tally: None
        elif self._console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[said]}"))
            with Progress(*columns, console=self._console, transient=True) as progress:
                task = progress.add_task("backfill", total=None, said="")

                def show(tally: Tally) -> None:
                    steps = (tally.calls + tally.sessions, tally.all_calls + tally.all_sessions)
                    progress.update(task, completed=steps[0], total=steps[1], said=line(tally))

                yield show
        else:
            told = time.monotonic()

            def tell(tally: Tally) -> None:
                nonlocal told
                if time.monotonic() - told >= LINE_SECONDS:
                    told = time.monotonic()
                    self.say(f"{'backfill':<12}  {line(tally)}")

            yield tell

    def agrees(self, plan: str) -> bool:
        """Whether the user wants it, asked on the terminal; False where there is none."""
        if not (sys.stdin.isatty() and self._console.is_terminal):
            return False
        self._console.print(Text(f"{plan}; go on? [y/N] "), end="", soft_wrap=True)  # in a string [y/N] would be markup
        return sys.stdin.readline().strip().lower() in ("y", "yes")


def error(message: str, hint: str) -> None:
    """The two lines of a foreseen failure, on stderr; without a hint it is a plain line."""
    out = console(sys.stderr)
    if not hint:
        out.print(Text(message), soft_wrap=True)
        return
    out.print(Text.assemble(("error: ", "bold red"), message), soft_wrap=True)
    out.print(Text.assemble(("hint: ", "bold"), hint), soft_wrap=True)


def result(value: object, *, as_json: bool) -> None:
    """A step's result on stdout."""
    if as_json:
        sys.stdout.write(json.dumps(document(value), indent=2, default=_plain, ensure_ascii=False) + "\n")
    else:
        for part in people(value):
            console(sys.stdout).print(part, soft_wrap=isinstance(part, str))


@singledispatch
def line(value: object) -> str:
    """A result in one line; empty when there is nothing to say."""
    raise TypeError(f"no line for {type(value).__name__}")


@line.register(Initialized)
def _(value: Initialized) -> str:
    return f"created {', '.join(value.created)}" if value.created else ""


@line.register(Ingested)
def _(value: Ingested) -> str:
    return f"{_plural(value.rows, 'bar')} from {value.source}{', made up' if value.made_up else ''}"


@line.register(Audit)
def _(value: Audit) -> str:
    passed = len(value.results) - len(value.failed)
    return f"{passed} of {len(value.results)} checks passed" + _refused(value) + _absent(value.absent)


@line.register(Published)
def _(value: Published) -> str:
    return _changes(value.replaced, "row") + _refused(value.audit)


@line.register(Cumulated)
def _(value: Cumulated) -> str:
    said = _changes(value.replaced, "window")
    if value.holes:
        days = [day for day, _ in value.holes]
        span = str(days[0]) if len(days) == 1 else f"{days[0]} to {days[-1]}"
        said += f"; some are short: production lacks bars on {_plural(len(days), 'session')} ({span})"
    return said


@line.register(Dropped)
def _(_value: Dropped) -> str:
    return ""


@line.register(Plan)
def _(value: Plan) -> str:
    if not value.batches and not value.windows:
        return f"nothing to do: {_plural(len(value.request.sessions), 'session')} whole"
    pace = f" at {value.per_minute} a minute" if value.per_minute else ""
    return (
        f"{_plural(len(value.holes.missing), 'session')} to fetch, {_plural(value.calls.number, 'call')}{pace}, "
        f"about {_plural(value.rows, 'row')}, {_plural(value.commits, 'commit')}, {_duration(value.seconds)}"
    )


@line.register(Tally)
def _(value: Tally) -> str:
    left = "" if value.seconds_left is None else f", {_duration(value.seconds_left)} left"
    return (
        f"{value.sessions} of {_plural(value.all_sessions, 'session')}, {_plural(value.rows, 'row')}, "
        f"{value.calls} of {_plural(value.all_calls, 'call')}{left}"
    )


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _bytes(number: int | None) -> str:
    if number is None:
        return "?"
    return f"{number / 1e6:.1f} MB" if number >= 100_000 else f"{number / 1e3:.1f} KB"


def _changes(value: Replaced, noun: str) -> str:
    """`5 rows new`, `1 row new, 2 rows changed`, or `5 rows unchanged`."""
    counts = {"new": value.inserted, "changed": value.updated, "removed": value.deleted, "unchanged": value.unchanged}
    return ", ".join(f"{_plural(number, noun)} {how}" for how, number in counts.items() if number) or f"no {noun}s"


def _plural(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _refused(value: Audit) -> str:
    """Which of several sessions the gate refuses."""
    if len(value.sessions) == 1 or not value.refused:
        return ""
    return f"; {len(value.refused)} of {_plural(len(value.sessions), 'session')} refused"


def _absent(rows: Iterable[FailingRow]) -> str:
    """Each ticker once, with on how many sessions where there are several."""
    days = Counter(str(row.ticker) for row in rows)
    names = ", ".join(name if count == 1 else f"{name} ({count} sessions)" for name, count in days.items())
    return f"; absent, as --allow-missing lets them: {names}" if names else ""


@singledispatch
def people(value: object) -> Iterator[RenderableType]:
    """A result as a person reads it: its line, or a table."""
    yield escape(line(value))


@people.register(Initialized)
def _(value: Initialized) -> Iterator[RenderableType]:
    for name in value.created:
        yield f"created {escape(name)}"
    for name in value.present:
        yield f"{escape(name)} was there"


@people.register(Ingested)
def _(value: Ingested) -> Iterator[RenderableType]:
    yield escape(f"{line(value)}, staged in {value.staging}")


@people.register(Published)
def _(value: Published) -> Iterator[RenderableType]:
    yield escape(f"{value.replaced.table}: {line(value)}{_absent(value.absent)}")


@people.register(Cumulated)
def _(value: Cumulated) -> Iterator[RenderableType]:
    yield escape(f"{value.replaced.table}: {line(value)}")


@people.register(Dropped)
def _(value: Dropped) -> Iterator[RenderableType]:
    yield f"dropped {escape(value.staging)}" if value.dropped else f"there was no {escape(value.staging)}"


@people.register(Audit)
def _(value: Audit) -> Iterator[RenderableType]:
    table = _table("check", "promise", "failing", "which rows")
    for outcome in value.results:
        rows = "\n".join(f"{row.ticker} {row.date}: {row.found}" for row in outcome.rows)
        more = outcome.failing - len(outcome.rows)
        name = Text(outcome.check.name, style="bold red" if outcome.failing else "green")
        counted = str(outcome.failing) if outcome.failing else "none"
        table.add_row(name, Text(outcome.check.promise), counted, Text(rows + (f"\nand {more} more" if more else "")))
    yield table
    if len(value.sessions) > 1:
        yield from map(escape, _refusals(value))
    if value.absent:
        yield escape(_absent(value.absent).removeprefix("; "))


@people.register(Checkup)
def _(value: Checkup) -> Iterator[str | Table]:
    table = _table("look", "", "found")
    for finding in value.findings:
        state = Text("failed", style="bold red") if finding.error else Text("ok", style="green")
        hint = f"\nhint: {finding.error.hint}" if finding.error else ""
        table.add_row(Text(finding.name), state, Text(finding.said + hint))
    yield table


def _refusals(value: Audit) -> Iterator[str]:
    for day, names in value.refused.items():
        yield f"{day} refused: {', '.join(names)}"


@people.register(DayRun)
def _(value: DayRun) -> Iterator[RenderableType]:
    table = _table("table", "new", "changed", "unchanged", "removed")
    for done in (value.published.replaced, value.cumulated.replaced):
        counts = (done.inserted, done.updated, done.unchanged, done.deleted)
        table.add_row(Text(done.table), *map(str, counts))
    yield table
    yield from map(escape, _refusals(value.audit))


@people.register(Plan)
def _(value: Plan) -> Iterator[str | Table]:
    yield escape(line(value))
    yield from map(escape, _gaps(value.holes.missing, "to fetch"))
    yield from map(escape, _gaps(value.holes.excused, "left out, as --allow-missing lets it"))
    if value.windows:
        yield f"windows to make: {escape(spans(value.windows))}"


def _gaps(holes: Mapping[date, frozenset[str]], what: str) -> Iterator[str]:
    """Sessions with what they lack: sessions that lack the same are one line."""
    groups: dict[frozenset[str], list[date]] = {}
    for day, tickers in holes.items():
        groups.setdefault(tickers, []).append(day)
    for tickers, days in groups.items():
        names = sorted(tickers)
        more = f" and {len(names) - FEW} more" if len(names) > FEW else ""
        yield f"{what}: {spans(days)} ({_plural(len(days), 'session')}): {', '.join(names[:FEW])}{more}"


@people.register(Backfilled)
def _(value: Backfilled) -> Iterator[str | Table]:
    table = _table("table", "new", "changed", "unchanged", "removed")
    for done in (value.production, value.cumulative):
        table.add_row(Text(done.table), *map(str, (done.inserted, done.updated, done.unchanged, done.deleted)))
    yield table
    whole = len(value.plan.request.sessions) - len(value.plan.holes.missing)
    said = f"{_plural(len(value.published), 'session')} published, {whole} were whole, {_plural(value.calls, 'call')}"
    yield (
        said
        + (f", {len(value.refused)} refused" if value.refused else "")
        + (f", {len(value.failed)} not to be had" if value.failed else "")
    )
    for day, names in value.refused.items():
        yield escape(f"{day} refused: {', '.join(names)}")
    for day, failure in value.failed.items():
        yield escape(f"{day} not to be had: {failure.message}")
    for name in value.kept:
        yield escape(f"refused rows are kept in {name}")
    if value.absent:
        names_of = ", ".join(f"{name} ({_plural(days, 'session')})" for name, days in value.absent.items())
        yield escape(f"absent, as --allow-missing lets them: {names_of}")


@people.register(Status)
def _(value: Status) -> Iterator[str | Table]:
    table = _table("table", "first", "last", "rows", "tickers", "size", "snapshots")
    for found in value.tables:
        snapshots = "?" if found.size.snapshots is None else str(found.size.snapshots)
        counts = (str(found.first), str(found.last), str(found.rows), str(found.tickers), _bytes(found.size.bytes), snapshots)
        table.add_row(Text(found.table), *counts)
    yield table
    due = f"next due {value.next_due}: {settled(value.next_due)}"
    yield escape(f"last session {value.last_held}, last finished {value.last_finished}, {due}")
    yield from map(escape, _gaps(value.holes.missing, "gap"))
    yield from map(escape, _gaps(value.holes.excused, "absent, as --allow-missing lets it"))
    for name, what in (("missing", "windows missing"), ("stale", "windows stale")):
        days = [day for day, windows in value.windows.items() if getattr(windows, name)]
        if days:
            number = sum(getattr(windows, name) for windows in value.windows.values())
            yield escape(f"{what}: {number} ({spans(days)})")
    for left in value.staging:
        why = "all of it is published" if left.published else "refused, or of a run that is under way or was killed"
        yield escape(f"staging: {left.table}, {_plural(left.rows, 'row')}; {why}")
    first, last = value.request.sessions[0], value.request.sessions[-1]
    if value.whole:
        yield escape(f"whole: {_plural(len(value.request.sessions), 'session')} from {first} to {last}")


@people.register(Maintained)
def _(value: Maintained) -> Iterator[str | Table]:
    if value.tidied is None:
        yield f"nothing to do: {escape(value.warehouse)} looks after its tables by itself"
        return
    for done in value.tidied:
        what = f"{_plural(done.snapshots, 'snapshot')} expired, {_plural(done.files, 'file')} removed, {_bytes(done.bytes)} freed"
        yield escape(f"{done.table}: {what}")
    if not value.tidied:
        yield "nothing to do: there is no table"


@people.register(Rows)
def _(value: Rows) -> Iterator[RenderableType]:
    yield _Rows(value.rows)
    yield f"{_plural(value.rows.num_rows, 'row')} of {escape(value.table)}"


class _Rows:
    """Rows as a table where it fits, else as a record each: values stay whole."""

    def __init__(self, rows: pa.Table) -> None:
        self._rows = rows.to_pylist()
        self._table = _table(*rows.column_names)
        for row in self._rows:
            self._table.add_row(*(Text(_cell(cell)) for cell in row.values()))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if Measurement.get(console, options.update(max_width=10_000), self._table).maximum <= options.max_width:
            yield self._table
        else:
            yield from map(_record, self._rows)


def _record(row: dict[str, object]) -> Table:
    """One row, a line for each column: rows with arrays are too wide for one line."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column(str(row.pop("ticker")))
    table.add_column(str(row.pop("date")), overflow="fold")
    for name, value in row.items():
        table.add_row(name, Text(_cell(value)))
    return table


def _table(*columns: str) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column in _NUMBERS else "left", overflow="fold")
    return table


_NUMBERS = frozenset(
    [
        "rows",
        "tickers",
        "size",
        "snapshots",
        "new",
        "changed",
        "unchanged",
        "removed",
        "failing",
        "open",
        "high",
        "low",
        "close",
        "volume",
        "vwap",
        "transactions",
        "avg_7_day_volume",
        "volatility_7_day",
    ]
)


def _cell(value: object) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, list):
        return " ".join(map(_cell, value))
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%SZ}"
    return str(value)


@singledispatch
def document(value: object) -> dict[str, Any]:
    """A result as a JSON object. Decimals are strings, so that no reader turns them into floats; dates are ISO 8601."""
    return asdict(value)  # type: ignore[call-overload, no-any-return]


@document.register(Audit)
def _(value: Audit) -> dict[str, Any]:
    return {
        "passed": value.passed,
        "sessions": list(value.sessions),
        "staging": value.staging,
        "checks": [
            {
                "name": outcome.check.name,
                "promise": outcome.check.promise,
                "failing": outcome.failing,
                "rows": [asdict(row) for row in outcome.rows],
            }
            for outcome in value.results
        ],
        "refused": _refused_sessions(value),
        "absent": [asdict(row) for row in value.absent],
    }


@document.register(Checkup)
def _(value: Checkup) -> dict[str, Any]:
    return {
        "findings": [
            {"name": each.name, "ok": each.error is None, "said": each.said, "hint": each.error.hint if each.error else None}
            for each in value.findings
        ]
    }


def _refused_sessions(value: Audit) -> list[dict[str, Any]]:
    return [{"session": day, "checks": list(names)} for day, names in value.refused.items()]


@document.register(Published)
def _(value: Published) -> dict[str, Any]:
    return asdict(value.replaced) | {
        "refused": _refused_sessions(value.audit),
        "absent": [asdict(row) for row in value.absent],
    }


@document.register(Cumulated)
def _(value: Cumulated) -> dict[str, Any]:
    return asdict(value.replaced) | {"holes": [{"date": day, "tickers": held} for day, held in value.holes]}


@document.register(DayRun)
def _(value: DayRun) -> dict[str, Any]:
    return {
        "ingest": document(value.ingested),
        "check": document(value.audit),
        "promote": document(value.published),
        "cumulate": document(value.cumulated),
    }


@document.register(NoSession)
def _(value: NoSession) -> dict[str, Any]:
    return {"no_session": value.message}


@document.register(Plan)
def _(value: Plan) -> dict[str, Any]:
    return {
        "sessions": len(value.request.sessions),
        "missing": _lacking(value.holes.missing),
        "excused": _lacking(value.holes.excused),
        "windows": _windows(value.windows),
        "calls": value.calls.number,
        "grouped_calls": len(value.calls.grouped),
        "range_calls": len(value.calls.ranges),
        "calls_per_minute": value.per_minute,
        "minutes": round(value.seconds / 60, 1),
        "batches": len(value.batches),
        "commits": value.commits,
        "rows": value.rows,
    }


def _lacking(holes: Mapping[date, frozenset[str]]) -> list[dict[str, Any]]:
    return [{"session": day, "tickers": sorted(tickers)} for day, tickers in holes.items()]


def _windows(found: Mapping[date, Windows]) -> list[dict[str, Any]]:
    return [{"session": day, "missing": windows.missing, "stale": windows.stale} for day, windows in found.items()]


@document.register(Backfilled)
def _(value: Backfilled) -> dict[str, Any]:
    return {
        "sessions": len(value.plan.request.sessions),
        "published": value.published,
        "production": asdict(value.production),
        "cumulative": asdict(value.cumulative),
        "calls": value.calls,
        "refused": [{"session": day, "checks": list(names)} for day, names in value.refused.items()],
        "failed": [{"session": day, "error": failure.message} for day, failure in value.failed.items()],
        "staging": value.kept,
        "absent": value.absent,
    }


@document.register(Status)
def _(value: Status) -> dict[str, Any]:
    return {
        "whole": value.whole,
        "from": value.request.sessions[0],
        "to": value.request.sessions[-1],
        "tables": [asdict(found) for found in value.tables],
        "gaps": _lacking(value.holes.missing),
        "excused": _lacking(value.holes.excused),
        "windows": _windows(value.windows),
        "staging": [asdict(left) for left in value.staging],
        "last_session": value.last_held,
        "last_finished": value.last_finished,
        "next_due": value.next_due,
        "next_due_at": settled(value.next_due),
    }


@document.register(Rows)
def _(value: Rows) -> dict[str, Any]:
    return {"table": value.table, "rows": value.rows.to_pylist()}


def _plain(value: object) -> str:
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, date):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} in a result")
