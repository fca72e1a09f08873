"""The tables' names, columns and types as they are promised, in SQL, Arrow and Iceberg; staging's names; differences."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from datetime import date

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from maang_cli import tables
from maang_cli.tables import CUMULATIVE, PRODUCTION, STAGED_COLUMNS, Column, Table

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
    },
}
STAGING = tables.staging(["META", "AAPL"], [DAY])
ALL = [PRODUCTION, CUMULATIVE, STAGING]
each_table = pytest.mark.parametrize("table", ALL, ids=["production", "cumulative", "staging"])

TYPES = {
    "STRING": ("string", pa.string()),
    "DATE": ("date", pa.date32()),
    "INTEGER": ("int", pa.int32()),
    "BIGINT": ("long", pa.int64()),
    "TIMESTAMP": ("timestamptz", pa.timestamp("us", tz="UTC")),
    "DECIMAL(10,2)": ("decimal(10, 2)", pa.decimal64(10, 2)),
    "DECIMAL(10,4)": ("decimal(10, 4)", pa.decimal64(10, 4)),
    "DECIMAL(15,2)": ("decimal(15, 2)", pa.decimal64(15, 2)),
    "DECIMAL(38,0)": ("decimal(38, 0)", pa.decimal128(38, 0)),
    "DECIMAL(38,2)": ("decimal(38, 2)", pa.decimal128(38, 2)),
    "ARRAY<BIGINT>": ("list<long>", pa.list_(pa.int64())),
    "ARRAY<DECIMAL(10,2)>": ("list<decimal(10, 2)>", pa.list_(pa.decimal64(10, 2))),
}
"""Each promised type as the Iceberg specification writes it, and in Arrow."""


@each_table
def test_names_and_types_are_those_promised(table: Table) -> None:
    assert list({column.name: column.type for column in table.columns}.items()) == list(PROMISED[table.name].items())


@each_table
def test_the_arrow_schema_says_the_same(table: Table) -> None:
    schema = tables.arrow_schema(table.columns)
    promised = [pa.field(c.name, TYPES[PROMISED[table.name][c.name]][1], nullable=not c.required) for c in table.columns]
    assert schema.equals(pa.schema(promised))


@each_table
def test_the_iceberg_schema_says_the_same_and_carries_the_comments(table: Table) -> None:
    fields = tables.iceberg_schema(table.columns).fields
    assert [(field.name, str(field.field_type)) for field in fields] == [
        (name, TYPES[kind][0]) for name, kind in PROMISED[table.name].items()
    ]
    assert [(field.required, field.doc) for field in fields] == [(column.required, column.comment) for column in table.columns]


@each_table
def test_iceberg_field_ids_are_distinct_those_of_array_elements_included(table: Table) -> None:
    schema = tables.iceberg_schema(table.columns)
    assert [field.field_id for field in schema.fields] == list(range(1, len(table.columns) + 1))
    arrays = sum(column.type.startswith("ARRAY<") for column in table.columns)
    assert len(schema.field_ids) == len(table.columns) + arrays


@each_table
def test_every_column_says_what_it_means(table: Table) -> None:
    for column in table.columns:
        assert len(column.comment) > 10
        money = re.search(r"open|high|low|close|vwap|volatility", column.name)
        assert ("USD" in column.comment) == bool(money)
        assert ("UTC" in column.comment) == (column.name == table.stamp)


def test_the_key_is_required_where_rows_are_trusted_and_staging_takes_whatever_comes() -> None:
    for table in (PRODUCTION, CUMULATIVE):
        assert [column.name for column in table.columns if column.required] == ["ticker", "date"]
    assert not any(column.required for column in STAGED_COLUMNS)


def test_published_tables_are_partitioned_and_stamped_and_staging_is_neither() -> None:
    assert [(table.partitioned, table.stamp) for table in ALL] == [
        (True, "insertion_timestamp"),
        (True, "updated_at"),
        (False, None),
    ]
    assert (
        STAGING.values[1:] == PRODUCTION.values == tuple(name for name in PROMISED[PRODUCTION.name] if name != PRODUCTION.stamp)
    )


@pytest.mark.parametrize(
    ("sessions", "span"),
    [([DAY], "20251014"), ([DAY, LATER], "20251014_20251017"), ([DAY, date(2025, 10, 15), LATER], "20251014_20251017")],
)
def test_staging_is_named_after_its_first_and_last_session_and_its_tickers(sessions: Sequence[date], span: str) -> None:
    hexes = hashlib.sha256(b"AAPL\nMETA").hexdigest()[:6]
    assert tables.staging(["META", "AAPL"], sessions).name == f"daily_stock_prices_staging_{span}_{hexes}"


universes = st.sets(st.text("ABCXYZabc.-/", min_size=1, max_size=6), min_size=1, max_size=8)


@given(universes.map(sorted).flatmap(lambda names: st.tuples(st.just(names), st.permutations(names))))
@examples(deadline=None)
def test_the_order_of_tickers_does_not_change_stagings_name(orders: tuple[list[str], list[str]]) -> None:
    in_order, shuffled = orders
    assert tables.staging(shuffled, [DAY]) == tables.staging(in_order, [DAY])


@pytest.mark.parametrize(
    ("one", "other"), [(["A", "BC"], ["AB", "C"]), (["ABC"], ["A", "B", "C"]), (["BACpA"], ["BACPA"]), (["A"], ["A", "B"])]
)
def test_different_universes_are_staged_under_different_names(one: list[str], other: list[str]) -> None:
    assert tables.staging(one, [DAY]).name != tables.staging(other, [DAY]).name


def columns_of(table: Table) -> dict[str, str]:
    return {column.name: column.type for column in table.columns}


@each_table
def test_a_table_as_it_should_be_has_no_differences(table: Table) -> None:
    own_required = [column.name for column in table.columns if column.required]
    assert tables.differences(table, columns_of(table), own_required) == []
    assert tables.differences(table, dict(reversed(columns_of(table).items())), own_required) == []


def test_a_users_extra_nullable_column_is_no_difference() -> None:
    assert tables.differences(PRODUCTION, columns_of(PRODUCTION) | {"note": "STRING"}, ["ticker", "date"]) == []


def test_every_difference_is_listed() -> None:
    found = columns_of(PRODUCTION) | {"open": "DOUBLE", "note": "STRING"}
    del found["vwap"]
    assert tables.differences(PRODUCTION, found, ["ticker", "date", "note"]) == [
        "open is DOUBLE, DECIMAL(10,2) expected",
        "vwap is missing, DECIMAL(10,2) expected",
        "note is required but not maang's: make it nullable",
    ]


def test_names_are_compared_as_they_are_spelt() -> None:
    table = Table("t", (Column("ticker", "STRING", "a symbol"),))
    assert tables.differences(table, {"Ticker": "STRING"}) == ["ticker is missing, STRING expected"]
