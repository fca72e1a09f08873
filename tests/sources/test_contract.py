"""The promises of `maang_cli/sources/base.py`, for each source."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from datetime import date
from decimal import Decimal
from typing import Any

import pytest

from maang_cli.schemas import arrow_schema
from maang_cli.sources import SOURCES
from maang_cli.sources.base import Source
from maang_cli.tables import FETCHED_COLUMNS
from tests import settings
from tests.polygon_server import PolygonServer, row

TICKERS = ("META", "BRK.A", "BACpA")
OTHERS = ("BRK.B", "BACPA", "meta", "ZZZ")
SESSIONS = (date(2025, 10, 10), date(2025, 10, 13), date(2025, 10, 14))

Opened = Callable[[], Source]


def serve(polygon: PolygonServer) -> None:
    """A market in which each ticker has its own prices, some with three digits after the point."""
    polygon.days = {
        day: [
            row(ticker, day, o=10.015 + n, c=10.5 + n, h=271.405 + n, l=9.005 + n, v=1000.5 + n, vw=10.2 + n)
            for n, ticker in enumerate((*OTHERS, *TICKERS))
        ]
        for day in SESSIONS
    }


@pytest.fixture(params=sorted(SOURCES))
def opened(request: pytest.FixtureRequest) -> Iterator[Opened]:
    """Opens the source each time it is called."""
    if request.param == "polygon":
        serve(request.getfixturevalue("polygon"))
    with ExitStack() as stack:
        yield lambda: stack.enter_context(closing(SOURCES[request.param].open(settings.load(source=request.param))))


def in_order(table: Any) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = table.to_pylist()
    return sorted(rows, key=lambda bar: (bar["date"], bar["ticker"]))


def keys(table: Any) -> list[tuple[date, str]]:
    return [(bar["date"], bar["ticker"]) for bar in in_order(table)]


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_source_has_the_name_in_the_list(name: str, polygon: PolygonServer) -> None:
    with closing(SOURCES[name].open(settings.load(source=name))) as source:
        assert source.name == name
        assert source.made_up is SOURCES[name].made_up is (name == "sample")


def test_bars_have_exactly_stagings_columns(opened: Opened) -> None:
    assert opened().bars(TICKERS, SESSIONS).schema.equals(arrow_schema(FETCHED_COLUMNS), check_metadata=True)


def test_no_bars_have_the_same_columns(opened: Opened) -> None:
    assert opened().bars((), SESSIONS[:1]).schema.equals(arrow_schema(FETCHED_COLUMNS), check_metadata=True)


@pytest.mark.parametrize("sessions", [SESSIONS[:1], SESSIONS], ids=["one session", "several sessions"])
@pytest.mark.parametrize("tickers", [TICKERS[:1], TICKERS], ids=["one ticker", "several tickers"])
def test_each_ticker_has_one_bar_on_each_session_and_no_other_bars_are_returned(
    opened: Opened, tickers: tuple[str, ...], sessions: tuple[date, ...]
) -> None:
    assert keys(opened().bars(tickers, sessions)) == sorted((day, ticker) for day in sessions for ticker in tickers)


def test_bars_are_plausible_and_rounded(opened: Opened) -> None:
    for bar in opened().bars(TICKERS, SESSIONS).to_pylist():
        assert 0 < bar["low"] <= min(bar["open"], bar["close"]) <= max(bar["open"], bar["close"]) <= bar["high"], bar
        assert bar["volume"] > 0, bar
        assert bar["low"] <= bar["vwap"] <= bar["high"], bar
        assert all(type(bar[name]) is Decimal for name in ("open", "volume", "transactions")), bar


def test_same_request_returns_the_same_bars(opened: Opened) -> None:
    source, another = opened(), opened()
    first = in_order(source.bars(TICKERS, SESSIONS))
    assert in_order(source.bars(TICKERS, SESSIONS)) == first
    assert in_order(another.bars(TICKERS[::-1], SESSIONS[::-1])) == first


def test_bar_does_not_depend_on_the_rest_of_the_request(opened: Opened) -> None:
    source = opened()
    alone = in_order(source.bars(TICKERS[1:2], SESSIONS[1:2]))
    together = in_order(source.bars(TICKERS, SESSIONS))
    assert alone == [bar for bar in together if (bar["ticker"], bar["date"]) == (TICKERS[1], SESSIONS[1])]


def test_fetch_returns_the_missing_bars_batch_by_batch(opened: Opened) -> None:
    source = opened()
    missing = dict(zip(SESSIONS, (frozenset(TICKERS), frozenset(TICKERS[:1]), frozenset(TICKERS)), strict=True))
    ticks: list[int] = []
    batches = list(source.fetch(missing, [SESSIONS[:1], SESSIONS[1:]], lambda: ticks.append(source.calls)))
    assert [keys(batch.rows) for batch in batches] == [
        sorted((day, ticker) for day in days for ticker in missing[day]) for days in (SESSIONS[:1], SESSIONS[1:])
    ]
    assert [batch.failed for batch in batches] == [{}, {}]
    assert all(batch.rows.schema.equals(arrow_schema(FETCHED_COLUMNS), check_metadata=True) for batch in batches)
    assert ticks


def test_plan_makes_no_call_and_counts_the_calls_that_fetch_makes(opened: Opened) -> None:
    source = opened()
    missing = dict.fromkeys(SESSIONS, frozenset(TICKERS))
    plan = source.plan(missing)
    assert source.calls == 0
    list(source.fetch(missing, [SESSIONS]))
    assert source.calls == plan.number
    assert plan.cached == 0


def test_close_works_before_use_after_use_and_twice(opened: Opened) -> None:
    unused, used = opened(), opened()
    unused.close()
    used.bars(TICKERS, SESSIONS[:1])
    used.close()
    used.close()
