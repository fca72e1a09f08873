"""Is anything missing, is anything late? Read from the tables; nothing is fetched or written."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from maang_cli import backfill, sql
from maang_cli import sessions as calendar
from maang_cli.errors import MaangError, NotStaged, PartlyRefused
from maang_cli.tables import CUMULATIVE, PRODUCTION, Table, staged_sessions
from maang_cli.warehouses.base import Query, Read, TableMissing

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import date, datetime

    from maang_cli.backfill import Windows
    from maang_cli.pipeline import Request
    from maang_cli.warehouses.base import Size, Warehouse


@dataclass(frozen=True)
class Glance:
    """One of the lasting tables, whatever tickers are asked for."""

    table: str
    first: date | None
    last: date | None
    rows: int
    tickers: int
    size: Size


@dataclass(frozen=True)
class Left:
    """A staging table that is there."""

    table: str
    first: date
    last: date
    rows: int
    published: bool
    """Production holds all of it: it was left by a run that was killed."""


@dataclass(frozen=True)
class Status:
    request: Request
    """Its sessions are those that were looked at."""
    tables: tuple[Glance, ...]
    holes: backfill.Holes
    windows: Mapping[date, Windows]
    staging: tuple[Left, ...]
    last_held: date | None
    """The last session of which production holds any of the tickers asked for; of those that were looked at."""
    last_finished: date
    next_due: date

    @property
    def whole(self) -> bool:
        return not self.holes.missing and not self.windows

    def verdict(self) -> MaangError | None:
        if self.whole:
            return None
        counted = ((len(self.holes.missing), "gaps"), (len(self.windows), "windows missing or stale"))
        found = [f"{days} session{'s' * (days != 1)} with {what}" for days, what in counted if days]
        ends = f"--from {self.request.sessions[0]} --to {self.request.sessions[-1]}"
        return PartlyRefused(" and ".join(found), hint=f"fill them: maang backfill {ends}{{flags}}")


def status(warehouse: Warehouse, request: Request, now: datetime) -> Status:
    """The state of the request's sessions; without any, of those from the first one held to the last finished one.

    Raises:
        OutOfOrder: there is no production, or it is empty and no session is asked for.
    """
    tables = tuple(found for table in (PRODUCTION, CUMULATIVE) if (found := _glance(warehouse, table)) is not None)
    finished = calendar.last_finished(now)
    if not request.sessions:
        first = next((found.first for found in tables if found.table == warehouse.full_name(PRODUCTION)), None)
        if first is None:
            raise NotStaged(
                f"{warehouse.full_name(PRODUCTION)} holds nothing yet", hint="publish something first: maang run-day{flags}"
            )
        request = replace(request, sessions=calendar.between(first, max(first, finished)))
    holes = backfill.find_holes(warehouse, request)
    lacking = {day for day, gap in {**holes.missing, **holes.excused}.items() if len(gap) == len(request.tickers)}
    return Status(
        request,
        tables,
        holes,
        backfill.find_stale(warehouse, request),
        tuple(_left(warehouse, table) for table in backfill.staged_tables(warehouse)),
        max((day for day in request.sessions if day not in lacking), default=None),
        finished,
        calendar.next_due(now),
    )


def _glance(warehouse: Warehouse, table: Table) -> Glance | None:
    try:
        row = warehouse.query(Query(sql.text("glance"), {"table": Read(table)})).to_pylist()[0]
        return Glance(warehouse.full_name(table), row["first"], row["last"], row["rows"], row["tickers"], warehouse.size(table))
    except TableMissing:
        return None


def _left(warehouse: Warehouse, table: Table) -> Left:
    first, last = staged_sessions(table)
    try:
        rows = warehouse.query(Query("SELECT count(*) AS rows FROM {table}", {"table": Read(table)})).to_pylist()[0]["rows"]
    except (TableMissing, MaangError):  # dropped meanwhile, or of another version
        rows = 0
    return Left(warehouse.full_name(table), first, last, rows, not backfill.unpublished(warehouse, table))
