"""Recorded answers that went wrong, if they are beside the project: each ends as it should, and production stays right.

The same faults in made-up bars are in test_plausibility.py, tests/sources and tests/cli, which run everywhere.
"""

from __future__ import annotations

import csv
import json
from datetime import date
from pathlib import Path

import pytest

from tests import expected
from tests.conftest import Maang, real_market
from tests.polygon_server import Answer, PolygonServer

pytestmark = real_market
MONDAY, DAY = date(2025, 10, 13), date(2025, 10, 14)


def serve(polygon: PolygonServer, path: Path) -> None:
    """The server answers with the file: one answer for every call, or answers by date or ticker."""
    raw = path.read_bytes()
    try:
        case = json.loads(raw)
    except ValueError:
        case = None
    by_part = isinstance(case, dict) and all(len(key) == 10 or key.startswith("ticker:") for key in case)

    def answer(wanted: str) -> Answer | None:
        if "/splits" in wanted:
            return None
        if not by_part:
            return Answer(200, raw)
        found = next((case[key] for key in case if key in wanted or f"/{key.removeprefix('ticker:')}/" in wanted), None)
        return None if found is None else Answer(200, json.dumps(found).encode())

    polygon.always = answer


@pytest.mark.parametrize(
    ("name", "failing"),
    [
        ("low_spike", {"spike": ["AAPL"]}),
        ("stale_whole_market_after_previous", {"repeat": ["AAPL", "AMZN", "GOOGL", "META", "NFLX"]}),
        ("x100_after_previous", {"jump": ["AAPL"]}),
    ],
)
def test_second_day_is_refused(
    name: str, failing: dict[str, list[str]], market: Path, polygon: PolygonServer, maang: Maang
) -> None:
    serve(polygon, market / "cases" / f"{name}.json")
    assert maang("run-day", "--date", str(MONDAY)).code == 0
    before = maang("show", "--date", str(MONDAY), "--json").result["rows"]
    done = maang("run-day", "--date", str(DAY), "--json")
    assert done.code == 3
    found = {check["name"]: [row["ticker"] for row in check["rows"]] for check in done.result["checks"] if check["refused"]}
    assert found == failing
    assert maang("show", "--date", str(MONDAY), "--date", str(DAY), "--json").result["rows"] == before


def test_bar_of_a_halted_stock_is_held_if_it_may_be_missing(market: Path, polygon: PolygonServer, maang: Maang) -> None:
    serve(polygon, market / "cases" / "halted_zero_volume.json")
    refused = maang("run-day", "--date", str(DAY))
    assert refused.code == 3
    assert "--allow-missing GOOGL" in refused.err
    held = maang("run-day", "--date", str(DAY), "--allow-missing", "20%")
    assert held.code == 0
    assert "held, allowed by --allow-missing: GOOGL (volume)" in held.out
    rows = maang("show", "--date", str(DAY), "--json").result["rows"]
    assert [row["ticker"] for row in rows] == ["AAPL", "AMZN", "META", "NFLX"]


def test_vwap_far_outside_the_prices_is_a_warning(market: Path, polygon: PolygonServer, maang: Maang) -> None:
    serve(polygon, market / "cases" / "vwap_200x.json")
    done = maang("run-day", "--date", str(DAY))
    assert done.code == 0
    assert "unusual: META (vwap_range)" in done.out


def test_price_that_is_a_text_with_a_newline_before_it_costs_one_ticker(
    market: Path, polygon: PolygonServer, maang: Maang
) -> None:
    serve(polygon, market / "cases" / "string_price_newline.json")
    done = maang("run-day", "--date", str(DAY))
    assert done.code == 3
    assert "missing_stocks failed" in done.out
    assert "META 2025-10-14: no bar" in done.out


@pytest.mark.parametrize(
    ("name", "code", "refused"), [("one_ticker_range_broken", 5, 1), ("range_other_ticker_in_envelope", 3, 10)]
)
def test_wrong_value_costs_a_session_and_a_wrong_range_all_of_them(
    name: str, code: int, refused: int, market: Path, polygon: PolygonServer, maang: Maang
) -> None:
    serve(polygon, market / "cases" / f"{name}.json")
    done = maang("backfill", "--from", "2025-10-01", "--to", str(DAY), "--tickers", "AAPL,META", "--json")
    assert done.code == code
    assert len(done.result["refused"]) == refused
    assert {check for each in done.result["refused"] for check in each["checks"]} == {"missing_stocks"}
    rows = maang("show", "--from", "2025-10-01", "--to", str(DAY), "--tickers", "AAPL,META", "--json").result["rows"]
    assert len(rows) == 2 * (10 - refused)


def test_nothing_of_half_a_year_is_refused_or_unusual_once_the_split_is_known(
    market: Path, polygon: PolygonServer, maang: Maang
) -> None:
    with (market / expected.MARKET_CSV).open(newline="") as file:
        bars = [expected.Bar(date=date.fromisoformat(row.pop("date")), **row) for row in csv.DictReader(file)]
    days = expected.serve(polygon, bars)
    polygon.splits = [{"ticker": "NFLX", "execution_date": "2025-11-17", "split_from": 1, "split_to": 10}]
    done = maang("backfill", "--from", str(days[0]), "--to", str(days[-1]))
    assert done.code == 0, done.err
    assert len(days) > 100
    assert maang("show", "--table", "findings", "--json").result["rows"] == []
