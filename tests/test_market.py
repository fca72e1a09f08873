"""Bars of a market, made up and real ones, digit by digit, from a loopback Polygon through the real commands into both tables."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from maang_cli import pipeline
from maang_cli.request import Request
from maang_cli.warehouses import WAREHOUSES
from tests import batches, expected, made_market, settings
from tests.conftest import Maang
from tests.expected import Bar
from tests.polygon_server import PolygonServer

TICKERS = "META,AAPL,AMZN,NFLX,GOOGL"
UNLISTED = f"NFLX:{made_market.SPLIT}:jump"
"""The vendor of these tests lists no splits."""


def recorded_bars(path: Path, ticker: str) -> list[Bar]:
    """The bars in a recorded answer; `ticker` if they name none. Their numbers stay text."""
    found = json.loads(path.read_text(), parse_float=str, parse_int=str)
    return [recorded_bar(row, ticker) for row in (found if isinstance(found, list) else found["results"])]


def recorded_bar(row: dict[str, str], ticker: str) -> Bar:
    keys = {"open": "o", "high": "h", "low": "l", "close": "c", "volume": "v", "vwap": "vw", "transactions": "n"}
    day = datetime.fromtimestamp(int(row["t"]) // 1000, UTC).astimezone(ZoneInfo("America/New_York")).date()
    return Bar(row.get("T") or row.get("symbol") or ticker, day, **{name: row[key] for name, key in keys.items()})


def tables(days: Sequence[date], tickers: str) -> tuple[dict[expected.Key, expected.Row], dict[expected.Key, expected.Row]]:
    """The rows of production and cumulative, without the stamps."""
    chosen = settings.load(tickers=tickers)
    request = Request(chosen.tickers, tuple(days))
    with closing(WAREHOUSES[chosen.warehouse].open(chosen, "")) as warehouse:
        production = pipeline.show(warehouse, request).rows.to_pylist()
        cumulative = pipeline.show(warehouse, request, "cumulative").rows.to_pylist()
    return (
        expected.by_key(production, without="insertion_timestamp"),
        expected.by_key(cumulative, without="updated_at"),
    )


def test_made_up_bars_are_those_that_the_script_writes() -> None:
    paths = [path for path in made_market.FOLDER.rglob("*") if path.is_file()]
    stored = {path.relative_to(made_market.FOLDER).as_posix(): path.read_text("utf-8") for path in paths}
    assert stored == made_market.files()


def test_backfill_of_25_sessions_equals_the_recomputation(market: Path, polygon: PolygonServer, maang: Maang) -> None:
    bars = expected.market_bars(market)
    days = expected.serve(polygon, bars)
    assert (len(bars), days) == (125, list(expected.run_of(expected.MARKET_SPAN[0], 25)))
    done = batches.run(days, 100, accept=[UNLISTED], tickers=TICKERS)
    assert (len(done.published), done.calls, len(done.plan.batches)) == (25, 6, 2)
    backfilled = tables(days, TICKERS)
    assert backfilled == (expected.production(bars), expected.cumulative(bars))

    day = made_market.SPLIT
    shown = maang("show", "--date", str(day), "--table", "cumulative", "--tickers", "NFLX", "--json")
    [row] = shown.result["rows"]
    closes = [Decimal(text) for text in row["last_7_days_close"]]
    assert closes == backfilled[1]["NFLX", day]["last_7_days_close"]
    assert closes[-2] > 9 * closes[-1]


def test_25_single_days_equal_the_recomputation(polygon: PolygonServer, maang: Maang) -> None:
    bars = expected.market_bars(made_market.FOLDER)
    days = expected.serve(polygon, bars)
    assert len(days) == 25
    for day in days:
        accept = ("--accept", UNLISTED) if day == made_market.SPLIT else ()
        outcome = maang("run-day", "--date", str(day), "--tickers", TICKERS, *accept)
        assert outcome.code == 0, outcome.err
    assert tables(days, TICKERS) == (expected.production(bars), expected.cumulative(bars))


@pytest.mark.parametrize(
    ("name", "tickers"),
    [
        ("aggs_day_2025-10-14_AAPL_GOOGL_MSFT_AMZN_TSLA", "AAPL,GOOGL,MSFT,AMZN,TSLA"),
        ("aggs_AAPL_1day_2005-04-01_2005-04-04", "AAPL"),
        ("issue846_META_ticker_reuse_bars", "META=META:2021-06-30"),
        ("prev_AAPL_2022-04-26", "AAPL"),
        ("grouped_mock", "GIK"),
    ],
)
def test_recorded_bars_equal_the_recomputation(
    name: str, tickers: str, market: Path, polygon: PolygonServer, maang: Maang
) -> None:
    bars = recorded_bars(market / "recorded" / f"{name}.json", tickers.partition("=")[0])
    days = expected.serve(polygon, bars)
    for day in days:
        outcome = maang("run-day", "--date", str(day), "--tickers", tickers)
        assert outcome.code == 0, outcome.err
    assert tables(days, tickers) == (expected.production(bars), expected.cumulative(bars))


def test_recorded_answer_with_adjusted_bars_is_refused(market: Path, polygon: PolygonServer, maang: Maang) -> None:
    polygon.bodies[date(2020, 10, 14)] = (market / "recorded" / "grouped_mock.json").read_bytes()
    outcome = maang("run-day", "--date", "2020-10-14", "--tickers", "GIK")
    assert outcome.code == 4
    assert "adjusted True instead of bars as traded" in outcome.err
