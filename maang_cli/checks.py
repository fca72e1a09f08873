"""The gate as data: each check's name, its promise, and the SQL that selects the rows that break it.

A check's SQL reads the relations that `sql/audit.sql` sets up: `asked(ticker)`, `sessions(date)`, `may_miss(ticker)` and
`staged(..)`, the rows staged for these sessions. It selects `ticker, date, found, allowed`, where `date` is the session that the
row was staged for: each session is judged by its own rows. A comparison with NULL selects nothing, so that a missing price fails
the one check that names it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

from maang_cli import sql

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import date

MAX_PRICE = Decimal("99999999.99")
"""What DECIMAL(10,2) holds, USD a share."""
MAX_VOLUME = 1_000_000_000_000
"""Shares; thirty times the busiest day of any ticker so far, and its mean still fits DECIMAL(15,2)."""
MAX_TRANSACTIONS = 2_147_483_647
"""What INTEGER holds."""
FEW_ROWS = 5
"""How many failing rows a report shows for each check."""


@dataclass(frozen=True)
class Check:
    name: str
    promise: str
    failing: str


@dataclass(frozen=True)
class AllowMissing:
    """Which of the tickers asked for may be absent: those named, or a share of them on each session."""

    tickers: frozenset[str] = frozenset()
    percent: Decimal = Decimal(0)
    """0 to 100, of the tickers asked for."""
    universe: int | None = None
    """How many tickers the share is of, where only those that are missing are asked for; None: those asked for."""


ALL_MUST_BE_THERE = AllowMissing()


@dataclass(frozen=True)
class FailingRow:
    ticker: str | None
    date: date
    """The session asked for; what else the row may say is in `found`."""
    found: str


@dataclass(frozen=True)
class CheckResult:
    check: Check
    failing: int
    """Rows that break the promise."""
    rows: tuple[FailingRow, ...]
    """The first few of each session."""


@dataclass(frozen=True)
class Audit:
    """What the gate found in one staging table."""

    sessions: tuple[date, ...]
    staging: str
    results: tuple[CheckResult, ...]
    """One for each check, in the order of CHECKS."""
    absent: tuple[FailingRow, ...]
    """Tickers without a bar that --allow-missing lets go."""

    @property
    def failed(self) -> tuple[CheckResult, ...]:
        return tuple(result for result in self.results if result.failing)

    @property
    def passed(self) -> bool:
        return not self.failed

    @property
    def refused(self) -> dict[date, tuple[str, ...]]:
        """Sessions that must not be published, with the names of the checks that they fail."""
        names: dict[date, list[str]] = {}
        for result in self.failed:
            for day in dict.fromkeys(row.date for row in result.rows):
                names.setdefault(day, []).append(result.check.name)
        return {day: tuple(names[day]) for day in sorted(names)}

    @property
    def passing(self) -> tuple[date, ...]:
        """Sessions of which every check passed."""
        refused = self.refused
        return tuple(day for day in self.sessions if day not in refused)


_PRICES = ("open", "high", "low", "close")
_FOUND_PRICES = " || ', ' || ".join(f"'{name} ' || coalesce(CAST({name} AS STRING), 'NULL')" for name in (*_PRICES, "vwap"))
_FOUND_NULLS = " || ".join(f"CASE WHEN {name} IS NULL THEN '{name} ' ELSE '' END" for name in _PRICES)

CHECKS = (
    Check(
        "missing_stocks",
        "every ticker asked for has a bar",
        """SELECT ticker, date, 'no bar' AS found, listed OR missing * 100 <= {percent} * {asked_count} AS allowed
FROM (
  SELECT a.ticker, d.date, m.ticker IS NOT NULL AS listed, count(*) OVER (PARTITION BY d.date) AS missing
  FROM asked AS a
  CROSS JOIN sessions AS d
  LEFT JOIN staged AS s ON s.ticker = a.ticker AND s.session = d.date AND s.date = d.date
  LEFT JOIN may_miss AS m ON m.ticker = a.ticker
  WHERE s.ticker IS NULL
) AS gaps""",
    ),
    Check(
        "null_prices",
        "no open, high, low or close is missing",
        f"""SELECT ticker, session AS date, {_FOUND_NULLS} || 'missing' AS found, FALSE AS allowed
FROM staged
WHERE {" OR ".join(f"{name} IS NULL" for name in _PRICES)}""",
    ),
    Check(
        "price_ranges",
        f"low <= open, close <= high; every price is above 0 and at most {MAX_PRICE}",
        f"""SELECT ticker, session AS date, {_FOUND_PRICES} AS found, FALSE AS allowed
