"""The steps from a source to the tables. They return results and never print. Every step takes a list of sessions."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Protocol, cast

from maang_cli import checks, findings, gate, split_table, splits, sql
from maang_cli import sessions as calendar
from maang_cli.checks import Audit, Kind, Outcome
from maang_cli.diff import Differences, differences, staged_differences
from maang_cli.errors import GateRefused, MaangError, NotOwner, NotStaged, OutOfOrder, PartlyRefused, StagingChanged
from maang_cli.request import Request
from maang_cli.retries import STAGING_ATTEMPTS
from maang_cli.schemas import to_stage
from maang_cli.sources.base import Source
from maang_cli.split_table import Learned
from maang_cli.splits import Claims, Split
from maang_cli.tables import CUMULATIVE, FINDINGS, PRODUCTION, SPLITS, STORED, Table, is_staging, staged_sessions
from maang_cli.warehouses.base import (
    GateFailed,
    Query,
    Read,
    Replaced,
    TableMissing,
    Warehouse,
    WouldRevise,
    query_optional,
)

if TYPE_CHECKING:
    import pyarrow as pa

log = logging.getLogger("maang")

LOAD = "load the last final session: maang run-day{flags}"
FEW_TICKERS = 3
"""As many tickers are named in a hint."""
SCHEMA = "schema"
THE_SCHEMA = "the schema"
"""Its name in `Initialized`."""
PARTS = (SCHEMA, "staging", "production", "cumulative")


@dataclass(frozen=True)
class StoredSession:
    """What production has of one session."""

    tickers: int
    """How many of the requested ones."""
    oldest: datetime
    """The oldest `insertion_timestamp` of their rows."""


@dataclass(frozen=True)
class Initialized:
    """Full names of what was created, and of what existed."""

    created: tuple[str, ...]
    present: tuple[str, ...]
    added: tuple[str, ...] = ()
    """Columns that existing tables lacked, each with its table's full name."""
    without_splits: tuple[date, date] | None = None
    """The first and last stored session, if the table of splits was created beside a filled production."""


@dataclass(frozen=True)
class Ingested:
    rows: int
    source: str
    made_up: bool
    staging: str
    splits: Learned = field(default_factory=Learned)


@dataclass(frozen=True)
class Published:
    replaced: Replaced
    audit: Audit
    """The report; its passing sessions are the published ones."""
    revised: Differences | None = None
    """What it changed in production, beside new rows; None: nothing."""

    @property
    def allowed(self) -> tuple[checks.FailingRow, ...]:
        """Missing bars of published sessions that --allow-missing permits."""
        return tuple(row for row in self.audit.allowed if row.date not in self.audit.refused)

    @property
    def held(self) -> dict[date, frozenset[str]]:
        """The tickers, by session, whose rows were not published although the rest of their session was."""
        return checks.by_session(self.audit.held)


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
    adjusted: bool = False
    """Whether prices and volumes are on the basis of the newest applied split."""
    missing: tuple[date, ...] = ()
    """The requested sessions of which the table has no row. Empty for staging and findings."""


def init_tables(warehouse: Warehouse, request: Request, only: Sequence[str] = PARTS) -> Initialized:
    """Create what does not exist, nullable columns of older tables included; staging only if sessions are requested.

    Safe to repeat.

    Raises:
        TableMismatch: a table exists with other columns.
    """
    tables = {"production": (PRODUCTION, SPLITS, FINDINGS), "cumulative": (CUMULATIVE,)}
    if request.sessions:
        tables["staging"] = (request.staging,)
    done: dict[bool, list[str]] = {True: [], False: []}
    added: list[str] = []
    for part in PARTS:
        if part == SCHEMA and part in only:
            done[warehouse.create_schema()].append(THE_SCHEMA)
        elif part in only and part in tables:
            for table in tables[part]:
                name = warehouse.full_name(table)
                if table.partitioned:  # `ingest` replaces a staging table that has other columns
                    added += [f"{name}.{column}" for column in warehouse.add_columns(table)]
                done[warehouse.create(table)].append(name)
    stored = None
    if {warehouse.full_name(PRODUCTION)} & {*done[False]} and warehouse.full_name(SPLITS) in done[True]:
        row = warehouse.query(Query(sql.text("table_summary"), {"table": Read(PRODUCTION)})).to_pylist()[0]
        stored = (row["first"], row["last"]) if row["rows"] else None
    return Initialized(tuple(done[True]), tuple(done[False]), tuple(added), stored)


