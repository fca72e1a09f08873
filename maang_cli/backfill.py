"""Many sessions at once: what production lacks is found, fetched with the fewest calls, and published a batch at a time.

What is left to do is read from the tables, so the next run finishes one that was killed.
"""

from __future__ import annotations

import contextlib
import logging
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from maang_cli import checks, pipeline, sql
from maang_cli import sessions as calendar
from maang_cli.errors import GateRefused, MaangError, MayHeal, NotStaged, PartlyRefused, SourceFailed, StagingChanged
from maang_cli.pipeline import Request
from maang_cli.sources.base import Resume
from maang_cli.tables import CUMULATIVE, PRODUCTION, STAGED_COLUMNS, Table, staged_sessions, staging
from maang_cli.warehouses.base import Query, Read, Replaced, TableMissing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from datetime import date

    from maang_cli.planner import Calls
    from maang_cli.sources.base import Fetched, Source
    from maang_cli.warehouses.base import Warehouse

log = logging.getLogger("maang")

BATCH_ROWS = 250_000
"""Rows of one batch, which is one commit a table. Its windows take some 400 MB while they are merged."""
BATCH_MINUTES = 10
"""Minutes of grouped calls for one batch at the key's pace, at most: what a run that is killed may have to ask for again."""
BATCH_CALLS = 100
"""The same of a key whose pace is not known."""
COMPARED_ROWS = 250_000
"""Windows that are recomputed and compared in one query; it takes some 300 MB."""
ATTEMPTS = 5
"""How often a batch is staged anew when another run drops or replaces what was staged."""


@dataclass(frozen=True)
class Batch:
    """Sessions that lack the same tickers."""

    tickers: tuple[str, ...]
    sessions: tuple[date, ...]

    @property
    def rows(self) -> int:
        return len(self.tickers) * len(self.sessions)


@dataclass(frozen=True)
class Holes:
    """What production lacks of the tickers asked for."""

    missing: Mapping[date, frozenset[str]]
    """Sessions that the gate would refuse as production holds them, in order, with the tickers that they lack."""
    excused: Mapping[date, frozenset[str]]
    """Sessions that are whole, as --allow-missing lets them lack these tickers."""


@dataclass(frozen=True)
class Windows:
    """Windows of one session that a recomputation does not give."""

    missing: int
    stale: int


@dataclass(frozen=True)
class Plan:
    """What a backfill would do."""

    request: Request
    holes: Holes
    windows: Mapping[date, Windows]
    """Sessions with windows that are missing or stale, apart from those that a batch makes anew."""
    batches: tuple[Batch, ...]
    calls: Calls
    per_minute: int | None
    resume: Resume | None = None
    """None: what an earlier run was told will not do."""

    @property
    def rows(self) -> int:
        return sum(batch.rows for batch in self.batches)

    @property
    def commits(self) -> int:
        """Of both tables; one that would change nothing is not made."""
        return 2 * len(self.batches) + len(_chunks(list(self.windows), self.request, BATCH_ROWS))

    @property
    def seconds(self) -> float:
        """A guess: the calls at the key's pace, or the work of a small machine, whichever is longer."""
        return max(_paced(self.calls.number, self.per_minute), self.calls.number * 0.1 + self.rows / 50_000)


@dataclass(frozen=True)
class Tally:
    """How far a backfill is."""

    sessions: int
    all_sessions: int
    rows: int
    calls: int
    all_calls: int
    seconds_left: float | None
    """At the key's pace, or at the pace so far; None: too early to say."""


@dataclass
class Backfilled:
    """What a backfill did."""

    plan: Plan
    production: Replaced
    cumulative: Replaced
    calls: int = 0
    published: list[date] = field(default_factory=list)
    refused: dict[date, tuple[str, ...]] = field(default_factory=dict)
    """Sessions that the gate refused, with the checks that they fail."""
    failed: dict[date, MaangError] = field(default_factory=dict)
    """Sessions that the source could not give."""
    kept: list[str] = field(default_factory=list)
    """Staging tables with refused rows."""
    absent: dict[str, int] = field(default_factory=dict)
    """Tickers without a bar, as --allow-missing lets them, with on how many sessions."""

    @property
    def left(self) -> int:
        return len(self.refused) + len(self.failed)

    def verdict(self) -> MaangError | None:
        """What keeps this from being a success; None when nothing does."""
        if not self.left:
            return None
        asked = len(self.plan.request.sessions)
        why = _told(self.refused, self.failed)
        message = f"{self.left} of {asked} sessions are not done: {why}"
        errors = list(self.failed.values())
        if healing := [error for error in errors if isinstance(error, MayHeal)]:
            return SourceFailed(message, hint=healing[0].hint or "run the same command again")
        hint = errors[0].hint if errors else f"their rows are kept in {', '.join(self.kept)}"
        if self.left < asked:
            return PartlyRefused(message, hint=hint)
        return GateRefused(message, hint=hint) if self.refused else type(errors[0])(message, hint=hint)


