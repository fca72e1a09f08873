"""What the tables lack: bars, windows, and sessions that are staged but not published. Nothing here fetches or writes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import TYPE_CHECKING, Any

from maang_cli import pipeline, split_table, sql
from maang_cli import sessions as calendar
from maang_cli.checks import by_session
from maang_cli.errors import MaangError
from maang_cli.request import Request
from maang_cli.splits import Split
from maang_cli.tables import CUMULATIVE, PRODUCTION, STAGING_COLUMNS, Table, is_staging, staged_sessions
from maang_cli.warehouses.base import Query, Read, TableMissing, Warehouse, query_optional

if TYPE_CHECKING:
    import pyarrow as pa

COMPARED_ROWS = 250_000
"""Windows that one query recomputes and compares, in about 300 MB of memory."""

FEW = 10
"""How many tickers are named of what may be thousands."""
MOST_SPANS = 3
"""As many spans of sessions are listed in a line."""


@dataclass(frozen=True)
class MissingBars:
    """The requested bars that production lacks."""

    missing: Mapping[date, frozenset[str]]
    """Sessions that the gate would refuse as they are stored, in order, with the tickers that they lack."""
    allowed: Mapping[date, frozenset[str]]
    """Sessions that lack these tickers, which --allow-missing permits."""
    early: Mapping[date, frozenset[str]] = field(default_factory=dict)
    """Sessions with rows of these tickers that were stored before the session was final."""

    def late(self, now: datetime) -> dict[date, frozenset[str]]:
        """Of `early` the sessions that are final by now."""
        return {day: names for day, names in self.early.items() if calendar.is_final(day, now)}

    def to_fetch(self, now: datetime) -> dict[date, frozenset[str]]:
        """What is missing, and what is late; in order."""
        late = self.late(now)
        days = sorted({*self.missing, *late})
        return {day: self.missing.get(day, frozenset()) | late.get(day, frozenset()) for day in days}


@dataclass(frozen=True)
class StaleWindows:
    """How many windows of one session are missing, or differ from a recomputation."""

    missing: int
    stale: int


def find_missing_bars(
    warehouse: Warehouse, request: Request, *, refetch: bool = False, compared_rows: int = COMPARED_ROWS
) -> MissingBars:
    """What production lacks of the request, by the gate's meaning of missing; with `refetch`, all of it counts as missing."""
    wanted = {day: names for day in request.sessions if (names := request.requested(day))}
    if refetch:
        return MissingBars(wanted, {})
    first, last = request.sessions[0], request.sessions[-1]
    try:
        stored = pipeline.stored_sessions(warehouse, request, first, last)
    except TableMissing:
        stored = {}
    partial = [day for day, names in wanted.items() if day in stored and stored[day].tickers < len(names)]
    lacking: dict[date, frozenset[str]] = {day: names for day, names in wanted.items() if day not in stored}
    lacking |= _missing_tickers(warehouse, request, chunks(partial, request, compared_rows))
    early = [day for day in wanted if day in stored and stored[day].oldest < calendar.final(day)]
    missing: dict[date, frozenset[str]] = {}
    allowed: dict[date, frozenset[str]] = {}
    for day in sorted(lacking):
        (allowed if is_allowed(request, day, lacking[day]) else missing)[day] = lacking[day]
    return MissingBars(missing, allowed, early_tickers(warehouse, request, early) if early else {})


def early_tickers(warehouse: Warehouse, request: Request, days: Sequence[date]) -> dict[date, frozenset[str]]:
    """The tickers whose rows of these sessions, in order, were stored before the session was final."""
    rows = _stamps(warehouse, request, days)
    return by_session((row["ticker"], row["date"]) for row in rows if row["insertion_timestamp"] < calendar.final(row["date"]))


def _stamps(warehouse: Warehouse, request: Request, days: Sequence[date]) -> list[dict[str, Any]]:
    """When the tickers' rows of these sessions, in order, were stored."""
    text = sql.text("stamps", sessions=", ".join(map(sql.day, days)))
    reads = {"production": Read(PRODUCTION, (days[0], days[-1]))}
    query = Query(text, reads, request.tickers, request.spans)
    rows: list[dict[str, Any]] = query_optional(warehouse, query, [PRODUCTION]).to_pylist()
    return rows


def vanished(warehouse: Warehouse, request: Request, rows: pa.Table) -> frozenset[tuple[str, date]]:
    """The tickers and sessions of the request that these rows lack, although production has them."""
    got = set(zip(rows["ticker"].to_pylist(), rows["session"].to_pylist(), strict=True))
    lacking = {(ticker, day) for day in request.sessions for ticker in request.requested(day) if (ticker, day) not in got}
    if not lacking:
        return frozenset()
    stored = _stamps(warehouse, request, sorted({day for _, day in lacking}))
    return frozenset((row["ticker"], row["date"]) for row in stored) & lacking