def ingest(source: Source, warehouse: Warehouse, request: Request) -> Ingested:
    """Fetch the bars that the source has into the request's staging table, which they replace, and the splits around them."""
    return _stage(source, warehouse, request, _fetch(source, request))


def _fetch(source: Source, request: Request) -> pa.Table:
    """The request's bars, as rows of staging."""
    began = datetime.now(UTC)
    return to_stage(source.bars(request.tickers, request.sessions), began)


def _stage(source: Source, warehouse: Warehouse, request: Request, rows: pa.Table) -> Ingested:
    warehouse.stage(request.staging, rows)
    learned = split_table.learn(warehouse, request.tickers, request.sessions, claimed_splits(source, request), request.staging)
    return Ingested(rows.num_rows, source.name, source.made_up, warehouse.full_name(request.staging), learned)


def claimed_splits(source: Source, request: Request) -> Claims:
    """What the source claims about splits around the request's sessions."""
    return source.splits(request.tickers, *split_table.claimed_range(request.sessions))


def check(warehouse: Warehouse, request: Request, known: Iterable[Split] | None = None) -> Audit:
    """The gate's report on staging, with every check, passed or not. What it found is stored, and what the request accepts.

    `known`: see `gate.audit`.

    Raises:
        NotStaged: there is no staging table.
    """
    try:
        audit = gate.audit(warehouse, request, known)
        if request.accept:
            findings.accept(warehouse, request, audit)
            audit = gate.audit(warehouse, request, known)
    except TableMissing as exc:
        raise _missing(warehouse, request, exc) from exc
    findings.record(warehouse, request, audit)
    return replace(audit, unknown=gate.unknown(warehouse, request, audit))


def promote(warehouse: Warehouse, request: Request, audit: Audit | None = None) -> Published:
    """Audit staging, and publish the audited rows of the sessions that pass, in one commit, without those that are held.

    `audit` is the report of a `check` just before; None: one is made here. The publishing itself audits the rows again.

    Raises:
        GateRefused: no session passed; production is as before, staging is kept, and the error carries the audit.
        OutOfOrder: staging or production does not exist.
        StagingChanged: another run replaced or dropped staging in between; production is as before.
    """
    audit = audit or check(warehouse, request)
    passing = audit.passing
    if not passing:
        raise _nothing_published(audit)
    try:
        revised = _kept_as_findings(warehouse, request, audit) if request.left_out else None
        try:
            return Published(gate.publish(warehouse, request, audit, revise=revised is not None), audit, revised)
        except WouldRevise:
            revised = _kept_as_findings(warehouse, request, audit)
            return Published(gate.publish(warehouse, request, audit), audit, revised)
    except GateFailed as exc:
        # Staging, or what it is compared with, changed between the report and the publishing, which audits the rows again.
        audit = check(warehouse, request)
        if not set(passing) <= set(audit.passing):
            raise _nothing_published(audit) from exc
        raise _staging_changed(f"changed {audit.staging} while it was being published") from exc
    except TableMissing as exc:
        if exc.table == request.staging:
            raise _staging_dropped(audit.staging) from exc
        raise _missing(warehouse, request, exc) from exc


def _kept_as_findings(warehouse: Warehouse, request: Request, audit: Audit) -> Differences:
    """What publishing will revise in production, which is stored first."""
    query = gate.passing_query(replace(request, left_out=frozenset()), audit)
    return findings.revisions(warehouse, query, audit.passing)


