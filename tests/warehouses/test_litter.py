"""The local warehouse leaves no file behind that its catalog does not lead to."""

from __future__ import annotations

from contextlib import closing
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from maang_cli import sessions
from maang_cli.tables import PRODUCTION
from maang_cli.warehouses.base import Forbidden, Query, Read
from maang_cli.warehouses.local import LocalWarehouse
from tests.conftest import Maang
from tests.warehouses.conftest import MONDAY, STAGING, TUESDAY, WEDNESDAY, bar, open_catalog, publish, staged, unreachable


def run_day(maang: Maang, day: str, tickers: str) -> None:
    assert maang("run-day", "--date", day, "--source", "sample", "--tickers", tickers).code == 0


def files(home: Path) -> int:
    return sum(path.is_file() for path in (home / "warehouse").rglob("*"))


@pytest.mark.parametrize("name", ["data/date=2025-10-14/x.parquet", "metadata/x.avro", "metadata/00009-x.metadata.json"])
def test_a_stray_file_is_found(maang: Maang, home: Path, name: str) -> None:
    run_day(maang, "2025-10-14", "META")
    assert unreachable(home) == []
    (home / "warehouse/maang_sample/daily_stock_prices" / name).write_text("stray")
    (home / "warehouse/maang_sample/daily_stock_prices_staging_x/metadata").mkdir(parents=True)
    (home / "warehouse/write.json").write_text("{}")
    assert unreachable(home) == [
        f"maang_sample/daily_stock_prices/{name}",
        "maang_sample/daily_stock_prices_staging_x",
        "write.json",
    ]


def test_days_leave_nothing_behind(maang: Maang, home: Path) -> None:
    for day in ("2025-10-14", "2025-10-13", "2025-10-15", "2025-10-14"):
        run_day(maang, day, "META,AAPL")
    run_day(maang, "2025-10-14", "AAPL,NFLX")
    assert unreachable(home) == []
    assert {path.name for path in (home / "warehouse/maang_sample").iterdir()} == {
        "daily_stock_prices",
        "daily_stock_prices_cumulative",
    }


def test_an_unchanged_day_adds_no_file(maang: Maang, home: Path) -> None:
    run_day(maang, "2025-10-14", "META")
    before = files(home)
    run_day(maang, "2025-10-14", "META")
    assert files(home) == before


def test_a_refused_replace_and_a_repeated_stage_leave_nothing_behind(home: Path) -> None:
    with closing(LocalWarehouse(home, "maang", 100)) as warehouse:
        warehouse.create(PRODUCTION)
        publish(warehouse, bar("META", TUESDAY))
        with pytest.raises(Forbidden):
            publish(warehouse, bar("META", TUESDAY), unless=Query("SELECT ticker FROM {it}", {"it": Read(STAGING)}))
        warehouse.stage(STAGING, staged([]))
        assert unreachable(home) == []
        warehouse.drop(STAGING)
    assert unreachable(home) == []


@pytest.mark.parametrize("keep", [1, 3])
def test_what_expires_goes(home: Path, keep: int) -> None:
    """Inserts, corrections of old sessions, deletions, and enough of them that manifests are merged."""
    with closing(LocalWarehouse(home, "maang", keep)) as warehouse:
        warehouse.create(PRODUCTION)
        for number, day in enumerate(sessions.between(MONDAY, sessions.touched(WEDNESDAY)[-1])):
            publish(warehouse, bar("META", day))
            publish(warehouse, bar("META", MONDAY, volume=Decimal(2000 + number)), bar("AAPL", day))
            publish(warehouse, tickers=["AAPL"], sessions=[day])
            assert unreachable(home) == [], day


def test_a_table_with_a_tag_keeps_what_the_tag_leads_to(home: Path) -> None:
    with closing(LocalWarehouse(home, "maang", 1)) as warehouse:
        warehouse.create(PRODUCTION)
        publish(warehouse, bar("META", MONDAY))
        with open_catalog(home) as catalog:
            table = catalog.load_table("maang.daily_stock_prices")
            table.manage_snapshots().create_tag(table.snapshots()[0].snapshot_id, "audited").commit()
        for number in range(3):
            publish(warehouse, bar("META", MONDAY, volume=Decimal(2000 + number)))
    with open_catalog(home) as catalog:
        table = catalog.load_table("maang.daily_stock_prices")
        tagged = table.snapshot_by_name("audited")
        assert tagged is not None
        assert table.scan(snapshot_id=tagged.snapshot_id).to_arrow()["volume"].to_pylist() == [1000]


def test_a_long_history_leaves_nothing_behind(home: Path) -> None:
    """Long enough that manifests are merged and metadata files go."""
    days = sessions.between(MONDAY, MONDAY + timedelta(days=60))
    with closing(LocalWarehouse(home, "maang", keep_snapshots=10)) as warehouse:
        warehouse.create(PRODUCTION)
        for day in days:
            publish(warehouse, bar("META", day))
            warehouse.drop(STAGING)
    assert len(days) > 40
    assert unreachable(home) == []
    with open_catalog(home) as catalog:
        snapshot = catalog.load_table("maang.daily_stock_prices").current_snapshot()
        assert snapshot is not None
        assert len(list((home / "warehouse/maang/daily_stock_prices/metadata").iterdir())) < len(days) + 2 * 10


def test_a_drop_that_was_cut_short_is_finished_by_a_run_that_has_nothing_to_write(home: Path) -> None:
    with closing(LocalWarehouse(home, "maang", 100)) as killed, closing(LocalWarehouse(home, "maang", 100)) as other:
        killed.stage(STAGING, staged([]))
        with killed._store.writing(STAGING.name):
            killed._store.catalog.drop_table(("maang", STAGING.name))
            note = home / "warehouse/write.json"
            left = note.read_text()
            assert not other.create_schema()
            assert note.read_text() == left
        note.write_text(left)
        assert {f"maang/{STAGING.name}", "write.json"} < set(unreachable(home))
        assert not other.create_schema()
    assert unreachable(home) == []
