"""What the tables lack: bars, windows, and sessions that are staged but not published."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import date
from decimal import Decimal

import pytest

from maang_cli import missing, pipeline, sessions
from maang_cli.checks import AllowMissing
from maang_cli.missing import MissingBars
from maang_cli.request import Request
from maang_cli.tables import STAGING_COLUMNS, Column, Table, staging
from maang_cli.warehouses import WAREHOUSES
from maang_cli.warehouses.base import Warehouse
from tests import settings
from tests.conftest import Maang
from tests.expected import Bar
from tests.polygon_server import PolygonServer
from tests.test_backfill import DAYS, OURS, RANGE, TICKERS, bar, market_open, status, table
from tests.test_pipeline import staged

__all__ = ["market_open"]

REQUEST = Request(TICKERS, DAYS)


@pytest.fixture
def warehouse(home: object) -> Iterator[Warehouse]:
    """The local warehouse, empty."""
    chosen = settings.load(warehouse="local")
    with closing(WAREHOUSES["local"].open(chosen, "")) as opened:
        yield opened


@pytest.fixture(params=["local", "databricks"])
def anywhere(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The warehouse that the settings name; each in turn."""
    if request.param == "databricks":
        request.getfixturevalue("databricks")
    monkeypatch.setenv("MAANG_WAREHOUSE", request.param)
    name: str = request.param
    return name


def price(ticker: str, day: date, close: str = "10.50") -> Bar:
    return Bar(ticker, day, open="10", high="11", low="9", close=close, volume="1000")


def publish(warehouse: Warehouse, *bars: Bar) -> None:
    """Publish these bars and refresh their windows; their staging stays."""
    request = Request(tuple(sorted({bar.ticker for bar in bars})), tuple(sorted({bar.date for bar in bars})))
    pipeline.init_tables(warehouse, request)
    warehouse.stage(request.staging, staged(*bars))
    pipeline.promote(warehouse, request)
    pipeline.cumulate(warehouse, request)


# bars


def test_every_bar_is_missing_without_a_production_table(warehouse: Warehouse) -> None:
    expected = MissingBars(dict.fromkeys(DAYS, frozenset(TICKERS)), {})
    assert missing.find_missing_bars(warehouse, REQUEST) == expected


def test_missing_bars_are_found_by_session_in_order(warehouse: Warehouse) -> None:
    publish(warehouse, *(price(ticker, DAYS[1]) for ticker in TICKERS))
    publish(warehouse, price("META", DAYS[2]), price("OTHER", DAYS[2]))
    publish(warehouse, price("OTHER", DAYS[3]))
    found = missing.find_missing_bars(warehouse, Request(TICKERS, DAYS[:4]))
    assert list(found.missing.items()) == [
        (DAYS[0], frozenset(TICKERS)),
        (DAYS[2], frozenset({"AAPL", "AMZN"})),
        (DAYS[3], frozenset(TICKERS)),
    ]
    assert found.allowed == {}


def test_every_bar_counts_as_missing_with_refetch(warehouse: Warehouse) -> None:
    publish(warehouse, *(price(ticker, DAYS[0]) for ticker in TICKERS))
    allowed = Request(TICKERS, DAYS[:2], AllowMissing(percent=Decimal(100)))
    found = missing.find_missing_bars(warehouse, allowed, refetch=True)
    assert found == MissingBars(dict.fromkeys(DAYS[:2], frozenset(TICKERS)), {})


def test_allowed_bars_are_listed_apart_from_missing_ones(warehouse: Warehouse) -> None:
    publish(warehouse, price("META", DAYS[0]), price("AAPL", DAYS[0]))
    publish(warehouse, price("AMZN", DAYS[1]))
    found = missing.find_missing_bars(warehouse, Request(TICKERS, DAYS[:2], AllowMissing(frozenset({"AMZN"}))))
    assert found == MissingBars({DAYS[1]: frozenset({"AAPL", "META"})}, {DAYS[0]: frozenset({"AMZN"})})


@pytest.mark.parametrize("rows", [1, 3, 4, 1000])
def test_number_of_compared_rows_does_not_change_the_result(rows: int, warehouse: Warehouse) -> None:
    publish(warehouse, *(price("META", day) for day in DAYS[:5]))
    found = missing.find_missing_bars(warehouse, Request(TICKERS, DAYS[:5]), compared_rows=rows)
    assert found.missing == dict.fromkeys(DAYS[:5], frozenset({"AAPL", "AMZN"}))
    assert missing.find_stale_windows(warehouse, Request(TICKERS, DAYS[:5]), rows) == {}


@pytest.mark.parametrize(
    ("allow", "lacking", "allowed"),
    [
        (AllowMissing(), 1, False),
        (AllowMissing(frozenset("AB")), 2, True),
        (AllowMissing(frozenset("AB")), 3, False),
        (AllowMissing(percent=Decimal(20)), 2, True),
        (AllowMissing(percent=Decimal(20)), 3, False),
    ],
)
def test_allowed_means_the_same_as_in_the_gate(allow: AllowMissing, lacking: int, allowed: bool, warehouse: Warehouse) -> None:
    request = Request(tuple("ABCDEFGHIJ"), (DAYS[0],), allow)
    assert missing.is_allowed(request, DAYS[0], frozenset("ABCDEFGHIJ"[:lacking])) is allowed
    warehouse.stage(request.staging, staged(*(price(ticker, DAYS[0]) for ticker in "ABCDEFGHIJ"[lacking:])))
    assert pipeline.check(warehouse, request).passed is allowed


