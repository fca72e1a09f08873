"""Results as people read them: tables and lines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import singledispatch
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from maang_cli.backfill import Backfilled, Compared, Plan
from maang_cli.checks import Audit, Outcome
from maang_cli.config import Configuration
from maang_cli.diff import Differences
from maang_cli.doctor import Checkup
from maang_cli.errors import MaangError
from maang_cli.missing import FEW, brief_spans, few, spans
from maang_cli.pipeline import Cumulated, DayRun, Dropped, Ingested, Initialized, Published, Rows
from maang_cli.reading import Selected
from maang_cli.render.lines import (
    ALLOWED,
    EARLY,
    HELD,
    VANISHED,
    bytes_of,
    cell,
    changed_cells,
    failing_row,
    fetch_splits,
    line,
    plural,
    remarks,
    sparkline,
    split_line,
    universe,
)
from maang_cli.report import Written
from maang_cli.sessions import final_at, in_new_york
from maang_cli.status import Status
from maang_cli.user_splits import Edited, Listed
from maang_cli.warehouses.base import Cleanup, Replaced

if TYPE_CHECKING:
    import pyarrow as pa
    from rich.console import Console, ConsoleOptions, JustifyMethod, RenderableType, RenderResult


@dataclass(frozen=True)
class Maintained:
    warehouse: str
    cleanups: tuple[Cleanup, ...] | None
    """None: the platform maintains its tables by itself."""


@singledispatch
def people(value: object) -> Iterator[RenderableType]:
    """A result as a person reads it: its line, or a table."""
    yield escape(line(value))


@people.register(Initialized)
def _initialized(value: Initialized) -> Iterator[RenderableType]:
    for name in value.created:
        yield f"created {escape(name)}"
    for name in value.added:
        yield f"added the column {escape(name)}"
    for name in value.present:
        yield f"{escape(name)} already exists"
    if value.without_splits:
        yield escape(fetch_splits(value.without_splits))


@people.register(Ingested)
def _ingested(value: Ingested) -> Iterator[RenderableType]:
    yield escape(f"{line(value)}, staged in {value.staging}")


@people.register(Published)
def _published(value: Published) -> Iterator[RenderableType]:
    yield escape("; ".join([f"{value.replaced.table}: {line(value)}", *remarks(value.audit)]))
    yield from map(escape, revised(value.revised))


def revised(found: Differences | None) -> Iterator[str]:
    """The values that were changed, and the rows that the source no longer has."""
    if found is not None:
        yield from changed_cells(found)
        yield from _tickers(found.removed, VANISHED)


@people.register(Cumulated)
def _cumulated(value: Cumulated) -> Iterator[RenderableType]:
    yield escape(f"{value.replaced.table}: {line(value)}")


@people.register(Dropped)
def _dropped(value: Dropped) -> Iterator[RenderableType]:
    name = escape(value.staging)
    yield f"dropped {name}" if value.dropped else f"{name} was not dropped" if value.refused else f"there was no {name}"


@people.register(Differences)
def _differences(value: Differences) -> Iterator[RenderableType]:
    yield escape(f"{value.table}: {line(value)}")
    for how in ("new", "changed", "removed"):
        yield from map(escape, _tickers(getattr(value, how), how))
    yield from map(escape, changed_cells(value))


@people.register(Audit)
def _audit(value: Audit) -> Iterator[RenderableType]:
    failing = sorted((found for found in value.results if found.failing), key=lambda found: not found.refused)
    for found in failing:
        name = f"[bold red]{found.check.name} failed[/]" if found.refused else f"[yellow]{found.check.name}[/]"
        yield f"{name}: {escape(found.check.promise)}"
        for row in found.rows:
            yield escape(f"  {failing_row(row)}")
        if more := found.failing - len(found.rows):
            yield f"  and {more} more"
    others = len(value.results) - len(failing)
    yield f"{others} others passed" if failing else f"all {plural(others, 'check')} passed"
    if len(value.sessions) > 1:
        yield from map(escape, refusals(value.refused, [value]))
    yield from map(escape, remarks(value))


@people.register(Checkup)
def _checkup(value: Checkup) -> Iterator[str | Table]:
    table = _table("check", "", "found")
    for each in value.diagnoses:
        state = Text("failed", style="bold red") if each.error else Text("ok", style="green")
        hint = f"\nhint: {each.error.hint}" if each.error else ""
        table.add_row(Text(each.name), state, Text(each.found + hint))
    yield table


@people.register(Configuration)
def _configuration(value: Configuration) -> Iterator[RenderableType]:
    table = _table("setting", "value", "from")
    for setting in value.settings:
        table.add_row(setting.name, Text(_printable(setting.value or "none")), setting.origin)
    yield table
    if not value.config_file_exists:
        yield "there is no configuration file"
    for name in value.not_read:
        yield escape(f"note: {name} in this folder is not read; put its lines into the environment or the configuration file")
    for name, folder in value.folders.items():
        yield escape(f"{name}: {_printable(str(folder))}")
    if value.catalog is not None:
        yield escape(f"catalog: {_printable(value.catalog)}")
    for table_name, place in value.tables.items():
        yield escape(f"{table_name}: {_printable(place or 'the catalog names no metadata file')}")


def _printable(text: str) -> str:
    return text if text.isprintable() else repr(text)


def refusals(refused: Mapping[date, Sequence[str]], audits: Iterable[Audit]) -> Iterator[str]:
    """Refused sessions, a line for each cause: the checks that fail there, and the tickers, as far as the reports name them."""
    causes: dict[tuple[str, ...], list[date]] = {}
    for day, names in refused.items():
        causes.setdefault(tuple(names), []).append(day)
    rows = [row for audit in audits for _, row in audit.rows(Outcome.REFUSED)]
    for names, days in causes.items():
        tickers = sorted({row.ticker for row in rows if row.ticker and row.date in days})
        who = f": {few(tickers)}" if tickers else ""
        yield f"refused ({', '.join(names)}): {brief_spans(days)} ({plural(len(days), 'session')}){who}"


def _changes(*done: Replaced) -> Table:
    table = _table("table", "new", "changed", "unchanged", "removed")
    for each in done:
        table.add_row(Text(each.table), *map(str, (each.inserted, each.updated, each.unchanged, each.deleted)))
    return table


@people.register(DayRun)
def _day_run(value: DayRun) -> Iterator[RenderableType]:
    yield _changes(value.published.replaced, value.cumulated.replaced)
    yield from map(escape, remarks(value.audit))
    yield from map(escape, revised(value.published.revised))
    yield from map(escape, refusals(value.audit.refused, [value.audit]))


@people.register(Plan)
def _plan(value: Plan) -> Iterator[str | Table]:
    yield escape(line(value))
    yield escape(universe(value.request))
    first, last = value.request.sessions[0], value.request.sessions[-1]
    for entry in value.request.symbols.built_in(value.request.tickers, first, last):
        yield escape(f"{entry} (built in)")
    yield from map(escape, _tickers(value.bars.missing, "to fetch"))
    yield from map(escape, _tickers(value.bars.early, EARLY))
    yield from map(escape, _tickers(value.bars.allowed, ALLOWED))
    if value.windows:
        yield f"windows to refresh: {escape(spans(value.windows))}"


def _tickers(bars: Mapping[date, frozenset[str]], what: str) -> Iterator[str]:
    """Sessions with their tickers; sessions with the same tickers share a line."""
    groups: dict[frozenset[str], list[date]] = {}
    for day, tickers in bars.items():
        groups.setdefault(tickers, []).append(day)
    for tickers, days in groups.items():
        yield f"{what}: {spans(days)} ({plural(len(days), 'session')}): {few(sorted(tickers))}"


@people.register(Backfilled)
def _backfilled(value: Backfilled) -> Iterator[str | Table]:
    yield _changes(value.production, value.cumulative)
    complete = len(value.plan.request.sessions) - len(value.plan.to_fetch)
    yield (
        f"{plural(len(value.published), 'session')} published, {complete} already complete, {plural(value.calls, 'call')}"
        + (f", {len(value.refused)} refused" if value.refused else "")
        + (f", {len(value.failed)} unavailable" if value.failed else "")
    )
    yield from map(escape, refusals(value.refused, value.audits))
    yield from map(escape, unavailable(value.failed))
    for name in value.kept:
        yield escape(f"refused rows are kept in {name}")
    if value.allowed:
        names = ", ".join(f"{name} ({plural(days, 'session')})" for name, days in value.allowed.items())
        yield escape(f"{ALLOWED}: {names}")
    yield from map(escape, _tickers(value.held, HELD))
    yield from map(escape, revised(value.revised))


@people.register(Compared)
def _compared(value: Compared) -> Iterator[str]:
    found = value.differences
    yield escape(f"{found.table}: {line(found)}")
    for how, days in (("new", found.new), ("changed", found.changed)):
        yield from map(escape, _tickers(days, how))
    yield from map(escape, revised(found))
    yield from map(escape, unavailable(value.failed))


def unavailable(failed: Mapping[date, MaangError]) -> Iterator[str]:
    """Sessions that the source could not deliver: the first few, a line each, and the last."""
    days = list(failed)
    for day in days[:FEW]:
        yield f"{day} unavailable: {failed[day].message}"
    if len(days) > FEW:
        yield f"and {plural(len(days) - FEW, 'more session')} up to {days[-1]}"


@people.register(Status)
def _status(value: Status) -> Iterator[str | Table]:
    table = _table("table", "first", "last", "rows", "tickers", "size", "snapshots")
    for summary in value.tables:
        snapshots = "?" if summary.size.snapshots is None else str(summary.size.snapshots)
        table.add_row(
            Text(summary.table),
            *("" if day is None else str(day) for day in (summary.first, summary.last)),
            *map(str, (summary.rows, summary.tickers)),
            bytes_of(summary.size.bytes),
            snapshots,
        )
    if value.tables:
        yield table
    yield from _universe(value)
    stored = "no sessions yet" if value.last_session is None else f"last session {value.last_session}"
    due = f"next due {value.next_due}: {final_at(value.next_due)}"
    yield escape(f"{stored}, last final session {value.last_final}, {due}")
    yield from map(escape, missing_bars(value))
    yield from map(escape, _tickers({day: names for day, names in value.bars.early.items() if day not in value.late}, EARLY))
    yield from map(escape, _tickers(value.bars.allowed, ALLOWED))
    yield from map(escape, stale_windows(value))
    for day, until in value.awaited.items():
        yield escape(f"awaited: {day}, until {in_new_york(until)}")
    if value.latency is not None:
        yield escape(line(value.latency))
    yield from _mistaken(value)
    yield from map(escape, _tickers(value.held, "held by the gate"))
    for split in value.disputed:
        yield escape(f"split disputed: {split_line(split)}")
    for found in value.staging:
        if found.unpublished:
            why = "left by a refused run" if {*value.refused} & {*found.unpublished} else "left by a running or killed run"
        else:
            why = "all of it is published"
        yield escape(f"staging: {found.table}, {plural(found.rows, 'row')}; {why}")
    first, last = value.request.sessions[0], value.request.sessions[-1]
    if value.complete:
        yield escape(f"complete: {plural(len(value.request.sessions), 'session')} from {first} to {last}")


def missing_bars(value: Status) -> Iterator[str]:
    """Missing bars, and early ones that are not the final ones by now, by ticker and sessions."""
    yield from _tickers(value.bars.missing, "missing")
    yield from _tickers(value.late, f"{EARLY}, to fetch again")


def stale_windows(value: Status) -> Iterator[str]:
    """Windows that are missing or stale, and of which sessions."""
    for name, what in (("missing", "windows missing"), ("stale", "windows stale")):
        days = [day for day, windows in value.windows.items() if getattr(windows, name)]
        if days:
            number = sum(getattr(windows, name) for windows in value.windows.values())
            yield f"{what}: {number} ({spans(days)})"


def _universe(value: Status) -> Iterator[str]:
    yield escape(universe(value.request))
    for summary in value.tables[:1]:
        if summary.others:
            verb = "is" if summary.others == 1 else "are"
            yield escape(f"{plural(summary.others, 'other ticker')} of {summary.table} {verb} not in it")


def _mistaken(value: Status) -> Iterator[str]:
    if (wrong := value.mistaken) is not None:
        rows = f"{plural(wrong.rows, 'row')} of {wrong.ticker} from {wrong.first} to {wrong.last}"
        command = f"maang backfill --from {wrong.first} --to {wrong.last} --refetch"
        yield escape(f"{rows}: of another security, which had this symbol; replace them: {command}")


@people.register(Written)
def _written(value: Written) -> Iterator[str]:
    found = value.report
    request = found.status.request
    what = f"{plural(len(request.sessions), 'session')} and {plural(len(request.tickers), 'ticker')}"
    yield escape(f"{found.level}: a report of {what}, {bytes_of(value.bytes)}, is in {value.path}")


@people.register(Listed)
def _listed(value: Listed) -> Iterator[str | Table]:
    table = _table("ticker", "date", "ratio", "state", "source", "reason")
    for split in value.splits:
        table.add_row(*map(Text, (split.ticker, str(split.session), split.ratio, split.state, split.source, split.reason)))
    yield table
    yield f"{plural(len(value.splits), 'split')} in {escape(value.table)}"


@people.register(Edited)
def _edited(value: Edited) -> Iterator[str]:
    yield from (escape(split_line(split)) for split in value.changed)
    yield from (escape(f"{split.ticker} {split.ratio} on {split.session}, removed") for split in value.removed)
    yield escape(f"{value.windows.table}: {line(value.windows)}")


@people.register(Maintained)
def _maintained(value: Maintained) -> Iterator[str | Table]:
    if value.cleanups is None:
        yield f"nothing to do: {escape(value.warehouse)} maintains its tables by itself"
        return
    for done in value.cleanups:
        what = f"{plural(done.snapshots, 'snapshot')} expired, {plural(done.files, 'file')} removed, {bytes_of(done.bytes)} freed"
        yield escape(f"{done.table}: {what}")
    if not value.cleanups:
        yield "nothing to do: there are no tables"


@people.register(Selected)
def _selected(value: Selected) -> Iterator[RenderableType]:
    if value.rows.num_rows:
        yield _Rows(value.rows)
    yield plural(value.rows.num_rows, "row")


@people.register(Rows)
def _rows(value: Rows) -> Iterator[RenderableType]:
    if value.rows.num_rows:
        yield _Rows(value.rows, draw_closes=CLOSES in value.rows.column_names)
    basis = ", on the basis of the newest split" if value.adjusted else ""
    yield f"{plural(value.rows.num_rows, 'row')} of {escape(value.table)}{basis}"


class _Rows:
    """Rows as a table, one line a row; columns that don't fit are left out (docs/tables.md). A narrow terminal gets records."""

    def __init__(self, rows: pa.Table, *, draw_closes: bool = False) -> None:
        self._schema = rows.schema
        self._cells = {name: list(map(cell, rows[name].to_pylist())) for name in rows.column_names}
        self._drawn = {"closes": list(map(sparkline, rows[CLOSES].to_pylist()))} if draw_closes else {}

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        keys = {name: cells for name, cells in self._cells.items() if name in KEY}
        columns = (keys | self._drawn | self._cells) if self._drawn and not options.ascii_only else dict(self._cells)
        widths = {name: max(map(cell_len, (name, *"\n".join(cells).split("\n")))) for name, cells in columns.items()}
        numbers = {field.name for field in self._schema if _is(field, "decimal", "int", "uint", "double", "float")}
        folds = {field.name for field in self._schema if _is(field, "string") and widths[field.name] > FOLDED_WIDTH}

        def width() -> int:
            return sum(FOLDED_WIDTH if name in folds else widths[name] for name in columns) + 2 * (len(columns) - 1)

        if width() > options.max_width < RECORDS_WIDTH:
            yield from (_record(dict(zip(self._cells, row, strict=True))) for row in zip(*self._cells.values(), strict=True))
            return
        left_out = set()
        for name in _leave_first(self._schema):
            if width() <= options.max_width or len(columns) == 1:
                break
            left_out.add(name)
            del columns[name]
        fits = width() <= options.max_width
        table = Table(box=None, header_style="bold", pad_edge=False)
        for name in columns:
            justify: JustifyMethod = "right" if name in numbers else "left"
            table.add_column(name, justify=justify, no_wrap=fits and name not in folds, overflow="fold")
        for row in zip(*columns.values(), strict=True):
            table.add_row(*map(Text, row))
        yield table
        if left_out:
            names = ", ".join(name for name in self._cells if name in left_out)
            yield Text(f"no room for {names}; --format csv has all columns", style="dim")


