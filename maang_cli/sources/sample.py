"""Made-up bars: deterministic, plausible, for any ticker on any session. No key, no network.

A price is a base chosen by the ticker's hash, moved by value noise (lattice noise in one dimension: hashed knots joined by
straight lines) on several time scales. All arithmetic is in whole numbers, so that every machine makes the same bars.
"""

import hashlib
from collections.abc import Callable, Generator, Mapping, Sequence
from datetime import date, timedelta
from decimal import Decimal

import pyarrow as pa

from maang_cli import sessions as calendar
from maang_cli.schemas import arrow_schema
from maang_cli.sources.base import Calls, Fetched, Resume, Source
from maang_cli.splits import Claim, Claims
from maang_cli.tables import FETCHED_COLUMNS

_SCALES = ((512, 4000), (96, 1600), (20, 700), (5, 250), (1, 90))
"""Days between knots, and a knot's largest move in basis points: 66 % together, so a price stays above a third of its base."""


def _draw(below: int, *seed: object) -> int:
    """A whole number from 0 to `below` - 1 that depends only on the seed."""
    digest = hashlib.sha256("|".join(map(str, seed)).encode()).digest()
    return int.from_bytes(digest[:8]) % below


SPLIT = Claim("NFLX", date(2025, 11, 17), Decimal(1), Decimal(10), "sample")
"""The one split, so that a newcomer can see what it does to a window."""


def _shares(ticker: str, session: date) -> int:
    """How many shares one share of the first session has become."""
    return int(SPLIT.split_to) if ticker == SPLIT.ticker and session >= SPLIT.executed else 1


def _close(ticker: str, day: date) -> int:
    """The close in cents, on the first session's basis."""
    base = 2_000 + _draw(48_000, ticker, "base")
    moved = 10_000
    for days, reach in _SCALES:
        knot, into = divmod(day.toordinal(), days)
        left, right = (_draw(2 * reach + 1, ticker, days, knot + step) - reach for step in (0, 1))
        moved += (left * (days - into) + right * into) // days
    return base * moved // 10_000


def _bar(ticker: str, session: date) -> dict[str, object]:
    yesterday = session - timedelta(days=1)
    while not calendar.is_session(yesterday):
        yesterday -= timedelta(days=1)
    close = _close(ticker, session)
    opened = _close(ticker, yesterday) * (10_000 + _draw(101, ticker, session, "gap") - 50) // 10_000
    high = max(opened, close) * (10_000 + _draw(120, ticker, session, "high")) // 10_000
    low = min(opened, close) * (10_000 - _draw(120, ticker, session, "low")) // 10_000
    usual = 1_000_000 + _draw(49_000_000, ticker, "volume")
    volume = usual * (70 + _draw(61, ticker, session, "volume")) // 100
    shares = _shares(ticker, session)
    volume *= shares
    whole = {"open": opened, "high": high, "low": low, "close": close, "vwap": (high + low + close) // 3}
    prices = {name: cents // shares for name, cents in whole.items()}
    return {
        "session": session,
        "ticker": ticker,
        "date": session,
        **{name: Decimal(cents).scaleb(-2) for name, cents in prices.items()},
        "volume": Decimal(volume),
        "transactions": Decimal(volume // (60 + _draw(41, ticker, session, "size"))),
    }


class SampleSource(Source):
    name = "sample"
    made_up = True

    def splits(self, tickers: Sequence[str], first: date, last: date) -> Claims:
        return Claims((SPLIT,) if SPLIT.ticker in tickers and first <= SPLIT.executed <= last else ())

    def doctor_checks(self) -> Mapping[str, Callable[[], str]]:
        return {}

    def plan(self, missing: Mapping[date, frozenset[str]], *, resume: Resume | None = None) -> Calls:  # noqa: ARG002
        return Calls()

    def fetch(
        self,
        missing: Mapping[date, frozenset[str]],
        batches: Sequence[Sequence[date]],
        tick: Callable[[], None] = lambda: None,
        *,
        resume: Resume | None = None,  # noqa: ARG002
    ) -> Generator[Fetched]:
        for batch in batches:
            rows = [_bar(ticker, session) for session in batch for ticker in sorted(missing[session])]
            tick()
            yield Fetched(pa.Table.from_pylist(rows, schema=arrow_schema(FETCHED_COLUMNS)), {})

    calls = 0
    per_minute = None

    def close(self) -> None:
        """Nothing is open."""
