"""History and files: expired snapshots go with their files, and no file stays that the catalog does not reach."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from pyiceberg.table import Table as IcebergTable

from maang_cli import sessions
from maang_cli.errors import SettingsError
from maang_cli.tables import PRODUCTION
from maang_cli.warehouses.base import GateFailed, Query, Read
from maang_cli.warehouses.local import disk, retention
from maang_cli.warehouses.local.retention import Retention
from maang_cli.warehouses.local.warehouse import LocalWarehouse
from tests.conftest import Maang
from tests.warehouses.conftest import (
    MONDAY,
    STAGING,
    TUESDAY,
    WEDNESDAY,
    bar,
    content,
    open_catalog,
    publish,
    staged,
    unreachable,
)
from tests.warehouses.local.conftest import PRODUCTION_NAME, closes, open_local


def run_day(maang: Maang, day: str, tickers: str) -> None:
    assert maang("run-day", "--date", day, "--source", "sample", "--tickers", tickers).code == 0


def files(home: Path) -> int:
    return sum(path.is_file() for path in (home / "warehouse").rglob("*"))


# `unreachable`, which these tests rely on


@pytest.mark.parametrize("name", ["data/date=2025-10-14/x.parquet", "metadata/x.avro", "metadata/00009-x.metadata.json"])
def test_unreachable_files_are_found(maang: Maang, home: Path, name: str) -> None:
    run_day(maang, "2025-10-14", "META")
    assert unreachable(home) == []
    (home / "warehouse/maang_sample/daily_stock_prices" / name).write_text("leftover")
    (home / "warehouse/maang_sample/daily_stock_prices_staging_x/metadata").mkdir(parents=True)
    (home / "warehouse/journal.json").write_text("{}")
    assert unreachable(home) == [
        "journal.json",
        f"maang_sample/daily_stock_prices/{name}",
        "maang_sample/daily_stock_prices_staging_x",
    ]


# no unreachable files


def test_days_leave_no_unreachable_file(maang: Maang, home: Path) -> None:
    for day in ("2025-10-14", "2025-10-13", "2025-10-15", "2025-10-14"):
        run_day(maang, day, "META,AAPL")
    run_day(maang, "2025-10-14", "AAPL,NFLX")
    assert unreachable(home) == []
    assert {path.name for path in (home / "warehouse/maang_sample").iterdir()} == {
        "daily_stock_prices",
        "daily_stock_prices_cumulative",
        "daily_stock_prices_findings",
        "daily_stock_prices_splits",
    }


def test_unchanged_day_adds_no_file(maang: Maang, home: Path) -> None:
    run_day(maang, "2025-10-14", "META")
    before = files(home)
    run_day(maang, "2025-10-14", "META")
    assert files(home) == before


def test_refused_replace_and_repeated_stage_leave_no_unreachable_file(home: Path) -> None:
    with open_local(home) as warehouse:
        warehouse.create(PRODUCTION)
        publish(warehouse, bar("META", TUESDAY))
        with pytest.raises(GateFailed):
            publish(warehouse, bar("META", TUESDAY), refuse_if=Query("SELECT ticker FROM {it}", {"it": Read(STAGING)}))
        warehouse.stage(STAGING, staged([]))
        assert unreachable(home) == []
        warehouse.drop(STAGING)
    assert unreachable(home) == []


@pytest.mark.parametrize("keep", [1, 3])
def test_files_of_expired_snapshots_are_deleted(home: Path, keep: int) -> None:
    """Inserts, corrections of old sessions and deletions, and enough of them that PyIceberg merges manifests."""
    with open_local(home, keep) as warehouse:
        warehouse.create(PRODUCTION)
        for number, day in enumerate(sessions.between(MONDAY, sessions.affected(WEDNESDAY)[-1])):
            publish(warehouse, bar("META", day))
            publish(warehouse, bar("META", MONDAY, volume=Decimal(2000 + number)), bar("AAPL", day))
            publish(warehouse, tickers=["AAPL"], sessions=[day])
            assert unreachable(home) == [], day


def test_long_history_leaves_no_unreachable_file(home: Path) -> None:
    """Long enough that manifests are merged and old metadata files are deleted."""
    days = sessions.between(MONDAY, MONDAY + timedelta(days=60))
    with open_local(home, snapshots=10) as warehouse:
        warehouse.create(PRODUCTION)
        for day in days:
            publish(warehouse, bar("META", day))
            warehouse.drop(STAGING)
    assert len(days) > 40
    assert unreachable(home) == []
    with open_catalog(home) as catalog:
        snapshot = catalog.load_table(PRODUCTION_NAME).current_snapshot()
        assert snapshot is not None
        assert len(list((home / "warehouse/maang/daily_stock_prices/metadata").iterdir())) < len(days) + 2 * 10


# which snapshots are kept


def history(home: Path) -> list[list[Decimal]]:
    """META's closes in each snapshot of production, oldest first."""
    with open_catalog(home) as catalog:
        table = catalog.load_table(PRODUCTION_NAME)
        ordered = sorted(table.snapshots(), key=lambda snapshot: snapshot.sequence_number or 0)
        return [table.scan(snapshot_id=snapshot.snapshot_id).to_arrow()["close"].to_pylist() for snapshot in ordered]


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_last_snapshots_are_kept_and_older_ones_expire(home: Path, keep: int) -> None:
    with open_local(home, keep) as warehouse:
        warehouse.create(PRODUCTION)
        long_ago = datetime.now(UTC)
        for number, row in enumerate(closes("10.1", "10.2", "10.3", "10.4", "10.5"), 1):
            publish(warehouse, row)
            assert len(history(home)) == min(number, keep)
        assert history(home) == [[Decimal(f"10.{n}0")] for n in range(6 - keep, 6)]
        with pytest.raises(SettingsError):
            content(warehouse, as_of=long_ago)


