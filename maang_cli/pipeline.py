"""The steps from a source to the tables. They return results and never print. Every step takes a list of sessions."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from typing import TYPE_CHECKING, Protocol

from maang_cli import checks, sql
from maang_cli import sessions as calendar
from maang_cli.checks import AllowMissing, Audit
from maang_cli.errors import GateRefused, MaangError, NotOwner, NotStaged, OutOfOrder, PartlyRefused, StagingChanged
from maang_cli.retries import STAGING_ATTEMPTS
from maang_cli.sources.base import Source
from maang_cli.tables import CUMULATIVE, PRODUCTION, Table, staging
from maang_cli.warehouses.base import GateFailed, Query, Read, Replaced, TableMissing, Warehouse

if TYPE_CHECKING:
    import pyarrow as pa

log = logging.getLogger("maang")

SCHEMA = "schema"
PARTS = (SCHEMA, "staging", "production", "cumulative")


@dataclass(frozen=True)
class Request:
    """What the user asks for: these tickers on these sessions."""

    tickers: tuple[str, ...]
    sessions: tuple[date, ...]
    """In order; at least one, except for `init_tables`."""
    allow_missing: AllowMissing = checks.ALLOW_NONE
    universe: tuple[str, ...] | None = None
    """The tickers that name the staging table, if only a part of them is requested; None: `tickers`."""

    @property
    def staging(self) -> Table:
        return staging(self.universe or self.tickers, self.sessions)


@dataclass(frozen=True)
class Initialized:
    """Full names of what was created, and of what existed."""

    created: tuple[str, ...]
    present: tuple[str, ...]
    added: tuple[str, ...] = ()
    """Columns that existing tables lacked, each with its table's full name."""


@dataclass(frozen=True)
class Ingested:
    rows: int
    source: str
    made_up: bool
    staging: str


@dataclass(frozen=True)
class Published:
    replaced: Replaced
    audit: Audit
    """The report; its passing sessions are the published ones."""

    @property
    def allowed(self) -> tuple[checks.FailingRow, ...]:
        """Missing bars of published sessions that --allow-missing permits."""
        return tuple(row for row in self.audit.allowed if row.date not in self.audit.refused)


@dataclass(frozen=True)
class Cumulated:
    replaced: Replaced
    missing: tuple[tuple[date, int], ...]
    """Sessions of the windows for which production lacks bars, with how many of the requested tickers it has there."""


@dataclass(frozen=True)
class Dropped:
    staging: str
    dropped: bool
    refused: bool = False
    """Whether it is still there, because only its owner may drop it."""


@dataclass(frozen=True)
class DayRun:
    """What `run_day` did, step by step."""

    ingested: Ingested
    audit: Audit
    published: Published
    cumulated: Cumulated
    """Of the published sessions."""


@dataclass(frozen=True)
class Rows:
    """Rows of one table, as `show` found them."""

    table: str
    rows: pa.Table


def init_tables(warehouse: Warehouse, request: Request, only: Sequence[str] = PARTS) -> Initialized:
    """Create what does not exist, nullable columns of older tables included; staging only if sessions are requested.

    Safe to repeat.

    Raises:
        TableMismatch: a table exists with other columns.
    """
    tables = {"production": PRODUCTION, "cumulative": CUMULATIVE}
    if request.sessions:
        tables["staging"] = request.staging
    done: dict[bool, list[str]] = {True: [], False: []}
    added: list[str] = []
    for part in PARTS:
        if part == SCHEMA and part in only:
            done[warehouse.create_schema()].append("the schema")
        elif part in only and part in tables:
            name = warehouse.full_name(tables[part])
            if tables[part].partitioned:  # `ingest` replaces a staging table that has other columns
                added += [f"{name}.{column}" for column in warehouse.add_columns(tables[part])]
            done[warehouse.create(tables[part])].append(name)
    return Initialized(created=tuple(done[True]), present=tuple(done[False]), added=tuple(added))


