"""The table of findings: what the gate refused, held or warned of, what a person accepted, and what was revised."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterable, Sequence
from datetime import date

from maang_cli import gate, sql
from maang_cli.checks import CHECKS, Acceptance, Audit, Outcome, by_session
from maang_cli.diff import Differences, differences
from maang_cli.errors import MaangError, SettingsError
from maang_cli.request import Request
from maang_cli.tables import BAR, FINDINGS, PRODUCTION
from maang_cli.warehouses.base import Query, Read, TableMissing, Warehouse, query_optional

log = logging.getLogger("maang")

EXAMPLE = "NFLX:2022-04-20:jump"


def parse_acceptance(text: str) -> Acceptance:
    """What a person accepts: `TICKER:DATE:CHECK`, or `DATE:CHECK` for a check of whole sessions.

    Raises:
        SettingsError: it does not have this form, or the check can't be accepted.
    """
    wrong = SettingsError(f"{text[:60]!r} is not TICKER:DATE:CHECK", hint=f"give it as in --accept {EXAMPLE}")
    found = re.fullmatch(r"(?:(?P<ticker>[^:]+):)?(?P<date>\d{4}-\d{2}-\d{2}):(?P<check>[a-z_]+)", text)
    if not found:
        raise wrong
    try:
        day = date.fromisoformat(found["date"])
    except ValueError as exc:
        raise wrong from exc
    acceptable = {check.name: check for check in CHECKS if check.acceptable}
    if (check := acceptable.get(found["check"])) is None:
        raise SettingsError(f"{found['check']} can't be accepted", hint=f"these can: {', '.join(acceptable)}")
    if (found["ticker"] is None) != check.of_session:
        form = f"{day}:{check.name}" if check.of_session else f"TICKER:{day}:{check.name}"
        raise SettingsError(f"{text[:60]!r} does not fit the check {check.name}", hint=f"give it as in --accept {form}")
    return Acceptance(found["ticker"], day, check.name)


def acceptances(texts: Iterable[str], tickers: Collection[str], sessions: Collection[date]) -> tuple[Acceptance, ...]:
    """What a person accepts in a run of these tickers and sessions.

    Raises:
        SettingsError: as `parse_acceptance`, or the run has not this ticker or session.
    """
    accepted = tuple(map(parse_acceptance, texts))
    for each in accepted:
        if each.session not in sessions or (each.ticker is not None and each.ticker not in tickers):
            raise SettingsError(f"--accept {each} is not in this run", hint="select its session and its ticker")
    return accepted


def record(warehouse: Warehouse, request: Request, audit: Audit) -> None:
    """Store what the audit found, if it is new. That it can't be stored is a warning: nothing depends on it."""
    if not audit.has_findings:
        return
    try:
        _add(warehouse, gate.findings_query(request, audit))
    except TableMissing:  # another run has dropped the staging table; this one will notice when it publishes
        log.debug("%s is gone; its findings are not stored", audit.staging)
    except MaangError as exc:
        log.warning("the findings of %s could not be stored: %s", audit.staging, exc.message)


def accept(warehouse: Warehouse, request: Request, audit: Audit) -> None:
    """Store what the request accepts of what the audit found, with the bars' values: another bar will be judged again."""
    mine = [each for each in request.accept if each.session in request.sessions and each.ticker in {None, *request.tickers}]
    if not mine:
        return
    query = gate.findings_query(request, audit, mine)
    rows = query_optional(warehouse, query, gate.OPTIONAL).select(["ticker", "date", "name"]).to_pylist()
    met = {(row["ticker"], row["date"], row["name"]) for row in rows}
    known = {(row.ticker, row.date, check) for check, row in audit.rows(Outcome.ACCEPTED)}
    for each in mine:
        if each.key not in met | known:
            log.warning("nothing to accept: %s passes", each)
    if met:
        _add(warehouse, query)


def held(warehouse: Warehouse, request: Request) -> dict[date, frozenset[str]]:
    """The request's tickers, by session, whose rows the gate holds: nothing was published for them since."""
    first, last = request.sessions[0], request.sessions[-1]
    reads = {"findings": Read(FINDINGS, (first, last)), "production": Read(PRODUCTION, (first, last))}
    query = Query(sql.text("held_rows", first=sql.day(first), last=sql.day(last)), reads, request.tickers, request.spans)
    rows = query_optional(warehouse, query, gate.OPTIONAL)
    return by_session(zip(rows["ticker"].to_pylist(), rows["date"].to_pylist(), strict=True))


def refused(warehouse: Warehouse, days: Collection[date]) -> list[date]:
    """Those of the days on which the gate refused a row, or the session; in order."""
    text = sql.text("refused_days", days=", ".join(map(sql.day, sorted(days))))
    reads = {"findings": Read(FINDINGS, (min(days), max(days)))}
    found: list[date] = query_optional(warehouse, Query(text, reads), gate.OPTIONAL)["date"].to_pylist()
    return found


def revisions(warehouse: Warehouse, new: Query, sessions: Sequence[date]) -> Differences:
    """What publishing these rows would change in production. It is stored first, so that no trace of a value is lost.

    That it can't be stored is a warning.
    """
    found = differences(warehouse, PRODUCTION, [(new, sessions)])
    if found.cells or found.removed:
        try:
            _add(warehouse, revisions_query(new, sessions))
        except MaangError as exc:
            log.warning("the revisions of %s could not be stored: %s", found.table, exc.message)
    return found


def revisions_query(new: Query, sessions: Sequence[date]) -> Query:
    """The values that publishing would change in production, and the rows that the source no longer has, as rows of FINDINGS."""
    names = [column.name for column in BAR]
    text = sql.text(
        "revisions",
        new=new.text,
        names=sql.rows(map(sql.string, (*names, VANISHED))),
        bar=", ".join(f"CASE WHEN n.ticker IS NULL THEN o.{name} ELSE n.{name} END AS {name}" for name in names),
        before=" ".join(f"WHEN '{name}' THEN CAST(o.{name} AS STRING)" for name in names),
        after=" ".join(f"WHEN '{name}' THEN CAST(n.{name} AS STRING)" for name in names),
        sessions=", ".join(map(sql.day, sessions)),
        vanished=sql.string(VANISHED),
    )
    reads = {**new.reads, "production": Read(PRODUCTION, (min(sessions), max(sessions)))}
    return Query(text, reads, new.tickers, new.spans)


VANISHED = "bar"
"""The name of a finding about a whole row."""


def _add(warehouse: Warehouse, query: Query) -> None:
    while True:
        try:
            warehouse.add(FINDINGS, query)
        except TableMissing as exc:
            if exc.table == FINDINGS:
                warehouse.create(FINDINGS)
            elif exc.table in gate.OPTIONAL:
                query = query.without(exc.table)
            else:
                raise
        else:
            return
