"""The gate as data: each check's name, its promise, and the SQL that selects the rows that break the promise.

A check reads the relations that `sql/audit.sql` sets up: `requested(ticker, first_date, last_date)`,
`sessions(date, requested_count, refused)`, `staged(..)`, the rows staged for these sessions, and `compared(..)`, the bars beside
what earlier rows of their tickers say. A failing row counts for the session that it was staged for: each session is audited with
its own rows. A comparison with NULL selects nothing, so a missing price fails only the check that names it, and a row without
earlier rows passes those that need them.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from enum import StrEnum
from functools import cached_property
from typing import Any

from maang_cli import sessions as calendar
from maang_cli import sql
from maang_cli.tables import BAR

MAX_PRICE = Decimal("99999999.99")
"""The largest number of DECIMAL(10,2), USD a share."""
MAX_VOLUME = 1_000_000_000_000
"""Shares; thirty times the busiest day of any ticker so far, and its mean still fits DECIMAL(15,2)."""
MAX_TRANSACTIONS = 2_147_483_647
"""The largest INTEGER."""
FEW_ROWS = 5
"""How many failing rows a report shows for each check and session."""
PREVIOUS_SESSIONS = 7
"""How far back the last close is looked for."""
USUAL_SESSIONS = 20
"""The usual volume of a ticker is the median of this many sessions before."""
KNOWN_SESSIONS = 10
"""Of how many of them there must be a bar."""
TELLING_VOLUME = 10_000
"""Shares: two bars of at least this volume are not the same by chance."""


class Kind(StrEnum):
    """What a failing row means."""

    MISSING = "missing"
    """A ticker has no bar: its session is refused, unless --allow-missing permits it."""
    ROW = "row"
    """The row is wrong: its session is refused, or the row is held if --allow-missing permits that the ticker is missing."""
    SESSION = "session"
    """The session is refused."""
    WARNING = "warning"
    """The row is published; it is unusual."""


class Outcome(StrEnum):
    """What becomes of a failing row."""

    REFUSED = "refused"
    HELD = "held"
    """It is not published, and production keeps what it has; the rest of the session is published."""
    ALLOWED = "allowed"
    """A missing bar that --allow-missing permits."""
    WARNED = "warned"
    ACCEPTED = "accepted"
    """A person has accepted it, with these values."""


def by_session(rows: Iterable[tuple[str, date]]) -> dict[date, frozenset[str]]:
    """The tickers of some rows, by session, in order."""
    found: dict[date, set[str]] = {}
    for ticker, day in rows:
        found.setdefault(day, set()).add(ticker)
    return {day: frozenset(found[day]) for day in sorted(found)}


FOLLOWS = "follows from"
"""In the text of a jump that an earlier one explains."""
NO_TEXT = "CAST(NULL AS STRING)"


@dataclass(frozen=True)
class Check:
    """A promise, and which rows break it: those of `rows` that fulfil `failing`, or those that the query `rows` selects."""

    name: str
    promise: str
    """What is true of every row, or every session, that passes. Users see it."""
    rows: str
    """STAGED or COMPARED, a relation of `sql/audit.sql`; or a SELECT of `ticker, date, found`, with `date` the session."""
    failing: str = ""
    """SQL: a condition."""
    found: str = ""
    """SQL: what is wrong, in words."""
    kind: Kind = Kind.ROW
    acceptable: bool = False
    """Whether a person may accept a row that fails: it is unlikely, not impossible."""
    before: str = NO_TEXT
    after: str = NO_TEXT
    """SQL: values for `FailingRow`."""

    @property
    def of_session(self) -> bool:
        """Whether a failing row is about its whole session."""
        return self.acceptable and self.kind is Kind.SESSION


@dataclass(frozen=True)
class Acceptance:
    """What a person accepts although it fails a check."""

    ticker: str | None
    """None: the check is about whole sessions."""
    session: date
    check: str

    @property
    def key(self) -> tuple[str | None, date, str]:
        return self.ticker, self.session, self.check

    def __str__(self) -> str:
        return ":".join(filter(None, (self.ticker, str(self.session), self.check)))


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
    outcome: Outcome = Outcome.REFUSED
    before: str | None = None
    after: str | None = None
    """Of a jump: the price before, and the one that jumped."""

    @property
    def follows(self) -> bool:
        """Whether an earlier jump explains this one."""
        return FOLLOWS in self.found

    @property
    def may_be_split(self) -> bool:
        """Whether it is a jump of its own, between prices that cents can express."""
        return all(price is not None and Decimal(price) > 0 for price in (self.before, self.after)) and not self.follows


@dataclass(frozen=True)
class CheckResult:
    check: Check
    counts: Mapping[Outcome, int]
    """How many rows break the promise, by what becomes of them; a missing bar that is allowed is not among them."""
    rows: tuple[FailingRow, ...]
    """The first few of each session and outcome, and all that are held."""

    @property
    def failing(self) -> int:
        return sum(self.counts.values())

    @property
    def refused(self) -> int:
        return self.counts.get(Outcome.REFUSED, 0)


@dataclass(frozen=True)
class Audit:
    """What the gate found in one staging table."""

    judged: "Round"
    """How it was found: the last round."""
    staging: str
    results: tuple[CheckResult, ...]
    """One for each check, in the order of CHECKS."""
    allowed: tuple[FailingRow, ...]
    """Missing bars that --allow-missing permits."""
    unknown: frozenset[str] = frozenset()
    """Of the tickers whose missing bars are refused, those of which production has no earlier bar either."""

    @property
    def sessions(self) -> tuple[date, ...]:
        return tuple(self.judged.requested)

    @property
    def failed(self) -> tuple[CheckResult, ...]:
        """Those that refuse a session."""
        return tuple(result for result in self.results if result.refused)

    @property
    def passed(self) -> bool:
        """Whether no session is refused."""
        return not self.failed

    @property
    def refused(self) -> dict[date, tuple[str, ...]]:
        """Sessions that must not be published, with the names of the checks that fail there."""
        names: dict[date, list[str]] = {}
        for result in self.failed:
            for day in dict.fromkeys(row.date for row in result.rows if row.outcome is Outcome.REFUSED):
                names.setdefault(day, []).append(result.check.name)
        return {day: tuple(names[day]) for day in sorted(names)}

    @property
    def has_findings(self) -> bool:
        """Whether there is something to remember."""
        return any(result.failing > result.counts.get(Outcome.ACCEPTED, 0) for result in self.results)

    def rows(self, outcome: Outcome) -> Iterator[tuple[str, FailingRow]]:
        """The failing rows with this outcome, each after its check's name: of those that are not held, the first few."""
        return ((result.check.name, row) for result in self.results for row in result.rows if row.outcome is outcome)

    @cached_property
    def held(self) -> frozenset[tuple[str, date]]:
        """The tickers and sessions of all held rows."""
        return frozenset((str(row.ticker), row.date) for _, row in self.rows(Outcome.HELD))

    @property
    def passing(self) -> tuple[date, ...]:
        """Sessions that are not refused."""
        refused = self.refused
        return tuple(day for day in self.sessions if day not in refused)