def ingest(source: Source, warehouse: Warehouse, request: Request) -> Ingested:
    """Fetch the bars that the source has into the request's staging table, which they replace."""
    return _stage(source, warehouse, request, source.bars(request.tickers, request.sessions))


def _stage(source: Source, warehouse: Warehouse, request: Request, rows: pa.Table) -> Ingested:
    warehouse.stage(request.staging, rows)
    return Ingested(rows.num_rows, source.name, source.made_up, warehouse.full_name(request.staging))


def check(warehouse: Warehouse, request: Request) -> Audit:
    """The gate's report on staging, with every check, passed or not.

    Raises:
        NotStaged: there is no staging table.
    """
    try:
        rows = warehouse.query(_on_staging(request, checks.report_sql))
    except TableMissing as exc:
        raise _missing(warehouse, request, exc) from exc
    return checks.audit_of(request.sessions, warehouse.full_name(request.staging), rows.to_pylist())


def promote(warehouse: Warehouse, request: Request, audit: Audit | None = None) -> Published:
    """Audit staging, and publish the audited rows of the sessions that pass, in one commit.

    `audit` is the report of a `check` just before; None: one is made here. It is for people, since the publishing itself audits
    the rows again.

    Raises:
        GateRefused: no session passed; production is as before, staging is kept, and the error carries the audit.
        OutOfOrder: staging or production does not exist.
        StagingChanged: another run replaced or dropped staging in between; production is as before.
    """
    audit = audit or check(warehouse, request)
    passing = audit.passing
    if not passing:
        raise _refused(audit)
    refuse_if = _on_staging(request, checks.forbidden_sql, passing)
    try:
        query = publish_query(request.staging, request.tickers, passing)
        replaced = warehouse.replace(PRODUCTION, query, passing, refuse_if)
    except GateFailed as exc:
        # Staging changed between the report and the publishing, which audits the rows again.
        audit = check(warehouse, request)
        if not set(passing) <= set(audit.passing):
            raise _refused(audit) from exc
        raise _staging_changed(f"changed {audit.staging} while it was being published") from exc
    except TableMissing as exc:
        if exc.table == request.staging:
            raise _staging_dropped(audit.staging) from exc
        raise _missing(warehouse, request, exc) from exc
    return Published(replaced, audit)


def publish_query(staged: Table, tickers: Sequence[str], sessions: Sequence[date]) -> Query:
    """What production receives from a staging table for these sessions, at least one."""
    columns = ", ".join(f"CAST({column.name} AS {column.type}) AS {column.name}" for column in PRODUCTION.value_columns)
    text = sql.text("publish", columns=columns, sessions=", ".join(map(sql.day, sessions)))
    return Query(text, {"staging": Read(staged)}, tuple(tickers))


def windows_query(tickers: Sequence[str], targets: Sequence[date]) -> Query:
    """The windows that end on `targets`, which are in order."""
    first, last = calendar.window(targets[0])[0], targets[-1]
    days = calendar.between(first, last)
    text = sql.text(
        "windows",
        calendar=", ".join(f"({sql.day(day)}, {number})" for number, day in enumerate(days)),
        preceding=str(calendar.WINDOW_LENGTH - 1),
        targets=", ".join(map(sql.day, targets)),
        first=sql.day(first),
        last=sql.day(last),
    )
    return Query(text, {"production": Read(PRODUCTION, (first, last))}, tuple(tickers))


def stored_tickers_by_session(warehouse: Warehouse, tickers: Sequence[str], first: date, last: date) -> dict[date, int]:
    """How many of the tickers production has, by session; sessions with none are left out.

    Raises:
        TableMissing: there is no production.
    """
    text = sql.text("stored_tickers_by_session", first=sql.day(first), last=sql.day(last))
    rows = warehouse.query(Query(text, {"production": Read(PRODUCTION, (first, last))}, tuple(tickers))).to_pylist()
    return {row["date"]: row["tickers"] for row in rows}


