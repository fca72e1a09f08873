"""Whole days on the stand-in, beside the same days on the laptop: the same rows, few statements, and faults that heal."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import date
from pathlib import Path

import pyarrow as pa
import pytest

from maang_cli import settings
from maang_cli.tables import CUMULATIVE, PRODUCTION, Table
from maang_cli.warehouses import WAREHOUSES
from maang_cli.warehouses.base import Query, Read
from tests import expected
from tests.conftest import Maang
from tests.databricks.server import Fault, StandIn
from tests.databricks.spark import Spark
from tests.polygon_server import PolygonServer, row
from tests.warehouses.conftest import open_catalog

TICKERS = ("META", "AAPL", "AMZN", "NFLX", "GOOGL")
DAY = date(2025, 10, 14)
FIRST_DAY, USUAL_DAY, SAME_AGAIN = 12, 9, 7
"""Statements of a run-day: the very first creates a schema and two tables, one that changes nothing merges nothing."""


def rows(warehouse: str, table: Table, *, stamps: bool = False) -> pa.Table:
    """All rows of a table, in order; with the stamps only where they should be the same too."""
    columns = ", ".join(column.name for column in table.columns if stamps or column.name != table.stamp)
    opened = WAREHOUSES[warehouse](settings.load(warehouse=warehouse))
    try:
        return opened.query(Query(f"SELECT {columns} FROM {{t}} ORDER BY date, ticker", {"t": Read(table)}))
    finally:
        opened.close()


def assert_same_tables() -> None:
    """Both warehouses hold the same rows, cell by cell."""
    for table in (PRODUCTION, CUMULATIVE):
        there, here = rows("databricks", table), rows("local", table)
        assert there.to_pylist() == here.to_pylist()
        assert there.num_rows


def one_day(polygon: PolygonServer, day: date = DAY) -> None:
    polygon.days[day] = [row(ticker, day, c=10 + number / 4) for number, ticker in enumerate(TICKERS)]


def kind(statement: str) -> str:
    """What a statement of a day is, by its first words."""
    words = " ".join(statement.split())
    found = re.match(r"-- [\w ]+|SHOW|CREATE \w+( \w+)?|WITH \w+|MERGE INTO \S+|DROP|PUT|REMOVE", words)
    assert found
    return found.group() + (words.partition("`maang`.")[2].partition(" ")[0] if words.startswith("CREATE TABLE") else "")


def test_spark_reads_the_files_that_the_laptop_writes(spark: Spark, polygon: PolygonServer, home: Path, maang: Maang) -> None:
    """Its readers know less of Parquet than those that the laptop uses itself."""
    one_day(polygon)
    assert maang("run-day", "--date", str(DAY)).code == 0
    for table in (PRODUCTION, CUMULATIVE):
        with open_catalog(home) as catalog:
            metadata = catalog.load_table(f"maang.{table.name}").metadata_location
        here = rows("local", table, stamps=True)
        assert here.num_rows == len(TICKERS)
        found = spark.read(metadata).sort_by([("date", "ascending"), ("ticker", "ascending")])
        assert found.select(here.column_names).to_pylist() == here.to_pylist()


def test_nine_sessions_of_real_bars_end_with_the_laptops_tables_and_keep_to_the_budget(
    databricks: StandIn, polygon: PolygonServer, market: Path, maang: Maang
) -> None:
    days = expected.serve(polygon, expected.market_bars(market))[:9]
    for number, day in enumerate(days):
        databricks.statements.clear()
        databricks.sessions.clear()
        done = maang("run-day", "--date", str(day), "--json")
        assert done.code == 0, done.err
        assert json.loads(done.out)["promote"]["inserted"] == 5
        assert len(databricks.statements) == (USUAL_DAY if number else FIRST_DAY)
        assert [session.open for session in databricks.sessions.values()] == [False]
        assert maang("run-day", "--date", str(day), "--warehouse", "local").code == 0
    assert_same_tables()

    before = [rows("databricks", table, stamps=True) for table in (PRODUCTION, CUMULATIVE)]
    databricks.statements.clear()
    assert maang("run-day", "--date", str(days[-1])).code == 0
    assert len(databricks.statements) == SAME_AGAIN
    assert [rows("databricks", table, stamps=True) for table in (PRODUCTION, CUMULATIVE)] == before


def test_both_warehouses_print_the_same(databricks: StandIn, polygon: PolygonServer, maang: Maang) -> None:
    one_day(polygon)
    printed = []
    for warehouse in ("databricks", "local"):
        flags = ("--date", str(DAY), "--warehouse", warehouse)
        steps = ("init-tables", "ingest", "check", "promote", "cumulate", "drop-staging", "drop-staging", "check", "show")
        printed.append([maang(step, *flags) for step in steps])
    there, here = printed
    # The hints repeat the flags, and a stamp is the moment's.
    assert [(done.code, done.err.replace("databricks", "local")) for done in there] == [(done.code, done.err) for done in here]
    stamp = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ")
    assert [stamp.sub("", done.out) for done in there] == [stamp.sub("", done.out) for done in here]


HEALED = {
    "an error inside the warehouse": Fault(says="[INTERNAL_ERROR] The node was lost. SQLSTATE: XX000"),
    "a conflict with another writer": Fault(says="[DELTA_CONCURRENT_APPEND] Files were added. SQLSTATE: 2D521"),
    "an answer lost after the work": Fault(runs=True, cut=True),
    "a session that has expired": Fault(dead=True),
}


@pytest.mark.parametrize("fault", HEALED.values(), ids=HEALED)
def test_a_fault_at_every_statement_of_a_day_heals(
    fault: Fault, databricks: StandIn, polygon: PolygonServer, maang: Maang
) -> None:
    one_day(polygon)
    struck: set[str] = set()

    def once(statement: str) -> Fault | None:
        if kind(statement) in struck:
            return None
        struck.add(kind(statement))
        return fault

    databricks.fault = once
    done = maang("run-day", "--date", str(DAY))
    databricks.fault = lambda statement: None
    assert done.code == 0, done.err
    assert len(struck) == FIRST_DAY
    assert done.err.count("trying again in") + done.err.count("computing it anew") == FIRST_DAY
    assert maang("run-day", "--date", str(DAY), "--warehouse", "local").code == 0
    assert_same_tables()


def test_a_day_that_stops_at_any_statement_is_finished_by_a_re_run(
    databricks: StandIn, polygon: PolygonServer, maang: Maang
) -> None:
    one_day(polygon)
    assert maang("run-day", "--date", str(DAY), "--warehouse", "local").code == 0
    passed: set[str] = set()
    stopped: list[str] = []

    def stop_at_the_next(statement: str) -> Fault | None:
        """The first statement that no earlier run got past is refused."""
        if kind(statement) in passed:
            return None
        passed.add(kind(statement))
        stopped.append(kind(statement))
        return Fault(says="[UC_QUOTA_EXCEEDED] The metastore is full. SQLSTATE: 53000")

    databricks.fault = stop_at_the_next
    for number in range(1, FIRST_DAY + 1):
        done = maang("run-day", "--date", str(DAY))
        assert (done.code, len(stopped)) == (4, number), done.err
        assert "hint: ask an administrator to raise the quota" in done.err
        if number > 4:  # the tables are there: all of the day, or nothing of it
            held = databricks.rows("SELECT count(*) AS rows FROM maang.daily_stock_prices")
            assert held == [{"rows": 5 if number > 8 else 0}]
    assert maang("run-day", "--date", str(DAY)).code == 0
    assert len(stopped) == FIRST_DAY
    databricks.fault = lambda statement: None
    assert_same_tables()


SPOILED: dict[str, Callable[[str], str]] = {
    "null_prices": lambda staging: f"UPDATE {staging} SET close = NULL WHERE ticker = 'AAPL'",
    "missing_stocks": lambda staging: f"DELETE FROM {staging}",
    "duplicates": lambda staging: f"INSERT INTO {staging} SELECT * FROM {staging} WHERE ticker = 'META'",
}


@pytest.mark.parametrize("moment", ["WITH maang_in_staging", "MERGE INTO"])
@pytest.mark.parametrize("check", SPOILED)
def test_rows_spoiled_between_audit_and_publishing_are_not_published(
    check: str, moment: str, databricks: StandIn, polygon: PolygonServer, maang: Maang
) -> None:
    one_day(polygon)
    assert maang("init-tables").code == 0
    staged = maang("ingest", "--date", str(DAY), "--json")
    spoil = SPOILED[check](json.loads(staged.out)["staging"])

    def meanwhile(statement: str) -> None:
        if statement.startswith(moment):
            databricks.before = lambda statement: None
            databricks.catalog.run(spoil)

    databricks.before = meanwhile
    done = maang("promote", "--date", str(DAY), "--json")
    assert done.code == 3, done.err
    assert [each["name"] for each in json.loads(done.out)["checks"] if each["failing"]] == [check]
    assert databricks.rows("SELECT * FROM maang.daily_stock_prices") == []


def test_rows_of_other_days_are_neither_read_nor_rewritten(databricks: StandIn, polygon: PolygonServer, maang: Maang) -> None:
    days = [date(2025, 10, 14), date(2025, 10, 15)]
    for day in days:
        one_day(polygon, day)
        assert maang("run-day", "--date", str(day)).code == 0
    files = "SELECT file_path FROM maang.daily_stock_prices.files WHERE partition.date = DATE '2025-10-15'"
    before = databricks.rows(files)
    polygon.days[days[0]] = [row(ticker, days[0], v=77) for ticker in TICKERS[:4]]
    assert maang("run-day", "--date", str(days[0]), "--allow-missing", "GOOGL").code == 0
    assert databricks.rows(files) == before
    assert databricks.rows("SELECT count(*) AS rows FROM maang.daily_stock_prices WHERE date = DATE '2025-10-14'") == [
        {"rows": 4}
    ]


def test_show_as_of_reads_the_table_as_it_was(databricks: StandIn, polygon: PolygonServer, maang: Maang) -> None:
    one_day(polygon)
    assert maang("run-day", "--date", str(DAY)).code == 0
    then = databricks.rows("SELECT max(committed_at) AS then FROM maang.daily_stock_prices.snapshots")[0]["then"]
    polygon.days[DAY] = [row(ticker, DAY, v=77) for ticker in TICKERS]
    assert maang("run-day", "--date", str(DAY)).code == 0

    def volumes(*flags: str) -> set[int]:
        done = maang("show", "--date", str(DAY), "--json", *flags)
        assert done.code == 0, done.err
        return {each["volume"] for each in json.loads(done.out)["rows"]}

    assert volumes() == {77}
    assert volumes("--as-of", then.isoformat()) == {1000}
    early = maang("show", "--date", str(DAY), "--as-of", "2020-01-01")
    assert early.code == 2
    assert "has no history as of 2020-01-01" in early.err