_BASES = {"ticker": "STRING", "number": "INTEGER", "first_date": "DATE", "last_date": "DATE"} | {
    # As wide as the exact product with a price, or with a volume of 13 digits, may be in both engines.
    "price_factor": "DECIMAL(27,18)",
    "volume_factor": "DECIMAL(24,18)",
    "own": "BOOLEAN",
}


def windows_query(tickers: Sequence[str], targets: Sequence[date], known: Iterable[Split] = ()) -> Query:
    """The windows that end on `targets`, which are in order, on the bases that the known splits give them."""
    first, last = calendar.window(targets[0])[0], targets[-1]
    days = calendar.between(first, last)
    text = sql.text(
        "windows",
        calendar=", ".join(f"({sql.day(day)}, {number})" for number, day in enumerate(days)),
        preceding=str(calendar.WINDOW_LENGTH - 1),
        bases=sql.relation(_BASES, map(_basis, splits.bases(known, first, last))),
        targets=", ".join(map(sql.day, targets)),
        first=sql.day(first),
        last=sql.day(last),
    )
    return Query(text, {"production": Read(PRODUCTION, (first, last))}, tuple(tickers))


def _basis(basis: splits.Basis) -> list[str]:
    factors = (basis.price_factor, basis.volume_factor)
    return [
        sql.string(basis.ticker),
        str(basis.number),
        sql.day(basis.first),
        sql.day(basis.last),
        *(sql.string(str(factor)) for factor in factors),
        str(basis.own).upper(),
    ]


def stored_sessions(warehouse: Warehouse, request: Request, first: date, last: date) -> dict[date, StoredSession]:
    """What production has of the request's tickers, by session from `first` to `last`; sessions with none are left out.

    Raises:
        TableMissing: there is no production.
    """
    text = sql.text("stored_sessions", first=sql.day(first), last=sql.day(last))
    reads = {"production": Read(PRODUCTION, (first, last))}
    rows = warehouse.query(Query(text, reads, request.tickers, request.spans)).to_pylist()
    return {row["date"]: StoredSession(row["tickers"], row["oldest"]) for row in rows}


def cumulate(warehouse: Warehouse, request: Request) -> Cumulated:
    """Refresh the windows that contain the request's sessions, in one commit: their own and those of the next 6 sessions.

    Raises:
        OutOfOrder: production has none of these tickers on these sessions, or a table does not exist.
    """
    targets = _affected(request.sessions)
    first = calendar.window(targets[0])[0]
    try:
        stored = stored_sessions(warehouse, request, first, targets[-1])
        if not any(day in stored for day in request.sessions) and request.allow_missing == checks.ALLOW_NONE:
            raise OutOfOrder(
                f"{warehouse.full_name(PRODUCTION)} has none of these tickers on {_span(request.sessions)}",
                hint=f"publish them first: maang run-day {session_flags(request.sessions)}{{flags}}",
            )
        replaced = Replaced(warehouse.full_name(CUMULATIVE))
        for query, days in _refreshes(warehouse, request, targets, store_splits=True):
            replaced += warehouse.replace(CUMULATIVE, query, days)
    except TableMissing as exc:
        raise _missing(warehouse, request, exc) from exc
    needed = sorted({day for target in targets if target in stored for day in calendar.window(target)})
    counts = {day: stored[day].tickers if day in stored else 0 for day in needed}
    missing = tuple((day, count) for day, count in counts.items() if count < len(request.requested(day)))
    return Cumulated(replaced, missing)


def _affected(sessions: Iterable[date]) -> tuple[date, ...]:
    """The sessions whose windows contain one of these, in order."""
    return tuple(sorted({day for session in sessions for day in calendar.affected(session)}))


