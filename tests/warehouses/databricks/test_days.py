"""Whole days on Databricks and on the laptop: the same rows, few statements, and faults that heal."""

from __future__ import annotations

import re
from datetime import UTC, date, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from maang_cli import sessions
from maang_cli.tables import CUMULATIVE, FINDINGS, PRODUCTION, SPLITS, Table
from maang_cli.warehouses import WAREHOUSES
from maang_cli.warehouses.base import Query, Read
from tests import expected, made_market, settings
from tests.conftest import Maang
from tests.polygon_server import PolygonServer, row
from tests.warehouses.conftest import open_catalog
from tests.warehouses.databricks.server import Fault, StandIn
from tests.warehouses.databricks.spark import Spark

TICKERS = ("META", "AAPL", "AMZN", "NFLX", "GOOGL")
DAY = date(2025, 10, 14)
FIRST_DAY, USUAL_DAY, SAME_AGAIN = 16, 11, 10
"""Statements of a run-day: the first one creates a schema and four tables; one that changes nothing audits instead of merging."""
STATUS = 11
"""Statements of a status of complete sessions."""
KINDS = FIRST_DAY - 1
"""Of the statements of the first day: `ingest` and `cumulate` read the known splits in the same words."""
AFTER_A_SPLIT = USUAL_DAY + 1
"""One more looks whether the windows around the split are right."""


def rows(warehouse: str, table: Table, *, stamps: bool = False) -> pa.Table:
    """All rows of a table, in order. `stamps`: with the stamps, which differ between two warehouses."""
    columns = ", ".join(column.name for column in table.columns if stamps or column.name != table.stamp)
    opened = WAREHOUSES[warehouse].open(settings.load(warehouse=warehouse), "")
    try:
        return opened.query(Query(f"SELECT {columns} FROM {{t}} ORDER BY date, ticker", {"t": Read(table)}))
    finally:
        opened.close()


def assert_same_tables(*tables: Table) -> None:
    """Both warehouses hold the same rows in these tables, or in production and cumulative, cell by cell."""
    for table in tables or (PRODUCTION, CUMULATIVE):
        there, here = rows("databricks", table), rows("local", table)
        assert there.to_pylist() == here.to_pylist()
        assert there.num_rows


def serve_day(polygon: PolygonServer, day: date = DAY) -> None:
    polygon.days[day] = [row(ticker, day, c=10 + number / 4) for number, ticker in enumerate(TICKERS)]


def kind(statement: str) -> str:
    """The kind of a statement: its first words, and the table of a CREATE TABLE."""
    words = " ".join(statement.split())
    found = re.match(r"-- [\w ]+|SHOW|CREATE \w+( \w+)?|WITH \w+|MERGE INTO \S+|DROP|PUT|REMOVE", words)
    assert found
    return found.group() + (words.partition("`maang`.")[2].partition(" ")[0] if words.startswith("CREATE TABLE") else "")


def test_spark_reads_the_files_that_the_laptop_writes(spark: Spark, polygon: PolygonServer, home: Path, maang: Maang) -> None:
    """Spark's readers support less of Parquet than the laptop's own."""
    serve_day(polygon)
    assert maang("run-day", "--date", str(DAY)).code == 0
    for table in (PRODUCTION, CUMULATIVE):
        with open_catalog(home) as catalog:
            metadata = catalog.load_table(f"maang.{table.name}").metadata_location
        here = rows("local", table, stamps=True)
        assert here.num_rows == len(TICKERS)
        found = spark.read(metadata).sort_by([("date", "ascending"), ("ticker", "ascending")])
        assert found.select(here.column_names).to_pylist() == here.to_pylist()


def test_three_sessions_equal_the_laptops_and_need_few_statements(
    databricks: StandIn, polygon: PolygonServer, maang: Maang
) -> None:
    days = expected.serve(polygon, expected.market_bars(made_market.FOLDER))[:3]
    for number, day in enumerate(days):
        databricks.statements.clear()
        databricks.sessions.clear()
        done = maang("run-day", "--date", str(day), "--json")
        assert done.code == 0, done.err
        assert done.result["promote"]["inserted"] == 5
        assert len(databricks.statements) == (USUAL_DAY if number else FIRST_DAY)
        assert [session.open for session in databricks.sessions.values()] == [False]
        assert maang("run-day", "--date", str(day), "--warehouse", "local").code == 0
    assert_same_tables()

    before = [rows("databricks", table, stamps=True) for table in (PRODUCTION, CUMULATIVE)]
    databricks.statements.clear()
    assert maang("run-day", "--date", str(days[-1])).code == 0
    assert len(databricks.statements) == SAME_AGAIN
    assert [rows("databricks", table, stamps=True) for table in (PRODUCTION, CUMULATIVE)] == before