def find_holes(warehouse: Warehouse, request: Request, *, refetch: bool = False) -> Holes:
    """What production lacks of the request. `missing` means what it means to the gate; `refetch`: all of it is missing."""
    everything = frozenset(request.tickers)
    if refetch:
        return Holes(dict.fromkeys(request.sessions, everything), {})
    first, last = request.sessions[0], request.sessions[-1]
    try:
        held = pipeline.coverage(warehouse, request.tickers, first, last)
    except TableMissing:
        held = {}
    partial = [day for day in request.sessions if 0 < held.get(day, 0) < len(everything)]
    gaps: dict[date, frozenset[str]] = {day: everything for day in request.sessions if not held.get(day)}
    gaps |= _partly_held(warehouse, request, partial)
    missing: dict[date, frozenset[str]] = {}
    excused: dict[date, frozenset[str]] = {}
    for day in sorted(gaps):
        (excused if may_lack(request, gaps[day]) else missing)[day] = gaps[day]
    return Holes(missing, excused)


def may_lack(request: Request, gap: frozenset[str]) -> bool:
    """Whether the gate would let a session of the request lack these tickers; what it says of `missing_stocks`."""
    allow = request.allow_missing
    return gap <= allow.tickers or len(gap) * 100 <= allow.percent * len(request.tickers)


def _partly_held(warehouse: Warehouse, request: Request, days: Sequence[date]) -> dict[date, frozenset[str]]:
    """Which tickers these sessions lack; equal sets are one object."""
    gaps: dict[date, set[str]] = {}
    for chunk in _chunks(days, request, COMPARED_ROWS):
        text = sql.text(
            "missing",
            tickers=sql.rows(map(sql.string, request.tickers)),
            sessions=sql.rows(map(sql.day, chunk)),
            first=sql.day(chunk[0]),
            last=sql.day(chunk[-1]),
        )
        rows = warehouse.query(Query(text, {"production": Read(PRODUCTION, (chunk[0], chunk[-1]))}))
        for day, ticker in zip(rows["date"].to_pylist(), rows["ticker"].to_pylist(), strict=True):
            gaps.setdefault(day, set()).add(ticker)
    known: dict[frozenset[str], frozenset[str]] = {}
    return {day: known.setdefault(gap, gap) for day, gap in ((day, frozenset(names)) for day, names in gaps.items())}


def find_stale(warehouse: Warehouse, request: Request) -> dict[date, Windows]:
    """The sessions of the request, and the 6 after it, whose windows are not what production says; with how many."""
    found: dict[date, Windows] = {}
    last = calendar.touched(request.sessions[-1])[-1]
    for targets in _chunks(calendar.between(request.sessions[0], last), request, COMPARED_ROWS):
        query = stale_query(request.tickers, targets)
        try:
            rows = warehouse.query(query).to_pylist()
        except TableMissing:
            return {}
        found |= {row["date"]: Windows(row["missing"], row["stale"]) for row in rows}
    return dict(sorted(found.items()))


def stale_query(tickers: Sequence[str], targets: Sequence[date]) -> Query:
    """How many of the windows that end on `targets`, in order, are missing or stale, by session."""
    windows, read = pipeline.windows_sql(tickers, targets)
    text = sql.text(
        "stale",
        windows=windows,
        tickers=sql.rows(map(sql.string, tickers)),
        first_target=sql.day(targets[0]),
        last_target=sql.day(targets[-1]),
        differs=sql.differs("e", "h", CUMULATIVE.values[2:]),
    )
    return Query(text, {"production": read, "cumulative": Read(CUMULATIVE, (targets[0], targets[-1]))})