def _refreshes(
    warehouse: Warehouse, request: Request, targets: Sequence[date], *, store_splits: bool = False
) -> Iterator[tuple[Query, Sequence[date]]]:
    """The windows that `cumulate` refreshes, each query with the sessions of its windows.

    They are those that end on `targets`, and those that reach over a split shortly before the request's first session, which may
    have been learned late. The latter are normally right, and nothing is committed.
    """
    first = request.sessions[0]
    since = min(calendar.window(targets[0])[0], first - splits.CLAIMS_BEFORE)
    known = split_table.judge_again(warehouse, request.tickers, since, targets[-1], request.sessions, keep=store_splits)
    yield windows_query(request.tickers, targets, known), targets
    late = [split for split in known if split.session < first]
    if days := sorted({day for split in late for day in windows_over(split.session)} - set(targets)):
        yield windows_query(sorted({split.ticker for split in late}), days, known), days


def refresh_windows(warehouse: Warehouse, tickers: Sequence[str], days: Sequence[date], known: Iterable[Split]) -> Replaced:
    """Compute these tickers' windows that end on these sessions, in order, and commit them if one differs."""
    return warehouse.replace(CUMULATIVE, windows_query(tickers, days, known), days)


def windows_over(day: date) -> tuple[date, ...]:
    """The sessions whose windows reach over a split that takes effect on `day`: they contain it, and a session before it."""
    return calendar.affected(day)[:-1]


def diff(warehouse: Warehouse, request: Request, part: str = "production") -> Differences:
    """What `promote` (part: production) or `cumulate` (part: cumulative) would change. It does not audit, and writes nothing.

    A table that does not exist yet counts as empty.

    Raises:
        NotStaged: the part is production, and there is no staging table.
        OutOfOrder: the part is cumulative, and production does not exist.
    """
    try:
        if part == "cumulative":
            return differences(warehouse, CUMULATIVE, _refreshes(warehouse, request, _affected(request.sessions)))
        return staged_differences(warehouse, request.staging, request.tickers, request.sessions, request.spans)
    except TableMissing as exc:
        raise _missing(warehouse, request, exc) from exc


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
    rows = _fetch(source, request)
    ingested = _stage(source, warehouse, request, rows)
    progress.done(ingested)
    audit, published = publish_staged(warehouse, request, rows, progress, ingested.splits.known)
    if published is None:
        raise _nothing_published(audit)
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


def publish_staged(
    warehouse: Warehouse, request: Request, rows: pa.Table, progress: Progress, known: Iterable[Split] | None = None
) -> tuple[Audit, Published | None]:
    """Audit `rows`, which are staged, and publish those of the sessions that pass; None if no session passes.

    `known`: see `gate.audit`.

    If another run of the same request replaces or drops the staging table meanwhile, the rows are staged again: both runs
    publish the same bars, so either may continue.

    Raises:
        StagingChanged: that has happened on every attempt.
    """
    for attempt in range(STAGING_ATTEMPTS):
        try:
            progress.begin("check")
            audit = check(warehouse, request, known)
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


def show(
    warehouse: Warehouse, request: Request, part: str = "production", as_of: datetime | None = None, *, adjusted: bool = False
) -> Rows:
    """The request's rows in one of the tables, by date and ticker.

    Of staging all rows, whatever they say; if the sessions are staged together with others, their rows.

    Findings include those about whole sessions; if no session is requested, they are those of all sessions.
    `adjusted`: production's, on the basis of the newest applied split.

    Raises:
        OutOfOrder: the table does not exist.
        SettingsError: the table's history does not reach back to `as_of`.
    """
    table = request.staging if part == "staging" else STORED[part]
    conditions, bounds = [], None
    if part != "staging":
        conditions = [of_tickers(table)]
        if request.sessions:
            conditions.append(f"date IN ({', '.join(map(sql.day, request.sessions))})")
            bounds = (request.sessions[0], request.sessions[-1])
    try:
        rows = stored_rows(warehouse, table, conditions, request.tickers, bounds, as_of, adjusted=adjusted)
    except TableMissing as exc:
        other = staged_with_others(warehouse, request) if exc.table == table and part == "staging" else None
        if other is None:
            raise _missing(warehouse, request, exc) from exc
        table, conditions = other, [f"session IN ({', '.join(map(sql.day, request.sessions))})"]
        rows = stored_rows(warehouse, table, conditions, request.tickers, None, as_of, adjusted=False)
    missing: tuple[date, ...] = ()
    if part not in {"staging", "findings"}:
        found = set(rows["date"].unique().to_pylist())
        missing = tuple(day for day in request.sessions if day not in found)
    return Rows(warehouse.full_name(table), rows, adjusted, missing)