def test_missing_means_the_same_to_plan_gate_and_status(anywhere: str, maang: Maang, market_open: PolygonServer) -> None:
    for day in DAYS[:6]:
        market_open.days[day] = [line for line in market_open.days[day] if line["T"] != "AMZN"]
    strict = maang("backfill", *RANGE, *OURS, "--json")
    assert (strict.code, [each["session"] for each in strict.result["refused"]]) == (5, [str(day) for day in DAYS[:6]])
    lenient = maang("backfill", *RANGE, *OURS, "--allow-missing", "AMZN", "--json")
    assert (lenient.code, lenient.result["allowed"]) == (0, {"AMZN": 6})
    without = [{"session": str(day), "tickers": ["AMZN"]} for day in DAYS[:6]]
    found = status(maang)
    assert (found["complete"], found["allowed"], found["missing"]) == (False, [], without)
    found = status(maang, "--allow-missing", "34%")
    assert (found["complete"], found["allowed"], found["missing"]) == (True, without, [])
    assert maang("plan", *RANGE, *OURS, "--allow-missing", "AMZN").out.startswith("nothing to do")


# windows


def test_stale_and_missing_windows_are_repaired_without_a_call(anywhere: str, maang: Maang, market_open: PolygonServer) -> None:
    maang("backfill", *RANGE, *OURS)
    before = table(maang, "cumulative")
    market_open.days[DAYS[2]][0] = bar("META", DAYS[2], v=123_456)
    for step in ("ingest", "promote", "drop-staging"):
        assert maang(step, "--date", str(DAYS[2]), *OURS).code == 0
    found = maang("status", *RANGE, *OURS, "--json")
    assert found.code == 5
    assert found.result["windows"] == [{"session": str(day), "missing": 0, "stale": 1} for day in DAYS[2:9]]
    market_open.requests.clear()
    assert maang("backfill", *RANGE, *OURS).code == 0
    assert (market_open.requests, status(maang)["complete"]) == ([], True)
    assert table(maang, "cumulative") != before


def test_windows_of_sessions_that_were_published_but_not_cumulated_are_missing(warehouse: Warehouse) -> None:
    publish(warehouse, *(price(ticker, day) for ticker in TICKERS for day in DAYS[:2]))
    request = Request(TICKERS, DAYS[1:3])
    warehouse.stage(request.staging, staged(*(price(ticker, day, "10.75") for ticker in TICKERS for day in DAYS[1:3])))
    pipeline.promote(warehouse, request)
    found = missing.find_stale_windows(warehouse, Request(TICKERS, DAYS[:1]))
    assert found == {DAYS[1]: missing.StaleWindows(0, 3), DAYS[2]: missing.StaleWindows(3, 0)}


def test_windows_are_not_compared_without_tables(warehouse: Warehouse) -> None:
    assert missing.find_stale_windows(warehouse, REQUEST) == {}


# staging


def test_staging_tables_are_found_by_name(warehouse: Warehouse) -> None:
    publish(warehouse, price("META", DAYS[0]))
    other = staging(TICKERS, DAYS)
    warehouse.create(other)
    assert missing.staging_tables(warehouse) == sorted([staging(["META"], DAYS[:1]), other], key=lambda table: table.name)


def test_session_is_unpublished_if_production_has_other_values_or_none(warehouse: Warehouse) -> None:
    days = DAYS[:3]
    publish(warehouse, *(price("META", day) for day in days[:2]))
    table = staging(["META"], days)
    warehouse.stage(table, staged(price("META", days[0]), price("META", days[1], "10.51"), price("META", days[2])))
    assert sorted(missing.unpublished_sessions(warehouse, table)) == [days[1], days[2]]
    assert missing.unpublished_sessions(warehouse, staging(["META"], days[:2])) == []


def test_sessions_of_a_staging_table_that_can_not_be_read_are_those_in_its_name(warehouse: Warehouse) -> None:
    pipeline.init_tables(warehouse, Request(TICKERS, ()))
    vanished = staging(TICKERS, DAYS)
    assert missing.unpublished_sessions(warehouse, vanished) == [DAYS[0], DAYS[-1]]
    foreign = staging(TICKERS, DAYS[:3])
    warehouse.create(Table(foreign.name, (Column("date", "DATE", "a date"),)))
    assert missing.staging_tables(warehouse) == [Table(foreign.name, STAGING_COLUMNS)]
    assert missing.unpublished_sessions(warehouse, foreign) == [DAYS[0], DAYS[2]]


# pieces of sessions


@pytest.mark.parametrize(
    ("rows", "sizes"), [(1, [1] * 14), (3, [1] * 14), (6, [2] * 7), (11, [3, 3, 3, 3, 2]), (42, [14]), (1000, [14])]
)
def test_chunk_has_about_the_requested_number_of_rows(rows: int, sizes: list[int]) -> None:
    found = missing.chunks(DAYS, REQUEST, rows)
    assert [len(chunk) for chunk in found] == sizes
    assert tuple(day for chunk in found for day in chunk) == DAYS


@pytest.mark.parametrize(
    ("days", "expected"),
    [
        ([], ""),
        ([date(2025, 10, 14)], "2025-10-14"),
        ([date(2025, 10, 13), date(2025, 10, 10)], "2025-10-10 to 2025-10-13"),
        (
            [date(2025, 11, 26), date(2025, 11, 28), date(2025, 12, 2), date(2025, 12, 4), date(2025, 12, 3)],
            "2025-11-26 to 2025-11-28, 2025-12-02 to 2025-12-04",
        ),
    ],
    ids=["no session", "one session", "over a weekend", "over a holiday, and a gap"],
)
def test_consecutive_sessions_are_one_span(days: list[date], expected: str) -> None:
    assert all(map(sessions.is_session, days))
    assert missing.spans(days) == expected
