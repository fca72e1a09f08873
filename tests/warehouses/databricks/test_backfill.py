"""Many sessions on Databricks: a backfill that is killed, and two at the same time, end with the laptop's tables."""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence
from datetime import date

import pytest

from maang_cli.tables import CUMULATIVE, FINDINGS, PRODUCTION, SPLITS
from tests import batches, expected, made_market
from tests.conftest import Maang
from tests.forks import fork_server
from tests.polygon_server import PolygonServer
from tests.warehouses.databricks.server import Fault, StandIn
from tests.warehouses.databricks.test_days import assert_same_tables

BATCH_ROWS = 25
"""Five sessions of five tickers."""
PROGRAM = f"""
from functools import partial
from maang_cli import backfill
from maang_cli.cli.process import run
backfill.plan = partial(backfill.plan, batch_rows={BATCH_ROWS})
run()
"""


@pytest.fixture
def days(polygon: PolygonServer) -> Sequence[date]:
    """20 sessions that Polygon serves, with NFLX's split in their middle."""
    days = expected.run_of(date(2025, 11, 4), 20)
    polygon.splits = [{"ticker": "NFLX", "execution_date": str(made_market.SPLIT), "split_from": 1, "split_to": 10}]
    return expected.serve(polygon, [bar for bar in expected.market_bars(made_market.FOLDER) if bar.date in days])


def span(days: Sequence[date]) -> tuple[str, ...]:
    return ("--from", str(days[0]), "--to", str(days[-1]))


def kill_at(databricks: StandIn, pattern: str, carried_out: bool, *argv: str) -> None:
    """Kill a run when it has sent a statement that matches. `carried_out`: whether the statement runs nevertheless."""

    def kill(statement: str) -> Fault | None:
        if not re.match(pattern, statement):
            return None
        if carried_out:
            databricks.carry_out(statement)
        process.kill()
        return Fault(cut=True)

    databricks.fault = kill
    with fork_server().start(*argv, program=PROGRAM) as process:
        process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL
    databricks.fault = lambda statement: None


KILLS = [  # the statement at which a run is killed, and whether it is carried out
    (r"CREATE OR REPLACE TABLE", True),
    (r"MERGE INTO \S+`daily_stock_prices`", True),
    (r"MERGE INTO \S+`daily_stock_prices_cumulative`", False),
    (r"MERGE INTO \S+`daily_stock_prices_cumulative`", True),
    (r"DROP TABLE", False),
]


def test_20_sessions_killed_5_times_equal_the_laptops(databricks: StandIn, days: Sequence[date], maang: Maang) -> None:
    stored = []
    for pattern, carried_out in KILLS:
        kill_at(databricks, pattern, carried_out, "backfill", *span(days))
        stored += databricks.rows("SELECT count(*) AS rows FROM maang.daily_stock_prices")
    assert [found["rows"] for found in stored] == [0, 25, 50, 75, 100]
    batches.run(days, BATCH_ROWS, warehouse="databricks")
    assert maang("status", *span(days)).code == 0
    kept = [row["tableName"] for row in databricks.rows("SHOW TABLES IN maang")]
    assert kept == [PRODUCTION.name, CUMULATIVE.name, FINDINGS.name, SPLITS.name]
    assert maang("backfill", *span(days), "--warehouse", "local").code == 0
    assert_same_tables()


def test_two_backfills_of_overlapping_ranges_may_run_at_the_same_time(
    databricks: StandIn, days: Sequence[date], maang: Maang
) -> None:
    assert batches.run_at_the_same_time((days[:6], days[3:9]), BATCH_ROWS, warehouse="databricks") == []
    assert maang("status", *span(days[:9])).code == 0
    assert maang("backfill", *span(days[:9]), "--warehouse", "local").code == 0
    assert_same_tables()
