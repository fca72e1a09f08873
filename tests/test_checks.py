"""The gate's checks on staged rows that pass and rows that fail, at every bound: on DuckDB, through the local warehouse."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import date
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from maang_cli import checks, pipeline
from maang_cli.checks import ALLOW_NONE, AllowMissing, Audit, FailingRow, Outcome
from maang_cli.request import Request
from maang_cli.schemas import arrow_schema
from maang_cli.tables import STAGING_COLUMNS
from maang_cli.warehouses.local.retention import Retention
from maang_cli.warehouses.local.warehouse import LocalWarehouse

DAY, NEXT = date(2025, 10, 14), date(2025, 10, 15)
CENT = Decimal("0.01")
OVER_PRICE = Decimal("100000000.00")
SPECIFIED = ["missing_stocks", "null_prices", "price_ranges", "volume", "date_mismatch", "ticker_format"]
OF_ONE_SESSION = [*SPECIFIED, "duplicates"]
PLAUSIBILITY = ["jump", "spike", "repeat", "twins", "thin_session", "volume_low", "volume_high", "vwap_range"]


@pytest.fixture(scope="module")
def warehouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalWarehouse]:
    """One for the whole file, because each test stages rows of its own."""
    with closing(LocalWarehouse(Path(tmp_path_factory.mktemp("home")), "maang", Retention(5))) as opened:
        yield opened


def row(ticker: str | None = "A", day: date | None = DAY, **changes: Decimal | int | None) -> dict[str, Any]:
    """A staged row that passes every check, with these changes."""
    prices = {"open": Decimal("10.10"), "high": Decimal("10.90"), "low": Decimal("9.80"), "close": Decimal("10.50")}
    usual: dict[str, object] = {
        "ticker": ticker,
        "date": day,
        **prices,
        "vwap": Decimal("10.30"),
        "volume": 1000,
        "transactions": 42,
    }
    return {name: Decimal(value) if isinstance(value, int) else value for name, value in (usual | changes).items()}


def audit(
    warehouse: LocalWarehouse,
    rows: Sequence[dict[str, Any]],
    tickers: tuple[str, ...] = ("A",),
    days: tuple[date, ...] = (DAY,),
    allow: AllowMissing = ALLOW_NONE,
) -> Audit:
    """What the gate finds in these rows. A row of another day, or without a date, is staged for the first of the days."""
    request = Request(tickers, days, allow)
    staged = [{"session": row["date"] if row["date"] in days else days[0]} | row for row in rows]
    warehouse.stage(request.staging, pa.Table.from_pylist(staged, schema=arrow_schema(STAGING_COLUMNS)))
    return pipeline.check(warehouse, request)


def failed(found: Audit) -> dict[str, int]:
    """Failing rows by check."""
    return {result.check.name: result.failing for result in found.failed}


def shown(found: Audit, check: str) -> list[tuple[str | None, date | None, str]]:
    [result] = [result for result in found.results if result.check.name == check]
    return [(row.ticker, row.date, row.found) for row in result.rows]


def flat(price: Decimal) -> dict[str, Decimal | int | None]:
    return dict.fromkeys(("open", "high", "low", "close"), price)


PASSING = {
    "usual": {},
    "open and close on the low": {"open": Decimal("9.80"), "close": Decimal("9.80")},
    "open and close on the high": {"open": Decimal("10.90"), "close": Decimal("10.90")},
    "one price all day": flat(Decimal("10.00")),
    "the lowest price": flat(CENT) | {"vwap": CENT},
    "the highest price": flat(checks.MAX_PRICE) | {"vwap": checks.MAX_PRICE},
    "no vwap": {"vwap": None},
    "vwap a little beyond high": {"vwap": Decimal("11.00")},
    "one share": {"volume": 1},
    "the largest volume": {"volume": checks.MAX_VOLUME},
    "no transactions": {"transactions": None},
    "zero transactions": {"transactions": 0},
    "the most transactions": {"transactions": checks.MAX_TRANSACTIONS},
}

FAILING: dict[str, tuple[dict[str, Any], dict[str, int], str]] = {
    **{f"{name} missing": ({name: None}, {"null_prices": 1}, f"{name} missing") for name in ("open", "high", "low", "close")},
    "all prices missing": (
        flat(CENT) | dict.fromkeys(("open", "high", "low", "close")),
        {"null_prices": 1},
        "open high low close missing",
    ),
    "high below low": (
        flat(Decimal("10.00")) | {"high": Decimal("9.99")},
        {"price_ranges": 1},
        "open 10.00, high 9.99, low 10.00, close 10.00, vwap 10.30",
    ),
    "open a cent below low": (
        {"open": Decimal("9.79")},
        {"price_ranges": 1},
        "open 9.79, high 10.90, low 9.80, close 10.50, vwap 10.30",
    ),
    "open a cent above high": (
        {"open": Decimal("10.91"), "vwap": None},
        {"price_ranges": 1},
        "open 10.91, high 10.90, low 9.80, close 10.50, vwap NULL",
    ),
    "close a cent below low": (
        {"close": Decimal("9.79")},
        {"price_ranges": 1},
        "open 10.10, high 10.90, low 9.80, close 9.79, vwap 10.30",
    ),
    "close a cent above high": (
        {"close": Decimal("10.91")},
        {"price_ranges": 1},
        "open 10.10, high 10.90, low 9.80, close 10.91, vwap 10.30",
    ),
    "every price zero": (flat(Decimal(0)), {"price_ranges": 1}, "open 0.00, high 0.00, low 0.00, close 0.00, vwap 10.30"),
    "low zero": ({"low": Decimal(0)}, {"price_ranges": 1}, "open 10.10, high 10.90, low 0.00, close 10.50, vwap 10.30"),
    "low negative": ({"low": -CENT}, {"price_ranges": 1}, "open 10.10, high 10.90, low -0.01, close 10.50, vwap 10.30"),
    "vwap zero": ({"vwap": Decimal(0)}, {"price_ranges": 1}, "open 10.10, high 10.90, low 9.80, close 10.50, vwap 0.00"),
    "vwap negative": ({"vwap": -CENT}, {"price_ranges": 1}, "open 10.10, high 10.90, low 9.80, close 10.50, vwap -0.01"),
    "vwap above what a price can be": (
        {"vwap": OVER_PRICE},
        {"price_ranges": 1},
        "open 10.10, high 10.90, low 9.80, close 10.50, vwap 100000000.00",
    ),
    "high above what a price can be": (
        {"high": OVER_PRICE},
        {"price_ranges": 1},
        "open 10.10, high 100000000.00, low 9.80, close 10.50, vwap 10.30",
    ),
    "a price of 36 digits": (
        {"high": Decimal("9" * 36)},
        {"price_ranges": 1},
        f"open 10.10, high {'9' * 36}.00, low 9.80, close 10.50, vwap 10.30",
    ),
    "a price missing and another out of range": (
        {"high": None, "open": Decimal("9.79")},
        {"null_prices": 1, "price_ranges": 1},
        "high missing",
    ),
    "volume missing": ({"volume": None}, {"volume": 1}, "volume NULL, transactions 42"),
    "volume zero": ({"volume": 0}, {"volume": 1}, "volume 0, transactions 42"),
    "volume negative": ({"volume": -1, "transactions": None}, {"volume": 1}, "volume -1, transactions NULL"),
    "volume absurd": ({"volume": checks.MAX_VOLUME + 1}, {"volume": 1}, "volume 1000000000001, transactions 42"),
    "volume of 38 digits": ({"volume": Decimal("9" * 38)}, {"volume": 1}, f"volume {'9' * 38}, transactions 42"),
    "transactions negative": ({"transactions": -1}, {"volume": 1}, "volume 1000, transactions -1"),
    "transactions too many": (
        {"transactions": checks.MAX_TRANSACTIONS + 1},
        {"volume": 1},
        "volume 1000, transactions 2147483648",
    ),
}


def test_gate_has_its_checks_in_order_and_each_states_its_promise() -> None:
    assert [check.name for check in checks.CHECKS] == [*OF_ONE_SESSION, *PLAUSIBILITY]
    assert [check.name for check in checks.CHECKS if check.acceptable] == PLAUSIBILITY
    assert all(len(check.promise) > 10 for check in checks.CHECKS)


def test_bounds_fit_the_columns_of_production() -> None:
    assert Decimal("99999999.99") == checks.MAX_PRICE
    assert checks.MAX_TRANSACTIONS == 2**31 - 1
    assert checks.MAX_VOLUME < 2**63 - 1
    assert len(f"{checks.MAX_VOLUME}.00".replace(".", "")) <= 15


@pytest.mark.parametrize("changes", PASSING.values(), ids=PASSING.keys())
def test_row_that_keeps_every_promise_passes(changes: dict[str, Any], warehouse: LocalWarehouse) -> None:
    found = audit(warehouse, [row(**changes)])
    assert found.passed
    assert failed(found) == {}
    assert [result.check.name for result in found.results] == [*OF_ONE_SESSION, *PLAUSIBILITY]


@pytest.mark.parametrize(("changes", "failing", "found"), FAILING.values(), ids=FAILING.keys())
def test_row_that_breaks_a_promise_fails_only_the_check_that_names_it(
    changes: dict[str, Any], failing: dict[str, int], found: str, warehouse: LocalWarehouse
) -> None:
    report = audit(warehouse, [row(**changes), row("B")], ("A", "B"))
    assert not report.passed
    assert failed(report) == failing
    assert shown(report, next(iter(failing))) == [("A", DAY, found)]


def test_ticker_without_a_row_is_missing(warehouse: LocalWarehouse) -> None:
    found = audit(warehouse, [row("A")], ("A", "B"))
    assert failed(found) == {"missing_stocks": 1}
    assert shown(found, "missing_stocks") == [("B", DAY, "no bar")]


def test_every_ticker_is_missing_if_nothing_is_staged(warehouse: LocalWarehouse) -> None:
    assert failed(audit(warehouse, [], ("A", "B"), (DAY, NEXT))) == {"missing_stocks": 4}


def test_ticker_may_be_missing_on_one_session_only(warehouse: LocalWarehouse) -> None:
    found = audit(warehouse, [row("A", DAY), row("B", DAY), row("B", NEXT)], ("A", "B"), (DAY, NEXT))
    assert shown(found, "missing_stocks") == [("A", NEXT, "no bar")]


@pytest.mark.parametrize(
    ("day", "found"), [(date(2025, 10, 13), "date 2025-10-13"), (NEXT, "date 2025-10-15"), (None, "date NULL")]
)
def test_row_with_a_wrong_date_or_none_is_a_mismatch_and_its_ticker_is_missing(
    day: date | None, found: str, warehouse: LocalWarehouse
) -> None:
    report = audit(warehouse, [row("A", day)])
    assert failed(report) == {"missing_stocks": 1, "date_mismatch": 1}
    assert shown(report, "date_mismatch") == [("A", DAY, found)]


@pytest.mark.parametrize(
    ("ticker", "found"),
    [("B", "not requested"), ("a", "not requested"), ("A ", "not requested"), ("", "not requested"), (None, "no ticker")],
)
def test_row_of_a_ticker_that_was_not_requested_is_reported(ticker: str | None, found: str, warehouse: LocalWarehouse) -> None:
    report = audit(warehouse, [row("A"), row(ticker)])
    assert failed(report) == {"ticker_format": 1}
    assert shown(report, "ticker_format") == [(ticker, DAY, found)]


@pytest.mark.parametrize("copies", [2, 3])
@pytest.mark.parametrize("changes", [{}, {"close": Decimal("10.40")}], ids=["the same values", "other values"])
def test_second_row_of_a_ticker_and_session_is_a_duplicate(
    copies: int, changes: dict[str, Any], warehouse: LocalWarehouse
) -> None:
    found = audit(warehouse, [row("A"), *[row("A", **changes)] * (copies - 1)])
    assert failed(found) == {"duplicates": 1}
    assert shown(found, "duplicates") == [("A", DAY, f"{copies} rows")]


def test_rows_of_two_sessions_are_not_duplicates(warehouse: LocalWarehouse) -> None:
    assert audit(warehouse, [row("A", DAY), row("A", NEXT)], days=(DAY, NEXT)).passed


def test_rows_without_a_ticker_and_date_can_be_duplicates(warehouse: LocalWarehouse) -> None:
    found = audit(warehouse, [row("A"), *[row(None, None)] * 2])
    assert failed(found) == {"date_mismatch": 2, "ticker_format": 2, "duplicates": 1}


def test_every_check_that_fails_is_reported(warehouse: LocalWarehouse) -> None:
    rows = [
        row("B", close=None),
        row("C", high=CENT),
        row("D", volume=0),
        row("E", NEXT),
        row("X"),
        *[row("F")] * 2,
    ]
    found = audit(warehouse, rows, ("A", "B", "C", "D", "E", "F"))
    assert failed(found) == dict.fromkeys(OF_ONE_SESSION, 1) | {"missing_stocks": 2}
    assert [result.check.name for result in found.failed] == OF_ONE_SESSION


def test_row_that_breaks_several_promises_is_reported_by_each_check(warehouse: LocalWarehouse) -> None:
    assert failed(audit(warehouse, [row("A", high=CENT, open=None, volume=0)])) == {
        "null_prices": 1,
        "price_ranges": 1,
        "volume": 1,
    }


def test_all_failing_rows_are_counted_and_the_first_five_of_each_session_are_shown(warehouse: LocalWarehouse) -> None:
    tickers = tuple("HGFEDCBA")
    rows = [row(ticker, day, volume=0) for day in (NEXT, DAY) for ticker in tickers]
    found = audit(warehouse, rows, tickers, (DAY, NEXT))
    assert failed(found) == {"volume": 16}
    assert [(ticker, day) for ticker, day, _ in shown(found, "volume")] == [(t, day) for day in (DAY, NEXT) for t in "ABCDE"]
    assert checks.FEW_ROWS == 5


def test_audit_names_its_sessions_and_its_staging_table(warehouse: LocalWarehouse) -> None:
    found = audit(warehouse, [row("A", DAY), row("A", NEXT)], days=(DAY, NEXT))
    assert found.sessions == (DAY, NEXT)
    assert found.staging == warehouse.full_name(Request(("A",), (DAY, NEXT)).staging)


def test_every_allowed_missing_ticker_is_listed(warehouse: LocalWarehouse) -> None:
    tickers = tuple("ABCDEFGHIJ")
    found = audit(warehouse, [row("A")], tickers, allow=AllowMissing(tickers=frozenset("BCDEFGHIJ")))
    assert found.passed
    assert found.allowed == tuple(FailingRow(ticker, DAY, "no bar", Outcome.ALLOWED) for ticker in "BCDEFGHIJ")


def test_missing_ticker_that_is_not_allowed_is_refused_beside_one_that_is(warehouse: LocalWarehouse) -> None:
    found = audit(warehouse, [row("A")], ("A", "B", "C"), allow=AllowMissing(tickers=frozenset("BZ")))
    assert failed(found) == {"missing_stocks": 1}
    assert shown(found, "missing_stocks") == [("C", DAY, "no bar")]
    assert found.allowed == (FailingRow("B", DAY, "no bar", Outcome.ALLOWED),)


def test_wrong_row_of_a_ticker_that_may_be_missing_is_held(warehouse: LocalWarehouse) -> None:
    allow = AllowMissing(tickers=frozenset("A"))
    for wrong, check in ((row("A", volume=0), "volume"), (row("A", NEXT), "date_mismatch")):
        found = audit(warehouse, [wrong, row("B")], ("A", "B"), allow=allow)
        assert found.passed
        assert [(name, held.ticker) for name, held in found.rows(Outcome.HELD)] == [(check, "A")]
        assert found.held == {("A", DAY)}


def test_row_that_was_not_requested_is_never_held(warehouse: LocalWarehouse) -> None:
    found = audit(warehouse, [row("A"), row("X")], ("A",), allow=AllowMissing(frozenset("AX"), Decimal(100)))
    assert failed(found) == {"ticker_format": 1}
    assert not found.held


def test_nothing_is_held_on_a_session_that_is_refused(warehouse: LocalWarehouse) -> None:
    found = audit(warehouse, [row("A", volume=0), row("X")], ("A",), allow=AllowMissing(frozenset("A")))
    assert failed(found) == {"volume": 1, "ticker_format": 1}
    assert not found.held


def test_missing_and_held_tickers_count_together_and_each_once(warehouse: LocalWarehouse) -> None:
    rows = [row("A"), row("B", volume=0, high=CENT), row("C")]
    assert audit(warehouse, rows, tuple("ABCD"), allow=AllowMissing(percent=Decimal(50))).held == {("B", DAY)}
    found = audit(warehouse, rows, tuple("ABCD"), allow=AllowMissing(percent=Decimal(49)))
    assert failed(found) == {"missing_stocks": 1, "price_ranges": 1, "volume": 1}


def test_allowed_share_applies_to_each_session_separately(warehouse: LocalWarehouse) -> None:
    rows = [row("A", DAY), row("B", DAY), row("A", NEXT)]
    found = audit(warehouse, rows, tuple("ABCD"), (DAY, NEXT), AllowMissing(percent=Decimal(50)))
    assert shown(found, "missing_stocks") == [(ticker, NEXT, "no bar") for ticker in "BCD"]
    assert [(missing.ticker, missing.date) for missing in found.allowed] == [("C", DAY), ("D", DAY)]


@given(
    requested=st.integers(1, 12),
    stored=st.lists(st.integers(0, 12), min_size=2, max_size=2),
    percent=st.one_of(
        st.decimals(0, 100, places=2),
        st.sampled_from([Decimal(100 * n) / d for d in (3, 6, 7, 9, 11, 12) for n in range(1, d)]),
    ),
)
@examples(deadline=None, max_examples=25)
def test_allowed_share_is_exact(warehouse: LocalWarehouse, requested: int, stored: list[int], percent: Decimal) -> None:
    tickers = tuple("ABCDEFGHIJKL"[:requested])
    present = {day: tickers[:count] for day, count in zip((DAY, NEXT), stored, strict=True)}
    rows = [row(ticker, day) for day, names in present.items() for ticker in names]

    found = audit(warehouse, rows, tickers, (DAY, NEXT), AllowMissing(percent=percent))

    missing = {day: [ticker for ticker in tickers if ticker not in names] for day, names in present.items()}
    allowed = {day: names for day, names in missing.items() if 100 * len(names) <= Fraction(percent) * requested}
    refused = sum(len(names) for day, names in missing.items() if day not in allowed)
    assert failed(found) == ({"missing_stocks": refused} if refused else {})
    assert [(row.ticker, row.date) for row in found.allowed] == [(name, day) for day, names in allowed.items() for name in names]