def is_allowed(request: Request, day: date, tickers: frozenset[str]) -> bool:
    """Whether this session of the request may lack these tickers: what the check `missing_stocks` says."""
    allow = request.allow_missing
    return tickers <= allow.tickers or len(tickers) * 100 <= allow.percent * len(request.requested(day))


def _missing_tickers(warehouse: Warehouse, request: Request, pieces: Iterable[Sequence[date]]) -> dict[date, frozenset[str]]:
    """Which tickers these sessions lack; equal sets are one object."""
    found: dict[date, set[str]] = {}
    for chunk in pieces:
        text = sql.text(
            "missing_tickers", sessions=sql.rows(map(sql.day, chunk)), first=sql.day(chunk[0]), last=sql.day(chunk[-1])
        )
        reads = {"production": Read(PRODUCTION, (chunk[0], chunk[-1]))}
        rows = warehouse.query(Query(text, reads, request.tickers, request.spans))
        for day, ticker in zip(rows["date"].to_pylist(), rows["ticker"].to_pylist(), strict=True):
            found.setdefault(day, set()).add(ticker)
    known: dict[frozenset[str], frozenset[str]] = {}
    return {day: known.setdefault(each, each) for day, each in ((day, frozenset(names)) for day, names in found.items())}


def find_stale_windows(warehouse: Warehouse, request: Request, compared_rows: int = COMPARED_ROWS) -> dict[date, StaleWindows]:
    """The sessions of the request, and the 6 after it, whose windows are missing or differ from a recomputation."""
    found: dict[date, StaleWindows] = {}
    first, last = request.sessions[0], calendar.affected(request.sessions[-1])[-1]
    known = split_table.stored(warehouse, request.tickers, calendar.window(first)[0], last)
    for targets in chunks(calendar.between(first, last), request, compared_rows):
        try:
            rows = warehouse.query(stale_windows_query(request.tickers, targets, known)).to_pylist()
        except TableMissing:
            return {}
        found |= {row["date"]: StaleWindows(row["missing"], row["stale"]) for row in rows}
    return dict(sorted(found.items()))


def stale_windows_query(tickers: Sequence[str], targets: Sequence[date], known: Iterable[Split] = ()) -> Query:
    """How many of the windows that end on `targets`, in order, are missing or stale, by session."""
    windows = pipeline.windows_query(tickers, targets, known)
    text = sql.text(
        "stale_windows",
        windows=windows.text,
        first_target=sql.day(targets[0]),
        last_target=sql.day(targets[-1]),
        differs=sql.differs("e", "s", CUMULATIVE.values[2:]),
    )
    return Query(text, {**windows.reads, "cumulative": Read(CUMULATIVE, (targets[0], targets[-1]))}, windows.tickers)


def chunks(days: Sequence[date], request: Request, rows: int) -> list[tuple[date, ...]]:
    """The days, in order, in pieces of about `rows` rows of the request."""
    size = max(rows // len(request.tickers), 1)
    return [tuple(days[i : i + size]) for i in range(0, len(days), size)]


def staging_tables(warehouse: Warehouse) -> list[Table]:
    """The staging tables that exist, of running runs, and of refused or killed ones."""
    return [Table(name, STAGING_COLUMNS) for name in warehouse.tables() if is_staging(name)]


def unpublished_sessions(warehouse: Warehouse, table: Table) -> list[date]:
    """The sessions of a staging table that production does not have with the same values; if it can't be read, its name's."""
    try:
        rows = warehouse.query(unpublished_sessions_query(table))
    except (TableMissing, MaangError):  # Another run has dropped it, or it has other columns.
        return list(staged_sessions(table))
    days: list[date] = rows["session"].to_pylist()
    return days


def unpublished_sessions_query(staged: Table) -> Query:
    """The sessions of a staging table that production does not have with the same values."""
    reads = {"staging": Read(staged), "production": Read(PRODUCTION, staged_sessions(staged))}
    return Query(sql.text("unpublished_sessions", differs=sql.differs("s", "p", PRODUCTION.values[2:])), reads)


def spans(days: Iterable[date]) -> str:
    """Sessions as a person lists them: consecutive ones are one span."""
    return ", ".join(str(first) if first == last else f"{first} to {last}" for first, last in _runs(sorted(days)))


def brief_spans(days: Iterable[date]) -> str:
    """The sessions as `spans` lists them; of many spans, the first and the last session."""
    ordered = sorted(days)
    if len(list(_runs(ordered))) > MOST_SPANS:
        return f"{ordered[0]} to {ordered[-1]}"
    return spans(ordered)


def few(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = len(names) - FEW
    return ", ".join(names[:FEW]) + (f" and {more} more" if more > 0 else "")


def _runs(days: Sequence[date]) -> Iterator[tuple[date, date]]:
    start = 0
    for i in range(1, len(days) + 1):
        if i == len(days) or calendar.affected(days[i - 1])[1] != days[i]:
            yield days[start], days[i - 1]
            start = i
