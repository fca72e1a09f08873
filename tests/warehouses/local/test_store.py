"""The local warehouse on disk: one commit and one snapshot for each write, one writer, the tables' schemas, the folder."""

from __future__ import annotations

import logging
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import date
from pathlib import Path

import pytest
from pyiceberg.table import Transaction

from maang_cli.errors import ExitCode, WarehouseFailed
from maang_cli.tables import CUMULATIVE, PRODUCTION, Table
from maang_cli.warehouses.base import Query, Read, TableMissing
from maang_cli.warehouses.local.retention import Retention
from maang_cli.warehouses.local.store import Store
from maang_cli.warehouses.local.waiting import Waiting
from maang_cli.warehouses.local.warehouse import LocalWarehouse
from tests.conftest import Maang
from tests.warehouses.conftest import (
    MONDAY,
    STAGING,
    TUESDAY,
    WEDNESDAY,
    Row,
    bar,
    content,
    open_catalog,
    publish,
    staged,
    unreachable,
)
from tests.warehouses.local.conftest import PRODUCTION_NAME, RUN_DAY, closes, must_fail, open_local

# one commit, one snapshot


def snapshots_and_commits(home: Path) -> tuple[int, int]:
    """How many snapshots production has, and how often the catalog's pointer to it has moved."""
    with open_catalog(home) as catalog:
        table = catalog.load_table(PRODUCTION_NAME)
        return len(table.snapshots()), int(Path(table.metadata_location).name.split("-")[0])


@pytest.mark.parametrize(
    ("rows", "tickers", "days"),
    [
        pytest.param([bar("META", WEDNESDAY)], ["META"], [WEDNESDAY], id="insert"),
        pytest.param(closes("10.80"), ["META"], [TUESDAY], id="update"),
        pytest.param([], ["META"], [TUESDAY], id="delete"),
        pytest.param([], ["AAPL", "META"], [TUESDAY], id="empty-a-partition"),
        pytest.param(
            [bar("AAPL", MONDAY), *closes("10.80"), bar("AAPL", WEDNESDAY)],
            ["AAPL", "META"],
            [MONDAY, TUESDAY, WEDNESDAY],
            id="all-of-these",
        ),
    ],
)
def test_replace_is_one_commit_and_one_snapshot(
    local: LocalWarehouse, home: Path, rows: list[Row], tickers: list[str], days: list[date]
) -> None:
    publish(local, bar("META", MONDAY), bar("AAPL", TUESDAY), bar("META", TUESDAY))
    snapshots, commits = snapshots_and_commits(home)
    assert publish(local, *rows, tickers=tickers, sessions=days).changed
    assert snapshots_and_commits(home) == (snapshots + 1, commits + 1)


def test_replace_without_a_change_commits_nothing(local: LocalWarehouse, home: Path) -> None:
    rows = [bar("META", MONDAY), bar("META", TUESDAY)]
    publish(local, *rows)
    before = snapshots_and_commits(home)
    publish(local, *rows)
    publish(local, tickers=["NFLX"], sessions=[MONDAY, TUESDAY, WEDNESDAY])
    assert snapshots_and_commits(home) == before


def test_unchanged_sessions_keep_their_files(local: LocalWarehouse, home: Path) -> None:
    publish(local, bar("META", MONDAY), bar("META", TUESDAY))

    def files() -> dict[str, set[str]]:
        with open_catalog(home) as catalog:
            paths = [Path(task.file.file_path) for task in catalog.load_table(PRODUCTION_NAME).scan().plan_files()]
        return {folder: {path.name for path in paths if path.parent.name == folder} for folder in {p.parent.name for p in paths}}

    before = files()
    publish(local, bar("META", MONDAY), *closes("10.80"))
    after = files()
    assert after["date=2025-10-13"] == before["date=2025-10-13"]
    assert after["date=2025-10-14"].isdisjoint(before["date=2025-10-14"])


# one writer


