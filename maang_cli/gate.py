"""The gate between staging and production: audit what is staged, in rounds, and publish exactly what passed.

A wrong row must not make the next session's rows wrong. So no row is compared with rows that are held, or with those of refused
sessions. Only an audit finds out which these are, so the audit is repeated without them until nothing changes. That ends,
because a verdict depends on earlier sessions alone. So the same bars get the same verdicts in one batch and day by day.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import date
from decimal import Decimal

from maang_cli import checks, split_table, splits, sql
from maang_cli import sessions as calendar
from maang_cli.checks import Audit, Kind, Outcome, Round
from maang_cli.request import Request
from maang_cli.splits import Split
from maang_cli.tables import BAR, FINDINGS, PRODUCTION, Table
from maang_cli.warehouses.base import Query, Read, Replaced, Spans, TableMissing, Warehouse, query_optional

OPTIONAL = (PRODUCTION, FINDINGS)
"""What an audit reads besides staging; as long as one does not exist, it is empty."""
_BASES = {"ticker": "STRING", "first_date": "DATE", "last_date": "DATE", "price_factor": "DOUBLE", "volume_factor": "DOUBLE"}


def audit(warehouse: Warehouse, request: Request, known: Iterable[Split] | None = None) -> Audit:
    """The gate's report on staging. `known`: the splits around the sessions; None: they are read.

    Raises:
        TableMissing: there is no staging table.
    """
    judged = Round(request.listed(request.sessions), request.allow_missing, "")
    if known is None:
        known = split_table.stored(warehouse, request.tickers, *judged.reach)
    judged = replace(judged, bases=bases_sql(known, *judged.reach))
    while True:
        query = _on_audit(request, judged, checks.report_sql())
        rows = query_optional(warehouse, query, OPTIONAL).to_pylist()
        found = checks.audit_of(judged, warehouse.full_name(request.staging), rows)
        left_out = replace(judged, refused=frozenset(found.refused), held=found.held)
        if len(request.sessions) == 1 or left_out == judged:
            return found
        judged = left_out


def unknown(warehouse: Warehouse, request: Request, found: Audit) -> frozenset[str]:
    """`Audit.unknown`, if the sessions have bars of other tickers: a ticker that nobody knows may be misspelled."""
    rows = [(result.check.kind, row.ticker) for result in found.failed for row in result.rows if row.outcome is Outcome.REFUSED]
    lacking = {str(ticker) for kind, ticker in rows if kind is Kind.MISSING}
    lacking -= {ticker for kind, ticker in rows if kind is not Kind.MISSING}
    if not lacking or len(lacking) == len(request.tickers):
        return frozenset()
    text = "SELECT DISTINCT ticker FROM {table} WHERE ticker IN (SELECT ticker FROM {tickers})"
    query = Query(text, {"table": Read(PRODUCTION, found.judged.reach)}, tuple(sorted(lacking)))
    return frozenset(lacking) - set(query_optional(warehouse, query, OPTIONAL)["ticker"].to_pylist())


def nearest_split(row: checks.FailingRow) -> str:
    """The common split that would explain a jump best, as FROM:TO."""
    ratio = splits.nearest_simple(Decimal(str(row.before)), Decimal(str(row.after)))
    return f"{ratio.denominator}:{ratio.numerator}"


def bases_sql(known: Iterable[Split], first: date, last: date) -> str:
    """What brings the bars of the sessions from `first` to `last` to the basis of the newest split: `Round.bases`."""
    rows = (
        [sql.string(each.ticker), sql.day(each.first), sql.day(each.last), f"'{each.price_factor}'", f"'{each.volume_factor}'"]
        for each in splits.to_newest(known, first, last)
    )
    return sql.relation(_BASES, rows)


def _on_audit(request: Request, judged: Round, text: str, reads: Mapping[str, Read] | None = None) -> Query:
    """A query of the audit's rows, and of other tables."""
    tables = {
        "staging": Read(request.staging),
        "production": Read(PRODUCTION, judged.reach),
        "findings": Read(FINDINGS, judged.reach),
    }
    audit = Query(checks.audit_sql(judged), tables, request.tickers, request.spans)
    return Query(text, reads or {}, request.tickers, request.spans, {"audit": audit})


def publish(warehouse: Warehouse, request: Request, found: Audit, *, revise: bool = True) -> Replaced:
    """Publish what passed: the sessions that are not refused, without their held rows, for which production keeps what it has.

    The publishing itself audits the rows again.

    Raises:
        GateFailed: the audit is another by now.
        WouldRevise: not `revise`, and production's rows would change.
        TableMissing: staging or production does not exist.
    """
    passing = found.passing
    judged = replace(
        found.judged,
        requested={day: found.judged.requested[day] for day in passing},
        refused=frozenset(),
        held=found.held,
    )
    query = passing_query(request, found)
    refuse_if = _on_audit(request, judged, checks.forbidden_sql(judged.held))
    try:
        return warehouse.replace(PRODUCTION, query, passing, refuse_if, revise=revise)
    except TableMissing as exc:
        if exc.table != FINDINGS:
            raise
        return warehouse.replace(PRODUCTION, query, passing, refuse_if.without(FINDINGS), revise=revise)


def passing_query(request: Request, found: Audit) -> Query:
    """What production receives of an audited staging table."""
    return publish_query(request.staging, request.tickers, found.passing, request.spans, found.held)


def publish_query(
    staged: Table,
    tickers: Sequence[str],
    sessions: Sequence[date],
    spans: Spans | None = None,
    held: Iterable[tuple[str, date]] = (),
) -> Query:
    """What production receives from a staging table for these sessions, in order, at least one."""
    columns = ", ".join(f"CAST(s.{column.name} AS {column.type}) AS {column.name}" for column in PRODUCTION.value_columns)
    columns += ", s.fetched_at"
    name, reads = "publish", {"staging": Read(staged)}
    literals = {"columns": columns, "sessions": ", ".join(map(sql.day, sessions))}
    if held := sorted(held):
        name = "publish_without_held"
        literals |= {"held": checks.held_sql(held), "stored": ", ".join(f"p.{column.name}" for column in PRODUCTION.columns)}
        reads["production"] = Read(PRODUCTION, (calendar.before(sessions[0], checks.USUAL_SESSIONS)[0], sessions[-1]))
    return Query(sql.text(name, **literals), reads, tuple(tickers), spans or {}, fetched=True)


def findings_query(request: Request, found: Audit, accept: Iterable[checks.Acceptance] = ()) -> Query:
    """The failing rows of an audit as rows of FINDINGS; with `accept`, those of them that a person accepts, as accepted."""
    bar = ", ".join(f"s.{column.name}" for column in BAR)
    wanted = " OR ".join(
        f"(a.check_name = '{each.check}' AND a.date = {sql.day(each.session)}"
        f" AND a.ticker {'IS NULL' if each.ticker is None else f'= {sql.string(each.ticker)}'})"
        for each in accept
    )
    text = sql.text(
        "findings",
        outcome=f"'{checks.Outcome.ACCEPTED}'" if wanted else "a.outcome",
        bar=bar,
        wanted=wanted or "TRUE",
    )
    return _on_audit(request, found.judged, text, {"staging": Read(request.staging)})
