"""The tables for other programs: `maang_cli.read`, and a user's query."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest

import maang_cli
from maang_cli import reading
from maang_cli.errors import OutOfOrder, SettingsError, WarehouseDenied
from maang_cli.tables import CUMULATIVE, FINDINGS, PRODUCTION, SPLITS
from maang_cli.warehouses import WAREHOUSES
from maang_cli.warehouses.base import Warehouse
from maang_cli.warehouses.local.retention import Retention
from maang_cli.warehouses.local.warehouse import LocalWarehouse
from tests import settings
from tests.conftest import Maang
from tests.warehouses.conftest import MONDAY, TUESDAY, WEDNESDAY, bar, publish

if TYPE_CHECKING:
    from tests.warehouses.databricks.server import StandIn

DAYS = (MONDAY, TUESDAY, WEDNESDAY)


@pytest.fixture
def warehouse(home: Path) -> Iterator[Warehouse]:
    """META and NFLX on three sessions; no windows, no splits, no findings."""
    with closing(LocalWarehouse(home, "maang", Retention(100))) as warehouse:
        warehouse.create(PRODUCTION)
        publish(warehouse, *(bar(ticker, day, close=Decimal("10.05")) for ticker in ("META", "NFLX") for day in DAYS))
        yield warehouse


def keys(rows: pa.Table) -> list[tuple[str, date]]:
    return list(zip(rows["ticker"].to_pylist(), rows["date"].to_pylist(), strict=True))


# read


def test_read_returns_all_rows_in_order_with_exact_decimals(warehouse: Warehouse) -> None:
    rows = maang_cli.read()
    assert rows.column_names == [column.name for column in PRODUCTION.columns]
    assert keys(rows) == [(ticker, day) for day in DAYS for ticker in ("META", "NFLX")]
    assert rows.schema.field("close").type == pa.decimal128(10, 2)
    assert set(rows["close"].to_pylist()) == {Decimal("10.05")}


def test_read_with_floats_returns_float64_in_lists_too(maang: Maang, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAANG_SOURCE", "sample")
    assert maang("run-day", "--date", "2025-10-14").code == 0
    rows = maang_cli.read("cumulative", floats=True)
    assert rows.schema.field("last_7_days_close").type == pa.list_(pa.float64())
    exact = maang_cli.read("cumulative")
    assert rows["last_7_days_close"].to_pylist() == [
        [float(each) for each in found] for found in exact["last_7_days_close"].to_pylist()
    ]
    assert {str(field.type) for field in rows.schema if field.name in {"avg_7_day_volume", "volatility_7_day"}} == {"double"}


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        ({"tickers": "NFLX"}, [("NFLX", day) for day in DAYS]),
        ({"tickers": ["NFLX", "NONE"]}, [("NFLX", day) for day in DAYS]),
        ({"tickers": "META, NFLX", "first": WEDNESDAY}, [("META", WEDNESDAY), ("NFLX", WEDNESDAY)]),
        ({"tickers": "META", "last": "2025-10-14"}, [("META", MONDAY), ("META", TUESDAY)]),
        ({"tickers": "META", "first": TUESDAY, "last": TUESDAY}, [("META", TUESDAY)]),
        ({"tickers": ()}, []),
    ],
    ids=str,
)
def test_read_selects_tickers_and_dates(warehouse: Warehouse, arguments: dict[str, Any], found: object) -> None:
    assert keys(maang_cli.read(**arguments)) == found


def test_read_as_of_returns_the_rows_of_that_time(warehouse: Warehouse) -> None:
    then = datetime.now(UTC)
    publish(warehouse, bar("META", TUESDAY, close=Decimal("10.99")))
    for instant in (then, then.isoformat(), then.replace(tzinfo=None)):
        assert set(maang_cli.read(as_of=instant)["close"].to_pylist()) == {Decimal("10.05")}
    assert Decimal("10.99") in maang_cli.read()["close"].to_pylist()


def test_read_adjusted_restates_every_ticker_that_split(warehouse: Warehouse, maang: Maang) -> None:
    assert maang("init-tables").code == 0
    assert maang("splits", "--add", "NFLX:2025-10-14:1:10", "-q").code == 0
    assert keys(maang_cli.read("splits")) == [("NFLX", TUESDAY)]
    for tickers in (None, "META,NFLX"):
        found = maang_cli.read(tickers=tickers, adjusted=True)
        closes = dict(zip(keys(found), found["close"].to_pylist(), strict=True))
        assert closes["NFLX", MONDAY] == Decimal("1.01")
        assert {price for key, price in closes.items() if key != ("NFLX", MONDAY)} == {Decimal("10.05")}


def test_tables_of_splits_and_findings_that_do_not_exist_are_empty(warehouse: Warehouse) -> None:
    for name, table in (("splits", SPLITS), ("findings", FINDINGS)):
        rows = maang_cli.read(name, tickers="META")
        assert (rows.num_rows, rows.column_names) == (0, [column.name for column in table.columns])
    assert maang_cli.read(adjusted=True).num_rows == 6


def test_read_of_a_missing_table_says_how_to_create_it(warehouse: Warehouse) -> None:
    with pytest.raises(OutOfOrder, match=f"there is no table maang.{CUMULATIVE.name}") as caught:
        maang_cli.read("cumulative")
    assert "maang init-tables" in caught.value.hint


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"table": "staging"}, "'staging' is not a table"),
        ({"table": "splits", "adjusted": True}, "adjusted reads production"),
        ({"first": "14.10.2025"}, "'14.10.2025' is not a date"),
        ({"as_of": "yesterday"}, "'yesterday' is not a timestamp"),
        ({"as_of": "1999-01-01"}, "has no history as of 1999-01-01"),
        ({"tickers": "ME TA"}, "'ME TA' is not a ticker"),
    ],
    ids=str,
)
def test_wrong_argument_is_a_settings_error(warehouse: Warehouse, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        maang_cli.read(**arguments)


def test_importing_maang_cli_loads_no_driver() -> None:
    program = (
        "import sys, maang_cli; print([name for name in ('duckdb', 'pyarrow', 'pyiceberg', 'pydantic') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == "[]\n"


# A user's query


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("SELECT count(*) AS n FROM production", [{"n": 6}]),
        ("SELECT count(*) AS n FROM \"Production\" WHERE ticker = 'META'; ", [{"n": 3}]),
        ("WITH p AS (FROM production) SELECT count(*) AS n FROM p, splits", [{"n": 0}]),
        ("SELECT 1 AS a, 2 AS a, 3 AS a_1", [{"a": 1, "a_1": 2, "a_1_1": 3}]),
        ("SELECT '{production} {tickers}' AS text, {'a': 1} AS it FROM findings RIGHT JOIN (SELECT 1) ON TRUE", None),
    ],
)
def test_query_knows_the_tables_by_their_short_names(
    warehouse: Warehouse, text: str, rows: list[Mapping[str, object]] | None
) -> None:
    braces: list[Mapping[str, object]] = [{"text": "{production} {tickers}", "it": {"a": 1}}]
    assert reading.select(warehouse, text).rows.to_pylist() == (braces if rows is None else rows)


def test_query_on_a_missing_table_says_how_to_create_it(warehouse: Warehouse) -> None:
    with pytest.raises(OutOfOrder, match=f"there is no table maang.{CUMULATIVE.name}"):
        reading.select(warehouse, "SELECT * FROM cumulative")


def test_query_reads_nothing_but_the_warehouse(warehouse: Warehouse, tmp_path: Path) -> None:
    secret = tmp_path / "secret.csv"
    secret.write_text("a\n1\n")
    variable = pa.table({"a": [1]})
    assert variable.num_rows
    for source in (f"'{secret}'", f"read_text('{secret}')", f"glob('{tmp_path}/*')", "variable", "'https://127.0.0.1:1/a.csv'"):
        with pytest.raises(SettingsError):
            reading.select(warehouse, f"SELECT * FROM {source}")
    assert reading.select(warehouse, "SELECT count(*) AS n FROM production").rows.to_pylist() == [{"n": 6}]


def test_filter_reaches_the_files(warehouse: Warehouse, home: Path) -> None:
    # The values in the files of the other sessions are damaged; their footers, which say which dates they hold, are whole.
    for file in (home / "warehouse").rglob("data/date=2025-10-1[35]/*.parquet"):
        content = file.read_bytes()
        length = int.from_bytes(content[-8:-4], "little") + 8
        file.write_bytes(content[:4] + b"\xff" * (len(content) - length - 4) + content[-length:])
    one_day = "SELECT count(close) AS n FROM production WHERE date = '2025-10-14'"
    assert reading.select(warehouse, one_day).rows.to_pylist() == [{"n": 2}]
    with pytest.raises(WarehouseDenied):
        reading.select(warehouse, "SELECT sum(close) FROM production")


def test_query_can_be_followed_by_other_verbs(warehouse: Warehouse) -> None:
    reading.select(warehouse, "SELECT 1")
    assert publish(warehouse, bar("META", TUESDAY, close=Decimal("10.99"))).updated == 1
    found = reading.select(warehouse, "SELECT max(close) AS most FROM production").rows.to_pylist()
    assert found == [{"most": Decimal("10.99")}]


def test_read_and_sql_on_databricks(databricks: StandIn, maang: Maang) -> None:
    chosen = settings.load()
    with closing(WAREHOUSES["databricks"].open(chosen, "")) as warehouse:
        warehouse.create(PRODUCTION)
        publish(warehouse, *(bar(ticker, day, close=Decimal("88.46")) for ticker in ("META", "NFLX") for day in DAYS))
        found = reading.select(
            warehouse, "SELECT close, close FROM production, splits RIGHT JOIN (SELECT 1) ON TRUE LIMIT 1;"
        ).rows
        assert found.column_names == ["close", "close_1"]
    rows = maang_cli.read(tickers="META", first=TUESDAY, floats=True)
    assert (keys(rows), set(rows["close"].to_pylist())) == ([("META", TUESDAY), ("META", WEDNESDAY)], {88.46})
    assert maang_cli.read(adjusted=True)["close"].type == pa.decimal128(10, 2)
    assert maang_cli.read("findings").num_rows == 0
    shown = maang("show", "--json").document
    assert shown["sessions"] == [WEDNESDAY.isoformat()]
    assert maang("sql", "SELECT count(*) AS n FROM production", "--format", "csv").out == "n\n6\n"
    for text in ("SELECT clsoe FROM production", "DROP TABLE production", "SELECT 1) UNION (INSERT INTO production"):
        done = maang("sql", text)
        assert (done.code, done.out, len(done.err.splitlines())) == (2, "", 2), done
        assert databricks.environment["DATABRICKS_TOKEN"] not in done.err
