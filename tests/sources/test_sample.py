"""`sources.sample`: plausible bars for any ticker on any session, the same on every machine."""

from __future__ import annotations

from datetime import date, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from maang_cli import sessions as calendar
from maang_cli.closures import why_closed
from maang_cli.sources.sample import SampleSource
from maang_cli.symbols import TICKER

FAANG = ("META", "AAPL", "AMZN", "NFLX", "GOOGL")

any_ticker = st.from_regex(TICKER, fullmatch=True)
any_session = st.dates(date(1990, 1, 2), date(2060, 12, 31)).filter(calendar.is_session)


def bars(*tickers: str, sessions: tuple[date, ...]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = SampleSource().bars(tickers, sessions).to_pylist()
    return rows


def assert_plausible(bar: dict[str, Any]) -> None:
    assert 0 < bar["low"] <= min(bar["open"], bar["close"]), bar
    assert max(bar["open"], bar["close"]) <= bar["high"], bar
    assert bar["low"] <= bar["vwap"] <= bar["high"], bar
    assert 0 < bar["transactions"] <= bar["volume"], bar
    assert bar["high"] / bar["low"] < Decimal("1.3"), bar
    assert 1 < bar["close"] < 1000, bar


@settings(deadline=None)
@given(any_ticker, any_session)
def test_any_bar_is_plausible(ticker: str, session: date) -> None:
    (bar,) = bars(ticker, sessions=(session,))
    assert (bar["ticker"], bar["date"]) == (ticker, session)
    assert_plausible(bar)


def test_one_year_of_prices_moves_like_a_market() -> None:
    year = calendar.between(date(2024, 10, 15), date(2025, 10, 14))
    for ticker in FAANG:
        run = bars(ticker, sessions=year)
        steps = list(pairwise(run))
        moves = [abs(after["close"] / before["close"] - 1) for before, after in steps]
        opens = [abs(after["open"] / before["close"] - 1) for before, after in steps]
        assert max(moves) < Decimal("0.12"), ticker
        assert Decimal("0.001") < sum(moves) / len(moves) < Decimal("0.03"), ticker
        assert max(opens) < Decimal("0.01"), ticker
        assert len({bar["close"] for bar in run}) > len(run) / 2, ticker


def test_open_is_near_the_previous_close_also_after_a_holiday() -> None:
    thursday, monday = date(2025, 4, 17), date(2025, 4, 21)
    assert why_closed(thursday + timedelta(days=1)) == "Good Friday"
    before, after = bars("META", sessions=(thursday, monday))
    assert abs(after["open"] / before["close"] - 1) < Decimal("0.01")


def test_tickers_have_different_prices_and_case_matters() -> None:
    closes = {
        bar["ticker"]: bar["close"] for bar in bars("META", "BACpA", "BACPA", "BRK.A", "BRK.B", sessions=(date(2025, 10, 14),))
    }
    assert len(set(closes.values())) == 5


def test_bars_never_change() -> None:
    names = ("open", "high", "low", "close", "volume", "vwap", "transactions")
    found = {
        (bar["ticker"], str(bar["date"])): " ".join(str(bar[name]) for name in names)
        for bar in bars("META", "BRK.A", "BACpA", sessions=(date(1990, 1, 2), date(2025, 10, 14)))
    }
    assert found == {
        ("META", "1990-01-02"): "231.37 233.22 228.25 229.17 23113082 230.21 235847",
        ("BRK.A", "1990-01-02"): "595.17 597.72 570.33 573.32 6499918 580.45 106556",
        ("BACpA", "1990-01-02"): "36.23 36.89 36.05 36.54 5701311 36.49 58776",
        ("META", "2025-10-14"): "333.00 335.90 330.23 334.17 16724100 333.43 183781",
        ("BRK.A", "2025-10-14"): "339.03 340.18 337.88 338.56 7492961 338.87 108593",
        ("BACpA", "2025-10-14"): "48.75 48.98 48.28 48.44 6526500 48.56 66596",
    }


def test_bars_are_marked_as_made_up() -> None:
    assert SampleSource().made_up


def test_fetch_returns_the_missing_bars_in_order_without_a_call() -> None:
    first, second = date(2025, 10, 13), date(2025, 10, 14)
    source, ticks = SampleSource(), list[None]()
    missing = {first: frozenset(["META"]), second: frozenset(["META", "AAPL"])}
    batches = list(source.fetch(missing, [[first], [second]], lambda: ticks.append(None)))
    assert [[(bar["session"], bar["ticker"]) for bar in batch.rows.to_pylist()] for batch in batches] == [
        [(first, "META")],
        [(second, "AAPL"), (second, "META")],
    ]
    assert batches[1].rows.to_pylist() == bars("AAPL", "META", sessions=(second,))
    assert (source.calls, source.per_minute, source.plan(missing).number, len(ticks)) == (0, None, 0, 2)
