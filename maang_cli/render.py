"""Results for people and for programs: lines and tables, or one JSON document. stdout is the result, stderr is narration."""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager
from dataclasses import asdict
from datetime import date, datetime
from decimal import Decimal
from functools import singledispatch
from typing import IO, TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from maang_cli.checks import Audit, FailingRow
from maang_cli.doctor import Checkup
from maang_cli.errors import NoSession
from maang_cli.pipeline import Cumulated, DayRun, Dropped, Ingested, Initialized, Published, Rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import pyarrow as pa
    from rich.console import ConsoleOptions, RenderableType, RenderResult

    from maang_cli.warehouses.base import Replaced

LOG_WIDTH = 120
"""Columns where there is no terminal to ask, as in a task's log."""


def console(stream: IO[str]) -> Console:
    return Console(file=stream, highlight=False, width=None if stream.isatty() else LOG_WIDTH)


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
    return f"{passed} of {len(value.results)} checks passed" + _absent(value.absent)


@line.register(Published)
def _(value: Published) -> str:
    return _changes(value.replaced, "row")


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


def _changes(value: Replaced, noun: str) -> str:
    """`5 rows new`, `1 row new, 2 rows changed`, or `5 rows unchanged`."""
    counts = {"new": value.inserted, "changed": value.updated, "removed": value.deleted, "unchanged": value.unchanged}
    return ", ".join(f"{_plural(number, noun)} {how}" for how, number in counts.items() if number) or f"no {noun}s"


def _plural(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _absent(rows: Iterable[FailingRow]) -> str:
    names = ", ".join(str(row.ticker) for row in rows)
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
    table = _table("check", "promise", "failing", "rows")
    for outcome in value.results:
        rows = "\n".join(f"{row.ticker} {row.date}: {row.found}" for row in outcome.rows)
        more = outcome.failing - len(outcome.rows)
        name = Text(outcome.check.name, style="bold red" if outcome.failing else "green")
        counted = str(outcome.failing) if outcome.failing else "none"
        table.add_row(name, Text(outcome.check.promise), counted, Text(rows + (f"\nand {more} more" if more else "")))
    yield table
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


@people.register(DayRun)
def _(value: DayRun) -> Iterator[RenderableType]:
    table = _table("table", "new", "changed", "unchanged", "removed")
    for done in (value.published.replaced, value.cumulated.replaced):
        counts = (done.inserted, done.updated, done.unchanged, done.deleted)
        table.add_row(Text(done.table), *map(str, counts))
    yield table


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


@document.register(Published)
def _(value: Published) -> dict[str, Any]:
    return asdict(value.replaced) | {"absent": [asdict(row) for row in value.absent]}


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
