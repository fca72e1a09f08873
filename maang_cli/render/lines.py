"""Results in one line each."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import date, datetime
from decimal import Decimal
from functools import singledispatch

from maang_cli.backfill import BackfillProgress, Plan
from maang_cli.checks import Audit, FailingRow, Outcome
from maang_cli.diff import ChangedCell, Differences
from maang_cli.gate import nearest_split
from maang_cli.missing import few, spans
from maang_cli.pipeline import THE_SCHEMA, Cumulated, Dropped, Ingested, Initialized, Published, Rows
from maang_cli.request import Request
from maang_cli.splits import Split
from maang_cli.status import Latency
from maang_cli.warehouses.base import Replaced


@singledispatch
def line(value: object) -> str:
    """A result in one line; empty if there is nothing to say."""
    raise TypeError(f"no line for {type(value).__name__}")


@line.register(Initialized)
def _initialized(value: Initialized) -> str:
    tables = [name for name in value.created if name != THE_SCHEMA]
    created = tables if len(tables) <= 1 else [f"{len(tables)} tables"]
    schema = [THE_SCHEMA] * (THE_SCHEMA in value.created)
    found = (("created", " and ".join(schema + created)), ("added the columns", ", ".join(value.added)))
    parts = [f"{what} {names}" for what, names in found if names]
    return "; ".join([*parts, *([fetch_splits(value.without_splits)] if value.without_splits else [])])


@line.register(Ingested)
def _ingested(value: Ingested) -> str:
    news = {split.key: split for split in (*value.splits.changed, *value.splits.disputed)}
    said = "".join(f"; split: {split_line(split)}" for split in news.values())
    return f"{plural(value.rows, 'bar')} from {value.source}{', made up' if value.made_up else ''}{said}"


@line.register(Audit)
def _audit(value: Audit) -> str:
    passed = len(value.results) - len(value.failed)
    return "; ".join([f"{passed} of {len(value.results)} checks passed{_refused(value)}", *remarks(value)])


@line.register(Published)
def _published(value: Published) -> str:
    return _changes(value.replaced, "row") + _refused(value.audit)


@line.register(Cumulated)
def _cumulated(value: Cumulated) -> str:
    text = _changes(value.replaced, "window")
    if value.missing:
        days = [day for day, _ in value.missing]
        span = str(days[0]) if len(days) == 1 else f"{days[0]} to {days[-1]}"
        text += f"; some windows are incomplete: no bars for {plural(len(days), 'session')} ({span})"
    return text


@line.register(Replaced)
def _replaced(value: Replaced) -> str:
    return _changes(value, "window")


@line.register(Differences)
def _differences(value: Differences) -> str:
    counts = {how: sum(map(len, getattr(value, how).values())) for how in ("new", "changed", "removed")}
    return ", ".join(f"{plural(number, 'row')} {how}" for how, number in counts.items() if number) or "no differences"


@line.register(ChangedCell)
def _changed_cell(value: ChangedCell) -> str:
    """`NFLX 2026-07-01 close 74.19 -> 72.33 (-2.51 %)`"""
    before, after = value.before, value.after
    share = ""
    if isinstance(before, Decimal | int) and isinstance(after, Decimal | int) and before:
        share = f" ({(after - before) * 100 / Decimal(before):+.2f} %)"
    return f"{value.ticker} {value.date} {value.column} {cell(before)} -> {cell(after)}{share}"


@line.register(Dropped)
def _dropped(_value: Dropped) -> str:
    return ""


@line.register(Plan)
def _plan(value: Plan) -> str:
    if not value.batches and not value.windows:
        return f"nothing to do: {plural(len(value.request.sessions), 'session')} complete"
    cached = f", {reused(value)}" if value.calls.cached else ""
    return (
        f"{plural(len(value.to_fetch), 'session')} to fetch, {_calls(value)}{cached}, "
        f"about {plural(value.rows, 'row')}, {plural(value.commits, 'commit')}, {duration(value.seconds)}"
    )


@line.register(BackfillProgress)
def _backfill_progress(value: BackfillProgress) -> str:
    left = "" if value.seconds_left is None else f", {duration(value.seconds_left)} left"
    fetched = f"fetched {value.calls} of {plural(value.all_calls, 'call')}, " if value.all_calls else ""
    return f"{fetched}published {value.sessions} of {plural(value.all_sessions, 'session')} ({plural(value.rows, 'row')}){left}"


def changed_cells(found: Differences) -> list[str]:
    """The first changed values, a line each, and how many more there are; one line for a session whose volumes all changed."""
    cells = [cell for cell in found.cells if not (cell.column == "volume" and cell.date in found.all_volumes)]
    more = len(cells) - FEW_CELLS
    return [
        *map(line, cells[:FEW_CELLS]),
        *([f"and {plural(more, 'more changed value')}"] if more > 0 else []),
        *(f"{day} volume: all {len(found.changed[day])} changed" for day in sorted(found.all_volumes)),
    ]


def failing_row(row: FailingRow) -> str:
    """A row that fails a check, and what is wrong with it."""
    how = "" if row.outcome is Outcome.REFUSED else f" ({row.outcome})"
    found = row.found
    if row.may_be_split:
        found += f"; a split would be {nearest_split(row)}"
    return f"{row.ticker or 'session'} {row.date}{how}: {found}"


@line.register(Latency)
def _latency(value: Latency) -> str:
    median, worst = (duration(delay.total_seconds()) for delay in (value.median, value.worst))
    return f"latency of {plural(value.sessions, 'session')}: median {median}, worst {worst} ({value.worst_session})"


def cell(value: object) -> str:
    """One value of a row."""
    if value is None:
        return "NULL"
    if isinstance(value, list):
        return " ".join(map(cell, value))
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%SZ}"
    return str(value)


def sparkline(values: Sequence[Decimal] | None) -> str:
    """The values as bars from the lowest to the highest."""
    if not values:
        return ""
    low, high = min(values), max(values)
    return "".join(
        BARS[int((value - low) * (len(BARS) - 1) / (high - low)) if high > low else len(BARS) // 2] for value in values
    )


def universe(request: Request) -> str:
    """Of which tickers a result speaks."""
    entries = list(map(request.symbols.entry, request.tickers))
    return f"universe: {plural(len(entries), 'ticker')} ({few(entries)})"


def not_stored(rows: Rows, *, earlier: bool) -> str:
    """Which of the sessions have no row, and the command that loads them. `earlier`: the table as it was then."""
    days = rows.missing
    if earlier:
        return f"note: {spans(days)}: not in {rows.table} at that time"
    command = f"run-day --date {days[0]}" if len(days) == 1 else f"backfill --from {days[0]} --to {days[-1]}"
    return f"note: {spans(days)}: not in {rows.table}; load it: maang {command}{{flags}}"


def split_line(split: Split) -> str:
    return f"{split.ticker} {split.ratio} on {split.session}, {split.state} ({split.reason})"


def fetch_splits(stored: tuple[date, date]) -> str:
    """What to do once about a production that was filled before there was a table of splits."""
    return f"fetch the splits of what is stored: maang backfill --from {stored[0]} --to {stored[1]}"


def cost(plan: Plan) -> str:
    """How long a backfill takes, and why."""
    return f"{duration(plan.seconds)} ({_calls(plan)})"


def reused(plan: Plan) -> str:
    """What a backfill need not fetch again."""
    return f"reusing {plural(plan.calls.cached, 'answer')} from an earlier run"


def _calls(plan: Plan) -> str:
    return plural(plan.calls.total, "call") + (f" at {plan.per_minute} a minute" if plan.per_minute else "")


def duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def bytes_of(number: int | None) -> str:
    """A size, as people read it."""
    if number is None:
        return "?"
    return f"{number / 1e6:.1f} MB" if number >= 100_000 else f"{number / 1e3:.1f} KB"


def _changes(value: Replaced, noun: str) -> str:
    """`5 rows new`, `1 row new, 2 rows changed`, or `5 rows unchanged`."""
    counts = {"new": value.inserted, "changed": value.updated, "removed": value.deleted, "unchanged": value.unchanged}
    return ", ".join(f"{plural(number, noun)} {how}" for how, number in counts.items() if number) or f"no {noun}s"


def plural(number: int, noun: str) -> str:
    """The number with its noun."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _refused(value: Audit) -> str:
    """How many of several sessions the gate refuses."""
    if len(value.sessions) == 1 or not value.refused:
        return ""
    return f"; {len(value.refused)} of {plural(len(value.sessions), 'session')} refused"