def _chunks(days: Sequence[date], request: Request, rows: int) -> list[tuple[date, ...]]:
    """The days, in order, in pieces of about so many rows."""
    size = max(rows // len(request.tickers), 1)
    return [tuple(days[i : i + size]) for i in range(0, len(days), size)]


def cut(missing: Mapping[date, frozenset[str]], calls: Calls, most_calls: int, most_rows: int | None = None) -> tuple[Batch, ...]:
    """Batches by the first of their sessions: those that lack the same tickers, of `most_rows` rows if they can be that small.

    A batch has to wait for at most `most_calls` of the grouped calls; range calls all come before the first.
    """
    grouped = frozenset(calls.grouped)
    batches: list[tuple[frozenset[str], list[date]]] = []
    filling: dict[frozenset[str], tuple[list[date], int]] = {}
    for day in sorted(missing):
        tickers = missing[day]
        most = max(min(BATCH_ROWS, most_rows or BATCH_ROWS) // len(tickers), 1)
        days, asked = filling.get(tickers, ([], 0))
        if not days or len(days) == most or asked + (day in grouped) > most_calls:
            days, asked = [], 0
            batches.append((tickers, days))
        days.append(day)
        filling[tickers] = days, asked + (day in grouped)
    return tuple(Batch(tuple(sorted(tickers)), tuple(days)) for tickers, days in batches)


def plan(source: Source, warehouse: Warehouse, request: Request, *, refetch: bool = False) -> Plan:
    """What a backfill of the request would do. Nothing is fetched or written."""
    holes = find_holes(warehouse, request, refetch=refetch)
    renewed = {later for day in holes.missing for later in calendar.touched(day)}
    windows = {day: found for day, found in find_stale(warehouse, request).items() if day not in renewed}
    resume = None if refetch else Resume(frozenset(request.tickers), request.sessions[0], request.sessions[-1])
    calls, pace = source.plan(holes.missing, resume=resume), source.per_minute
    batches = cut(holes.missing, calls, pace * BATCH_MINUTES if pace else BATCH_CALLS, warehouse.most_staged)
    return Plan(request, holes, windows, batches, calls, pace, resume)


def run(source: Source, warehouse: Warehouse, todo: Plan, tell: Callable[[Tally], None]) -> Backfilled:
    """Carry out a plan: a batch at a time is audited, published and its windows made, while the next is being fetched.

    A session that is refused, or can't be had, holds no other back. What concerns all of them is raised; what was published until
    then stays, and the same command finishes the rest.
    """
    request = todo.request
    pipeline.init_tables(warehouse, request, only=(pipeline.SCHEMA, "production", "cumulative"))
    done = Backfilled(todo, _nothing(warehouse, PRODUCTION), _nothing(warehouse, CUMULATIVE))
    clock = _Clock(source, todo, tell)
    missing, batches = todo.holes.missing, [batch.sessions for batch in todo.batches]
    with contextlib.closing(source.fetch(missing, batches, clock.tick, resume=todo.resume)) as answers:
        for batch, fetched in zip(todo.batches, answers, strict=True):
            _land(warehouse, request, batch, fetched, done)
            clock.landed(batch, fetched.rows.num_rows)
    done.calls = source.calls
    for days in _chunks(list(todo.windows), request, BATCH_ROWS):
        done.cumulative = _sum(done.cumulative, pipeline.cumulate(warehouse, replace(request, sessions=days)).replaced)
    _drop_published(warehouse, request, done.published)
    return done


def _land(warehouse: Warehouse, request: Request, batch: Batch, fetched: Fetched, done: Backfilled) -> None:
    """Stage, audit, publish, cumulate and drop one batch."""
    done.failed |= fetched.failed
    sessions = tuple(day for day in batch.sessions if day not in fetched.failed)
    if not sessions:
        return
    allow = replace(request.allow_missing, universe=len(request.tickers))
    mine = Request(batch.tickers, sessions, allow, universe=request.tickers)
    try:
        audit, published = _publish(warehouse, mine, fetched)
        done.refused |= audit.refused
        done.published += audit.passing
        for row in audit.absent:
            if row.date not in audit.refused:
                done.absent[str(row.ticker)] = done.absent.get(str(row.ticker), 0) + 1
        if published is not None:
            done.production = _sum(done.production, published.replaced)
            cumulated = pipeline.cumulate(warehouse, replace(mine, sessions=audit.passing))
            done.cumulative = _sum(done.cumulative, cumulated.replaced)
        if audit.passed:
            pipeline.drop_staging(warehouse, mine)
        else:
            done.kept.append(audit.staging)
    except BaseException:
        # Interrupted, or the warehouse failed: what is staged is of no use, as what is not published of it is fetched again.
        with contextlib.suppress(MaangError):
            pipeline.drop_staging(warehouse, mine)
        raise


def _publish(warehouse: Warehouse, request: Request, fetched: Fetched) -> tuple[checks.Audit, pipeline.Published | None]:
    """The audit, and what was published of the sessions that pass; None when none does."""
    for attempt in range(ATTEMPTS):
        try:
            warehouse.stage(request.staging, fetched.rows)
            audit = pipeline.check(warehouse, request)
            return audit, pipeline.promote(warehouse, request, audit) if audit.passing else None
        except (NotStaged, StagingChanged):
            # Another run of the same batch has dropped it. Both publish the same bars, so either may go on.
            if attempt == ATTEMPTS - 1:
                raise
            log.debug("%s was changed by another run; staging it anew", request.staging.name)
    raise AssertionError


def staged_tables(warehouse: Warehouse) -> list[Table]:
    """The staging tables that are there: of running backfills and days, or left by refused and killed ones."""
    prefix = f"{PRODUCTION.name}_staging_"
    return [Table(name, STAGED_COLUMNS) for name in warehouse.tables() if name.startswith(prefix)]


def _drop_published(warehouse: Warehouse, request: Request, published: Sequence[date]) -> None:
    """Drop what earlier runs of these tickers left in staging, where production holds it, or what has just been published."""
    own = staging(request.tickers, request.sessions[:1]).name.rpartition("_")[2]
    for table in staged_tables(warehouse):
        if table.name.endswith(f"_{own}") and set(unpublished(warehouse, table)) <= set(published):
            log.debug("dropping %s: its sessions are published", table.name)
            warehouse.drop(table)


def unpublished(warehouse: Warehouse, table: Table) -> list[date]:
    """The sessions of a staging table that production does not hold as they are there; those in its name if it can't be read."""
    try:
        rows = warehouse.query(unpublished_query(table))
    except (TableMissing, MaangError):  # dropped meanwhile, or of another shape
        return list(staged_sessions(table))
    days: list[date] = rows["session"].to_pylist()
    return days


def unpublished_query(staged: Table) -> Query:
    """The sessions of which production does not hold the staged rows as they are."""
    differs = sql.differs("s", "p", PRODUCTION.values[2:])
    reads = {"staging": Read(staged), "production": Read(PRODUCTION, staged_sessions(staged))}
    return Query(sql.text("unpublished", differs=differs), reads)


def _paced(calls: int, per_minute: int | None) -> float:
    """Seconds from the first call to the last at the key's pace: a minute's calls don't wait, those of the next minute do."""
    return 60.0 * (max(calls - 1, 0) // per_minute) if per_minute else 0.0


class _Clock:
    """Counts what is done, and guesses what is left."""

    def __init__(self, source: Source, todo: Plan, tell: Callable[[Tally], None]) -> None:
        self._source, self._todo, self._tell = source, todo, tell
        self._begun = time.monotonic()
        self._sessions = self._rows = 0
        self._before = source.calls

    @property
    def _spent(self) -> float:
        return time.monotonic() - self._begun

    def tick(self) -> None:
        todo, calls = self._todo, self._source.calls - self._before
        everything = todo.calls.number
        left: float | None = None
        if (pace := self._source.per_minute) and calls < everything:
            left = max(_paced(everything, pace) - self._spent, _paced(everything - calls, pace))
        elif self._sessions:
            left = self._spent * (len(todo.holes.missing) - self._sessions) / self._sessions
        self._tell(Tally(self._sessions, len(todo.holes.missing), self._rows, calls, max(everything, calls), left))

    def landed(self, batch: Batch, rows: int) -> None:
        self._sessions += len(batch.sessions)
        self._rows += rows
        self.tick()


def _nothing(warehouse: Warehouse, table: Table) -> Replaced:
    return Replaced(warehouse.full_name(table), 0, 0, 0, 0)


def _sum(left: Replaced, right: Replaced) -> Replaced:
    return Replaced(
        left.table,
        left.inserted + right.inserted,
        left.updated + right.updated,
        left.deleted + right.deleted,
        left.unchanged + right.unchanged,
    )


def _told(refused: Mapping[date, tuple[str, ...]], failed: Mapping[date, MaangError]) -> str:
    """Reasons with their sessions, as runs."""
    reasons: dict[str, list[date]] = {}
    for day, names in refused.items():
        reasons.setdefault(f"refused ({', '.join(names)})", []).append(day)
    for day, error in failed.items():
        reasons.setdefault(error.message, []).append(day)
    return "; ".join(f"{spans(days)} {reason}" for reason, days in reasons.items())


def spans(days: Iterable[date]) -> str:
    """Sessions as a person lists them: those in a row are one span."""
    return ", ".join(str(first) if first == last else f"{first} to {last}" for first, last in _runs(sorted(days)))


def _runs(days: Sequence[date]) -> Iterator[tuple[date, date]]:
    start = 0
    for i in range(1, len(days) + 1):
        if i == len(days) or calendar.touched(days[i - 1])[1] != days[i]:
            yield days[start], days[i - 1]
            start = i