_PRICES = ("open", "high", "low", "close")
_FOUND_PRICES = " || ', ' || ".join(f"'{name} ' || coalesce(CAST({name} AS STRING), 'NULL')" for name in (*_PRICES, "vwap"))
_FOUND_VOLUME = (
    "'volume ' || CAST(volume AS STRING) || ', ' || CAST(TRY_CAST(volume_ratio AS DECIMAL(18,4)) AS STRING) || ' of the usual'"
)
_FOUND_NULLS = " || ".join(f"CASE WHEN {name} IS NULL THEN '{name} ' ELSE '' END" for name in _PRICES)

STAGED, COMPARED = "staged", "compared"

CHECKS = (
    Check(
        "missing_stocks",
        "every requested ticker has a bar",
        """SELECT r.ticker, d.date, 'no bar' AS found
FROM requested AS r
JOIN sessions AS d ON d.date BETWEEN r.first_date AND r.last_date
LEFT JOIN staged AS s ON s.ticker = r.ticker AND s.session = d.date AND s.date = d.date
WHERE s.ticker IS NULL""",
        kind=Kind.MISSING,
    ),
    Check(
        "null_prices",
        "no open, high, low or close is missing",
        STAGED,
        " OR ".join(f"{name} IS NULL" for name in _PRICES),
        f"{_FOUND_NULLS} || 'missing'",
    ),
    Check(
        "price_ranges",
        f"low <= open, close <= high; every price is above 0 and at most {MAX_PRICE}",
        STAGED,
        "high < low OR open < low OR open > high OR close < low OR close > high OR "
        + " OR ".join(f"{name} <= 0 OR {name} > {MAX_PRICE}" for name in (*_PRICES, "vwap")),
        _FOUND_PRICES,
    ),
    Check(
        "volume",
        f"volume is from 1 to {MAX_VOLUME} shares; transactions, if given, fit an INTEGER",
        STAGED,
        f"volume IS NULL OR volume <= 0 OR volume > {MAX_VOLUME} OR transactions < 0 OR transactions > {MAX_TRANSACTIONS}",
        "'volume ' || coalesce(CAST(volume AS STRING), 'NULL')"
        " || ', transactions ' || coalesce(CAST(transactions AS STRING), 'NULL')",
    ),
    Check(
        "date_mismatch",
        "every row belongs to the requested session",
        STAGED,
        "date IS DISTINCT FROM session",
        "'date ' || coalesce(CAST(date AS STRING), 'NULL')",
    ),
    Check(
        "ticker_format",
        "only tickers that were requested",
        """SELECT s.ticker, s.session AS date, CASE WHEN s.ticker IS NULL THEN 'no ticker' ELSE 'not requested' END AS found
FROM staged AS s
LEFT JOIN requested AS r ON r.ticker = s.ticker AND s.session BETWEEN r.first_date AND r.last_date
WHERE r.ticker IS NULL""",
        kind=Kind.SESSION,
    ),
    Check(
        "duplicates",
        "one row per ticker and session",
        """SELECT ticker, session AS date, CAST(count(*) AS STRING) || ' rows' AS found
FROM staged
GROUP BY ticker, session, date
HAVING count(*) > 1""",
    ),
    Check(
        "jump",
        "open is from 1/1.4 to 1.4 of the last close of the 7 sessions before, close from 1/1.5 to 1.5 (splits applied)",
        COMPARED,
        "at_open OR at_close",
        "'close ' || before || ' on ' || CAST(previous_date AS STRING)"
        " || CASE WHEN at_open THEN ', then open ' ELSE ', then close ' END || after"
        " || ', ' || CAST(TRY_CAST(price_ratio AS DECIMAL(18,4)) AS STRING) || ' of it'"
        f" || CASE WHEN last_jump > previous_date THEN '; {FOLLOWS} ' || CAST(last_jump AS STRING) ELSE '' END",
        acceptable=True,
        before="before",
        after="after",
    ),
    Check(
        "spike",
        "low is at least 2/3 of open and close, high at most 3/2 of them",
        COMPARED,
        "low * 1.5 < least(open, close) OR high > 1.5 * greatest(open, close)",
        _FOUND_PRICES,
        acceptable=True,
    ),
    Check(
        "repeat",
        f"not all of the bar is that of the session before (from {TELLING_VOLUME} shares on)",
        COMPARED,
        f"repeated IS NOT NULL AND volume >= {TELLING_VOLUME}",
        "'the bar of ' || CAST(repeated AS STRING)",
        acceptable=True,
    ),
    Check(
        "twins",
        f"no two tickers have the same bar (from {TELLING_VOLUME} shares on)",
        f"""SELECT b.ticker, b.date, 'the same bar as ' || min(o.ticker) AS found
FROM bars AS b
JOIN (
  SELECT ticker, date, open, high, low, close, volume FROM bars
  UNION ALL
  SELECT ticker, date, open, high, low, close, volume FROM stored WHERE NOT replaced
) AS o ON o.date = b.date AND {" AND ".join(f"o.{name} = b.{name}" for name in (*_PRICES, "volume"))}
WHERE o.ticker <> b.ticker AND b.volume >= {TELLING_VOLUME}
GROUP BY b.ticker, b.date""",
        acceptable=True,
    ),
    Check(
        "thin_session",
        "the median of volume / usual volume is at least 0.2 (of 5 tickers or more; usual: the median of the 20 sessions before)",
        COMPARED,
        "position = 1 AND known_tickers >= 5 AND session_ratio < 0.2",
        "'the median volume is ' || CAST(TRY_CAST(session_ratio AS DECIMAL(18,4)) AS STRING) || ' of the usual'",
        Kind.SESSION,
        acceptable=True,
    ),
    Check(
        "volume_low",
        f"volume is at least a tenth of the usual (if {KNOWN_SESSIONS} of the 20 sessions before are known)",
        COMPARED,
        f"known >= {KNOWN_SESSIONS} AND volume_ratio < 0.1",
        _FOUND_VOLUME,
        Kind.WARNING,
        acceptable=True,
    ),
    Check(
        "volume_high",
        f"volume is at most 20 times the usual (if {KNOWN_SESSIONS} of the 20 sessions before are known)",
        COMPARED,
        f"known >= {KNOWN_SESSIONS} AND volume_ratio > 20",
        _FOUND_VOLUME,
        Kind.WARNING,
        acceptable=True,
    ),
    Check(
        "vwap_range",
        "vwap, if given, is from 0.99 of low to 1.01 of high",
        COMPARED,
        "vwap < 0.99 * low OR vwap > 1.01 * high",
        _FOUND_PRICES,
        Kind.WARNING,
        acceptable=True,
    ),
)
"""The specification's six checks, then ours. From `jump` on they are plausibility checks, with bounds at which real bars hardly
ever fail: 3 of 10,000 bars of thin names in a crisis are the worst of 170,000 (`jump`)."""