def remarks(value: Audit) -> Iterator[str]:
    """What is special about the published sessions, by kind, each ticker once."""
    found = {ALLOWED: [("", row) for row in value.allowed]}
    found |= {how: list(value.rows(outcome)) for outcome, how in REMARKS.items()}
    for how, rows in found.items():
        tickers: dict[str, set[str]] = {}
        days: dict[str, set[date]] = {}
        for check, row in rows:
            if row.date not in value.refused:
                tickers.setdefault(row.ticker or "the session", set()).add(check)
                days.setdefault(row.ticker or "the session", set()).add(row.date)
        names = [_remark(name, checks - {""}, len(days[name])) for name, checks in tickers.items()]
        if names:
            yield f"{how}: {few(names)}"


def _remark(name: str, checks: Iterable[str], days: int) -> str:
    details = [*sorted(checks), *([f"{days} sessions"] if days > 1 else [])]
    return f"{name} ({', '.join(details)})" if details else name


BARS = "▁▂▃▄▅▆▇█"
FEW_CELLS = 20
"""How many changed values are printed of what may be thousands."""
ALLOWED = "missing, allowed by --allow-missing"
HELD = "held, allowed by --allow-missing"
VANISHED = "the source no longer has"
EARLY = "stored before the session was final"
REMARKS = {
    Outcome.HELD: HELD,
    Outcome.WARNED: "unusual",
    Outcome.ACCEPTED: "accepted",
}
"""What a report calls a row that fails a check and does not refuse its session."""
