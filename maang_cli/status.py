"""Is anything missing, is anything late? The tables say so; nothing is fetched or written."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta

from maang_cli import findings, missing, split_table, sql, symbols
from maang_cli import sessions as calendar
from maang_cli.errors import MaangError, OutOfOrder, PartlyRefused
from maang_cli.missing import MissingBars, StaleWindows
from maang_cli.pipeline import session_flags
from maang_cli.request import Request
from maang_cli.splits import DISPUTED, Split
from maang_cli.tables import CUMULATIVE, FINDINGS, PRODUCTION, Table, staged_sessions
from maang_cli.warehouses.base import Query, Read, Size, TableMissing, Warehouse, query_optional

LATENCY_SESSIONS = 30
"""The latency is that of the last examined ones."""
BACKFILLED = timedelta(days=3)
"""A session that was first stored later than this after it was final was backfilled, and has no latency."""


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
    unpublished: tuple[date, ...]
    """The sessions that production does not have with the same values; if there is none, it is a killed run's leftover."""


@dataclass(frozen=True)
class MistakenRows:
    """Rows of another security that an earlier version stored (see `symbols.Mistaken`)."""

    ticker: str
    first: date
    last: date
    rows: int


@dataclass(frozen=True)
class Latency:
    """How long after they were final sessions became readable in production. A session that was backfilled has none."""

    sessions: int
    """How many sessions have one; at least one."""
    median: timedelta
    worst: timedelta
    worst_session: date


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
    held: Mapping[date, frozenset[str]] = field(default_factory=dict)
    """Sessions with the tickers whose rows the gate holds."""
    refused: tuple[date, ...] = ()
    """Sessions that the gate refused, and whose rows wait in staging."""
    disputed: tuple[Split, ...] = ()
    """Splits of the requested tickers that the prices contradict; they are not applied."""
    mistaken: MistakenRows | None = None
    awaited: Mapping[date, datetime] = field(default_factory=dict)
    """Sessions that are not complete and that --max-delay does not count as missing yet, each with the time until when."""
    latency: Latency | None = None
    """None: no session has one."""

    @property
    def complete(self) -> bool:
        return self.verdict() is None and not self.awaited

    def verdict(self) -> MaangError | None:
        """The error that says what is missing; None if nothing is."""
        counted = (
            (len(self.bars.missing), "missing bars"),
            (len(self.late), "early rows"),
            (len(self.windows), "missing or stale windows"),
            (len(self.refused), "refused rows in staging"),
        )
        found = [f"{days} session{'s' * (days != 1)} with {what}" for days, what in counted if days]
        if not found:
            return None
        ends = f"--from {self.request.sessions[0]} --to {self.request.sessions[-1]}"
        hints = []
        if self.bars.missing or self.late or self.windows:
            hints.append(f"fetch and repair them: maang backfill {ends}{{flags}}")
        if self.refused:
            days = session_flags(self.refused)
            hints.append(f"see what was refused: maang show --table findings {days}{{flags}}")
        return PartlyRefused(", ".join(found), hint="\n".join(hints))


def status(warehouse: Warehouse, request: Request, now: datetime, max_delay: timedelta | None = None) -> Status:
    """The state of the request's sessions; if it has none, of those from the first stored session to the last final one.

    `max_delay`: how long after it was final a session need not be complete; None: it must be complete now.

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
    windows = missing.find_stale_windows(warehouse, request)
    late = bars.late(now)
    awaited = {} if max_delay is None else _awaited(sorted({*bars.missing, *late, *windows}), now, max_delay)
    bars = replace(bars, missing={day: names for day, names in bars.missing.items() if day not in awaited})
    known = split_table.stored(warehouse, request.tickers, request.sessions[0], request.sessions[-1])
    staging = tuple(_staging_table(warehouse, table) for table in missing.staging_tables(warehouse))
    waiting = {day for table in staging for day in table.unpublished} & {*request.sessions}
    return Status(
        request,
        tables,
        bars,
        {day: found for day, found in windows.items() if day not in awaited},
        staging,
        max((day for day in request.sessions if len(lacking.get(day, ())) < len(request.requested(day))), default=None),
        last_final,
        calendar.next_due(now),
        {day: names for day, names in late.items() if day not in awaited},
        findings.held(warehouse, request),
        tuple(findings.refused(warehouse, waiting)) if waiting else (),
        tuple(split for split in known if split.state == DISPUTED),
        _mistaken(warehouse, request),
        awaited,
        _latency(warehouse, request),
    )


def _awaited(sessions: Iterable[date], now: datetime, max_delay: timedelta) -> dict[date, datetime]:
    until = {day: calendar.final(day).astimezone(UTC) + max_delay for day in sessions}
    return {day: moment for day, moment in until.items() if now < moment}


def _latency(warehouse: Warehouse, request: Request) -> Latency | None:
    """The latency of the request's last sessions."""
    return latency(stored_at(warehouse, request, request.sessions[-LATENCY_SESSIONS:]))


def stored_at(warehouse: Warehouse, request: Request, sessions: Sequence[date]) -> list[tuple[date, datetime]]:
    """When rows of these sessions, in order, were stored: those of today, and those that revisions have replaced."""
    first, last = sessions[0], sessions[-1]
    text = sql.text("stored_at", first=sql.day(first), last=sql.day(last))
    reads = {"production": Read(PRODUCTION, (first, last)), "findings": Read(FINDINGS, (first, last))}
    query = Query(text, reads, request.tickers, request.spans)
    try:
        rows = query_optional(warehouse, query, (FINDINGS,)).to_pylist()
    except TableMissing:
        return []
    wanted = frozenset(sessions)
    return [(row["date"], row["stored_at"]) for row in rows if row["date"] in wanted]


def delays(stored: Iterable[tuple[date, datetime]]) -> dict[date, timedelta]:
    """The latency of each session that has one, from when its rows were stored. Early rows don't count: it took until the session
    was stored again.
    """
    found: dict[date, timedelta] = {}
    for day, moment in stored:
        delay = moment - calendar.final(day)
        if timedelta(0) <= delay <= BACKFILLED:
            found[day] = min(delay, found.get(day, delay))
    return found


def latency(stored: Iterable[tuple[date, datetime]]) -> Latency | None:
    """From when rows of sessions were stored."""
    found = delays(stored)
    if not found:
        return None
    ordered = sorted(found.values())
    median = (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2
    worst = max(found, key=lambda day: found[day])
    return Latency(len(found), median, found[worst], worst)


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
    unpublished = tuple(missing.unpublished_sessions(warehouse, table))
    return StagingTable(warehouse.full_name(table), first, last, rows, unpublished)
