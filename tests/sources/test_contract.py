"""What every source promises (`maang_cli/sources/base.py`), kept by each of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from datetime import date
from decimal import Decimal
from typing import Any

import pytest

from maang_cli import settings
from maang_cli.sources import SOURCES
from maang_cli.sources.base import Source
from maang_cli.tables import STAGED_COLUMNS, arrow_schema
from tests.polygon_server import PolygonServer, row

TICKERS = ("META", "BRK.A", "BACpA")
OTHERS = ("BRK.B", "BACPA", "meta", "ZZZ")
SESSIONS = (date(2025, 10, 10), date(2025, 10, 13), date(2025, 10, 14))

Opened = Callable[[], Source]


def serve(polygon: PolygonServer) -> None:
    """A market in which each ticker has a price of its own, odd digits included."""
    polygon.days = {
        day: [
            row(ticker, day, o=10.015 + n, c=10.5 + n, h=271.405 + n, l=9.005 + n, v=1000.5 + n, vw=10.2 + n)
            for n, ticker in enumerate((*OTHERS, *TICKERS))
        ]
        for day in SESSIONS
    }


@pytest.fixture(params=sorted(SOURCES))
def opened(request: pytest.FixtureRequest) -> Iterator[Opened]:
    """Opens the source, as often as it is called."""
    if request.param == "polygon":
        serve(request.getfixturevalue("polygon"))
    with ExitStack() as stack:
        yield lambda: stack.enter_context(closing(SOURCES[request.param](settings.load(source=request.param))))


def in_order(table: Any) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = table.to_pylist()
    return sorted(rows, key=lambda bar: (bar["date"], bar["ticker"]))


def keys(table: Any) -> list[tuple[date, str]]:
    return [(bar["date"], bar["ticker"]) for bar in in_order(table)]


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_a_source_is_listed_under_its_own_name(name: str, polygon: PolygonServer) -> None:
    with closing(SOURCES[name](settings.load(source=name))) as source:
        assert source.name == name
        assert source.made_up is (name == "sample")


def test_every_source_on_the_settings_list_has_a_loader() -> None:
    assert sorted(SOURCES) == sorted(settings.SOURCES)


def test_bars_come_in_exactly_the_columns_of_staging(opened: Opened) -> None:
    assert opened().bars(TICKERS, SESSIONS).schema.equals(arrow_schema(STAGED_COLUMNS), check_metadata=True)


def test_no_bars_come_in_the_same_columns(opened: Opened) -> None:
    assert opened().bars((), SESSIONS[:1]).schema.equals(arrow_schema(STAGED_COLUMNS), check_metadata=True)


@pytest.mark.parametrize("sessions", [SESSIONS[:1], SESSIONS], ids=["one session", "several sessions"])
@pytest.mark.parametrize("tickers", [TICKERS[:1], TICKERS], ids=["one ticker", "several tickers"])
def test_there_is_one_bar_for_each_ticker_on_each_session_and_none_of_others(
    opened: Opened, tickers: tuple[str, ...], sessions: tuple[date, ...]
) -> None:
    assert keys(opened().bars(tickers, sessions)) == sorted((day, ticker) for day in sessions for ticker in tickers)


def test_bars_are_plausible_and_rounded(opened: Opened) -> None:
    for bar in opened().bars(TICKERS, SESSIONS).to_pylist():
        assert 0 < bar["low"] <= min(bar["open"], bar["close"]) <= max(bar["open"], bar["close"]) <= bar["high"], bar
        assert bar["volume"] > 0, bar
        assert bar["low"] <= bar["vwap"] <= bar["high"], bar
        assert all(type(bar[name]) is Decimal for name in ("open", "volume", "transactions")), bar


def test_the_same_question_gets_the_same_answer(opened: Opened) -> None:
    source, another = opened(), opened()
    first = in_order(source.bars(TICKERS, SESSIONS))
    assert in_order(source.bars(TICKERS, SESSIONS)) == first
    assert in_order(another.bars(TICKERS[::-1], SESSIONS[::-1])) == first


def test_a_bar_does_not_depend_on_what_is_asked_beside_it(opened: Opened) -> None:
    source = opened()
    alone = in_order(source.bars(TICKERS[1:2], SESSIONS[1:2]))
    among = [bar for bar in in_order(source.bars(TICKERS, SESSIONS)) if (bar["ticker"], bar["date"]) == (TICKERS[1], SESSIONS[1])]
    assert alone == among


def test_close_is_harmless_before_use_after_use_and_twice(opened: Opened) -> None:
    unused, used = opened(), opened()
    unused.close()
    used.bars(TICKERS, SESSIONS[:1])
    used.close()
    used.close()
