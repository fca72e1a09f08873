"""The steps from a source to the tables. They return results and never print; every step takes a list of sessions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from maang_cli import checks, sql
from maang_cli import sessions as calendar
from maang_cli.errors import GateRefused, NotStaged, OutOfOrder, PartlyRefused, StagingChanged
from maang_cli.tables import CUMULATIVE, PRODUCTION, Table, staging
from maang_cli.warehouses.base import Forbidden, Query, Read, Replaced, TableMissing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager
    from datetime import date, datetime

    import pyarrow as pa

    from maang_cli.checks import AllowMissing, Audit
    from maang_cli.sources.base import Source
    from maang_cli.warehouses.base import Warehouse

SCHEMA = "schema"
PARTS = (SCHEMA, "staging", "production", "cumulative")


@dataclass(frozen=True)
class Request:
    """What is asked for: these tickers on these sessions."""

    tickers: tuple[str, ...]
    sessions: tuple[date, ...]
    """In order, at least one but for `init_tables`."""
    allow_missing: AllowMissing = checks.ALL_MUST_BE_THERE
    universe: tuple[str, ...] | None = None
    """What the staging table is named by, where only a part of it is asked for; None: the tickers."""

    @property
    def staging(self) -> Table:
        return staging(self.universe or self.tickers, self.sessions)


@dataclass(frozen=True)
class Initialized:
    """Full names of what was created, and of what was there."""

    created: tuple[str, ...]
    present: tuple[str, ...]


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
    """The report; its passing sessions are the ones published."""

    @property
    def absent(self) -> tuple[checks.FailingRow, ...]:
        """Tickers without a bar on a published session, as --allow-missing lets them."""
        return tuple(row for row in self.audit.absent if row.date not in self.audit.refused)


@dataclass(frozen=True)
class Cumulated:
    replaced: Replaced
    holes: tuple[tuple[date, int], ...]
    """Sessions of the windows that production lacks, with how many of the tickers asked for it holds there."""


@dataclass(frozen=True)
class Dropped:
    staging: str
    dropped: bool


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
    """Create what is missing; staging only where sessions are asked for. Safe to repeat.

    Raises:
        TableMismatch: a table is there with other columns.
    """
    tables = {"production": PRODUCTION, "cumulative": CUMULATIVE}
    if request.sessions:
        tables["staging"] = request.staging
    done: dict[bool, list[str]] = {True: [], False: []}
    for part in PARTS:
        if part == SCHEMA and part in only:
            done[warehouse.create_schema()].append("the schema")
        elif part in only and part in tables:
            done[warehouse.create(tables[part])].append(warehouse.full_name(tables[part]))
    return Initialized(created=tuple(done[True]), present=tuple(done[False]))


def ingest(source: Source, warehouse: Warehouse, request: Request) -> Ingested:
    """The bars that the source has, into the request's staging table, in the place of what was there."""
    rows = source.bars(request.tickers, request.sessions)
    warehouse.stage(request.staging, rows)
    return Ingested(rows.num_rows, source.name, source.made_up, warehouse.full_name(request.staging))


def check(warehouse: Warehouse, request: Request) -> Audit:
    """The gate's report on staging, every check in it; passed or not.

    Raises:
        OutOfOrder: staging is not there.
    """
    try:
        rows = warehouse.query(_on_staging(request, checks.report_sql))
    except TableMissing as exc:
        raise _ingest_first(warehouse, request) from exc
    return checks.audit_of(request.sessions, warehouse.full_name(request.staging), rows.to_pylist())


def promote(warehouse: Warehouse, request: Request, audit: Audit | None = None) -> Published:
    """Audit staging, and publish the audited rows of the sessions that pass, in one commit.

    `audit` is a report that was just made, else one is made here. It is for people: the publishing audits for itself.

    Raises:
        GateRefused: no session passed; production is as it was, staging is kept, and the error carries the audit.
        OutOfOrder: staging, or production, is not there.
        StagingChanged: another run was at it meanwhile; production is as it was.
    """
    audit = audit or check(warehouse, request)
    passing = audit.passing
    if not passing:
        raise refused(audit)
    unless = _on_staging(request, checks.forbidden_sql, passing)
    try:
        replaced = warehouse.replace(PRODUCTION, publish_query(request.staging, passing), request.tickers, passing, unless)
    except Forbidden as exc:
        # Staging changed between the report and the publishing, which audits for itself.
        audit = check(warehouse, request)
        if not set(passing) <= set(audit.passing):
            raise refused(audit) from exc
        raise StagingChanged(
            f"{audit.staging} was changed while it was being published; nothing was published",
            hint="let one run end before the next begins, then run the same command again",
        ) from exc
    except TableMissing as exc:
        raise (_vanished(audit.staging) if exc.table == request.staging else _missing(warehouse, request, exc)) from exc
    return Published(replaced, audit)


