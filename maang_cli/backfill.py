"""Many sessions: plan which missing bars to fetch with which calls, then fetch and publish them one batch at a time.

The tables say what is left to do, so the next run finishes one that was killed.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING

from maang_cli import missing, pipeline, split_table
from maang_cli import sessions as calendar
from maang_cli.checks import Audit
from maang_cli.diff import Differences
from maang_cli.errors import GateRefused, MaangError, MayHeal, PartlyRefused, SourceFailed
from maang_cli.request import Request
from maang_cli.schemas import to_stage
from maang_cli.sources.base import Calls, Resume, Source
from maang_cli.splits import Claims
from maang_cli.tables import CUMULATIVE, PRODUCTION
from maang_cli.warehouses.base import Replaced, Warehouse

if TYPE_CHECKING:
    import pyarrow as pa

log = logging.getLogger("maang")

BATCH_ROWS = 250_000
"""Rows of one batch, which is one commit a table. Merging its windows takes about 400 MB of memory."""
BATCH_MINUTES = 10
"""The most minutes of grouped calls in one batch, at the key's pace: what a killed run may have to fetch again."""
BATCH_CALLS = 100
"""The most grouped calls in one batch, if the key's pace is not known."""
DRY_RUN = "dry-run"
"""Not a ticker. With it in the universe a dry run has staging tables of its own, and what a refused run has staged stays."""


@dataclass(frozen=True)
class Batch:
    """Sessions that lack the same tickers."""

    tickers: tuple[str, ...]
    sessions: tuple[date, ...]

    @property
    def rows(self) -> int:
        return len(self.tickers) * len(self.sessions)


@dataclass(frozen=True)
class Plan:
    """What a backfill would do."""

    request: Request
    bars: missing.MissingBars
    to_fetch: Mapping[date, frozenset[str]]
    """The tickers by session, in order: what is missing, and early rows whose session is final by now."""
    windows: Mapping[date, missing.StaleWindows]
    """Sessions with missing or stale windows, without those that a batch refreshes."""
    batches: tuple[Batch, ...]
    calls: Calls
    per_minute: int | None
    resume: Resume | None = None
    """None: cached answers are not used."""
    batch_rows: int = BATCH_ROWS
    """The most rows of one batch."""

    @property
    def rows(self) -> int:
        return sum(batch.rows for batch in self.batches)

    @property
    def commits(self) -> int:
        """Commits to both tables; a commit that would change nothing is not made."""
        return 2 * len(self.batches) + len(missing.chunks(list(self.windows), self.request, self.batch_rows))

    @property
    def seconds(self) -> float:
        """An estimate: the calls at the key's pace, or the work on a small machine, whichever takes longer."""
        return max(_paced(self.calls.total, self.per_minute), self.calls.total * 0.1 + self.rows / 50_000)


@dataclass(frozen=True)
class BackfillProgress:
    """How much of a backfill is done."""

    sessions: int
    all_sessions: int
    rows: int
    calls: int
    all_calls: int
    seconds_left: float | None
    """At the key's pace, or at the pace so far; None: not known yet."""


@dataclass
class Backfilled:
    """What a backfill did."""

    plan: Plan
    production: Replaced
    cumulative: Replaced
    calls: int = 0
    published: list[date] = field(default_factory=list)
    refused: dict[date, tuple[str, ...]] = field(default_factory=dict)
    """Sessions that the gate refused, with the checks that fail there."""
    failed: dict[date, MaangError] = field(default_factory=dict)
    """Sessions that the source could not deliver."""
    audits: list[Audit] = field(default_factory=list)
    """Those that refused sessions."""
    kept: list[str] = field(default_factory=list)
    """Staging tables with refused rows."""
    allowed: dict[str, int] = field(default_factory=dict)
    """Tickers with missing bars that --allow-missing permits, and on how many sessions they are missing."""
    held: dict[date, frozenset[str]] = field(default_factory=dict)
    """The tickers, by session, whose rows were not published although the rest of their session was."""
    revised: Differences | None = None
    """What changed in production, beside new rows; None: nothing."""

    def verdict(self) -> MaangError | None:
        """The error that says which sessions are not done; None if all are."""
        unfinished = len(self.refused) + len(self.failed)
        if not unfinished:
            return None
        requested = len(self.plan.request.sessions)
        message = f"{unfinished} of {requested} sessions are not done: {_reasons(self.refused, self.failed)}"
        errors = list(self.failed.values())
        if healing := [error for error in errors if isinstance(error, MayHeal)]:
            return SourceFailed(message, hint=healing[0].hint or "run the same command again")
        hint = errors[0].hint if errors else f"their rows are kept in {', '.join(self.kept)}"
        if unfinished < requested:
            return PartlyRefused(message, hint=hint)
        return GateRefused(message, hint=hint) if self.refused else type(errors[0])(message, hint=hint)