def test_second_writer_waits_and_then_gives_up(local: LocalWarehouse, home: Path) -> None:
    with local._store.writing(STAGING.name), open_local(home, waiting=0.1) as other:
        with pytest.raises(WarehouseFailed, match=r"another maang is writing to .*; this run has waited for 0\.1 s") as caught:
            other.stage(STAGING, staged([]))
        assert content(other) == []  # a reader does not wait
    assert "run the same command again" in caught.value.hint
    assert unreachable(home) == []


def test_waiting_is_said_once_and_limited_for_all_steps_together(
    local: LocalWarehouse, home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with local._store.writing(STAGING.name), open_local(home, waiting=1.2) as other:
        for _ in range(2):
            with pytest.raises(WarehouseFailed, match=r"this run has waited for 1\.2 s"):
                other.stage(STAGING, staged([]))
    assert caplog.text.count(f"waiting: another maang is writing to {home}/warehouse") == 1


class Release(logging.Handler):
    """Ends another program's transaction as soon as maang says that it waits."""

    def __init__(self, other: sqlite3.Connection) -> None:
        super().__init__()
        self.other = other
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())
        self.other.execute("ROLLBACK")


def test_locked_catalog_is_waited_for(local: LocalWarehouse, home: Path) -> None:
    path = home / "warehouse/catalog.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        release = Release(other)
        logging.getLogger("maang").addHandler(release)
        try:
            other.execute("BEGIN EXCLUSIVE")
            assert content(local) == []
        finally:
            logging.getLogger("maang").removeHandler(release)
        assert release.lines == [f"waiting: another program has locked {path}"]
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(WarehouseFailed, match=r"has locked .*; this run has waited for 0\.1 s") as caught:
            open_local(home, waiting=0.1)
    assert caught.value.exit_code == ExitCode.MAY_HEAL


def test_table_without_metadata_in_the_catalog_does_not_exist_until_it_is_created(local: LocalWarehouse, home: Path) -> None:
    with closing(sqlite3.connect(home / "warehouse/catalog.db")) as opened, opened:
        for name in (STAGING.name, CUMULATIVE.name):
            opened.execute(
                "INSERT INTO iceberg_tables (catalog_name, table_namespace, table_name) VALUES ('maang', 'maang', ?)", (name,)
            )
    with pytest.raises(TableMissing):
        local.query(Query("SELECT * FROM {it}", {"it": Read(CUMULATIVE)}))
    assert [done.snapshots for done in local.maintain()] == [0, 0, 0]
    assert local.create(CUMULATIVE)
    assert not local.create(CUMULATIVE)
    assert publish(local, bar("META", MONDAY)).inserted == 1
    assert local.drop(STAGING)
    assert unreachable(home) == []


