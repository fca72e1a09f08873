"""The tables' names, columns and types, as promised to users; staging's names; differences from what a warehouse has."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from datetime import date

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from maang_cli import tables
from maang_cli.tables import CUMULATIVE, PRODUCTION, STAGING_COLUMNS, Column, Table

DAY, LATER = date(2025, 10, 14), date(2025, 10, 17)

PROMISED = {
    "daily_stock_prices": {
        "ticker": "STRING",
        "date": "DATE",
        "open": "DECIMAL(10,2)",
        "high": "DECIMAL(10,2)",
        "low": "DECIMAL(10,2)",
        "close": "DECIMAL(10,2)",
        "volume": "BIGINT",
        "vwap": "DECIMAL(10,2)",
        "transactions": "INTEGER",
        "insertion_timestamp": "TIMESTAMP",
    },
    "daily_stock_prices_cumulative": {
        "ticker": "STRING",
        "date": "DATE",
        "last_7_days_open": "ARRAY<DECIMAL(10,2)>",
        "last_7_days_high": "ARRAY<DECIMAL(10,2)>",
        "last_7_days_low": "ARRAY<DECIMAL(10,2)>",
        "last_7_days_close": "ARRAY<DECIMAL(10,2)>",
        "last_7_days_volume": "ARRAY<BIGINT>",
        "avg_7_day_volume": "DECIMAL(15,2)",
        "volatility_7_day": "DECIMAL(10,4)",
        "updated_at": "TIMESTAMP",
    },
    "daily_stock_prices_staging_20251014_0d95d0": {
        "session": "DATE",
        "ticker": "STRING",
        "date": "DATE",
        "open": "DECIMAL(38,2)",
        "high": "DECIMAL(38,2)",
        "low": "DECIMAL(38,2)",
        "close": "DECIMAL(38,2)",
        "volume": "DECIMAL(38,0)",
        "vwap": "DECIMAL(38,2)",
        "transactions": "DECIMAL(38,0)",
        "fetched_at": "TIMESTAMP",
    },
}
STAGING = tables.staging(["META", "AAPL"], [DAY])
ALL = [PRODUCTION, CUMULATIVE, STAGING]
each_table = pytest.mark.parametrize("table", ALL, ids=["production", "cumulative", "staging"])


@each_table
def test_names_and_types_are_the_promised_ones(table: Table) -> None:
    assert list({column.name: column.type for column in table.columns}.items()) == list(PROMISED[table.name].items())


@each_table
def test_each_comment_explains_its_column_with_its_unit(table: Table) -> None:
    for column in table.columns:
        assert len(column.comment) > 10
        money = re.search(r"open|high|low|close|vwap|volatility", column.name)
        assert ("USD" in column.comment) == bool(money)
        assert ("UTC" in column.comment) == (column.type == "TIMESTAMP")


def test_published_tables_require_their_key_and_staging_requires_nothing() -> None:
    for table in (PRODUCTION, CUMULATIVE):
        assert [column.name for column in table.columns if column.required] == ["ticker", "date"]
    assert not any(column.required for column in STAGING_COLUMNS)


def test_published_tables_are_partitioned_and_stamped_but_staging_is_not() -> None:
    assert [(table.partitioned, table.stamp) for table in ALL] == [
        (True, "insertion_timestamp"),
        (True, "updated_at"),
        (False, None),
    ]
    assert (
        STAGING.values[1:-1] == PRODUCTION.values == tuple(name for name in PROMISED[PRODUCTION.name] if name != PRODUCTION.stamp)
    )


@pytest.mark.parametrize(
    ("sessions", "span"),
    [([DAY], "20251014"), ([DAY, LATER], "20251014_20251017"), ([DAY, date(2025, 10, 15), LATER], "20251014_20251017")],
)
def test_staging_name_contains_first_and_last_session_and_a_hash_of_the_tickers(sessions: Sequence[date], span: str) -> None:
    hexes = hashlib.sha256(b"AAPL\nMETA").hexdigest()[:6]
    assert tables.staging(["META", "AAPL"], sessions).name == f"daily_stock_prices_staging_{span}_{hexes}"


universes = st.sets(st.text("ABCXYZabc.-/", min_size=1, max_size=6), min_size=1, max_size=8)


@given(universes.map(sorted).flatmap(lambda names: st.tuples(st.just(names), st.permutations(names))))
@examples(deadline=None)
def test_order_of_tickers_does_not_change_the_staging_name(orders: tuple[list[str], list[str]]) -> None:
    in_order, shuffled = orders
    assert tables.staging(shuffled, [DAY]) == tables.staging(in_order, [DAY])


@pytest.mark.parametrize(
    ("one", "other"), [(["A", "BC"], ["AB", "C"]), (["ABC"], ["A", "B", "C"]), (["BACpA"], ["BACPA"]), (["A"], ["A", "B"])]
)
def test_different_universes_have_different_staging_names(one: list[str], other: list[str]) -> None:
    assert tables.staging(one, [DAY]).name != tables.staging(other, [DAY]).name


def columns_of(table: Table) -> dict[str, str]:
    return {column.name: column.type for column in table.columns}


@each_table
def test_correct_table_has_no_differences(table: Table) -> None:
    own_required = [column.name for column in table.columns if column.required]
    assert tables.differences(table, columns_of(table), own_required) == []
    assert tables.differences(table, dict(reversed(columns_of(table).items())), own_required) == []


def test_extra_nullable_column_of_a_user_is_not_a_difference() -> None:
    assert tables.differences(PRODUCTION, columns_of(PRODUCTION) | {"note": "STRING"}, ["ticker", "date"]) == []


@pytest.mark.parametrize(
    ("sessions", "ends"), [([DAY], (DAY, DAY)), ([DAY, LATER], (DAY, LATER)), ([DAY, date(2025, 10, 15), LATER], (DAY, LATER))]
)
def test_sessions_of_a_staging_table_are_read_from_its_name(sessions: Sequence[date], ends: tuple[date, date]) -> None:
    assert tables.staged_sessions(tables.staging(["META"], sessions)) == ends


def test_every_difference_is_listed() -> None:
    found = columns_of(PRODUCTION) | {"open": "DOUBLE", "note": "STRING"}
    del found["vwap"]
    assert tables.differences(PRODUCTION, found, ["ticker", "date", "note"]) == [
        "open is DOUBLE, DECIMAL(10,2) expected",
        "vwap is missing, DECIMAL(10,2) expected",
        "note is required but not maang's: make it nullable",
    ]


def test_required_column_that_may_have_no_value_is_a_difference() -> None:
    assert tables.differences(PRODUCTION, columns_of(PRODUCTION), ["ticker", "date", "vwap"]) == [
        "vwap is required, and maang may have no value for it: make it nullable"
    ]


def test_column_names_are_case_sensitive() -> None:
    table = Table("t", (Column("ticker", "STRING", "a symbol"),))
    assert tables.differences(table, {"Ticker": "STRING"}) == ["ticker is missing, STRING expected"]
