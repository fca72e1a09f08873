"""What the report says, from the tables alone; nothing is fetched or written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Any

from maang_cli import closures, pipeline, split_table, splits, sql, status
from maang_cli import sessions as calendar
from maang_cli.errors import MaangError
from maang_cli.missing import few
from maang_cli.request import Request
from maang_cli.splits import Split
from maang_cli.status import Status
from maang_cli.tables import CUMULATIVE, FINDINGS, PRODUCTION, STORED
from maang_cli.warehouses.base import Query, Read, TableMissing, Warehouse, query_optional

SESSIONS = 250
"""So many stored sessions are shown, if none are selected."""
CHARTED = 20
"""So many tickers have a chart."""


class Level(StrEnum):
    """Whether all is right, as a traffic light."""

    GREEN = "green"
    AMBER = "amber"
    RED = "red"


class State(StrEnum):
    """What a cell of the calendar says."""

    PUBLISHED = "published"
    HELD = "with held rows"
    EARLY = "early"
    REFUSED = "refused"
    MISSING = "missing"
    CLOSED = "closed"


@dataclass(frozen=True)
class Day:
    """A day of the calendar, from Monday to Friday."""

    day: date
    state: State
    said: str
    """What happened on that day, in words."""


@dataclass(frozen=True)
class Readable:
    """When the newest session became readable in production."""

    session: date
    moment: datetime
    delay: timedelta
    """After the session was final; negative if its rows are early."""


@dataclass(frozen=True)
class Mark:
    """Something that a price chart points out."""

    day: date
    kind: str
    """split, revision, or a finding's outcome: refused, held, warned, accepted."""
    said: str


@dataclass(frozen=True)
class Prices:
    """One ticker's bars on the basis of its newest applied split, by session."""

    ticker: str
    bars: Sequence[Mapping[str, Any]]
    """Rows of production. Those that cumulative has a window for, on the same basis, also have `avg_7_day_volume` (shares) and
    `volatility_7_day` (USD)."""
    marks: Sequence[Mark]


@dataclass(frozen=True)
class Report:
    made_at: datetime
    production: str
    """Its full name."""
    made_up: bool
    """Whether the bars are made up."""
    status: Status
    lacking: Sequence[str]
    """The tables that do not exist, by the names that users give them."""
    newest: Readable | None
    """None: nothing is stored."""
    days: Sequence[Day]
    prices: Sequence[Prices]
    left_out: int
    """How many tickers have no chart."""
    findings: Sequence[Mapping[str, Any]]
    """Rows of the table findings about checks, newest first."""
    revisions: Sequence[Mapping[str, Any]]
    """Rows of the table findings about revisions, newest first."""
    delays: Mapping[date, timedelta]
    """The latency of each session that has one."""
    verdict: MaangError | None
    """What `maang status` says is wrong."""

    @property
    def level(self) -> Level:
        if self.verdict is not None or self.newest is None:
            return Level.RED
        found = self.status
        return Level.AMBER if found.held or found.bars.allowed or found.disputed or found.bars.early else Level.GREEN


def sessions_to_show(warehouse: Warehouse, request: Request, now: datetime, number: int = SESSIONS) -> tuple[date, ...]:
    """The last `number` stored sessions of the request's tickers, and all between them and after them until the last final one.

    If nothing is stored: the last `number` final ones.
    """
    last = calendar.last_final(now)
    try:
        stored = sorted(pipeline.stored_sessions(warehouse, request, calendar.FIRST_DATE, pipeline.EVER))
    except TableMissing:
        stored = []
    if not stored:
        return calendar.before(last + timedelta(days=1), number)
    shown = stored[-number:]
    return calendar.between(shown[0], max(shown[-1], last))


