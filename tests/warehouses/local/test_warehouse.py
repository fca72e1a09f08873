"""The local warehouse's verbs: what they read, other readers and writers, tables that another program has changed."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyiceberg.table import Table as IcebergTable

from maang_cli import gate, pipeline, sessions
from maang_cli.errors import CommitLost, ExitCode, MaangError, TableMismatch
from maang_cli.request import Request
from maang_cli.retries import COMMIT_ATTEMPTS
from maang_cli.tables import CUMULATIVE, PRODUCTION, Column
from maang_cli.warehouses.base import Query, Read, Size, TableMissing
from maang_cli.warehouses.local import store
from maang_cli.warehouses.local.errors import FileGone
from maang_cli.warehouses.local.retention import Retention
from maang_cli.warehouses.local.warehouse import LocalWarehouse
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
    rows_on_disk,
    staged,
    unreachable,
    without_stamp,
)
from tests.warehouses.local.conftest import LONG_AGO, PRODUCTION_NAME, closes, foreign, open_local

# readers


def test_reader_sees_the_old_rows_or_the_new_ones(local: LocalWarehouse, home: Path) -> None:
    keys = [(day, ticker) for day in (MONDAY, TUESDAY) for ticker in "ABC"]
    versions = [[bar(ticker, day, close=Decimal(close)) for day, ticker in keys] for close in ("10.6", "10.7")]
    publish(local, *versions[0])
    done = threading.Event()

    def write() -> None:
        try:
            for version in [1, 0] * 5:
                publish(local, *versions[version])
        finally:
            done.set()

    seen = []
    with ThreadPoolExecutor(1) as pool, open_local(home) as reader:
        writing = pool.submit(write)
        while not done.is_set():
            seen.append(without_stamp(content(reader)))
        writing.result()
    assert seen
    assert all(rows in versions for rows in seen)


def test_pyiceberg_reads_the_newest_and_the_oldest_snapshot(local: LocalWarehouse, home: Path) -> None:
    publish(local, *closes("10.70"), bar("AAPL", TUESDAY))
    first = content(local)
    publish(local, *closes("10.80"), bar("NFLX", WEDNESDAY))
    assert rows_on_disk(home, PRODUCTION_NAME) == content(local)
    with open_catalog(home) as catalog:
        table = catalog.load_table(PRODUCTION_NAME)
        oldest, _ = sorted(table.snapshots(), key=lambda snapshot: snapshot.sequence_number or 0)
        rows = table.scan(snapshot_id=oldest.snapshot_id).to_arrow().sort_by("ticker").to_pylist()
    assert rows == first


def test_duckdb_reads_a_pyiceberg_scan(local: LocalWarehouse, home: Path) -> None:
    publish(local, *closes("10.70"), bar("AAPL", TUESDAY))
    with open_catalog(home) as catalog, duckdb.connect() as connection:
        connection.register("bars", catalog.load_table(PRODUCTION_NAME).scan(f"date = '{TUESDAY}'").to_arrow())
        assert connection.sql("SELECT sum(close), typeof(any_value(close)) FROM bars").fetchall() == [
            (Decimal("21.45"), "DECIMAL(10,2)")
        ]


def test_description_names_the_folder(local: LocalWarehouse, home: Path) -> None:
    assert local.location == f"{home}/warehouse"
    assert local.describe() == f"on this machine, in {home}/warehouse"
    assert local.doctor_checks() == {}


def test_size_counts_all_files_and_snapshots(local: LocalWarehouse, home: Path) -> None:
    publish(local, *closes("10.70"))
    publish(local, *closes("10.80"))
    files = [path for path in (home / "warehouse/maang/daily_stock_prices").rglob("*") if path.is_file()]
    assert local.size(PRODUCTION) == Size(sum(path.stat().st_size for path in files), snapshots=2)
    with pytest.raises(TableMissing) as caught:
        local.size(CUMULATIVE)
    assert caught.value.table == CUMULATIVE


# what the verbs read


def spoil(home: Path, keep: Sequence[date]) -> int:
    """Make every data file of production unreadable, except those of the sessions `keep`. Returns how many."""
    kept = {f"date={day}" for day in keep}
    data = home / "warehouse/maang/daily_stock_prices/data"
    files = [path for path in data.rglob("*.parquet") if path.parent.name not in kept]
    for path in files:
        path.write_bytes(b"PAR1 spoiled PAR1")
    return len(files)


def test_only_the_needed_partitions_are_read(local: LocalWarehouse, home: Path) -> None:
    days = sessions.between(date(2025, 9, 2), date(2025, 10, 31))
    publish(local, *(bar("META", day) for day in days))
    local.create(CUMULATIVE)
    session = date(2025, 10, 1)
    needed = sessions.between(sessions.window(session)[0], sessions.affected(session)[-1])
    assert spoil(home, needed) == len(days) - 13

    assert pipeline.cumulate(local, Request(("META",), (session,))).replaced.inserted == 7
    assert publish(local, bar("META", session, close=Decimal("10.80"))).updated == 1
    assert publish(local, bar("META", date(2025, 11, 3))).inserted == 1
    one_day = Query("SELECT close FROM {it}", {"it": Read(PRODUCTION, (session, session))})
    assert local.query(one_day)["close"].to_pylist() == [Decimal("10.80")]
    with pytest.raises(MaangError):
        content(local)


def test_query_is_repeated_if_a_file_is_gone(local: LocalWarehouse, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another run replaces the table after the metadata was loaded, and deletes the old files."""
    publish(local, *closes("10.70"))
    run = local._run

    def late(query: Query, relations: dict[str, str]) -> pa.Table:
        monkeypatch.setattr(local, "_run", run)
        with open_local(home, snapshots=1) as other:
            publish(other, *closes("10.80"))
        return run(query, relations)

    monkeypatch.setattr(local, "_run", late)
    assert without_stamp(content(local)) == closes("10.80")


