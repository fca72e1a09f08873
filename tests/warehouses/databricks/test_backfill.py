"""Many sessions on Databricks: a backfill that is killed, and two at the same time, end with the laptop's tables."""

from __future__ import annotations

import os
import re
import signal
import threading
from collections.abc import Sequence
from contextlib import closing
from datetime import date

import pytest

from maang_cli import backfill
from maang_cli.pipeline import Request
from maang_cli.sources import SOURCES
from maang_cli.tables import CUMULATIVE, PRODUCTION
from maang_cli.warehouses import WAREHOUSES
from tests import expected, made_market, settings
from tests.conftest import Maang
from tests.forks import fork_server
from tests.polygon_server import PolygonServer
from tests.warehouses.databricks.server import Fault, StandIn
from tests.warehouses.databricks.test_days import assert_same_tables

BATCH_ROWS = 25
"""Five sessions of five tickers."""
PROGRAM = f"""
from maang_cli import backfill
from maang_cli.cli.process import run
backfill.BATCH_ROWS = {BATCH_ROWS}
run()
"""


@pytest.fixture
def days(polygon: PolygonServer) -> Sequence[date]:
    """20 sessions that Polygon serves, with NFLX's split in their middle."""
    days = expected.run_of(date(2025, 11, 4), 20)
    return expected.serve(polygon, [bar for bar in expected.market_bars(made_market.FOLDER) if bar.date in days])


def span(days: Sequence[date]) -> tuple[str, ...]:
    return ("--from", str(days[0]), "--to", str(days[-1]))


def kill_at(databricks: StandIn, pattern: str, carried_out: bool, *argv: str) -> None:
    """Kill a run when it has sent a statement that matches. `carried_out`: whether the statement runs nevertheless."""
    process = fork_server().start(*argv, program=PROGRAM)

    def kill(statement: str) -> Fault | None:
        if not re.match(pattern, statement):
            return None
        if carried_out:
            databricks.carry_out(statement)
        os.kill(process.pid, signal.SIGKILL)
        return Fault(cut=True)

    databricks.fault = kill
    assert process.wait(120) == -signal.SIGKILL
    databricks.fault = lambda statement: None


KILLS = [  # the statement at which a run is killed, and whether it is carried out
    (r"CREATE OR REPLACE TABLE", True),
    (r"MERGE INTO \S+`daily_stock_prices`", True),
    (r"MERGE INTO \S+`daily_stock_prices_cumulative`", False),
    (r"MERGE INTO \S+`daily_stock_prices_cumulative`", True),
    (r"DROP TABLE", False),
]


def test_20_sessions_killed_5_times_equal_the_laptops(
    databricks: StandIn, days: Sequence[date], maang: Maang, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backfill, "BATCH_ROWS", BATCH_ROWS)
    stored = []
    for pattern, carried_out in KILLS:
        kill_at(databricks, pattern, carried_out, "backfill", *span(days))
        stored += databricks.rows("SELECT count(*) AS rows FROM maang.daily_stock_prices")
    assert [found["rows"] for found in stored] == [0, 25, 50, 75, 100]
    done = maang("backfill", *span(days))
    assert done.code == 0, done.err
    assert maang("status", *span(days)).code == 0
    assert [row["tableName"] for row in databricks.rows("SHOW TABLES IN maang")] == [PRODUCTION.name, CUMULATIVE.name]
    assert maang("backfill", *span(days), "--warehouse", "local").code == 0
    assert_same_tables()


def test_two_backfills_of_overlapping_ranges_may_run_at_the_same_time(
    databricks: StandIn, days: Sequence[date], maang: Maang, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backfill, "BATCH_ROWS", BATCH_ROWS)
    failures: list[BaseException] = []

    def one(sessions: Sequence[date]) -> None:
        chosen = settings.load()
        request = Request(chosen.tickers, tuple(sessions))
        try:
            with closing(WAREHOUSES["databricks"].open(chosen, "")) as opened, closing(SOURCES["polygon"].open(chosen)) as source:
                backfill.run(source, opened, backfill.plan(source, opened, request), lambda _progress: None)
        except BaseException as exc:  # noqa: BLE001 - asserted below
            failures.append(exc)

    threads = [threading.Thread(target=one, args=(part,)) for part in (days[:6], days[3:9])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert maang("status", *span(days[:9])).code == 0
    assert maang("backfill", *span(days[:9]), "--warehouse", "local").code == 0
    assert_same_tables()