def gather(warehouse: Warehouse, request: Request, now: datetime, *, made_up: bool) -> Report:
    """What the tables say about the request's tickers and sessions, of which there is at least one."""
    names = set(warehouse.tables())
    found = status.status(warehouse, request, now)
    first, last = request.sessions[0], request.sessions[-1]
    mine = [f"date BETWEEN {sql.day(first)} AND {sql.day(last)}", pipeline.of_tickers(FINDINGS)]
    rows = pipeline.stored_rows(warehouse, FINDINGS, mine, request.tickers, (first, last), None, adjusted=False).to_pylist()
    rows.sort(key=lambda row: (row["date"], row["seen_at"]), reverse=True)
    findings = [row for row in rows if row["kind"] == "check"]
    revisions = [row for row in rows if row["kind"] == "revision"]
    stored = status.stored_at(warehouse, request, request.sessions)
    charted = _charted(warehouse, request, findings)
    return Report(
        now,
        warehouse.full_name(PRODUCTION),
        made_up,
        found,
        [name for name, table in STORED.items() if table.name not in names],
        _newest(stored),
        days(found, rows),
        _prices(warehouse, replace(request, tickers=charted), rows),
        len(request.tickers) - len(charted),
        findings,
        revisions,
        dict(sorted(status.delays(stored).items())),
        found.verdict(),
    )


def _newest(stored: Sequence[tuple[date, datetime]]) -> Readable | None:
    if not stored:
        return None
    session = max(day for day, _ in stored)
    moments = [moment for day, moment in stored if day == session]
    # An early row does not count once a later one is there, as in the latency.
    moment = min([moment for moment in moments if moment >= calendar.final(session)] or moments)
    return Readable(session, moment, moment - calendar.final(session))