def test_table_whose_location_was_lost_is_found_again(
    local: LocalWarehouse, home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    publish(local, bar("META", MONDAY))
    before = content(local)
    with closing(sqlite3.connect(home / "warehouse/catalog.db")) as opened, opened:
        opened.execute("UPDATE iceberg_tables SET metadata_location = NULL, previous_metadata_location = NULL")
    assert content(local) == before
    assert "maang.daily_stock_prices is again as of" in caplog.text


def test_catalog_is_created_once_by_several_runs(home: Path) -> None:
    together = threading.Barrier(4)

    def create() -> bool:
        together.wait()
        with closing(Store(home / "warehouse", "maang", Retention(1), Waiting(10))) as opened:
            return opened.create_schema()

    with ThreadPoolExecutor(4) as pool:
        created = [each.result() for each in [pool.submit(create) for _ in range(4)]]
    assert sorted(created) == [False, False, False, True]


def test_table_that_another_writer_creates_first_is_used(home: Path) -> None:
    class Slow(LocalWarehouse):
        """Another writer creates the table just after this one found that it does not exist."""

        def create(self, table: Table) -> bool:
            begin = self._store.creation

            def late(table: Table) -> Transaction:
                transaction = begin(table)
                begin(table).commit_transaction()
                return transaction

            self._store.creation = late  # type: ignore[method-assign]
            return super().create(table)

    with closing(Slow(home, "maang", Retention(100))) as warehouse:
        assert warehouse.create(PRODUCTION) is False
    assert unreachable(home) == []


# the tables' schemas


DOCUMENTED = {
    PRODUCTION: "ticker string, date date, open decimal(10, 2), high decimal(10, 2), low decimal(10, 2), close decimal(10, 2), "
    "volume long, vwap decimal(10, 2), transactions int, insertion_timestamp timestamptz",
    CUMULATIVE: "ticker string, date date, last_7_days_open list<decimal(10, 2)>, last_7_days_high list<decimal(10, 2)>, "
    "last_7_days_low list<decimal(10, 2)>, last_7_days_close list<decimal(10, 2)>, last_7_days_volume list<long>, "
    "avg_7_day_volume decimal(15, 2), volatility_7_day decimal(10, 4), updated_at timestamptz",
    STAGING: "session date, ticker string, date date, open decimal(38, 2), high decimal(38, 2), low decimal(38, 2), "
    "close decimal(38, 2), volume decimal(38, 0), vwap decimal(38, 2), transactions decimal(38, 0), fetched_at timestamptz",
}


@pytest.mark.parametrize("table", [pytest.param(table, id=table.name) for table in DOCUMENTED])
def test_iceberg_schema_is_the_documented_one(local: LocalWarehouse, home: Path, table: Table) -> None:
    local.create(table)
    with open_catalog(home) as catalog:
        found = catalog.load_table(("maang", table.name))
    fields = found.schema().fields
    assert ", ".join(f"{field.name} {field.field_type}" for field in fields) == DOCUMENTED[table]
    assert [field.name for field in fields if field.required] == ([] if table is STAGING else ["ticker", "date"])
    assert [field.doc for field in fields] == [column.comment for column in table.columns]
    assert all(field.doc for field in fields)
    spec = [(found.schema().find_column_name(field.source_id), str(field.transform), field.name) for field in found.spec().fields]
    assert spec == ([] if table is STAGING else [("date", "identity", "date")])


# the folder


@pytest.mark.parametrize(
    "name",
    ["with spaces", "ünïcödé 日", "a%20b%", "a+b&c;d", 'it\'s "quoted"', "{schema}[0]*", "file:x", "a\\b"],
)
def test_any_folder_can_be_the_home(maang: Maang, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "homes" / name
    assert maang(*RUN_DAY, "--home", str(folder)).code == 0
    again = maang(*RUN_DAY, "--home", str(folder))
    assert (again.code, again.err) == (0, "")
    assert [path.name for path in (tmp_path / "homes").iterdir()] == [name]
    assert len(list((folder / "warehouse/maang_sample").rglob("*.parquet"))) == 2


@pytest.mark.parametrize("name", ["a#b", "a?b=c"])
def test_home_that_pyiceberg_cannot_use_is_refused(maang: Maang, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "homes" / name
    must_fail(maang(*RUN_DAY, "--home", str(folder)), ExitCode.UNUSABLE, str(folder), "MAANG_HOME")
    assert not folder.exists()


@pytest.mark.parametrize("catalog_is", [None, b""], ids=["missing", "empty"])
def test_tables_without_their_catalog_are_not_replaced_by_new_ones(maang: Maang, home: Path, catalog_is: bytes | None) -> None:
    assert maang(*RUN_DAY).code == 0
    catalog = home / "warehouse/catalog.db"
    complete = catalog.read_bytes()
    catalog.unlink()
    if catalog_is is not None:
        catalog.write_bytes(catalog_is)
    must_fail(maang(*RUN_DAY), ExitCode.UNUSABLE, str(catalog), "MAANG_HOME")
    catalog.write_bytes(complete)
    assert maang(*RUN_DAY).code == 0
    assert unreachable(home) == []