def publish_query(staged: Table, sessions: Sequence[date]) -> Query:
    """What production receives of these sessions, at least one, from a staging table."""
    return Query(sql.text("publish", sessions=", ".join(map(sql.day, sessions))), {"staging": Read(staged)})


def windows_sql(tickers: Sequence[str], targets: Sequence[date]) -> tuple[str, Read]:
    """The query for the windows that end on `targets`, in order, with its hole for production; and what that hole reads."""
    first, last = calendar.window(targets[0])[0], targets[-1]
    days = calendar.between(first, last)
    text = sql.text(
        "windows",
        calendar=", ".join(f"({sql.day(day)}, {number})" for number, day in enumerate(days)),
        targets=", ".join(map(sql.day, targets)),
        tickers=sql.rows(map(sql.string, tickers)),
        first=sql.day(first),
        last=sql.day(last),
    )
    return text, Read(PRODUCTION, (first, last))


def coverage(warehouse: Warehouse, tickers: Sequence[str], first: date, last: date) -> dict[date, int]:
    """How many of the tickers production holds, by session; sessions with none are left out.

    Raises:
        TableMissing: there is no production.
    """
    text = sql.text("coverage", tickers=sql.rows(map(sql.string, tickers)), first=sql.day(first), last=sql.day(last))
    rows = warehouse.query(Query(text, {"production": Read(PRODUCTION, (first, last))})).to_pylist()
    return {row["date"]: row["tickers"] for row in rows}


def cumulate(warehouse: Warehouse, request: Request) -> Cumulated:
    """Refresh the windows that hold the request's sessions, in one commit: theirs and those of the next 6 sessions in production.

    Raises:
        OutOfOrder: production holds none of these tickers on these sessions, or a table is not there.
    """
    targets = tuple(sorted({day for session in request.sessions for day in calendar.touched(session)}))
    text, read = windows_sql(request.tickers, targets)
    try:
        held = coverage(warehouse, request.tickers, calendar.window(targets[0])[0], targets[-1])
        if not any(day in held for day in request.sessions) and request.allow_missing == checks.ALL_MUST_BE_THERE:
            raise OutOfOrder(
                f"{warehouse.full_name(PRODUCTION)} holds none of these tickers on {_days(request)}",
                hint=f"publish them first: maang run-day {typed(request.sessions)}{{flags}}",
            )
        replaced = warehouse.replace(CUMULATIVE, Query(text, {"production": read}), request.tickers, targets)
    except TableMissing as exc:
        raise _missing(warehouse, request, exc) from exc
    needed = sorted({day for target in targets if target in held for day in calendar.window(target)})
    holes = tuple((day, held.get(day, 0)) for day in needed if held.get(day, 0) < len(request.tickers))
    return Cumulated(replaced, holes)


def drop_staging(warehouse: Warehouse, request: Request) -> Dropped:
    """Drop the request's staging table; no error when it is not there."""
    return Dropped(warehouse.full_name(request.staging), warehouse.drop(request.staging))