NETFLIX = date(2022, 4, 20)
"""The one true jump of the default tickers: subscribers fell, and 348.61 was followed by 226.19."""


@dataclass(frozen=True)
class Round:
    """What one audit query judges, and what it compares that with."""

    requested: Mapping[date, int]
    """The sessions to judge, in order, and how many tickers of the universe are listed on each."""
    allow: AllowMissing
    bases: str
    """SQL: `ticker, first_date, last_date, price_factor, volume_factor`, to bring all bars of a ticker to one basis."""
    refused: frozenset[date] = frozenset()
    """Sessions whose staged rows are not earlier rows of others."""
    held: frozenset[tuple[str, date]] = frozenset()
    """Rows that are not earlier rows of others."""

    @property
    def reach(self) -> tuple[date, date]:
        """The first and last session of which rows are read."""
        days = tuple(self.requested)
        return calendar.before(days[0], USUAL_SESSIONS)[0], days[-1]


def audit_sql(judged: Round) -> str:
    """All checks in one query: a row for each broken promise, as check_name, ticker, date, found, before, after, outcome."""
    selects = [
        *(_failing(relation, [check for check in CHECKS if check.rows == relation]) for relation in (STAGED, COMPARED)),
        *(
            f"SELECT '{c.name}' AS check_name, '{c.kind}' AS kind, ticker, date, found, {NO_TEXT} AS before, {NO_TEXT} AS after\n"
            f"FROM (\n{c.rows}\n) AS {c.name}"
            for c in CHECKS
            if not c.failing
        ),
    ]
    return sql.text(
        "audit",
        sessions=", ".join(
            f"({sql.day(day)}, {count}, {str(day in judged.refused).upper()})" for day, count in judged.requested.items()
        ),
        calendar=", ".join(f"({sql.day(day)}, {number})" for number, day in enumerate(calendar.between(*judged.reach))),
        allowed_missing=sql.rows(map(sql.string, sorted(judged.allow.tickers))) or "(CAST(NULL AS STRING))",
        held=held_sql(judged.held),
        bases=judged.bases,
        previous=str(PREVIOUS_SESSIONS),
        known=str(KNOWN_SESSIONS),
        reach=sql.rows(map(str, range(1, USUAL_SESSIONS + 1))),
        checks="\nUNION ALL\n".join(selects),
        acceptances=_acceptances(judged.requested),
        percent=f"{judged.allow.percent:f}",
    )