def three_snapshots(local: LocalWarehouse) -> IcebergTable:
    """Production with three snapshots."""
    for row in closes("10.1", "10.2", "10.3"):
        publish(local, row)
    table = local._store.load(PRODUCTION.name)
    assert table is not None
    return table


@pytest.mark.parametrize(
    ("keep", "age", "number"),
    [
        pytest.param(Retention(3), 1000, 0, id="any-age"),
        pytest.param(Retention(2), 0, 1, id="too-many"),
        pytest.param(Retention(3, 2), 1, 0, id="young"),
        pytest.param(Retention(3, 2), 3, 2, id="too-old-but-for-the-newest"),
        pytest.param(Retention(1, 2), 1, 2, id="too-many-but-young"),
    ],
)
def test_snapshots_expire_by_number_and_by_age(local: LocalWarehouse, keep: Retention, age: int, number: int) -> None:
    """`age`: how old the newest snapshot is, in days. `number`: how many snapshots expire."""
    metadata = three_snapshots(local).metadata
    ids = [snapshot.snapshot_id for snapshot in sorted(metadata.snapshots, key=lambda each: each.sequence_number or 0)]
    now = datetime.now(UTC).timestamp() + age * 24 * 3600
    assert retention.expired(metadata, keep, now) == ids[:number]


def tag_the_first_snapshot(home: Path) -> None:
    with open_catalog(home) as catalog:
        table = catalog.load_table(PRODUCTION_NAME)
        table.manage_snapshots().create_tag(table.snapshots()[0].snapshot_id, "audited").commit()


@pytest.mark.parametrize("keep", [1, 2])
def test_tagged_snapshot_is_kept_with_its_files(home: Path, keep: int) -> None:
    with open_local(home, keep) as warehouse:
        warehouse.create(PRODUCTION)
        publish(warehouse, *closes("10.1"))
        tag_the_first_snapshot(home)
        for row in closes("10.2", "10.3", "10.4", "10.5"):
            publish(warehouse, row)
    assert history(home) == [[Decimal("10.10")], [Decimal("10.40")], [Decimal("10.50")]][:: 1 if keep == 2 else 2]
    with open_catalog(home) as catalog:
        table = catalog.load_table(PRODUCTION_NAME)
        tagged = table.snapshot_by_name("audited")
        assert tagged is not None
        assert table.scan(snapshot_id=tagged.snapshot_id).to_arrow()["close"].to_pylist() == [Decimal("10.10")]


def make_old(folder: Path) -> None:
    """Everything in the folder was last changed two days ago."""
    two_days_ago = datetime.now(UTC).timestamp() - 2 * 24 * 3600
    for path in folder.rglob("*"):
        os.utime(path, (two_days_ago, two_days_ago))


def roll_back(home: Path, number: int) -> None:
    """Another program makes the snapshot of this number, counted from the oldest, the current one."""
    with open_catalog(home) as catalog:
        table = catalog.load_table(PRODUCTION_NAME)
        ordered = sorted(table.snapshots(), key=lambda snapshot: snapshot.sequence_number or 0)
        table.manage_snapshots().rollback_to_snapshot(ordered[number].snapshot_id).commit()


def test_commit_after_a_rollback_keeps_the_files_of_kept_snapshots(home: Path) -> None:
    """The oldest snapshot has two children. What one of them deleted, the other one still has."""
    with open_local(home, snapshots=2) as warehouse:
        warehouse.create(PRODUCTION)
        publish(warehouse, bar("META", MONDAY), *closes("10.1"))
        publish(warehouse, bar("META", WEDNESDAY))
        roll_back(home, 0)
        publish(warehouse, *closes("10.3"))
    assert [sorted(prices) for prices in history(home)] == [
        [Decimal("10.10"), Decimal("10.75"), Decimal("10.75")],
        [Decimal("10.30"), Decimal("10.75")],
    ]