def cut(wanted: Mapping[date, frozenset[str]], calls: Calls, most_calls: int, most_rows: int) -> tuple[Batch, ...]:
    """Batches of sessions that lack the same tickers, in order of their first session.

    A batch has at most `most_rows` rows (but at least one session), and waits for at most `most_calls` grouped calls. All range
    calls come before the first batch.
    """
    grouped = frozenset(calls.grouped)
    batches: list[tuple[frozenset[str], list[date]]] = []
    filling: dict[frozenset[str], tuple[list[date], int]] = {}
    for day in sorted(wanted):
        tickers = wanted[day]
        most = max(most_rows // len(tickers), 1)
        days, waits = filling.get(tickers, ([], 0))
        if not days or len(days) == most or waits + (day in grouped) > most_calls:
            days, waits = [], 0
            batches.append((tickers, days))
        days.append(day)
        filling[tickers] = days, waits + (day in grouped)
    return tuple(Batch(tuple(sorted(tickers)), tuple(days)) for tickers, days in batches)


def plan(source: Source, warehouse: Warehouse, request: Request, *, refetch: bool = False, batch_rows: int = BATCH_ROWS) -> Plan:
    """What a backfill of the request would do. Nothing is fetched or written. `batch_rows`: the most rows of one batch."""
    bars = missing.find_missing_bars(warehouse, request, refetch=refetch)
    # To refetch refreshes all windows, and must not read what may be damaged.
    to_fetch = bars.to_fetch(datetime.now(UTC))
    windows = {} if refetch else stale_windows(warehouse, request, to_fetch)
    resume = None if refetch else Resume(frozenset(request.tickers), request.sessions[0], request.sessions[-1])
    calls, pace = source.plan(to_fetch, resume=resume), source.per_minute
    most_rows = min(batch_rows, warehouse.max_staged_rows or batch_rows)
    batches = cut(to_fetch, calls, pace * BATCH_MINUTES if pace else BATCH_CALLS, most_rows)
    return Plan(request, bars, to_fetch, windows, batches, calls, pace, resume, batch_rows)


def stale_windows(warehouse: Warehouse, request: Request, to_fetch: Iterable[date]) -> dict[date, missing.StaleWindows]:
    """The sessions with missing or stale windows, without those that publishing these sessions refreshes."""
    refreshed = {later for day in to_fetch for later in calendar.affected(day)}
    return {day: found for day, found in missing.find_stale_windows(warehouse, request).items() if day not in refreshed}


def run(source: Source, warehouse: Warehouse, todo: Plan, report: Callable[[BackfillProgress], None]) -> Backfilled:
    """Carry out a plan: audit and publish one batch and refresh its windows, while the source fetches the next.

    A session that is refused or unavailable does not stop the others. A failure that concerns all of them is raised; what was
    published until then stays, and the same command finishes the rest.
    """
    request = todo.request
    for each in request.accept:
        in_batch = (day for batch in todo.batches if each.ticker in (None, *batch.tickers) for day in batch.sessions)
        if each.session not in in_batch:
            log.warning("nothing to accept: %s is not fetched; --refetch fetches it again", each)
    pipeline.init_tables(warehouse, request, only=(pipeline.SCHEMA, "production", "cumulative"))
    production, cumulative = (Replaced(warehouse.full_name(table)) for table in (PRODUCTION, CUMULATIVE))
    done = Backfilled(todo, production, cumulative)
    try:
        _fetch_and_publish(source, warehouse, todo, done, report)
    except MaangError as exc:
        if done.published:
            days = f"{len(done.published)} session{'s' * (len(done.published) != 1)}"
            exc.done_before(f"{days} were published before that: {missing.spans(done.published)}")
        raise
    return done


def _fetch_and_publish(
    source: Source, warehouse: Warehouse, todo: Plan, done: Backfilled, report: Callable[[BackfillProgress], None]
) -> None:
    request = todo.request
    if todo.resume is None:
        _make_room(warehouse, request)
    clock = _Clock(source, todo, report)
    windows = todo.windows
    began = datetime.now(UTC)
    claims = pipeline.claimed_splits(source, request)
    with contextlib.closing(_fetched(source, todo, clock, done.failed)) as parts:
        for mine, rows in parts:
            _publish_batch(warehouse, mine, to_stage(rows, began), claims, done)
    done.calls = source.calls
    # Splits of sessions that were not missing, and of refused ones.
    if split_table.learn(warehouse, request.tickers, request.sessions, claims).changed:
        windows = missing.find_stale_windows(warehouse, request)
    for days in missing.chunks(list(windows), request, todo.batch_rows):
        done.cumulative += pipeline.cumulate(warehouse, replace(request, sessions=days)).replaced
    _drop_published(warehouse, request, done.published)


def _make_room(warehouse: Warehouse, request: Request) -> None:
    """Remove what can't be read of the sessions that are all fetched again, so that nothing needs to read it."""
    windows = sorted({later for day in request.sessions for later in calendar.affected(day)})
    for table, sessions in ((PRODUCTION, request.sessions), (CUMULATIVE, windows)):
        if removed := warehouse.remove_unreadable(table, sessions):
            log.warning("%s: removed files that can't be read, of %s", warehouse.full_name(table), missing.spans(removed))


def _fetched(source: Source, todo: Plan, clock: _Clock, failed: dict[date, MaangError]) -> Generator[tuple[Request, pa.Table]]:
    """Each batch with its bars, as the part of the request that it is, without the sessions that could not be had: `failed` gets
    these. A batch without any other session is left out.
    """
    batches = [batch.sessions for batch in todo.batches]
    with contextlib.closing(source.fetch(todo.to_fetch, batches, clock.tick, resume=todo.resume)) as answers:
        for batch, fetched in zip(todo.batches, answers, strict=True):
            failed |= fetched.failed
            if sessions := tuple(day for day in batch.sessions if day not in fetched.failed):
                yield replace(todo.request, tickers=batch.tickers, sessions=sessions, universe=todo.request.tickers), fetched.rows
            clock.batch_done(batch, fetched.rows.num_rows)


@dataclass(frozen=True)
class Compared:
    """What a backfill that fetches again would change."""

    plan: Plan
    differences: Differences
    """`removed`: rows that the source no longer has. They would stay."""
    failed: Mapping[date, MaangError]
    """Sessions that the source could not deliver."""

    def verdict(self) -> MaangError | None:
        """The error that says that there are differences, or sessions that could not be compared; None: neither."""
        if self.failed:
            errors = list(self.failed.values())
            message = f"{missing.spans(self.failed)} could not be compared: {errors[0].message}"
            return type(errors[0])(message, hint=errors[0].hint)
        days = {*self.differences.new, *self.differences.changed}
        if not days:
            return None
        hint = f"publish them: maang backfill --refetch {pipeline.session_flags(sorted(days))}{{flags}}"
        return PartlyRefused(f"{missing.spans(days)}: the source has other bars than {self.differences.table}", hint=hint)


def compare(source: Source, warehouse: Warehouse, todo: Plan, report: Callable[[BackfillProgress], None]) -> Compared:
    """Fetch a plan's bars, and compare them with production. No table is written but staging, which is dropped again."""
    request = todo.request
    pipeline.init_tables(warehouse, request, only=(pipeline.SCHEMA,))
    clock = _Clock(source, todo, report)
    found = Differences(warehouse.full_name(PRODUCTION), {}, {}, {}, ())
    failed: dict[date, MaangError] = {}
    began = datetime.now(UTC)
    with contextlib.closing(_fetched(source, todo, clock, failed)) as parts:
        for part, rows in parts:
            mine = replace(part, universe=(*request.tickers, DRY_RUN))
            try:
                warehouse.stage(mine.staging, to_stage(rows, began))
                found += pipeline.diff(warehouse, mine)
            finally:
                pipeline.drop_staging(warehouse, mine)
    return Compared(todo, found, failed)


def _publish_batch(warehouse: Warehouse, mine: Request, rows: pa.Table, claims: Claims, done: Backfilled) -> None:
    """Stage, judge the splits, audit, publish and cumulate one batch, then drop its staging table."""
    try:
        warehouse.stage(mine.staging, rows)
        if done.plan.resume is None:  # everything is fetched again
            mine = replace(mine, left_out=missing.vanished(warehouse, mine, rows))
        split_table.learn(warehouse, mine.tickers, mine.sessions, claims, mine.staging)
        audit, published = pipeline.publish_staged(warehouse, mine, rows, pipeline.NoProgress())
        done.refused |= audit.refused
        done.published += audit.passing
        for row in audit.allowed:
            if row.date not in audit.refused:
                done.allowed[str(row.ticker)] = done.allowed.get(str(row.ticker), 0) + 1
        if published is not None:
            done.held |= published.held
            if published.revised is not None:
                done.revised = published.revised if done.revised is None else done.revised + published.revised
            done.production += published.replaced
            cumulated = pipeline.cumulate(warehouse, replace(mine, sessions=audit.passing, left_out=frozenset()))
            done.cumulative += cumulated.replaced
        if audit.passed:
            pipeline.drop_staging(warehouse, mine)
        else:
            done.audits.append(audit)
            done.kept.append(audit.staging)
    except Exception:
        # What is staged and not published is fetched again, so it is of no use.
        with contextlib.suppress(MaangError):
            pipeline.drop_staging(warehouse, mine)
        raise


def _drop_published(warehouse: Warehouse, request: Request, published: Sequence[date]) -> None:
    """Drop staging tables that earlier runs of these tickers left, if all their sessions are published by now."""
    own = request.staging.name.rpartition("_")[2]
    for table in missing.staging_tables(warehouse):
        if table.name.endswith(f"_{own}") and set(missing.unpublished_sessions(warehouse, table)) <= set(published):
            log.debug("dropping %s: its sessions are published", table.name)
            pipeline.drop_table(warehouse, table)


def _paced(calls: int, per_minute: int | None) -> float:
    """Seconds from the first call to the last at the key's pace. The first minute's calls don't wait for each other."""
    return 60.0 * (max(calls - 1, 0) // per_minute) if per_minute else 0.0


class _Clock:
    """Counts what is done, and estimates what is left."""

    def __init__(self, source: Source, todo: Plan, report: Callable[[BackfillProgress], None]) -> None:
        self._source, self._todo, self._report = source, todo, report
        self._started = time.monotonic()
        self._sessions = self._rows = 0
        self._before = source.calls

    @property
    def _spent(self) -> float:
        return time.monotonic() - self._started

    def tick(self) -> None:
        todo, calls = self._todo, self._source.calls - self._before
        everything = todo.calls.total
        left: float | None = None
        if (pace := self._source.per_minute) and calls < everything:
            left = max(_paced(everything, pace) - self._spent, _paced(everything - calls, pace))
        elif self._sessions:
            left = self._spent * (len(todo.to_fetch) - self._sessions) / self._sessions
        elif calls:  # nothing is published yet: fetching is most of the work
            left = self._spent * max(everything - calls, 0) / calls
        self._report(BackfillProgress(self._sessions, len(todo.to_fetch), self._rows, calls, max(everything, calls), left))

    def batch_done(self, batch: Batch, rows: int) -> None:
        self._sessions += len(batch.sessions)
        self._rows += rows
        self.tick()


def _reasons(refused: Mapping[date, tuple[str, ...]], failed: Mapping[date, MaangError]) -> str:
    """Each reason with its sessions."""
    reasons: dict[str, list[date]] = {}
    for day, names in refused.items():
        reasons.setdefault(f"refused ({', '.join(names)})", []).append(day)
    for day, error in failed.items():
        reasons.setdefault(error.message, []).append(day)
    return "; ".join(f"{missing.brief_spans(days)} {reason}" for reason, days in reasons.items())
