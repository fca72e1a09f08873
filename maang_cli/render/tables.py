"""Results as people read them: tables and lines."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from functools import singledispatch
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from maang_cli.backfill import Backfilled, Plan, spans
from maang_cli.checks import Audit
from maang_cli.doctor import Checkup
from maang_cli.pipeline import Cumulated, DayRun, Dropped, Ingested, Initialized, Published, Rows
from maang_cli.render.lines import absent, bytes_of, line, plural
from maang_cli.sessions import settled
from maang_cli.status import Status

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import pyarrow as pa
    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult

    from maang_cli.warehouses.base import Replaced, Tidied

FEW = 10
"""Tickers that are named where there may be thousands."""


@dataclass(frozen=True)
class Maintained:
    warehouse: str
    tidied: tuple[Tidied, ...] | None
    """None: the platform looks after its tables by itself."""


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
    yield escape(f"{value.replaced.table}: {line(value)}{absent(value.absent)}")


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
        yield from _refusals(value.refused)
    if value.absent:
        yield escape(absent(value.absent).removeprefix("; "))


@people.register(Checkup)
def _(value: Checkup) -> Iterator[str | Table]:
    table = _table("look", "", "found")
    for finding in value.findings:
        state = Text("failed", style="bold red") if finding.error else Text("ok", style="green")
        hint = f"\nhint: {finding.error.hint}" if finding.error else ""
        table.add_row(Text(finding.name), state, Text(finding.said + hint))
    yield table


def _refusals(refused: Mapping[date, Sequence[str]]) -> Iterator[str]:
    for day, names in refused.items():
        yield escape(f"{day} refused: {', '.join(names)}")


def _changes(*done: Replaced) -> Table:
    table = _table("table", "new", "changed", "unchanged", "removed")
    for each in done:
        table.add_row(Text(each.table), *map(str, (each.inserted, each.updated, each.unchanged, each.deleted)))
    return table


@people.register(DayRun)
def _(value: DayRun) -> Iterator[RenderableType]:
    yield _changes(value.published.replaced, value.cumulated.replaced)
    yield from _refusals(value.audit.refused)


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
        yield f"{what}: {spans(days)} ({plural(len(days), 'session')}): {', '.join(names[:FEW])}{more}"


@people.register(Backfilled)
def _(value: Backfilled) -> Iterator[str | Table]:
    yield _changes(value.production, value.cumulative)
    whole = len(value.plan.request.sessions) - len(value.plan.holes.missing)
    said = f"{plural(len(value.published), 'session')} published, {whole} were whole, {plural(value.calls, 'call')}"
    yield (
        said
        + (f", {len(value.refused)} refused" if value.refused else "")
        + (f", {len(value.failed)} not to be had" if value.failed else "")
    )
    yield from _refusals(value.refused)
    for day, failure in value.failed.items():
        yield escape(f"{day} not to be had: {failure.message}")
    for name in value.kept:
        yield escape(f"refused rows are kept in {name}")
    if value.absent:
        names_of = ", ".join(f"{name} ({plural(days, 'session')})" for name, days in value.absent.items())
        yield escape(f"absent, as --allow-missing lets them: {names_of}")


@people.register(Status)
def _(value: Status) -> Iterator[str | Table]:
    table = _table("table", "first", "last", "rows", "tickers", "size", "snapshots")
    for found in value.tables:
        snapshots = "?" if found.size.snapshots is None else str(found.size.snapshots)
        counts = (str(found.first), str(found.last), str(found.rows), str(found.tickers), bytes_of(found.size.bytes), snapshots)
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
        yield escape(f"staging: {left.table}, {plural(left.rows, 'row')}; {why}")
    first, last = value.request.sessions[0], value.request.sessions[-1]
    if value.whole:
        yield escape(f"whole: {plural(len(value.request.sessions), 'session')} from {first} to {last}")


@people.register(Maintained)
def _(value: Maintained) -> Iterator[str | Table]:
    if value.tidied is None:
        yield f"nothing to do: {escape(value.warehouse)} looks after its tables by itself"
        return
    for done in value.tidied:
        what = f"{plural(done.snapshots, 'snapshot')} expired, {plural(done.files, 'file')} removed, {bytes_of(done.bytes)} freed"
        yield escape(f"{done.table}: {what}")
    if not value.tidied:
        yield "nothing to do: there is no table"


@people.register(Rows)
def _(value: Rows) -> Iterator[RenderableType]:
    yield _Rows(value.rows)
    yield f"{plural(value.rows.num_rows, 'row')} of {escape(value.table)}"


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