def _failing(relation: str, own: Sequence[Check]) -> str:
    """The rows of a relation that fail these checks. It is read once: each row is looked at by each check in turn."""

    def case(part: str) -> str:
        return "CASE n.check_name " + " ".join(f"WHEN '{c.name}' THEN {getattr(c, part)}" for c in own) + " END"

    names = ", ".join(f"('{check.name}', '{check.kind}')" for check in own)
    day = "session" if relation == STAGED else "date"
    of_session = [f"'{check.name}'" for check in own if check.kind is Kind.SESSION]
    ticker = f"CASE WHEN n.check_name IN ({', '.join(of_session)}) THEN NULL ELSE ticker END" if of_session else "ticker"
    return f"""SELECT n.check_name, n.kind, {ticker} AS ticker, {day} AS date,
  {case("found")} AS found, {case("before")} AS before, {case("after")} AS after
FROM {relation} CROSS JOIN (VALUES {names}) AS n(check_name, kind)
WHERE {case("failing")}"""


def held_sql(held: Iterable[tuple[str, date]]) -> str:
    """Held rows as a relation of `ticker, date`."""
    return sql.relation({"ticker": "STRING", "date": "DATE"}, ([sql.string(name), sql.day(day)] for name, day in sorted(held)))


def _acceptances(days: Iterable[date]) -> str:
    """What persons have accepted, for rows that are as they were then, as `name, ticker, date, found`."""
    same = " AND ".join(f"s.{column.name} IS NOT DISTINCT FROM a.{column.name}" for column in BAR)
    text = f"""SELECT DISTINCT a.name, a.ticker, a.date, a.found
FROM (SELECT * FROM {{findings}} WHERE kind = 'check' AND outcome = '{Outcome.ACCEPTED}') AS a
LEFT JOIN staged AS s ON s.ticker = a.ticker AND s.session = a.date
WHERE a.ticker IS NULL OR ({same})"""
    if NETFLIX in days:
        text += f"""
UNION ALL
SELECT 'jump', ticker, date, '' FROM bars WHERE ticker = 'NFLX' AND date = {sql.day(NETFLIX)} AND close BETWEEN 200 AND 260"""
    return text