FROM staged
WHERE high < low OR open < low OR open > high OR close < low OR close > high
  OR {" OR ".join(f"{name} <= 0 OR {name} > {MAX_PRICE}" for name in (*_PRICES, "vwap"))}""",
    ),
    Check(
        "volume",
        f"volume is from 1 to {MAX_VOLUME} shares; transactions, where given, fit an INTEGER",
        f"""SELECT ticker, session AS date,
  'volume ' || coalesce(CAST(volume AS STRING), 'NULL') || ', transactions ' || coalesce(CAST(transactions AS STRING), 'NULL')
    AS found,
  FALSE AS allowed
FROM staged
WHERE volume IS NULL OR volume <= 0 OR volume > {MAX_VOLUME} OR transactions < 0 OR transactions > {MAX_TRANSACTIONS}""",
    ),
    Check(
        "date_mismatch",
        "every row is of the session asked for",
        """SELECT ticker, session AS date, 'date ' || coalesce(CAST(date AS STRING), 'NULL') AS found, FALSE AS allowed
FROM staged
WHERE date IS DISTINCT FROM session""",
    ),
    Check(
        "ticker_format",
        "only well-formed symbols that were asked for",
        """SELECT ticker, session AS date, CASE WHEN ticker IS NULL THEN 'no ticker' ELSE 'not asked for' END AS found,
  FALSE AS allowed
FROM staged
WHERE NOT EXISTS (SELECT 1 FROM asked AS a WHERE a.ticker = staged.ticker)""",
    ),
    Check(
        "duplicates",
        "one row a ticker and session",
        """SELECT ticker, session AS date, CAST(count(*) AS STRING) || ' rows' AS found, FALSE AS allowed
FROM staged
GROUP BY ticker, session, date
HAVING count(*) > 1""",
    ),
)


def audit_sql(tickers: Sequence[str], sessions: Sequence[date], allow: AllowMissing) -> str:
    """All checks in one query: a row for each broken promise, as check_name, ticker, date, found, allowed. Empty: all is well."""
    selects = (
        f"SELECT '{c.name}' AS check_name, ticker, date, found, allowed FROM (\n{c.failing}\n) AS {c.name}" for c in CHECKS
    )
    share = {"percent": f"{allow.percent:f}", "asked_count": str(allow.universe or len(tickers))}
    checks = sql.fill("\nUNION ALL\n".join(selects), share)
    return sql.text(
        "audit",
        tickers=sql.rows(map(sql.string, tickers)),
        sessions=sql.rows(map(sql.day, sessions)),
        may_miss=sql.rows(map(sql.string, sorted(allow.tickers))) or "(CAST(NULL AS STRING))",
        checks=checks,
    )


def report_sql(tickers: Sequence[str], sessions: Sequence[date], allow: AllowMissing) -> str:
    """The audit as a report: its first few rows for each check, beside how many there are (`failing`)."""
    return sql.text("failing_rows", audit=audit_sql(tickers, sessions, allow), few=str(FEW_ROWS))


def forbidden_sql(tickers: Sequence[str], sessions: Sequence[date], allow: AllowMissing) -> str:
    """The rows of the audit that stand in the way of publishing; empty: go ahead."""
    return f"SELECT * FROM (\n{audit_sql(tickers, sessions, allow)}\n) AS audit WHERE NOT allowed"


def audit_of(sessions: Sequence[date], staging: str, rows: Iterable[dict[str, object]]) -> Audit:
    """The report's rows (see `report_sql`) as an Audit."""
    kept: dict[tuple[str, bool], list[FailingRow]] = {}
    by_session: dict[tuple[str, bool, object], int] = {}
    for row in rows:
        key = (str(row["check_name"]), bool(row["allowed"]))
        kept.setdefault(key, []).append(FailingRow(row["ticker"], row["date"], str(row["found"])))  # type: ignore[arg-type]
        by_session[*key, row["date"]] = int(row["failing"])  # type: ignore[call-overload]
    counts = Counter[tuple[str, bool]]()
    for (name, allowed, _), number in by_session.items():
        counts[name, allowed] += number
    return Audit(
        sessions=tuple(sessions),
        staging=staging,
        results=tuple(
            CheckResult(check, counts[check.name, False], tuple(kept.get((check.name, False), ()))) for check in CHECKS
        ),
        absent=tuple(row for check in CHECKS for row in kept.get((check.name, True), ())),
    )
