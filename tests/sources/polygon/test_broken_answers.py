"""Broken answers from the command line: exit codes, warnings, and what is published all the same."""

from __future__ import annotations

import gzip
from datetime import date
from typing import Any

import pytest

from maang_cli import sessions
from tests.conftest import Maang
from tests.polygon_server import Answer, PolygonServer, grouped, row, session_start

DAYS = sessions.between(date(2025, 10, 1), date(2025, 10, 14))
RANGE = ("--from", str(DAYS[0]), "--to", str(DAYS[-1]), "--tickers", "META,AAPL")
ON_DAY = ("--date", str(DAYS[-1]), "--tickers", "META,AAPL")
ALLOWED = ("--allow-missing", "META")


@pytest.fixture
def polygon(polygon: PolygonServer) -> PolygonServer:
    """Bars of META and AAPL on ten sessions."""
    polygon.days = {day: [row("META", day), row("AAPL", day)] for day in DAYS}
    return polygon


def stored(maang: Maang, ticker: str) -> list[str]:
    """The sessions of this ticker in production."""
    found = maang("show", "--json", *RANGE)
    return sorted({bar["date"] for bar in found.result["rows"] if bar["ticker"] == ticker})


def break_range(polygon: PolygonServer, body: bytes) -> None:
    """META's range call gets this answer."""
    polygon.always = lambda path: Answer(body=body) if "/ticker/META/" in path else None


OTHER_TICKER = grouped([{"o": 1, "t": session_start(day)} for day in DAYS], ticker="AAPL")


def test_broken_range_is_missing_and_refused(polygon: PolygonServer, maang: Maang) -> None:
    break_range(polygon, OTHER_TICKER)
    done = maang("backfill", *RANGE)
    assert done.code == 3
    assert "META from 2025-10-01 to 2025-10-14 with the ticker 'AAPL': META is missing there" in done.err
    assert "10 of 10 sessions are not done" in done.err


def test_broken_range_does_not_stop_the_other_tickers(polygon: PolygonServer, maang: Maang) -> None:
    break_range(polygon, OTHER_TICKER)
    done = maang("backfill", *RANGE, *ALLOWED)
    assert done.code == 0
    assert "META is missing there" in done.err
    assert stored(maang, "AAPL") == [str(day) for day in DAYS]
    assert stored(maang, "META") == []


def test_broken_range_is_fetched_again_by_the_next_run(polygon: PolygonServer, maang: Maang) -> None:
    break_range(polygon, OTHER_TICKER)
    assert maang("backfill", *RANGE).code == 3
    polygon.always = lambda path: None
    assert maang("backfill", *RANGE).code == 0
    assert stored(maang, "META") == [str(day) for day in DAYS]


def test_wrong_value_in_a_range_costs_one_session(polygon: PolygonServer, maang: Maang) -> None:
    polygon.days[DAYS[3]][0] |= {"c": "10.5"}
    done = maang("backfill", *RANGE)
    assert done.code == 5
    assert f"META's c as '10.5', which is not a number: META is missing on {DAYS[3]}" in done.err
    assert stored(maang, "META") == [str(day) for day in DAYS if day != DAYS[3]]


def test_wrong_value_in_a_day_is_missing_and_refused(polygon: PolygonServer, maang: Maang) -> None:
    polygon.days[DAYS[-1]][0] |= {"c": "10.5"}
    done = maang("run-day", *ON_DAY)
    assert done.code == 3
    assert "META's c as '10.5', which is not a number: META is missing there" in done.err
    assert "missing_stocks" in done.err


def test_wrong_value_of_an_allowed_ticker_does_not_stop_the_day(polygon: PolygonServer, maang: Maang) -> None:
    polygon.days[DAYS[-1]][0] |= {"c": "10.5"}
    done = maang("run-day", "--json", *ON_DAY, *ALLOWED)
    assert done.code == 0
    assert "META's c as '10.5'" in done.err
    assert [bar["ticker"] for bar in done.result["promote"]["allowed"]] == ["META"]


BROKEN_DAYS: dict[str, Any] = {
    "count": (Answer(body=grouped([row("META", DAYS[-1])], resultsCount=2)), 4),
    "adjusted": (Answer(body=grouped([row("META", DAYS[-1])], adjusted=None)), 4),
    "next page": (Answer(body=grouped([row("META", DAYS[-1])], next_url="http://[bad")), 4),
    "brackets": (Answer(body=b"[" * 200_000), 4),
    "403 with brackets": (Answer(403, b"[" * 200_000), 2),
    "500 with brackets": (Answer(500, b"[" * 200_000 + b"]" * 200_000), 4),
    "bomb": (Answer(body=gzip.compress(b"[" * (17 << 20)), headers={"Content-Encoding": "gzip"}), 4),
    "no bars": (Answer(body=grouped([])), 4),
}


@pytest.mark.parametrize(("answer", "code"), BROKEN_DAYS.values(), ids=BROKEN_DAYS.keys())
def test_broken_day_is_an_error_with_a_hint(polygon: PolygonServer, maang: Maang, answer: Answer, code: int) -> None:
    polygon.always = lambda path: answer
    done = maang("run-day", *ON_DAY)
    assert done.code == code
    message, hint = done.err.splitlines()[-2:]
    assert message.startswith("error: ")
    assert hint.startswith("hint: ")
    assert "Traceback" not in done.err
    assert stored(maang, "META") == []