def test_renamed_columns_keep_the_values_of_older_files(local: LocalWarehouse, home: Path) -> None:
    """Iceberg finds a column in a file by its id, not by its name."""
    publish(local, *closes("10.70"))
    for old, new in (("close", "other"), ("vwap", "close"), ("other", "vwap")):
        with open_catalog(home) as catalog, catalog.load_table(PRODUCTION_NAME).update_schema() as update:
            update.rename_column(old, new)
    swapped = bar("META", TUESDAY, close=bar("META", TUESDAY)["vwap"], vwap=Decimal("10.70"))
    assert without_stamp(content(local)) == [swapped]
    assert publish(local, swapped).unchanged == 1


def test_files_without_field_ids_are_read_by_name(local: LocalWarehouse, home: Path, tmp_path: Path) -> None:
    publish(local, bar("AAPL", TUESDAY))
    file = tmp_path / "added.parquet"
    pq.write_table(foreign(bar("META", TUESDAY)), file)
    with open_catalog(home) as catalog:
        catalog.load_table(PRODUCTION_NAME).add_files([f"file://{file}"])
    assert without_stamp(content(local)) == [bar("AAPL", TUESDAY), bar("META", TUESDAY)]
    assert publish(local, bar("META", TUESDAY)).unchanged == 1


# another writer commits first


Interference = Callable[[IcebergTable], object]
Key = tuple[date, str]


class Overtaken(LocalWarehouse):
    """Another program commits to production between a replace's reads and its commit, once for each of `interferences`."""

    interferences: Iterator[Interference] = iter(())

    def _run_on(self, text: str, tables: dict[str, pa.Table]) -> pa.Table:
        merged = super()._run_on(text, tables)
        if interfere := next(self.interferences, None):
            with open_catalog(self._store.root.parent) as catalog:
                interfere(catalog.load_table(PRODUCTION_NAME))
        return merged


@pytest.fixture
def overtaken(home: Path) -> Iterator[Overtaken]:
    """A warehouse with META and OTHER on Monday and Tuesday in production."""
    with closing(Overtaken(home, "maang", Retention(100))) as warehouse:
        warehouse.create(PRODUCTION)
        publish(warehouse, *(bar(ticker, day) for day in (MONDAY, TUESDAY) for ticker in ("META", "OTHER")))
        yield warehouse


META_ON_TUESDAY = f"ticker == 'META' and date == '{TUESDAY}'"
USUAL = {(MONDAY, "META"), (MONDAY, "OTHER"), (TUESDAY, "META"), (TUESDAY, "OTHER")}


