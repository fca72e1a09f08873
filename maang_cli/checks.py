"""The gate as data: each check's name, its promise, and the SQL that selects the rows that break the promise.

A check's SQL reads the relations that `sql/audit.sql` sets up: `requested(ticker, first_date, last_date)`,
`sessions(date, requested_count)`, `allowed_missing(ticker)` and `staged(..)`, the rows staged for these sessions. It selects
`ticker, date, found, allowed`, where `date` is the session that the row was staged for: each session is audited with its own
rows. A comparison with NULL selects nothing, so a missing price fails only the check that names it.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal

from maang_cli import sql

MAX_PRICE = Decimal("99999999.99")
"""The largest number of DECIMAL(10,2), USD a share."""
MAX_VOLUME = 1_000_000_000_000
"""Shares; thirty times the busiest day of any ticker so far, and its mean still fits DECIMAL(15,2)."""
MAX_TRANSACTIONS = 2_147_483_647
"""The largest INTEGER."""
FEW_ROWS = 5
"""How many failing rows a report shows for each check and session."""


@dataclass(frozen=True)
class Check:
    name: str
    promise: str
    """What is true of every row, or every session, that passes. Users see it."""
    failing: str
    """SQL that selects the rows that break the promise."""


@dataclass(frozen=True)
class AllowMissing:
    """Which of the requested tickers may be missing: those that are named, or a share of them on each session."""

    tickers: frozenset[str] = frozenset()
    percent: Decimal = Decimal(0)
    """0 to 100, of the universe's tickers that are listed on the session."""


ALLOW_NONE = AllowMissing()


@dataclass(frozen=True)
class FailingRow:
    ticker: str | None
    date: date
    """The session that the row was staged for. What is wrong with the row is in `found`."""
    found: str


@dataclass(frozen=True)
class CheckResult:
    check: Check
    failing: int
    """How many rows break the promise."""
    rows: tuple[FailingRow, ...]
    """The first few of each session."""


@dataclass(frozen=True)
class Audit:
    """What the gate found in one staging table."""

    sessions: tuple[date, ...]
    staging: str
    results: tuple[CheckResult, ...]
    """One for each check, in the order of CHECKS."""
    allowed: tuple[FailingRow, ...]
    """Missing bars that --allow-missing permits."""

    @property
    def failed(self) -> tuple[CheckResult, ...]:
        return tuple(result for result in self.results if result.failing)

    @property
    def passed(self) -> bool:
        return not self.failed

    @property
    def refused(self) -> dict[date, tuple[str, ...]]:
        """Sessions that must not be published, with the names of the checks that fail there."""
        names: dict[date, list[str]] = {}
        for result in self.failed:
            for day in dict.fromkeys(row.date for row in result.rows):
                names.setdefault(day, []).append(result.check.name)
        return {day: tuple(names[day]) for day in sorted(names)}

    @property
    def passing(self) -> tuple[date, ...]:
        """Sessions on which every check passed."""
        refused = self.refused
        return tuple(day for day in self.sessions if day not in refused)


_PRICES = ("open", "high", "low", "close")
_FOUND_PRICES = " || ', ' || ".join(f"'{name} ' || coalesce(CAST({name} AS STRING), 'NULL')" for name in (*_PRICES, "vwap"))
_FOUND_NULLS = " || ".join(f"CASE WHEN {name} IS NULL THEN '{name} ' ELSE '' END" for name in _PRICES)

CHECKS = (
    Check(
        "missing_stocks",
        "every requested ticker has a bar",
        """SELECT ticker, date, 'no bar' AS found, named OR missing * 100 <= {percent} * requested_count AS allowed
FROM (
  SELECT r.ticker, d.date, d.requested_count, m.ticker IS NOT NULL AS named, count(*) OVER (PARTITION BY d.date) AS missing
  FROM requested AS r
  JOIN sessions AS d ON d.date BETWEEN r.first_date AND r.last_date
  LEFT JOIN staged AS s ON s.ticker = r.ticker AND s.session = d.date AND s.date = d.date
  LEFT JOIN allowed_missing AS m ON m.ticker = r.ticker
  WHERE s.ticker IS NULL
) AS missing_bars""",
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
        f"volume is from 1 to {MAX_VOLUME} shares; transactions, if given, fit an INTEGER",
        f"""SELECT ticker, session AS date,
  'volume ' || coalesce(CAST(volume AS STRING), 'NULL') || ', transactions ' || coalesce(CAST(transactions AS STRING), 'NULL')
    AS found,
  FALSE AS allowed
FROM staged
WHERE volume IS NULL OR volume <= 0 OR volume > {MAX_VOLUME} OR transactions < 0 OR transactions > {MAX_TRANSACTIONS}""",
    ),
    Check(
        "date_mismatch",
        "every row belongs to the requested session",
        """SELECT ticker, session AS date, 'date ' || coalesce(CAST(date AS STRING), 'NULL') AS found, FALSE AS allowed
FROM staged
WHERE date IS DISTINCT FROM session""",
    ),
    Check(
        "ticker_format",
        "only tickers that were requested",
        """SELECT ticker, session AS date, CASE WHEN ticker IS NULL THEN 'no ticker' ELSE 'not requested' END AS found,
  FALSE AS allowed
FROM staged
WHERE NOT EXISTS (
  SELECT 1 FROM requested AS r
  WHERE r.ticker = staged.ticker AND staged.session BETWEEN r.first_date AND r.last_date
)""",
    ),
    Check(
        "duplicates",
        "one row per ticker and session",
        """SELECT ticker, session AS date, CAST(count(*) AS STRING) || ' rows' AS found, FALSE AS allowed
FROM staged
GROUP BY ticker, session, date
HAVING count(*) > 1""",
    ),
)


def audit_sql(requested: Mapping[date, int], allow: AllowMissing) -> str:
    """All checks in one query: a row for each broken promise, as check_name, ticker, date, found, allowed.

    `requested`: the sessions, and how many tickers of the universe are listed on each.
    """
    selects = (
        f"SELECT '{c.name}' AS check_name, ticker, date, found, allowed FROM (\n{c.failing}\n) AS {c.name}" for c in CHECKS
    )
    return sql.text(
        "audit",
        sessions=", ".join(f"({sql.day(day)}, {count})" for day, count in requested.items()),
        allowed_missing=sql.rows(map(sql.string, sorted(allow.tickers))) or "(CAST(NULL AS STRING))",
        checks=sql.fill("\nUNION ALL\n".join(selects), {"percent": f"{allow.percent:f}"}),
    )


def report_sql(requested: Mapping[date, int], allow: AllowMissing) -> str:
    """The audit as a report: the first few rows for each check and session, each with how many there are (`failing`)."""
    return sql.text("audit_report", audit=audit_sql(requested, allow), few=str(FEW_ROWS))


def forbidden_sql(requested: Mapping[date, int], allow: AllowMissing) -> str:
    """The rows of the audit that forbid publishing; none: publish."""
    return f"SELECT * FROM (\n{audit_sql(requested, allow)}\n) AS audit WHERE NOT allowed"


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
        allowed=tuple(row for check in CHECKS for row in kept.get((check.name, True), ())),
    )