def test_day_after_a_split_needs_one_statement_more(databricks: StandIn, polygon: PolygonServer, maang: Maang) -> None:
    split_day = date(2025, 11, 17)
    days = expected.run_of(date(2025, 11, 14), 3)
    expected.serve(polygon, [bar for bar in expected.market_bars(made_market.FOLDER) if bar.date in days])
    polygon.splits = [{"ticker": "NFLX", "execution_date": str(split_day), "split_from": 1, "split_to": 10}]
    for day in days:
        databricks.statements.clear()
        done = maang("run-day", "--date", str(day), "--json")
        assert done.code == 0, done.err
        assert maang("run-day", "--date", str(day), "--warehouse", "local").code == 0
    assert [split["reason"] for split in done.result["ingest"]["splits"]["known"]] == ["the prices prove it"]
    assert len(databricks.statements) == AFTER_A_SPLIT
    assert_same_tables(PRODUCTION, CUMULATIVE, SPLITS)


def test_both_warehouses_print_the_same(databricks: StandIn, polygon: PolygonServer, maang: Maang) -> None:
    serve_day(polygon)
    printed = []
    for warehouse in ("databricks", "local"):
        flags = ("--date", str(DAY), "--warehouse", warehouse)
        steps = ("init-tables", "ingest", "check", "promote", "cumulate", "drop-staging", "drop-staging", "check", "show")
        printed.append([maang(step, *flags) for step in steps])
    databricks_runs, local_runs = printed
    # Hints repeat the flags, and a stamp is the time of its run.
    assert [(done.code, done.err.replace("databricks", "local")) for done in databricks_runs] == [
        (done.code, done.err) for done in local_runs
    ]
    stamp = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ")
    assert [stamp.sub("", done.out) for done in databricks_runs] == [stamp.sub("", done.out) for done in local_runs]


def test_status_lists_the_tables_with_their_sizes(databricks: StandIn, polygon: PolygonServer, maang: Maang) -> None:
    serve_day(polygon)
    assert maang("run-day", "--date", str(DAY)).code == 0
    tables = maang("status", "--date", str(DAY), "--json").result["tables"]
    assert [(each["table"], each["rows"]) for each in tables] == [
        (f"maang.{PRODUCTION.name}", 5),
        (f"maang.{CUMULATIVE.name}", 5),
    ]
    assert all(each["size"]["bytes"] > 1000 for each in tables)


def test_status_reads_the_latency_with_one_statement(databricks: StandIn, polygon: PolygonServer, maang: Maang) -> None:
    serve_day(polygon)
    assert maang("run-day", "--date", str(DAY)).code == 0
    replaced_at = sessions.final(DAY).astimezone(UTC) + timedelta(hours=2)
    values = f"'META', DATE '{DAY}', 'revision', TIMESTAMP '{replaced_at}'"
    databricks.rows(f"INSERT INTO maang.{FINDINGS.name} (ticker, date, kind, replaced_at) VALUES ({values})")
    databricks.statements.clear()
    latency = maang("status", "--date", str(DAY), "--json").result["latency"]
    assert latency == {"sessions": 1, "median_seconds": 7200, "worst_seconds": 7200, "worst_session": str(DAY)}
    assert len([text for text in databricks.statements if "stored_at" in text]) == 1
    assert len(databricks.statements) == STATUS


def test_warehouse_that_does_not_print_columns_is_used_all_the_same(
    databricks: StandIn, polygon: PolygonServer, maang: Maang
) -> None:
    serve_day(polygon)
    databricks.prints_columns = False
    for _ in range(2):
        done = maang("run-day", "--date", str(DAY))
        assert done.code == 0, done.err
    assert sum("`information_schema`.`columns`" in statement for statement in databricks.statements) == 1
    databricks.catalog.run("ALTER TABLE maang.daily_stock_prices ALTER COLUMN transactions TYPE BIGINT")
    done = maang("run-day", "--date", str(DAY))
    assert done.code == 2
    assert "transactions is BIGINT, INTEGER expected" in done.err