def _charted(warehouse: Warehouse, request: Request, findings: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    """The tickers that have a chart: those with most findings, then those with most volume."""
    if len(request.tickers) <= CHARTED:
        return request.tickers
    first, last = request.sessions[0], request.sessions[-1]
    text = f"""SELECT p.ticker, sum(p.volume) AS volume FROM {{production}} AS p
WHERE p.ticker IN (SELECT ticker FROM {{tickers}}) AND p.date BETWEEN {sql.day(first)} AND {sql.day(last)}
GROUP BY p.ticker"""
    query = Query(text, {"production": Read(PRODUCTION, (first, last))}, request.tickers)
    rows = query_optional(warehouse, query, (PRODUCTION,))
    volumes = dict(zip(rows["ticker"].to_pylist(), rows["volume"].to_pylist(), strict=True))
    counts = Counter(row["ticker"] for row in findings)
    ranked = sorted(request.tickers, key=lambda ticker: (counts[ticker], volumes.get(ticker) or 0), reverse=True)
    return tuple(ranked[:CHARTED])


def days(found: Status, findings: Iterable[Mapping[str, Any]]) -> list[Day]:
    """Each day from Monday to Friday, from the first examined session to the last, with what happened on it."""
    request, bars = found.request, found.bars
    first, last = request.sessions[0], request.sessions[-1]
    by_day: dict[date, dict[str, set[str]]] = {}
    for row in findings:
        if row["kind"] == "revision":
            what = "revised"
        elif row["outcome"] in {"held", "refused"}:
            continue  # what still waits is said below
        else:
            what = f"{row['outcome']}: {row['name']}"
        by_day.setdefault(row["date"], {}).setdefault(what, set()).add(row["ticker"] or "the session")
    examined = frozenset(request.sessions)
    refused = frozenset(found.refused)
    shown = []
    for number in range((last - first).days + 1):
        day = first + timedelta(days=number)
        if day.weekday() >= 5:
            continue
        if reason := closures.why_closed(day):
            shown.append(Day(day, State.CLOSED, f"closed: {reason}"))
            continue
        if day not in examined:
            continue
        wanted = request.requested(day)
        lacking = bars.missing.get(day, frozenset()) | bars.allowed.get(day, frozenset())
        facts = {
            State.REFUSED: "refused, and waits in staging" if day in refused else "",
            State.MISSING: _named("missing", bars.missing.get(day, ())),
            State.HELD: _named("held", found.held.get(day, ())),
            State.EARLY: _named("early", bars.early.get(day, ())),
        }
        state = next((state for state, said in facts.items() if said), State.PUBLISHED)
        said = [
            f"{len(wanted) - len(lacking)} of {len(wanted)} tickers published",
            *filter(None, facts.values()),
            _named("missing, allowed by --allow-missing", bars.allowed.get(day, ())),
            *(_named(what, names) for what, names in by_day.get(day, {}).items()),
        ]
        shown.append(Day(day, state, "; ".join(filter(None, said))))
    return shown


def _named(what: str, tickers: Iterable[str]) -> str:
    """Tickers as a person reads them; empty if there are none."""
    names = sorted(tickers)
    return f"{what}: {few(names)}" if names else ""


def _prices(warehouse: Warehouse, request: Request, findings: Iterable[Mapping[str, Any]]) -> list[Prices]:
    """The bars of the request's tickers, and what happened to them."""
    first, last = request.sessions[0], request.sessions[-1]
    condition = f"date BETWEEN {sql.day(first)} AND {sql.day(last)} AND {pipeline.of_tickers(PRODUCTION)}"
    try:
        stored = pipeline.stored_rows(warehouse, PRODUCTION, [condition], request.tickers, (first, last), None, adjusted=True)
    except TableMissing:
        return []
    known = split_table.stored(warehouse, request.tickers, first, pipeline.EVER)
    windows = _windows(warehouse, request, condition, known)
    bars: dict[str, list[Mapping[str, Any]]] = {}
    for row in stored.drop_columns(["insertion_timestamp"]).to_pylist():
        bars.setdefault(row["ticker"], []).append(row | windows.get((row["ticker"], row["date"]), {}))
    marks: dict[str, list[Mark]] = {}
    for split in known:
        if first <= split.session <= last and split.state != splits.IGNORED:
            said = f"{split.ratio} split" + ("" if split.state == splits.APPLIED else f", {split.state}: {split.reason}")
            marks.setdefault(split.ticker, []).append(Mark(split.session, "split", said))
    for row in findings:
        if row["ticker"] is not None:
            marks.setdefault(row["ticker"], []).append(_mark(row))
    return [
        Prices(ticker, bars[ticker], sorted(marks.get(ticker, ()), key=lambda mark: (mark.day, mark.kind)))
        for ticker in request.tickers
        if ticker in bars
    ]


def _mark(row: Mapping[str, Any]) -> Mark:
    if row["kind"] == "revision":
        return Mark(row["date"], "revision", row["found"])
    return Mark(row["date"], row["outcome"], f"{row['name']} {row['outcome']}: {row['found']}")


def _windows(
    warehouse: Warehouse, request: Request, condition: str, known: Iterable[Split]
) -> dict[tuple[str, date], dict[str, Decimal | None]]:
    """The windows' volatility and average volume, from each window's own basis brought to that of the newest split."""
    first, last = request.sessions[0], request.sessions[-1]
    text = f"SELECT ticker, date, avg_7_day_volume, volatility_7_day FROM {{cumulative}} WHERE {condition}"
    query = Query(text, {"cumulative": Read(CUMULATIVE, (first, last))}, request.tickers)
    try:
        rows = warehouse.query(query).to_pylist()
    except TableMissing:
        return {}
    bases: dict[str, list[splits.Basis]] = {}
    for basis in splits.to_newest(known, first, last):
        bases.setdefault(basis.ticker, []).append(basis)
    found = {}
    for row in rows:
        volume, volatility = row["avg_7_day_volume"], row["volatility_7_day"]
        for basis in bases.get(row["ticker"], ()):
            if basis.first <= row["date"] <= basis.last:
                volume = None if volume is None else round(volume * basis.volume_factor, 2)
                volatility = None if volatility is None else round(volatility * basis.price_factor, 4)
        found[row["ticker"], row["date"]] = {"avg_7_day_volume": volume, "volatility_7_day": volatility}
    return found


@dataclass(frozen=True)
class Written:
    """A report that was written to a file."""

    path: Path
    bytes: int
    report: Report