def report_sql() -> str:
    """The rows of `{audit}` as a report: the first few for each check, outcome and session, each with how many (`failing`)."""
    return sql.text("audit_report", few=str(FEW_ROWS))


def forbidden_sql(held: Iterable[tuple[str, date]]) -> str:
    """What forbids publishing: rows of `{audit}` that are refused, or held and not in `held`; and rows of `held` that are not."""
    return sql.text("forbidden", held=held_sql(held))


def audit_of(judged: Round, staging: str, rows: Iterable[dict[str, Any]]) -> Audit:
    """The report's rows (see `report_sql`) as an Audit."""
    kept: dict[str, list[FailingRow]] = {}
    counts: dict[str, Counter[Outcome]] = {}
    counted: set[tuple[str, Outcome, object]] = set()
    allowed = []
    for row in rows:
        name, outcome = str(row["check_name"]), Outcome(str(row["outcome"]))
        failing = FailingRow(**{name: row[name] for name in ("ticker", "date", "found", "before", "after")}, outcome=outcome)
        if outcome is Outcome.ALLOWED:
            allowed.append(failing)
            continue
        kept.setdefault(name, []).append(failing)
        if (key := (name, outcome, row["date"])) not in counted:
            counted.add(key)
            counts.setdefault(name, Counter())[outcome] += row["failing"]
    results = (CheckResult(check, counts.get(check.name, Counter()), tuple(kept.get(check.name, ()))) for check in CHECKS)
    return Audit(judged, staging, tuple(results), tuple(allowed))