def staged_with_others(warehouse: Warehouse, request: Request) -> Table | None:
    """A staging table of the same tickers that covers the request's sessions and more; None: there is none."""
    own = request.staging
    for name in warehouse.tables():
        if is_staging(name) and name.rpartition("_")[2] == own.name.rpartition("_")[2] and name != own.name:
            table = Table(name, own.columns)
            first, last = staged_sessions(table)
            if first <= request.sessions[0] and request.sessions[-1] <= last:
                return table
    return None


def last_stored(warehouse: Warehouse, request: Request, part: str, as_of: datetime | None = None) -> date:
    """The last session of which the table has one of the request's tickers.

    Raises:
        OutOfOrder: the table does not exist, or has none of them.
    """
    table = STORED[part]
    text = "-- The last session.\nSELECT max(date) AS last FROM {table} WHERE ticker IN (SELECT ticker FROM {tickers})"
    recent = calendar.last_final(datetime.now(UTC)) - timedelta(days=30)
    for bounds in ((recent, EVER), None):  # usually a few partitions are enough
        try:
            rows = warehouse.query(Query(text, {"table": Read(table, bounds, as_of)}, request.tickers))
        except TableMissing as exc:
            raise OutOfOrder(f"there is no table {warehouse.full_name(table)}", hint=LOAD) from exc
        if (last := rows["last"][0].as_py()) is not None:
            return cast("date", last)
    raise OutOfOrder(f"{warehouse.full_name(table)} has none of these tickers", hint=LOAD)


EVER = date(2999, 12, 31)


def of_tickers(table: Table) -> str:
    """SQL: the table's rows of `{tickers}`. Findings about whole sessions are those of every ticker."""
    about_all = " OR ticker IS NULL" if table == FINDINGS else ""
    return f"(ticker IN (SELECT ticker FROM {{tickers}}){about_all})"


OPTIONAL = (SPLITS, FINDINGS)
"""A table of an earlier version may lack these beside it; they then have no rows."""


def stored_rows(
    warehouse: Warehouse,
    table: Table,
    conditions: Sequence[str],
    tickers: Sequence[str],
    bounds: tuple[date, date] | None,
    as_of: datetime | None,
    *,
    adjusted: bool,
) -> pa.Table:
    """A table's rows that fulfil all conditions, by date and ticker. Splits and findings may not exist; they are then empty.

    `tickers`: the relation `{tickers}`, and whose splits adjust the rows. `bounds`: the first and last date.

    Raises:
        TableMissing: the table does not exist.
    """
    condition = " AND ".join(conditions) or "TRUE"
    if adjusted:
        first, last = bounds or (calendar.FIRST_DATE, EVER)
        text = adjusted_text(split_table.stored(warehouse, tickers, first, EVER), (first, last), condition)
    else:
        text = sql.text("table_rows", columns=", ".join(column.name for column in table.columns), condition=condition)
    return query_optional(warehouse, Query(text, {"table": Read(table, bounds, as_of)}, tuple(tickers)), OPTIONAL)


def adjusted_text(known: Iterable[Split], sessions: Sequence[date], condition: str) -> str:
    """A query for production's rows of these sessions that fulfil a condition, on the basis of the newest applied split."""
    factors = {
        "DECIMAL(10,2)": "TRY_CAST(p.{0} * b.price_factor AS DECIMAL(10,2))",
        "BIGINT": "CAST(TRY_CAST(CAST(p.{0} AS DECIMAL(13,0)) * b.volume_factor AS DECIMAL(18,0)) AS BIGINT)",
    }
    columns = [
        f"CASE WHEN b.ticker IS NULL THEN p.{column.name} ELSE {factors[column.type].format(column.name)} END AS {column.name}"
        if column.type in factors
        else f"p.{column.name}"
        for column in PRODUCTION.columns
    ]
    return sql.text(
        "adjusted_rows",
        bases=sql.relation(_BASES, map(_basis, splits.to_newest(known, sessions[0], sessions[-1]))),
        columns=", ".join(columns),
        condition=condition,
    )


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
    return GateRefused(f"the gate refused {_span(audit.sessions)}: {names}", hint=_kept(audit), audit=audit)