def test_day_is_done_although_another_principal_owns_staging(databricks: StandIn, polygon: PolygonServer, maang: Maang) -> None:
    serve_day(polygon)
    denied = Fault(error="[INSUFFICIENT_PERMISSIONS] User is not an owner of Table. SQLSTATE: 42501")
    databricks.fault = lambda statement: denied if statement.startswith("DROP") else None
    done = maang("run-day", "--date", str(DAY))
    assert done.code == 0, done.err
    assert "was not dropped: " in done.err
    assert databricks.rows("SELECT count(*) AS rows FROM maang.daily_stock_prices_cumulative") == [{"rows": 5}]


def test_staging_that_has_no_columns_for_a_moment_is_staged_again(
    databricks: StandIn, polygon: PolygonServer, maang: Maang
) -> None:
    """Another run of the same request replaces it."""
    serve_day(polygon)
    error = "[UNRESOLVED_COLUMN.WITHOUT_SUGGESTION] A column with name `s`.`session` cannot be resolved. SQLSTATE: 42703"
    faults = iter([Fault(error=error)])
    databricks.fault = lambda statement: next(faults, None) if "-- The audit as a report" in statement else None
    done = maang("run-day", "--date", str(DAY))
    assert done.code == 0, done.err
    assert next(faults, None) is None
    assert databricks.rows("SELECT count(*) AS rows FROM maang.daily_stock_prices") == [{"rows": 5}]


NOT_RUN = [
    Fault(error="[INTERNAL_ERROR] The node was lost. SQLSTATE: XX000"),
    Fault(error="[DELTA_CONCURRENT_APPEND] Files were added. SQLSTATE: 2D521"),
    Fault(expired=True),
]
"""Faults after which a statement has not run. They take turns: what follows them is the same for every statement."""


@pytest.mark.parametrize("faults", [[Fault(runs=True, cut=True)], NOT_RUN], ids=["every answer is lost", "no statement runs"])
def test_fault_at_every_statement_of_a_day_heals(
    faults: list[Fault], databricks: StandIn, polygon: PolygonServer, maang: Maang
) -> None:
    serve_day(polygon)
    failed: set[str] = set()

    def once(statement: str) -> Fault | None:
        if kind(statement) in failed:
            return None
        failed.add(kind(statement))
        return faults[len(failed) % len(faults)]

    databricks.fault = once
    done = maang("run-day", "--date", str(DAY))
    databricks.fault = lambda statement: None
    assert done.code == 0, done.err
    assert len(failed) == KINDS
    assert done.err.count("trying again in") + done.err.count("computing it again") == KINDS
    assert maang("run-day", "--date", str(DAY), "--warehouse", "local").code == 0
    assert_same_tables()


def test_rerun_finishes_a_day_that_stopped_at_any_statement(databricks: StandIn, polygon: PolygonServer, maang: Maang) -> None:
    serve_day(polygon)
    assert maang("run-day", "--date", str(DAY), "--warehouse", "local").code == 0
    passed: set[str] = set()
    stopped: list[str] = []

    def stop_at_the_next(statement: str) -> Fault | None:
        """Refuse the first statement that no earlier run has sent."""
        if kind(statement) in passed:
            return None
        passed.add(kind(statement))
        stopped.append(kind(statement))
        return Fault(error="[UC_QUOTA_EXCEEDED] The metastore is full. SQLSTATE: 53000")

    databricks.fault = stop_at_the_next
    for number in range(1, KINDS + 1):
        done = maang("run-day", "--date", str(DAY))
        assert (done.code, len(stopped)) == (4, number), done.err
        assert "hint: ask an administrator to raise the quota" in done.err
        if number > 6:  # the tables exist: they have all rows of the day, or none
            stored = databricks.rows("SELECT count(*) AS rows FROM maang.daily_stock_prices")
            assert stored == [{"rows": 5 if number > 11 else 0}]
    assert maang("run-day", "--date", str(DAY)).code == 0
    assert len(stopped) == KINDS
    databricks.fault = lambda statement: None
    assert_same_tables()