def cumulate(warehouse: Warehouse, request: Request) -> Cumulated:
    """Refresh the windows that contain the request's sessions, in one commit: their own and those of the next 6 sessions.

    Raises:
        OutOfOrder: production has none of these tickers on these sessions, or a table does not exist.
    """
    targets = tuple(sorted({day for session in request.sessions for day in calendar.affected(session)}))
    try:
        stored = stored_tickers_by_session(warehouse, request.tickers, calendar.window(targets[0])[0], targets[-1])
        if not any(day in stored for day in request.sessions) and request.allow_missing == checks.ALLOW_NONE:
            raise OutOfOrder(
                f"{warehouse.full_name(PRODUCTION)} has none of these tickers on {_span(request.sessions)}",
                hint=f"publish them first: maang run-day {session_flags(request.sessions)}{{flags}}",
            )
        replaced = warehouse.replace(CUMULATIVE, windows_query(request.tickers, targets), targets)
    except TableMissing as exc:
        raise _missing(warehouse, request, exc) from exc
    needed = sorted({day for target in targets if target in stored for day in calendar.window(target)})
    missing = tuple((day, stored.get(day, 0)) for day in needed if stored.get(day, 0) < len(request.tickers))
    return Cumulated(replaced, missing)


def drop_staging(warehouse: Warehouse, request: Request) -> Dropped:
    """Drop the request's staging table, if there is one."""
    return drop_table(warehouse, request.staging)


def drop_table(warehouse: Warehouse, table: Table) -> Dropped:
    """Drop a staging table. If only its owner may, that is a warning: nothing depends on it."""
    name = warehouse.full_name(table)
    try:
        return Dropped(name, warehouse.drop(table))
    except NotOwner as exc:
        log.warning("%s was not dropped: %s", name, exc.message)
        return Dropped(name, dropped=False, refused=True)


class Progress(Protocol):
    """Where `run_day` reports what it does."""

    def begin(self, step: str) -> None:
        """A step begins; the one before it, if any, is done."""

    def done(self, result: object) -> None:
        """The step has returned this."""


class NoProgress:
    """Shows nothing."""

    def begin(self, step: str) -> None: ...

    def done(self, result: object) -> None: ...


def run_day(source: Source, warehouse: Warehouse, request: Request, progress: Progress) -> DayRun:
    """All the steps, in one process. Sessions that the gate refuses stay in staging; the others are published.

    Raises:
        GateRefused: as `promote`; the steps before it are done.
    """
    progress.begin("init-tables")
    progress.done(init_tables(warehouse, request, only=(SCHEMA, "production", "cumulative")))
    progress.begin("ingest")
    rows = source.bars(request.tickers, request.sessions)
    ingested = _stage(source, warehouse, request, rows)
    progress.done(ingested)
    audit, published = publish_staged(warehouse, request, rows, progress)
    if published is None:
        raise _refused(audit)
    try:
        progress.begin("cumulate")
        cumulated = cumulate(warehouse, replace(request, sessions=audit.passing))
        progress.done(cumulated)
        if audit.passed:
            progress.begin("drop-staging")
            progress.done(drop_staging(warehouse, request))
    except MaangError as exc:
        exc.done_before(f"the bars of {_span(audit.passing)} were published before that")
        raise
    return DayRun(ingested, audit, published, cumulated)


def publish_staged(warehouse: Warehouse, request: Request, rows: pa.Table, progress: Progress) -> tuple[Audit, Published | None]:
    """Audit `rows`, which are staged, and publish those of the sessions that pass; None if no session passes.

    If another run of the same request replaces or drops the staging table meanwhile, the rows are staged again: both runs
    publish the same bars, so either may continue.

    Raises:
        StagingChanged: that has happened on every attempt.
    """
    for attempt in range(STAGING_ATTEMPTS):
        try:
            progress.begin("check")
            audit = check(warehouse, request)
            progress.done(audit)
            if not audit.passing:
                return audit, None
            progress.begin("promote")
            published = promote(warehouse, request, audit)
            progress.done(published)
            return audit, published
        except (NotStaged, StagingChanged) as exc:
            if attempt == STAGING_ATTEMPTS - 1:
                raise (_staging_dropped(warehouse.full_name(request.staging)) if isinstance(exc, NotStaged) else exc) from exc
            log.debug("another run changed %s; staging the rows again", request.staging.name)
            warehouse.stage(request.staging, rows)
    raise AssertionError


