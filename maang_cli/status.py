"""Is anything missing, is anything late? The tables say so; nothing is fetched or written."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import date, datetime

from maang_cli import missing, split_table, sql, symbols
from maang_cli import sessions as calendar
from maang_cli.errors import MaangError, OutOfOrder, PartlyRefused
from maang_cli.missing import MissingBars, StaleWindows
from maang_cli.pipeline import Request
from maang_cli.splits import DISPUTED, Split
from maang_cli.tables import CUMULATIVE, PRODUCTION, Table, staged_sessions
from maang_cli.warehouses.base import Query, Read, Size, TableMissing, Warehouse


@dataclass(frozen=True)
class TableSummary:
    """What production or cumulative contains, of all tickers."""

    table: str
    first: date | None
    last: date | None
    rows: int
    tickers: int
    others: int
    """How many of these tickers are not in the request."""
    size: Size


@dataclass(frozen=True)
class StagingTable:
    """A staging table that exists."""

    table: str
    first: date
    last: date
    rows: int
    published: bool
    """Whether production has all of it: it is then a killed run's leftover."""


@dataclass(frozen=True)
class MistakenRows:
    """Rows of another security that an earlier version stored (see `symbols.Mistaken`)."""

    ticker: str
    first: date
    last: date
    rows: int


@dataclass(frozen=True)
class Status:
    request: Request
    """Its sessions are those that were examined."""
    tables: tuple[TableSummary, ...]
    bars: MissingBars
    windows: Mapping[date, StaleWindows]
    staging: tuple[StagingTable, ...]
    last_session: date | None
    """The last examined session for which production has any of the requested tickers."""
    last_final: date
    next_due: date
    late: Mapping[date, frozenset[str]] = field(default_factory=dict)
    """Sessions that are final by now, with the tickers whose rows are early."""
    disputed: tuple[Split, ...] = ()
    """Splits of the requested tickers that the prices contradict; they are not applied."""
    mistaken: MistakenRows | None = None

    @property
    def complete(self) -> bool:
        return not self.bars.missing and not self.windows and not self.late

    def verdict(self) -> MaangError | None:
        """The error that says what is missing; None if nothing is."""
        if self.complete:
            return None
        counted = (
            (len(self.bars.missing), "missing bars"),
            (len(self.late), "early rows"),
            (len(self.windows), "missing or stale windows"),
        )
        found = [f"{days} session{'s' * (days != 1)} with {what}" for days, what in counted if days]
        ends = f"--from {self.request.sessions[0]} --to {self.request.sessions[-1]}"
        return PartlyRefused(", ".join(found), hint=f"fetch and repair them: maang backfill {ends}{{flags}}")


def status(warehouse: Warehouse, request: Request, now: datetime) -> Status:
    """The state of the request's sessions; if it has none, of those from the first stored session to the last final one.

    Raises:
        OutOfOrder: no session is requested, and production does not exist or is empty.
    """
    tables = tuple(found for table in (PRODUCTION, CUMULATIVE) if (found := _summary(warehouse, table, request)) is not None)
    last_final = calendar.last_final(now)
    if not request.sessions:
        first = next((found.first for found in tables if found.table == warehouse.full_name(PRODUCTION)), None)
        if first is None:
            raise OutOfOrder(f"{warehouse.full_name(PRODUCTION)} is empty", hint="publish a session first: maang run-day{flags}")
        request = replace(request, sessions=calendar.between(first, max(first, last_final)))
    bars = missing.find_missing_bars(warehouse, request)
    newest = max((found.last for found in tables[:1] if found.last), default=last_final)
    if newest > last_final and newest not in request.sessions:
        bars = replace(bars, early={**bars.early, **missing.early_tickers(warehouse, request, [newest])})
    lacking = {**bars.missing, **bars.allowed}
    known = split_table.stored(warehouse, request.tickers, request.sessions[0], request.sessions[-1])
    return Status(
        request,
        tables,
        bars,
        missing.find_stale_windows(warehouse, request),
        tuple(_staging_table(warehouse, table) for table in missing.staging_tables(warehouse)),
        max((day for day in request.sessions if len(lacking.get(day, ())) < len(request.requested(day))), default=None),
        last_final,
        calendar.next_due(now),
        bars.late(now),
        tuple(split for split in known if split.state == DISPUTED),
        _mistaken(warehouse, request),
    )


def _mistaken(warehouse: Warehouse, request: Request) -> MistakenRows | None:
    """Rows of the requested sessions that are another security's; None: there are none."""
    known = symbols.MISTAKEN
    first, last = max(known.first, request.sessions[0]), min(known.last, request.sessions[-1])
    listings = request.symbols.listings.get(known.name)
    if first > last or listings != symbols.BUILT_IN[known.name]:
        return None
    text = f"""SELECT min(date) AS first, max(date) AS last, count(*) AS rows FROM {{production}}
WHERE ticker = {sql.string(known.name)} AND date BETWEEN {sql.day(first)} AND {sql.day(last)} AND close < {known.below}"""
    try:
        row = warehouse.query(Query(text, {"production": Read(PRODUCTION, (first, last))})).to_pylist()[0]
    except TableMissing:
        return None
    return MistakenRows(known.name, **row) if row["rows"] else None


def _summary(warehouse: Warehouse, table: Table, request: Request) -> TableSummary | None:
    try:
        row = warehouse.query(Query(sql.text("table_summary"), {"table": Read(table)}, request.tickers)).to_pylist()[0]
    except TableMissing:
        return None
    try:
        size = warehouse.size(table)
    except (TableMissing, MaangError):  # a detail, for which some warehouses need another right
        size = Size(None, None)
    return TableSummary(warehouse.full_name(table), **row, size=size)


def _staging_table(warehouse: Warehouse, table: Table) -> StagingTable:
    first, last = staged_sessions(table)
    try:
        rows = warehouse.query(Query("SELECT count(*) AS rows FROM {table}", {"table": Read(table)})).to_pylist()[0]["rows"]
    except (TableMissing, MaangError):  # Another run has dropped it, or it has other columns.
        rows = 0
    published = not missing.unpublished_sessions(warehouse, table)
    return StagingTable(warehouse.full_name(table), first, last, rows, published)