@pytest.mark.parametrize(
    ("interfere", "more", "fewer"),
    [
        pytest.param(lambda table: table.append(foreign(bar("NEW", TUESDAY))), {(TUESDAY, "NEW")}, (), id="append"),
        pytest.param(lambda table: table.append(foreign(bar("NEW", MONDAY))), {(MONDAY, "NEW")}, (), id="append-elsewhere"),
        pytest.param(lambda table: table.delete(f"date == '{TUESDAY}'"), (), {(TUESDAY, "OTHER")}, id="delete"),
        pytest.param(
            lambda table: table.delete(f"date == '{MONDAY}'"), (), {(MONDAY, "META"), (MONDAY, "OTHER")}, id="delete-elsewhere"
        ),
        pytest.param(lambda table: table.delete(META_ON_TUESDAY), (), (), id="delete-the-same-row"),
        pytest.param(lambda table: table.overwrite(foreign(*closes("99")), META_ON_TUESDAY), (), (), id="update-the-same-row"),
    ],
)
def test_commit_of_another_program_is_never_lost(
    overtaken: Overtaken, home: Path, interfere: Interference, more: Collection[Key], fewer: Collection[Key]
) -> None:
    overtaken.interferences = iter([interfere])
    assert publish(overtaken, *closes("10.80")).changed
    assert next(overtaken.interferences, None) is None
    rows = rows_on_disk(home, PRODUCTION_NAME)
    found = {(row["date"], row["ticker"]): row["close"] for row in rows}
    assert len(found) == len(rows)
    assert found.keys() == USUAL.union(more).difference(fewer)
    assert found[TUESDAY, "META"] == Decimal("10.80")
    assert unreachable(home) == []


def test_session_that_another_program_begins_has_each_row_once(overtaken: Overtaken, home: Path) -> None:
    theirs = foreign(bar("META", WEDNESDAY, close=Decimal(99)), bar("NEW", WEDNESDAY))
    overtaken.interferences = iter([lambda table: table.append(theirs)])
    done = publish(overtaken, bar("META", WEDNESDAY))
    assert (done.inserted, done.updated) == (0, 1)
    wednesday = [row for row in rows_on_disk(home, PRODUCTION_NAME) if row["date"] == WEDNESDAY]
    assert without_stamp(wednesday) == [bar("META", WEDNESDAY), bar("NEW", WEDNESDAY)]


def test_row_that_another_program_made_equal_is_unchanged(overtaken: Overtaken, home: Path) -> None:
    overtaken.interferences = iter([lambda table: table.overwrite(foreign(*closes("10.80")), META_ON_TUESDAY)])
    done = publish(overtaken, *closes("10.80"))
    assert (done.updated, done.unchanged) == (0, 1)
    (row,) = (row for row in rows_on_disk(home, PRODUCTION_NAME) if (row["date"], row["ticker"]) == (TUESDAY, "META"))
    assert row["insertion_timestamp"] == LONG_AGO


def test_replace_overtaken_on_every_attempt_publishes_nothing(overtaken: Overtaken, home: Path) -> None:
    before = content(overtaken)
    names = (f"NEW{n:02}" for n in itertools.count())
    overtaken.interferences = iter(lambda: lambda table: table.append(foreign(bar(next(names), TUESDAY))), None)
    with pytest.raises(CommitLost) as caught:
        publish(overtaken, *closes("10.80"))
    assert caught.value.exit_code == ExitCode.MAY_HEAL
    assert "run the same command again" in caught.value.hint
    after = content(overtaken)
    assert [row for row in after if not str(row["ticker"]).startswith("NEW")] == before
    assert len(after) == len(before) + COMMIT_ATTEMPTS
    assert unreachable(home) == []