def _nothing_published(audit: Audit) -> GateRefused:
    error = _refused(audit)
    error.done_before("nothing was published")
    return error


def _kept(audit: Audit) -> str:
    """What to do about a refusal. Only the first few rows are known here, and one example of each kind will do."""
    advice = []
    rows = [(result.check, row) for result in audit.failed for row in result.rows if row.outcome is Outcome.REFUSED]
    if (jump := next((row for _, row in rows if row.may_be_split), None)) is not None:
        split = f"{jump.ticker}:{jump.date}:{gate.nearest_split(jump)}"
        advice.append(f"if there was a split: maang splits --add {split}{{flags}}")
    unlikely = (
        checks.Acceptance(row.ticker, row.date, check.name) for check, row in rows if check.acceptable and not row.follows
    )
    if (accept := next(unlikely, None)) is not None:
        advice.append(f"if it is right: maang promote {session_flags(audit.sessions)} --accept {accept}{{flags}}")
    tickers = {row.ticker for check, row in rows if check.kind in (Kind.ROW, Kind.MISSING) and row.ticker}
    if 0 < len(audit.unknown) <= FEW_TICKERS:
        names = ", ".join(sorted(audit.unknown))
        advice.append(f"neither the source nor production has a bar of {names}: is it spelled right?")
    if 0 < len(tickers) <= FEW_TICKERS and all(check.kind in (Kind.ROW, Kind.MISSING) for check, _ in rows):
        advice.append(f"to publish the others: --allow-missing {','.join(sorted(tickers))}")
    kept = f"the rows are kept in {audit.staging}: maang show --table staging {session_flags(audit.sessions)}{{flags}}"
    return "\n".join([*advice, kept])


def session_flags(sessions: Sequence[date]) -> str:
    """The flags that select these sessions, of which there is at least one, in order. A range has only final sessions."""
    in_range = len(sessions) > 1 and calendar.is_final(sessions[-1], datetime.now(UTC))
    if in_range and tuple(sessions) == calendar.between(sessions[0], sessions[-1]):
        return f"--from {sessions[0]} --to {sessions[-1]}"
    return " ".join(f"--date {day}" for day in sessions)


def _staging_dropped(staging: str) -> StagingChanged:
    return _staging_changed(f"dropped {staging} before it was published")


def _staging_changed(how: str) -> StagingChanged:
    hint = "wait until the other run has ended, then run the same command again"
    return StagingChanged(f"another run {how}; nothing was published", hint=hint)


def _missing(warehouse: Warehouse, request: Request, exc: TableMissing) -> OutOfOrder:
    name = warehouse.full_name(exc.table)
    if request.sessions and exc.table == request.staging:
        if (other := staged_with_others(warehouse, request)) is not None:
            first, last = staged_sessions(other)
            return NotStaged(
                f"{_span(request.sessions)} is staged together with other sessions, in {warehouse.full_name(other)}",
                hint=f"give --from {first} --to {last}",
            )
        return NotStaged(
            f"nothing is staged for {_span(request.sessions)} and these tickers: there is no {name}",
            hint=f"fetch them first: maang ingest {session_flags(request.sessions)}{{flags}}",
        )
    return no_table(warehouse, exc)


def no_table(warehouse: Warehouse, exc: TableMissing) -> OutOfOrder:
    """The error of a table that `init_tables` creates."""
    return OutOfOrder(f"there is no table {warehouse.full_name(exc.table)}", hint="create it: maang init-tables{flags}")


def _span(sessions: Sequence[date]) -> str:
    return str(sessions[0]) if len(sessions) == 1 else f"{sessions[0]} to {sessions[-1]}"
