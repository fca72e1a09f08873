"""What only this warehouse does: large loads through a volume, a gate inside the MERGE, attempts, tags, cancelling."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from maang_cli.errors import CommitLost, MaangError, WarehouseFailed
from maang_cli.gate import publish_query
from maang_cli.retries import COMMIT_ATTEMPTS, LONGEST_WAIT_SECONDS
from maang_cli.schemas import arrow_schema
from maang_cli.tables import PRODUCTION, STAGING_COLUMNS, staging
from maang_cli.warehouses import WAREHOUSES
from maang_cli.warehouses.base import Query, Read, Replaced, Warehouse
from maang_cli.warehouses.databricks import settings as databricks_settings
from maang_cli.warehouses.databricks.connection import Connection
from maang_cli.warehouses.databricks.warehouse import SMALL, DatabricksWarehouse
from tests import settings
from tests.conftest import Maang
from tests.polygon_server import PolygonServer, row
from tests.warehouses.databricks.conftest import Init
from tests.warehouses.databricks.server import POLL_SECONDS, Fault, NoEngine, StandIn, wait_until

TICKERS = ("META", "AAPL", "AMZN", "NFLX", "GOOGL")
DAY, NEXT_DAY = date(2025, 10, 14), date(2025, 10, 15)
RUN = ("run-day", "--date", str(DAY), "--json")


@pytest.fixture
def warehouse(server: StandIn) -> Iterator[Warehouse]:
    """The warehouse on a server that stores nothing."""
    with closing(WAREHOUSES["databricks"].open(settings.load(), "run-day 2025-10-14")) as warehouse:
        yield warehouse


def serve_day(polygon: PolygonServer, day: date = DAY) -> None:
    polygon.days[day] = [row(ticker, day) for ticker in TICKERS]


# The schema and its tables


def test_query_tags_name_the_command_and_the_session(server: StandIn, warehouse: Warehouse) -> None:
    assert warehouse.has_schema()
    (session,) = server.sessions.values()
    assert session.configuration["QUERY_TAGS"] == "application:maang,command:run-day,session:2025-10-14"


def test_existing_schema_needs_no_right_to_create_one(databricks: StandIn, init: Init) -> None:
    databricks.catalog.run("CREATE SCHEMA maang")
    denied = Fault(error="[INSUFFICIENT_PERMISSIONS] User does not have CREATE SCHEMA. SQLSTATE: 42501")
    databricks.fault = lambda statement: denied if statement.startswith("CREATE SCHEMA") else None
    assert init().code == 0
    assert init().code == 0


def test_sample_bars_are_not_written_to_databricks(server: StandIn, maang: Maang) -> None:
    done = maang("run-day", "--date", str(DAY), "--source", "sample", "--warehouse", "databricks")
    assert done.code == 2
    assert "made-up bars can't be written to databricks" in done.err
    assert server.paths == []


@pytest.mark.parametrize(
    ("purpose", "tag"),
    [
        ("run-day 2025-10-01,2025-10-02", "2025-10-01,2025-10-02"),
        ("run-day " + ",".join(f"2025-10-{day:02}" for day in range(1, 13)), "2025-10-01 and 11 more"),
    ],
)
def test_query_tag_has_at_most_128_characters(purpose: str, tag: str, server: StandIn) -> None:
    with closing(WAREHOUSES["databricks"].open(settings.load(), purpose)) as warehouse:
        warehouse.has_schema()
    (session,) = server.sessions.values()
    assert session.configuration["QUERY_TAGS"].partition(",session:")[2].replace("\\", "") == tag
    assert len(tag) <= 128


UNKNOWN = [{"tableName": PRODUCTION.name, "information": "Catalog: main\nType: MANAGED\n"}]
"""What SHOW TABLE EXTENDED returns if it does not print the columns."""


NOTHING_STORED = {"-- What a table contains": [{"first": None, "last": None, "rows": 0, "tickers": 0}]}
"""The answer about a production that is empty."""


def test_columns_that_are_not_printed_are_read_from_the_information_schema(server: StandIn, init: Init) -> None:
    assert isinstance(server.catalog, NoEngine)
    columns = [
        {
            "table_name": PRODUCTION.name,
            "column_name": column.name,
            "full_data_type": column.type.lower().replace("integer", "int"),
            "is_nullable": "NO" if column.required else "YES",
        }
        for column in PRODUCTION.columns
    ]
    server.catalog.rows = {"SHOW TABLE EXTENDED": UNKNOWN, "SELECT table_name": columns, **NOTHING_STORED}
    assert init().code == 0
    columns[-1]["full_data_type"] = "date"
    done = init()
    assert done.code == 2
    assert "insertion_timestamp is DATE, TIMESTAMP expected" in done.err


@pytest.mark.parametrize("answer", [None, Fault(error="[TABLE_OR_VIEW_NOT_FOUND] There is none. SQLSTATE: 42P01")])
def test_columns_that_the_warehouse_never_shows_are_not_missing(answer: Fault | None, server: StandIn, init: Init) -> None:
    assert isinstance(server.catalog, NoEngine)
    server.catalog.rows = {"SHOW TABLE EXTENDED": UNKNOWN, **NOTHING_STORED}
    server.fault = lambda statement: answer if statement.startswith("SELECT table_name") else None
    done = init()
    assert done.code == 0, done.err
    assert f"maang.{PRODUCTION.name}: the warehouse does not show its columns, so they are not compared" in done.err


def test_table_outside_unity_catalog_is_named_as_the_reason(server: StandIn, init: Init) -> None:
    assert isinstance(server.catalog, NoEngine)
    unknown = Fault(error="[DATA_SOURCE_NOT_FOUND] Failed to find the data source: ICEBERG. SQLSTATE: 42K02")
    server.fault = lambda statement: unknown if statement.startswith("CREATE TABLE") else None
    server.catalog.rows = {"SELECT current_catalog": [{"catalog": "hive_metastore"}]}
    done = init()
    assert done.code == 2
    assert "the schema maang is in hive_metastore, which can't have Iceberg tables" in done.err
    assert "hint: set --schema or MAANG_SCHEMA to catalog.schema, with a catalog of Unity Catalog" in done.err
    server.catalog.rows = {"SELECT current_catalog": [{"catalog": "main"}]}
    assert "DATA_SOURCE_NOT_FOUND" in init().err


# Dropping


def test_staging_of_another_owner_is_only_a_warning(server: StandIn, maang: Maang) -> None:
    denied = Fault(error="[INSUFFICIENT_PERMISSIONS] User is not an owner of Table. SQLSTATE: 42501")
    server.fault = lambda statement: denied if statement.startswith("DROP") else None
    done = maang("drop-staging", "--date", str(DAY))
    assert done.code == 0
    assert "was not dropped: " in done.err
    assert "User is not an owner" in done.err
    assert done.out.endswith(" was not dropped\n")


# Staging


def test_storage_that_can_not_be_reached_is_named(server: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAANG_WAREHOUSE_WAIT", "0")
    server.storage_url = "http://127.0.0.1:9"
    with (
        closing(WAREHOUSES["databricks"].open(settings.load(), "doctor")) as opened,
        pytest.raises(WarehouseFailed, match="the volume's storage can't be reached: ") as failed,
    ):
        opened.doctor_checks()["volume"]()
    assert failed.value.hint.startswith("let this machine reach the cloud storage of MAANG_VOLUME")


@pytest.fixture
def universe(polygon: PolygonServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """One ticker more than fits into the text of a statement; each has a bar."""
    return serve_tickers(SMALL + 1, polygon, tmp_path, monkeypatch)


def serve_tickers(number: int, polygon: PolygonServer, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    tickers = [f"{letters[n // 676 % 26]}{letters[n // 26 % 26]}{letters[n % 26]}" for n in range(number)]
    (folder / "tickers.txt").write_text("\n".join(tickers))
    monkeypatch.setenv("MAANG_TICKERS", f"@{folder / 'tickers.txt'}")
    polygon.days[DAY] = [row(ticker, DAY, v=1000 + n) for n, ticker in enumerate(tickers)]
    return tickers


def test_day_of_11000_tickers_goes_through_the_volume(
    databricks: StandIn, polygon: PolygonServer, maang: Maang, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve_tickers(11_000, polygon, tmp_path, monkeypatch)
    assert maang("init-tables").code == 0
    databricks.statements.clear()
    done = maang(*RUN)
    assert done.code == 0, done.err
    assert (done.result["promote"]["inserted"], done.result["cumulate"]["inserted"]) == (11_000, 11_000)
    assert len(databricks.statements) == 13
    assert max(map(len, databricks.statements)) < 1_000_000
    assert databricks.uploads
    assert databricks.volume_files() == []


def test_failed_load_leaves_no_file_in_the_volume(server: StandIn, universe: list[str], maang: Maang) -> None:
    denied = Fault(error="[INSUFFICIENT_PERMISSIONS] User does not have CREATE TABLE. SQLSTATE: 42501")
    server.fault = lambda statement: denied if statement.startswith("CREATE OR REPLACE") else None
    done = maang(*RUN)
    assert done.code == 2
    assert "CREATE TABLE" in done.err
    assert server.statements[-1].startswith("REMOVE '/Volumes/main/landing/bars/")
    assert server.uploads
    assert server.volume_files() == []


@pytest.mark.parametrize(("status", "code"), [(403, 2), (404, 2), (500, 0), (503, 0)])
def test_upload_is_retried_unless_the_storage_refuses_it(
    status: int, code: int, server: StandIn, universe: list[str], maang: Maang
) -> None:
    answers = [status]
    server.volume_status = lambda method, path: answers.pop() if method == "PUT" and answers else 200
    done = maang("ingest", "--date", str(DAY))
    assert done.code == code, done.err
    assert ("hint: check that MAANG_VOLUME exists" in done.err) is (code == 2)
    assert ("trying again" in done.err) is (code == 0)
    assert server.volume_files() == []


def test_file_that_cannot_be_removed_is_only_a_warning(server: StandIn, universe: list[str], maang: Maang) -> None:
    server.volume_status = lambda method, path: 403 if method == "DELETE" else 200
    done = maang("ingest", "--date", str(DAY))
    assert done.code == 0, done.err
    assert "was not removed" in done.err


def test_large_load_without_a_volume_exits_2_before_any_request(
    server: StandIn, universe: list[str], maang: Maang, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MAANG_VOLUME")
    done = maang(*RUN)
    assert done.code == 2
    assert "hint: set MAANG_VOLUME" in done.err
    assert server.paths == []


def test_backfill_without_a_volume_has_small_batches(
    server: StandIn, polygon: PolygonServer, maang: Maang, monkeypatch: pytest.MonkeyPatch
) -> None:
    tickers = ",".join(f"T{number}" for number in range(SMALL * 2 // 5))
    plan = ("plan", "--from", "2025-10-13", "--to", "2025-10-17", "--tickers", tickers, "--json")
    assert maang(*plan).result["batches"] == 1
    monkeypatch.delenv("MAANG_VOLUME")
    assert maang(*plan).result["batches"] == 3  # at most two of the five sessions are small enough


NO_SCHEMA = Fault(error="[SCHEMA_NOT_FOUND] The schema cannot be found. SQLSTATE: 42704")


@pytest.mark.parametrize("failures", [1, COMMIT_ATTEMPTS])
def test_staging_creates_a_missing_schema(failures: int, server: StandIn, warehouse: Warehouse) -> None:
    answers = [NO_SCHEMA] * failures
    server.fault = lambda statement: answers.pop() if answers and statement.startswith("CREATE OR REPLACE") else None
    warehouse.stage(staging(TICKERS, [DAY]), arrow_schema(STAGING_COLUMNS).empty_table())
    kinds = [" ".join(statement.split()[:2]) for statement in server.statements]
    assert kinds == ["CREATE OR", "CREATE SCHEMA"] * failures + ["CREATE OR"]


def test_staging_gives_up_after_the_attempts(server: StandIn, warehouse: Warehouse) -> None:
    server.fault = lambda statement: NO_SCHEMA if statement.startswith("CREATE OR REPLACE") else None
    with pytest.raises(WarehouseFailed, match="SCHEMA_NOT_FOUND"):
        warehouse.stage(staging(TICKERS, [DAY]), arrow_schema(STAGING_COLUMNS).empty_table())
    assert sum(statement.startswith("CREATE OR REPLACE") for statement in server.statements) == COMMIT_ATTEMPTS + 1


# Publishing


SPOILED: dict[str, Callable[[str], str]] = {
    "null_prices": lambda name: f"UPDATE {name} SET close = NULL WHERE ticker = 'AAPL'",
    "missing_stocks": lambda name: f"DELETE FROM {name}",
    "duplicates": lambda name: f"INSERT INTO {name} SELECT * FROM {name} WHERE ticker = 'META'",
}


@pytest.mark.parametrize(
    ("check", "moment"), [("null_prices", "WITH maang_in_staging"), *((check, "MERGE INTO") for check in SPOILED)]
)
def test_rows_spoiled_after_the_audit_are_not_published(
    check: str, moment: str, databricks: StandIn, polygon: PolygonServer, maang: Maang
) -> None:
    serve_day(polygon)
    assert maang("init-tables").code == 0
    staged = maang("ingest", "--date", str(DAY), "--json")
    spoil = SPOILED[check](staged.result["staging"])
    spoiled: list[str] = []

    def before(statement: str) -> None:
        if statement.startswith(moment) and not spoiled:
            spoiled.append(statement)
            databricks.catalog.run(spoil)

    databricks.before = before
    done = maang("promote", "--date", str(DAY), "--json")
    assert spoiled
    assert done.code == 3, done.err
    assert [each["name"] for each in done.result["checks"] if each["failing"]] == [check]
    assert databricks.rows("SELECT * FROM maang.daily_stock_prices") == []


@pytest.fixture
def pauses() -> list[float]:
    return []


@pytest.fixture
def publish(server: StandIn, pauses: list[float]) -> Iterator[Callable[[], Replaced]]:
    """Replaces a session of production on a server that finds 3 new rows, 1 changed and 2 unchanged ones, and 1 to delete."""
    assert isinstance(server.catalog, NoEngine)
    preview = {"inserted": 3, "updated": 1, "deleted": 1, "unchanged": 2, "refused": 0, "kinds": None}
    server.catalog.rows = {"WITH": [preview]}
    workspace = databricks_settings.load(settings.load())
    with closing(DatabricksWarehouse(Connection(workspace, {}), "maang", None, wait=pauses.append)) as warehouse:
        query = publish_query(staging(TICKERS, [DAY]), TICKERS, [DAY])
        yield lambda: warehouse.replace(PRODUCTION, query, [DAY])


def test_preview_counts_if_the_merge_does_not(publish: Callable[[], Replaced]) -> None:
    assert publish() == Replaced("maang.daily_stock_prices", 3, 1, 1, 2)


def test_merge_counts_its_rows_itself(server: StandIn, publish: Callable[[], Replaced]) -> None:
    """Another writer may have published some of them after the preview."""
    assert isinstance(server.catalog, NoEngine)
    counts = {"num_affected_rows": 2, "num_updated_rows": 0, "num_deleted_rows": 1, "num_inserted_rows": 1}
    server.catalog.rows["MERGE"] = [counts]
    assert publish() == Replaced("maang.daily_stock_prices", 1, 0, 1, 5)


def test_count_that_differs_from_the_preview_is_a_warning(
    server: StandIn, publish: Callable[[], Replaced], caplog: pytest.LogCaptureFixture
) -> None:
    server.rows_changed = 4
    publish()
    assert "maang.daily_stock_prices: 4 rows were changed, not 5" in caplog.text


@pytest.mark.parametrize("state", ["CANCELED_STATE", "TIMEDOUT_STATE"])
def test_merge_that_is_cancelled_in_the_warehouse_is_not_reported_as_published(
    state: str, server: StandIn, publish: Callable[[], Replaced]
) -> None:
    server.fault = lambda statement: Fault(ends=state, result="direct") if statement.startswith("MERGE") else None
    with pytest.raises(WarehouseFailed, match="the statement was cancelled in the warehouse"):
        publish()
    assert sum(statement.startswith("MERGE") for statement in server.statements) == 1


def test_pause_between_attempts_grows_at_random(server: StandIn, publish: Callable[[], Replaced], pauses: list[float]) -> None:
    conflict = Fault(error="[DELTA_CONCURRENT_APPEND] Files were added. SQLSTATE: 2D521")
    server.fault = lambda statement: conflict if statement.startswith("MERGE") else None
    with pytest.raises(CommitLost, match=f"other writers have changed maang.daily_stock_prices {COMMIT_ATTEMPTS} times in a row"):
        publish()
    assert sum(statement.startswith("MERGE") for statement in server.statements) == COMMIT_ATTEMPTS
    assert sum(statement.startswith("WITH") for statement in server.statements) == COMMIT_ATTEMPTS
    assert len(set(pauses)) == COMMIT_ATTEMPTS - 1
    for number, pause in enumerate(pauses):
        assert 0 <= pause <= min(LONGEST_WAIT_SECONDS, 2**number)


def test_read_as_of_a_time_after_the_last_commit_reads_the_table_as_it_is(server: StandIn, warehouse: Warehouse) -> None:
    assert isinstance(server.catalog, NoEngine)
    late = Fault(error="[DELTA_TIMESTAMP_GREATER_THAN_COMMIT] The last commit is earlier. SQLSTATE: 42816")
    server.fault = lambda statement: late if "TIMESTAMP AS OF" in statement else None
    server.catalog.rows = {"SELECT ticker": [{"ticker": "META"}]}
    read = Read(PRODUCTION, as_of=datetime(2025, 10, 16, tzinfo=UTC))
    assert warehouse.query(Query("SELECT ticker FROM {it}", {"it": read})).to_pylist() == [{"ticker": "META"}]
    assert ["AS OF" in statement for statement in server.statements] == [True, False]


def test_read_as_of_a_time_before_the_history_says_how_long_it_is(server: StandIn, maang: Maang) -> None:
    beyond = "[DELTA_UNSUPPORTED_TIME_TRAVEL_BEYOND_DELETED_FILE_RETENTION_DURATION] Too old. SQLSTATE: 0AKDC"
    server.fault = lambda statement: Fault(error=beyond)
    done = maang("show", "--date", str(DAY), "--as-of", "2025-10-15")
    assert done.code == 2
    assert "has no history as of 2025-10-15" in done.err
    assert "hint: give --as-of a later time, at most 7 days ago" in done.err


def test_partitions_of_other_sessions_are_not_rewritten(databricks: StandIn, polygon: PolygonServer, maang: Maang) -> None:
    for day in (DAY, NEXT_DAY):
        serve_day(polygon, day)
        assert maang("run-day", "--date", str(day)).code == 0
    files = "SELECT file_path FROM maang.daily_stock_prices.files WHERE partition.date = DATE '2025-10-15'"
    before = databricks.rows(files)
    assert before
    polygon.days[DAY] = [row(ticker, DAY, v=77) for ticker in TICKERS[:4]]
    assert maang("run-day", "--date", str(DAY), "--allow-missing", "GOOGL").code == 0
    assert databricks.rows(files) == before
    count = "SELECT count(*) AS rows FROM maang.daily_stock_prices WHERE date = DATE '2025-10-14'"
    assert databricks.rows(count) == [{"rows": 4}]


def test_show_as_of_reads_the_earlier_table(databricks: StandIn, polygon: PolygonServer, maang: Maang) -> None:
    serve_day(polygon)
    assert maang("run-day", "--date", str(DAY)).code == 0
    then = databricks.rows("SELECT max(committed_at) AS then FROM maang.daily_stock_prices.snapshots")[0]["then"]
    polygon.days[DAY] = [row(ticker, DAY, v=77) for ticker in TICKERS]
    assert maang("run-day", "--date", str(DAY)).code == 0

    def volumes(*flags: str) -> set[int]:
        done = maang("show", "--date", str(DAY), "--json", *flags)
        assert done.code == 0, done.err
        return {each["volume"] for each in done.result["rows"]}

    assert volumes() == {77}
    assert volumes("--as-of", then.isoformat()) == {1000}
    early = maang("show", "--date", str(DAY), "--as-of", "2020-01-01")
    assert early.code == 2
    assert "has no history as of 2020-01-01" in early.err


# Cancelling


def test_cancel_stops_the_running_statement_in_the_warehouse(server: StandIn, warehouse: Warehouse) -> None:
    server.fault = lambda statement: Fault(slow=True)
    errors: list[MaangError] = []

    def query() -> None:
        try:
            warehouse.query(Query("SELECT ticker FROM {tickers}", tickers=("META",)))
        except MaangError as exc:
            errors.append(exc)

    thread = threading.Thread(target=query, daemon=True)
    thread.start()
    wait_until(lambda: any(running.polled.is_set() for running in server.running.values()))
    started = time.monotonic()
    warehouse.cancel()
    assert time.monotonic() - started < POLL_SECONDS / 2
    assert server.cancelled == server.statements
    assert len(server.cancelled) == 1
    thread.join(POLL_SECONDS)
    (error,) = errors  # and not an empty result, which the answer looks like
    assert isinstance(error, WarehouseFailed)
    assert "the statement was cancelled" in error.message


@pytest.mark.parametrize(
    ("number", "code", "how"), [(signal.SIGTERM, 143, "terminated"), (signal.SIGINT, 130, "interrupted")], ids=["TERM", "INT"]
)
def test_signal_cancels_the_running_statement(number: signal.Signals, code: int, how: str, server: StandIn) -> None:
    server.fault = lambda statement: Fault(slow=True) if statement.startswith("CREATE TABLE") else None
    argv = [sys.executable, "-m", "maang_cli", "init-tables", "--only", "production"]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: any(running.polled.is_set() for running in server.running.values()))
    started = time.monotonic()
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert time.monotonic() - started < POLL_SECONDS
    assert process.returncode == code
    assert (out, err) == ("", f"error: {how}; published data is intact\nhint: run the same command again to finish\n")
    (cancelled,) = server.cancelled
    assert f"`{PRODUCTION.name}`" in cancelled
    assert server.statements[-1] == cancelled