def test_staging_that_another_program_changes_is_a_lost_commit(
    local: LocalWarehouse, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"maang.{STAGING.name}"
    local.stage(STAGING, staged([bar("META", TUESDAY)]))
    commit = local._store.commit

    def late(*args: Any) -> None:
        with open_catalog(home) as catalog:
            catalog.load_table(name).delete()
        commit(*args)

    monkeypatch.setattr(local._store, "commit", late)
    with pytest.raises(CommitLost, match=name) as caught:
        local.stage(STAGING, staged([bar("AAPL", TUESDAY)]))
    assert "run the same command again" in caught.value.hint
    assert content(local, STAGING) == []
    assert unreachable(home) == []


def test_replace_is_computed_again_if_a_file_is_gone(local: LocalWarehouse, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = local._run

    def gone(query: Query, relations: dict[str, str]) -> pa.Table:
        monkeypatch.setattr(local, "_run", run)
        raise FileGone("another program has deleted it", hint="")

    local.stage(STAGING, staged(closes("10.80")))
    monkeypatch.setattr(local, "_run", gone)
    done = local.replace(PRODUCTION, gate.publish_query(STAGING, ["META"], [TUESDAY]), [TUESDAY])
    assert done.inserted == 1
    assert without_stamp(content(local)) == closes("10.80")
    assert unreachable(home) == []


@pytest.mark.parametrize("times", [COMMIT_ATTEMPTS - 1, COMMIT_ATTEMPTS])
def test_maintain_is_repeated_if_another_program_commits(
    local: LocalWarehouse, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    clean_up, attempts = local._store.clean_up, itertools.count(1)

    def late(name: str) -> tuple[int, int, int]:
        if next(attempts) <= times:
            raise store.Overtaken
        return clean_up(name)

    monkeypatch.setattr(local._store, "clean_up", late)
    if times < COMMIT_ATTEMPTS:
        assert [done.table for done in local.maintain()] == [PRODUCTION_NAME]
    else:
        with pytest.raises(CommitLost, match=PRODUCTION_NAME):
            local.maintain()


# tables that another program has changed


@pytest.mark.parametrize(
    "copies", [closes("10.75"), closes("99"), closes("99", "10.75", "10.75")], ids=["same", "other", "several"]
)
@pytest.mark.parametrize("stamp", [LONG_AGO, datetime(2050, 1, 1, tzinfo=UTC)], ids=["older", "newer"])
def test_further_copies_of_a_row_are_removed(local: LocalWarehouse, home: Path, copies: list[Row], stamp: datetime) -> None:
    rows = [bar("META", TUESDAY), bar("OTHER", TUESDAY)]
    publish(local, *rows)
    with open_catalog(home) as catalog:
        catalog.load_table(PRODUCTION_NAME).append(foreign(*copies, stamp=stamp))
    assert len(content(local)) == 2 + len(copies)
    assert publish(local, rows[0]).deleted == len(copies)
    assert without_stamp(content(local)) == rows


@pytest.mark.parametrize("name", ["note", "a b", 'we"ird', "select", "n", "o", "copy", "outcome", "Ticker", "ünïcode"])
def test_extra_column_may_have_any_name(home: Path, name: str) -> None:
    wide = replace(PRODUCTION, columns=(*PRODUCTION.columns, Column(name, "STRING", "A user's own")))
    with open_local(home) as warehouse:
        warehouse.create(wide)
        rows = foreign(bar("KEPT", TUESDAY), bar("META", TUESDAY), bar("OTHER", TUESDAY))
        with open_catalog(home) as catalog:
            catalog.load_table(PRODUCTION_NAME).append(rows.append_column(name, [["one", "two", "three"]]))
        publish(warehouse, bar("KEPT", TUESDAY), bar("NEW", TUESDAY), *closes("10.80"))
    found = {row["ticker"]: row[name] for row in rows_on_disk(home, PRODUCTION_NAME)}
    assert found == {"KEPT": "one", "META": "two", "OTHER": "three", "NEW": None}


def test_table_with_other_partitions_is_a_mismatch(home: Path) -> None:
    with open_local(home) as warehouse:
        warehouse.create(replace(PRODUCTION, stamp=None))
        with pytest.raises(TableMismatch, match="date expected"):
            warehouse.create(PRODUCTION)


def test_optional_column_that_is_required_is_a_mismatch(home: Path) -> None:
    strict = tuple(replace(column, required=True) if column.name == "vwap" else column for column in PRODUCTION.columns)
    with open_local(home) as warehouse:
        warehouse.create(replace(PRODUCTION, columns=strict))
        with pytest.raises(TableMismatch, match="vwap is required"):
            warehouse.create(PRODUCTION)