def test_maintain_after_a_rollback_keeps_the_current_rows(home: Path) -> None:
    """The current snapshot is older than those that expire."""
    with open_local(home) as warehouse:
        warehouse.create(PRODUCTION)
        publish(warehouse, bar("META", MONDAY), *closes("10.1"))
        before = content(warehouse)
        publish(warehouse, bar("META", WEDNESDAY))
        publish(warehouse, *closes("10.3"))
        roll_back(home, 0)
    with open_local(home, snapshots=1) as warehouse:
        assert content(warehouse) == before
        warehouse.maintain()
        assert content(warehouse) == before
        assert publish(warehouse, bar("META", MONDAY), *closes("10.1")).unchanged == 2
        assert unreachable(home)  # the expired snapshot's files, until they are a day old
        make_old(home / "warehouse")
        warehouse.maintain()
        assert unreachable(home) == []
        assert content(warehouse) == before


# maintain


@pytest.mark.parametrize("after_commit", [True, False])
def test_killed_maintain_is_finished_by_the_next_run(home: Path, monkeypatch: pytest.MonkeyPatch, *, after_commit: bool) -> None:
    """It is killed between its commit and the deletion of the expired files, or just before the commit."""

    class Killed(BaseException):
        pass

    def kill(*arguments: object) -> None:
        if not isinstance(arguments[0], Iterator) and arguments[0]:
            raise Killed

    with open_local(home) as warehouse:
        warehouse.create(PRODUCTION)
        three_snapshots(warehouse)
        warehouse.drop(STAGING)
    with open_local(home, snapshots=1) as killed, monkeypatch.context() as patched:
        if after_commit:
            patched.setattr(disk, "delete", kill)
        else:
            patched.setattr(killed._store.catalog, "_point", kill)
        patched.setattr(killed._store._journal, "clean_up", lambda *_: None)
        with pytest.raises(Killed):
            killed.maintain()
    assert unreachable(home)
    with open_local(home) as warehouse:
        assert not warehouse.create_schema()
        assert unreachable(home) == []
        assert warehouse.size(PRODUCTION).snapshots == (1 if after_commit else 3)


def test_file_that_only_a_deleted_entry_names_is_removed(home: Path) -> None:
    """The snapshot that had it expired without its files, as another engine expires snapshots."""
    with open_local(home) as warehouse:
        warehouse.create(PRODUCTION)
        publish(warehouse, *closes("10.1"))
        publish(warehouse, *closes("10.2"))
        table = warehouse._store.load(PRODUCTION.name)
        assert table is not None
        oldest = min(table.metadata.snapshots, key=lambda snapshot: snapshot.sequence_number or 0)
        table.maintenance.expire_snapshots().by_id(oldest.snapshot_id).commit()
        make_old(home / "warehouse")
        assert any(name.endswith(".parquet") for name in unreachable(home))
        warehouse.maintain()
        assert unreachable(home) == []


def test_maintain_beside_a_writer_exits_0(home: Path) -> None:
    """The writer's files come and go while they are counted."""
    with open_local(home) as warehouse:
        warehouse.create(PRODUCTION)
    done = threading.Event()

    def write() -> None:
        try:
            with open_local(home, snapshots=1) as writer:
                for number in range(15):
                    publish(writer, *closes(f"10.{number:02}"))
                    writer.drop(STAGING)
        finally:
            done.set()

    with ThreadPoolExecutor(1) as pool, open_local(home, snapshots=1) as warehouse:
        writing = pool.submit(write)
        while not done.is_set():
            warehouse.size(PRODUCTION)
            warehouse.maintain()
        writing.result()


def test_maintain_expires_snapshots_and_reports_them(home: Path) -> None:
    with open_local(home) as warehouse:
        warehouse.create(PRODUCTION)
        three_snapshots(warehouse)
    with open_local(home, snapshots=1) as warehouse:
        before = warehouse.size(PRODUCTION)
        done = {each.table: each for each in warehouse.maintain()}
        after = warehouse.size(PRODUCTION)
        assert (before.snapshots, after.snapshots) == (3, 1)
        found = done[PRODUCTION_NAME]
        assert (found.snapshots, found.files > 0) == (2, True)
        assert before.bytes is not None
        assert after.bytes == before.bytes - found.bytes < before.bytes
    assert unreachable(home) == []
    assert history(home) == [[Decimal("10.30")]]


def test_maintain_removes_only_old_unreachable_files_that_iceberg_writes(local: LocalWarehouse, home: Path) -> None:
    publish(local, bar("META", TUESDAY))
    folder = home / "warehouse/maang/daily_stock_prices"
    old = [folder / name for name in ("data/x.parquet", "metadata/x.avro", "metadata/x.json")]
    kept = [folder / name for name in ("data/new.parquet", "data/notes.txt")]
    for path in (*old, *kept):
        path.write_bytes(b"x")
    make_old(folder)
    os.utime(folder / "data/new.parquet")
    (done,) = (each for each in local.maintain() if each.table == PRODUCTION_NAME)
    assert (done.snapshots, done.files) == (0, 3)
    assert [path.exists() for path in (*old, *kept)] == [False] * 3 + [True] * 2
    assert unreachable(home) == sorted(str(path.relative_to(home / "warehouse")) for path in kept)