def run_day(
    source: Source,
    warehouse: Warehouse,
    request: Request,
    step: Callable[[str], AbstractContextManager[Callable[[object], None]]],
) -> DayRun:
    """All the steps, in one process. `step(name)` surrounds each one, and is given its result.

    Sessions that the gate refuses stay in staging; the others are published.

    Raises:
        GateRefused: as `promote`; the steps before it are done.
    """
    with step("init-tables") as done:
        done(init_tables(warehouse, request, only=(SCHEMA, "production", "cumulative")))
    with step("ingest") as done:
        ingested = ingest(source, warehouse, request)
        done(ingested)
    try:
        with step("check") as done:
            audit = check(warehouse, request)
            done(audit)
        if not audit.passing:
            raise refused(audit)
        with step("promote") as done:
            published = promote(warehouse, request, audit)
            done(published)
    except NotStaged as exc:  # it was there a moment ago: a second run of the same request has ended and dropped it
        raise _vanished(ingested.staging) from exc
    with step("cumulate") as done:
        cumulated = cumulate(warehouse, replace(request, sessions=audit.passing))
        done(cumulated)
    if audit.passed:
        with step("drop-staging") as done:
            done(drop_staging(warehouse, request))
    return DayRun(ingested, audit, published, cumulated)


def show(warehouse: Warehouse, request: Request, part: str = "production", as_of: datetime | None = None) -> Rows:
    """The request's rows in one of the tables, by date and ticker; staging's whatever ticker and date they are of.

    Raises:
        OutOfOrder: the table is not there.
        SettingsError: the table's history does not reach back to `as_of`.
    """
    table = {"production": PRODUCTION, "cumulative": CUMULATIVE, "staging": request.staging}[part]
    tickers = ", ".join(map(sql.string, request.tickers))
    which = f"date IN ({', '.join(map(sql.day, request.sessions))}) AND ticker IN ({tickers})"
    whole = part == "staging"
    text = sql.text("show", columns=", ".join(column.name for column in table.columns), which="TRUE" if whole else which)
    bounds = None if whole else (request.sessions[0], request.sessions[-1])
    try:
        return Rows(warehouse.full_name(table), warehouse.query(Query(text, {"table": Read(table, bounds, as_of)})))
    except TableMissing as exc:
        raise _missing(warehouse, request, exc) from exc


def refused(audit: Audit) -> GateRefused:
    """The error for an audit in which no session passed."""
    names = ", ".join(result.check.name for result in audit.failed)
    return GateRefused(
        f"the gate refused {_span(audit.sessions)}: {names}; nothing was published", hint=_kept(audit), audit=audit
    )


def partly_refused(audit: Audit) -> PartlyRefused:
    """The error for an audit in which some sessions passed, and some did not."""
    days = ", ".join(f"{day} ({', '.join(names)})" for day, names in audit.refused.items())
    return PartlyRefused(f"the gate refused {len(audit.refused)} of {len(audit.sessions)} sessions: {days}", hint=_kept(audit))


def _kept(audit: Audit) -> str:
    return f"the rows are kept in {audit.staging}: maang show --table staging {typed(audit.sessions)}{{flags}}"


def typed(sessions: Sequence[date]) -> str:
    """The flags that ask for these sessions, in order and at least one."""
    if len(sessions) > 1 and tuple(sessions) == calendar.between(sessions[0], sessions[-1]):
        return f"--from {sessions[0]} --to {sessions[-1]}"
    return " ".join(f"--date {day}" for day in sessions)


def _on_staging(
    request: Request,
    text: Callable[[Sequence[str], Sequence[date], AllowMissing], str],
    sessions: Sequence[date] | None = None,
) -> Query:
    return Query(text(request.tickers, sessions or request.sessions, request.allow_missing), {"staging": Read(request.staging)})


def _vanished(name: str) -> StagingChanged:
    return StagingChanged(
        f"{name} was dropped before it was published, by another run; nothing was published",
        hint="let one run end before the next begins, then run the same command again",
    )


def _missing(warehouse: Warehouse, request: Request, exc: TableMissing) -> OutOfOrder:
    if exc.table == request.staging:
        return _ingest_first(warehouse, request)
    return OutOfOrder(f"there is no table {warehouse.full_name(exc.table)}", hint="create it: maang init-tables{flags}")


def _ingest_first(warehouse: Warehouse, request: Request) -> NotStaged:
    return NotStaged(
        f"nothing is staged for {_days(request)} and these tickers: there is no {warehouse.full_name(request.staging)}",
        hint=f"fetch them first: maang ingest {typed(request.sessions)}{{flags}}",
    )


def _days(request: Request) -> str:
    return _span(request.sessions)


def _span(sessions: Sequence[date]) -> str:
    return str(sessions[0]) if len(sessions) == 1 else f"{sessions[0]} to {sessions[-1]}"
