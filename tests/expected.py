"""Bars as a vendor sends them, and both tables recomputed from them in plain `decimal`. Shares no code with maang_cli."""

from __future__ import annotations

import csv
import warnings
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import ROUND_HALF_UP, Context, Decimal, localcontext
from fractions import Fraction
from functools import cache
from math import floor
from pathlib import Path

from tests.polygon_server import Digits, PolygonServer, session_end

WINDOW = 7
LARGEST_VOLATILITY = Decimal("999999.9999")
PRICES = ("open", "high", "low", "close")

MARKET_CSV = "daily_bars_2025H2.csv"
MARKET_SPAN = (date(2025, 10, 30), date(2025, 12, 4))
"""25 sessions, with NFLX's 10:1 split on 2025-11-17 in their middle. The real bars have more, which no test needs."""

Row = dict[str, object]
Key = tuple[str, date]
"""Ticker and session."""


@dataclass(frozen=True)
class Bar:
    """One bar. Its numbers are texts with the vendor's digits."""

    ticker: str
    date: date
    open: str
    high: str
    low: str
    close: str
    volume: str
    vwap: str | None = None
    transactions: str | None = None


@cache
def sessions() -> tuple[date, ...]:
    """Every XNYS session from 1989-12-01 to 2060-12-31, according to exchange_calendars."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it uses pandas in a way that a later version will change
        import exchange_calendars

        calendar = exchange_calendars.get_calendar("XNYS", start="1989-12-01", end="2060-12-31")
    return tuple(stamp.date() for stamp in calendar.sessions)


def window(session: date) -> tuple[date, ...]:
    """The last 7 sessions up to and including `session`, oldest first."""
    end = bisect_right(sessions(), session)
    return sessions()[end - WINDOW : end]


def run_of(first: date, count: int) -> tuple[date, ...]:
    """`count` consecutive sessions, from `first` on."""
    start = sessions().index(first)
    return sessions()[start : start + count]


def rounded(number: str | Decimal, places: int) -> Decimal:
    """Rounded half up: a number halfway between two results is rounded away from zero."""
    return Decimal(number).quantize(Decimal(1).scaleb(-places), context=Context(prec=60, rounding=ROUND_HALF_UP))


def production(bars: Iterable[Bar]) -> dict[Key, Row]:
    """Production's rows for these bars, by ticker and session; without the stamp."""
    return {(bar.ticker, bar.date): _production(bar) for bar in bars}


def _production(bar: Bar) -> Row:
    return {
        "ticker": bar.ticker,
        "date": bar.date,
        **{name: rounded(getattr(bar, name), 2) for name in PRICES},
        "volume": int(rounded(bar.volume, 0)),
        "vwap": None if bar.vwap is None else rounded(bar.vwap, 2),
        "transactions": None if bar.transactions is None else int(bar.transactions),
    }


@dataclass(frozen=True)
class Split:
    """Shares before and after a split; `date` is the first session on the new basis."""

    ticker: str
    date: date
    before: int
    after: int


def cumulative(bars: Iterable[Bar], splits: Sequence[Split] = ()) -> dict[Key, Row]:
    """The cumulative table's rows if production has exactly these bars, and these splits apply; without the stamp."""
    stored = production(bars)
    return {key: _cumulative(key, stored, splits) for key in stored}


def restated(row: Row, session: date, splits: Sequence[Split]) -> Row | None:
    """A bar on the basis of `session`: half up, in exact fractions; None if a value no longer fits its column."""
    factor = Fraction(1)
    for split in splits:
        if split.ticker == row["ticker"] and row["date"] < split.date <= session:  # type: ignore[operator]
            factor *= Fraction(split.before, split.after)
    prices = {name: Decimal(floor(Fraction(str(row[name])) * factor * 100 + Fraction(1, 2))).scaleb(-2) for name in PRICES}
    volume = floor(Fraction(str(row["volume"])) / factor + Fraction(1, 2))
    if factor != 1 and (max(prices.values()) >= 10**8 or volume >= 10**18):
        return None
    return {**row, **prices, "volume": volume}


def _cumulative(key: Key, stored: Mapping[Key, Row], splits: Sequence[Split]) -> Row:
    ticker, session = key
    traded = [stored[ticker, day] for day in window(session) if (ticker, day) in stored]
    rows = [row for row in (restated(row, session, splits) for row in traded) if row is not None]
    volumes = [Decimal(str(row["volume"])) for row in rows]
    with localcontext(prec=60):
        mean = sum(volumes, Decimal(0)) / len(volumes)
    return {
        "ticker": ticker,
        "date": session,
        **{f"last_7_days_{name}": [row[name] for row in rows] for name in (*PRICES, "volume")},
        "avg_7_day_volume": rounded(mean, 2),
        "volatility_7_day": volatility([Decimal(str(row["close"])) for row in rows]),
    }


def volatility(closes: Sequence[Decimal]) -> Decimal | None:
    """The sample standard deviation; None for fewer than 2 closes, or if it does not fit into DECIMAL(10,4)."""
    if len(closes) < 2:
        return None
    with localcontext(prec=60):
        mean = sum(closes, Decimal(0)) / len(closes)
        squares = sum(((close - mean) ** 2 for close in closes), Decimal(0))
        deviation = rounded((squares / (len(closes) - 1)).sqrt(), 4)
    return deviation if deviation <= LARGEST_VOLATILITY else None


def by_key(rows: Iterable[Row], *, without: str) -> dict[Key, Row]:
    """A table's rows as the functions above return them: by ticker and session, without the stamp; one row a key."""
    found: dict[Key, Row] = {}
    for row in rows:
        key = (str(row["ticker"]), date.fromisoformat(str(row["date"])))
        assert key not in found, f"two rows of {key}"
        found[key] = {name: value for name, value in row.items() if name != without}
    return found


def wire(bar: Bar) -> dict[str, object]:
    """The bar as the vendor sends it in a grouped answer, each number with the bar's digits."""
    texts = {"o": bar.open, "h": bar.high, "l": bar.low, "c": bar.close, "v": bar.volume, "vw": bar.vwap, "n": bar.transactions}
    numbers = {key: Digits(text) for key, text in texts.items() if text is not None}
    return {"T": bar.ticker, "t": session_end(bar.date), **numbers}


def serve(polygon: PolygonServer, bars: Iterable[Bar]) -> list[date]:
    """Have Polygon serve the bars; returns their sessions, in order."""
    polygon.days = {}
    for bar in bars:
        polygon.days.setdefault(bar.date, []).append(wire(bar))
    return sorted(polygon.days)


def market_bars(market: Path) -> list[Bar]:
    """The bars of META, AAPL, AMZN, NFLX and GOOGL in MARKET_SPAN."""
    with (market / MARKET_CSV).open(newline="") as file:
        bars = [Bar(date=date.fromisoformat(row.pop("date")), **row) for row in csv.DictReader(file)]
    first, last = MARKET_SPAN
    return [bar for bar in bars if first <= bar.date <= last]