def show(warehouse: Warehouse, request: Request, part: str = "production", as_of: datetime | None = None) -> Rows:
    """The request's rows in one of the tables, by date and ticker; all rows of staging, whatever they say.

    Raises:
        OutOfOrder: the table does not exist.
        SettingsError: the table's history does not reach back to `as_of`.
    """
    table = {"production": PRODUCTION, "cumulative": CUMULATIVE, "staging": request.staging}[part]
    whole = part == "staging"
    requested = f"date IN ({', '.join(map(sql.day, request.sessions))}) AND ticker IN (SELECT ticker FROM {{tickers}})"
    columns = ", ".join(column.name for column in table.columns)
    text = sql.text("table_rows", columns=columns, condition="TRUE" if whole else requested)
    bounds = None if whole else (request.sessions[0], request.sessions[-1])
    try:
        rows = warehouse.query(Query(text, {"table": Read(table, bounds, as_of)}, request.tickers))
        return Rows(warehouse.full_name(table), rows)
    except TableMissing as exc:
        raise _missing(warehouse, request, exc) from exc


def verdict(audit: Audit) -> MaangError | None:
    """The error for an audit; None if every session passed."""
    if audit.passed:
        return None
    if not audit.passing:
        return _refused(audit)
    days = ", ".join(f"{day} ({', '.join(names)})" for day, names in audit.refused.items())
    return PartlyRefused(f"the gate refused {len(audit.refused)} of {len(audit.sessions)} sessions: {days}", hint=_kept(audit))


def _refused(audit: Audit) -> GateRefused:
    """The error for an audit in which no session passed."""
    names = ", ".join(result.check.name for result in audit.failed)
    return GateRefused(
        f"the gate refused {_span(audit.sessions)}: {names}; nothing was published", hint=_kept(audit), audit=audit
    )


def _kept(audit: Audit) -> str:
    return f"the rows are kept in {audit.staging}: maang show --table staging {session_flags(audit.sessions)}{{flags}}"


def session_flags(sessions: Sequence[date]) -> str:
    """The flags that select these sessions, of which there is at least one, in order."""
    if len(sessions) > 1 and tuple(sessions) == calendar.between(sessions[0], sessions[-1]):
        return f"--from {sessions[0]} --to {sessions[-1]}"
    return " ".join(f"--date {day}" for day in sessions)


def _on_staging(
    request: Request,
    text: Callable[[Sequence[str], Sequence[date], AllowMissing], str],
    sessions: Sequence[date] | None = None,
) -> Query:
    filled = text(request.tickers, sessions or request.sessions, request.allow_missing)
    return Query(filled, {"staging": Read(request.staging)}, request.tickers)


def _staging_dropped(staging: str) -> StagingChanged:
    return _staging_changed(f"dropped {staging} before it was published")


def _staging_changed(how: str) -> StagingChanged:
    hint = "wait until the other run has ended, then run the same command again"
    return StagingChanged(f"another run {how}; nothing was published", hint=hint)


def _missing(warehouse: Warehouse, request: Request, exc: TableMissing) -> OutOfOrder:
    name = warehouse.full_name(exc.table)
    if exc.table == request.staging:
        return NotStaged(
            f"nothing is staged for {_span(request.sessions)} and these tickers: there is no {name}",
            hint=f"fetch them first: maang ingest {session_flags(request.sessions)}{{flags}}",
        )
    return OutOfOrder(f"there is no table {name}", hint="create it: maang init-tables{flags}")


def _span(sessions: Sequence[date]) -> str:
    return str(sessions[0]) if len(sessions) == 1 else f"{sessions[0]} to {sessions[-1]}"
