"""Situations in which a command fails: one for every kind of error."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.types import LongType

from maang_cli import errors
from maang_cli.errors import MaangError
from tests.cli.helpers import META, ON_DAY, SESSION, serve
from tests.conftest import Maang
from tests.polygon_server import Answer, PolygonServer, row


@dataclass(frozen=True)
class Scene:
    maang: Maang
    polygon: PolygonServer
    home: Path
    monkeypatch: pytest.MonkeyPatch

    def real_day(self) -> None:
        serve(self.polygon, "META")
        assert self.maang("run-day", *META).code == 0


def nothing(_scene: Scene) -> None: ...


def another_shape(scene: Scene) -> None:
    scene.real_day()
    uri = f"sqlite:///{scene.home}/warehouse/catalog.db"
    with closing(SqlCatalog("maang", uri=uri)) as catalog:
        catalog.load_table("maang.daily_stock_prices").update_schema().update_column("transactions", LongType()).commit()


def wrong_key(scene: Scene) -> None:
    scene.monkeypatch.setenv("POLYGON_TOKEN", "wrong")


def home_is_a_file(scene: Scene) -> None:
    scene.home.write_text("")


def one_of_two(scene: Scene) -> None:
    serve(scene.polygon, "META")


def outage(scene: Scene) -> None:
    scene.monkeypatch.setenv("MAANG_RETRY_SECONDS", "0.5")
    scene.polygon.always = lambda path: Answer(503, b"<html>outage</html>")


def full_disk(scene: Scene) -> None:
    warehouse = scene.home / "warehouse"
    warehouse.mkdir(parents=True)
    (warehouse / "journal.new").symlink_to("/dev/full")


def always_overtaken(scene: Scene) -> None:
    scene.real_day()
    scene.polygon.days[SESSION] = [row("META", SESSION, c=10.6)]
    assert scene.maang("ingest", *META).code == 0
    # No real writer wins ten times in a row, so the catalog never finds the table as the commit expects it.
    with closing(sqlite3.connect(scene.home / "warehouse" / "catalog.db")) as catalog:
        catalog.execute("CREATE TRIGGER faster BEFORE UPDATE ON iceberg_tables BEGIN SELECT RAISE(IGNORE); END")


KINDS: dict[type[MaangError], tuple[Callable[[Scene], None], Sequence[str], str]] = {
    errors.SettingsError: (nothing, ["run-day", *META, "--source", "yahoo"], "yahoo"),
    errors.TableMismatch: (another_shape, ["run-day", *META], "transactions is BIGINT, INTEGER expected"),
    errors.OutOfOrder: (nothing, ["cumulate", *META], "there is no table maang.daily_stock_prices"),
    errors.NotStaged: (nothing, ["check", *META], "nothing is staged for 2025-10-14"),
    errors.SourceDenied: (wrong_key, ["ingest", *META], "HTTP 401, Unknown API Key"),
    errors.WarehouseDenied: (home_is_a_file, ["ingest", *META], "home"),
    errors.GateRefused: (one_of_two, ["run-day", *ON_DAY, "--tickers", "META,NOPE"], "missing_stocks"),
    errors.NotPublishedYet: (nothing, ["ingest", *META], "has no bars for 2025-10-14 yet"),
    errors.SourceFailed: (outage, ["ingest", *META], "HTTP 503"),
    errors.WarehouseFailed: (full_disk, ["run-day", *META], "No space left on device"),
    errors.CommitLost: (always_overtaken, ["promote", *META], "other writers have changed maang.daily_stock_prices 10 times"),
    errors.NoSession: (nothing, ["ingest", "--date", "2025-10-11"], "2025-10-11 is not a session: Saturday"),
}