KEY = ("ticker", "date")
CLOSES = "last_7_days_close"
FOLDED_WIDTH = 24
"""A text that is wider is folded before a column is left out."""
RECORDS_WIDTH = 60
"""A narrower terminal has no room for rows."""


def _leave_first(schema: pa.Schema) -> list[str]:
    """The columns in the order in which they are left out: lists, then times, then the others; of each the last one first."""
    rest = [field for field in reversed(schema) if field.name not in (*KEY, "found")]
    return [field.name for field in sorted(rest, key=lambda field: (not _is(field, "list"), not _is(field, "timestamp")))]


def _is(field: pa.Field, *kinds: str) -> bool:
    """Whether the name of its type begins with one of these. So this module, which every command imports, needs no PyArrow."""
    return str(field.type).startswith(kinds)


def _record(row: dict[str, str]) -> Table:
    """One row, with a line for each column."""
    keys = [row.pop(name, "") for name in KEY]
    table = Table(box=None, header_style="bold", pad_edge=False, show_header=any(keys))
    table.add_column(keys[0])
    table.add_column(keys[1], overflow="fold")
    for name, value in row.items():
        table.add_row(name, Text(value))
    return table


def _table(*columns: str) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(column, justify="left" if column in _TEXT else "right", overflow="fold")
    return table


_TEXT = {
    "",
    "table",
    "first",
    "last",
    "check",
    "promise",
    "found",
    "which rows",
    "ticker",
    "date",
    "session",
    "setting",
    "value",
    "from",
    "insertion_timestamp",
    "state",
    "source",
    "reason",
}
"""Columns that are aligned to the left."""
