"""The SQL for Databricks, and how its answers are read. Whether the statements run is tested with Spark in the other modules."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal

import pyarrow as pa
import pytest

from maang_cli.tables import PRODUCTION, STAGING_COLUMNS, Column, Table
from maang_cli.warehouses.base import Query, Read
from maang_cli.warehouses.databricks.errors import GATE
from maang_cli.warehouses.databricks.sql import (
    Replace,
    columns_of,
    information_schema,
    plain,
    quote,
    relation,
    spelled,
    text,
    tickers_relation,
    values,
)

TUESDAY, WEDNESDAY = date(2025, 10, 14), date(2025, 10, 15)
STAGING = Table("staging", STAGING_COLUMNS)
NAME = "`main`.`maang`.`daily_stock_prices`"
ALWAYS = "DATE '0001-01-01' AS first_date, DATE '9999-12-31' AS last_date"
PAIR = Table("pair", (Column("ticker", "STRING", ""), Column("volume", "BIGINT", "")))


@pytest.mark.parametrize(
    ("value", "literal"),
    [
        ("META", "'META'"),
        ("O'Brien", r"'O\'Brien'"),
        ("back\\slash", r"'back\\slash'"),
        ("${env:HOME}", r"'\u0024{env:HOME}'"),
        ("", "''"),
    ],
)
def test_string_literal_is_escaped(value: str, literal: str) -> None:
    assert text(value) == literal


def test_each_part_of_a_name_is_quoted() -> None:
    assert quote("main.maang.daily_stock_prices") == NAME


@pytest.mark.parametrize(
    ("read", "source"),
    [
        (Read(PRODUCTION), NAME),
        (
            Read(PRODUCTION, (TUESDAY, WEDNESDAY)),
            f"(SELECT * FROM {NAME} WHERE date BETWEEN DATE '2025-10-14' AND DATE '2025-10-15')",
        ),
        (
            Read(PRODUCTION, as_of=datetime(2025, 10, 14, 6, tzinfo=timezone(timedelta(hours=-4)))),
            f"{NAME} TIMESTAMP AS OF '2025-10-14T10:00:00+00:00'",
        ),
        (
            Read(PRODUCTION, (TUESDAY, TUESDAY), as_of=datetime(2025, 10, 14, tzinfo=UTC)),
            f"(SELECT * FROM {NAME} TIMESTAMP AS OF '2025-10-14T00:00:00+00:00'"
            " WHERE date BETWEEN DATE '2025-10-14' AND DATE '2025-10-14')",
        ),
    ],
)
def test_relation_has_the_sessions_and_the_time(read: Read, source: str) -> None:
    assert relation(NAME, read) == source


@pytest.mark.parametrize(
    ("tickers", "source"),
    [
        (("META", "BRK.A"), f"(SELECT ticker, {ALWAYS} FROM (VALUES ('META'), ('BRK.A')) AS t(ticker))"),
        (
            ("META", "NEW"),
            f"(SELECT ticker, {ALWAYS} FROM (VALUES ('META')) AS t(ticker) UNION ALL SELECT ticker, first_date, last_date FROM"
            " (VALUES ('NEW', DATE '2025-10-14', DATE '2025-10-15')) AS t(ticker, first_date, last_date))",
        ),
        ((), f"(SELECT CAST(NULL AS STRING) AS ticker, {ALWAYS} WHERE FALSE)"),
    ],
)
def test_tickers_are_a_relation_without_an_alias(tickers: tuple[str, ...], source: str) -> None:
    """So that the shared SQL can give it one."""
    assert tickers_relation(Query("", tickers=tickers, spans={"NEW": [(TUESDAY, WEDNESDAY)]})) == source


def test_values_are_text_and_null() -> None:
    rows = pa.Table.from_pylist([{"volume": Decimal("1.50"), "ticker": "META"}, {"volume": None, "ticker": "O'B"}])
    assert values(PAIR, rows) == r"VALUES ('META', '1.50'), ('O\'B', NULL) AS v(ticker, volume)"


def test_values_may_be_empty() -> None:
    empty = pa.table({"ticker": pa.array([], pa.string()), "volume": pa.array([], pa.int64())})
    assert values(PAIR, empty) == "(SELECT * FROM VALUES (NULL, NULL) AS v(ticker, volume) WHERE FALSE) AS v"


def test_columns_are_read_from_show_table_extended() -> None:
    information = (
        "Catalog: main\nTable: daily_stock_prices\nSchema: root\n"
        " |-- ticker: string (nullable = false)\n"
        " |-- volume: long (nullable = true)\n"
        " |-- transactions: integer (nullable = true)\n"
        " |-- close: decimal(10,2) (nullable = true)\n"
        " |-- last_7_days_volume: array (nullable = true)\n |    |-- element: long (containsNull = true)\n"
        " |-- a note: string (nullable = true)\n"
    )
    assert columns_of(information) == {
        "ticker": Column("ticker", "STRING", "", required=True),
        "volume": Column("volume", "BIGINT", ""),
        "transactions": Column("transactions", "INTEGER", ""),
        "close": Column("close", "DECIMAL(10,2)", ""),
        "last_7_days_volume": Column("last_7_days_volume", "ARRAY<BIGINT>", ""),
        "a note": Column("a note", "STRING", ""),
    }


@pytest.mark.parametrize(
    ("kind", "returned"),
    [
        (pa.timestamp("ns"), pa.timestamp("us", tz="UTC")),
        (pa.timestamp("us", tz="Etc/UTC"), pa.timestamp("us", tz="UTC")),
        (pa.list_(pa.field("element", pa.int64(), nullable=False)), pa.list_(pa.int64())),
        (pa.decimal128(10, 2), pa.decimal128(10, 2)),
    ],
)
def test_arrow_types_are_those_of_every_warehouse(kind: pa.DataType, returned: pa.DataType) -> None:
    assert plain(kind) == returned


@pytest.fixture
def replace() -> Replace:
    return Replace(
        PRODUCTION,
        NAME,
        {"staging": "`maang`.`staging`"},
        Query("SELECT new FROM {staging}", {"staging": Read(STAGING)}, ("META", "AAPL")),
        Query("SELECT bad FROM {staging} WHERE ticker IN (SELECT ticker FROM {tickers})", tickers=("META", "AAPL")),
        (TUESDAY, WEDNESDAY),
        datetime(2025, 10, 16, 1, 2, 3, tzinfo=UTC),
    )


@pytest.mark.parametrize("deletes", [None, True, False], ids=["preview", "merge with deletes", "merge without"])
def test_replace_reads_each_input_once(replace: Replace, deletes: bool | None) -> None:
    statement = replace.preview() if deletes is None else replace.merge(deletes=deletes)
    assert statement.count("`maang`.`staging`") == 1
    assert statement.count("('META'), ('AAPL')") == 1
    assert "SELECT new FROM maang_in_staging" in statement
    assert "{" not in statement


def test_gate_is_in_the_merge_and_in_the_audit_alone(replace: Replace) -> None:
    gate = "SELECT bad FROM maang_in_staging WHERE ticker IN (SELECT ticker FROM maang_in_tickers)"
    audit = replace.audit()
    assert audit is not None
    assert "count(*) AS refused" in audit
    assert gate in audit
    assert gate in replace.merge(deletes=True)
    assert gate in replace.merge(deletes=False)
    assert gate not in replace.preview()


def test_old_rows_are_those_of_the_tickers_on_the_sessions(replace: Replace) -> None:
    old = (
        f"maang_old AS (SELECT * FROM {NAME} AS o WHERE o.date IN (DATE '2025-10-14', DATE '2025-10-15') AND EXISTS"
        " (SELECT 1 FROM maang_in_tickers AS r WHERE r.ticker = o.ticker AND o.date BETWEEN r.first_date AND r.last_date))"
    )
    assert old in replace.preview()
    assert old in replace.merge(deletes=True)


def test_merge_has_the_gate_the_partitions_and_the_stamp(replace: Replace) -> None:
    statement = replace.merge(deletes=False)
    assert f"CASE WHEN count(*) = 0 THEN TRUE ELSE CAST(raise_error('{GATE}') AS BOOLEAN) END" in statement
    assert "ON t.ticker = s.ticker AND t.date = s.date AND t.date IN (DATE '2025-10-14', DATE '2025-10-15')" in statement
    assert statement.count("TIMESTAMP '2025-10-16T01:02:03+00:00'") == 2  # of an updated and of an inserted row


def test_merge_deletes_only_if_there_are_rows_to_delete(replace: Replace) -> None:
    assert "THEN DELETE" in replace.merge(deletes=True)
    assert "THEN DELETE" not in replace.merge(deletes=False)
    assert "NOT MATCHED BY SOURCE" not in replace.merge(deletes=True)


def test_replace_without_refuse_if_has_no_gate(replace: Replace) -> None:
    plainly = Replace(PRODUCTION, NAME, replace.relations, replace.query, None, replace.sessions, replace.now)
    assert "raise_error" not in plainly.merge(deletes=True)
    assert plainly.audit() is None


def test_types_of_typeof_become_columns(replace: Replace) -> None:
    kinds = ";".join(["string", "date", *["decimal(10,2)"] * 4, "bigint", "decimal(10,2)", "int", "timestamp"])
    assert {name: column.type for name, column in replace.columns(kinds).items()} == {
        column.name: column.type for column in PRODUCTION.columns
    }


@pytest.mark.parametrize(
    ("kind", "spelling"),
    [("int", "INTEGER"), ("long", "BIGINT"), ("decimal(10,2)", "DECIMAL(10,2)"), ("array<int>", "ARRAY<INTEGER>")],
)
def test_type_is_spelled_as_in_the_tables(kind: str, spelling: str) -> None:
    assert spelled(kind) == spelling


@pytest.mark.parametrize(
    ("schema", "source"),
    [("maang", "`information_schema`.`columns`"), ("my-cat.maang", "`my-cat`.`information_schema`.`columns`")],
)
def test_information_schema_is_that_of_the_catalog(schema: str, source: str) -> None:
    statement = information_schema(schema, ["a", "b"])
    assert f"FROM {source} WHERE table_schema = 'maang' AND table_name IN ('a', 'b')" in statement
